"""Several drawings by one command: tables of prompts, wildcards, grids over settings, and --resume."""

from __future__ import annotations

import csv
import io
import itertools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from bimo.cli import inputs
from bimo.core.errors import RequestError
from bimo.core.files import read_regular
from bimo.core.part import meant
from bimo.core.picture import read_metadata, recorded
from bimo.core.request import Request, checked, seeds_of
from bimo.prompts.wildcards import Wildcards, has_wildcards

MAXIMUM_TABLE_BYTES = 64 << 20
#: Aliases of a request's fields in tables.
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
#: Fields that hold pictures and cannot be in a table.
PICTURES = ("image", "mask", "region_map", "condition_images")
#: The most pictures on one sheet.
MAXIMUM_CELLS = 1024


def field_named(name: str) -> str:
    """The request's field for the name of a column or axis. Raises RequestError."""
    field = COLUMNS.get(name.strip(), name.strip())
    fields = [field_name for field_name in Request.model_fields if field_name not in PICTURES]
    if field not in fields:
        raise RequestError("a request has no field {name!r}{near}", name=name, near=meant(field, [*fields, *COLUMNS]))
    return field


def value_of(field: str, text: Any) -> Any:
    """Parses a field's value from a table or an option: '512x768' for a size, JSON for lists and objects."""
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
    """The rows of a file of prompts: .txt with one prompt per line, .csv and .tsv with a header, .jsonl with one object
    per line. Raises RequestError that names the row.
    """
    try:
        text = read_regular(file, MAXIMUM_TABLE_BYTES).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise RequestError("{file} is no UTF-8 text; save it as UTF-8", file=file) from None
    kind = file.suffix.lower()
    if kind in (".csv", ".tsv"):
        reader = csv.DictReader(io.StringIO(text), delimiter="\t" if kind == ".tsv" else ",")
        records: list[Mapping[str, Any]] = list(reader)
    elif kind in (".jsonl", ".ndjson"):
        records = [_object(line, number, file) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    elif kind in (".txt", ""):
        records = [{"text": line.strip()} for line in text.splitlines() if line.strip() and line.lstrip()[0] != "#"]
    else:
        raise RequestError("--prompts is {file}; expected .txt, .csv, .tsv or .jsonl", file=file)
    if not records:
        raise RequestError("{file} holds no prompt", file=file)
    return [_row(record, number, file) for number, record in enumerate(records, 1)]


def _object(line: str, number: int, file: Path) -> Mapping[str, Any]:
    try:
        value: Any = json.loads(line)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise RequestError("line {number} of {file} is no JSON object", number=number, file=file)
    return cast("dict[str, Any]", value)


def _row(record: Mapping[str, Any], number: int, file: Path) -> dict[str, Any]:
    try:
        if None in record:
            raise RequestError("there are more values than columns; put quotation marks about a text with commas")
        pairs = ((field_named(name), value) for name, value in record.items() if value not in (None, ""))
        fields = {field: value_of(field, value) for field, value in pairs}
        checked({"text": "a"} | fields)
    except RequestError as error:
        raise RequestError("row {number} of {file}: {error}", number=number, file=file, error=error) from None
    return fields


def requests(
    base: Mapping[str, Any], table: Sequence[Mapping[str, Any]], count: int, lists: Wildcards, single: bool, seed: int
) -> list[Request]:
    """The requests of a command. A prompt with wildcards becomes one request per picture, each resolved by its own
    seed; with ``single`` or a table so does every prompt. A row's fields override those of the command.
    """
    result: list[Request] = []
    for row in table or [{}]:
        fields = {"count": count, **base, **row}
        number, first = int(fields.get("count") or 1), int(fields.get("seed", seed))
        if not (single or table or has_wildcards(str(fields.get("text", "")))):
            return [checked(fields)]
        checked(fields)
        for index in range(number):
            own_seed, subseed = seeds_of(first, fields.get("subseed"), fields.get("subseed_strength"), index)
            varied = {} if subseed is None else {"subseed": subseed}
            chosen_texts = {
                name: lists.chosen(str(fields[name]), own_seed) for name in ("text", "negative") if fields.get(name)
            }
            result.append(checked({**fields, **chosen_texts, **varied, "seed": own_seed, "count": 1}))
    return result


class Drawn:
    """An index of the pictures in a folder by the requests in their metadata."""

    def __init__(self, folder: Path) -> None:
        self._records: set[str] = set()
        for file in sorted(folder.glob("*.png")) if folder.is_dir() else ():
            try:
                record = read_metadata(file)
            except RequestError:  # not drawn by bimo, or truncated
                continue
            self._records.add(_key(record["request"], record["recipe"], record["weights"]))

    def has(self, request: Request, recipe: str, weights: str, heeds_empty: bool) -> bool:
        """Whether the folder has the picture of a filled request. ``heeds_empty`` says that for this system an empty
        negative prompt differs from none.
        """
        fields = json.loads(json.dumps(recorded(request)))  # as it is in a file: lists for tuples
        if not (fields.get("negative") or heeds_empty):
            fields.pop("negative", None)  # records have "" only if it makes a difference
        return _key(fields, recipe, weights) in self._records


def _key(request: Mapping[str, Any], recipe: str, weights: str) -> str:
    plain = {name: value for name, value in request.items() if name != "count"}
    return json.dumps([plain, recipe, weights], sort_keys=True, ensure_ascii=False)


@dataclass(frozen=True)
class Axis:
    """An axis of a grid: a field of the request, or words of the prompt to replace."""

    name: str
    values: tuple[str, ...]

    @classmethod
    def of(cls, option: str, text: str, prompt: str) -> Axis:
        """Parses 'steps=4,8,20' as a field and its values, or 'cat=cat,dog' as words in the prompt and their
        replacements. Raises RequestError.
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
        """Whether it replaces words of the prompt."""
        return self.name not in Request.model_fields and self.name not in COLUMNS

    def labels(self) -> tuple[str, ...]:
        """The labels on the sheet."""
        return tuple(value if self.is_words else f"{self.name}={value}" for value in self.values)

    def applied(self, fields: Mapping[str, Any], value: str) -> dict[str, Any]:
        """A request's fields with one value of the axis applied."""
        if self.is_words:
            return {**fields, "text": str(fields["text"]).replace(self.name, value)}
        field = field_named(self.name)
        return {**fields, field: value_of(field, value)}


def cells(fields: Mapping[str, Any], axes: Sequence[Axis]) -> Iterator[tuple[tuple[str, ...], dict[str, Any]]]:
    """The cells of a sheet, x varying fastest: the values in the order of the axes, and the request's fields."""
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
