"""The last phase of a run: kept rows into shards in the order of the source, and a table with every row and score."""

from __future__ import annotations

import hashlib
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bimo.curation.phases.measure import Pictures
from bimo.curation.phases.row_state import FAILED, KEPT, WRITTEN, Scored, load_row_states
from bimo.curation.phases.store import (
    Work,
    digest,
    fingerprint_of,
    load_rows,
    load_table,
    read_json,
    save_json,
    save_table,
    to_cell,
    unwritten,
)
from bimo.curation.readers.rows import Unusable
from bimo.data.shards import SAMPLES_PER_SHARD, Sample, Shard, finished, hash_of, shard_name, write_shard

VERSION = 2
#: A shard is closed at so many bytes of pictures, however few samples it has: it is put together in memory.
SHARD_BYTES = 1 << 28
CHANGED = "changed since it was measured"
_HAN = re.compile(r"[\u3400-\u9fff]")


@dataclass(frozen=True)
class Share:
    """What a shard has of a unit: ``count`` samples from the ``skip``-th kept one on."""

    unit: int
    skip: int
    count: int


def key_of(number: int, copy: int = 0) -> str:
    """The name of a sample: the row's number, and which copy it is where a row is written several times."""
    return f"{number:010d}-r{copy}" if copy else f"{number:010d}"


def plan(work: Work, units: int, last: str, samples: int = SAMPLES_PER_SHARD) -> list[tuple[Share, ...]]:
    """What every shard holds: kept rows in their order, as many times as they are to be written."""
    shards: list[tuple[Share, ...]] = []
    current: list[Share] = []
    count = filled = 0
    for unit in range(units):
        standing = load_table(work.unit(last, unit), ["state", "repeats"]).to_pylist()
        sizes = load_table(work.unit("measured", unit), ["bytes"])["bytes"].to_pylist()
        place = start = 0
        for row, size in zip(standing, sizes, strict=True):
            for _ in range(row["repeats"] if row["state"] == KEPT else 0):
                if count == samples or (count and filled + size > SHARD_BYTES):
                    current += [Share(unit, start, place - start)] if place > start else []
                    shards.append(tuple(current))
                    current, start, count, filled = [], place, 0, 0
                place, count, filled = place + 1, count + 1, filled + size
        if place > start:
            current.append(Share(unit, start, place - start))
    return [*shards, tuple(current)] if current else shards


@dataclass(frozen=True)
class Written:
    """A finished shard, and the rows that could not be written into it, number -> reason."""

    shard: Shard
    lost: tuple[tuple[int, str], ...]


@dataclass(frozen=True)
class WriteShard:
    """Writes one shard, in any process, unless it is there already, of the same rows."""

    source: Path
    work: Work
    out: Path
    last: str

    def __call__(self, job: tuple[int, tuple[Share, ...]]) -> Written:
        """Raises DataError where the disk does not take it."""
        number, shares = job
        name = shard_name(number)
        path, beside = self.out / name, self.work.folder / "lost" / f"{number:06d}.json"
        wanted = [item for share in shares for item in self._wanted(share)]
        stamp = digest(VERSION, [[w["key"], w["sha256"], w["as_is"], w["record"]] for w in wanted])
        shard = finished(path, stamp)
        if shard is not None and read_json(beside) == {"stamp": stamp, "lost": []}:
            return Written(shard, ())
        lost: dict[int, str] = {}
        try:
            # In a folder of its own: a worker that outlives its run must not write into what another one writes.
            with tempfile.TemporaryDirectory(dir=self.work.folder, prefix="shard-") as folder:
                shard = write_shard(Path(folder) / name, self._samples(wanted, lost), stamp)
                found = sorted(lost.items())
                save_json(beside, {"stamp": stamp, "lost": [list(item) for item in found]})
                (Path(folder) / name).replace(path)
                (Path(folder) / name).with_suffix(".done").replace(path.with_suffix(".done"))
        except OSError as error:
            raise unwritten(error, path) from None
        return Written(shard, tuple(found))

    def _wanted(self, share: Share) -> Iterator[dict[str, Any]]:
        rows = load_rows(self.work.unit("rows", share.unit))
        measured = load_rows(self.work.unit("measured", share.unit), ["sha256", "as_is"])
        place = 0
        for row, seen, standing in zip(
            rows, measured, load_row_states(self.work.unit(self.last, share.unit)), strict=True
        ):
            for copy in range(standing.repeats if standing.state == KEPT else 0):
                if share.skip <= place < share.skip + share.count:
                    captions = [
                        {"text": text, "lang": "zh" if _HAN.search(text) else "en"} for text in standing.captions
                    ]
                    record = {"captions": captions, "labels": standing.labels, "source": row["source"]}
                    yield {"row": row, "key": key_of(row["number"], copy), "record": record} | seen
                place += 1

    def _samples(self, wanted: Sequence[Mapping[str, Any]], lost: dict[int, str]) -> Iterator[Sample]:
        from bimo.curation import decoded_image

        pictures = Pictures(self.source, self.work)
        last: tuple[int, bytes] | None = None
        for item in wanted:
            number = item["row"]["number"]
            if number in lost:
                continue
            if last is None or last[0] != number:
                try:
                    data = pictures.bytes_of(item["row"])
                    if hashlib.sha256(data).hexdigest() != item["sha256"]:
                        raise Unusable(CHANGED)
                    last = number, data if item["as_is"] else decoded_image.upright(data)
                except Unusable as error:
                    lost[number] = error.reason
                    continue
            yield item["key"], last[1], item["record"]


#: Columns of the table besides scores; a score of such a name gets a number behind it.
FIXED = (
    *("number", "source", "state", "rule", "step", "reason", "detail", "value", "threshold", "trail"),
    *("captions_before", "captions", "labels", "repeats", "shard", "sha256", "width", "height", "bytes"),
    *("converted", "path", "offset", "size", "form", "column", "fetched"),
)


@dataclass(frozen=True)
class ScoreColumn:
    """A column of scores in the table, and where it comes from; ``type`` is that which all units agree on."""

    name: str
    room: str
    column: str
    type: str


def score_columns(work: Work, units: int, scored: Sequence[Scored]) -> list[ScoreColumn]:
    """Every score of a run in the order of its steps; one measured by two steps is there once."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    found: dict[tuple[str, str], set[str]] = {}
    for unit in range(units):
        for one in dict.fromkeys((s.room, s.start) for s in scored):
            room, start = one
            try:
                schema = pq.read_schema(work.unit(room, unit))
            except OSError:
                continue
            for field in schema:
                if field.name.startswith(start):
                    found.setdefault((room, field.name), set()).add(str(field.type))
    made: list[ScoreColumn] = []
    taken = {*FIXED}
    order = {(s.room, s.start): place for place, s in reversed(list(enumerate(scored)))}
    ranked = sorted(found, key=lambda key: (_rank(key, order), key))
    for room, name in ranked:
        types = found[room, name]
        plain = name.rpartition("\t")[2]
        shown, again = plain, 2
        if plain in ("width", "height"):
            continue
        while shown in taken:
            shown, again = f"{plain} {again}", again + 1
        taken.add(shown)
        kinds = [pa.string(), pa.float64(), pa.uint64(), pa.int64()]
        wide = next((kind for kind in kinds if str(kind) in types), pa.float64())
        made.append(ScoreColumn(shown, room, name, str(wide)))
    return made


def _rank(key: tuple[str, str], order: Mapping[tuple[str, str], int]) -> int:
    return min(place for (room, start), place in order.items() if key[0] == room and key[1].startswith(start))


@dataclass(frozen=True)
class WriteTable:
    """Writes the table of one unit, in any process: every row with its state, trail, captions and scores."""

    work: Work
    out: Path
    last: str
    scores: tuple[ScoreColumn, ...]

    def __call__(self, job: tuple[int, tuple[tuple[int, Share], ...], tuple[tuple[int, str], ...]]) -> None:
        """``job`` is the unit, the shares that shards have of it, by their number, and the rows lost in writing."""
        import pyarrow as pa

        unit, shares, gone = job
        rooms = ["rows", "measured", self.last, *sorted({score.room for score in self.scores} - {"measured"})]
        prints = [fingerprint_of(self.work.unit(room, unit)) for room in rooms]
        plan = [[number, share.skip, share.count] for number, share in shares]
        layout = [[s.name, s.room, s.column, s.type] for s in self.scores]
        made_of = digest(VERSION, rooms, prints, plan, gone, layout)
        path, beside = self.out / "table" / f"{unit:06d}.parquet", self.work.folder / "table" / f"{unit:06d}.json"
        # The table itself says nothing of the machine it was made on: what it was made of stands beside it.
        if path.is_file() and read_json(beside) == {"made of": made_of, "sha256": hash_of(path)}:
            return
        rows = load_table(self.work.unit("rows", unit))
        measured = load_table(self.work.unit("measured", unit))
        standings = load_row_states(self.work.unit(self.last, unit))
        for row in standings:
            if reason := dict(gone).get(row.number):
                row.fail(reason)
                row.trail[-1]["lost"] = True
        texts, numbers = pa.string(), pa.int64()
        columns: dict[str, Any] = {
            "number": rows["number"],
            "source": rows["source"],
            "step": pa.array([row.step for row in standings], pa.int32()),
            "captions_before": rows["captions"],
            "captions": pa.array([row.captions for row in standings], pa.list_(texts)),
            "repeats": pa.array([row.repeats if row.state == KEPT else 0 for row in standings], pa.int32()),
            "shard": pa.array(_shards(standings, shares), numbers),
        }
        for name in ("state", "rule", "reason", "detail"):
            columns[name] = pa.array([getattr(row, name) for row in standings], texts)
        for name in WRITTEN:
            columns[name] = pa.array([to_cell(getattr(row, name)) for row in standings], texts)
        columns |= {name: measured[name] for name in ("sha256", "width", "height", "bytes")}
        # Scores that were stored before colours were converted know of none.
        known = "converted" in measured.column_names
        columns["converted"] = measured["converted"] if known else pa.nulls(len(measured), texts)
        columns |= {name: rows[name] for name in ("path", "offset", "size", "form", "column", "fetched")}
        made = {name: _flat(columns[name]) for name in FIXED}
        for score in self.scores:
            made[score.name] = self._scores(unit, score, rows["number"].to_pylist(), measured)
        save_table(path, made)
        save_json(beside, {"made of": made_of, "sha256": hash_of(path)})

    def _scores(self, unit: int, score: ScoreColumn, numbers: Sequence[int], measured: Any) -> Any:
        import pyarrow as pa

        wanted = pa.type_for_alias(score.type)
        if score.room == "measured":
            found = dict(zip(numbers, _values(measured, score.column), strict=True))
        else:
            asked = load_table(self.work.unit(score.room, unit))
            found = dict(zip(asked["number"].to_pylist(), _values(asked, score.column), strict=True))
        values = [found.get(number) for number in numbers]
        texts = score.type == "string"
        return pa.array([None if v is None else str(v) if texts else v for v in values], wanted)


def _values(table: Any, name: str) -> list[Any]:
    return table[name].to_pylist() if name in table.column_names else [None] * len(table)


def _flat(column: Any) -> Any:
    import pyarrow as pa

    return pa.concat_arrays(column.chunks) if isinstance(column, pa.ChunkedArray) else column


def _shards(standings: Sequence[Any], shares: Sequence[tuple[int, Share]]) -> list[int | None]:
    """The shard that holds the first sample of every row, None of those that are in none."""
    found: list[int | None] = []
    place = 0
    for row in standings:
        kept = row.state == KEPT
        at = [number for number, share in shares if share.skip <= place < share.skip + share.count]
        found.append(at[0] if kept and at else None)
        # A row that was lost in writing was planned for, as often as it was to be written.
        place += row.repeats if kept or (row.state == FAILED and row.trail[-1].get("lost")) else 0
    return found


def write_selection(out: Path, units: int) -> int:
    """Writes ``selection.parquet``, the index of kept rows, from the table; answers how many there are."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    names = ["number", "source", "shard", "repeats", "sha256"]
    path, partial, count = out / "selection.parquet", out / ".selection.part", 0
    types = (pa.int64(), pa.string(), pa.int64(), pa.int32(), pa.string())
    schema = pa.schema(list(zip(names, types, strict=True)))
    try:
        with pq.ParquetWriter(partial, schema, compression="zstd") as writer:
            for unit in range(units):
                table = load_table(out / "table" / f"{unit:06d}.parquet", [*names, "state"])
                kept = table.filter(pa.array([state == KEPT for state in table["state"].to_pylist()])).select(names)
                count += len(kept)
                writer.write_table(kept.cast(schema))
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise unwritten(error, path) from None
    return count


def remove_shards(out: Path, work: Work, count: int) -> None:
    """Removes the shards from number ``count`` on, and folders of shards that were never finished."""
    for path in sorted(out.glob("shard-*")):
        number = path.stem.removeprefix("shard-")
        if path.suffix in (".tar", ".done") and number.isdigit() and int(number) >= count:
            path.unlink()
    for folder in work.folder.glob("shard-*"):
        shutil.rmtree(folder, ignore_errors=True)
