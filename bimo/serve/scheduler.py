"""Continuous batching: a thread that samples many jobs at a time, and decides before every step which ones.

A picture is a coroutine (`bimo.diffusion.sampling.sample`) that waits at a step, with only its latents in memory. So
jobs with any steps, samplers, guidance and seeds can join and leave between two steps; a cancelled job, or one whose
client is gone, leaves before the next step.

`Fairness` decides the order. Pictures of the same model, level and size share a call of the denoiser if that finishes
them sooner on average than one after another, by the measured times of calls (`CallCosts`); on a CPU that is seldom so.
A picture that is alone in its calls has the same bytes as one drawn alone; in shared calls it may differ by 1 of 255,
as the order of summation in matrix products depends on their shape.
"""

from __future__ import annotations

import logging
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from bimo.core.errors import RequestError
from bimo.core.messages import say, speaking
from bimo.core.pages import freed_kept, trim
from bimo.core.picture import Picture
from bimo.diffusion.sampling import calls, stopped
from bimo.engine.engine import Engine
from bimo.inscription.drawing import finished
from bimo.serve.call_costs import CallCosts
from bimo.serve.executor import CANCELLED, LATE, UNEXPECTED, Executor, Listener, Source, failure_of, idle
from bimo.serve.fairness import Fairness
from bimo.serve.jobs import Failure, Order
from bimo.serve.pool import EngineKey, EnginePool
from bimo.serve.previews import preview
from bimo.serve.tasks import Sampled, Task

if TYPE_CHECKING:
    from PIL import Image

#: The most pictures that may be started and unfinished, with their latents in memory.
MOST_STARTED = 64
_log = logging.getLogger(__name__)


class _EndedEarly(Exception):
    """The job of a picture has ended before the picture is finished."""


class Scheduler(Executor):
    """Draws jobs in a thread of its own. ``batch`` is the most pictures in a call, 1 for bytes that do not depend on
    other jobs; with ``always`` calls are shared regardless of their cost.
    """

    def __init__(
        self, pool: EnginePool, source: Source, listener: Listener, *, batch: int = 16, always: bool = False
    ) -> None:
        self.pool = pool
        self.source = source
        self.listener = listener
        self.batch = batch
        self.always = always
        self.costs = CallCosts()
        self._busy = idle()
        self._fairness = Fairness()
        self._inbox: list[Task] = []
        self._ended_early: dict[str, Failure] = {}
        #: Jobs whose started pictures are to end as they are, and why the jobs end with them, if they do.
        self._skipped: dict[str, Failure | None] = {}
        self._tasks: dict[str, Task] = {}
        self._changed = threading.Condition()
        self._stopping = False
        self._draining = False
        pool.on_loaded = self._wake
        self._thread = threading.Thread(target=self._run, name="bimo-draw", daemon=True)

    @property
    def busy(self) -> dict[str, float]:
        """See `Executor.busy`; the difference between "all" and "denoiser" is the overhead."""
        return dict(self._busy)

    def start(self) -> None:
        """Starts drawing."""
        self._thread.start()

    def submit(self, order: Order, done: frozenset[int] = frozenset()) -> None:
        """Queues a job; ``done`` are the indices of pictures that it has already."""
        with self._changed:
            self._inbox.append(Task(order, EngineKey(order.model, order.loras, order.controls), done=done))
            self._changed.notify_all()

    def cancel(self, job: str, failure: Failure = CANCELLED) -> None:
        """Cancels a job before its next step; does nothing if it has ended."""
        with self._changed:
            self._ended_early[job] = failure
            self._changed.notify_all()

    def skip(self, job: str, failure: Failure | None = None) -> None:
        """See `Executor.skip`."""
        with self._changed:
            self._skipped[job] = failure
            self._changed.notify_all()

    def progress(self) -> dict[str, tuple[int, int]]:
        """(steps left, steps in total) of each job."""
        with self._changed:
            tasks = [*self._inbox, *self._tasks.values()]
        return {t.order.id: (t.steps_left(), (t.steps or 1) * t.order.count) for t in tasks}

    def seconds_ahead(self) -> float:
        """Estimated seconds of all jobs."""
        with self._changed:
            tasks = [*self._inbox, *self._tasks.values()]
        return sum(self._seconds_left(task) for task in tasks)

    def stop(self, drain: bool = False, seconds: float = 30.0) -> None:
        """See `Executor.stop`."""
        with self._changed:
            self._draining = True
            self._stopping = not drain
            self._changed.notify_all()
        self._thread.join(seconds)
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        self._thread.join()

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def _run(self) -> None:
        # What layers free is kept from one step to the next, until there is nothing to draw.
        with freed_kept():
            while self._wait():
                start = time.perf_counter()
                try:
                    self._leave_skipped()
                    self._turn()
                except Exception:  # a bug must not end the thread that all jobs wait for
                    _log.error("the scheduler: %s", traceback.format_exc())
                    self._fail_all(UNEXPECTED)
                self._busy["all"] += time.perf_counter() - start

    def _wait(self) -> bool:
        """Waits for something to do; false at the end."""
        with self._changed:
            self._absorb()
            while not self._stopping and not self._skipped and not self._ready():
                if self._draining:
                    return False
                trim()
                self._changed.wait(self._until_deadline())
                self._absorb()
            return not self._stopping

    def _absorb(self) -> None:
        """Takes on new jobs; ends those that were cancelled or are late. Called with the lock held."""
        for task in self._inbox:
            task.arrived = self._fairness.arrived(task.order.key, (t.order.key for t in self._tasks.values()))
            self._tasks[task.order.id] = task
        self._inbox.clear()
        now = time.time()
        for task in list(self._tasks.values()):
            if task.order.deadline is not None and task.order.deadline <= now:
                self._ended_early.setdefault(task.order.id, LATE)
        for job, failure in self._ended_early.items():
            if (task := self._tasks.get(job)) is not None:
                self._end(task, failure)
        self._ended_early.clear()

    def _until_deadline(self) -> float | None:
        times = [t.order.deadline for t in self._tasks.values() if t.order.deadline is not None]
        return max(0.01, min(times) - time.time()) if times else None

    def _ready(self) -> list[Task]:
        """Jobs whose engine is loaded; requests the engines of the others. Called with the lock held."""
        ready: list[Task] = []
        for task in list(self._tasks.values()):
            if task.engine is None:
                if self._draining:
                    continue
                try:
                    task.engine = self.pool.take(task.key)
                except Exception as error:  # any error of loading is this job's failure
                    self._end(task, failure_of(error))
                    continue
            if task.engine is not None and (task.started or not self._draining):
                ready.append(task)
        return ready

    def _turn(self) -> None:
        """One call of a denoiser."""
        with self._changed:
            ready = self._ready()
        ranked = self._fairness.ranked(ready, self._seconds_left, self._step_seconds)
        started = sum(len(task.started) for task in ready)
        group: list[Sampled] = []
        stragglers: list[Sampled] = []
        most = 1
        for task in ranked:
            if group and (task.kind != group[0].task.kind or len(group) >= most):
                continue
            for picture in [*task.started.values(), *(() if self._draining else task.waiting)]:
                if group and len(group) >= most:
                    break
                if isinstance(picture, int):
                    if started >= MOST_STARTED and group:
                        break
                    sampled = self._begin(task, picture)
                    if sampled is None:
                        break
                    picture, started = sampled, started + 1
                if not group:
                    most = self.batch if self.always else self.costs.best(picture.bucket, self.batch)
                if not group or picture.bucket == group[0].bucket:
                    group.append(picture)
                elif picture.denoiser_input.step == picture.denoiser_input.steps - 1:
                    stragglers.append(picture)  # on the last step of an earlier level; after it, it can join
        group, stragglers = self._measured_size(group), [picture for picture in stragglers if len(group) < most]
        for bucket in dict.fromkeys(picture.bucket for picture in stragglers):
            self._step(bucket, [picture for picture in stragglers if picture.bucket == bucket])
        if group:
            self._step(group[0].bucket, group)

    def _measured_size(self, group: list[Sampled]) -> list[Sampled]:
        """Reduces a group to a measured batch size, or one to be measured: 1, 2, 4 ..."""
        if self.always or not group:
            return group
        count = 1 << (len(group).bit_length() - 1)
        return group[: min(count, self.costs.best(group[0].bucket, count))]

    def _leave_skipped(self) -> None:
        """Ends the started pictures of skipped jobs as they are."""
        with self._changed:
            skipped, self._skipped = self._skipped, {}
        for job, failure in skipped.items():
            if (task := self._tasks.get(job)) is None:
                continue
            for sampled in list(task.started.values()):
                self._leave(task, sampled)
            if failure is not None or task.drawn:
                self._end(task, failure)

    def _leave(self, task: Task, sampled: Sampled) -> None:
        """Ends a picture as it is, with a warning. One of which no step could be shown is begun anew in its turn."""
        assert task.engine is not None
        del task.started[sampled.place]
        try:
            with task.engine.working(), speaking(task.language):
                picture = stopped(sampled.loop)
                unfinished = say("ended at step {done} of {steps}: not finished", done=sampled.done, steps=task.steps)
        except Exception as error:
            self._end(task, failure_of(error))
            return
        if picture is not None:
            self._drew(task, sampled, replace(picture, warnings=(*picture.warnings, unfinished)))

    def _begin(self, task: Task, place: int) -> Sampled | None:
        """Starts a picture up to its first denoiser input; None if the job failed instead."""
        engine = task.engine
        assert engine is not None
        try:
            if task.prepared is None:
                request = task.order.request(self.source.inputs(task.order.id))
                with speaking(task.language):
                    prepared = engine.prepare(request)
                    literal = request.drawn_text is not None or request.image is not None or engine.adapters
                    if prepared.nothing_known and not literal:
                        raise RequestError(
                            "{sentence}; say it in other words, or send it as drawn_text as well (bimo draw --anyway) "
                            "to have it drawn",
                            sentence=prepared.nothing_known,
                        )
                task.prepared = prepared
                task.steps = calls(engine.system, task.prepared.request)
                self.listener.began(task.order.id)
            loop = engine.loop(task.prepared, place)
            with engine.working():
                denoiser_input = next(loop)
        except Exception as error:
            self._end(task, failure_of(error))
            return None
        sampled = Sampled(task, place, loop, denoiser_input)
        task.started[place] = sampled
        return sampled

    def _step(self, bucket: Any, group: Sequence[Sampled]) -> None:
        engine = group[0].task.engine
        assert engine is not None
        start = time.perf_counter()
        try:
            with engine.working():
                outputs: list[torch.Tensor] = engine.denoise([picture.denoiser_input for picture in group])
        except Exception as error:
            if len(group) > 1:
                # One of them may be the cause, or the batch too large for the memory: try each alone.
                for picture in group:
                    self._step(bucket, [picture])
                return
            self._end(group[0].task, failure_of(error))
            return
        seconds = time.perf_counter() - start
        self._busy["denoiser"] += seconds
        self._busy["calls"] += 1
        self._busy["rows"] += len(group)
        self.costs.learn(bucket, len(group), seconds)
        if len(group) == 1:
            self._fairness.learn(group[0].task.pace, seconds)
        for picture, output in zip(group, outputs, strict=True):
            self._fairness.charge(picture.task, seconds / len(group))
            picture.seconds += seconds / len(group)
            if picture.task.order.id in self._tasks:
                with speaking(picture.task.language):
                    self._advance(engine, picture, output)

    def _advance(self, engine: Engine, picture: Sampled, output: torch.Tensor) -> None:
        task, denoiser_input = picture.task, picture.denoiser_input
        start = time.perf_counter()
        result: Picture | None = None
        preview_image: Image.Image | None = None
        try:
            with engine.working():
                if picture.done + 1 in _preview_steps(task.order.previews, task.steps):
                    preview_image = preview(engine.system, denoiser_input, output)
                picture.denoiser_input = picture.loop.send(output)
        except StopIteration as stop:
            try:
                asked = task.prepared and task.prepared.request
                result = finished(engine, stop.value, asked, self._unless_ended(task)) if asked else stop.value
            except _EndedEarly:
                del task.started[picture.place]
                return
            except Exception as error:
                self._end(task, failure_of(error))
                return
        except Exception as error:
            self._end(task, failure_of(error))
            return
        picture.done += 1
        picture.seconds += time.perf_counter() - start
        self.listener.stepped(task.order.id, picture.place, picture.done, task.steps, preview_image)
        if result is not None:
            del task.started[picture.place]
            self._drew(task, picture, result)
            if task.drawn:
                self._end(task, None)

    def _unless_ended(self, task: Task) -> Callable[[int, int], None]:
        """To be called between the characters that are written into a picture: raises _EndedEarly where its job has
        ended meanwhile.
        """

        def check(_: int, __: int) -> None:
            deadline = task.order.deadline
            with self._changed:
                ended = self._stopping or task.order.id in self._ended_early
            if ended or (deadline is not None and deadline <= time.time()):
                raise _EndedEarly

        return check

    def _drew(self, task: Task, sampled: Sampled, picture: Picture) -> None:
        task.finished.add(sampled.place)
        self.listener.drew(task.order.id, replace(picture, seconds=sampled.seconds))

    def _end(self, task: Task, failure: Failure | None) -> None:
        with self._changed:
            if self._tasks.pop(task.order.id, None) is None:
                return
        self._fairness.ended(task)
        for picture in task.started.values():
            picture.loop.close()
        task.started.clear()
        if task.engine is not None:
            if not any(other.key == task.key for other in self._tasks.values()):
                task.engine.rest()
            self.pool.give_back(task.key)
        self.listener.ended(task.order.id, failure)

    def _fail_all(self, failure: Failure) -> None:
        for task in list(self._tasks.values()):
            self._end(task, failure)

    def _step_seconds(self, task: Task) -> float:
        return self._fairness.seconds(task.pace, task.order, 1)

    def _seconds_left(self, task: Task) -> float:
        return self._fairness.seconds(task.pace, task.order, task.steps_left())


def _preview_steps(count: int, steps: int) -> set[int]:
    """The steps with a preview: ``count`` of them, evenly spaced."""
    return {max(1, round(steps * place / (count + 1))) for place in range(1, count + 1)} if count else set()
