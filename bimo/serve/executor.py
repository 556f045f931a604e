"""The interface of executors, which draw a service's jobs: a thread of this process (`bimo.serve.scheduler`), or worker
processes (`bimo.serve.dispatcher`).
"""

from __future__ import annotations

import logging
import re
import traceback
from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch

from bimo.core.errors import BimoError
from bimo.core.messages import Message
from bimo.core.picture import Picture
from bimo.serve.jobs import Failure, Order

if TYPE_CHECKING:
    from PIL import Image

_log = logging.getLogger(__name__)
#: An absolute path with at least two components.
_PATH = re.compile(r"(?<![\w:./])(?:/[^\s/'\"]+){2,}")

CANCELLED = Failure("cancelled", Message("the job was cancelled"), 409)
LATE = Failure("deadline", Message("the job was not drawn by its deadline"), 504)
MEMORY = Failure("out_of_memory", Message("out of memory: draw a smaller picture"), 507)
UNEXPECTED = Failure(
    "server_error", Message("something went wrong on the server while this was drawn; its log says what")
)


def failure_of(error: BaseException) -> Failure:
    """The failure for an exception; unexpected ones are logged, and the client gets a general sentence."""
    if isinstance(error, BimoError):
        return Failure("invalid_request", without_folders(error.message), 400)
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "can't allocate memory" in str(error):
        return MEMORY
    _log.error("a drawing failed: %s", "".join(traceback.format_exception(error)))
    return UNEXPECTED


def without_folders(message: Message) -> Message:
    """A message for clients, with paths shortened to their last two components, so that folders are not revealed."""
    if type(message) is not Message:
        return message
    return Message(message.text, **{name: _shortened(value) for name, value in message.values.items()})


def _shortened(value: Any) -> Any:
    if isinstance(value, Message):
        return without_folders(value)
    if isinstance(value, (Path, str)):
        return _PATH.sub(lambda path: "/".join(path[0].split("/")[-2:]), str(value))
    return value


class Listener(Protocol):
    """Callbacks of an executor. They run in the thread that draws, and must not block."""

    def began(self, job: str) -> None:
        """A job has started."""
        ...

    def stepped(self, job: str, place: int, done: int, steps: int, preview: Image.Image | None) -> None:
        """``done`` of ``steps`` steps of a picture are done; ``preview`` is given at some of them."""
        ...

    def drew(self, job: str, picture: Picture) -> None:
        """A picture is finished."""
        ...

    def ended(self, job: str, failure: Failure | None) -> None:
        """A job has ended, with all of its pictures or with a failure."""
        ...


class Source(Protocol):
    """Storage of the input pictures of jobs."""

    def inputs(self, job: str) -> dict[str, bytes]:
        """The input pictures of a job by name."""
        ...


def idle() -> dict[str, float]:
    """The initial value of `Executor.busy`."""
    return {"denoiser": 0.0, "all": 0.0, "calls": 0.0, "rows": 0.0}


class Executor(ABC):
    """Draws jobs and reports to a `Listener`. All methods are thread-safe."""

    @abstractmethod
    def start(self) -> None:
        """Starts drawing."""

    @abstractmethod
    def submit(self, order: Order, done: frozenset[int] = frozenset()) -> None:
        """Queues a job; ``done`` are the indices of pictures that it has already."""

    @abstractmethod
    def cancel(self, job: str, failure: Failure = CANCELLED) -> None:
        """Cancels a job before its next step; does nothing if it has ended."""

    @abstractmethod
    def skip(self, job: str, failure: Failure | None = None) -> None:
        """Ends the pictures of a job that are being drawn as they are, before their next step; the job ends with them
        if there is a ``failure``, else with its other pictures.
        """

    @abstractmethod
    def progress(self) -> dict[str, tuple[int, int]]:
        """(steps left, steps in total) of each job."""

    @abstractmethod
    def seconds_ahead(self) -> float:
        """Estimated seconds of all jobs."""

    @abstractmethod
    def stop(self, drain: bool = False, seconds: float = 30.0) -> None:
        """Stops at the next step, or with ``drain`` after the started pictures, but within ``seconds``. Unfinished jobs
        stay in the store.
        """

    @property
    @abstractmethod
    def busy(self) -> dict[str, float]:
        """Seconds in denoiser calls ("denoiser") and in total ("all"), number of calls ("calls") and of pictures in
        them ("rows").
        """
