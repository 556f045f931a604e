"""Comparisons: grids over two settings, tables of prompts, and votes between two models."""

from __future__ import annotations

import csv
import io
import json
import secrets
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bimo.core.errors import RequestError
from bimo.core.files import write_whole
from bimo.core.messages import Listed, Message
from bimo.serve.jobs import Job
from bimo.serve.page.form import Amount, Form, Words

#: Limits of pictures in a grid, and of rows in a table.
MOST_CELLS = 36
MOST_ROWS = 64
VOTES = "choices.jsonl"
#: Fields of the form that an axis can vary, and the parsers of their values.
AXES: dict[str, Amount | Words] = {
    "steps": Amount(1, 100, True),
    "guidance": Amount(0, 100),
    "seed": Amount(0, 2**53 - 1, True),
    "strength": Amount(0.01, 1),
    "sampler": Words(),
    "schedule": Words(),
    "style": Words(),
    "negative": Words(1000),
    "model": Words(),
    "text": Words(1000),
}
AXIS_NAMES = {
    "steps": Message("Steps"),
    "guidance": Message("Guidance"),
    "seed": Message("Seed"),
    "strength": Message("Strength"),
    "sampler": Message("Sampler"),
    "schedule": Message("Schedule"),
    "style": Message("Style"),
    "negative": Message("Negative prompt"),
    "model": Message("Model"),
    "text": Message("Prompt"),
}


def axis(name: str, text: str) -> list[tuple[str, dict[str, Any]]]:
    """(heading, changed fields) for each value of an axis; a single unchanged one without a name. Values are separated
    by commas; integers can be a range, ``4-12``. Raises RequestError.
    """
    if not name:
        return [("", {})]
    kind = AXES.get(name)
    if kind is None:
        raise RequestError("there is no setting {name!r} to compare; there is {names}", name=name, names=Listed(AXES))
    parts = [part.strip() for part in text.replace("，", ",").replace("\n", ",").split(",") if part.strip()]
    values: list[Any] = []
    for part in parts:
        if isinstance(kind, Words):
            values.append(kind.read(part, AXIS_NAMES[name]))
            continue
        first, dash, last = part.partition("-")
        if dash and kind.whole and first.isascii() and first.isdecimal() and last.isascii() and last.isdecimal():
            low, high = int(first), int(last)
            if high - low >= MOST_CELLS:
                raise _too_many(high - low + 1)
            values += [kind.read(number, AXIS_NAMES[name]) for number in range(low, high + 1)]
            continue
        try:
            number = float(part)
        except ValueError:
            number = part
        values.append(kind.read(number, AXIS_NAMES[name]))
    if not values:
        raise RequestError("write what {name} is to be, with commas between", name=AXIS_NAMES[name])
    return [
        (f"{value:g}" if isinstance(value, float) else str(value), {name: value}) for value in dict.fromkeys(values)
    ]


@dataclass(frozen=True)
class Sheet:
    """A grid: column and row headings, and the form of each cell by row and column."""

    across: tuple[str, ...]
    down: tuple[str, ...]
    cells: tuple[tuple[Form, ...], ...]


def sheet(form: Form, x: tuple[str, str], y: tuple[str, str]) -> Sheet:
    """The grid of two axes, each (field, values); all cells have the same seed. Raises RequestError."""
    if x[0] and x[0] == y[0]:
        raise RequestError("both axes are {name}; take another for one of them", name=AXIS_NAMES.get(x[0], x[0]))
    if not x[0] and not y[0]:
        raise RequestError("say what goes across or down")
    columns, rows = axis(*x), axis(*y)
    if len(columns) * len(rows) > MOST_CELLS:
        raise _too_many(len(columns) * len(rows))
    base = replace(form, count=1, seed=secrets.randbelow(2**32) if form.seed < 0 else form.seed)
    cells = tuple(tuple(replace(base, **across, **down) for _, across in columns) for _, down in rows)
    return Sheet(tuple(head for head, _ in columns), tuple(head for head, _ in rows), cells)


def _too_many(count: int) -> RequestError:
    return RequestError("{count} pictures; a comparison has at most {most}", count=count, most=MOST_CELLS)


#: Accepted headings of a table's columns.
COLUMNS = {
    "text": ("text", "prompt", "提示词", "文本"),
    "negative": ("negative", "反向提示词", "不要画"),
    "style": ("style", "风格"),
    "seed": ("seed", "种子"),
    "steps": ("steps", "步数"),
    "guidance": ("guidance", "听从提示词"),
    "width": ("width", "宽"),
    "height": ("height", "高"),
    "model": ("model", "模型"),
    "sampler": ("sampler", "采样器"),
}
_COLUMN = {head: name for name, heads in COLUMNS.items() for head in heads}


def rows(form: Form, text: str) -> list[Form]:
    """One form for each line of a table with a header (separated by tabs or commas), or of a list of prompts. Missing
    values are those of ``form``. Raises RequestError that names the line.
    """
    lines = [line for line in text.splitlines() if line.strip()]
    if not lines:
        raise RequestError("the table is empty; write a prompt a line")
    mark = "\t" if "\t" in lines[0] else ","
    heads = [_COLUMN.get(head.strip().lower(), "") for head in lines[0].lstrip("\ufeff").split(mark)]
    base = replace(form, count=1)
    has_head = "text" in heads
    if (count := len(lines) - has_head) > MOST_ROWS:
        raise RequestError("the table has {count} rows; at most {most} are drawn", count=count, most=MOST_ROWS)
    if not has_head:
        return [replace(base, text=line.strip()) for line in lines]
    forms: list[Form] = []
    for number, cells in enumerate(csv.reader(io.StringIO("\n".join(lines[1:])), delimiter=mark), 2):
        row_values = {name: cell.strip() for name, cell in zip(heads, cells, strict=False) if name and cell.strip()}
        try:
            forms.append(replace(base, **{name: _value(name, cell) for name, cell in row_values.items()}))
        except RequestError as error:
            raise RequestError("line {number} of the table: {error}", number=number, error=error) from None
    if not forms:
        raise RequestError("the table is empty; write a prompt a line")
    return forms


def _value(name: str, text: str) -> Any:
    kind = Form.kind(name)
    if isinstance(kind, Words):
        return kind.read(text, Form.title(name))
    try:
        number: Any = float(text)
    except ValueError:
        number = text
    return kind.read(number, Form.title(name))


class Votes:
    """Votes between two pictures for a prompt: ``choices.jsonl`` with the pictures in the same folder, as
    ``bimo data feedback`` reads it for training with DiffusionDPO.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock = threading.Lock()

    def keep(self, left: Job, right: Job, choice: str, judge: str) -> Path:
        """Writes a vote: "a" (the left), "b" or "tie". Raises RequestError for another choice, or a job without a
        picture.
        """
        if choice not in ("a", "b", "tie"):
            raise RequestError("a vote is a, b or tie, and not {choice!r}", choice=choice[:20])
        for job in (left, right):
            if not job.pictures:
                raise RequestError("there is no picture to vote on; draw both first")
        pictures = [(f"{job.id}.png", job.pictures[0].file) for job in (left, right)]
        fields = {
            "request": left.order.values.get("text", ""),
            "choice": choice,
            "model_a": left.order.model,
            "model_b": right.order.model,
        }
        return self.write(pictures, judge, fields)

    def write(self, pictures: Sequence[tuple[str, Path]], judge: str, fields: Mapping[str, Any]) -> Path:
        """Writes a vote with its two pictures, each (name beside the table, file to copy)."""
        for name, file in pictures:
            if not (self.folder / name).is_file():
                write_whole(self.folder / name, file.read_bytes())
        (first, _), (second, _) = pictures
        line = {"a": first, "b": second, "judge": judge, "time": round(time.time(), 3), **fields}
        path = self.folder / VOTES
        with self._lock, path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
        return path
