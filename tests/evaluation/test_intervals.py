"""Intervals against known numbers."""

from __future__ import annotations

import math

import pytest

from bimo.evaluation.intervals import Interval, bootstrap, verdict, wilson


@pytest.mark.parametrize(
    ("right", "n", "low", "high"),
    [(8, 10, 0.4902, 0.9433), (0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0), (263, 300, 0.8347, 0.9092)],
)
def test_wilson_gives_the_known_intervals(right: int, n: int, low: float, high: float) -> None:
    found = wilson(right, n)
    assert found.value == right / n
    assert (found.low, found.high) == pytest.approx((low, high), abs=2e-4)


def test_an_interval_of_nothing_is_not_a_number() -> None:
    assert math.isnan(wilson(0, 0).value)
    assert bootstrap([]).n == 0


def test_bootstrap_holds_the_mean_and_narrows_with_more() -> None:
    few, many = bootstrap([0.0, 1.0] * 8), bootstrap([0.0, 1.0] * 200)
    assert few.low < few.value == 0.5 < few.high
    assert many.high - many.low < few.high - few.low


def test_verdict_needs_whole_intervals_apart() -> None:
    low, middle, high = Interval(0.2, 0.1, 0.3, 9), Interval(0.35, 0.25, 0.45, 9), Interval(0.9, 0.8, 1.0, 9)
    assert [verdict(high, low), verdict(low, high), verdict(low, middle)] == ["above", "below", "not apart"]
