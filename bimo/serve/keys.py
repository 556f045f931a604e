"""Access keys of a server that other machines can reach: stored as hashes, with scopes and a rate limit."""

from __future__ import annotations

import hashlib
import json
import re
import secrets
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from bimo.core.errors import RequestError
from bimo.core.messages import Listed
from bimo.serve.job_store import DATABASE, connect

PREFIX = "bimo-"
PER_MINUTE = 60
#: The most requests at once within a key's rate (the size of its token bucket).
BURST = 10


class Scope(StrEnum):
    """Scopes of a key: drawing and its own jobs; metrics; all jobs and the server's settings."""

    draw = "draw"
    metrics = "metrics"
    admin = "admin"


@dataclass(frozen=True)
class Caller:
    """The caller of a request."""

    name: str
    scopes: frozenset[Scope]

    def may(self, scope: Scope) -> bool:
        """Whether the caller has a scope."""
        return scope in self.scopes or Scope.admin in self.scopes

    @property
    def visible_key(self) -> str | None:
        """The key whose jobs the caller may see, None for all."""
        return None if Scope.admin in self.scopes else self.name


#: The caller of a server that only listens on this machine.
LOCAL = Caller("local", frozenset(Scope))


@dataclass(frozen=True)
class Key:
    """A key without its token, which is only shown when it is created."""

    name: str
    scopes: tuple[Scope, ...]
    per_minute: int
    created: float


@dataclass
class _Bucket:
    tokens: float
    at: float = field(default_factory=time.monotonic)


class KeyStore:
    """The keys of a server, in its database. Tokens have 256 random bits, so a plain SHA-256 is safe to store."""

    def __init__(self, folder: Path, clock: Callable[[], float] = time.monotonic) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._connection = connect(folder / DATABASE)
        self._lock = threading.Lock()
        self._clock = clock
        self._buckets: dict[str, _Bucket] = {}
        with self._lock, self._connection:
            self._connection.execute(
                "create table if not exists keys (name text primary key, hash text unique not null,"
                " scopes text not null, per_minute integer not null, created real not null)"
            )

    def close(self) -> None:
        """Closes the database."""
        self._connection.close()

    def add(
        self,
        name: str,
        scopes: Sequence[Scope] = (Scope.draw,),
        per_minute: int = PER_MINUTE,
        token: str | None = None,
    ) -> str:
        """Creates a key and returns its token, which is not stored; ``token`` reuses that of another server. Raises
        RequestError for an existing name or token, and for an invalid token.
        """
        if not name.strip() or len(name) > 64 or not name.isprintable():
            raise RequestError("{name!r} is no name for a key; write up to 64 printable characters", name=name)
        if token is not None and re.fullmatch(f"{PREFIX}[\\w-]{{43}}", token, re.ASCII) is None:
            raise RequestError("that is no token of bimo keys; copy the one that `bimo keys add` printed there")
        token = token or PREFIX + secrets.token_urlsafe(32)
        row = (name, _hash(token), json.dumps([str(scope) for scope in scopes]), max(1, per_minute), time.time())
        try:
            with self._lock, self._connection:
                self._connection.execute("insert into keys values (?, ?, ?, ?, ?)", row)
        except sqlite3.IntegrityError:
            raise RequestError(
                "there is a key {name!r} already; revoke it first, or take another name", name=name
            ) from None
        return token

    def revoke(self, name: str) -> None:
        """Deletes a key. Raises RequestError for an unknown name."""
        with self._lock, self._connection:
            deleted = self._connection.execute("delete from keys where name = ?", (name,)).rowcount
        if not deleted:
            names = Listed([key.name for key in self.listed()])
            raise RequestError("there is no key {name!r}; there is {names}", name=name, names=names)

    def listed(self) -> list[Key]:
        """All keys, the oldest first."""
        with self._lock:
            rows = self._connection.execute("select * from keys order by created").fetchall()
        return [
            Key(row["name"], tuple(map(Scope, json.loads(row["scopes"]))), row["per_minute"], row["created"])
            for row in rows
        ]

    def caller(self, token: str) -> Caller | None:
        """The caller with a token, None for an unknown one."""
        with self._lock:
            row = self._connection.execute("select * from keys where hash = ?", (_hash(token),)).fetchone()
        return None if row is None else Caller(row["name"], frozenset(map(Scope, json.loads(row["scopes"]))))

    def wait(self, name: str) -> int:
        """Counts a request of a key: 0 if its rate allows it, else the seconds until it does."""
        with self._lock:
            row = self._connection.execute("select per_minute from keys where name = ?", (name,)).fetchone()
            rate = (PER_MINUTE if row is None else row["per_minute"]) / 60
            most, now = max(1.0, min(BURST, rate * 60)), self._clock()
            bucket = self._buckets.setdefault(name, _Bucket(most, now))
            bucket.tokens, bucket.at = min(most, bucket.tokens + (now - bucket.at) * rate), now
            if bucket.tokens >= 1:
                bucket.tokens -= 1
                return 0
            return max(1, round((1 - bucket.tokens) / rate))


def _hash(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()
