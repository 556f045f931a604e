"""How much of each there is: caps, repeats, mixtures, shapes; the same rows whatever their order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bimo.core.errors import DataError, RecipeError
from bimo.core.part import Part, dump, load
from bimo.curation.filters.composition import Balance, Buckets, Column, Mix, Repeats, apportioned
from bimo.curation.steps import Change, TableStep


class Rows:
    """A table in memory."""

    def __init__(self, numbers: Sequence[int] | None = None, **columns: Sequence[Any]) -> None:
        self.columns = {name: np.array(values, object) for name, values in columns.items()}
        count = len(next(iter(columns.values())))
        self.numbers = np.arange(count) if numbers is None else np.array(numbers)

    def column(self, name: str) -> np.ndarray:
        if name not in self.columns:
            raise DataError("no {name}", name=name)
        return self.columns[name]

    def pieces(self, name: str) -> Iterator[np.ndarray]:
        yield from np.array_split(self.column(name), 3)

    def captions(self) -> Iterator[tuple[int, tuple[str, ...]]]:
        return iter(())


def written(changes: Iterator[Change], rows: Rows) -> dict[int, int]:
    """Number -> how often it is written."""
    found = dict.fromkeys(rows.numbers.tolist(), 1)
    for change in changes:
        assert (change.repeats == 0) == (change.verdict is not None)
        found[change.number] = change.repeats
    return found


def by_value(step: TableStep, label: str, rows: Rows) -> Counter[str]:
    counts: Counter[str] = Counter()
    for (_, times), value in zip(written(step.select(rows), rows).items(), rows.column(label), strict=True):
        counts[str(value)] += times
    return counts


KINDS = ["山"] * 60 + ["水"] * 30 + ["人"] * 10


@pytest.mark.parametrize(
    "step",
    [
        Balance(label="kind", most=3),
        Repeats(label="kind", times={"山": 2}),
        Mix(label="kind", weights={"山": 1.0}),
        Buckets(area=512 * 512, least=2),
        Column(name="AESTHETIC_SCORE", low=5.0),
    ],
)
def test_they_are_table_steps_and_dump(step: Part) -> None:
    assert isinstance(step, TableStep)
    assert load(dump(step)) == step
    assert all(step.says)


def test_no_category_has_more_than_the_most() -> None:
    rows = Rows(kind=KINDS)
    assert by_value(Balance(label="kind", most=20), "kind", rows) == {"山": 20, "水": 20, "人": 10}
    changes = list(Balance(label="kind", most=20).select(rows))
    assert {(c.verdict.value, c.verdict.threshold) for c in changes if c.verdict} == {("山", 20), ("水", 20)}


def test_which_rows_stay_is_said_by_their_number_and_the_seed() -> None:
    order = np.random.default_rng(1).permutation(100)
    step = Balance(label="kind", most=20)
    rows, shuffled = Rows(kind=KINDS), Rows(order.tolist(), kind=[KINDS[at] for at in order])
    kept = {number for number, times in written(step.select(rows), rows).items() if times}
    assert kept == {number for number, times in written(step.select(shuffled), shuffled).items() if times}
    other = Balance(label="kind", most=20, seed=1)
    assert kept != {number for number, times in written(other.select(rows), rows).items() if times}
    # Not the first twenty, nor any other stretch.
    assert 0 < len(kept & set(range(30))) < 20


def test_no_category_is_more_than_a_share_of_what_stays() -> None:
    assert by_value(Balance(label="kind", share=0.5), "kind", Rows(kind=KINDS)) == {"山": 40, "水": 30, "人": 10}
    assert by_value(Balance(label="kind", share=0.4), "kind", Rows(kind=KINDS)) == {"山": 20, "水": 20, "人": 10}
    assert by_value(Balance(label="kind", share=0.6), "kind", Rows(kind=KINDS)) == {"山": 60, "水": 30, "人": 10}
    with pytest.raises(DataError, match="30%"):
        list(Balance(label="kind", share=0.3).select(Rows(kind=KINDS)))


@settings(max_examples=60)
@given(st.lists(st.integers(1, 40), min_size=2, max_size=6), st.floats(0.05, 0.95))
def test_a_share_is_kept_by_as_few_drops_as_will_do(counts: list[int], share: float) -> None:
    rows = Rows(kind=[str(kind) for kind, count in enumerate(counts) for _ in range(count)])
    if share * len(counts) < 1:
        return
    found = by_value(Balance(label="kind", share=share), "kind", rows)
    total, most = sum(found.values()), max(found.values())
    assert most <= share * total + 1e-6
    if most < max(counts):
        more = [min(count, most + 1) for count in counts]
        assert max(more) > share * sum(more)


@pytest.mark.parametrize("given", [{}, {"most": 3, "share": 0.2}, {"most": -1}, {"share": 1.0}])
def test_balance_wants_one_of_two(given: dict[str, Any]) -> None:
    with pytest.raises(RecipeError):
        Balance(label="kind", **given)


def test_repeats() -> None:
    rows = Rows(kind=[*KINDS, None])
    step = Repeats(label="kind", times={"人": 3, "水": 0})
    assert by_value(step, "kind", rows) == {"山": 60, "水": 0, "人": 30, "None": 1}
    with pytest.raises(DataError, match="mountain"):
        list(Repeats(label="kind", times={"mountain": 2}).select(rows))
    with pytest.raises(RecipeError, match="-1"):
        Repeats(label="kind", times={"山": -1})


def test_labels_that_are_numbers_are_named_as_they_are_written() -> None:
    rows = Rows(class_of=[1.0, 2.0, 2.5, float("nan")])
    found = written(Repeats(label="class_of", times={"1": 5, "2.5": 0}).select(rows), rows)
    assert found == {0: 5, 1: 1, 2: 0, 3: 1}


def test_sources_are_mixed_without_repeats() -> None:
    rows = Rows(origin=["a"] * 60 + ["b"] * 30 + ["c"] * 10)
    # b has the fewest for its weight: 30 of it allow 30 of a.
    assert by_value(Mix(weights={"a": 1, "b": 1}), "origin", rows) == {"a": 30, "b": 30, "c": 0}
    assert by_value(Mix(weights={"a": 3, "b": 1, "c": 0}), "origin", rows) == {"a": 60, "b": 20, "c": 0}
    assert by_value(Mix(weights={"a": 6, "b": 3, "c": 1}), "origin", rows) == {"a": 60, "b": 30, "c": 10}


def test_sources_are_mixed_to_a_number_with_repeats() -> None:
    rows = Rows(origin=["a"] * 60 + ["b"] * 30 + ["c"] * 10)
    step = Mix(weights={"a": 0.2, "b": 0.4, "c": 0.4}, rows=100)
    assert by_value(step, "origin", rows) == {"a": 20, "b": 40, "c": 40}
    times = Counter(times for number, times in written(step.select(rows), rows).items() if 60 <= number < 90)
    assert times == {1: 20, 2: 10}
    with pytest.raises(DataError, match="d"):
        list(Mix(weights={"d": 1}).select(rows))
    for wrong in ({}, {"a": 0.0}, {"a": -1.0, "b": 2.0}):
        with pytest.raises(RecipeError):
            Mix(weights=wrong)


@given(st.lists(st.floats(0.01, 10), min_size=1, max_size=8), st.integers(0, 10_000))
def test_shares_add_up(weights: list[float], whole: int) -> None:
    found = apportioned(weights, whole)
    assert sum(found) == whole
    for share, weight in zip(found, weights, strict=True):
        assert abs(share - weight * whole / sum(weights)) < 1 + 1e-6


def test_buckets() -> None:
    sizes = [(640, 480)] * 3 + [(480, 640)] * 2 + [(500, 500)] * 2 + [(2000, 300)]
    rows = Rows(width=[w for w, _ in sizes], height=[h for _, h in sizes])
    changes = {c.number: c for c in Buckets(area=512 * 512, least=2).select(rows)}
    names = [str((changes[n].labels or {})["bucket"]) for n in range(8)]
    assert names == ["576x448"] * 3 + ["448x576"] * 2 + ["512x512"] * 2 + [
        "640x384"
    ]  # twice as wide as high is the most
    assert [changes[n].repeats for n in range(8)] == [1] * 7 + [0]
    gone = changes[7].verdict
    assert gone is not None
    assert (gone.value, gone.threshold) == (1, 2)
    with pytest.raises(DataError):
        list(Buckets(area=100).select(rows))


def test_an_empty_table() -> None:
    rows = Rows(kind=[], width=[], height=[])
    for step in (Balance(label="kind", most=1), Balance(label="kind", share=0.5), Buckets(area=512 * 512)):
        assert list(step.select(rows)) == []


def test_a_score_that_came_along_is_held_against_a_line() -> None:
    rows = Rows(numbers=[3, 5, 7, 9, 11], score=[4.0, 5.0, float("nan"), None, 9])
    assert written(Column(name="score", low=5.0).select(rows), rows) == {3: 0, 5: 1, 7: 0, 9: 0, 11: 1}
    assert written(Column(name="score", low=4.5, high=6).select(rows), rows) == {3: 0, 5: 1, 7: 0, 9: 0, 11: 0}
    beyond = {c.number: c.verdict for c in Column(name="score", high=6.0).select(rows)}
    assert (beyond[11].value, beyond[11].threshold, beyond[9].value) == (9, 6.0, "")  # type: ignore[union-attr]
    with pytest.raises(RecipeError, match="low, high or both"):
        Column(name="score")
    with pytest.raises(DataError, match="are no score"):
        list(Column(name="kind", low=1.0).select(Rows(kind=["山", "水"])))
    with pytest.raises(DataError, match="no beauty"):
        list(Column(name="beauty", low=1.0).select(rows))
