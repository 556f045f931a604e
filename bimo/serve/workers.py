"""Worker processes with engines of their own: one for each card, or for each group of CPU cores.

A process that dies is restarted, and its jobs go back to the queue. A process whose server is gone exits.
"""

from __future__ import annotations

import atexit
import io
import itertools
import logging
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from typing import TYPE_CHECKING, Any, Protocol

import torch

from bimo.core.messages import Both
from bimo.core.picture import Picture
from bimo.engine.memory import bytes_of
from bimo.serve.dispatcher import (
    Began,
    Dispatcher,
    Drew,
    Ended,
    Handed,
    Lost,
    OnWorkerEvent,
    Stepped,
    WorkerEvent,
    Workers,
)
from bimo.serve.executor import Executor, Listener, Source, idle
from bimo.serve.jobs import Failure
from bimo.serve.pool import EngineKey, EnginePool, pool_of
from bimo.serve.scheduler import Scheduler
from bimo.serve.settings import ServeSettings

if TYPE_CHECKING:
    from PIL import Image

#: Jobs that a CPU process has at a time: enough to have the next one ready, few enough to lose little if it dies. A
#: card gets as many as share a batch.
ROOM = 4
#: Seconds until a process that died before it was ready is restarted: at first, and at most.
FIRST_WAIT, LONGEST_WAIT = 0.5, 30.0
#: Seconds that a process has to exit, in addition to those for drawing.
GRACE = 5.0
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Seat:
    """The device and the CPU cores of a process; no cores means all."""

    device: str
    cores: tuple[int, ...] = ()


def seats(count: int, device: str) -> list[Seat]:
    """Seats for so many processes: cards in turn for "auto" and "cuda" if there are any, else groups of CPU cores."""
    if device in ("auto", "cuda") and (cards := torch.cuda.device_count()):
        return [Seat(f"cuda:{number % cards}") for number in range(count)]
    if device not in ("auto", "cpu"):
        return [Seat(device)] * count
    cores = sorted(os.sched_getaffinity(0)) if sys.platform == "linux" else []
    if len(cores) < count:
        return [Seat("cpu", (cores[number % len(cores)],) if cores else ()) for number in range(count)]
    bounds = [len(cores) * number // count for number in range(count + 1)]
    return [Seat("cpu", tuple(cores[low:high])) for low, high in itertools.pairwise(bounds)]


def process_executor(count: int) -> Callable[[EnginePool, Source, Listener, ServeSettings], Executor]:
    """A factory of executors that draw in ``count`` processes."""

    def build(pool: EnginePool, source: Source, listener: Listener, settings: ServeSettings) -> Executor:
        return Dispatcher(ProcessWorkers(settings, seats(count, settings.load_options.device)), source, listener)

    return build


@dataclass(frozen=True)
class _Cancel:
    job: str
    failure: Failure


@dataclass(frozen=True)
class _Skip:
    job: str
    failure: Failure | None


@dataclass(frozen=True)
class _Stop:
    seconds: float


@dataclass(frozen=True)
class _Ready:
    """The process has loaded its first model."""


@dataclass(frozen=True)
class _Busy:
    numbers: dict[str, float]


class Sender(Protocol):
    """The channel of events: a pipe, or the calls of a replica."""

    def send(self, message: Any, /) -> None:
        """Sends a message."""
        ...


class Reporter:
    """Sends the events of this process to the server; exits if the server is gone."""

    def __init__(self, connection: Sender) -> None:
        self._connection, self._lock = connection, threading.Lock()
        self.pictures: dict[str, dict[str, bytes]] = {}
        self.busy: Callable[[], dict[str, float]] = dict

    def send(self, message: Any) -> None:
        try:
            with self._lock:
                self._connection.send(message)
        except OSError:
            os._exit(1)

    def inputs(self, job: str) -> dict[str, bytes]:
        return self.pictures[job]

    def began(self, job: str) -> None:
        self.send((job, Began()))

    def stepped(self, job: str, place: int, done: int, steps: int, preview: Image.Image | None) -> None:
        png = None
        if preview is not None:
            buffer = io.BytesIO()
            preview.save(buffer, "PNG")
            png = buffer.getvalue()
        self.send((job, Stepped(place, done, steps, png)))

    def drew(self, job: str, picture: Picture) -> None:
        self.send((job, Drew(picture)))

    def ended(self, job: str, failure: Failure | None) -> None:
        self.pictures.pop(job, None)
        self.send(_Busy(self.busy()))
        if failure is not None:
            # As text, since the values of a message, such as an exception, may not be picklable.
            failure = replace(failure, message=Both(failure.said("zh"), failure.said("en")))
        self.send((job, Ended(failure)))


def _work(connection: Connection, settings: ServeSettings, cores: tuple[int, ...]) -> None:
    """The main function of a worker process."""
    # Ctrl-C and systemd signal every process of a service; only the server decides when its workers exit.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    if cores and sys.platform == "linux":
        os.sched_setaffinity(0, cores)
        torch.set_num_threads(max(1, min(len(cores), torch.get_num_threads())))
    reporter = Reporter(connection)
    pool = pool_of(settings)
    pool.load_now(EngineKey(pool.default))
    scheduler = Scheduler(pool, reporter, reporter, batch=settings.batch)
    reporter.busy = lambda: scheduler.busy
    scheduler.start()
    reporter.send(_Ready())
    while True:
        try:
            message: Handed | _Cancel | _Skip | _Stop = connection.recv()
        except (EOFError, OSError):
            os._exit(1)
        match message:
            case Handed(order, pictures, done):
                reporter.pictures[order.id] = pictures
                scheduler.submit(order, done)
            case _Cancel(job, failure):
                scheduler.cancel(job, failure)
            case _Skip(job, failure):
                scheduler.skip(job, failure)
            case _Stop(seconds):
                scheduler.stop(drain=True, seconds=seconds)
                pool.close()
                return


class _Worker:
    """A seat and its process, which is restarted whenever it dies."""

    def __init__(self, name: str, settings: ServeSettings, seat: Seat, room: int) -> None:
        self.settings = replace(settings, load_options=replace(settings.load_options, device=seat.device))
        self.seat, self.room = seat, room
        self.jobs: set[str] = set()
        self.ready = False
        self.process: SpawnProcess | None = None
        #: Busy numbers of earlier processes, and of the current one.
        self.before: dict[str, float] = {}
        self.numbers: dict[str, float] = {}
        self._connection: Connection | None = None
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self, tell: OnWorkerEvent, free: Callable[[], None]) -> None:
        self._tell, self._free = tell, free
        self._thread.start()

    def send(self, message: Handed | _Cancel | _Skip | _Stop, job: str = "") -> bool:
        """Sends a message to the process; False if there is none, or it has no room for another job."""
        with self._lock:
            taking = self.ready and not self._stopping.is_set()
            if self._connection is None or (job and not (taking and len(self.jobs) < self.room)):
                return False
            try:
                self._connection.send(message)
            except OSError:
                return False
            if job:
                self.jobs.add(job)
            return True

    def stop(self, seconds: float) -> None:
        """Tells the process to exit after the jobs it has started."""
        self._stopping.set()
        self.send(_Stop(seconds))

    def join(self, seconds: float) -> None:
        """Waits for the process, and kills it after ``seconds``."""
        self._thread.join(seconds)
        if self._thread.is_alive() and self.process is not None:
            self.process.kill()
        self._thread.join()

    def _run(self) -> None:
        wait = FIRST_WAIT
        while not self._stopping.is_set():
            was_ready = self._lived()
            if self._stopping.is_set():
                return
            wait = FIRST_WAIT if was_ready else min(LONGEST_WAIT, wait * 2)
            self._stopping.wait(0 if was_ready else wait)

    def _lived(self) -> bool:
        """Runs one process until it exits; returns whether it became ready."""
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=_work, args=(theirs, self.settings, self.seat.cores), daemon=True)
        process.start()
        theirs.close()
        with self._lock:
            self.process, self._connection = process, ours
        if self._stopping.is_set():  # stop() came before there was a process to tell
            process.kill()
        self._hear(ours)
        process.join(GRACE)
        process.kill()
        process.join()
        with self._lock:
            was_ready, self.ready, self._connection = self.ready, False, None
            lost, self.jobs = self.jobs, set[str]()
            self.before = {name: self.before.get(name, 0.0) + value for name, value in self.numbers.items()}
            self.numbers = {}
        ours.close()
        if not self._stopping.is_set():
            _log.warning("a process that draws ended with status %s; another is begun", process.exitcode)
        for job in lost:
            self._tell(job, Lost())
        return was_ready

    def _hear(self, connection: Connection) -> None:
        while True:
            try:
                message: _Ready | _Busy | tuple[str, WorkerEvent] = connection.recv()
            except (EOFError, OSError):
                return
            match message:
                case _Ready():
                    with self._lock:
                        self.ready = True
                    self._free()
                case _Busy(numbers):
                    self.numbers = numbers
                case (job, event):
                    if isinstance(event, Ended):
                        with self._lock:
                            self.jobs.discard(job)
                    self._tell(job, event)
                    if isinstance(event, Ended):
                        self._free()


class ProcessWorkers(Workers):
    """One process for each seat. They share the memory limit of the settings equally."""

    def __init__(self, settings: ServeSettings, seats: Sequence[Seat]) -> None:
        memory = settings.load_options.memory and f"{bytes_of(settings.load_options.memory) // len(seats)}B"
        worker_settings = replace(settings, load_options=replace(settings.load_options, memory=memory))
        self.workers = [
            _Worker(f"bimo-worker-{number}", worker_settings, seat, ROOM if seat.device == "cpu" else settings.batch)
            for number, seat in enumerate(seats)
        ]

    def start(self, tell: OnWorkerEvent, free: Callable[[], None]) -> None:
        """Starts the processes; each takes jobs once it has loaded its model."""
        # Runs before multiprocessing's own exit handler, which would wait for the processes forever.
        atexit.register(self.stop, 0.0)
        for worker in self.workers:
            worker.start(tell, free)

    def give(self, job: Handed) -> bool:
        """Sends a job to the process with the fewest jobs."""
        ranked = sorted(self.workers, key=lambda worker: len(worker.jobs))
        return any(worker.send(job, job.order.id) for worker in ranked)

    def cancel(self, job: str, failure: Failure) -> None:
        """Cancels a job in the process that has it."""
        self._send(job, _Cancel(job, failure))

    def skip(self, job: str, failure: Failure | None) -> None:
        """Ends the started pictures of a job in the process that has it."""
        self._send(job, _Skip(job, failure))

    def _send(self, job: str, message: _Cancel | _Skip) -> None:
        for worker in self.workers:
            if job in worker.jobs:
                worker.send(message)

    def stop(self, seconds: float) -> None:
        """Stops all processes."""
        atexit.unregister(self.stop)
        for worker in self.workers:
            worker.stop(seconds)
        for worker in self.workers:
            worker.join(seconds + GRACE)

    def processes(self) -> list[int]:
        """The process ids of ready workers."""
        return [w.process.pid for w in self.workers if w.ready and w.process is not None and w.process.pid is not None]

    def busy(self) -> dict[str, float]:
        """The sums over all processes, including those that died."""
        sums = idle()
        for worker in self.workers:
            for numbers in (worker.before, worker.numbers):
                for name, value in numbers.items():
                    sums[name] += value
        return sums
