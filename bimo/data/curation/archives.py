"""Tars of pictures and captions: webdataset's layout, what img2dataset leaves beside them, and bimo's own shards."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, cast

from bimo.data.curation.columns import captions_of, record_of, said
from bimo.data.curation.rows import Broken, Place, Row, Unusable

PICTURES = {"jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff"}
TEXTS = ("txt", "caption", "text")
MAXIMUM_TEXT_BYTES = 16 << 20
COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"(\xb5/\xfd": "zstd"}
BLOCK = tarfile.BLOCKSIZE


@dataclass(frozen=True)
class Side:
    """A line of the parquet that img2dataset leaves beside each shard."""

    key: str
    status: str
    error: str
    values: Mapping[str, Any]


def rows(path: Path, name: str, numbers: count[int]) -> Iterator[Row | Broken]:
    """The samples of one tar, in its order: neighbours whose names are the same up to the first dot are one.

    What img2dataset could not fetch follows, from the parquet beside it. A damaged place is told of, and reading goes
    on at the next header that is whole.
    """
    sides = {side.key: side for side in side_table(path.with_suffix(".parquet"))}
    keys = set[str]()
    with path.open("rb") as file:
        start = file.read(6)
        packed = next((kind for magic, kind in COMPRESSED.items() if start.startswith(magic)), "")
        if packed:
            yield Broken(next(numbers), name, "compressed archive", f"{packed}; unpack it to a plain .tar")
            return
        for group in _groups(path):
            if isinstance(group, Unusable):
                yield Broken(next(numbers), name, group.reason, group.detail)
                continue
            key, members = group
            keys.add(key.rpartition("/")[2])
            yield _sample(file.fileno(), name, key, members, next(numbers))
    for side in sides.values():
        if side.status != "success":
            yield failed(side, name, next(numbers))
        elif side.key not in keys:
            yield Broken(next(numbers), f"{name}:{side.key}", "missing", "its table has it as fetched")


def failed(side: Side, name: str, number: int) -> Broken:
    """A pair that img2dataset could not fetch, with what it said."""
    return Broken(number, f"{name}:{side.key}", side.status or "failed", side.error)


def is_side_table(path: Path) -> bool:
    """Whether a parquet is a table that img2dataset leaves beside a shard."""
    from bimo.data.curation import columnar

    try:
        return path.is_file() and {"key", "status"} <= set(columnar.schema_of(path, "parquet").names)
    except Exception:  # no parquet, or none that can be read: pyarrow raises all sorts
        return False


def side_table(path: Path) -> Iterator[Side]:
    """The lines of the table that img2dataset leaves beside a shard; none where there is no such table."""
    from bimo.data.curation import columnar

    if not is_side_table(path):
        return
    for row, values in columnar.lines(path, "parquet", ""):
        if isinstance(values, Mapping):
            error = str(values.get("error_message") or "")
            yield Side(str(values["key"]), str(values["status"]), error, values)
        else:
            yield Side(f"row {row}", values.reason, values.detail, {})


def _sample(file: int, name: str, key: str, members: Mapping[str, tarfile.TarInfo], number: int) -> Row | Broken:
    source = f"{name}:{key}"
    picture = next((member for kind, member in members.items() if kind in PICTURES), None)
    if picture is None:
        return Broken(number, source, "no picture", f"only {', '.join(members)}")
    if not picture.isreg() or picture.issparse():
        return Broken(number, source, "not a file", f"{picture.name} is a link or has holes")
    texts, record = list[str](), dict[str, Any]()
    try:
        for kind, member in members.items():
            if kind == "json":
                record = dict(record_of(_content(file, member)))
            elif kind in TEXTS:
                texts += captions_of(_content(file, member))
        found, labels = said(record)
    except Unusable as error:
        return Broken(number, source, error.reason, error.detail)
    if "cls" in members and (kind := _class_of(file, members["cls"])) is not None:
        labels["cls"] = kind
    # One caption of several lines is the same in .txt and in .json.
    texts = [] if "\n".join(texts) in ("\n".join(one.splitlines()) for one in found) else texts
    captions = tuple(dict.fromkeys((*texts, *found)))
    return Row(number, source, Place(name, picture.offset_data, picture.size), captions, labels)


def _class_of(file: int, member: tarfile.TarInfo) -> float | None:
    try:
        return float(_content(file, member))
    except (ValueError, Unusable):
        return None


def _content(file: int, member: tarfile.TarInfo) -> bytes:
    if not member.isreg() or member.issparse():
        raise Unusable("not a file", member.name)
    if member.size > MAXIMUM_TEXT_BYTES:
        raise Unusable("caption too long", f"{member.name}: {member.size} bytes; at most {MAXIMUM_TEXT_BYTES}")
    data = os.pread(file, member.size, member.offset_data)
    if len(data) < member.size:
        raise Unusable("damaged archive", f"{member.name} is cut off")
    return data


def _groups(path: Path) -> Iterator[tuple[str, dict[str, tarfile.TarInfo]] | Unusable]:
    """(key, members by extension) of each sample; a second member of one kind begins a sample of its own."""
    key, members = "", dict[str, tarfile.TarInfo]()
    for member in _members(path):
        if isinstance(member, Unusable):
            if members:
                yield key, members
            key, members = "", {}
            yield member
            continue
        folder, _, base = member.name.rpartition("/")
        if member.isdir() or not base or base.startswith("."):
            continue
        stem, _, kind = base.partition(".")
        own = f"{folder}/{stem}" if folder else stem
        if members and (own != key or kind.lower() in members):
            yield key, members
            members = {}
        key = own
        members[kind.lower()] = member
    if members:
        yield key, members


def _members(path: Path) -> Iterator[tarfile.TarInfo | Unusable]:
    """The members of a tar, not held in memory; a hole between them, or an end without its mark, is told of."""
    size = path.stat().st_size
    end = 0
    try:
        with path.open("rb") as plain, tarfile.open(path, "r:", ignore_zeros=True, errors="surrogateescape") as archive:
            while (member := archive.next()) is not None:
                cast("Any", archive).members.clear()
                if not _zeros(plain, end, member.offset):
                    yield Unusable("damaged archive", f"bytes {end} to {member.offset} are no member")
                end = archive.offset
                if member.isreg() and member.offset_data + member.size > size:
                    yield member
                    yield Unusable("damaged archive", f"{member.name} is cut off")
                    return
                yield member
            if size <= end or not _zeros(plain, end, size):
                yield Unusable("damaged archive", f"ends at byte {size} without the mark of an end")
    except (tarfile.TarError, OSError, ValueError) as error:
        yield Unusable("damaged archive", f"from byte {end} on: {error}")


def _zeros(file: Any, start: int, end: int) -> bool:
    file.seek(start)
    while start < end:
        piece = file.read(min(1 << 20, end - start))
        if piece.strip(b"\0"):
            return False
        start += len(piece) or end
    return True
