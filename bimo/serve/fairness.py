"""The order of jobs: start-time fair queueing between keys, shortest remaining work within a key."""

from __future__ import annotations

import time
from collections.abc import Iterable

from bimo.serve.jobs import Order

#: Seconds of work that a second of waiting makes up for, so that long jobs are not overtaken forever.
AGEING = 0.5
#: Assumed seconds of a step at 512 x 512 before one was measured.
FIRST_GUESS = 0.1


class Fairness:
    """Machine time used by each key, in seconds, and seconds per step by engine and size."""

    def __init__(self) -> None:
        self._used: dict[str, float] = {}
        self._pace: dict[object, float] = {}

    def arrived(self, key: str, present: Iterable[str]) -> None:
        """To be called for a new job; ``present`` are the keys of current jobs. A key that was idle gets no credit for
        that time.
        """
        keys = set(present)
        if key not in keys:
            floor = min((self._used.get(other, 0.0) for other in keys), default=0.0)
            self._used[key] = max(self._used.get(key, 0.0), floor)

    def charge(self, key: str, seconds: float) -> None:
        """Charges machine time to a key."""
        self._used[key] = self._used.get(key, 0.0) + seconds

    def learn(self, pace: object, seconds: float) -> None:
        """Records the seconds of a step of one picture."""
        self._pace[pace] = 0.8 * self._pace.get(pace, seconds) + 0.2 * seconds

    def seconds(self, pace: object, order: Order, steps: int) -> float:
        """Estimated seconds of so many steps; by the number of pixels if none of its kind was measured."""
        width, height = order.values.get("size") or (512, 512)
        return self._pace.get(pace, FIRST_GUESS * width * height / 512**2) * steps

    def rank(self, order: Order, seconds: float) -> tuple[float, float, float]:
        """Sort key, smallest first: the key that used least, then the highest priority, then the least ``seconds`` of
        work left, reduced by the time waited.
        """
        waited = time.time() - order.created
        return self._used.get(order.key, 0.0), -order.priority, seconds - AGEING * waited


def steps_asked(order: Order) -> int:
    """Steps of a picture by the order; 20, which is usual, if it has none."""
    return int(order.values.get("steps") or 20)
