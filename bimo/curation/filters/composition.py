"""Steps that set the composition of the whole set: scores of the source, balance, repeats, weights of sources, aspect
buckets.

Which rows are taken is decided by BLAKE2b of their number and a seed, so that it depends on neither order nor machine.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from bimo.core.errors import DataError, RecipeError
from bimo.core.part import Part, meant
from bimo.curation.steps import Change, Table, TableStep, Verdict


@dataclass(frozen=True, kw_only=True)
class Column(TableStep):
    """Keeps rows whose number in a column lies from ``low`` to ``high``: a score of the source, such as LAION's
    AESTHETIC_SCORE and similarity, or one of an earlier step. A row without a number is dropped. Raises RecipeError
    where neither bound is given.
    """

    says: ClassVar[tuple[str, str]] = ("自带的分数不够", "its own score is beyond the line")

    name: str
    low: float | None = None
    high: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.low is None and self.high is None:
            raise RecipeError("Column wants low, high or both")

    def select(self, table: Table) -> Iterator[Change]:
        """Drops rows outside the bounds. Raises DataError for a column that is missing or holds texts."""
        at = 0
        numbers = table.numbers
        for values in table.pieces(self.name):
            for number, value in zip(numbers[at : at + len(values)].tolist(), values.tolist(), strict=True):
                line = self._line(value)
                if line is not None:
                    yield Change(number, verdict=Verdict("" if value is None else value, line), repeats=0)
            at += len(values)

    def _line(self, value: Any) -> float | None:
        """The bound that a value violates, None where it violates none."""
        if isinstance(value, str):
            raise DataError(
                "column {name} holds the words {value!r}, which are no score", name=self.name, value=value[:40]
            )
        number = math.nan if value is None else value
        # Written so that NaN is outside.
        if self.low is not None and not number >= self.low:
            return self.low
        return self.high if self.high is not None and not number <= self.high else None


@dataclass(frozen=True, kw_only=True)
class Balance(TableStep):
    """Keeps at most so many rows of each value of ``label``: ``most``, or the ``share`` of the rows that are left
    afterwards.

    With a share, no value has more than that share of the rows that are kept. Raises RecipeError where not exactly one
    of the two is given.
    """

    says: ClassVar[tuple[str, str]] = ("这一类已经够多", "there is enough of its category")

    label: str
    most: int = 0
    share: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.most > 0) == (self.share > 0) or not 0 <= self.share < 1 or self.most < 0:
            raise RecipeError(
                "Balance wants either most (rows) or share (0 to 1); given: {most} and {share}",
                most=self.most,
                share=self.share,
            )

    def select(self, table: Table) -> Iterator[Change]:
        """Drops the surplus rows. Raises DataError for a share that cannot be reached: of three values one has at least
        a third.
        """
        values, places = _grouped(table.column(self.label))
        counts = [len(rows) for rows in places]
        most = self.most or _capped(counts, self.share, self.label)
        numbers = table.numbers
        for value, rows in zip(values, places, strict=True):
            for row in _drawn(numbers[rows], self.seed)[most:]:
                yield Change(int(row), verdict=Verdict(value, most), repeats=0)


@dataclass(frozen=True, kw_only=True)
class Repeats(TableStep):
    """Repeats rows by the value of ``label``; values that ``times`` does not name are written once. 0 drops a value.
    Raises RecipeError for a negative number.
    """

    says: ClassVar[tuple[str, str]] = ("这一类不要", "its category is left out")

    label: str
    times: Mapping[str, int] = field(default_factory=dict[str, int])

    def __post_init__(self) -> None:
        super().__post_init__()
        _positive(self, "times", self.times)

    def select(self, table: Table) -> Iterator[Change]:
        """Raises DataError for a value that no row has: it is misspelt."""
        values, places = _grouped(table.column(self.label))
        _known(self, self.times, values)
        numbers = table.numbers
        for value, rows in zip(values, places, strict=True):
            times = self.times.get(value, 1)
            for number in numbers[rows].tolist() if times != 1 else ():
                yield Change(number, repeats=times, verdict=None if times else Verdict(value, 0))


@dataclass(frozen=True, kw_only=True)
class Mix(TableStep):
    """Mixes the values of ``label`` by ``weights``: with {"a": 2, "b": 1} two of three rows are a's.

    There are ``rows`` rows in all; 0 means as many as possible without repeating one. A value with too few rows is
    repeated, each of its rows equally often or once more. Values without a weight, or of weight 0, are dropped. Raises
    RecipeError for negative weights or none above 0.
    """

    says: ClassVar[tuple[str, str]] = ("配比中不需要", "the mixture has no room for it")

    label: str = "origin"
    weights: Mapping[str, float] = field(default_factory=dict[str, float])
    rows: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        _positive(self, "weights", self.weights)
        if not sum(self.weights.values()) > 0 or self.rows < 0:
            raise RecipeError(
                "weights of Mix are {dict} and rows {rows}: at least one weight must be above 0, and rows not below",
                dict=dict(self.weights),
                rows=self.rows,
            )

    def select(self, table: Table) -> Iterator[Change]:
        """Raises DataError for a weighted value that no row has."""
        values, places = _grouped(table.column(self.label))
        weights = {name: weight for name, weight in self.weights.items() if weight > 0}
        _known(self, weights, values)
        have = {value: len(rows) for value, rows in zip(values, places, strict=True) if value in weights}
        scale = sum(weights.values())
        whole = self.rows or int(min(have[name] * scale / weight for name, weight in weights.items()) + 1e-9)
        shares = dict(zip(weights, apportioned(list(weights.values()), whole), strict=True))
        numbers = table.numbers
        for value, rows in zip(values, places, strict=True):
            share = shares.get(value, 0)
            times, over = divmod(share, len(rows))
            for rank, number in enumerate(_drawn(numbers[rows], self.seed).tolist()):
                repeats = times + (rank < over)
                if repeats != 1:
                    yield Change(number, repeats=repeats, verdict=None if repeats else Verdict(value, share))


@dataclass(frozen=True, kw_only=True)
class Buckets(TableStep):
    """Labels each row with its aspect bucket, ``bucket`` ("640x384"): the size of the nearest aspect ratio among those
    of at most ``area`` pixels, with sides that are multiples of ``step`` and a ratio of at most ``ratio``, as in
    training with such buckets.

    Rows of a bucket with fewer than ``least`` rows are dropped, since a batch has one size.
    """

    says: ClassVar[tuple[str, str]] = ("同一形状的图太少", "too few pictures of its shape")

    area: int
    step: int = 64
    ratio: float = 2.0
    least: int = 1

    def select(self, table: Table) -> Iterator[Change]:
        """Raises DataError for settings that leave no size."""
        # Imported here because it imports torch, which no other step of this module needs.
        from bimo.data.loader import buckets, fitted_size

        choices = buckets(self.area, self.step, self.ratio)
        if not choices:
            raise DataError("no size fits into area {area} of Buckets with step {step}", area=self.area, step=self.step)
        sizes = np.stack([table.column("width"), table.column("height")], axis=1).astype(np.int64)
        kinds, inverse = np.unique(sizes, axis=0, return_inverse=True)
        fitted = [fitted_size((int(width), int(height)), choices) for width, height in kinds]
        names = np.array([f"{width}x{height}" for width, height in fitted], object)[inverse.reshape(-1)]
        values, places = _grouped(names)
        numbers = table.numbers
        for value, rows in zip(values, places, strict=True):
            few = len(rows) < self.least
            verdict = Verdict(len(rows), self.least) if few else None
            for number in numbers[rows].tolist():
                yield Change(number, verdict=verdict, repeats=0 if few else 1, labels={"bucket": value})


def apportioned(weights: Sequence[float], whole: int) -> list[int]:
    """Whole numbers that add up to ``whole`` in the proportion of some weights, by the largest remainders, the first of
    equals.
    """
    exact = [weight * whole / sum(weights) for weight in weights]
    shares = [int(value) for value in exact]
    by_remainder = sorted(range(len(exact)), key=lambda place: (shares[place] - exact[place], place))
    for place in by_remainder[: whole - sum(shares)]:
        shares[place] += 1
    return shares


def _grouped(column: np.ndarray) -> tuple[list[str], list[np.ndarray]]:
    """The values of a column as texts, sorted, and the places of each; a row without one has the value ""."""
    texts = np.array(["" if value is None or value != value else _text(value) for value in column.tolist()], object)
    values, inverse = np.unique(texts.astype(str), return_inverse=True)
    order = np.argsort(inverse, kind="stable")
    cuts = np.cumsum(np.bincount(inverse, minlength=len(values)))[:-1]
    return [str(value) for value in values], np.split(order, cuts) if len(values) else []


def _text(value: object) -> str:
    """A label as it is written in a recipe: 3.0 is "3"."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _drawn(numbers: np.ndarray, seed: int) -> np.ndarray:
    """Numbers of rows in pseudo-random order."""
    key = seed.to_bytes(8, "little", signed=True)
    drawn = [
        hashlib.blake2b(number.to_bytes(8, "little"), digest_size=8, key=key).digest() for number in numbers.tolist()
    ]
    return numbers[sorted(range(len(drawn)), key=drawn.__getitem__)]


def _capped(counts: Sequence[int], share: float, label: str) -> int:
    """The most rows of a value so that none has more than a share of the rows that are kept."""
    if counts and share * len(counts) < 1:
        raise DataError(
            "{label} has {count} values; not all of them can be at most {share:.0%}",
            label=label,
            count=len(counts),
            share=share,
        )
    ordered = np.array(counts, np.int64)
    low, high = 1, max(counts, default=1)
    # The allowed number grows more slowly than the cap, so all caps up to some number satisfy the share, and none
    # above.
    while low < high:
        middle = (low + high + 1) // 2
        fits = middle <= share * int(np.minimum(ordered, middle).sum()) + 1e-9
        low, high = (middle, high) if fits else (low, middle - 1)
    return low


def _positive(step: Part, name: str, table: Mapping[str, float]) -> None:
    for value, weight in table.items():
        if not 0 <= weight < float("inf"):
            raise RecipeError(
                "{name} of {name_2} has {weight} for {value!r}; expected 0 or more",
                name=name,
                name_2=type(step).__name__,
                weight=weight,
                value=value,
            )


def _known(step: Part, table: Mapping[str, float], values: Sequence[str]) -> None:
    for value in table:
        if value not in values:
            near = meant(value, values)
            name = type(step).__name__
            raise DataError("{name}: no row is {value!r}{near}", name=name, value=value, near=near)
