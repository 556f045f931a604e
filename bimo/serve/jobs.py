"""Jobs: orders, states, stored pictures, failures."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from bimo.core.lora_weight import LoraWeight
from bimo.core.messages import Message, Sayable, language
from bimo.core.request import Request, checked

#: Prefix of the names of an order's pictures that are ``condition_images``.
CONDITION = "condition."
#: The key of an order's note for the language of its warnings, "zh" or "en".
LANGUAGE = "language"
#: The key of an order's note for the model that was chosen by its prompt, where none was named.
CHOSEN = "chosen"

#: LoRAs by name, with their weights and the steps that they count in.
Loras = tuple[tuple[str, LoraWeight], ...]


class State(StrEnum):
    """The state of a job."""

    queued = "queued"
    running = "running"
    done = "done"
    failed = "failed"
    cancelled = "cancelled"


ENDED = (State.done, State.failed, State.cancelled)


@dataclass(frozen=True)
class Failure:
    """Why a job or picture failed: a ``code`` for programs, a sentence, and an HTTP status."""

    code: str
    message: Sayable
    status: int = 500

    def said(self, language: str) -> str:
        """The sentence in "zh" or "en"."""
        return self.message.said(language)


@dataclass(frozen=True)
class Order:
    """A requested job. ``values`` are the fields of a Request without pictures, but with the seed; ``loras`` are (name,
    weight); ``controls`` are names of ControlNets, the first for the picture "control", the next for "control-2";
    ``previews`` is their number; ``deadline`` is a time of ``time.time``; ``client`` is the interface that it came by,
    and ``note`` that interface's own data.
    """

    id: str
    model: str
    values: Mapping[str, Any]
    key: str = "local"
    client: str = "v1"
    loras: Loras = ()
    priority: int = 0
    previews: int = 0
    deadline: float | None = None
    created: float = field(default_factory=time.time)
    note: Mapping[str, Any] = field(default_factory=dict[str, Any])
    controls: tuple[str, ...] = ()

    @property
    def count(self) -> int:
        """The number of pictures."""
        return int(self.values.get("count") or 1)

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences that go with its pictures: which model was chosen."""
        if CHOSEN not in self.note:
            return ()
        message = Message(
            "drawn by {model}, over a draft by program where it has one; name a model for another",
            model=self.note[CHOSEN],
        )
        return (message.said(str(self.note.get(LANGUAGE) or language())),)

    def request(self, pictures: Mapping[str, bytes]) -> Request:
        """The Request, completed with its pictures (encoded bytes by name). Raises RequestError."""
        conditions = {n.removeprefix(CONDITION): v for n, v in pictures.items() if n.startswith(CONDITION)}
        own = {name: value for name, value in pictures.items() if not name.startswith(CONDITION)}
        return checked({**self.values, **own} | ({"condition_images": conditions} if conditions else {}))


@dataclass(frozen=True)
class StoredPicture:
    """A stored picture of a job. ``record`` is the metadata in its PNG; ``flagged`` is why it is withheld, if it is.
    ``layers`` are the files of what it is made of, the lowest first; ``bytes`` counts them.
    """

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
    layers: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Job:
    """A job with its current state."""

    order: Order
    state: State
    attempts: int = 0
    begun: float | None = None
    ended: float | None = None
    failure: Failure | None = None
    pictures: tuple[StoredPicture, ...] = ()

    @property
    def id(self) -> str:
        """Its id."""
        return self.order.id


#: A job that was running when its server or worker died so often fails.
MOST_ATTEMPTS = 3
WORN = Failure(
    "server_ended", Message("this job was begun {times} times, and each time the server ended", times=MOST_ATTEMPTS)
)
