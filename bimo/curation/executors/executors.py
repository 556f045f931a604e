"""Who does the jobs of a run: this process, processes of this machine, or a Ray cluster. All answer the same.

A worker that is killed (the system does so when memory runs out) costs the job it was at: the job is given out again,
then in halves, down to what cannot be halved, which is reported as lost.
"""

from __future__ import annotations

import contextlib
import logging
import os
import pickle
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing import connection, get_context, parent_process
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from bimo.core.errors import BimoError, DataError

if TYPE_CHECKING:
    from multiprocessing.connection import Connection
    from multiprocessing.process import BaseProcess

#: How often a job is given out before it is halved.
ATTEMPTS = 2

Task = Callable[[Any], Any]


class Halvable(Protocol):
    """A job that can be done in two parts."""

    def halves(self) -> tuple[Any, Any] | None:
        """The two parts, None where there is but one row."""
        ...


class Executor(Protocol):
    """Does jobs, in any order; the task is a plain callable that can be pickled. ``killed`` counts the processes that
    the system ended while they were at one.
    """

    killed: int

    def begin(self) -> None:
        """Jobs will come: what takes a while to start may start now."""
        ...

    def answers(self, task: Task, jobs: Iterable[Any]) -> Iterator[tuple[Any, Any]]:
        """(job, answer) as they are finished. Raises what the task raises."""
        ...

    def close(self) -> None:
        """Ends the workers."""
        ...


class SerialExecutor:
    """Does jobs in this process, in their order."""

    killed = 0

    def begin(self) -> None:
        """Nothing is to start."""

    def answers(self, task: Task, jobs: Iterable[Any]) -> Iterator[tuple[Any, Any]]:
        """(job, answer) of every job."""
        for job in jobs:
            yield job, task(job)

    def close(self) -> None:
        """Nothing is to end."""


def cores() -> int:
    """How many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass
class Worker:
    """One process and the pipe to it; ``job`` is what it is at, ``task`` the number of the task it knows."""

    process: BaseProcess
    pipe: Connection
    job: Any = None
    busy: bool = False
    task: int = -1


@dataclass
class ProcessExecutor:
    """Does jobs in ``count`` processes of this machine. ``files`` are modules of the user's, (name, path), that a
    worker loads before anything else.
    """

    count: int
    files: tuple[tuple[str, str], ...] = ()
    killed: int = 0
    _workers: list[Worker] = field(default_factory=list["Worker"])
    _tasks: int = 0

    def begin(self) -> None:
        """Starts the processes, which load what they need while the parent still reads."""
        while len(self._workers) < self.count:
            self._start()

    def answers(self, task: Task, jobs: Iterable[Any]) -> Iterator[tuple[Any, Any]]:
        """(job, answer) as they are finished. A job lost twice is halved; a lost row is given to ``task.lost``.

        Raises what the task raises, and DataError where workers keep dying over a job that cannot be halved.
        """
        self._tasks += 1
        waiting, again, deaths, parts = iter(jobs), deque[Any](), dict[Any, int](), set[Any]()
        try:
            while True:
                self._deal(task, waiting, again)
                working = [worker for worker in self._workers if worker.busy]
                if not working:
                    return
                ready = connection.wait([w.pipe for w in working] + [w.process.sentinel for w in working])
                for worker in working:
                    if worker.pipe in ready or worker.process.sentinel in ready:
                        yield from self._heard(worker, task, again, deaths, parts)
        except BaseException:
            self.close()
            raise

    def _deal(self, task: Task, waiting: Iterator[Any], again: deque[Any]) -> None:
        """Gives every idle worker a job, starting workers as long as there are jobs for them."""
        idle = deque(worker for worker in self._workers if not worker.busy)
        while idle or len(self._workers) < self.count:
            job = again.popleft() if again else next(waiting, None)
            if job is None:
                return
            worker = idle.popleft() if idle else self._start()
            worker.busy, worker.job = True, job
            # A worker that died while idle is found by its sentinel.
            with contextlib.suppress(OSError):
                if worker.task != self._tasks:
                    worker.pipe.send(("task", task))
                    worker.task = self._tasks
                worker.pipe.send(("job", job))

    def _start(self) -> Worker:
        context = get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=_serve, args=(theirs, self.files), daemon=True)
        process.start()
        theirs.close()
        worker = Worker(process, ours)
        self._workers.append(worker)
        return worker

    def _heard(
        self, worker: Worker, task: Task, again: deque[Any], deaths: dict[Any, int], parts: set[Any]
    ) -> Iterator[tuple[Any, Any]]:
        kind: str
        value: Any
        try:
            kind, value = worker.pipe.recv() if worker.pipe.poll() else ("dead", None)
        except (EOFError, OSError):
            kind, value = "dead", None
        job, worker.busy = worker.job, False
        if kind == "done":
            yield job, value
        elif kind == "raised":
            raise value
        else:
            self._workers.remove(worker)
            worker.pipe.close()
            worker.process.join()
            code = worker.process.exitcode or 0
            if code >= 0:
                raise DataError(
                    "the process at {job} ended by itself (status {code}); see above for why", job=job, code=code
                )
            self.killed += 1
            deaths[job] = deaths.get(job, 0) + 1
            halves = job.halves() if hasattr(job, "halves") else None
            if deaths[job] < ATTEMPTS and not (halves and job in parts):
                again.append(job)
            elif halves is not None:
                # Something in here kills: what is left to know is what, so that each part has one try.
                again.extend(halves)
                parts.update(halves)
            elif hasattr(task, "lost"):
                yield job, task.lost(job)  # type: ignore[attr-defined]
            else:
                raise DataError(
                    "the process at {job} was killed {attempts} times (status {code}), most likely for memory; run "
                    "the same command again with fewer processes (--workers)",
                    job=job,
                    attempts=ATTEMPTS,
                    code=code,
                )

    def close(self) -> None:
        """Ends the processes at once: what they were writing is not there yet, or there whole."""
        for worker in self._workers:
            worker.process.kill()
        for worker in self._workers:
            worker.process.join()
            worker.process.close()
            worker.pipe.close()
        self._workers.clear()


def _serve(pipe: Connection, files: Sequence[tuple[str, str]]) -> None:
    """What a worker process does: jobs as they come, until the pipe closes or the parent is gone."""
    # Processes of one machine divide its cores among them: each keeps to one.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    threading.Thread(target=_follow_parent, daemon=True).start()
    _prepare()
    task: Task | None = None
    loaded = False
    # The parent went: so do we, without a word.
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError, KeyboardInterrupt):
        while True:
            try:
                # What is sent may be of a module that is found only once its file is loaded.
                loaded = loaded or _loaded(files)
                kind, value = pipe.recv()
                if kind == "task":
                    task = value
                    continue
                assert task is not None
                answer = "done", task(value)
            except (EOFError, ConnectionResetError):
                raise
            # Whatever else a job raises belongs to the parent, who is told.
            except Exception as error:
                answer = "raised", _sendable(error)
            pipe.send(answer)


def _prepare() -> None:
    """Imports what nearly every job needs; where it is missing, the job that needs it says so."""
    with contextlib.suppress(ImportError):
        from PIL import Image

        from bimo.curation.phases.store import begin_arrow

        Image.preinit()
        begin_arrow()


def _loaded(files: Sequence[tuple[str, str]]) -> bool:
    for name, path in files:
        load_file(name, Path(path))
    return True


def _follow_parent() -> None:
    """Ends this process with its parent, also when that is killed: no worker of an old run writes beside a new one."""
    parent = parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)


def _sendable(error: Exception) -> Exception:
    if isinstance(error, (BimoError, OSError, ModuleNotFoundError)):
        return error
    return RuntimeError("".join(traceback.format_exception(error)))


def load_file(name: str, path: Path) -> Any:
    """A Python file of the user's as the module of a name, in ``sys.modules``, so that what it defines pickles."""
    import importlib.util
    import sys

    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise DataError("{path} is not a Python file", path=path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


class RayExecutor:
    """Does jobs on a Ray cluster, through Ray Data, which gives out again what a lost node was at.

    Source and output must lie where every node sees them. ``address`` is that of a cluster, empty for the one that
    RAY_ADDRESS names or this machine.
    """

    def __init__(self, address: str = "", files: tuple[tuple[str, str], ...] = ()) -> None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        import ray

        self.began = not ray.is_initialized()
        if self.began:
            settings = {"log_to_driver": False, "logging_level": logging.ERROR, "include_dashboard": False}
            try:
                ray.init(address=address or None, **settings)
            # Each is told in its own way: no cluster, one that wants a token, one of another release.
            except (OSError, RuntimeError, ValueError) as error:
                where = address or os.environ.get("RAY_ADDRESS", "")
                told = _last_line(error)
                raise DataError(
                    "the Ray cluster {where} cannot be joined: {told}. Look at RAY_ADDRESS; a cluster that wants a "
                    "token needs RAY_AUTH_MODE=token as well",
                    where=where,
                    told=told,
                ) from None
        self.files = files
        self.killed = 0

    def begin(self) -> None:
        """The nodes are there already."""

    def answers(self, task: Task, jobs: Iterable[Any]) -> Iterator[tuple[Any, Any]]:
        """(job, answer) as they are finished. Raises DataError that quotes what the task raised."""
        import ray
        from ray.data import DataContext
        from ray.exceptions import RayError

        every = list(jobs)
        if not every:
            return
        context = DataContext.get_current()
        context.enable_progress_bars = False
        logging.getLogger("ray.data").setLevel(logging.WARNING)
        items = [{"job": pickle.dumps(job)} for job in every]
        # Sent as bytes: what is of a file of the user's is known on a node only once the file is loaded there.
        work = _OnNode(ray.put(pickle.dumps(task)), self.files)
        # What a lost node was at is given out again without end; that is Ray Data's own rule.
        data = ray.data.from_items(items, override_num_blocks=len(items)).map(work)
        try:
            for row in data.iter_rows():
                self.killed += row["killed"]
                yield from pickle.loads(row["answers"])
        except RayError as error:
            raise _told(error) from None

    def close(self) -> None:
        """Leaves the cluster, if it was joined for this run."""
        import ray

        if self.began:
            ray.shutdown()


#: The one process that a worker of Ray's has its jobs done by: where that is killed, it is known what it was at.
_inner: dict[tuple[tuple[str, str], ...], ProcessExecutor] = {}


@dataclass
class _OnNode:
    task: Any
    files: tuple[tuple[str, str], ...]

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        import ray

        _loaded(self.files)
        crew = _inner.setdefault(self.files, ProcessExecutor(1, self.files))
        before = crew.killed
        answers = list(crew.answers(pickle.loads(ray.get(self.task)), [pickle.loads(row["job"])]))
        return {"killed": crew.killed - before, "answers": pickle.dumps(answers)}


def _told(error: BaseException) -> BimoError:
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, BimoError):
            return DataError(cause.message)
        cause = getattr(cause, "cause", None) or cause.__cause__
    last = _last_line(error)
    return DataError("a task on the cluster failed: {last}", last=last)


def _last_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[-1]
