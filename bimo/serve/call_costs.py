"""What calls of the denoiser cost here, and how many pictures should share one."""

from __future__ import annotations

from collections import deque
from typing import Any

#: Calls whose seconds are remembered, of each kind.
REMEMBERED = 8


class CallCosts:
    """Seconds of calls of the denoiser, by bucket and by how many pictures share one: the least of the last ones, as
    what else the machine does only ever adds to them.
    """

    def __init__(self) -> None:
        self._seconds: dict[Any, dict[int, deque[float]]] = {}

    def learn(self, bucket: Any, count: int, seconds: float) -> None:
        """A call of ``count`` pictures took so long."""
        self._seconds.setdefault(bucket, {}).setdefault(count, deque(maxlen=REMEMBERED)).append(seconds)

    def best(self, bucket: Any, most: int) -> int:
        """How many pictures of ``most`` should share a call: the most of 1, 2, 4 ... whose call takes less than what
        they would wait, on average, one after another: (n + 1) / 2 calls of one. What was never tried is tried once.
        """
        known = {number: min(seconds) for number, seconds in self._seconds.get(bucket, {}).items()}
        best, count = 1, 2
        if 1 not in known:
            return 1
        while count <= most:
            if count not in known:
                return count
            if known[count] >= known[1] * (count + 1) / 2:
                break
            best, count = count, count * 2
        return best
