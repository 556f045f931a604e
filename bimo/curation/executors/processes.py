"""Worker processes on this machine."""

from __future__ import annotations

import contextlib
import os
import traceback
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing import connection, get_context
from typing import TYPE_CHECKING, Any

from bimo.core.errors import BimoError, DataError
from bimo.core.parent_process import end_with_parent
from bimo.curation.executors.executor import Executor, Halvable, LossyTask, Task, load_files

if TYPE_CHECKING:
    from multiprocessing.connection import Connection
    from multiprocessing.process import BaseProcess

#: How often a job is tried before it is halved.
ATTEMPTS = 2


@dataclass
class Worker:
    """A process and the pipe to it; ``job`` is what it executes, ``task`` the number of the last task it was sent."""

    process: BaseProcess
    pipe: Connection
    job: Any = None
    busy: bool = False
    task: int = -1


@dataclass
class ProcessExecutor(Executor):
    """Executes jobs in ``count`` processes on this machine. ``files`` are the user's modules, (name, path), which a
    worker imports before anything else.

    A worker may be killed, as the system does when memory runs out. Its job is then tried again, then in halves, down
    to a single row, which is reported as lost.
    """

    count: int
    files: tuple[tuple[str, str], ...] = ()
    killed: int = 0
    _workers: list[Worker] = field(default_factory=list["Worker"])
    _tasks: int = 0

    def begin(self) -> None:
        """Starts the processes, which import what they need while the parent still reads the source."""
        while len(self._workers) < self.count:
            self._start()

    def answers(self, task: Task, jobs: Iterable[Any]) -> Iterator[tuple[Any, Any]]:
        """(job, result) as they finish. A job lost ``ATTEMPTS`` times is halved; a lost row gets ``LossyTask.lost``.

        Raises what the task raises, and DataError where workers keep dying over a job that cannot be halved.
        """
        self._tasks += 1
        pending, retries, deaths, parts = iter(jobs), deque[Any](), dict[Any, int](), set[Any]()
        try:
            while True:
                self._assign(task, pending, retries)
                busy = [worker for worker in self._workers if worker.busy]
                if not busy:
                    return
                ready = connection.wait([w.pipe for w in busy] + [w.process.sentinel for w in busy])
                for worker in busy:
                    if worker.pipe in ready or worker.process.sentinel in ready:
                        yield from self._receive(worker, task, retries, deaths, parts)
        except BaseException:
            self.close()
            raise

    def _assign(self, task: Task, pending: Iterator[Any], retries: deque[Any]) -> None:
        """Sends every idle worker a job; starts workers as long as there are jobs for them."""
        idle = deque(worker for worker in self._workers if not worker.busy)
        while idle or len(self._workers) < self.count:
            job = retries.popleft() if retries else next(pending, None)
            if job is None:
                return
            worker = idle.popleft() if idle else self._start()
            worker.busy, worker.job = True, job
            # Of a worker that died while idle the sentinel tells.
            with contextlib.suppress(OSError):
                if worker.task != self._tasks:
                    worker.pipe.send(("task", task))
                    worker.task = self._tasks
                worker.pipe.send(("job", job))

    def _start(self) -> Worker:
        context = get_context("spawn")
        own_end, worker_end = context.Pipe()
        process = context.Process(target=_serve, args=(worker_end, self.files), daemon=True)
        process.start()
        worker_end.close()
        worker = Worker(process, own_end)
        self._workers.append(worker)
        return worker

    def _receive(
        self, worker: Worker, task: Task, retries: deque[Any], deaths: dict[Any, int], parts: set[Any]
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
            halves = job.halves() if isinstance(job, Halvable) else None
            if deaths[job] < ATTEMPTS and not (halves and job in parts):
                retries.append(job)
            elif halves is not None:
                # Some row of this job kills its worker. Each half is tried once, to find out which.
                retries.extend(halves)
                parts.update(halves)
            elif isinstance(task, LossyTask):
                yield job, task.lost(job)
            else:
                raise DataError(
                    "the process at {job} was killed {attempts} times (status {code}), most likely for memory; run "
                    "the same command again with fewer processes (--workers)",
                    job=job,
                    attempts=ATTEMPTS,
                    code=code,
                )

    def close(self) -> None:
        """Kills the processes: a file is written whole or not at all, so nothing half-written stays."""
        for worker in self._workers:
            worker.process.kill()
        for worker in self._workers:
            worker.process.join()
            worker.process.close()
            worker.pipe.close()
        self._workers.clear()


def _serve(pipe: Connection, files: Sequence[tuple[str, str]]) -> None:
    """Executes jobs as they arrive, until the pipe closes or the parent process ends."""
    # The processes share the cores of the machine, one each.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    end_with_parent()
    _prepare()
    task: Task | None = None
    imported = False
    # The parent ended: so does this process, silently.
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError, KeyboardInterrupt):
        while True:
            try:
                # Unpickling may need the user's modules. An import error is the answer to the first job.
                if not imported:
                    load_files(files)
                    imported = True
                kind, value = pipe.recv()
                if kind == "task":
                    task = value
                    continue
                assert task is not None
                message = "done", task(value)
            except (EOFError, ConnectionResetError):
                raise
            # Whatever else a job raises is raised in the parent.
            except Exception as error:
                message = "raised", _sendable(error)
            pipe.send(message)


def _prepare() -> None:
    """Imports what nearly every job needs; where it is not installed, the job that needs it says so."""
    with contextlib.suppress(ImportError):
        from PIL import Image

        from bimo.curation.phases.store import begin_arrow

        Image.preinit()
        begin_arrow()


def _sendable(error: Exception) -> Exception:
    if isinstance(error, (BimoError, OSError, ModuleNotFoundError)):
        return error
    return RuntimeError("".join(traceback.format_exception(error)))
