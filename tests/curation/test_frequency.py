"""Counts of captions: exact against a plain counter whatever the pieces they are counted in, folded, once a row."""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bimo.curation.filters import frequency
from bimo.curation.filters.frequency import TooFrequent
from bimo.curation.steps import Change, TableStep, Verdict
from bimo.prompts.normalise import normal


@dataclass
class Rows:
    """A table in memory."""

    rows: list[tuple[int, tuple[str, ...]]]

    @property
    def numbers(self) -> np.ndarray:
        return np.array([number for number, _ in self.rows], np.int64)

    def column(self, name: str) -> np.ndarray:
        raise AssertionError(name)

    def captions(self) -> Iterator[tuple[int, tuple[str, ...]]]:
        yield from self.rows


def selected(rows: list[tuple[str, ...]], above: int) -> list[Change]:
    return list(TooFrequent(above=above).select(Rows([(10 * i, row) for i, row in enumerate(rows)])))


def test_is_a_table_step() -> None:
    assert isinstance(TooFrequent(), TableStep)


def test_more_than_so_many_rows_and_not_as_many() -> None:
    often = Verdict(3, 2)
    assert selected([("a",), ("b",), ("a",), ("b",), ("a",)], 2) == [
        *(Change(0, verdict=often), Change(20, verdict=often), Change(40, verdict=often))
    ]
    assert selected([("a",), ("a",)], 2) == []
    assert selected([], 2) == []


def test_a_picture_stays_while_it_has_another_caption() -> None:
    rows = [("如下图所示", "一只猫"), ("如下圖所示",), ("如下图所示 ",), ("一只狗",)]
    assert selected(rows, 2) == [
        Change(0, captions=("一只猫",)),
        Change(10, verdict=Verdict(3, 2)),
        Change(20, verdict=Verdict(3, 2)),
    ]


def test_twice_in_a_row_counts_once_but_both_go() -> None:
    assert selected([("a", "Ａ", "b"), ("a",)], 2) == []
    assert selected([("a", "Ａ", "b"), ("a",)], 1) == [Change(0, captions=("b",)), Change(10, verdict=Verdict(2, 1))]


def test_the_verdict_has_the_highest_count() -> None:
    assert selected([("a", "b"), ("a",), ("a",), ("b",)], 1)[0] == Change(0, verdict=Verdict(3, 1))


def plainly(rows: list[tuple[str, ...]], above: int) -> list[Change]:
    counts = Counter(caption for row in rows for caption in {normal(caption) for caption in row})
    changes: list[Change] = []
    for number, row in enumerate(rows):
        kept = tuple(caption for caption in row if counts[normal(caption)] <= above)
        if not kept and row:
            changes.append(Change(10 * number, verdict=Verdict(max(counts[normal(c)] for c in row), above)))
        elif kept != row:
            changes.append(Change(10 * number, captions=kept))
    return changes


ROWS = st.lists(st.lists(st.sampled_from("aAbcdeＡ猫貓"), max_size=3).map(tuple), max_size=30)


@given(rows=ROWS, above=st.integers(1, 4), held=st.integers(1, 9), bits=st.integers(1, 8))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
def test_the_pieces_do_not_matter(
    monkeypatch: pytest.MonkeyPatch, rows: list[tuple[str, ...]], above: int, held: int, bits: int
) -> None:
    monkeypatch.setattr(frequency, "HELD", held)
    monkeypatch.setattr(frequency, "FILE_BITS", bits)
    assert selected(rows, above) == plainly(rows, above)


def test_marks_that_share_a_half_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    # The same first 8 bytes for all captions; the last 8 are the character.
    monkeypatch.setattr(frequency, "mark_of", lambda caption: struct.pack("<QQ", 7 << 50, ord(caption)))
    assert selected([("a",), ("b",), ("b",), ("c",), ("a",), ("b",)], 1) == plainly(
        [("a",), ("b",), ("b",), ("c",), ("a",), ("b",)], 1
    )


def test_nothing_is_left_on_disk(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    changes = TooFrequent(above=1).select(Rows([(0, ("a",)), (1, ("a",))]))
    assert next(changes) == Change(0, verdict=Verdict(2, 1))
    assert [path.name[:14] for path in tmp_path.iterdir()] == ["bimo-captions-"]
    changes.close()  # type: ignore[attr-defined]
    assert not list(tmp_path.iterdir())
