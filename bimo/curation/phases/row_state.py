"""The state of every row between steps, and the columns that table steps read."""

# pyarrow has no types; what crosses it here is named where it is kept.
# pyright: reportMissingTypeStubs=false, reportUnknownArgumentType=false, reportUnknownMemberType=false
# pyright: reportUnknownVariableType=false

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np

from bimo.core.errors import DataError
from bimo.core.part import meant
from bimo.curation.phases.store import Work, array_of, joined, load_table, names_in, of_cell, save_table, to_cell
from bimo.curation.steps import Verdict

LEFT, DROPPED, FAILED, KEPT = "left", "dropped", "failed", "kept"
#: Columns of measured rows that a table step may read, besides scores and labels.
OWN = ("width", "height", "bytes", "sha256")


@dataclass
class RowState:
    """The state of a row: ``step`` is the index of the step that dropped it, ``trail`` all that steps did to it."""

    number: int
    captions: tuple[str, ...]
    labels: dict[str, float | str]
    state: str = LEFT
    step: int = -1
    rule: str = ""
    reason: str = ""
    detail: str = ""
    value: float | str | None = None
    threshold: float | str | None = None
    repeats: int = 1
    trail: list[dict[str, Any]] = field(default_factory=list["dict[str, Any]"])

    def note(self, step: int, rule: str, what: str, **more: Any) -> None:
        """Adds to the trail."""
        self.trail.append({"step": step, "rule": rule, "what": what} | more)

    def drop(self, step: int, rule: str, verdict: Verdict) -> None:
        """Drops the row by a step's verdict."""
        value, threshold = plain_value(verdict.value), plain_value(verdict.threshold)
        self.state, self.step, self.rule, self.value, self.threshold = DROPPED, step, rule, value, threshold
        self.note(step, rule, "dropped", value=value, threshold=threshold)

    def fail(self, reason: str, detail: str = "") -> None:
        """Marks the row as failed: it could not be judged."""
        self.state, self.reason, self.detail = FAILED, reason, detail
        self.trail.append({"what": "failed", "reason": reason})


COLUMNS = tuple(field.name for field in fields(RowState))
#: Columns that are stored as JSON.
JSON_COLUMNS = ("labels", "value", "threshold", "trail")


def plain_value(value: Any) -> float | str:
    """A verdict's number or text as plain data."""
    if isinstance(value, np.generic):
        value = value.item()
    return value if isinstance(value, (int, float)) else str(value).encode("utf-8", "backslashreplace").decode()


def save_row_states(path: Path, rows: Sequence[RowState], fingerprint: str) -> None:
    """Saves the row states of a unit."""
    import pyarrow as pa

    texts = pa.string()
    columns: dict[str, Any] = {
        "number": pa.array([row.number for row in rows], pa.int64()),
        "captions": pa.array([row.captions for row in rows], pa.list_(texts)),
        "step": pa.array([row.step for row in rows], pa.int32()),
        "repeats": pa.array([row.repeats for row in rows], pa.int32()),
    }
    for name in ("state", "rule", "reason", "detail"):
        columns[name] = pa.array([getattr(row, name) for row in rows], texts)
    for name in JSON_COLUMNS:
        columns[name] = pa.array([to_cell(getattr(row, name)) for row in rows], texts)
    save_table(path, columns, fingerprint)


def load_row_states(path: Path) -> list[RowState]:
    """The row states of a unit."""
    table = load_table(path)
    columns: dict[str, list[Any]] = {name: table[name].to_pylist() for name in COLUMNS}
    columns |= {name: list(map(of_cell, columns[name])) for name in JSON_COLUMNS}
    columns["captions"] = list(map(tuple, columns["captions"]))
    return [RowState(*row) for row in zip(*columns.values(), strict=True)]


@dataclass(frozen=True)
class Scored:
    """Where the scores of a step are: the folder, and what their columns begin with; ``place`` is the step's index."""

    folder_name: str
    start: str
    place: int


@dataclass
class Columns:
    """The rows that are left at a step, as `bimo.curation.steps.Table`: from disk, one column at a time."""

    work: Work
    units: int
    row_state: str
    scored: Sequence[Scored]

    @property
    def numbers(self) -> np.ndarray:
        """[N] int64: the numbers of the rows."""
        pieces = [table["number"].to_numpy()[left] for table, left in self._left(["number"])]
        return np.concatenate([np.zeros(0, np.int64), *pieces])

    def column(self, name: str) -> np.ndarray:
        """[N]: a score or a label; NaN or None where a row has none. Raises DataError for an unknown name."""
        return joined(list(self.pieces(name)))

    def pieces(self, name: str) -> Iterator[np.ndarray]:
        """The same unit by unit; whether any step measured it is known only at the end."""
        known = set[str]()
        exists, rows = False, 0
        for unit, (table, left) in enumerate(self._left(["number", "labels"])):
            place = self._place(name, unit, known)
            if place is not None:
                scores = load_table(place[0], ["number", place[1]])
                if scores["number"].equals(table["number"]):
                    values = scores[place[1]].filter(left).to_pylist()
                else:
                    by_number = dict(zip(scores["number"].to_pylist(), scores[place[1]].to_pylist(), strict=True))
                    values = [by_number.get(number) for number in table["number"].to_numpy()[left].tolist()]
            else:
                labels = [of_cell(text) for text in table["labels"].filter(left).to_pylist()]
                known.update(*labels)
                values = [row.get(name) for row in labels]
            exists = exists or place is not None or name in known
            rows += len(values)
            yield array_of(values)
        if not exists and rows:
            near = meant(name, sorted(known))
            raise DataError("no step before gives {name!r}{near}", name=name, near=near)

    def captions(self) -> Iterator[tuple[int, tuple[str, ...]]]:
        """(number, captions) of every row."""
        for table, left in self._left(["number", "captions"]):
            numbers, captions = table["number"].filter(left), table["captions"].filter(left)
            for number, texts in zip(numbers.to_pylist(), captions.to_pylist(), strict=True):
                yield number, tuple(texts)

    def _left(self, names: Sequence[str]) -> Iterator[tuple[Any, np.ndarray]]:
        for unit in range(self.units):
            table = load_table(self.work.unit(self.row_state, unit), [*names, "state"])
            yield table, np.array([state == LEFT for state in table["state"].to_pylist()], dtype=bool)

    def _place(self, name: str, unit: int, known: set[str]) -> tuple[Path, str] | None:
        """The file and the column of a score in a unit: the last step's that measured one of the name."""
        for scored in reversed(self.scored):
            path = self.work.unit(scored.folder_name, unit)
            names = names_in(path)
            known.update(n.removeprefix(scored.start) for n in names if n.startswith(scored.start))
            if scored.start + name in names:
                return path, scored.start + name
        known.update(OWN)
        return (self.work.unit("measured", unit), name) if name in OWN else None
