"""`bimo chat`: draws, then edits the request turn by turn in words; every turn is saved."""

from __future__ import annotations

import json
import os
import secrets
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bimo.cli import inputs, words
from bimo.cli.draw_requests import plan_of
from bimo.cli.draw_run import filled, note
from bimo.cli.engine_options import takes_engine
from bimo.cli.models import names
from bimo.core.errors import RequestError
from bimo.core.files import read_regular, write_whole
from bimo.core.messages import say
from bimo.core.output_path import OutputPath
from bimo.core.request import checked
from bimo.hub import registry
from bimo.hub.options import DEFAULT, LoadOptions
from bimo.prompts.edits import edited

if TYPE_CHECKING:
    from bimo.engine.engine import Engine

EXAMPLES = say(
    "Examples:\n\n  bimo chat\n\n  bimo chat --history chat.json -o pictures\n\nthen, a line a turn: an apple, "
    "replace the apple with a pear, make the background blue, larger, one more, undo"
)
MAXIMUM_HISTORY_BYTES = 64 << 20
UNDO = frozenset(("撤销", "撤回", "上一步", "undo", "back"))
LEAVE = frozenset(("退出", "结束", "再见", "exit", "quit", "bye"))
_ASK = (
    "A picture was drawn by the request below (JSON). Answer with the request changed as the sentence after it says: "
    "one JSON object with any of the fields text, negative, size, steps, seed, guidance, style, count, nothing else."
)
#: What a language model may change.
_CHANGED = ("text", "negative", "size", "steps", "seed", "guidance", "style", "count")


@dataclass
class Conversation:
    """The turns of a conversation: the sentence, the resulting request, the drawn files. Each turn is written to disk
    before the next begins.
    """

    file: Path | None = None
    turns: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])

    @classmethod
    def read(cls, file: Path | None) -> Conversation:
        """Continues the conversation in a file, or starts a new one. Raises RequestError for any other file."""
        if file is None or not file.exists():
            return cls(file)
        try:
            turns = json.loads(read_regular(file, MAXIMUM_HISTORY_BYTES))["turns"]
            for turn in turns:
                checked({**turn["fields"]})
        except (ValueError, KeyError, TypeError, RecursionError, RequestError):
            raise RequestError("{file} is no conversation of bimo chat; name another file", file=file) from None
        return cls(file, turns)

    @property
    def fields(self) -> dict[str, Any]:
        """The request of the last turn; empty before the first."""
        return dict(self.turns[-1]["fields"]) if self.turns else {}

    def add(self, sentence: str, fields: Mapping[str, Any], files: list[Path]) -> None:
        """Adds a turn."""
        self.turns.append({"said": sentence, "fields": dict(fields), "files": [str(file) for file in files]})
        self._write()

    def undo(self) -> None:
        """Removes the last turn but keeps its pictures. Raises RequestError if it is the first."""
        if len(self.turns) < 2:
            raise RequestError("there is nothing to take back")
        self.turns.pop()
        self._write()

    def _write(self) -> None:
        if self.file is not None:
            write_whole(self.file, json.dumps({"turns": self.turns}, ensure_ascii=False, indent=1).encode())


@takes_engine
def chat(
    model: Annotated[str | None, typer.Option("-m", "--model", help=say("the model"), autocompletion=names)] = None,
    output: Annotated[Path | None, typer.Option("-o", "--output", help=say("the folder of the pictures"))] = None,
    history: Annotated[
        Path | None, typer.Option(help=say("the file of the conversation: it goes on there, and is kept there"))
    ] = None,
    language_model: Annotated[
        str | None, typer.Option(help=say("who reads what no rule does: a folder, or an OpenAI-compatible address"))
    ] = None,
    language_model_name: Annotated[str, typer.Option(help=say("which model of that address"))] = "",
    size: Annotated[str | None, typer.Option(help=say("WxH or one side, in pixels"))] = None,
    steps: Annotated[int | None, typer.Option(help=say("how many steps"))] = None,
    seed: Annotated[int | None, typer.Option(help=say("same seed, same picture"))] = None,
    load_options: LoadOptions = DEFAULT,
) -> None:
    """Reads one line per turn until the end of the input, and draws after each."""
    from bimo.inscription import drawing

    talk = Conversation.read(history)
    if output is not None:
        output.mkdir(parents=True, exist_ok=True)
    ask = None if language_model is None else words.language_model(language_model, language_model_name)
    engines = _Engines(load_options)
    if name := model or os.environ.get("BIMO_MODEL"):
        engines.engine(name)  # errors of loading are reported before the first turn
    before = plan_of([checked(talk.fields)], model, adapted=False).model if talk.turns else ""
    first: dict[str, Any] = {"size": None if size is None else inputs.size_of(size), "steps": steps, "seed": seed}
    first = {name: value for name, value in first.items() if value is not None}
    for sentence in _sentences(bool(talk.turns)):
        try:
            if sentence.lower() in LEAVE:
                return
            if sentence.lower() in UNDO:
                talk.undo()
                print(say("taken back; now: {text}", text=talk.fields["text"]), flush=True)
                continue
            fields, summary = _changed(sentence, talk.fields, ask)
            request = checked({"seed": secrets.randbelow(2**32)} | first | fields if not talk.turns else fields)
            plan = plan_of([request], model, adapted=False)
            switched = before not in ("", plan.model)
            if switched and size is None and request.size == registry.recipe(before).request.size:
                request = request.model_copy(update={"size": None})  # that of the previous model
            engine = engines.engine(plan.model)
            note(plan.notes if plan.model != before else ())
            prepared = engine.prepare(filled(engine, request))
            print(summary, flush=True)
            note(prepared.warnings)
            target = OutputPath(output, request.text)
            files: list[Path] = []
            for picture in drawing.stream(engine, prepared):
                files.append(target.write(picture.png()))
                print(files[-1], flush=True)
            # The next sentence edits the user's text, not its paraphrase.
            fields = prepared.request.model_dump(mode="json", exclude_defaults=True, exclude={"drawn_text", "draft"})
            talk.add(sentence, fields, files)
            before = plan.model
        except RequestError as error:  # only this turn failed
            typer.secho(str(error), fg="yellow", err=True)


class _Engines:
    """Loaded engines by model name: the model of a turn is chosen by its prompt."""

    def __init__(self, load_options: LoadOptions) -> None:
        self.load_options = load_options
        self._loaded: dict[str, Engine] = {}

    def engine(self, name: str) -> Engine:
        """The engine of a model, loaded on first use, when its notes are printed."""
        if name not in self._loaded:
            from bimo.engine.adapters import Adapters
            from bimo.hub.loading import load_with, steady

            self._loaded[name] = steady(load_with(name, Adapters(), **self.load_options.arguments()))
            note(self._loaded[name].notices)
        return self._loaded[name]


def _sentences(going_on: bool) -> Iterator[str]:
    """The lines of standard input, with a prompt at a terminal."""
    at_terminal = sys.stdin.isatty()
    if at_terminal:
        print(say("go on: say what to change") if going_on else say("say what to draw; then what to change, or undo"))
    while True:
        if at_terminal:
            print("> ", end="", flush=True)
        line = sys.stdin.readline()
        if not line:
            return
        if line.strip():
            yield line.strip()


def _changed(sentence: str, fields: Mapping[str, Any], ask: Any) -> tuple[dict[str, Any], str]:
    """Applies a sentence to a request's fields by rules, else by a language model if there is one."""
    try:
        edit = edited(sentence, fields)
    except RequestError:
        if ask is None:
            raise
        answer = ask(_ASK, json.dumps(dict(fields), ensure_ascii=False) + "\n\n" + sentence)
        try:
            answered = json.loads(answer[answer.index("{") : answer.rindex("}") + 1])
            changed = {name: value for name, value in dict(answered).items() if name in _CHANGED}
        except (ValueError, TypeError, RecursionError):
            raise RequestError("the language model answered no request: {answer}", answer=answer[:80]) from None
        return {**fields, **changed}, say("changed: {fields}", fields=json.dumps(changed, ensure_ascii=False))
    return edit.fields, edit.summary
