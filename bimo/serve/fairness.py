"""The order of jobs: start-time fair queueing between keys; within a key the shortest remaining work first, as long as
no job waits longer than the longest wait would be in order of arrival.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from heapq import merge
from typing import Protocol, TypeVar

from bimo.serve.jobs import Order

#: Seconds of a key's work after which half of its longest wait is forgotten.
REMEMBERED = 600.0
#: Assumed seconds of a step at 512 x 512 before one was measured.
FIRST_GUESS = 0.1
#: The last steps by the shortest of which the next ones are estimated.
STEPS = 8


class Waiting(Protocol):
    """A job in the queue: ``arrived`` is what `Fairness.arrived` returned for it, ``charged`` the seconds that it took
    until now.
    """

    @property
    def order(self) -> Order:
        """The job."""
        ...

    arrived: float
    charged: float


Task = TypeVar("Task", bound=Waiting)


@dataclass
class _Line:
    """The jobs of a key and priority as they would be served in order of arrival, in machine time of the key."""

    #: When those before ``ended`` would have been served.
    free: float = 0.0
    #: The longest wait of those, and when it was noted.
    longest: float = 0.0
    noted: float = 0.0
    #: (arrived, created, seconds taken) of ended jobs that came after one that still waits.
    ended: list[tuple[float, float, float]] = field(default_factory=list[tuple[float, float, float]])

    def longest_wait(self, waiting: Sequence[tuple[float, float, float]], now: float) -> float:
        """The longest wait in order of arrival; ``waiting`` are (arrived, created, seconds of work in all) of the jobs
        that wait, sorted.
        """
        self.longest, self.noted = self.longest * 0.5 ** ((now - self.noted) / REMEMBERED), now
        self.ended.sort()
        while self.ended and (not waiting or self.ended[0][:2] < waiting[0][:2]):
            arrived, _, seconds = self.ended.pop(0)
            self.free = max(self.free, arrived) + seconds
            self.longest = max(self.longest, self.free - arrived)
        free, longest = self.free, self.longest
        for arrived, _, seconds in merge(self.ended, waiting):
            free = max(free, arrived) + seconds
            longest = max(longest, free - arrived)
        return longest


class Fairness:
    """Machine time used by each key, in seconds, and seconds per step by engine and size.

    No order has a shorter longest wait than that of arrival (on one machine without gain from batches), but most jobs
    can be done sooner: a job may be overtaken until its wait would become the longest. All jobs of a key together take
    as long in any order, so the longest wait in order of arrival is known: by what jobs took, and of those that wait by
    what they are estimated to take. An estimate that proves wrong counts no longer once the job has ended. Waits count
    in machine time of the key, so that what other keys take changes nothing.
    """

    def __init__(self) -> None:
        self._used: dict[str, float] = {}
        self._pace: dict[object, tuple[float, ...]] = {}
        self._lines: dict[tuple[str, int], _Line] = {}

    def arrived(self, key: str, present: Iterable[str]) -> float:
        """To be called for a new job; ``present`` are the keys of current jobs. A key that was idle gets no credit for
        that time. Returns the machine time of the key until now.
        """
        keys = set(present)
        if key not in keys:
            floor = min((self._used.get(other, 0.0) for other in keys), default=0.0)
            self._used[key] = max(self._used.get(key, 0.0), floor)
        return self._used[key]

    def charge(self, task: Waiting, seconds: float) -> None:
        """Charges machine time to a job and to its key."""
        task.charged += seconds
        self._used[task.order.key] = self._used.get(task.order.key, 0.0) + seconds

    def ended(self, task: Waiting) -> None:
        """To be called for a job that waits no longer."""
        line = self._lines.setdefault((task.order.key, task.order.priority), _Line())
        line.ended.append((task.arrived, task.order.created, task.charged))

    def learn(self, pace: object, seconds: float) -> None:
        """Records the seconds of a step of one picture. The first one of its kind tells little: kernels are chosen,
        memory is taken.
        """
        measured = self._pace.get(pace)
        self._pace[pace] = () if measured is None else (*measured, seconds)[-STEPS:]

    def seconds(self, pace: object, order: Order, steps: int) -> float:
        """Estimated seconds of so many steps; by the number of pixels if none of its kind was measured. Rather too few
        than too many: what keeps others from being overtaken for longer.
        """
        if measured := self._pace.get(pace):
            return min(measured) * steps
        width, height = order.values.get("size") or (512, 512)
        return FIRST_GUESS * width * height / 512**2 * steps

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
        line = self._lines.setdefault(name, _Line())
        in_all = [(t.arrived, t.order.created, t.charged + rest) for t, rest in zip(oldest, remaining, strict=True)]
        longest = line.longest_wait(in_all, used)
        spare = math.inf  # how long those before can still be kept waiting
        rank: dict[int, tuple[bool, float]] = {}
        for task, seconds in zip(oldest, remaining, strict=True):
            rank[id(task)] = spare < turn(task), seconds
            work += seconds
            spare = min(spare, longest - (used - task.arrived + work))
        return sorted(oldest, key=lambda task: rank[id(task)])


def unguided(order: Order) -> bool:
    """Whether guidance is off, and a step takes about half as long."""
    return order.values.get("guidance") == 1


def steps_asked(order: Order) -> int:
    """Steps of a picture by the order; 20, which is usual, if it has none."""
    return int(order.values.get("steps") or 20)
