"""Jobs handed out to others that draw, processes of this machine (`bimo.serve.workers`). There is one queue and one
store; whoever draws keeps nothing.

What a worker has when it ends goes to another: its job's pictures that came are kept, those that did not are drawn
again with the same seed. A job is with one worker at a time, so that it ends once.
"""

from __future__ import annotations

import io
import logging
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from bimo.core.picture import Picture
from bimo.serve.executor import CANCELLED, LATE, Executor, Listener, Source, failure_of, idle
from bimo.serve.fairness import Fairness, steps_asked
from bimo.serve.jobs import MOST_ATTEMPTS, WORN, Failure, Order

if TYPE_CHECKING:
    from PIL import Image

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Handed:
    """A job as it is handed out: with the pictures that it came with, and which of its own it has already."""

    order: Order
    pictures: dict[str, bytes]
    done: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Began:
    """A worker has begun a job."""


@dataclass(frozen=True)
class Stepped:
    """``done`` of ``steps`` steps of the picture at ``place`` are taken; ``shown`` is a preview as PNG."""

    place: int
    done: int
    steps: int
    shown: bytes | None = None


@dataclass(frozen=True)
class Drew:
    """A picture is drawn."""

    picture: Picture


@dataclass(frozen=True)
class Ended:
    """A worker has no more of a job."""

    failure: Failure | None = None


@dataclass(frozen=True)
class Lost:
    """Whoever drew a job has ended."""


Told = Began | Stepped | Drew | Ended | Lost
#: Is told what happens to a job that was handed out, in order; `Ended` or `Lost` is last.
Tell = Callable[[str, Told], None]


class Workers(ABC):
    """Those whom jobs are handed out to."""

    @abstractmethod
    def start(self, tell: Tell, free: Callable[[], None]) -> None:
        """Begins; ``free`` is called whenever there may be room for another job."""

    @abstractmethod
    def give(self, job: Handed) -> bool:
        """Hands a job to the worker with the least to do; False where none has room."""

    @abstractmethod
    def cancel(self, job: str, failure: Failure) -> None:
        """Has a job ended before its next step."""

    @abstractmethod
    def stop(self, seconds: float) -> None:
        """Has them draw what they have begun, for ``seconds`` at most, and end. Nothing is told after this."""

    def busy(self) -> dict[str, float]:
        """See `Executor.busy`, of all together."""
        return idle()


@dataclass(eq=False)
class _Task:
    order: Order
    done: set[int]
    out: bool = False
    steps: int = 0
    #: Steps that were taken of pictures that are not done, by their places.
    taken: dict[int, int] = field(default_factory=dict[int, int])
    #: How often it was lost.
    lost: int = 0
    #: Why it is to end before its next step.
    cancelled: Failure | None = None

    def steps_in_all(self) -> int:
        return (self.steps or steps_asked(self.order)) * self.order.count

    def steps_left(self) -> int:
        each = self.steps or steps_asked(self.order)
        return each * (self.order.count - len(self.done)) - sum(self.taken.values())

    @property
    def pace(self) -> tuple[object, ...]:
        return self.order.model, self.order.controls, tuple(self.order.values.get("size") or ())


class Dispatcher(Executor):
    """Hands jobs out as workers have room: next is what `Fairness` says."""

    def __init__(self, workers: Workers, source: Source, listener: Listener) -> None:
        self.workers = workers
        self.source = source
        self.listener = listener
        self._fairness = Fairness()
        self._tasks: dict[str, _Task] = {}
        self._changed = threading.Condition()
        self._stopping = False
        #: Whether something happened since the queue was looked at.
        self._news = False
        self._thread = threading.Thread(target=self._run, name="bimo-hand-out", daemon=True)

    @property
    def busy(self) -> dict[str, float]:
        """Of all workers together."""
        return self.workers.busy()

    def start(self) -> None:
        """Begins to draw."""
        self.workers.start(self._told, self._wake)
        self._thread.start()

    def submit(self, order: Order, done: frozenset[int] = frozenset()) -> None:
        """Takes a job on; ``done`` are the places of pictures that it has already."""
        with self._changed:
            self._fairness.arrived(order.key, (task.order.key for task in self._tasks.values()))
            self._tasks[order.id] = _Task(order, set(done))
        self._wake()

    def cancel(self, job: str, failure: Failure = CANCELLED) -> None:
        """Ends a job before its next step; nothing happens where it has ended."""
        with self._changed:
            task = self._tasks.get(job)
            if task is None:
                return
            task.cancelled = failure
            if not task.out:
                del self._tasks[job]
        if task.out:
            self.workers.cancel(job, failure)
        else:
            self.listener.ended(job, failure)

    def progress(self) -> dict[str, tuple[int, int]]:
        """Of each job that is here: (steps left, steps in all)."""
        with self._changed:
            return {name: (task.steps_left(), task.steps_in_all()) for name, task in self._tasks.items()}

    def seconds_ahead(self) -> float:
        """About how long all that is here would take one worker."""
        with self._changed:
            return sum(self._seconds(task) for task in self._tasks.values())

    def stop(self, drain: bool = False, seconds: float = 30.0) -> None:
        """See `Executor.stop`."""
        self._stopping = True
        self._wake()
        self._thread.join()
        self.workers.stop(seconds if drain else 0.0)

    def _wake(self) -> None:
        with self._changed:
            self._news = True
            self._changed.notify_all()

    def _seconds(self, task: _Task) -> float:
        return self._fairness.seconds(task.pace, task.order, task.steps_left())

    def _run(self) -> None:
        while True:
            with self._changed:
                if self._stopping:
                    return
                self._news = False
                late = self._late()
                waiting = [task for task in self._tasks.values() if not task.out]
                waiting.sort(key=lambda task: self._fairness.rank(task.order, self._seconds(task)))
            for task in late:
                self.listener.ended(task.order.id, LATE)
            if not (waiting and self._give(waiting[0])):
                with self._changed:
                    if not self._news:
                        self._changed.wait(self._until_deadline())

    def _late(self) -> list[_Task]:
        """Takes out the jobs that wait beyond their deadline; a worker looks after those it has. With the lock held."""
        now = time.time()
        late = [
            t for t in self._tasks.values() if not t.out and t.order.deadline is not None and t.order.deadline <= now
        ]
        for task in late:
            del self._tasks[task.order.id]
        return late

    def _until_deadline(self) -> float | None:
        times = [t.order.deadline for t in self._tasks.values() if not t.out and t.order.deadline is not None]
        return max(0.01, min(times) - time.time()) if times else None

    def _give(self, task: _Task) -> bool:
        """Hands a job out; False where nobody has room."""
        job = task.order.id
        try:
            pictures = self.source.inputs(job)
        except OSError as error:
            with self._changed:
                self._tasks.pop(job, None)
            self.listener.ended(job, failure_of(error))
            return True
        with self._changed:
            if self._tasks.get(job) is not task:
                return True  # cancelled meanwhile
            task.out = True
            # All of it at once: its key waits for as long as that is more than others had.
            estimate = self._seconds(task)
            self._fairness.charge(task.order.key, estimate)
        if not self.workers.give(Handed(task.order, pictures, frozenset(task.done))):
            with self._changed:
                task.out = False
                self._fairness.charge(task.order.key, -estimate)
            if task.cancelled is not None:
                self._end(job, task.cancelled)
            return False
        if task.cancelled is not None:  # while it was on its way
            self.workers.cancel(job, task.cancelled)
        return True

    def _told(self, job: str, told: Told) -> None:
        with self._changed:
            task = self._tasks.get(job)
        if task is None:
            return
        match told:
            case Began():
                self.listener.began(job)
            case Stepped():
                task.steps, task.taken[told.place] = told.steps, told.done
                self.listener.stepped(job, told.place, told.done, told.steps, _opened(told.shown))
            case Drew(picture):
                task.done.add(picture.index)
                task.taken.pop(picture.index, None)
                if task.steps:
                    self._fairness.learn(task.pace, picture.seconds / task.steps)
                self.listener.drew(job, picture)
            case Ended(failure):
                self._end(job, failure)
            case Lost():
                self._lost(job, task)

    def _lost(self, job: str, task: _Task) -> None:
        task.lost += 1
        task.taken.clear()
        if self._stopping:  # it is drawn after the next start
            return
        if task.cancelled is not None or task.lost >= MOST_ATTEMPTS:
            self._end(job, task.cancelled or WORN)
            return
        _log.warning("a worker ended; its job %s goes to another", job)
        with self._changed:
            task.out = False
        self._wake()

    def _end(self, job: str, failure: Failure | None) -> None:
        with self._changed:
            self._tasks.pop(job, None)
        self._wake()
        self.listener.ended(job, failure)


def _opened(shown: bytes | None) -> Image.Image | None:
    from PIL import Image

    return None if shown is None else Image.open(io.BytesIO(shown))
