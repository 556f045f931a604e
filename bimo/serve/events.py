"""Events of jobs and their subscribers, in an event loop or in a thread."""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import Image


@dataclass(frozen=True)
class Event:
    """An event of a job: "began", "step", "picture" or "ended"."""

    kind: str
    place: int = 0
    done: int = 0
    steps: int = 0
    preview: Image.Image | None = None
    at: float = field(default_factory=time.time)


class Events:
    """The subscribers of jobs. ``is_open`` says whether a job is open; ended jobs have no events."""

    def __init__(self, is_open: Callable[[str], bool], lock: threading.Lock) -> None:
        self._is_open = is_open
        #: The lock of the owner of the jobs, so that a job cannot end between the check and the subscription.
        self._lock = lock
        self._listeners: dict[str, list[Callable[[Event], object]]] = {}

    def tell(self, job: str, event: Event) -> None:
        """Passes an event to all subscribers of a job."""
        with self._lock:
            listeners = list(self._listeners.get(job, ()))
        for listener in listeners:
            listener(event)

    @contextmanager
    def _listening(self, job: str, listener: Callable[[Event], object]) -> Generator[bool]:
        with self._lock:
            self._listeners.setdefault(job, []).append(listener)
            is_open = self._is_open(job)
        try:
            yield is_open
        finally:
            with self._lock:
                listeners = self._listeners[job]
                listeners.remove(listener)
                if not listeners:
                    del self._listeners[job]

    async def subscribe(self, job: str) -> AsyncIterator[Event]:
        """The events of a job from now on; the last is "ended". Empty if it has ended."""
        loop = asyncio.get_running_loop()
        events: asyncio.Queue[Event] = asyncio.Queue()
        with self._listening(job, lambda event: loop.call_soon_threadsafe(events.put_nowait, event)) as is_open:
            while is_open:
                event = await events.get()
                yield event
                is_open = event.kind != "ended"

    def iterate(self, job: str) -> Iterator[Event]:
        """As ``subscribe``, in a thread."""
        events: queue.Queue[Event] = queue.Queue()
        with self._listening(job, events.put) as is_open:
            while is_open:
                event = events.get()
                is_open = event.kind != "ended"
                yield event
