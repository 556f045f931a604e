"""`bimo draw --explain`: how a model reads a prompt, as a table or an HTML page."""

from __future__ import annotations

import html
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from bimo.cli.terminal import console
from bimo.core.files import write_whole
from bimo.core.messages import say

if TYPE_CHECKING:
    from bimo.diffusion.explanation import Explanation, Token

_STYLE = (
    "body{font-family:sans-serif;max-width:60em;margin:2em auto;padding:0 1em}span{display:inline-block;margin:2px;"
    "padding:2px 6px;border-radius:4px;background:#eee}small{color:#666;margin-left:.3em}.unknown{background:#fbb}"
    ".weighed{background:#fd8}"
)


def facts(explanation: Explanation) -> Iterator[tuple[str, str]]:
    """Facts about the whole prompt: (name, value)."""
    if explanation.negative:
        yield say("negative prompt"), explanation.negative
    if explanation.protected:
        yield say("protected, to be written as it stands"), " ".join(f"“{text}”" for text in explanation.protected)
    for tag in explanation.loras:
        yield "LoRA", f"{tag.name} {tag.weight}"
    if explanation.draft:
        drawn = say("{share:.0%} of the steps are drawn over it", share=explanation.draft)
        words = say("; it shows every word, unknown ones, too") if explanation.whole else ""
        yield say("draft by program"), drawn + words


def printed(explanation: Explanation) -> None:
    """Prints an explanation as a table with a row for each chunk of each text encoder."""
    from rich.markup import escape
    from rich.table import Table

    for name, value in facts(explanation):
        console().print(f"{name}: {value}", markup=False)
    table = Table(title=say("the prompt as this model reads it"), title_justify="left")
    for head in (say("steps to"), "AND", say("text encoder"), say("tokens"), say("read as")):
        table.add_column(head)
    for prompt in explanation.prompts:
        for reading in prompt.readings:
            for place, tokens in enumerate(reading.chunks, 1):
                until = f"{prompt.until}/{explanation.steps}"
                name = reading.encoder + (f" {place}/{len(reading.chunks)}" if len(reading.chunks) > 1 else "")
                shown = " ".join(_marked(token, escape(token.text)) for token in tokens)
                table.add_row(until, f"{prompt.joined:g}", name, f"{len(tokens)}/{reading.room}", shown)
            if reading.lost:
                table.add_row("", "", "", say("not read"), f"[red]{escape(reading.lost)}[/red]")
            if reading.unknown:
                table.add_row("", "", "", say("unknown"), f"[red]{escape(say(', ').join(reading.unknown))}[/red]")
    console().print(table)


def _marked(token: Token, text: str) -> str:
    text = text if token.weight == 1 else f"[bold]{text}[/bold]:{token.weight:g}"
    return f"[red]{text}[/red]" if token.unknown else text


def page(explanation: Explanation) -> str:
    """An explanation as a self-contained HTML page."""
    parts = [f"<h1>{html.escape(explanation.prompt)}</h1>"]
    parts += [f"<p>{html.escape(name)}: {html.escape(value)}</p>" for name, value in facts(explanation)]
    for prompt in explanation.prompts:
        parts.append(f"<h2>{say('steps to')} {prompt.until}/{explanation.steps} · AND {prompt.joined:g}</h2>")
        for reading in prompt.readings:
            for tokens in reading.chunks:
                parts.append(f"<h3>{html.escape(reading.encoder)} {len(tokens)}/{reading.room}</h3><p>")
                parts += [_span(token) for token in tokens]
                parts.append("</p>")
            if reading.lost:
                parts.append(f'<p>{say("not read")}: <span class="unknown">{html.escape(reading.lost)}</span></p>')
            if reading.unknown:
                listed = html.escape(say(", ").join(reading.unknown))
                parts.append(f'<p>{say("unknown")}: <span class="unknown">{listed}</span></p>')
    title = html.escape(say("the prompt as this model reads it"))
    body = "\n".join(parts)
    return f'<!doctype html><meta charset="utf-8"><title>{title}</title><style>{_STYLE}</style>\n{body}\n'


def _span(token: Token) -> str:
    kind = "unknown" if token.unknown else "weighed" if token.weight != 1 else ""
    weight = "" if token.weight == 1 else f"<small>{token.weight:g}</small>"
    return f'<span class="{kind}" title="{token.number}">{html.escape(token.text)}{weight}</span>'


def show(explanation: Explanation, file: Path | None) -> None:
    """Prints the table, or writes the page to a file and prints its path."""
    if file is None:
        printed(explanation)
        return
    print(write_whole(file, page(explanation).encode()))
