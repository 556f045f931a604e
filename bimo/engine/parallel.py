"""Data-parallel drawing on several devices, each with a process and an engine of its own.

The processes share nothing, so each picture is the same as when its device draws alone; results come in the order of
the requests. A device, the CPU too, may be named more than once.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing.queues import Queue
from typing import Any

from bimo.core.errors import RequestError
from bimo.core.parent_process import end_with_parent
from bimo.core.picture import Picture
from bimo.engine.engine import Engine

#: Builds the engine for a device inside its process; must be a module-level function, so that it can be pickled.
Load = Callable[[str], Engine]


class _Worker:
    """State of a worker process."""

    engine: Engine | None = None


def _begin(load: Load, devices: Queue[str]) -> None:
    end_with_parent()
    _Worker.engine = load(devices.get())


def _draw(request: Mapping[str, Any]) -> list[Picture]:
    assert _Worker.engine is not None
    return _Worker.engine.draw(request)


class ParallelEngines:
    """Engines in worker processes; made by ``parallel``."""

    def __init__(self, pool: ProcessPoolExecutor) -> None:
        self._pool = pool

    def draw(self, requests: Sequence[Mapping[str, Any]]) -> Iterator[list[Picture]]:
        """The pictures of each request, in the order of the requests. Raises what a drawing raises, and RequestError
        where a process has ended.
        """
        try:
            yield from self._pool.map(_draw, requests)
        except BrokenProcessPool:
            raise RequestError(
                "a process that draws on one of the devices has ended (out of memory most often); name fewer devices, "
                "or a smaller --memory"
            ) from None


@contextmanager
def parallel(load: Load, devices: Sequence[str]) -> Generator[ParallelEngines]:
    """Runs ``load`` in one process per device ("cuda:0", "cuda:1"); the processes end with the context. Raises
    RequestError if no device is given.
    """
    if not devices:
        raise RequestError("no device to draw on; name some, for instance cuda:0 and cuda:1")
    # CUDA cannot be used in a forked process.
    context = multiprocessing.get_context("spawn")
    names: Any = context.Queue()
    for device in devices:
        names.put(device)
    with ProcessPoolExecutor(len(devices), context, _begin, (load, names)) as pool:
        yield ParallelEngines(pool)
