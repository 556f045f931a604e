"""The requests of a call of `bimo draw`: from a prompt and its rewriting, tables, grids, or a picture's metadata."""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bimo.cli import inputs, series, words
from bimo.core.errors import RequestError
from bimo.core.messages import say
from bimo.core.output_path import OutputPath
from bimo.core.picture import read_metadata
from bimo.core.request import Request, checked
from bimo.hub import registry
from bimo.prompts.wildcards import Wildcards
from bimo.serve.foreign import Foreign, foreign


@dataclass(frozen=True)
class Rewriting:
    """The options that rewrite a prompt before it is drawn."""

    poem: str | None = None
    inscribe_verse: bool = False
    expand: bool = False
    translate: bool = False
    language_model: str | None = None
    language_model_name: str = ""

    def applied(self, prompt: str | None, settings: dict[str, Any]) -> tuple[str | None, dict[str, Any], list[str]]:
        """The prompt and the fields of the request after rewriting, and notes for the user. Raises RequestError."""
        notes: list[str] = []
        if self.poem is not None:
            fields, notes = words.poem_fields(self.poem, settings, self.inscribe_verse)
            settings = settings | fields
            prompt = str(settings.pop("text"))
        elif self.inscribe_verse:
            raise RequestError("--inscribe-verse needs --poem; to write other words use --inscribe")
        if (self.expand or self.translate) and prompt:
            name = self.language_model
            ask = None if name is None else words.language_model(name, self.language_model_name)
            steps = ((words.expansion, self.expand), (words.translation, self.translate))
            for rewrite in (function for function, on in steps if on):
                fields, added = rewrite(prompt, ask)
                prompt = str(fields.pop("text"))
                settings = fields | settings  # the original text of the first step wins
                notes = [*notes, *added]
        return prompt, settings, notes


@dataclass(frozen=True)
class DrawPlan:
    """The requests of a command and the model to draw them with. ``record`` is the metadata of bimo's own picture that
    is drawn again, ``foreign`` the settings of another program's.
    """

    requests: list[Request]
    model: str
    record: Mapping[str, Any] | None = None
    foreign: Foreign | None = None
    notes: list[str] = field(default_factory=list[str])


def default_model(model: str | None) -> str:
    """The model to draw with: that of the option, of BIMO_MODEL, or the bundled one."""
    return model or os.environ.get("BIMO_MODEL") or registry.DEFAULT_MODEL


def plan_of(requests: list[Request], model: str | None, adapted: bool) -> DrawPlan:
    """The model for requests: that of the option or of BIMO_MODEL. If none is named and there are no adapters
    (``adapted``), the bundled model that learned the content of all of them.
    """
    named = model or os.environ.get("BIMO_MODEL")
    if named or adapted:
        return DrawPlan(requests, default_model(model))
    from bimo.hub.editions import edition_for_all

    edition = edition_for_all(requests)
    if edition == registry.DEFAULT_MODEL:
        return DrawPlan(requests, edition)
    note = say(
        "drawn by {model}, over a draft by program where it has one (--draft 0: by its weights alone; -m {other}: by "
        "the other model)",
        model=edition,
        other=registry.DEFAULT_MODEL,
    )
    return DrawPlan(requests, edition, notes=[note])


def paths_of(requests: Sequence[Request], output: str | None) -> dict[str, OutputPath]:
    """The output path of each prompt; a single one, with a counter, if ``output`` is a file name. Raises
    RequestError.
    """
    paths = {request.text: OutputPath(output, request.text) for request in requests}
    for path in paths.values():
        path.check()
    first = paths[requests[0].text]
    return dict.fromkeys(paths, first) if output is not None and first.named else paths


def of_picture(file: Path, images: Mapping[str, Any], model: str | None) -> DrawPlan:
    """Draws a picture again from its metadata. Raises RequestError if it has none, or images are missing."""
    settings = foreign(file)
    if settings is not None:
        requests = [checked({"text": settings.fields["text"]} | dict(images))]
        return DrawPlan(requests, default_model(model), foreign=settings, notes=list(settings.notes()))
    record = read_metadata(file)
    # Pictures whose record says neither are of before there was either.
    literal = {"drawn_text": record["request"]["text"], "draft": 0}
    record["request"] = literal | inputs.recorded(record["request"], dict(images), file)
    return DrawPlan([checked(record["request"])], model or record["recipe"], record)


def of_prompts(
    prompt: str | None,
    table: Path | None,
    axes: Sequence[series.Axis],
    settings: Mapping[str, Any],
    images: Mapping[str, Any],
    count: int,
    lists: Path | None,
    resume: bool,
) -> list[Request]:
    """The requests of a prompt or a table of prompts, over the axes of a grid; ``lists`` is a folder of wildcards.
    Raises RequestError.
    """
    if table is not None and prompt is not None:
        raise RequestError("a prompt and --prompts; give one of them")
    fields: dict[str, Any] = {**settings, **images, **({} if table is not None else {"text": prompt or ""})}
    # With --resume seeds have to be the same in every call.
    seed = 0 if resume else secrets.randbelow(2**32)
    wildcards = Wildcards(lists)
    if axes:
        base = checked({"seed": seed, **fields, "count": count}).model_dump(exclude_unset=True) | dict(images)
        return series.requests({}, [cell for _, cell in series.cells(base, axes)], 1, wildcards, True, seed)
    rows = [] if table is None else series.rows(table)
    return series.requests(fields, rows, count, wildcards, resume, seed)
