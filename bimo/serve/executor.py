"""Who draws the jobs of a service: a thread of this process (`bimo.serve.scheduler`), or others to whom they are handed
out (`bimo.serve.dispatcher`).
"""

from __future__ import annotations

import logging
import traceback
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Protocol

import torch

from bimo.core.errors import BimoError
from bimo.core.messages import Message
from bimo.core.picture import Picture
from bimo.serve.jobs import Failure, Order

if TYPE_CHECKING:
    from PIL import Image

_log = logging.getLogger(__name__)

CANCELLED = Failure("cancelled", Message("the job was cancelled"), 409)
LATE = Failure("deadline", Message("the job was not drawn by its deadline"), 504)
MEMORY = Failure("out_of_memory", Message("out of memory: draw a smaller picture"), 507)
UNEXPECTED = Failure(
    "server_error", Message("something went wrong on the server while this was drawn; its log says what")
)


def failure_of(error: BaseException) -> Failure:
    """What is said of an error; what nobody foresaw is logged, and its client learns that it was none of his."""
    if isinstance(error, BimoError):
        return Failure("invalid_request", error.message, 400)
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "can't allocate memory" in str(error):
        return MEMORY
    _log.error("a drawing failed: %s", "".join(traceback.format_exception(error)))
    return UNEXPECTED


class Listener(Protocol):
    """Who is told of what happens, in the thread that draws or that hears of it: nothing here may take long."""

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


def idle() -> dict[str, float]:
    """What `Executor.busy` says before anything was drawn."""
    return {"denoiser": 0.0, "all": 0.0, "calls": 0.0, "rows": 0.0}


class Executor(ABC):
    """Draws the jobs it is given and tells a `Listener` how they go. Every method may be called from any thread."""

    @abstractmethod
    def start(self) -> None:
        """Begins to draw."""

    @abstractmethod
    def submit(self, order: Order, done: frozenset[int] = frozenset()) -> None:
        """Takes a job on; ``done`` are the places of pictures that it has already."""

    @abstractmethod
    def cancel(self, job: str, failure: Failure = CANCELLED) -> None:
        """Ends a job before its next step; nothing happens where it has ended."""

    @abstractmethod
    def progress(self) -> dict[str, tuple[int, int]]:
        """Of each job that is here: (steps left, steps in all)."""

    @abstractmethod
    def seconds_ahead(self) -> float:
        """About how long all that is here will take."""

    @abstractmethod
    def stop(self, drain: bool = False, seconds: float = 30.0) -> None:
        """Ends the drawing: at once between two steps, or with ``drain`` when what is begun is drawn, within
        ``seconds``. What is left stays with whoever stores jobs.
        """

    @property
    @abstractmethod
    def busy(self) -> dict[str, float]:
        """Seconds spent in calls of denoisers ("denoiser") and in all ("all"), the calls and the pictures ("rows") in
        them.
        """
