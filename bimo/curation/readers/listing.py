"""Rows of listed pictures: folders, tables, tars, folders of img2dataset, indices of IndexKits."""

# numpy has no types; what crosses it here is named where it is kept.
# pyright: reportUnknownArgumentType=false, reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from bimo.core.errors import DataError
from bimo.curation.readers import archives, columnar, folders, records, tables, text_lines
from bimo.curation.readers.columns import (
    MAXIMUM_LABEL,
    Beside,
    Inline,
    captions_and_labels,
    captions_of,
    record_of,
    row_of,
)
from bimo.curation.readers.formats import RAW_FILES, is_picture
from bimo.curation.readers.rows import Broken, Form, Place, Row, Unusable

if TYPE_CHECKING:
    import numpy as np

CAPTION_FILES = (".txt", ".caption")
TABLES = {".csv", ".tsv", ".jsonl", ".ndjson", ".parquet", ".arrow"}
PACKED = (".tar.gz", ".tgz")
TARS = (".tar", *PACKED)
#: Maps that lie beside a picture, as OneTrainer names them: cat-masklabel.png is white where cat.jpg counts,
#: cat-condlabel.png is what a ControlNet is shown of it.
MAPS = ("masklabel", "condlabel")
#: Chinese-CLIP keeps pictures and captions apart: {split}_imgs.tsv and {split}_texts.jsonl.
APART = ("_imgs.tsv", "_texts.jsonl")

Read = Callable[["count[int]"], Iterator[Row | Broken]]


def both(first: Read, second: Read) -> Read:
    """The rows of one, then those of the other."""

    def read(numbers: count[int]) -> Iterator[Row | Broken]:
        yield from first(numbers)
        yield from second(numbers)

    return read


def pictures(source: Path) -> Read:
    """The pictures of a folder, each with the captions in the files of its name; the folder's name is a label."""

    def read(numbers: count[int]) -> Iterator[Row | Broken]:
        for listing in folders.walk(source):
            if listing.error is not None:
                yield Broken(next(numbers), listing.path or ".", listing.error.reason, listing.error.detail)
            for entry in listing.files:
                if is_one(source, listing, entry.name):
                    yield _picture(source, listing, entry, next(numbers))

    return read


def is_one(source: Path, listing: folders.Listing, name: str) -> bool:
    """Whether a file of a folder is a picture: by its extension, else by its first bytes.

    A raw file of a camera is not one: it begins as TIFF, and a decoder would find a thumbnail in it. Nor is a map of a
    picture (``MAPS``).
    """
    if map_of(name):
        return False
    if is_picture(name):
        return True
    ending = os.path.splitext(name)[1].lower()
    if ending in (*CAPTION_FILES, ".json", *TABLES, *RAW_FILES) or name.lower().endswith(TARS):
        return False
    return folders.format_in(source, os.path.join(listing.path, name)) != ""


def map_of(name: str) -> str:
    """The stem of the picture that a file is a map of, "" where it is none: "cat" of "cat-masklabel.png"."""
    stem, ending = os.path.splitext(name)
    picture, dash, kind = stem.rpartition("-")
    return picture if dash and ending.lower() == ".png" and kind.lower() in MAPS else ""


def maps_beside(source: Path, path: str) -> dict[str, str]:
    """The maps of a picture that lie beside it, by what they are: {"masklabel": "photos/cat-masklabel.png"}."""
    stem = os.path.splitext(path)[0]
    found = {name: folders.resolved(str(source), f"{stem}-{name}.png") for name in MAPS}
    return {name: file for name, file in found.items() if file is not None and folders.is_open(source, file)}


def stems_of(name: str) -> tuple[str, ...]:
    """The stems of the caption files of a picture: ``a.png`` has ``a.txt``, else ``a.png.txt``; where the extension is
    not a picture's the whole name comes first.
    """
    stem = os.path.splitext(name)[0]
    return (stem, name) if is_picture(name) else (name, stem)


def _picture(source: Path, listing: folders.Listing, entry: os.DirEntry[str], number: int) -> Row | Broken:
    path, stems = os.path.join(listing.path, entry.name), stems_of(entry.name)
    try:
        if entry.is_symlink():
            folders.inside(source, path)
        elif not entry.is_file():
            raise Unusable("not a file", "a pipe, a socket or a device")
        captions, record = list[str](), dict[str, Any]()
        for ending in CAPTION_FILES:
            file = next(filter(None, (listing.find(stem + ending) for stem in stems)), None)
            if file is not None:
                captions += captions_of(_small(source, os.path.join(listing.path, file)))
        file = next(filter(None, (listing.find(f"{stem}.json") for stem in stems)), None)
        if file is not None:
            record = dict(record_of(_small(source, os.path.join(listing.path, file))))
        more, labels = captions_and_labels(records.described(record))
    except Unusable as error:
        return Broken(number, path, error.reason, error.detail)
    if listing.path and len(listing.path) <= MAXIMUM_LABEL:
        labels = {"folder": listing.path, **labels}
    return Row(number, path, Place(path), tuple(dict.fromkeys((*captions, *more))), labels)


def _small(source: Path, path: str) -> bytes:
    try:
        return folders.content(source, path, archives.MAXIMUM_TEXT_BYTES)
    except Unusable as error:
        if error.reason == "empty":
            return b""
        raise Unusable("caption too long" if error.reason == "too many bytes" else error.reason, path) from None


def tars(source: Path, names: list[str]) -> Read:
    def read(numbers: count[int]) -> Iterator[Row | Broken]:
        for name in names:
            if (broken := _closed(source, name, numbers)) is not None:
                yield broken
            else:
                yield from archives.rows(source / name, name, numbers)

    return read


def _closed(source: Path, name: str, numbers: count[int]) -> Broken | None:
    """Why a file of the source cannot be opened, if so."""
    try:
        full = Path(folders.inside(source, name))
        if not full.exists():
            raise Unusable("missing", name)
        if not full.is_file():
            raise Unusable("not a file", name)
        if not os.access(full, os.R_OK):
            raise Unusable("unreadable", name)
    except Unusable as error:
        return Broken(next(numbers), name, error.reason, error.detail)
    return None


def listed(source: Path, names: list[str]) -> Read:
    def read(numbers: count[int]) -> Iterator[Row | Broken]:
        for name in names:
            if (broken := _closed(source, name, numbers)) is not None:
                yield broken
                continue
            try:
                yield from _table(source, name, numbers)
            except Exception as error:  # as above
                yield Broken(next(numbers), name, "damaged table", f"{type(error).__name__}: {error}"[:300])

    return read


def _table(source: Path, name: str, numbers: count[int]) -> Iterator[Row | Broken]:
    path = source / name
    beside = Beside(source, path.parent)
    if path.suffix.lower() in records.ENDINGS and records.is_records(path):
        beside = Beside(source, path.parent, loose=True)
        for place, values in records.elements(path):
            yield from _records(values, f"{name}:{place}", None, beside, numbers)
        return
    form = columnar.form_of(path)
    if form is not None:
        yield from _columns(path, name, form, beside, numbers)
        return
    dialect = tables.dialect_of(path)
    if dialect is None:
        yield Broken(next(numbers), name, "no picture", f"no column of pictures: {tables.columns_of(path)}")
        return
    with closing(sqlite3.connect("")) as database:  # a file of its own, which goes with it
        joined = name.endswith(APART[0]) and (source / texts_of(name)).is_file()
        if joined:
            yield from _apart(source / texts_of(name), texts_of(name), database, numbers)
        for line in tables.read(path, dialect):
            where, values = f"{name}:{line.number}", line.values
            if joined and isinstance(values, Mapping):
                query = "SELECT text FROM texts WHERE picture = ? ORDER BY rowid"
                row = database.execute(query, (str(values.get("id", "")),))
                values = {**values, "captions": [text for (text,) in row]}

            def inline(column: str, line: tables.Line = line) -> Place:
                return Place(name, line.offset, line.size, "base64", dialect.code(column))

            yield from _records(values, where, inline, beside, numbers)


def _records(
    values: Mapping[Any, Any] | Unusable, where: str, inline: Inline | None, beside: Beside, numbers: count[int]
) -> Iterator[Row | Broken]:
    """A line of a table: a row, or one for each picture that it lists."""
    rows = [values] if isinstance(values, Unusable) else records.unfolded(values)
    for place, one in enumerate(rows, 1):
        source = where if len(rows) == 1 else f"{where}:{place}"
        if isinstance(one, Unusable):
            yield Broken(next(numbers), source, one.reason, one.detail)
        else:
            yield row_of(next(numbers), source, one, inline, beside)


def _columns(path: Path, name: str, form: Form, beside: Beside, numbers: count[int]) -> Iterator[Row | Broken]:
    picture = columnar.picture_of(path, form)
    if picture is None:
        names = ", ".join(columnar.schema_of(path, form).names)
        yield Broken(next(numbers), name, "no picture", f"no column of pictures: {names}"[:300])
        return
    for row, values in columnar.lines(path, form, picture[0] if picture[1] else ""):
        where = f"{name}:{row}"
        if isinstance(values, Unusable) or not picture[1]:
            yield from _records(values, where, None, beside, numbers)
            continue
        try:
            captions, labels = captions_and_labels(records.described(values))
        except Unusable as error:
            yield Broken(next(numbers), where, error.reason, error.detail)
        else:
            yield Row(next(numbers), where, Place(name, row, -1, form, picture[0]), captions, labels)


def texts_of(name: str) -> str:
    """The table of texts that belongs to a table of pictures."""
    return name.removesuffix(APART[0]) + APART[1]


def _apart(path: Path, name: str, database: sqlite3.Connection, numbers: count[int]) -> Iterator[Broken]:
    """Stores Chinese-CLIP's texts by picture, on disk and not in memory."""
    database.execute("CREATE TABLE texts (picture TEXT, text TEXT)")
    for line in tables.read(path, tables.Dialect(text_lines.encoding_of(path))):
        values = line.values
        if isinstance(values, Unusable):
            yield Broken(next(numbers), f"{name}:{line.number}", values.reason, values.detail)
        elif isinstance(ids := values.get("image_ids"), list) and isinstance(values.get("text"), str):
            pairs = [(str(picture), values["text"]) for picture in cast("list[Any]", ids)]
            database.executemany("INSERT INTO texts VALUES (?, ?)", pairs)
        else:
            yield Broken(next(numbers), f"{name}:{line.number}", "no picture", "text and image_ids are expected")
    database.execute("CREATE INDEX pictures ON texts (picture)")


def fetched(source: Path, names: list[str]) -> Read:
    """The rows of img2dataset's file output: a folder of pictures, and a parquet of that name with their results."""

    def read(numbers: count[int]) -> Iterator[Row | Broken]:
        for name in names:
            folder = Path(name).with_suffix("").as_posix()
            for side in archives.side_table(source / name):
                if side.status != "success":
                    yield archives.failed(side, name, next(numbers))
                    continue
                number, where = next(numbers), f"{name}:{side.key}"
                paths = (os.path.join(folder, f"{side.key}.{kind}") for kind in ("jpg", "png", "webp", "jpeg"))
                path = next((path for path in paths if (source / path).exists()), f"{folder}/{side.key}.jpg")
                values = {n: v for n, v in side.values.items() if n not in ("status", "error_message", "key")}
                try:
                    captions, labels = captions_and_labels(values)
                except Unusable as error:
                    yield Broken(number, where, error.reason, error.detail)
                else:
                    yield Row(number, where, Place(path), captions, labels)

    return read


@dataclass(frozen=True)
class Index:
    """An index of IndexKits (of HunyuanDiT): the rows it selects, counted on through its Arrow tables."""

    name: str
    tables: tuple[str, ...]
    ends: tuple[int, ...]
    rows: np.ndarray
    beside: tuple[str, ...] = ()


def index_kits(path: Path) -> Index | None:
    """The index in a JSON file; None where it is something else. Raises DataError for one that does not add up."""
    import numpy as np

    try:
        with path.open("rb") as file:
            if path.suffix != ".json" or b'"arrow_files"' not in file.read(1 << 16):
                return None
        index = json.loads(path.read_text("utf-8-sig"))
        others: tuple[str, ...] = ()
        names, ends = tuple(map(str, index["arrow_files"])), tuple(map(int, index["cum_length"]))
        chosen = index.get("indices") or []
        if indices := index.get("indices_file"):
            if not folders.is_open(path.parent, os.path.basename(indices)):
                raise ValueError(f"{indices} is not beside it")
            others = (os.path.basename(indices),)
            with np.load(path.parent / os.path.basename(indices), allow_pickle=False) as arrays:
                chosen = arrays["x"]
        elif isinstance(chosen, dict):  # by resolution
            chosen = [row for rows in cast("dict[str, list[int]]", chosen).values() for row in rows]
        rows = np.sort(np.asarray(chosen, np.int64).reshape(-1))
        if len(names) != len(ends) or (len(rows) and (rows[0] < 0 or rows[-1] >= ends[-1])):
            raise ValueError("its lengths do not fit")
        return Index(path.name, names, ends, rows, others)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError("the index {path} cannot be read: {error}", path=path, error=error) from None


def indexed(source: Path, index: Index) -> Read:
    """The rows that an index selects, in the order of its tables, as often as it has them."""

    def read(numbers: count[int]) -> Iterator[Row | Broken]:
        import numpy as np

        start = 0
        for table, end in zip(index.tables, index.ends, strict=True):
            wanted = index.rows[np.searchsorted(index.rows, start) : np.searchsorted(index.rows, end)] - start
            start = end
            if len(wanted):
                yield from _selected(source, table, wanted, numbers)

    return read


def _selected(source: Path, table: str, wanted: np.ndarray, numbers: count[int]) -> Iterator[Row | Broken]:
    # The paths of an index are from the machine that made it; its tables are looked for there and beside the index.
    places = (table, os.path.basename(table))
    name = next((place for place in places if not os.path.isabs(place) and (source / place).is_file()), places[1])
    if (broken := _closed(source, name, numbers)) is not None:
        yield broken
        yield from (Broken(next(numbers), f"{name}:{row}", broken.reason, table) for row in wanted[1:].tolist())
        return
    done = 0
    form = columnar.form_of(source / name)
    if form is not None:
        for row in _columns(source / name, name, form, Beside(source, source), count()):
            # Of a table that lists one picture a row, a row's number is its place.
            while done < len(wanted) and int(wanted[done]) == row.number:
                yield replace(row, number=next(numbers))
                done += 1
            if done == len(wanted):
                return
    for row in wanted[done:].tolist():
        yield Broken(next(numbers), f"{name}:{row}", "damaged table", "ends before this row")
