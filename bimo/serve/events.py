"""What happens to jobs, told to whoever listens: in an event loop or in a thread."""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import Image


@dataclass(frozen=True)
class Event:
    """What happened to a job: "began", "step", "picture" or "ended". ``shown`` is a preview."""

    kind: str
    place: int = 0
    done: int = 0
    steps: int = 0
    shown: Image.Image | None = None
    at: float = field(default_factory=time.time)


class Events:
    """Who listens to which job. ``there`` says whether a job is open: of one that has ended nothing is told."""

    def __init__(self, there: Callable[[str], bool], lock: threading.Lock) -> None:
        self._there = there
        #: That of whoever opens and closes jobs, so that none ends between the question and the listening.
        self._lock = lock
        self._heard: dict[str, list[Callable[[Event], object]]] = {}

    def tell(self, job: str, event: Event) -> None:
        """Tells everybody who listens to a job."""
        with self._lock:
            heard = list(self._heard.get(job, ()))
        for hear in heard:
            hear(event)

    @contextmanager
    def _hearing(self, job: str, hear: Callable[[Event], object]) -> Iterator[bool]:
        with self._lock:
            self._heard.setdefault(job, []).append(hear)
            there = self._there(job)
        try:
            yield there
        finally:
            with self._lock:
                heard = self._heard[job]
                heard.remove(hear)
                if not heard:
                    del self._heard[job]

    async def of(self, job: str) -> AsyncIterator[Event]:
        """What happens to a job from now on; the last is "ended". Nothing where it has ended."""
        loop = asyncio.get_running_loop()
        waiting: asyncio.Queue[Event] = asyncio.Queue()
        with self._hearing(job, lambda event: loop.call_soon_threadsafe(waiting.put_nowait, event)) as there:
            while there:
                event = await waiting.get()
                yield event
                there = event.kind != "ended"

    def here(self, job: str) -> Iterator[Event]:
        """As ``of``, in a thread."""
        waiting: queue.Queue[Event] = queue.Queue()
        with self._hearing(job, waiting.put) as there:
            while there:
                event = waiting.get()
                there = event.kind != "ended"
                yield event
