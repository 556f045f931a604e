"""The store of jobs: SQLite (WAL) for jobs and history, files for pictures.

An accepted job ends exactly once: ``done`` with all of its pictures, ``failed`` with a sentence, or ``cancelled``. A
picture's row is written after its file was renamed into place, so that no partial file is ever served. ``recover``
returns the jobs that a killed process left unfinished, to be drawn again with the same seed.
"""

from __future__ import annotations

import json
import shutil
import sqlite3
import threading
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bimo.core.files import write_whole
from bimo.core.lora_weight import LoraWeight
from bimo.core.messages import Both
from bimo.serve.jobs import ENDED, MOST_ATTEMPTS, WORN, Failure, Job, Order, State, StoredPicture

DATABASE = "bimo.sqlite3"
PICTURES = "pictures"
INPUTS = "inputs"

_SCHEMA = """
create table if not exists jobs (
    id text primary key, key text not null, client text not null, model text not null, state text not null,
    priority integer not null, created real not null, begun real, ended real, deadline real,
    attempts integer not null default 0, count integer not null, values_ text not null, loras text not null,
    previews integer not null, inputs text not null, note text not null default '{}', error text, idempotency text,
    controls text not null default '[]'
);
create unique index if not exists jobs_again on jobs (key, idempotency) where idempotency is not null;
create index if not exists jobs_by_key on jobs (key, created desc);
create index if not exists jobs_by_state on jobs (state);
create table if not exists pictures (
    job text not null references jobs (id) on delete cascade, place integer not null, file text not null,
    bytes integer not null, width integer not null, height integer not null, seed integer not null,
    seconds real not null, warnings text not null, record text not null, flagged text,
    layers integer not null default 0, primary key (job, place)
);
create table if not exists settings (name text primary key, value text not null);
"""


@dataclass(frozen=True, kw_only=True)
class Filter:
    """Which jobs are asked for: all that fit every field that is not None; ``text`` is within the prompt."""

    key: str | None = None
    client: str | None = None
    model: str | None = None
    state: State | None = None
    text: str = ""
    since: float | None = None
    before: float | None = None

    def sql(self) -> tuple[str, list[object]]:
        """A condition, and the values in it."""
        conditions = {
            "key = ?": self.key,
            "client = ?": self.client,
            "model = ?": self.model,
            "state = ?": self.state,
            "created >= ?": self.since,
            "created < ?": self.before,
            "instr(lower(json_extract(values_, '$.text')), lower(?))": self.text or None,
        }
        used = {condition: value for condition, value in conditions.items() if value is not None}
        return " and ".join(used) or "1", list(used.values())


class JobStore:
    """The jobs of one server, in a folder of its own. All methods are thread-safe."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in (PICTURES, INPUTS):
            (folder / name).mkdir(parents=True, exist_ok=True)
        self._lock = threading.RLock()
        self._connection = connect(folder / DATABASE)
        with self._writing() as sql:
            sql.executescript(_SCHEMA)
            # Databases of version 0.2 or earlier lack columns.
            later = ("jobs", "controls text not null default '[]'"), ("pictures", "layers integer not null default 0")
            for table, column in later:
                if column.split()[0] not in {row["name"] for row in sql.execute(f"pragma table_info({table})")}:
                    sql.execute(f"alter table {table} add column {column}")

    def close(self) -> None:
        """Closes the database."""
        with self._lock:
            self._connection.close()

    @contextmanager
    def _writing(self) -> Generator[sqlite3.Connection]:
        with self._lock, self._connection:
            yield self._connection

    def _rows(self, sql: str, *values: object) -> list[sqlite3.Row]:
        with self._lock:
            return self._connection.execute(sql, values).fetchall()

    def accept(self, order: Order, pictures: Mapping[str, bytes], idempotency: str | None = None) -> Job:
        """Stores an order with its pictures durably. The same ``idempotency`` key of the same caller returns the
        existing job.
        """
        if idempotency is not None and (existing := self._again(order.key, idempotency)) is not None:
            return existing
        folder = self.folder / INPUTS / order.id
        for number, content in enumerate(pictures.values()):
            # Numbered, as names from a request must not become file names.
            write_whole(folder / str(number), content)
        row = {
            "id": order.id,
            "key": order.key,
            "client": order.client,
            "model": order.model,
            "state": State.queued,
            "priority": order.priority,
            "created": order.created,
            "deadline": order.deadline,
            "count": order.count,
            "values_": json.dumps(dict(order.values), ensure_ascii=True),
            "loras": json.dumps([(name, w.value, w.first, w.last) for name, w in order.loras]),
            "controls": json.dumps(order.controls),
            "previews": order.previews,
            "inputs": json.dumps(list(pictures)),
            "note": json.dumps(dict(order.note), ensure_ascii=True),
            "idempotency": idempotency,
        }
        names = ", ".join(row)
        try:
            with self._writing() as sql:
                sql.execute(f"insert into jobs ({names}) values ({', '.join('?' * len(row))})", tuple(row.values()))
        except sqlite3.IntegrityError:
            shutil.rmtree(folder, ignore_errors=True)
            existing = None if idempotency is None else self._again(order.key, idempotency)
            if existing is None:
                raise
            return existing
        return Job(order, State.queued)

    def _again(self, key: str, idempotency: str) -> Job | None:
        rows = self._rows("select * from jobs where key = ? and idempotency = ?", key, idempotency)
        return self._job(rows[0]) if rows else None

    def inputs(self, job: str) -> dict[str, bytes]:
        """The input pictures of a job by name."""
        rows = self._rows("select inputs from jobs where id = ?", job)
        names: list[str] = json.loads(rows[0][0]) if rows else []
        return {name: (self.folder / INPUTS / job / str(place)).read_bytes() for place, name in enumerate(names)}

    def begin(self, job: str) -> None:
        """Marks a job as running and counts the attempt."""
        with self._writing() as sql:
            sql.execute(
                "update jobs set state = ?, begun = coalesce(begun, ?), attempts = attempts + 1 where id = ? and state"
                " in (?, ?)",
                (State.running, time.time(), job, State.queued, State.running),
            )

    def add_picture(
        self,
        job: str,
        place: int,
        png: bytes,
        size: tuple[int, int],
        seed: int,
        seconds: float,
        warnings: Sequence[str],
        record: Mapping[str, Any],
        flagged: Failure | None = None,
        layers: Sequence[bytes] = (),
    ) -> StoredPicture | None:
        """Writes a picture's file and those of its layers, then its row; None if the job has ended meanwhile, or has
        that picture already.
        """
        name = f"{job}-{place}.png"
        file = self.folder / PICTURES / job[:2] / name
        files = (file, *layer_files(file, len(layers)))
        for path, content in zip(files, (png, *layers), strict=True):
            write_whole(path, content)
        size_in_bytes = sum(len(content) for content in (png, *layers))
        warnings_json = json.dumps(list(warnings), ensure_ascii=True)
        with self._writing() as sql:
            cursor = sql.execute(
                "insert or ignore into pictures select ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ? where exists"
                " (select 1 from jobs where id = ? and state = ?)",
                (
                    *(job, place, f"{job[:2]}/{name}", size_in_bytes, *size, str(seed), seconds, warnings_json),
                    json.dumps(dict(record), ensure_ascii=True),
                    None if flagged is None else _dumped(flagged),
                    len(layers),
                    *(job, State.running),
                ),
            )
            if not cursor.rowcount:
                exists = sql.execute("select 1 from pictures where job = ? and place = ?", (job, place)).fetchone()
                if exists is None:
                    for path in files:
                        path.unlink(missing_ok=True)
                return None
        warned = tuple(warnings)
        return StoredPicture(place, file, size_in_bytes, *size, seed, seconds, warned, record, flagged, files[1:])

    def end(self, job: str, state: State, failure: Failure | None = None) -> bool:
        """Ends a job; False if it had ended already."""
        with self._writing() as sql:
            cursor = sql.execute(
                "update jobs set state = ?, ended = ?, error = ? where id = ? and state in (?, ?)",
                (
                    *(state, time.time(), None if failure is None else _dumped(failure)),
                    *(job, State.queued, State.running),
                ),
            )
        shutil.rmtree(self.folder / INPUTS / job, ignore_errors=True)
        return bool(cursor.rowcount)

    def job(self, name: str) -> Job | None:
        """A job by its id, None if there is none."""
        rows = self._rows("select * from jobs where id = ?", name)
        return self._job(rows[0]) if rows else None

    def jobs(
        self,
        key: str | None = None,
        state: State | None = None,
        text: str = "",
        before: float | None = None,
        most: int = 50,
    ) -> list[Job]:
        """Jobs, the newest first, filtered by key, state, text in the prompt, and latest time of creation."""
        return self.page(Filter(key=key, state=state, text=text, before=before), most)[0]

    def page(self, which: Filter, most: int, skipped: int = 0) -> tuple[list[Job], int]:
        """Up to ``most`` jobs after the first ``skipped``, the newest first, and the number of all."""
        where, values = which.sql()
        with self._lock:  # so that both are of the same moment
            total: int = self._rows(f"select count(*) from jobs where {where}", *values)[0][0]
            rows = self._rows(
                f"select * from jobs where {where} order by created desc, id limit ? offset ?", *values, most, skipped
            )
            return [self._job(row) for row in rows], total

    def counts(self) -> dict[State, int]:
        """The number of jobs in each state."""
        return {State(row[0]): row[1] for row in self._rows("select state, count(*) from jobs group by state")}

    def recover(self) -> list[Job]:
        """To be called at start: returns unfinished jobs, the oldest first. Jobs that were attempted too often fail;
        files without a row are deleted.
        """
        with self._writing() as sql:
            sql.execute(
                "update jobs set state = ?, ended = ?, error = ? where state = ? and attempts >= ?",
                (State.failed, time.time(), _dumped(WORN), State.running, MOST_ATTEMPTS),
            )
            sql.execute("update jobs set state = ? where state = ?", (State.queued, State.running))
        self._sweep()
        return [self._job(row) for row in self._rows("select * from jobs where state = ? order by created", "queued")]

    def _sweep(self) -> None:
        referenced = self._files("1")
        for file in (self.folder / PICTURES).rglob("*"):
            if file.is_file() and file not in referenced:
                file.unlink(missing_ok=True)
        waiting = {row[0] for row in self._rows("select id from jobs where state = ?", State.queued)}
        for folder in (self.folder / INPUTS).iterdir():
            if folder.name not in waiting:
                shutil.rmtree(folder, ignore_errors=True)

    def forget(self, job: str) -> bool:
        """Deletes an ended job and its pictures; False if there is none."""
        files = self._files("job = ?", job)
        with self._writing() as sql:
            cursor = sql.execute("delete from jobs where id = ? and state in (?, ?, ?)", (job, *ENDED))
        if cursor.rowcount:
            for file in files:
                file.unlink(missing_ok=True)
        return bool(cursor.rowcount)

    def _files(self, clause: str, *values: object) -> set[Path]:
        """The files of pictures and of their layers."""
        rows = self._rows(f"select file, layers from pictures where {clause}", *values)
        files = [(self.folder / PICTURES / row["file"], int(row["layers"])) for row in rows]
        return {path for file, count in files for path in (file, *layer_files(file, count))}

    def retain(self, seconds: float, most_bytes: int) -> int:
        """Deletes jobs that ended more than ``seconds`` ago, then the oldest while pictures take more than
        ``most_bytes``; returns the number of deleted jobs.
        """
        old = self._rows("select id from jobs where ended < ?", time.time() - seconds)
        deleted = sum(self.forget(row[0]) for row in old)
        total: int = self._rows("select coalesce(sum(bytes), 0) from pictures")[0][0]
        if total > most_bytes:
            sizes = self._rows(
                "select jobs.id, sum(pictures.bytes) from jobs join pictures on pictures.job = jobs.id"
                " where ended is not null group by jobs.id order by ended"
            )
            for name, size in sizes:
                if total <= most_bytes:
                    break
                if self.forget(name):
                    deleted, total = deleted + 1, total - size
        return deleted

    def setting(self, name: str, default: str) -> str:
        """A persistent setting, initialised with ``default``."""
        with self._writing() as sql:
            sql.execute("insert or ignore into settings values (?, ?)", (name, default))
        return str(self._rows("select value from settings where name = ?", name)[0][0])

    def _job(self, row: sqlite3.Row) -> Job:
        order = Order(
            row["id"],
            row["model"],
            json.loads(row["values_"]),
            row["key"],
            row["client"],
            tuple((name, LoraWeight(*numbers)) for name, *numbers in json.loads(row["loras"])),
            row["priority"],
            row["previews"],
            row["deadline"],
            row["created"],
            json.loads(row["note"]),
            tuple(json.loads(row["controls"])),
        )
        picture_rows = self._rows("select * from pictures where job = ? order by place", row["id"])
        pictures = tuple(self._drawn(picture_row) for picture_row in picture_rows)
        failure = None if row["error"] is None else _loaded(row["error"])
        return Job(order, State(row["state"]), row["attempts"], row["begun"], row["ended"], failure, pictures)

    def _drawn(self, row: sqlite3.Row) -> StoredPicture:
        file = self.folder / PICTURES / row["file"]
        return StoredPicture(
            row["place"],
            file,
            row["bytes"],
            row["width"],
            row["height"],
            int(row["seed"]),
            row["seconds"],
            tuple(json.loads(row["warnings"])),
            json.loads(row["record"]),
            None if row["flagged"] is None else _loaded(row["flagged"]),
            layer_files(file, row["layers"]),
        )


def layer_files(file: Path, count: int) -> tuple[Path, ...]:
    """The files of a picture's layers, beside its own."""
    return tuple(file.with_name(f"{file.stem}.layer-{number}{file.suffix}") for number in range(1, count + 1))


def connect(file: Path) -> sqlite3.Connection:
    """Opens a database in WAL mode, whose commits survive a killed process."""
    connection = sqlite3.connect(file, check_same_thread=False, timeout=30)
    connection.row_factory = sqlite3.Row
    connection.execute("pragma journal_mode = wal")
    connection.execute("pragma synchronous = normal")
    connection.execute("pragma foreign_keys = on")
    return connection


def _dumped(failure: Failure) -> str:
    sentences = {"zh": failure.said("zh"), "en": failure.said("en")}
    return json.dumps({"code": failure.code, "status": failure.status} | sentences)


def _loaded(text: str) -> Failure:
    fields = json.loads(text)
    return Failure(fields["code"], Both(fields["zh"], fields["en"]), fields["status"])
