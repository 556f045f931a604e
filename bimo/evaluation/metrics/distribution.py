"""Metrics on two sets of features [N, D]: FID, KID and IS by torchmetrics; FID-infinity, precision and recall, which it
lacks, here. Statistics are float64.
"""

# torchmetrics names its tensors loosely.
# pyright: reportUnknownArgumentType=false, reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

import warnings
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bimo.core.errors import DataError
from bimo.evaluation.intervals import Interval

SUBSETS, SUBSET_SIZE = 100, 1000
NEIGHBOURS = 3
POINTS = 15
FEWEST = 10
FID_RESAMPLES = 20


class _Identity(nn.Module):
    """Passed to torchmetrics as the feature network; returns the precomputed features."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.num_features = width

    def forward(self, features: Tensor) -> Tensor:
        return features


@contextmanager
def _seeded(seed: int) -> Generator[None]:
    """Seeds torch's global generator, from which torchmetrics draws subsets."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def _metric(name: str, width: int, **settings: Any) -> Any:
    """A torchmetrics metric over precomputed features. Raises ModuleNotFoundError without the extra ``eval``."""
    from torchmetrics.image.fid import FrechetInceptionDistance
    from torchmetrics.image.inception import InceptionScore
    from torchmetrics.image.kid import KernelInceptionDistance

    kinds: dict[str, Any] = {"fid": FrechetInceptionDistance, "is": InceptionScore, "kid": KernelInceptionDistance}
    return kinds[name](feature=_Identity(width), **settings)


def demand_library() -> None:
    """Raises ModuleNotFoundError without the extra ``eval``, so that it is said before hours of drawing."""
    import torchmetrics  # noqa: F401  # pyright: ignore[reportUnusedImport]


def demand_pairs(drawn: Tensor, real: Tensor, least: int = 2) -> None:
    """Raises DataError if two sets of features cannot be compared."""
    if drawn.ndim != 2 or real.ndim != 2 or drawn.shape[1] != real.shape[1]:
        raise DataError("features of {first} against {second}; expected [N, D] of one width",
                        first=list(drawn.shape), second=list(real.shape))  # fmt: skip
    if min(len(drawn), len(real)) < least:
        raise DataError("{drawn} drawn and {real} real pictures; at least {least} of each are needed",
                        drawn=len(drawn), real=len(real), least=least)  # fmt: skip


def fid(drawn: Tensor, real: Tensor) -> float:
    """The Fréchet distance of two Gaussians (arXiv:1706.08500) of features [N, D] and [M, D]. Raises DataError."""
    demand_pairs(drawn, real)
    metric = _metric("fid", drawn.shape[1])
    metric.update(real.double(), real=True)
    metric.update(drawn.double(), real=False)
    return float(metric.compute())


@dataclass(frozen=True)
class _Moments:
    """A mean [D] and a root [R, D] of the covariance (root^T root), R at most D, to compute FID repeatedly. The trace
    of the square root of the product of two covariances is the sum of the singular values of the product of their
    roots, a small matrix if there are few pictures.
    """

    mean: Tensor
    root: Tensor

    @classmethod
    def of(cls, features: Tensor) -> _Moments:
        x = features.double()
        mean = x.mean(0)
        root = (x - mean) / (len(x) - 1) ** 0.5
        return cls(mean, torch.linalg.qr(root, mode="r").R if len(root) > root.shape[1] else root)

    def fid(self, other: _Moments) -> float:
        common = torch.linalg.svdvals(self.root @ other.root.T).sum()
        spread = self.root.square().sum() + other.root.square().sum()
        return float((self.mean - other.mean).square().sum() + spread - 2 * common)


def fid_interval(drawn: Tensor, real: Tensor, resamples: int = FID_RESAMPLES, seed: int = 0) -> Interval:
    """FID with a bootstrap interval over the drawn pictures, shifted to be centred on the value: a resample has fewer
    distinct pictures, so that its FID is biased upwards.
    """
    value = fid(drawn, real)
    rng = np.random.default_rng(seed)
    n = len(drawn)
    other = _Moments.of(real)
    others = [_Moments.of(drawn[torch.from_numpy(rng.integers(0, n, n))]).fid(other) for _ in range(resamples)]
    low, high = np.quantile(others, (0.025, 0.975)) - np.mean(others)
    return Interval(value, max(0.0, value + float(low)), value + float(high), n)


def fid_infinity(drawn: Tensor, real: Tensor, points: int = POINTS, seed: int = 0) -> float:
    """FID extrapolated to infinitely many pictures (arXiv:1911.07023): a linear fit of FID over 1 / N, evaluated at 0,
    for N from a tenth of the pictures, at least FEWEST, to all. Raises DataError.
    """
    demand_pairs(drawn, real, 2 * FEWEST)
    n = len(drawn)
    rng = np.random.default_rng(seed)
    sizes = np.unique(np.linspace(max(FEWEST, n // 10), n, points).astype(int))
    other = _Moments.of(real)
    values = [_Moments.of(drawn[torch.from_numpy(rng.permutation(n)[:size])]).fid(other) for size in sizes]
    _, at_zero = np.polyfit(1.0 / sizes, values, 1)
    return float(at_zero)


def kid(drawn: Tensor, real: Tensor, seed: int = 0) -> Interval:
    """Kernel Inception Distance (arXiv:1801.01401, cubic polynomial): mean over subsets +- 1.96 standard deviations.
    There are 100 subsets of 1,000 pictures, or of all if there are fewer. Raises DataError.
    """
    demand_pairs(drawn, real)
    size = min(SUBSET_SIZE, len(drawn), len(real))
    with _seeded(seed), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Metric `Kernel Inception Distance` will save")  # it has them already
        metric = _metric("kid", drawn.shape[1], subsets=SUBSETS, subset_size=size)
        metric.update(real.double(), real=True)
        metric.update(drawn.double(), real=False)
        mean, deviation = (float(value) for value in metric.compute())
    return Interval(mean, mean - 1.96 * deviation, mean + 1.96 * deviation, len(drawn))


def inception_score(logits: Tensor, splits: int = 10, seed: int = 0) -> Interval:
    """Inception Score (arXiv:1606.03498) of logits [N, classes]: mean over two or more splits +- 1.96 standard
    deviations. Raises DataError for fewer pictures than splits.
    """
    if len(logits) < splits:
        raise DataError("{count} pictures for an Inception Score of {splits} splits; draw more",
                        count=len(logits), splits=splits)  # fmt: skip
    with _seeded(seed), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Metric `InceptionScore` will save")
        metric = _metric("is", logits.shape[1], splits=splits)
        metric.update(logits.double())
        mean, deviation = (float(value) for value in metric.compute())
    return Interval(mean, mean - 1.96 * deviation, mean + 1.96 * deviation, len(logits))


@dataclass(frozen=True)
class PrecisionRecall:
    """The fractions of drawn pictures in the manifold of the real ones, and of real ones in that of the drawn."""

    precision: float
    recall: float


def precision_recall(drawn: Tensor, real: Tensor, neighbours: int = NEIGHBOURS) -> PrecisionRecall:
    """Improved precision and recall (arXiv:1904.06991): a picture is in the manifold of a set if it is nearer to some
    picture of the set than that picture's third nearest neighbour. Raises DataError.
    """
    demand_pairs(drawn, real, neighbours + 1)
    drawn, real = drawn.double(), real.double()
    return PrecisionRecall(_among(drawn, real, neighbours), _among(real, drawn, neighbours))


def _among(points: Tensor, of: Tensor, neighbours: int) -> float:
    # neighbours + 1, as the nearest neighbour of a picture is itself.
    radii = torch.cdist(of, of).kthvalue(neighbours + 1, dim=1).values
    return float((torch.cdist(points, of) <= radii).any(1).double().mean())
