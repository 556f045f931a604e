"""The sampling of many jobs at a time: which picture takes its next step, and which others take theirs with it.

A picture is a coroutine (`bimo.diffusion.sampling.sample`) that waits at a step; nothing but its latents is kept
meanwhile. So jobs of any steps, samplers, guidance and seeds join and leave between two steps, and one that is
cancelled, or whose client is gone, has left before the next. One thread draws.

Who is next: the key that has had the least of the machine so far (start-time fair queueing); of its jobs the highest
priority; of those the one with the least work left, each second of waiting counting as ``AGEING`` seconds less of it,
so that long ones are passed by but not for ever. Pictures of the same model, level and size share a call of the
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
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol

import torch

from bimo.core.errors import BimoError
from bimo.core.messages import Message, language, speaking
from bimo.core.picture import Picture
from bimo.core.tensors import DenoiserInput
from bimo.diffusion.sampling import Prepared, SamplingLoop
from bimo.engine.engine import Engine
from bimo.inscription.drawing import finished
from bimo.serve.jobs import LANGUAGE, Failure, Order
from bimo.serve.pool import EngineKey, EnginePool
from bimo.serve.previews import preview

if TYPE_CHECKING:
    from PIL import Image

AGEING = 0.5
#: Pictures that are begun and not ended: their latents are in memory.
MOST_BEGUN = 64
#: Calls whose seconds are remembered, of each kind.
REMEMBERED = 8
#: What a step is thought to take before one was measured, in seconds.
FIRST_GUESS = 0.1
_log = logging.getLogger(__name__)

CANCELLED = Failure("cancelled", Message("the job was cancelled"), 409)
LATE = Failure("deadline", Message("the job was not drawn by its deadline"), 504)
MEMORY = Failure("out_of_memory", Message("out of memory: draw a smaller picture"), 507)
UNEXPECTED = Failure(
    "server_error", Message("something went wrong on the server while this was drawn; its log says what")
)


class Listener(Protocol):
    """Who is told of what happens, in the thread that draws: nothing here may take long."""

    def began(self, job: str) -> None:
        """A job's first picture is begun."""
        ...

    def stepped(self, job: str, place: int, done: int, steps: int, shown: Image.Image | None) -> None:
        """``done`` of ``steps`` steps of a picture are taken; ``shown`` is what it looks like where that was wanted."""
        ...

    def drew(self, job: str, picture: Picture) -> None:
        """A picture is drawn."""
        ...

    def ended(self, job: str, failure: Failure | None) -> None:
        """A job has all of its pictures, or will have no more."""
        ...


class Source(Protocol):
    """Where the pictures lie that jobs came with."""

    def inputs(self, job: str) -> dict[str, bytes]:
        """The pictures of a job by name."""
        ...


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
        steps = self.steps or int(self.order.values.get("steps") or 20)
        return steps * (len(self.waiting) + len(self.begun)) - sum(one.done for one in self.begun.values())

    @property
    def pace(self) -> tuple[EngineKey, Any]:
        """What tasks have in common whose steps take alike."""
        return self.key, tuple(self.order.values.get("size") or ())

    def pixels(self) -> float:
        """Its size in units of 512 x 512."""
        width, height = self.order.values.get("size") or (512, 512)
        return width * height / 512**2


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


class Scheduler:
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
        #: Seconds spent in calls of denoisers, and in all: the difference is what serving costs.
        self.busy = {"denoiser": 0.0, "all": 0.0, "calls": 0.0, "rows": 0.0}
        self._inbox: list[_Task] = []
        self._ended_early: dict[str, Failure] = {}
        self._tasks: dict[str, _Task] = {}
        self._had: dict[str, float] = {}
        self._changed = threading.Condition()
        self._stopping = False
        self._draining = False
        #: Seconds of a step of one picture, by engine and size.
        self._pace: dict[tuple[EngineKey, Any], float] = {}
        pool.on_loaded = self._wake
        self._thread = threading.Thread(target=self._run, name="bimo-draw", daemon=True)

    def start(self) -> None:
        """Begins to draw."""
        self._thread.start()

    def submit(self, order: Order, done: frozenset[int] = frozenset()) -> None:
        """Takes a job on; ``done`` are the places of pictures that it has already."""
        with self._changed:
            self._inbox.append(_Task(order, EngineKey(order.model, order.loras), done=done))
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
            self.busy["all"] += time.perf_counter() - began

    def _absorb(self) -> None:
        """Takes on what came, ends what was cancelled or is late. Called with the lock held."""
        for task in self._inbox:
            if task.order.key not in {other.order.key for other in self._tasks.values()}:
                # Who was away saved nothing up.
                floor = min((self._had.get(t.order.key, 0.0) for t in self._tasks.values()), default=0.0)
                self._had[task.order.key] = max(self._had.get(task.order.key, 0.0), floor)
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
        self.busy["denoiser"] += seconds
        self.busy["calls"] += 1
        self.busy["rows"] += len(group)
        self.costs.learn(bucket, len(group), seconds)
        if len(group) == 1:
            pace = group[0].task.pace
            self._pace[pace] = 0.8 * self._pace.get(pace, seconds) + 0.2 * seconds
        for one, output in zip(group, outputs, strict=True):
            key = one.task.order.key
            self._had[key] = self._had.get(key, 0.0) + seconds / len(group)
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
        waited = time.time() - task.order.created
        return (
            self._had.get(task.order.key, 0.0),
            -task.order.priority,
            self._seconds_left(task) - AGEING * waited,
        )

    def _seconds_left(self, task: _Task) -> float:
        # Where no step of its kind was measured: its pixels at what a step of them is thought to take.
        return self._pace.get(task.pace, FIRST_GUESS * task.pixels()) * task.steps_left()


def steps_of(engine: Engine, prepared: Prepared) -> int:
    """Calls of the denoiser that a picture takes: those of every level. Of samplers with more calls than steps, and of
    image to image with fewer, it is what the request says.
    """
    *earlier, last = engine.recipe.levels
    return sum(level.steps for level in earlier) + (prepared.request.steps or last.steps)


def _preview_steps(count: int, steps: int) -> set[int]:
    """Of how many steps a picture is to be shown, ``count`` times on the way."""
    return {max(1, round(steps * place / (count + 1))) for place in range(1, count + 1)} if count else set()


def _timed(picture: Picture, seconds: float) -> Picture:
    return replace(picture, seconds=seconds)


def failure_of(error: BaseException) -> Failure:
    """What is said of an error; what nobody foresaw is logged, and its client learns that it was none of his."""
    if isinstance(error, BimoError):
        return Failure("invalid_request", error.message, 400)
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "can't allocate memory" in str(error):
        return MEMORY
    _log.error("a drawing failed: %s", "".join(traceback.format_exception(error)))
    return UNEXPECTED
