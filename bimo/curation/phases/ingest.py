"""Phase 0: streams the rows of a source into unit files and downloads the pictures that are given by URL."""

# pyarrow has no types; what crosses it here is named where it is kept.
# pyright: reportMissingTypeStubs=false, reportUnknownArgumentType=false, reportUnknownMemberType=false
# pyright: reportUnknownVariableType=false

from __future__ import annotations

import hashlib
import json
import os
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, count
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from bimo.core.errors import DataError
from bimo.core.messages import say
from bimo.curation.phases.store import (
    CHARACTERS_A_UNIT,
    Work,
    digest,
    load_rows,
    most_rows,
    read_json,
    save_json,
    save_table,
    sweep,
)
from bimo.curation.readers.rows import Broken, Place, Row

if TYPE_CHECKING:
    from bimo.curation.readers.detect_format import SourceFormat
    from bimo.curation.readers.fetch import Limits

VERSION = 2
INDEX = "rows/index.json"
#: The folder of rows that share a picture: the number of the first of them, and the captions of all.
JOINED = "joined"
#: The path of the source and the fingerprint of its files.
SOURCE = "source.json"


@dataclass(frozen=True)
class Ingested:
    """The rows that were read: how many each unit has, the number of its first, and how many failed to download."""

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


def check_output_folder(source: Path, out: Path) -> None:
    """Raises DataError where a run must not write to ``out``: it is the source, contains it or lies inside it, or has
    the output of another source. A source that was moved counts as the same if its names, sizes and times are.
    """
    check_output_outside(source, out)
    here, there = source.resolve(), out.resolve()
    if any(here.is_relative_to(there / name) for name in ("work", "table")):
        raise DataError(
            "the source {source} lies in a folder that DST itself has, and would be cleared; write elsewhere",
            source=source,
        )
    known = read_json(out / "work" / SOURCE)
    if isinstance(known, dict):
        before = cast("dict[str, str]", known)
        if before["path"] == str(here) or (here.exists() and before["content"] == _content(source)):
            return
        made_of = before["path"]
    else:
        # Its work folder was deleted: the run starts again in the same output folder.
        report = read_json(out / "report.json")
        earlier = cast("dict[str, Any]", report).get("source") if isinstance(report, dict) else None
        if earlier == str(here) or not (earlier or (out / "index.json").exists() or any(out.glob("shard-*.tar"))):
            return
        made_of = earlier or say("shards of an unknown source")
    raise DataError(
        "{out} holds what was made of {made_of}, and the source is {here} now; write to another folder, "
        "or delete {out} first",
        out=out,
        made_of=made_of,
        here=here,
    )


def check_output_outside(source: Path, out: Path) -> None:
    """Raises DataError where the output is the source, or lies inside it."""
    here, there = source.resolve(), out.resolve()
    if here == there:
        raise DataError("the source and DST are one: {source}; name another folder for what is made", source=source)
    if here.is_dir() and there.is_relative_to(here):
        raise DataError(
            "{out} lies in {source}: the next run would read its own results; write elsewhere", out=out, source=source
        )


def require_rows(source: Path) -> SourceFormat:
    """The format of a source. Raises DataError for one that cannot be read or has no rows; writes nothing."""
    from bimo.curation.readers import reading

    what = reading.detect_format(source)
    if next(what.read(count()), None) is None:
        raise DataError("{source} is empty: {what}, and not one row in it", source=source, what=what.description)
    return what


def _content(source: Path) -> str:
    from bimo.curation.readers import reading

    return reading.state(source)


def read_ingested(work: Work) -> Ingested:
    """The rows of an earlier run. Raises DataError where there was none."""
    known = read_json(work.folder / INDEX)
    if not isinstance(known, dict):
        raise DataError(
            "{folder} holds nothing that was read; run once without --select-only first", folder=work.folder
        )
    table = cast("dict[str, Any]", known)
    return Ingested(tuple(table["counts"]), tuple(table["firsts"]), table["unfetched"])


def ingest(source: Path, work: Work, on_rows: Callable[[int], None], limits: Limits | None = None) -> Ingested:
    """Reads a source into unit files, unless it was read before, is unchanged and has nothing left to download.

    ``on_rows`` is called with how many more rows were read; downloads keep to ``limits``. Raises DataError for a source
    that cannot be read.
    """
    from bimo.curation.readers import reading

    content = _content(source)
    state = digest(VERSION, str(source.resolve()), content)
    save_json(work.folder / SOURCE, {"path": str(source.resolve()), "content": content})
    known = read_json(work.folder / INDEX)
    if isinstance(known, dict) and cast("dict[str, Any]", known)["state"] == state:
        before = read_ingested(work)
        if not before.unfetched:
            on_rows(before.rows)
            return before
    (work.folder / INDEX).unlink(missing_ok=True)
    pictures = _Named()
    unfetched, counts, firsts, last = 0, list[int](), list[int](), -1
    for unit, group in enumerate(_units(_fetched(pictures.of(reading.rows(source)), work.fetched, limits))):
        if group[0][0].number <= last:
            raise DataError(
                "row {number} of {source} does not come after {last}: its rows are out of order",
                number=group[0][0].number,
                source=group[0][0].source,
                last=last,
            )
        unfetched += sum(addressed and isinstance(row, Broken) for row, addressed in group)
        rows = [row for row, _ in group]
        fetched = {row.number for row, addressed in group if addressed and isinstance(row, Row)}
        save_table(work.unit("rows", unit), _columns(rows, fetched), digest(VERSION, [_plain_row(row) for row in rows]))
        firsts.append(group[0][0].number)
        last = group[-1][0].number
        counts.append(len(group))
        on_rows(len(group))
    sweep(work.folder / "rows", len(firsts))
    pictures.join(work, len(firsts))
    save_json(work.folder / INDEX, {"state": state, "counts": counts, "firsts": firsts, "unfetched": unfetched})
    return Ingested(tuple(counts), tuple(firsts), unfetched)


class _Named:
    """The picture of each row, as a hash of eight bytes: rows of one picture become one sample."""

    def __init__(self) -> None:
        self._numbers, self._pictures = array("q"), array("Q")

    def of(self, rows: Iterable[Row | Broken]) -> Iterator[Row | Broken]:
        """Passes the rows on and records their pictures."""
        for row in rows:
            if isinstance(row, Row):
                place = row.picture
                name = f"{place.path}\0{place.offset}\0{place.size}\0{place.form}\0{place.column}"
                hashed = hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8).digest()
                self._numbers.append(row.number)
                self._pictures.append(int.from_bytes(hashed, "big"))
            yield row

    def join(self, work: Work, units: int) -> None:
        """Writes the first row of each shared picture, with the captions of all its rows."""
        import numpy as np
        import pyarrow as pa

        numbers, pictures = np.array(self._numbers, np.int64), np.array(self._pictures, np.uint64)
        _, first, inverse, times = np.unique(pictures, return_index=True, return_inverse=True, return_counts=True)
        several = times[inverse] > 1
        keepers = dict(zip(numbers[several].tolist(), numbers[first[inverse[several]]].tolist(), strict=True))
        captions: dict[int, dict[str, None]] = {}
        if keepers:
            for unit in range(units):
                for row in load_rows(work.unit("rows", unit), ["number", "captions", "reason"]):
                    if row["reason"] is None and (keeper := keepers.get(row["number"])) is not None:
                        captions.setdefault(keeper, {}).update(dict.fromkeys(row["captions"]))
        for unit in range(units):
            path = work.unit(JOINED, unit)
            own = load_rows(work.unit("rows", unit), ["number", "reason"]) if keepers else []
            numbers_joined = [row["number"] for row in own if row["reason"] is None and row["number"] in keepers]
            if not numbers_joined:
                path.unlink(missing_ok=True)
                continue
            firsts = [keepers[number] for number in numbers_joined]
            texts = [
                tuple(captions[number]) if number == keeper else ()
                for number, keeper in zip(numbers_joined, firsts, strict=True)
            ]
            columns = {"number": pa.array(numbers_joined, pa.int64()), "first": pa.array(firsts, pa.int64())}
            columns |= {"captions": pa.array(texts, pa.list_(pa.string()))}
            save_table(path, columns, digest(VERSION, numbers_joined, firsts, texts))
        sweep(work.folder / JOINED, units)


#: A row, and whether its picture was given by URL.
Settled = tuple[Row | Broken, bool]


def _units(rows: Iterable[Settled]) -> Iterator[list[Settled]]:
    unit, group, characters = 0, list[Settled](), 0
    for row, addressed in rows:
        group.append((_writable(row), addressed))
        characters += sum(map(len, row.captions)) if isinstance(row, Row) else 0
        if len(group) >= most_rows(unit) or characters >= CHARACTERS_A_UNIT:
            yield group
            unit, group, characters = unit + 1, [], 0
    if group:
        yield group


def _fetched(rows: Iterator[Row | Broken], folder: Path, limits: Limits | None) -> Iterator[Settled]:
    """The rows, with pictures that are given by URL downloaded into ``folder``."""
    for row in rows:
        if isinstance(row, Row) and row.picture.form == "url":
            break
        yield row, False
    else:
        return
    from bimo.curation.readers import fetch

    waiting: set[int] = set()

    def noted() -> Iterator[Row | Broken]:
        for one in chain((row,), rows):
            if isinstance(one, Row) and one.picture.form == "url":
                waiting.add(one.number)
            yield one

    for one in fetch.fetch(noted(), folder, limits):
        addressed = one.number in waiting
        waiting.discard(one.number)
        yield one, addressed


def _writable(row: Row | Broken) -> Row | Broken:
    """The row; broken if its texts have lone surrogates and so cannot be encoded."""
    if isinstance(row, Broken):
        return row
    try:
        "".join((*row.captions, *row.labels, *(v for v in row.labels.values() if isinstance(v, str)))).encode()
    except UnicodeEncodeError as error:
        return Broken(row.number, row.source, "not text", str(error.reason))
    return row


def text_of(value: str) -> str:
    """Text that can be encoded, lone surrogates escaped."""
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
    readable = [isinstance(row, Row) for row in rows]
    return {
        "number": pa.array([row.number for row in rows], pa.int64()),
        "source": pa.array([text_of(row.source) for row in rows], pa.string()),
        # Paths are bytes; not all of them decode.
        "path": pa.array([os.fsencode(place.path) for place in places], pa.binary()),
        "offset": pa.array([place.offset for place in places], pa.int64()),
        "size": pa.array([place.size for place in places], pa.int64()),
        "form": pa.array([place.form for place in places], pa.string()),
        "column": pa.array([text_of(place.column) for place in places], pa.string()),
        "fetched": pa.array([row.number in fetched for row in rows], pa.bool_()),
        "captions": pa.array([row.captions if isinstance(row, Row) else () for row in rows], pa.list_(pa.string())),
        "labels": pa.array(
            [json.dumps(dict(row.labels) if isinstance(row, Row) else {}, ensure_ascii=False) for row in rows],
            pa.string(),
        ),
        "reason": pa.array(
            [None if w else text_of(cast(Broken, r).reason) for w, r in zip(readable, rows, strict=True)]
        ),
        "detail": pa.array(
            [None if w else text_of(cast(Broken, r).detail) for w, r in zip(readable, rows, strict=True)]
        ),
    }
