"""Many drawings of one command: a table of prompts, choices by seed, a sheet over settings; what is drawn stays."""

from __future__ import annotations

import csv
import io
import itertools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bimo.cli import inputs
from bimo.core.errors import RequestError
from bimo.core.files import read_regular
from bimo.core.part import meant
from bimo.core.picture import read_metadata
from bimo.core.request import Request, checked, seeds_of
from bimo.prompts.wildcards import Wildcards, has_wildcards

MAXIMUM_TABLE_BYTES = 64 << 20
#: What columns may be called besides the fields of a request.
COLUMNS = {
    "prompt": "text",
    "提示词": "text",
    "反向提示词": "negative",
    "negative_prompt": "negative",
    "种子": "seed",
    "步数": "steps",
    "引导": "guidance",
    "尺寸": "size",
    "采样器": "sampler",
    "风格": "style",
    "张数": "count",
}
#: Fields that hold pictures, which no table has.
_PICTURES = ("image", "mask", "region_map", "condition_images")
#: The most pictures of one sheet.
MAXIMUM_CELLS = 1024


def field_named(name: str) -> str:
    """The field of a request that a column or an axis names. Raises RequestError."""
    field = COLUMNS.get(name.strip(), name.strip())
    known = [one for one in Request.model_fields if one not in _PICTURES]
    if field not in known:
        raise RequestError("a request has no field {name!r}{near}", name=name, near=meant(field, [*known, *COLUMNS]))
    return field


def value_of(field: str, text: Any) -> Any:
    """A field's value as a table or an option has it: '512x768' is a size; JSON where a field has several values."""
    if isinstance(text, str):
        if field == "size":
            return inputs.size_of(text)
        if text.startswith(("{", "[")) and field not in ("text", "negative"):
            try:
                return json.loads(text)
            except ValueError:
                return text
    return text


def rows(file: Path) -> list[dict[str, Any]]:
    """The rows of a file of prompts: .txt a prompt a line, .csv and .tsv with a head, .jsonl an object a line. Raises
    RequestError that names the row.
    """
    try:
        text = read_regular(file, MAXIMUM_TABLE_BYTES).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise RequestError("{file} is no UTF-8 text; save it as UTF-8", file=file) from None
    kind = file.suffix.lower()
    if kind in (".csv", ".tsv"):
        reader = csv.DictReader(io.StringIO(text), delimiter="\t" if kind == ".tsv" else ",")
        found: list[Mapping[str, Any]] = list(reader)
    elif kind in (".jsonl", ".ndjson"):
        found = [_object(line, number, file) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    elif kind in (".txt", ""):
        found = [{"text": line.strip()} for line in text.splitlines() if line.strip() and line.lstrip()[0] != "#"]
    else:
        raise RequestError("--prompts is {file}; expected .txt, .csv, .tsv or .jsonl", file=file)
    if not found:
        raise RequestError("{file} holds no prompt", file=file)
    return [_row(one, number, file) for number, one in enumerate(found, 1)]


def _object(line: str, number: int, file: Path) -> Mapping[str, Any]:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise RequestError("line {number} of {file} is no JSON object", number=number, file=file)
    return value


def _row(given: Mapping[str, Any], number: int, file: Path) -> dict[str, Any]:
    try:
        if None in given:
            raise RequestError("there are more values than columns; put quotation marks about a text with commas")
        pairs = ((field_named(name), value) for name, value in given.items() if value not in (None, ""))
        found = {field: value_of(field, value) for field, value in pairs}
        checked({"text": "a"} | found)
    except RequestError as error:
        raise RequestError("row {number} of {file}: {error}", number=number, file=file, error=error) from None
    return found


def requests(
    base: Mapping[str, Any], table: Sequence[Mapping[str, Any]], count: int, lists: Wildcards, single: bool, seed: int
) -> list[Request]:
    """The requests of a command. A prompt that leaves something to choose is one request a picture, each chosen by its
    seed, and so is all with ``single``; a row's own fields come before those of the command.
    """
    found: list[Request] = []
    for row in table or [{}]:
        fields = {"count": count, **base, **row}
        number, first = int(fields.get("count") or 1), int(fields.get("seed", seed))
        if not (single or table or has_wildcards(str(fields.get("text", "")))):
            return [checked(fields)]
        checked(fields)
        for index in range(number):
            own, subseed = seeds_of(first, fields.get("subseed"), fields.get("subseed_strength"), index)
            varied = {} if subseed is None else {"subseed": subseed}
            words = {name: lists.chosen(str(fields[name]), own) for name in ("text", "negative") if fields.get(name)}
            found.append(checked({**fields, **words, **varied, "seed": own, "count": 1}))
    return found


class Drawn:
    """The pictures that lie in a folder, by the requests in their records."""

    def __init__(self, folder: Path) -> None:
        self._records: set[str] = set()
        for file in sorted(folder.glob("*.png")) if folder.is_dir() else ():
            try:
                record = read_metadata(file)
            except RequestError:  # another's picture, or one that was broken off
                continue
            self._records.add(_key(record["request"], record["recipe"], record["weights"]))

    def has(self, request: Request, recipe: str, weights: str, heeds_empty: bool) -> bool:
        """Whether a system drew a filled request; ``heeds_empty`` where the empty negative prompt is not none."""
        dumped = request.model_dump(mode="json", exclude_defaults=True)
        if not (dumped.get("negative") or heeds_empty):
            dumped.pop("negative", None)  # a record says "" where that makes a difference
        return _key(dumped, recipe, weights) in self._records


def _key(request: Mapping[str, Any], recipe: str, weights: str) -> str:
    plain = {name: value for name, value in request.items() if name != "count"}
    return json.dumps([plain, recipe, weights], sort_keys=True, ensure_ascii=False)


@dataclass(frozen=True)
class Axis:
    """What a sheet goes over: a field of the request, or words of the prompt that are replaced."""

    name: str
    values: tuple[str, ...]

    @classmethod
    def of(cls, option: str, text: str, prompt: str) -> Axis:
        """'steps=4,8,20' -> the field and its values; 'cat=cat,dog' of a prompt with a cat goes over the words. Raises
        RequestError.
        """
        name, sign, rest = text.partition("=")
        values = tuple(value.strip() for value in re.split("[,，]", rest))
        if not sign or not any(values):
            raise RequestError(
                "{option} is {text!r}; expected FIELD=value,value, for instance steps=4,8", option=option, text=text
            )
        if name.strip() not in prompt or name.strip() in Request.model_fields:
            field_named(name)
        return cls(name.strip(), values)

    @property
    def is_words(self) -> bool:
        """Whether it goes over words of the prompt."""
        return self.name not in Request.model_fields and self.name not in COLUMNS

    def labels(self) -> tuple[str, ...]:
        """What is written beside the pictures."""
        return tuple(value if self.is_words else f"{self.name}={value}" for value in self.values)

    def applied(self, fields: Mapping[str, Any], value: str) -> dict[str, Any]:
        """A request's fields with one of the values."""
        if self.is_words:
            return {**fields, "text": str(fields["text"]).replace(self.name, value)}
        field = field_named(self.name)
        return {**fields, field: value_of(field, value)}


def cells(fields: Mapping[str, Any], axes: Sequence[Axis]) -> Iterator[tuple[tuple[str, ...], dict[str, Any]]]:
    """Every cell of a sheet, z slowest and x fastest: its values in the order of the axes, and the request's fields."""
    total = 1
    for axis in axes:
        total *= len(axis.values)
    if total > MAXIMUM_CELLS:
        raise RequestError("the sheet has {total} pictures; at most {most} go on one", total=total, most=MAXIMUM_CELLS)
    for chosen in itertools.product(*(axis.values for axis in reversed(axes))):
        values = tuple(reversed(chosen))
        cell = dict(fields)
        for axis, value in zip(axes, values, strict=True):
            cell = axis.applied(cell, value)
        yield values, cell
