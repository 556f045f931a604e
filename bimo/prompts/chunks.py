"""Splits a long prompt into chunks for a text encoder: at BREAK, and where the encoder's context length is reached."""

from __future__ import annotations

import re
from collections.abc import Callable

from bimo.prompts.a1111 import BREAK
from bimo.prompts.token_budget import Budget
from bimo.prompts.weighting import Emphasis

#: A chunk is cut at its last comma if that is within this many tokens of the end, as in AUTOMATIC1111.
COMMA_BACKTRACK = 20
_COMMAS = ",，、;；。"
_LATIN_END = re.compile(r"[A-Za-z0-9'’]+$")
_LATIN = re.compile(r"[A-Za-z0-9'’]")


def parts_between_breaks(prompt: Emphasis) -> tuple[Emphasis, ...]:
    """The parts of a prompt between BREAKs; the whole prompt if there are none."""
    cuts = list(BREAK.finditer(prompt.text))
    if not cuts:
        return (prompt,)
    starts, ends = [0, *(cut.end() for cut in cuts)], [*(cut.start() for cut in cuts), len(prompt.text)]
    parts = [prompt.part(start, end) for start, end in zip(starts, ends, strict=True)]
    return tuple(part for part in parts if part.text) or (Emphasis("", (), prompt.notes),)


def without_breaks(prompt: Emphasis) -> Emphasis:
    """Replaces every BREAK by a comma, for encoders that take a prompt in one piece."""
    first, *rest = parts_between_breaks(prompt)
    text, spans = first.text, list(first.spans)
    for part in rest:
        text += ", " if part.text.isascii() else "，"
        spans += [(start + len(text), end + len(text), weight) for start, end, weight in part.spans]
        text += part.text
    return Emphasis(text, tuple(spans), prompt.notes)


def chunks(prompt: Emphasis, budget: Callable[[str], Budget]) -> tuple[Emphasis, ...]:
    """Splits a prompt into chunks as long as ``budget`` allows, without cutting words of Latin letters."""
    pieces: list[Emphasis] = []
    for part in parts_between_breaks(prompt):
        rest = part
        while lost := budget(rest.text).lost:
            cut = _cut(rest.text, len(rest.text) - len(lost), budget)
            if not 0 < cut < len(rest.text):
                break
            pieces.append(rest.part(0, cut))
            rest = rest.part(cut, len(rest.text))
        pieces.append(rest)
    return tuple(pieces)


def _cut(text: str, last: int, budget: Callable[[str], Budget]) -> int:
    """Where to end a chunk that can be at most ``last`` characters long."""
    comma = max((text.rfind(mark, 0, last) for mark in _COMMAS), default=-1) + 1
    if comma and budget(text[:last]).used - budget(text[:comma]).used <= COMMA_BACKTRACK:
        return comma
    if _LATIN.match(text[last : last + 1]) and (word := _LATIN_END.search(text[:last])) and word.start():
        return word.start()
    return last
