"""Measured times of denoiser calls, and the batch size that they suggest."""

from __future__ import annotations

from collections import deque
from typing import Any

#: How many calls are remembered for each bucket and batch size.
REMEMBERED = 8


class CallCosts:
    """Seconds of denoiser calls by bucket and batch size: the minimum of the last ones, as other load on the machine
    only adds to them.
    """

    def __init__(self) -> None:
        self._seconds: dict[Any, dict[int, deque[float]]] = {}

    def learn(self, bucket: Any, count: int, seconds: float) -> None:
        """Records a call of ``count`` pictures."""
        self._seconds.setdefault(bucket, {}).setdefault(count, deque(maxlen=REMEMBERED)).append(seconds)

    def best(self, bucket: Any, most: int) -> int:
        """The best batch size up to ``most``: the largest of 1, 2, 4 ... whose call is shorter than the average wait if
        the pictures were drawn one after another, (n + 1) / 2 calls of one. Unmeasured sizes are tried once.
        """
        measured = {number: min(seconds) for number, seconds in self._seconds.get(bucket, {}).items()}
        best, count = 1, 2
        if 1 not in measured:
            return 1
        while count <= most:
            if count not in measured:
                return count
            if measured[count] >= measured[1] * (count + 1) / 2:
                break
            best, count = count, count * 2
        return best
