"""Whose turn it is: start-time fair queueing between keys, and how urgent a job is within its own."""

from __future__ import annotations

import time
from collections.abc import Iterable

from bimo.serve.jobs import Order

#: How many seconds of work a second of waiting outweighs: long jobs are passed by, but not for ever.
AGEING = 0.5
#: What a step of 512 x 512 is thought to take before one was measured, in seconds.
FIRST_GUESS = 0.1


class Fairness:
    """How much of the machine each key has had, in seconds, and what steps take by engine and size."""

    def __init__(self) -> None:
        self._had: dict[str, float] = {}
        self._pace: dict[object, float] = {}

    def arrived(self, key: str, present: Iterable[str]) -> None:
        """A job of a key came, while jobs of the keys ``present`` were there: who was away saved nothing up."""
        keys = set(present)
        if key not in keys:
            floor = min((self._had.get(other, 0.0) for other in keys), default=0.0)
            self._had[key] = max(self._had.get(key, 0.0), floor)

    def charge(self, key: str, seconds: float) -> None:
        """A key had so many seconds of the machine."""
        self._had[key] = self._had.get(key, 0.0) + seconds

    def learn(self, pace: object, seconds: float) -> None:
        """A step of one picture took so long."""
        self._pace[pace] = 0.8 * self._pace.get(pace, seconds) + 0.2 * seconds

    def seconds(self, pace: object, order: Order, steps: int) -> float:
        """About how long steps of an order take; where none of its kind was measured, by its pixels."""
        width, height = order.values.get("size") or (512, 512)
        return self._pace.get(pace, FIRST_GUESS * width * height / 512**2) * steps

    def rank(self, order: Order, seconds: float) -> tuple[float, float, float]:
        """Smaller is sooner: the key that had least; of its jobs the highest priority; of those the one with the least
        ``seconds`` of work left, less what it has waited.
        """
        waited = time.time() - order.created
        return self._had.get(order.key, 0.0), -order.priority, seconds - AGEING * waited


def steps_asked(order: Order) -> int:
    """Steps of a picture as the order says them, of one that says none as most models take."""
    return int(order.values.get("steps") or 20)
