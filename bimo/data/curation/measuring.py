"""The first two phases of a run: the rows of a source into unit files, and what the rules measure of each picture.

A picture is decoded once for all steps; what was measured stays as long as its file and the step's ``measuring`` do.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from bimo.core.errors import BimoError, DataError
from bimo.core.part import Part
from bimo.data.curation.rows import Broken, Place, Row, Unusable
from bimo.data.curation.steps import PictureStep, Scores, named
from bimo.data.curation.store import (
    CHARACTERS_A_UNIT,
    Work,
    column,
    digest,
    fingerprint_of,
    load_rows,
    most_rows,
    numbered,
    plain,
    read_json,
    save_json,
    save_table,
    sweep,
)

VERSION = 1
INDEX = "rows/index.json"
KILLED = "worker killed"
#: Reasons that another run may not meet again.
PASSING = {KILLED, "unreadable", "decode: MemoryError"}
#: Between a step's ``measuring`` and the name of a score.
OF = "\t"
#: What is known of a picture before it is looked at.
NOTHING = "[]"


@dataclass(frozen=True)
class Taken:
    """What was read: how many rows each unit has and the number of its first, and how many were not fetched."""

    counts: tuple[int, ...]
    firsts: tuple[int, ...]
    unfetched: int = 0

    @property
    def rows(self) -> int:
        """How many rows there are."""
        return sum(self.counts)

    @property
    def units(self) -> int:
        """How many unit files there are."""
        return len(self.firsts)


def taken(work: Work) -> Taken:
    """What an earlier run read. Raises DataError where there was none."""
    known = read_json(work.folder / INDEX)
    if not isinstance(known, dict):
        raise DataError(
            f"{work.folder} 里没有读过的数据；请先不带 --select-only 运行一次",
            f"{work.folder} holds nothing that was read; run once without --select-only first",
        )
    table = cast("dict[str, Any]", known)
    return Taken(tuple(table["counts"]), tuple(table["firsts"]), table["unfetched"])


def take_in(source: Path, work: Work, said: Callable[[int], None]) -> Taken:
    """Reads a source into unit files, unless it was read before, lies there as it did and has nothing left to fetch.

    ``said`` is told how many rows more were read. Raises DataError for a source that cannot be read.
    """
    from bimo.data.curation import reading

    state = digest(VERSION, str(source.resolve()), reading.state(source))
    known = read_json(work.folder / INDEX)
    if isinstance(known, dict) and cast("dict[str, Any]", known)["state"] == state:
        before = taken(work)
        if not before.unfetched:
            said(before.rows)
            return before
    (work.folder / INDEX).unlink(missing_ok=True)
    unfetched, counts, firsts, last = 0, list[int](), list[int](), -1
    for unit, group in enumerate(_units(reading.rows(source))):
        if group[0].number <= last:
            raise DataError(
                f"{group[0].source} 的行号 {group[0].number} 不在 {last} 之后", f"rows of {source} are out of order"
            )
        settled, fetched = _fetched(group, work.fetched)
        unfetched += sum(isinstance(row, Broken) for row in settled) - sum(isinstance(row, Broken) for row in group)
        columns = _columns(settled, fetched)
        save_table(work.unit("rows", unit), columns, digest(VERSION, [_plain_row(row) for row in settled]))
        firsts.append(group[0].number)
        last = group[-1].number
        counts.append(len(group))
        said(len(group))
    sweep(work.folder / "rows", len(firsts))
    save_json(work.folder / INDEX, {"state": state, "counts": counts, "firsts": firsts, "unfetched": unfetched})
    return Taken(tuple(counts), tuple(firsts), unfetched)


def _units(rows: Iterable[Row | Broken]) -> Iterator[list[Row | Broken]]:
    unit, group, characters = 0, list[Row | Broken](), 0
    for row in rows:
        group.append(_writable(row))
        characters += sum(map(len, row.captions)) if isinstance(row, Row) else 0
        if len(group) >= most_rows(unit) or characters >= CHARACTERS_A_UNIT:
            yield group
            unit, group, characters = unit + 1, [], 0
    if group:
        yield group


def _writable(row: Row | Broken) -> Row | Broken:
    """A row whose texts can be written; one with halves of characters in it is broken."""
    if isinstance(row, Broken):
        return row
    try:
        "".join((*row.captions, *row.labels, *(v for v in row.labels.values() if isinstance(v, str)))).encode()
    except UnicodeEncodeError as error:
        return Broken(row.number, row.source, "not text", str(error.reason))
    return row


def _fetched(group: Sequence[Row | Broken], folder: Path) -> tuple[list[Row | Broken], set[int]]:
    """The group with its addresses fetched, and the numbers of those whose pictures now lie in ``folder``."""
    addressed = [row for row in group if isinstance(row, Row) and row.picture.form == "url"]
    if not addressed:
        return list(group), set()
    from bimo.data.curation import fetch

    answers = {row.number: row for row in fetch.fetch(addressed, folder)}
    found = [answers.get(row.number, row) for row in group]
    return found, {number for number, row in answers.items() if isinstance(row, Row)}


def _text(value: str) -> str:
    return value.encode("utf-8", "backslashreplace").decode()


def _plain_row(row: Row | Broken) -> list[Any]:
    if isinstance(row, Broken):
        return [row.number, row.source, row.reason, row.detail]
    place = row.picture
    where = [place.path, place.offset, place.size, place.form, place.column]
    return [row.number, row.source, *where, list(row.captions), sorted(row.labels.items())]


def _columns(rows: Sequence[Row | Broken], fetched: set[int]) -> dict[str, Any]:
    import pyarrow as pa

    places = [row.picture if isinstance(row, Row) else Place("") for row in rows]
    whole = [isinstance(row, Row) for row in rows]
    return {
        "number": pa.array([row.number for row in rows], pa.int64()),
        "source": pa.array([_text(row.source) for row in rows], pa.string()),
        # A path is bytes to the system; not every one is text.
        "path": pa.array([os.fsencode(place.path) for place in places], pa.binary()),
        "offset": pa.array([place.offset for place in places], pa.int64()),
        "size": pa.array([place.size for place in places], pa.int64()),
        "form": pa.array([place.form for place in places], pa.string()),
        "column": pa.array([_text(place.column) for place in places], pa.string()),
        "fetched": pa.array([row.number in fetched for row in rows], pa.bool_()),
        "captions": pa.array([row.captions if isinstance(row, Row) else () for row in rows], pa.list_(pa.string())),
        "labels": pa.array(
            [json.dumps(dict(row.labels) if isinstance(row, Row) else {}, ensure_ascii=False) for row in rows],
            pa.string(),
        ),
        "reason": pa.array([None if w else _text(cast(Broken, r).reason) for w, r in zip(whole, rows, strict=True)]),
        "detail": pa.array([None if w else _text(cast(Broken, r).detail) for w, r in zip(whole, rows, strict=True)]),
    }


@dataclass(frozen=True)
class Pictures:
    """Where the pictures of unit rows are found."""

    source: Path
    work: Work

    def place(self, row: Mapping[str, Any]) -> tuple[Path, Place]:
        """The folder a row's place is relative to, and the place."""
        root = self.work.fetched if row["fetched"] else self.source
        return root, Place(os.fsdecode(row["path"]), row["offset"], row["size"], row["form"], row["column"])

    def bytes_of(self, row: Mapping[str, Any]) -> bytes:
        """The bytes of a picture. Raises Unusable."""
        from bimo.data.curation import reading

        return reading.picture_bytes(*self.place(row))

    def state(self, rows: Iterable[Mapping[str, Any]]) -> str:
        """What changes when one of the files of some rows does."""
        from bimo.data.curation import reading

        roots = {False: reading.root(self.source), True: self.work.fetched}
        files = {roots[row["fetched"]] / os.fsdecode(row["path"]) for row in rows if row["reason"] is None}
        found: list[tuple[str, int, int]] = []
        for file in sorted(files):
            size, changed = -1, -1
            # A file that is not there has a state as well.
            with contextlib.suppress(OSError, ValueError):
                known = file.stat()
                size, changed = known.st_size, known.st_mtime_ns
            found.append((os.fsencode(file).hex(), size, changed))
        return digest(found)


@dataclass(frozen=True)
class Slice:
    """Some rows of a unit: those from ``first`` up to ``stop``, all where ``stop`` is -1."""

    unit: int
    count: int
    first: int = 0
    stop: int = -1

    def halves(self) -> tuple[Slice, Slice] | None:
        """The two halves, None of one row."""
        first, stop = self.first, self.count if self.stop < 0 else self.stop
        if stop - first < 2:
            return None
        middle = (first + stop) // 2
        return Slice(self.unit, self.count, first, middle), Slice(self.unit, self.count, middle, stop)


@dataclass(frozen=True)
class Measured:
    """What became of a slice: its rows, those that the picture rules would keep, and the pictures that were opened."""

    rows: int
    kept: int
    opened: int


@dataclass(frozen=True)
class Measure:
    """Measures the pictures of a slice for all steps that look at pictures, and keeps the numbers."""

    source: Path
    work: Work
    steps: tuple[Part, ...]

    def __call__(self, job: Slice) -> Measured:
        """Measures what is not measured yet. What one picture raises is its own failure, never that of the run."""
        rows = load_rows(self.work.unit("rows", job.unit))
        pictures = Pictures(self.source, self.work)
        made_of = digest(VERSION, fingerprint_of(self.work.unit("rows", job.unit)), pictures.state(rows))
        path = self.work.unit("measured", job.unit)
        old: dict[int, dict[str, Any]] = {}
        if fingerprint_of(path).partition(" ")[0] == made_of:
            old = {row["number"]: row for row in load_rows(path)}
        wanted = measured_by(self.steps)
        chosen = rows[job.first : None if job.stop < 0 else job.stop]
        opened = 0
        found: list[dict[str, Any]] = []
        with warnings.catch_warnings():
            # What a library warns of odd pictures is said by their reason.
            warnings.simplefilter("ignore")
            for row in chosen:
                known = old.get(row["number"])
                if known is None or known["failed"] in PASSING:
                    known = {"number": row["number"], "known": NOTHING, "failures": "{}", "failed": row["reason"]}
                missing = list(wanted) if known["known"] == NOTHING else _missing(known["known"], wanted)
                if known["failed"] is None and (missing or known.get("sha256") is None):
                    known = known | self._seen(pictures, row, known, {m: wanted[m] for m in missing})
                    opened += 1
                found.append(known)
        if opened or not old or job.stop >= 0:
            save_measured(self._part(job), found, made_of)
        judges = [(step.measuring(), step) for step in self.steps if isinstance(step, PictureStep)]
        kept = sum(row["failed"] is None and _passes(row, judges) for row in found)
        return Measured(len(found), kept, opened)

    def lost(self, job: Slice) -> Measured:
        """One row that killed its worker each time it was tried: it failed."""
        rows = load_rows(self.work.unit("rows", job.unit))
        row = rows[job.first]
        made_of = digest(
            VERSION, fingerprint_of(self.work.unit("rows", job.unit)), Pictures(self.source, self.work).state(rows)
        )
        failed = {"number": row["number"], "known": NOTHING, "failures": "{}", "failed": row["reason"] or KILLED}
        part = self._part(job) if job.stop >= 0 else self.work.unit("measured", job.unit)
        save_measured(part, [failed], made_of)
        return Measured(1, 0, 1)

    def join(self, unit: int) -> None:
        """Makes one file of the parts that a unit was halved into."""
        parts = [p for p in numbered(self.work.folder / "measured", ".part") if p.name.startswith(f"{unit:06d}.")]
        made_of = fingerprint_of(parts[0]).partition(" ")[0]
        save_measured(self.work.unit("measured", unit), [row for part in parts for row in load_rows(part)], made_of)
        for part in parts:
            part.unlink()

    def _part(self, job: Slice) -> Path:
        path = self.work.unit("measured", job.unit)
        return path if job.stop < 0 else path.with_suffix(f".{job.first:05d}-{job.stop:05d}.part")

    def _seen(
        self, pictures: Pictures, row: Mapping[str, Any], known: Mapping[str, Any], steps: Mapping[str, PictureStep]
    ) -> dict[str, Any]:
        from bimo.data.curation import seen

        try:
            data = pictures.bytes_of(row)
            picture = seen.see(data)
        except Unusable as error:
            return {"failed": error.reason, "detail": _text(error.detail)}
        except BimoError:
            raise
        # A decoder or a reader that falls over a file: the file is at fault, and is told with what was raised.
        except Exception as error:
            return {"failed": f"decode: {type(error).__name__}", "detail": _text(str(error))[:200]}
        found: dict[str, Any] = {
            "sha256": hashlib.sha256(data).hexdigest(),
            "bytes": len(data),
            "width": picture.size[0],
            "height": picture.size[1],
            "as_is": seen.plain(picture),
        }
        failures = cast("dict[str, list[str]]", json.loads(known["failures"]))
        for measuring, step in steps.items():
            try:
                scores = {name: plain(value) for name, value in step.measure(picture).items()}
            except BimoError:
                raise
            # One picture that a measure cannot cope with must not end a run over millions.
            except Exception as error:
                failures[measuring] = [type(error).__name__, _text(str(error))[:200]]
                continue
            found |= {f"{measuring}{OF}{name}": value for name, value in scores.items()}
        every = sorted({*json.loads(known["known"]), *steps})
        return found | {"known": json.dumps(every), "failures": json.dumps(failures, sort_keys=True)}


def _missing(known: str, wanted: Iterable[str]) -> list[str]:
    measured = set(json.loads(known))
    return [measuring for measuring in wanted if measuring not in measured]


def _passes(row: Mapping[str, Any], judges: Sequence[tuple[str, PictureStep]]) -> bool:
    """Whether the picture rules would keep a row: what the progress bar says."""
    failures = json.loads(row["failures"])
    for measuring, step in judges:
        # What a rule raises is counted when it judges in earnest.
        with contextlib.suppress(Exception):
            if measuring in failures or step.judge(scores_of(row, measuring)) is not None:
                return False
    return True


def measured_by(steps: Sequence[Part]) -> dict[str, PictureStep]:
    """The steps that look at pictures by what they measure: what is measured alike is measured once.

    Raises DataError for a ``measuring`` that cannot name a column.
    """
    found: dict[str, PictureStep] = {}
    for step in steps:
        if isinstance(step, PictureStep):
            measuring = step.measuring()
            if OF in measuring or not measuring:
                raise DataError(f"{named(step)} 的 measuring 是 {measuring!r}", f"{named(step)} measures {measuring!r}")
            found.setdefault(measuring, step)
    return found


def scores_of(row: Mapping[str, Any], measuring: str) -> Scores:
    """What one step measured of a row, by its own names."""
    start = measuring + OF
    return {name.removeprefix(start): value for name, value in row.items() if name.startswith(start)}


FIXED = ("number", "sha256", "bytes", "width", "height", "as_is", "failed", "detail", "known", "failures")


def save_measured(path: Path, rows: Sequence[Mapping[str, Any]], made_of: str) -> None:
    """Saves measured rows. The fingerprint goes on with what failed, which another run may change."""
    import pyarrow as pa

    types = {"number": pa.int64(), "bytes": pa.int64(), "width": pa.int64(), "height": pa.int64(), "as_is": pa.bool_()}
    columns: dict[str, Any] = {
        name: pa.array([row.get(name) for row in rows], types.get(name, pa.string())) for name in FIXED
    }
    for name in sorted({name for row in rows for name in row} - set(FIXED)):
        columns[name] = column([row.get(name) for row in rows])
    failed = digest([[row.get("failed"), row.get("detail"), row["failures"]] for row in rows])
    save_table(path, columns, f"{made_of} {failed}")
