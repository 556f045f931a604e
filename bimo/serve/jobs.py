"""Jobs as they are asked for, and as they are."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from bimo.core.messages import Message, Sayable
from bimo.core.request import Request, checked

#: Names of pictures that a request brings, in an order; those that conditioners read are behind this.
CONDITION = "condition."
#: What of an order's note says in which language, "zh" or "en", its warnings are to be.
LANGUAGE = "language"


class State(StrEnum):
    """Where a job is."""

    queued = "queued"
    running = "running"
    done = "done"
    failed = "failed"
    cancelled = "cancelled"


ENDED = (State.done, State.failed, State.cancelled)


@dataclass(frozen=True)
class Failure:
    """Why a job has no picture: ``code`` for programs, the sentence, and the status of HTTP."""

    code: str
    message: Sayable
    status: int = 500

    def said(self, language: str) -> str:
        """The sentence in "zh" or "en"."""
        return self.message.said(language)


@dataclass(frozen=True)
class Order:
    """A job as it is asked for. ``values`` are the fields of a Request that are no pictures, the seed among them;
    ``loras`` are (name, weight), ``controls`` names of ControlNets, the first of which reads the picture "control", the
    next "control-2"; ``previews`` is how many are wanted on the way; ``deadline`` is a time of ``time.time``;
    ``client`` says by which interface it came, ``note`` what that one wants to know again.
    """

    id: str
    model: str
    values: Mapping[str, Any]
    key: str = "local"
    client: str = "v1"
    loras: tuple[tuple[str, float], ...] = ()
    priority: int = 0
    previews: int = 0
    deadline: float | None = None
    created: float = field(default_factory=time.time)
    note: Mapping[str, Any] = field(default_factory=dict[str, Any])
    controls: tuple[str, ...] = ()

    @property
    def count(self) -> int:
        """How many pictures."""
        return int(self.values.get("count") or 1)

    def request(self, pictures: Mapping[str, bytes]) -> Request:
        """The request with its pictures, which are encoded bytes by name. Raises RequestError."""
        conditions = {n.removeprefix(CONDITION): v for n, v in pictures.items() if n.startswith(CONDITION)}
        own = {name: value for name, value in pictures.items() if not name.startswith(CONDITION)}
        return checked({**self.values, **own} | ({"condition_images": conditions} if conditions else {}))


@dataclass(frozen=True)
class Drawn:
    """A picture of a job as it was stored. ``record`` is what its PNG carries; ``flagged`` says why it is not shown."""

    place: int
    file: Path
    bytes: int
    width: int
    height: int
    seed: int
    seconds: float
    warnings: tuple[str, ...]
    record: Mapping[str, Any]
    flagged: Failure | None = None


@dataclass(frozen=True)
class Job:
    """A job as it is."""

    order: Order
    state: State
    attempts: int = 0
    begun: float | None = None
    ended: float | None = None
    failure: Failure | None = None
    pictures: tuple[Drawn, ...] = ()

    @property
    def id(self) -> str:
        """Its name."""
        return self.order.id


#: A job that ended its server, or the process that drew it, so often is not begun again.
MOST_ATTEMPTS = 3
WORN = Failure(
    "server_ended", Message("this job was begun {times} times, and each time the server ended", times=MOST_ATTEMPTS)
)
