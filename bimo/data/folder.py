"""A user's own pictures and captions as shards; what cannot be used is counted with its reason, never skipped."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from bimo.core.errors import DataError, Wording, say
from bimo.core.files import write_whole
from bimo.data.curation.rows import Unusable
from bimo.data.curation.seen import plain, see, upright
from bimo.data.shards import SAMPLES_PER_SHARD, Sample, Shard, finished, shard_name, write_index, write_shard

PICTURE_FILES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff"}
METADATA = "metadata.jsonl"
#: What columns are called in the folders that published trainers read.
FILE_COLUMNS = ("file_name", "name", "dir", "file", "image", "path")
TEXT_COLUMNS = ("text", "caption", "captions", "description")
#: Where a table's pictures may lie beside it.
PLACES = ("", "images")
REPORT = "report.json"
_HAN = re.compile(r"[\u3400-\u9fff]")


class Reason(Wording):
    """Why a picture cannot be used."""

    CAPTION = ("没有说明", "no caption")
    MISSING = ("找不到文件", "file not found")
    OUTSIDE = ("在文件夹之外", "outside the folder")
    DAMAGED = ("解不开", "cannot be decoded")
    SMALL = ("太小", "too small")
    LARGE = ("太大", "too large")


@dataclass(frozen=True)
class Entry:
    """A picture as a folder or table names it, with its captions and what else is said of it."""

    name: str
    captions: tuple[str, ...]
    labels: Mapping[str, Any]


@dataclass(frozen=True)
class FolderReport:
    """What became of a folder: how many are kept, and the rest by name with the reason."""

    kept: int
    left: tuple[tuple[str, Reason], ...]

    def reasons(self) -> dict[Reason, int]:
        """How many for each reason."""
        return dict(Counter(reason for _, reason in self.left))


def build_folder(source: Path, out: Path, side: int = 1) -> FolderReport:
    """Writes the pictures of a folder as shards, an index and report.json; ``side`` is the least of a usable one.

    Captions come from metadata.jsonl, else from .csv tables, else from a .txt beside each picture, a caption a line.
    A shard that is there already, of the same files, is not written again. Raises DataError for a table that cannot be
    read and for a folder without one usable picture.
    """
    from rich.console import Console
    from rich.progress import track

    if not source.is_dir():
        raise DataError(f"没有文件夹 {source}", f"there is no folder {source}")
    entries = list(_entries(source))
    out.mkdir(parents=True, exist_ok=True)
    made: list[Shard] = []
    left: list[tuple[str, Reason]] = []
    firsts = range(0, len(entries), SAMPLES_PER_SHARD)
    # What is printed besides is the answer, so the bar goes elsewhere.
    bar = track(firsts, description=say("写数据", "writing data"), console=Console(stderr=True))
    for number, first in enumerate(bar):
        shard, dropped = _shard(
            source, out / shard_name(number), entries[first : first + SAMPLES_PER_SHARD], first, side
        )
        made.append(shard)
        left += dropped
    kept = sum(shard.count for shard in made)
    rows = [{"file": name, "reason": reason.name.lower()} for name, reason in left]
    write_whole(out / REPORT, json.dumps({"kept": kept, "left": rows}, ensure_ascii=False, indent=1).encode())
    if not kept:
        why = Counter(reason for _, reason in left)
        zh = "、".join(f"{r.zh} {n}" for r, n in why.items()) or "没有图片"
        en = ", ".join(f"{r.en} {n}" for r, n in why.items()) or "no pictures"
        raise DataError(f"{source} 里没有一张可用的图片：{zh}", f"{source} holds not one usable picture: {en}")
    write_index(out, made)
    return FolderReport(kept, tuple(left))


def _shard(
    source: Path, path: Path, entries: Sequence[Entry], first: int, side: int
) -> tuple[Shard, list[tuple[str, Reason]]]:
    stamp = hashlib.sha256(f"{side}".encode())
    for entry in entries:
        stamp.update(repr((entry.name, entry.captions, sorted(entry.labels.items()), _state(source, entry))).encode())
    beside = path.with_suffix(".left.json")
    shard = finished(path, stamp.hexdigest())
    if shard is not None and beside.is_file():
        table = cast("list[list[str]]", json.loads(beside.read_text(encoding="utf-8")))
        return shard, [(name, Reason[reason]) for name, reason in table]
    left: list[tuple[str, Reason]] = []
    samples: list[Sample] = []
    for number, entry in enumerate(entries, first):
        found = usable(source, entry.name, side) if entry.captions else Reason.CAPTION
        if isinstance(found, Reason):
            left.append((entry.name, found))
            continue
        captions = [{"text": text, "lang": "zh" if _HAN.search(text) else "en"} for text in entry.captions]
        samples.append((f"{number:08d}", found, {"captions": captions, "labels": entry.labels, "source": entry.name}))
    listed = [[name, reason.name] for name, reason in left]
    write_whole(beside, json.dumps(listed, ensure_ascii=False).encode())
    return write_shard(path, samples, stamp.hexdigest()), left


def usable(source: Path, name: str, side: int = 1) -> bytes | Reason:
    """The bytes of a picture of a folder: its own where they are upright RGB, else written anew, on white; or why it is
    of no use.
    """
    path = located(source, name)
    if path is None:
        return Reason.MISSING
    if not path.resolve().is_relative_to(source.resolve()):
        return Reason.OUTSIDE
    try:
        seen = see(path.read_bytes())
        if min(seen.size) < side:
            return Reason.SMALL
        return seen.data if plain(seen) else upright(seen.data)
    except Unusable as error:
        return Reason.LARGE if error.reason == "too large" else Reason.DAMAGED


def located(source: Path, name: str) -> Path | None:
    """Where a picture that a table names lies, beside the table or below images; None where it does not."""
    return next((source / place / name for place in PLACES if (source / place / name).is_file()), None)


def _state(source: Path, entry: Entry) -> tuple[int, int]:
    path = located(source, entry.name)
    return (0, 0) if path is None else (path.stat().st_size, path.stat().st_mtime_ns)


def _entries(source: Path) -> Iterator[Entry]:
    metadata, tables = source / METADATA, sorted(source.rglob("*.csv"))
    if metadata.is_file():
        yield from (_entry(row, metadata) for row in _rows(metadata))
    elif tables:
        for table in tables:
            yield from (_entry(row, table) for row in _table(table))
    else:
        for path in sorted(p for p in source.rglob("*") if p.suffix.lower() in PICTURE_FILES):
            words = path.with_suffix(".txt")
            text = _read(words) if words.is_file() else ""
            yield Entry(path.relative_to(source).as_posix(), _captions(text.splitlines()), {})


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(_read(path).splitlines(), 1):
        if line.strip():
            try:
                yield dict(json.loads(line))
            except (ValueError, TypeError) as error:
                raise DataError(
                    f"{path} 第 {number} 行不是 JSON：{error}", f"line {number} of {path}: {error}"
                ) from None


def _table(path: Path) -> Iterator[dict[str, Any]]:
    try:
        yield from csv.DictReader(io.StringIO(_read(path)), strict=True)
    except csv.Error as error:
        raise DataError(f"{path} 不是 CSV 表：{error}", f"{path} is not a table in CSV: {error}") from None


def _entry(row: Mapping[str, Any], path: Path) -> Entry:
    file = next((column for column in FILE_COLUMNS if row.get(column)), None)
    texts = [row[column] for column in TEXT_COLUMNS if row.get(column)]
    if file is None or not any(column in row for column in TEXT_COLUMNS):
        raise DataError(
            f"{path} 里要有一列文件（{', '.join(FILE_COLUMNS)}）和一列说明（{', '.join(TEXT_COLUMNS)}），"
            f"这里有 {', '.join(map(str, row))}",
            f"{path} needs a column of files ({', '.join(FILE_COLUMNS)}) and one of captions "
            f"({', '.join(TEXT_COLUMNS)}); it has {', '.join(map(str, row))}",
        )
    listed = [
        str(text) for value in texts for text in (cast("list[Any]", value) if isinstance(value, list) else [value])
    ]
    rest = {str(name): _number(value) for name, value in row.items() if name != file and name not in TEXT_COLUMNS}
    return Entry(str(row[file]), _captions(listed), {n: v for n, v in rest.items() if isinstance(v, (str, int, float))})


def _number(value: Any) -> Any:
    """A number that a table holds as text, as a number: scores are labels."""
    if isinstance(value, str) and re.fullmatch(r"-?\d+(\.\d+)?([eE]-?\d+)?", value):
        return float(value)
    return value


def _captions(lines: Sequence[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(line.strip() for line in lines if line.strip()))


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path} 不是 UTF-8 文本（{error.reason}）；请另存为 UTF-8",
            f"{path} is not text in UTF-8 ({error.reason}); save it as UTF-8",
        ) from None
