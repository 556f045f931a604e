"""Several cards: drawings side by side, each card with a process and an engine of its own.

Nothing is shared between them, so that a picture is the one that its device draws alone; the order of the requests is
kept. A device may be named twice, the processor as well.
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
from bimo.core.picture import Picture
from bimo.engine.engine import Engine

#: Makes the engine of a device, in its own process: a function of a module, which is found there by its name.
Load = Callable[[str], Engine]


class _Worker:
    """What a process keeps from one request to the next."""

    engine: Engine | None = None


def _begin(load: Load, devices: Queue[str]) -> None:
    _Worker.engine = load(devices.get())


def _draw(request: Mapping[str, Any]) -> list[Picture]:
    assert _Worker.engine is not None
    return _Worker.engine.draw(request)


class ParallelEngines:
    """Engines that draw side by side; made by ``parallel``."""

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
    """Engines on several devices ("cuda:0", "cuda:1"), each in a process that ``load`` makes it in and that ends with
    this. Raises RequestError without a device.
    """
    if not devices:
        raise RequestError("no device to draw on; name some, for instance cuda:0 and cuda:1")
    # A process that is forked has no card of its own.
    context = multiprocessing.get_context("spawn")
    names: Any = context.Queue()
    for device in devices:
        names.put(device)
    with ProcessPoolExecutor(len(devices), context, _begin, (load, names)) as pool:
        yield ParallelEngines(pool)
