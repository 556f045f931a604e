"""All randomness of a picture, derived from its key: the same numbers in every process and every release of NumPy."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

#: Mostly 32-bit floating-point arrays.
Floats = NDArray[np.floating[Any]]
Choice = TypeVar("Choice")


class Chance:
    """A random source seeded by text. `fork` returns an independent one, so that one part can draw more numbers without
    changing another.
    """

    def __init__(self, key: str) -> None:
        self.key = key
        self._random = random.Random(hashlib.sha256(key.encode()).digest())

    def fork(self, purpose: str) -> Chance:
        """An independent source, named by this one's key and a purpose."""
        return Chance(f"{self.key}/{purpose}")

    def uniform(self, low: float = 0.0, high: float = 1.0) -> float:
        """A number in [low, high)."""
        return low + (high - low) * self._random.random()

    def normal(self, deviation: float = 1.0) -> float:
        """An approximately normal number around zero, within 3.4 standard deviations (twelve uniforms would reach
        six).
        """
        return deviation * 1.732 * (sum(self._random.random() for _ in range(4)) - 2)

    def integer(self, low: int, high: int) -> int:
        """An integer in low..high, both included."""
        return low + int(self._random.random() * (high - low + 1))

    def chance(self, share: float) -> bool:
        """True with this probability."""
        return self._random.random() < share

    def pick(self, choices: Sequence[Choice]) -> Choice:
        """A random element."""
        return choices[int(self._random.random() * len(choices))]

    def weighted(self, choices: Sequence[Choice], weights: Sequence[float]) -> Choice:
        """A random element, with probabilities proportional to the weights."""
        mark = self._random.random() * sum(weights)
        for choice, weight in zip(choices, weights, strict=True):
            mark -= weight
            if mark < 0:
                return choice
        return choices[-1]

    def array(self, *shape: int) -> Floats:
        """Uniform numbers in [0, 1) with a shape."""
        count = int(np.prod(shape))
        words = np.frombuffer(self._random.randbytes(4 * count), "<u4")
        return ((words >> np.uint32(8)).astype(np.float32) * np.float32(2.0**-24)).reshape(shape)

    def spread(self, low: float, high: float, *shape: int) -> Floats:
        """Uniform numbers in [low, high) with a shape."""
        return np.float32(low) + np.float32(high - low) * self.array(*shape)

    def bell(self, deviation: float, *shape: int) -> Floats:
        """Numbers like those of `normal`, with a shape."""
        return np.float32(deviation * 1.732) * (self.array(4, *shape).sum(0) - np.float32(2))
