"""The inventory of a source: how every file was read, or why it was not."""

# numpy has no types; what crosses it here is named where it is kept.
# pyright: reportUnknownArgumentType=false, reportUnknownMemberType=false

from __future__ import annotations

import contextlib
import hashlib
import os
import posixpath
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from bimo.core.messages import Both, Message, say
from bimo.curation.readers import columnar, folders, listing, tables
from bimo.curation.readers.columns import Beside
from bimo.curation.readers.detect_format import SourceFormat
from bimo.curation.readers.formats import RAW_FILES, comparable
from bimo.curation.readers.rows import Unusable

#: Extensions of files that may hold pictures or tables and are not opened.
PACKED_FILES = {".zip", ".7z", ".rar", ".gz", ".bz2", ".xz", ".zst", ".tgz", ".xlsx", ".xls", ".ods"}
#: Files that are named for each reason.
NAMED = 5
READ = {
    "pictures": Message("pictures"),
    "captions": Message("captions"),
    "tables": Message("tables"),
    "archives": Message("archives"),
    "beside": Message("tables beside them"),
    "maps": Message("masks and control pictures beside them"),
}
NOT_READ = {
    "hidden": Message("hidden, or left behind by a system"),
    "not listed": Message("a picture that no table names"),
    "beside tables": Message("tables say what is read here"),
    "beside archives": Message("archives are what is read here"),
    "no picture": Message("captions without a picture of their name"),
    "mask": Message("masks and control pictures; bimo data folder and bimo finetune read those beside a picture"),
    "columns": Message("a table without a column of pictures"),
    "records": Message("a .json without records of pictures as they are known"),
    "camera raw": Message("raw files of a camera; convert them to JPEG or PNG"),
    "packed": Message("packed, or a workbook; unpack it, or save it as CSV"),
    "other": Message("no picture, no captions and no table"),
    "folder": Message("a folder that cannot be opened"),
    "not a file": Message("a pipe, a device or a link to nothing"),
}


@dataclass
class Inventory:
    """The number of files by how they were read, or by the reason why not, with some of their names."""

    read: dict[str, int] = field(default_factory=dict[str, int])
    not_read: dict[str, int] = field(default_factory=dict[str, int])
    examples: dict[str, list[str]] = field(default_factory=dict[str, "list[str]"])

    @property
    def total(self) -> int:
        """The number of files."""
        return sum(self.read.values()) + sum(self.not_read.values())

    def add(self, name: str, path: str, detail: str = "") -> None:
        """Counts one file."""
        if name in READ:
            self.read[name] = self.read.get(name, 0) + 1
            return
        self.not_read[name] = self.not_read.get(name, 0) + 1
        examples = self.examples.setdefault(name, [])
        if len(examples) < NAMED:
            examples.append(tables.text_for_people(f"{path}: {detail}" if detail else path))

    def plain(self) -> dict[str, Any]:
        """As plain data, for a report."""
        not_read = [
            {"reason": NOT_READ[name].en, "zh": NOT_READ[name].zh, "count": count, "examples": self.examples[name]}
            for name, count in sorted(self.not_read.items())
        ]
        return {"total": self.total, "read": dict(sorted(self.read.items())), "not_read": not_read}


def inventory_lines(files: Mapping[str, Any]) -> Iterator[str]:
    """The lines of an inventory for people, from ``Inventory.plain``."""
    left = sum(row["count"] for row in files["not_read"])
    parts = [say("{read} {count}", read=READ[name], count=count) for name, count in files["read"].items()]
    whole = " + ".join([*parts, say("not read {left}", left=left)])
    yield say("files {files} = {whole}", files=files["total"], whole=whole)
    for row in files["not_read"]:
        names = ", ".join(row["examples"]) + (" ..." if row["count"] > len(row["examples"]) else "")
        yield say(
            "not read, {reason}: {count} ({names})",
            reason=Both(row["zh"], row["reason"]),
            count=row["count"],
            names=names,
        )


class Paths:
    """A set of paths, eight bytes each: a source may have more paths than fit in memory."""

    def __init__(self, paths: Iterable[str | bytes]) -> None:
        self.hashes = np.unique(np.fromiter(map(_hashed, paths), np.uint64))

    def __contains__(self, path: str) -> bool:
        value = np.uint64(_hashed(path))
        place = int(np.searchsorted(self.hashes, value))
        return place < len(self.hashes) and bool(self.hashes[place] == value)


def _hashed(path: str | bytes) -> int:
    plain = posixpath.normpath(os.fsencode(path))
    return int.from_bytes(hashlib.blake2b(plain, digest_size=8).digest(), "big")


def inventory(source: Path, what: SourceFormat, pictures: Iterable[str | bytes], maps: Iterable[str] = ()) -> Inventory:
    """The inventory of a source of the format ``what``; ``pictures`` are the paths of the rows' pictures, ``maps``
    those of maps that were read beside them.
    """
    account = Inventory()
    if not source.is_dir():
        account.add("archives" if what.tars else "tables", source.name)
        return account
    read_maps = frozenset(maps)
    named = Paths(chain(pictures, _beside_tables(source, what.tables))) if what.tables else Paths(())
    for folder in folders.walk(source, hidden=True):
        if folder.error is not None:
            account.add("folder", folder.path or ".", folder.error.detail)
        hidden = any(map(folders.is_hidden, folder.path.split("/")))
        ones = {entry.name for entry in folder.files if not hidden and listing.is_one(source, folder, entry.name)}
        stems = {comparable(f"{stem}.") for name in ones for stem in listing.stems_of(name)}
        for entry in folder.files:
            path = os.path.join(folder.path, entry.name)
            if hidden or folders.is_hidden(entry.name):
                kind = "hidden"
            elif path in named:
                kind = "pictures"
            elif path in read_maps:
                kind = "maps"
            else:
                kind = _kind(source, what, path, entry.name in ones, stems)
            account.add(kind, path, _columns(source, path) if kind == "columns" else "")
    return account


def _beside_tables(source: Path, names: Iterable[str]) -> Iterator[str]:
    """The files outside a table that hold its pictures."""
    for name in names:
        path = source / name
        beside = Beside(source, path.parent)
        for one in _named_in(path):
            with contextlib.suppress(Unusable):  # the row of that picture says why
                yield beside.find(one)


def _named_in(path: Path) -> Iterator[str]:
    try:
        form = columnar.form_of(path)
        picture = columnar.picture_of(path, form) if form else None
        if form and picture and picture[1]:
            yield from columnar.paths(path, form, picture[0])
    except Exception:  # pyarrow raises various exceptions for damaged files; the rows of this one say what is wrong
        return


def _kind(source: Path, what: SourceFormat, path: str, picture: bool, stems: set[str]) -> str:
    """The kind of a file that no table names."""
    stem, ending = os.path.splitext(os.path.basename(path))
    ending = ending.lower()
    for names, kind in ((what.tars, "archives"), (what.tables, "tables"), (what.sides, "beside")):
        if path in names:
            return kind
    listed = bool(what.tars or what.tables)
    if picture:
        return ("not listed" if what.tables else "beside archives") if listed else "pictures"
    captions = ending in (*listing.CAPTION_FILES, ".json")
    if captions and not listed and comparable(f"{stem}.") in stems:
        return "captions"
    if not folders.is_open(source, path):
        return "not a file"
    if listing.map_of(os.path.basename(path)):
        return "mask"
    if ending in RAW_FILES:
        return "camera raw"
    if ending in PACKED_FILES:
        return "packed"
    if listed:
        return "beside tables" if what.tables else "beside archives"
    if ending in listing.TABLES:
        return "columns"
    if ending == ".json":
        return "records"
    return "no picture" if captions else "other"


def _columns(source: Path, path: str) -> str:
    """The names of the columns of a table without pictures."""
    try:
        form = columnar.form_of(source / path)
        if form is not None:
            return ", ".join(columnar.schema_of(source / path, form).names)[:200]
        return tables.columns_of(source / path)
    except Exception as error:  # pyarrow raises various exceptions for damaged files
        return f"{type(error).__name__}: {error}"[:200]
