"""What executes the jobs of a run. Every executor gives the same results; they differ in where the jobs run."""

from __future__ import annotations

import importlib.util
import os
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from bimo.core.errors import DataError

Task = Callable[[Any], Any]


class Halvable(ABC):
    """A job that can be split in two, so that an input that crashes its worker can be narrowed down."""

    @abstractmethod
    def halves(self) -> tuple[Any, Any] | None:
        """The two halves, None of a job with a single row."""


class LossyTask(ABC):
    """A task that has a result for a row that crashed every worker that tried it."""

    @abstractmethod
    def __call__(self, job: Any) -> Any:
        """The result of a job."""

    @abstractmethod
    def lost(self, job: Any) -> Any:
        """The result of a job that cannot be executed."""


class Executor(ABC):
    """Executes jobs, in any order; the task is a callable that can be pickled. ``killed`` counts the worker processes
    that the system killed while they executed a job.
    """

    killed: int = 0

    def begin(self) -> None:
        """Starts the workers, before there are jobs."""
        return

    @abstractmethod
    def answers(self, task: Task, jobs: Iterable[Any]) -> Iterator[tuple[Any, Any]]:
        """(job, result) of every job, as they finish. Raises what the task raises."""

    def close(self) -> None:
        """Ends the workers."""
        return


class SerialExecutor(Executor):
    """Executes jobs in this process, in order."""

    def answers(self, task: Task, jobs: Iterable[Any]) -> Iterator[tuple[Any, Any]]:
        """(job, result) of every job."""
        for job in jobs:
            yield job, task(job)


def cores() -> int:
    """How many processors this process may use."""
    # Windows and macOS have no affinity.
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def load_file(name: str, path: Path) -> Any:
    """Imports a user's Python file under a module name, in ``sys.modules``, so that what it defines can be pickled.

    Raises DataError for a file that is no Python source.
    """
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


def load_files(files: Sequence[tuple[str, str]]) -> None:
    """Imports the user's files, (module name, path), that are not imported yet."""
    for name, path in files:
        load_file(name, Path(path))
