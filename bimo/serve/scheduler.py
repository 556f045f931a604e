"""The sampling of many jobs at a time: which picture takes its next step, and which others take theirs with it.

A picture is a coroutine (`bimo.diffusion.sampling.sample`) that waits at a step; nothing but its latents is kept
meanwhile. So jobs of any steps, samplers, guidance and seeds join and leave between two steps, and one that is
cancelled, or whose client is gone, has left before the next. One thread draws.

Who is next says `Fairness`. Pictures of the same model, level and size share a call of the
denoiser where that ends them sooner, on average, than one after another would: by the seconds that calls of so many
rows took here (`CallCosts`). On a processor that is seldom the case. A picture alone in its
calls is equal to the bit to one drawn alone; in shared calls it may differ by 1 of 255, as matrix products are ordered
by shape.
"""

from __future__ import annotations

import logging
import threading
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch

from bimo.core.messages import language, speaking
from bimo.core.picture import Picture
from bimo.core.tensors import DenoiserInput
from bimo.diffusion.preparation import Prepared
from bimo.diffusion.sampling import SamplingLoop, calls
from bimo.engine.engine import Engine
from bimo.inscription.drawing import finished
from bimo.serve.call_costs import CallCosts
from bimo.serve.executor import CANCELLED, LATE, UNEXPECTED, Executor, Listener, Source, failure_of, idle
from bimo.serve.fairness import Fairness, steps_asked
from bimo.serve.jobs import LANGUAGE, Failure, Order
from bimo.serve.pool import EngineKey, EnginePool
from bimo.serve.previews import preview

if TYPE_CHECKING:
    from PIL import Image

#: Pictures that are begun and not ended: their latents are in memory.
MOST_BEGUN = 64
_log = logging.getLogger(__name__)


@dataclass(eq=False)
class _Sampled:
    """A picture that is begun: what it asks the denoiser next."""

    task: _Task
    place: int
    loop: SamplingLoop
    asked: DenoiserInput
    done: int = 0
    seconds: float = 0.0

    @property
    def bucket(self) -> tuple[Any, ...]:
        """What pictures of one call have in common: the model, the level, the size and what it is told besides."""
        c = self.asked.conditioning
        pictures = tuple((name, tuple(value.shape[1:])) for name, value in sorted(c.pictures.items()))
        told = (c.vector is None, c.spatial is None, tuple(sorted(c.scalars)), pictures, self.asked.shortcuts)
        return (self.task.key, self.asked.level, tuple(self.asked.x.shape[1:]), told)


@dataclass(eq=False)
class _Task:
    """A job here: where its pictures are."""

    order: Order
    key: EngineKey
    engine: Engine | None = None
    prepared: Prepared | None = None
    steps: int = 0
    done: frozenset[int] = frozenset()
    begun: dict[int, _Sampled] = field(default_factory=dict[int, _Sampled])
    drawn: set[int] = field(default_factory=set[int])
    failure: Failure | None = None

    @property
    def waiting(self) -> list[int]:
        """The places of pictures that are not begun."""
        every = range(self.order.count)
        return [p for p in every if p not in self.begun and p not in self.drawn and p not in self.done]

    def steps_left(self) -> int:
        """Steps of all of its pictures that are not taken."""
        steps = self.steps or steps_asked(self.order)
        return steps * (len(self.waiting) + len(self.begun)) - sum(one.done for one in self.begun.values())

    @property
    def pace(self) -> tuple[EngineKey, Any]:
        """What tasks have in common whose steps take alike."""
        return self.key, tuple(self.order.values.get("size") or ())


class Scheduler(Executor):
    """Draws the jobs it is given in a thread of its own. ``batch`` is the most pictures in one call, 1 for bytes that
    do not depend on neighbours; with ``always`` they share calls whatever that costs.
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
        self._inbox: list[_Task] = []
        self._ended_early: dict[str, Failure] = {}
        self._tasks: dict[str, _Task] = {}
        self._changed = threading.Condition()
        self._stopping = False
        self._draining = False
        pool.on_loaded = self._wake
        self._thread = threading.Thread(target=self._run, name="bimo-draw", daemon=True)

    @property
    def busy(self) -> dict[str, float]:
        """The difference between "all" and "denoiser" is what serving costs."""
        return dict(self._busy)

    def start(self) -> None:
        """Begins to draw."""
        self._thread.start()

    def submit(self, order: Order, done: frozenset[int] = frozenset()) -> None:
        """Takes a job on; ``done`` are the places of pictures that it has already."""
        with self._changed:
            self._inbox.append(_Task(order, EngineKey(order.model, order.loras, order.controls), done=done))
            self._changed.notify_all()

    def cancel(self, job: str, failure: Failure = CANCELLED) -> None:
        """Ends a job before its next step; nothing happens where it has ended."""
        with self._changed:
            self._ended_early[job] = failure
            self._changed.notify_all()

    def progress(self) -> dict[str, tuple[int, int]]:
        """Of each job that is here: (steps left, steps in all)."""
        with self._changed:
            tasks = [*self._inbox, *self._tasks.values()]
        return {t.order.id: (t.steps_left(), (t.steps or 1) * t.order.count) for t in tasks}

    def seconds_ahead(self) -> float:
        """About how long all that is here will take."""
        with self._changed:
            tasks = [*self._inbox, *self._tasks.values()]
        return sum(self._seconds_left(task) for task in tasks)

    def stop(self, drain: bool = False, seconds: float = 30.0) -> None:
        """Ends the thread: at once between two steps, or with ``drain`` when what is begun is drawn, within
        ``seconds``. What is left stays with whoever stores jobs.
        """
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
        while True:
            with self._changed:
                self._absorb()
                while not self._stopping and not self._ready():
                    if self._draining:
                        return
                    self._changed.wait(self._until_deadline())
                    self._absorb()
                if self._stopping:
                    return
            began = time.perf_counter()
            try:
                self._turn()
            except Exception:  # a mistake of ours must not end the thread that all jobs wait for
                _log.error("the scheduler: %s", traceback.format_exc())
                self._fail_all(UNEXPECTED)
            self._busy["all"] += time.perf_counter() - began

    def _absorb(self) -> None:
        """Takes on what came, ends what was cancelled or is late. Called with the lock held."""
        for task in self._inbox:
            self._fairness.arrived(task.order.key, (other.order.key for other in self._tasks.values()))
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

    def _ready(self) -> list[_Task]:
        """Jobs whose engine is here; those whose engine is not are asked for. Called with the lock held."""
        ready: list[_Task] = []
        for task in list(self._tasks.values()):
            if task.engine is None:
                if self._draining:
                    continue
                try:
                    task.engine = self.pool.take(task.key)
                except Exception as error:  # whatever loading raised is this job's answer
                    self._end(task, failure_of(error))
                    continue
            if task.engine is not None and (task.begun or not self._draining):
                ready.append(task)
        return ready

    def _turn(self) -> None:
        """One call of a denoiser."""
        with self._changed:
            ready = self._ready()
        ranked = sorted(ready, key=self._rank)
        begun = sum(len(task.begun) for task in ready)
        group: list[_Sampled] = []
        behind: list[_Sampled] = []
        most = 1
        for task in ranked:
            if group and (task.pace != group[0].task.pace or len(group) >= most):
                continue
            for one in [*task.begun.values(), *(() if self._draining else task.waiting)]:
                if group and len(group) >= most:
                    break
                if isinstance(one, int):
                    if begun >= MOST_BEGUN and group:
                        break
                    sampled = self._begin(task, one)
                    if sampled is None:
                        break
                    one, begun = sampled, begun + 1
                if not group:
                    most = self.batch if self.always else self.costs.best(one.bucket, self.batch)
                if not group or one.bucket == group[0].bucket:
                    group.append(one)
                elif one.asked.step == one.asked.steps - 1:
                    behind.append(one)  # one step of an earlier level, and it can go along
        group, behind = self._counted(group), [one for one in behind if len(group) < most]
        for bucket in dict.fromkeys(one.bucket for one in behind):
            self._step(bucket, [one for one in behind if one.bucket == bucket])
        if group:
            self._step(group[0].bucket, group)

    def _counted(self, group: list[_Sampled]) -> list[_Sampled]:
        """As many as a call was measured with, or is to be: 1, 2, 4 ..."""
        if self.always or not group:
            return group
        count = 1 << (len(group).bit_length() - 1)
        return group[: min(count, self.costs.best(group[0].bucket, count))]

    def _begin(self, task: _Task, place: int) -> _Sampled | None:
        """The first question of a picture; None where the job ended instead."""
        engine = task.engine
        assert engine is not None
        try:
            if task.prepared is None:
                request = task.order.request(self.source.inputs(task.order.id))
                # What is said of a drawing is said to whoever asked for it.
                with speaking(str(task.order.note.get(LANGUAGE) or language())):
                    task.prepared = engine.prepare(request)
                task.steps = steps_of(engine, task.prepared)
                self.listener.began(task.order.id)
            loop = engine.loop(task.prepared, place)
            with engine.working():
                asked = next(loop)
        except Exception as error:
            self._end(task, failure_of(error))
            return None
        sampled = _Sampled(task, place, loop, asked)
        task.begun[place] = sampled
        return sampled

    def _step(self, bucket: Any, group: Sequence[_Sampled]) -> None:
        engine = group[0].task.engine
        assert engine is not None
        began = time.perf_counter()
        try:
            with engine.working():
                outputs: list[torch.Tensor] = engine.denoise([one.asked for one in group])
        except Exception as error:
            if len(group) > 1:
                # One of them may be to blame, or all may be too many: each alone.
                for one in group:
                    self._step(bucket, [one])
                return
            self._end(group[0].task, failure_of(error))
            return
        seconds = time.perf_counter() - began
        self._busy["denoiser"] += seconds
        self._busy["calls"] += 1
        self._busy["rows"] += len(group)
        self.costs.learn(bucket, len(group), seconds)
        if len(group) == 1:
            self._fairness.learn(group[0].task.pace, seconds)
        for one, output in zip(group, outputs, strict=True):
            self._fairness.charge(one.task.order.key, seconds / len(group))
            one.seconds += seconds / len(group)
            if one.task.order.id in self._tasks:
                self._advance(engine, one, output)

    def _advance(self, engine: Engine, one: _Sampled, output: torch.Tensor) -> None:
        task, asked = one.task, one.asked
        began = time.perf_counter()
        drawn: Picture | None = None
        shown: Image.Image | None = None
        try:
            with engine.working():
                if one.done + 1 in _preview_steps(task.order.previews, task.steps):
                    shown = preview(engine.system, asked, output)
                one.asked = one.loop.send(output)
        except StopIteration as stop:
            try:
                drawn = finished(engine, stop.value, task.prepared.request) if task.prepared else stop.value
            except Exception as error:
                self._end(task, failure_of(error))
                return
        except Exception as error:
            self._end(task, failure_of(error))
            return
        one.done += 1
        one.seconds += time.perf_counter() - began
        self.listener.stepped(task.order.id, one.place, one.done, task.steps, shown)
        if drawn is not None:
            del task.begun[one.place]
            task.drawn.add(one.place)
            self.listener.drew(task.order.id, _timed(drawn, one.seconds))
            if not task.begun and not task.waiting:
                self._end(task, None)

    def _end(self, task: _Task, failure: Failure | None) -> None:
        with self._changed:
            if self._tasks.pop(task.order.id, None) is None:
                return
        for one in task.begun.values():
            one.loop.close()
        task.begun.clear()
        if task.engine is not None:
            if not any(other.key == task.key for other in self._tasks.values()):
                task.engine.rest()
            self.pool.give_back(task.key)
        self.listener.ended(task.order.id, failure)

    def _fail_all(self, failure: Failure) -> None:
        for task in list(self._tasks.values()):
            self._end(task, failure)

    def _rank(self, task: _Task) -> tuple[float, float, float]:
        return self._fairness.rank(task.order, self._seconds_left(task))

    def _seconds_left(self, task: _Task) -> float:
        return self._fairness.seconds(task.pace, task.order, task.steps_left())


def steps_of(engine: Engine, prepared: Prepared) -> int:
    """Calls of the denoiser that a picture takes: those of every level. Of samplers with more calls than steps, and of
    image to image with fewer, it is what the request says.
    """
    return calls(engine.system, prepared.request)


def _preview_steps(count: int, steps: int) -> set[int]:
    """Of how many steps a picture is to be shown, ``count`` times on the way."""
    return {max(1, round(steps * place / (count + 1))) for place in range(1, count + 1)} if count else set()


def _timed(picture: Picture, seconds: float) -> Picture:
    return replace(picture, seconds=seconds)
