"""Dispatches jobs to worker processes on this machine (`bimo.serve.workers`). There is one queue and one store; workers
have no state.

The jobs of a worker that dies go to another: pictures that were finished are kept, the others are drawn again with the
same seed. A job is with one worker at a time, so that it ends exactly once.
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
from bimo.serve.fairness import Fairness, steps_asked, unguided
from bimo.serve.jobs import MOST_ATTEMPTS, WORN, Failure, Order

if TYPE_CHECKING:
    from PIL import Image

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Handed:
    """A job for a worker: the order, its input pictures, and the indices of pictures that are done already."""

    order: Order
    pictures: dict[str, bytes]
    done: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Began:
    """A worker started a job."""


@dataclass(frozen=True)
class Stepped:
    """``done`` of ``steps`` steps of the picture at ``place`` are done; ``preview`` is a PNG."""

    place: int
    done: int
    steps: int
    preview: bytes | None = None


@dataclass(frozen=True)
class Drew:
    """A picture is finished."""

    picture: Picture


@dataclass(frozen=True)
class Ended:
    """A worker ended a job."""

    failure: Failure | None = None


@dataclass(frozen=True)
class Lost:
    """The worker of a job died."""


WorkerEvent = Began | Stepped | Drew | Ended | Lost
#: Called with the events of a dispatched job in order; the last is `Ended` or `Lost`.
OnWorkerEvent = Callable[[str, WorkerEvent], None]


class Workers(ABC):
    """The workers that jobs are dispatched to."""

    @abstractmethod
    def start(self, tell: OnWorkerEvent, free: Callable[[], None]) -> None:
        """Starts the workers; ``free`` is called whenever there may be room for another job."""

    @abstractmethod
    def give(self, job: Handed) -> bool:
        """Sends a job to the least busy worker; False if none has room."""

    @abstractmethod
    def cancel(self, job: str, failure: Failure) -> None:
        """Cancels a job before its next step."""

    @abstractmethod
    def skip(self, job: str, failure: Failure | None) -> None:
        """See `Executor.skip`."""

    @abstractmethod
    def stop(self, seconds: float) -> None:
        """Lets the workers finish what they have started, for at most ``seconds``, and stops them. No events follow."""

    def busy(self) -> dict[str, float]:
        """`Executor.busy`, summed over all workers."""
        return idle()


@dataclass(eq=False)
class _Task:
    order: Order
    done: set[int]
    arrived: float = 0.0
    charged: float = 0.0
    handed_out: bool = False
    steps: int = 0
    #: Steps done of unfinished pictures, by their index.
    steps_taken: dict[int, int] = field(default_factory=dict[int, int])
    #: How often its worker died.
    times_lost: int = 0
    #: The reason of a cancellation that is under way.
    cancelled: Failure | None = None

    def steps_in_all(self) -> int:
        return (self.steps or steps_asked(self.order)) * self.order.count

    def steps_left(self) -> int:
        each = self.steps or steps_asked(self.order)
        return each * (self.order.count - len(self.done)) - sum(self.steps_taken.values())

    @property
    def pace(self) -> tuple[object, ...]:
        order = self.order
        return order.model, order.controls, tuple(order.values.get("size") or ()), unguided(order)


class Dispatcher(Executor):
    """Dispatches jobs to workers with room, in the order of `Fairness`."""

    def __init__(self, workers: Workers, source: Source, listener: Listener) -> None:
        self.workers = workers
        self.source = source
        self.listener = listener
        self._fairness = Fairness()
        self._tasks: dict[str, _Task] = {}
        self._changed = threading.Condition()
        self._stopping = False
        #: Whether something happened since the queue was last examined.
        self._queue_changed = False
        self._thread = threading.Thread(target=self._run, name="bimo-hand-out", daemon=True)

    @property
    def busy(self) -> dict[str, float]:
        """See `Executor.busy`, summed over all workers."""
        return self.workers.busy()

    def start(self) -> None:
        """Starts drawing."""
        self.workers.start(self._on_worker_event, self._wake)
        self._thread.start()

    def submit(self, order: Order, done: frozenset[int] = frozenset()) -> None:
        """Queues a job; ``done`` are the indices of pictures that it has already."""
        with self._changed:
            arrived = self._fairness.arrived(order.key, (task.order.key for task in self._tasks.values()))
            self._tasks[order.id] = _Task(order, set(done), arrived)
        self._wake()

    def cancel(self, job: str, failure: Failure = CANCELLED) -> None:
        """Cancels a job before its next step; does nothing if it has ended."""
        with self._changed:
            task = self._tasks.get(job)
            if task is None:
                return
            task.cancelled = failure
            if not task.handed_out:
                del self._tasks[job]
        if task.handed_out:
            self.workers.cancel(job, failure)
        else:
            self.listener.ended(job, failure)

    def skip(self, job: str, failure: Failure | None = None) -> None:
        """See `Executor.skip`."""
        with self._changed:
            task = self._tasks.get(job)
            handed_out = task is not None and task.handed_out
            if task is not None and handed_out and failure is not None:
                task.cancelled = failure
        if handed_out:
            self.workers.skip(job, failure)
        elif failure is not None:
            self.cancel(job, failure)

    def progress(self) -> dict[str, tuple[int, int]]:
        """(steps left, steps in total) of each job."""
        with self._changed:
            return {name: (task.steps_left(), task.steps_in_all()) for name, task in self._tasks.items()}

    def seconds_ahead(self) -> float:
        """Estimated seconds of all jobs with a single worker."""
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
            self._queue_changed = True
            self._changed.notify_all()

    def _seconds(self, task: _Task) -> float:
        return self._fairness.seconds(task.pace, task.order, task.steps_left())

    def _run(self) -> None:
        while True:
            with self._changed:
                if self._stopping:
                    return
                self._queue_changed = False
                late = self._late()
                waiting = [task for task in self._tasks.values() if not task.handed_out]
                waiting = self._fairness.ranked(waiting, self._seconds, self._seconds)
            for task in late:
                self.listener.ended(task.order.id, LATE)
            if not (waiting and self._give(waiting[0])):
                with self._changed:
                    if not self._queue_changed:
                        self._changed.wait(self._until_deadline())

    def _late(self) -> list[_Task]:
        """Removes waiting jobs that are past their deadline; workers do so for theirs. Called with the lock held."""
        now = time.time()
        late = [
            t
            for t in self._tasks.values()
            if not t.handed_out and t.order.deadline is not None and t.order.deadline <= now
        ]
        for task in late:
            del self._tasks[task.order.id]
        return late

    def _until_deadline(self) -> float | None:
        times = [t.order.deadline for t in self._tasks.values() if not t.handed_out and t.order.deadline is not None]
        return max(0.01, min(times) - time.time()) if times else None

    def _give(self, task: _Task) -> bool:
        """Dispatches a job; False if no worker has room."""
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
            task.handed_out = True
            # The whole job is charged at once; the key has to wait until others have caught up.
            estimate = self._seconds(task)
            self._fairness.charge(task, estimate)
        if not self.workers.give(Handed(task.order, pictures, frozenset(task.done))):
            with self._changed:
                task.handed_out = False
                self._fairness.charge(task, -estimate)
            if task.cancelled is not None:
                self._end(job, task.cancelled)
            return False
        with self._changed:
            self._fairness.ended(task)
        if task.cancelled is not None:  # cancelled while it was being sent
            self.workers.cancel(job, task.cancelled)
        return True

    def _on_worker_event(self, job: str, event: WorkerEvent) -> None:
        with self._changed:
            task = self._tasks.get(job)
        if task is None:
            return
        match event:
            case Began():
                self.listener.began(job)
            case Stepped():
                task.steps, task.steps_taken[event.place] = event.steps, event.done
                self.listener.stepped(job, event.place, event.done, event.steps, _opened(event.preview))
            case Drew(picture):
                task.done.add(picture.index)
                task.steps_taken.pop(picture.index, None)
                if task.steps:
                    self._fairness.learn(task.pace, picture.seconds / task.steps)
                self.listener.drew(job, picture)
            case Ended(failure):
                self._end(job, failure)
            case Lost():
                self._lost(job, task)

    def _lost(self, job: str, task: _Task) -> None:
        task.times_lost += 1
        task.steps_taken.clear()
        if self._stopping:  # it is resumed after the next start
            return
        if task.cancelled is not None or task.times_lost >= MOST_ATTEMPTS:
            self._end(job, task.cancelled or WORN)
            return
        _log.warning("a worker ended; its job %s goes to another", job)
        with self._changed:
            task.handed_out = False
        self._wake()

    def _end(self, job: str, failure: Failure | None) -> None:
        with self._changed:
            self._tasks.pop(job, None)
        self._wake()
        self.listener.ended(job, failure)


def _opened(preview: bytes | None) -> Image.Image | None:
    from PIL import Image

    return None if preview is None else Image.open(io.BytesIO(preview))
