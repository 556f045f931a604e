"""95 % confidence intervals, and whether two of them overlap."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

Z = 1.959964  # of the 95 % interval
RESAMPLES = 2000


@dataclass(frozen=True)
class Interval:
    """A value with its 95 % interval, over ``n`` pictures or pairs of them."""

    value: float
    low: float
    high: float
    n: int


def wilson(right: int, n: int) -> Interval:
    """The score interval of a proportion (E. B. Wilson, Journal of the American Statistical Association 22, 1927)."""
    if n == 0:
        return Interval(math.nan, math.nan, math.nan, 0)
    share = right / n
    middle = (share + Z * Z / (2 * n)) / (1 + Z * Z / n)
    half = Z / (1 + Z * Z / n) * math.sqrt(share * (1 - share) / n + Z * Z / (4 * n * n))
    return Interval(share, max(0.0, middle - half), min(1.0, middle + half), n)


def bootstrap(values: Sequence[float], seed: int = 0) -> Interval:
    """The percentile interval of a mean (B. Efron, Annals of Statistics 7, 1979) from 2,000 resamples."""
    array = np.asarray(values, np.float64)
    if array.size == 0:
        return Interval(math.nan, math.nan, math.nan, 0)
    picks = np.random.default_rng(seed).integers(0, array.size, (RESAMPLES, array.size))
    means = array[picks].mean(1)
    return Interval(
        float(array.mean()), float(np.quantile(means, 0.025)), float(np.quantile(means, 0.975)), int(array.size)
    )


def verdict(model: Interval, baseline: Interval) -> str:
    """ "above" or "below" if the model's interval lies entirely on one side of the baseline's, else "not apart"."""
    if model.low > baseline.high:
        return "above"
    return "below" if model.high < baseline.low else "not apart"


def share(right: Sequence[bool]) -> Interval:
    """The proportion of true values."""
    return wilson(sum(right), len(right))
