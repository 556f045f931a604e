"""A Ray cluster."""

# Ray has no types; what crosses it here is named where it is kept.
# pyright: reportUnknownArgumentType=false, reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

import logging
import os
import pickle
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from bimo.core.errors import BimoError, DataError
from bimo.curation.executors.executor import Executor, Task, load_files
from bimo.curation.executors.processes import ProcessExecutor


class RayExecutor(Executor):
    """Executes jobs on a Ray cluster, through Ray Data, which tries the jobs of a lost node again elsewhere.

    Source and output must be on storage that every node mounts. ``address`` is the cluster's, empty for the one that
    RAY_ADDRESS names or for this machine. Raises DataError for a cluster that cannot be joined.
    """

    def __init__(self, address: str = "", files: tuple[tuple[str, str], ...] = ()) -> None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        import ray

        self.joined = not ray.is_initialized()
        if self.joined:
            settings: dict[str, Any] = {"log_to_driver": False, "include_dashboard": False}
            settings["logging_level"] = logging.ERROR
            try:
                ray.init(address=address or None, **settings)
            # No cluster there, one that wants a token, one of another release: each raises its own type.
            except (OSError, RuntimeError, ValueError) as error:
                where = address or os.environ.get("RAY_ADDRESS", "")
                raise DataError(
                    "the Ray cluster {where} cannot be joined: {told}. Look at RAY_ADDRESS; a cluster that wants a "
                    "token needs RAY_AUTH_MODE=token as well",
                    where=where,
                    told=_last_line(error),
                ) from None
        self.files = files

    def answers(self, task: Task, jobs: Iterable[Any]) -> Iterator[tuple[Any, Any]]:
        """(job, result) as they finish. Raises DataError that quotes what the task raised."""
        import ray
        from ray.data import DataContext
        from ray.exceptions import RayError

        all_jobs = list(jobs)
        if not all_jobs:
            return
        context = DataContext.get_current()
        context.enable_progress_bars = False
        logging.getLogger("ray.data").setLevel(logging.WARNING)
        items = [{"job": pickle.dumps(job)} for job in all_jobs]
        # Sent as bytes: a node can unpickle what a user's file defines only after it has imported that file.
        work = _OnNode(ray.put(pickle.dumps(task)), self.files)
        # Ray Data tries the jobs of lost nodes again without limit.
        data = ray.data.from_items(items, override_num_blocks=len(items)).map(work)
        try:
            for row in data.iter_rows():
                self.killed += row["killed"]
                yield from pickle.loads(row["answers"])
        except RayError as error:
            raise _as_data_error(error) from None

    def close(self) -> None:
        """Leaves the cluster, where it was joined for this run."""
        import ray

        if self.joined:
            ray.shutdown()


#: Each Ray worker executes its jobs in one process of its own: when that is killed, it is known by which job.
_process: dict[tuple[tuple[str, str], ...], ProcessExecutor] = {}


@dataclass
class _OnNode:
    task: Any
    files: tuple[tuple[str, str], ...]

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        import ray

        load_files(self.files)
        executor = _process.setdefault(self.files, ProcessExecutor(1, self.files))
        before = executor.killed
        answers = list(executor.answers(pickle.loads(ray.get(self.task)), [pickle.loads(row["job"])]))
        return {"killed": executor.killed - before, "answers": pickle.dumps(answers)}


def _as_data_error(error: BaseException) -> BimoError:
    from ray.exceptions import RayTaskError

    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, BimoError):
            return DataError(cause.message)
        cause = cause.cause if isinstance(cause, RayTaskError) and cause.cause else cause.__cause__
    last = _last_line(error)
    return DataError("a task on the cluster failed: {last}", last=last)


def _last_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[-1]
