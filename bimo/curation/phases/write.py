"""Phase 3: writes kept rows into shards in the order of the source, and a table of every row with its scores."""

# pyarrow has no types; what crosses it here is named where it is kept.
# pyright: reportMissingTypeStubs=false, reportUnknownArgumentType=false, reportUnknownMemberType=false
# pyright: reportUnknownVariableType=false

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
from bimo.curation.phases.row_state import FAILED, JSON_COLUMNS, KEPT, Scored, load_row_states
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
#: The most bytes of pictures in a shard, however few samples that is: it is assembled in memory.
SHARD_BYTES = 1 << 28
CHANGED = "changed since it was measured"
_HAN = re.compile(r"[\u3400-\u9fff]")


@dataclass(frozen=True)
class Share:
    """A shard's part of a unit: ``count`` samples from the ``skip``-th kept one on."""

    unit: int
    skip: int
    count: int


def key_of(number: int, copy: int = 0) -> str:
    """The name of a sample: the row's number, and which copy it is where a row is written several times."""
    return f"{number:010d}-r{copy}" if copy else f"{number:010d}"


def plan(work: Work, units: int, last: str, samples: int = SAMPLES_PER_SHARD) -> list[tuple[Share, ...]]:
    """The parts of every shard: kept rows in order, each as often as it is repeated."""
    shards: list[tuple[Share, ...]] = []
    current: list[Share] = []
    count = filled = 0
    for unit in range(units):
        row_state = load_table(work.unit(last, unit), ["state", "repeats"]).to_pylist()
        sizes = load_table(work.unit("measured", unit), ["bytes"])["bytes"].to_pylist()
        place = start = 0
        for row, size in zip(row_state, sizes, strict=True):
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
class WrittenShard:
    """A finished shard, and the rows that could not be written into it, number -> reason."""

    shard: Shard
    lost: tuple[tuple[int, str], ...]


@dataclass(frozen=True)
class WriteShard:
    """Writes one shard, in any process, unless it exists already with the same rows."""

    source: Path
    work: Work
    out: Path
    last: str

    def __call__(self, job: tuple[int, tuple[Share, ...]]) -> WrittenShard:
        """Raises DataError where the disk does not take it."""
        number, shares = job
        name = shard_name(number)
        path, beside = self.out / name, self.work.folder / "lost" / f"{number:06d}.json"
        rows = [item for share in shares for item in self._rows_of(share)]
        stamp = digest(VERSION, [[w["key"], w["sha256"], w["as_is"], w["record"]] for w in rows])
        shard = finished(path, stamp)
        if shard is not None and read_json(beside) == {"stamp": stamp, "lost": []}:
            return WrittenShard(shard, ())
        lost: dict[int, str] = {}
        try:
            # In a folder of its own: a worker that outlives its run must not write into another worker's file.
            with tempfile.TemporaryDirectory(dir=self.work.folder, prefix="shard-") as folder:
                shard = write_shard(Path(folder) / name, self._samples(rows, lost), stamp)
                losses = sorted(lost.items())
                save_json(beside, {"stamp": stamp, "lost": [list(item) for item in losses]})
                (Path(folder) / name).replace(path)
                (Path(folder) / name).with_suffix(".done").replace(path.with_suffix(".done"))
        except OSError as error:
            raise unwritten(error, path) from None
        return WrittenShard(shard, tuple(losses))

    def _rows_of(self, share: Share) -> Iterator[dict[str, Any]]:
        rows = load_rows(self.work.unit("rows", share.unit))
        measured = load_rows(self.work.unit("measured", share.unit), ["sha256", "as_is"])
        place = 0
        for row, measured_row, row_state in zip(
            rows, measured, load_row_states(self.work.unit(self.last, share.unit)), strict=True
        ):
            for copy in range(row_state.repeats if row_state.state == KEPT else 0):
                if share.skip <= place < share.skip + share.count:
                    captions = [
                        {"text": text, "lang": "zh" if _HAN.search(text) else "en"} for text in row_state.captions
                    ]
                    record = {"captions": captions, "labels": row_state.labels, "source": row["source"]}
                    yield {"row": row, "key": key_of(row["number"], copy), "record": record} | measured_row
                place += 1

    def _samples(self, rows: Sequence[Mapping[str, Any]], lost: dict[int, str]) -> Iterator[Sample]:
        from bimo.curation import decoded_image

        pictures = Pictures(self.source, self.work)
        last: tuple[int, bytes] | None = None
        for item in rows:
            number = item["row"]["number"]
            if number in lost:
                continue
            if last is None or last[0] != number:
                try:
                    data = pictures.bytes_of(item["row"])
                    if hashlib.sha256(data).hexdigest() != item["sha256"]:
                        raise Unusable(CHANGED)
                    last = number, data if item["as_is"] else decoded_image.shard_bytes(data)
                except Unusable as error:
                    lost[number] = error.reason
                    continue
            yield item["key"], last[1], item["record"]


#: Columns of the table besides scores; a score of the same name gets a number appended.
FIXED = (
    *("number", "source", "state", "rule", "step", "reason", "detail", "value", "threshold", "trail"),
    *("captions_before", "captions", "labels", "repeats", "shard", "sha256", "width", "height", "bytes"),
    *("converted", "path", "offset", "size", "form", "column", "fetched"),
)


@dataclass(frozen=True)
class ScoreColumn:
    """A column of scores in the table and where it is read from; ``type`` holds the values of all units."""

    name: str
    folder_name: str
    column: str
    type: str


def score_columns(work: Work, units: int, scored: Sequence[Scored]) -> list[ScoreColumn]:
    """Every score of a run in the order of its steps; one measured by two steps is there once."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    types_of: dict[tuple[str, str], set[str]] = {}
    for unit in range(units):
        for one in dict.fromkeys((s.folder_name, s.start) for s in scored):
            folder_name, start = one
            try:
                schema = pq.read_schema(work.unit(folder_name, unit))
            except OSError:
                continue
            for field in schema:
                if field.name.startswith(start):
                    types_of.setdefault((folder_name, field.name), set()).add(str(field.type))
    columns: list[ScoreColumn] = []
    ingested = {*FIXED}
    order = {(s.folder_name, s.start): place for place, s in reversed(list(enumerate(scored)))}
    ranked = sorted(types_of, key=lambda key: (_rank(key, order), key))
    for folder_name, name in ranked:
        types = types_of[folder_name, name]
        plain = name.rpartition("\t")[2]
        shown, again = plain, 2
        if plain in ("width", "height"):
            continue
        while shown in ingested:
            shown, again = f"{plain} {again}", again + 1
        ingested.add(shown)
        kinds = [pa.string(), pa.float64(), pa.uint64(), pa.int64()]
        wide = next((kind for kind in kinds if str(kind) in types), pa.float64())
        columns.append(ScoreColumn(shown, folder_name, name, str(wide)))
    return columns


def _rank(key: tuple[str, str], order: Mapping[tuple[str, str], int]) -> int:
    return min(place for (folder, start), place in order.items() if key[0] == folder and key[1].startswith(start))


@dataclass(frozen=True)
class WriteTable:
    """Writes the table of one unit, in any process: every row with its state, trail, captions and scores."""

    work: Work
    out: Path
    last: str
    scores: tuple[ScoreColumn, ...]

    def __call__(self, job: tuple[int, tuple[tuple[int, Share], ...], tuple[tuple[int, str], ...]]) -> None:
        """``job``: the unit, the shards' parts of it by shard number, and the rows lost in writing."""
        import pyarrow as pa

        unit, shares, lost = job
        rooms = ["rows", "measured", self.last, *sorted({score.folder_name for score in self.scores} - {"measured"})]
        prints = [fingerprint_of(self.work.unit(folder_name, unit)) for folder_name in rooms]
        plan = [[number, share.skip, share.count] for number, share in shares]
        layout = [[s.name, s.folder_name, s.column, s.type] for s in self.scores]
        inputs_digest = digest(VERSION, rooms, prints, plan, lost, layout)
        path, beside = self.out / "table" / f"{unit:06d}.parquet", self.work.folder / "table" / f"{unit:06d}.json"
        # The table has the same bytes on every machine; the fingerprint of its inputs is in a file of its own.
        if path.is_file() and read_json(beside) == {"made of": inputs_digest, "sha256": hash_of(path)}:
            return
        rows = load_table(self.work.unit("rows", unit))
        measured = load_table(self.work.unit("measured", unit))
        row_states = load_row_states(self.work.unit(self.last, unit))
        for row in row_states:
            if reason := dict(lost).get(row.number):
                row.fail(reason)
                row.trail[-1]["lost"] = True
        texts, numbers = pa.string(), pa.int64()
        columns: dict[str, Any] = {
            "number": rows["number"],
            "source": rows["source"],
            "step": pa.array([row.step for row in row_states], pa.int32()),
            "captions_before": rows["captions"],
            "captions": pa.array([row.captions for row in row_states], pa.list_(texts)),
            "repeats": pa.array([row.repeats if row.state == KEPT else 0 for row in row_states], pa.int32()),
            "shard": pa.array(_shards(row_states, shares), numbers),
        }
        for name in ("state", "rule", "reason", "detail"):
            columns[name] = pa.array([getattr(row, name) for row in row_states], texts)
        for name in JSON_COLUMNS:
            columns[name] = pa.array([to_cell(getattr(row, name)) for row in row_states], texts)
        columns |= {name: measured[name] for name in ("sha256", "width", "height", "bytes")}
        # Scores stored by an earlier version have no such column.
        known = "converted" in measured.column_names
        columns["converted"] = measured["converted"] if known else pa.nulls(len(measured), texts)
        columns |= {name: rows[name] for name in ("path", "offset", "size", "form", "column", "fetched")}
        table_columns = {name: _flat(columns[name]) for name in FIXED}
        for score in self.scores:
            table_columns[score.name] = self._scores(unit, score, rows["number"].to_pylist(), measured)
        save_table(path, table_columns)
        save_json(beside, {"made of": inputs_digest, "sha256": hash_of(path)})

    def _scores(self, unit: int, score: ScoreColumn, numbers: Sequence[int], measured: Any) -> Any:
        import pyarrow as pa

        arrow_type = pa.type_for_alias(score.type)
        if score.folder_name == "measured":
            by_number = dict(zip(numbers, _values(measured, score.column), strict=True))
        else:
            results = load_table(self.work.unit(score.folder_name, unit))
            by_number = dict(zip(results["number"].to_pylist(), _values(results, score.column), strict=True))
        values = [by_number.get(number) for number in numbers]
        texts = score.type == "string"
        return pa.array([None if v is None else str(v) if texts else v for v in values], arrow_type)


def _values(table: Any, name: str) -> list[Any]:
    return table[name].to_pylist() if name in table.column_names else [None] * len(table)


def _flat(column: Any) -> Any:
    import pyarrow as pa

    return pa.concat_arrays(column.chunks) if isinstance(column, pa.ChunkedArray) else column


def _shards(states: Sequence[Any], shares: Sequence[tuple[int, Share]]) -> list[int | None]:
    """The shard of every row's first sample; None for rows in no shard."""
    shards: list[int | None] = []
    place = 0
    for row in states:
        is_kept = row.state == KEPT
        at = [number for number, share in shares if share.skip <= place < share.skip + share.count]
        shards.append(at[0] if is_kept and at else None)
        # A row that was lost in writing had its place in the plan, as often as it was repeated.
        place += row.repeats if is_kept or (row.state == FAILED and row.trail[-1].get("lost")) else 0
    return shards


def write_selection(out: Path, units: int) -> int:
    """Writes ``selection.parquet``, the index of kept rows, from the table; returns how many there are."""
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
                kept_rows = table.filter(pa.array([state == KEPT for state in table["state"].to_pylist()])).select(
                    names
                )
                count += len(kept_rows)
                writer.write_table(kept_rows.cast(schema))
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
