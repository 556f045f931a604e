"""The order of jobs: start-time fair queueing between keys; within a key the shortest remaining work first, as long as
no job waits longer than the longest wait would be in order of arrival.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol, TypeVar

from bimo.serve.jobs import Order

#: Seconds of a key's work after which half of its longest wait is forgotten.
REMEMBERED = 600.0
#: Assumed seconds of a step at 512 x 512 before one was measured.
FIRST_GUESS = 0.1


class Waiting(Protocol):
    """A job in the queue: ``arrived`` is what `Fairness.arrived` returned for it."""

    @property
    def order(self) -> Order:
        """The job."""
        ...

    arrived: float


Task = TypeVar("Task", bound=Waiting)


class Fairness:
    """Machine time used by each key, in seconds, and seconds per step by engine and size.

    No order has a shorter longest wait than that of arrival (on one machine without gain from batches), but most jobs
    can be done sooner: a job may be overtaken until its wait would become the longest. All jobs of a key together take
    as long in any order, so the longest wait in order of arrival is known: what is left of the jobs before, and the
    job's own. Waits count in machine time of the key, so that what other keys take changes nothing.
    """

    def __init__(self) -> None:
        self._used: dict[str, float] = {}
        self._pace: dict[object, float] = {}
        #: (longest wait in order of arrival, ``_used`` when it was noted) by key and priority.
        self._longest: dict[tuple[str, int], tuple[float, float]] = {}

    def arrived(self, key: str, present: Iterable[str]) -> float:
        """To be called for a new job; ``present`` are the keys of current jobs. A key that was idle gets no credit for
        that time. Returns the machine time of the key until now.
        """
        keys = set(present)
        if key not in keys:
            floor = min((self._used.get(other, 0.0) for other in keys), default=0.0)
            self._used[key] = max(self._used.get(key, 0.0), floor)
        return self._used[key]

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

    def ranked(self, tasks: Iterable[Task], left: Callable[[Task], float], turn: Callable[[Task], float]) -> list[Task]:
        """Jobs in the order of their turns: the key that used least, then the highest priority, then as above. ``left``
        is the seconds of work that remain of a job, ``turn`` those that it takes before another can have its turn.
        """
        groups: dict[tuple[str, int], list[Task]] = {}
        for task in tasks:
            groups.setdefault((task.order.key, task.order.priority), []).append(task)
        names = sorted(groups, key=lambda name: (self._used.get(name[0], 0.0), name[0], -name[1]))
        return [task for name in names for task in self._shortest_first(name, groups[name], left, turn)]

    def _shortest_first(
        self, name: tuple[str, int], tasks: Sequence[Task], left: Callable[[Task], float], turn: Callable[[Task], float]
    ) -> list[Task]:
        used, work = self._used.get(name[0], 0.0), 0.0
        oldest = sorted(tasks, key=lambda task: (task.arrived, task.order.created))
        remaining = [left(task) for task in oldest]
        waits: list[float] = []
        for task, seconds in zip(oldest, remaining, strict=True):
            work += seconds
            waits.append(used - task.arrived + work)
        longest, noted = self._longest.get(name, (0.0, used))
        longest = max(longest * 0.5 ** ((used - noted) / REMEMBERED), *waits)
        self._longest[name] = longest, used
        spare = math.inf  # how long those before can still be kept waiting
        rank: dict[int, tuple[bool, float]] = {}
        for task, seconds, wait in zip(oldest, remaining, waits, strict=True):
            rank[id(task)] = spare < turn(task), seconds
            spare = min(spare, longest - wait)
        return sorted(oldest, key=lambda task: rank[id(task)])


def steps_asked(order: Order) -> int:
    """Steps of a picture by the order; 20, which is usual, if it has none."""
    return int(order.values.get("steps") or 20)
