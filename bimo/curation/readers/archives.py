"""Tars of pictures and captions: webdataset's layout, what img2dataset leaves beside them, and bimo's own shards."""

# pyarrow has no types; what crosses it here is named where it is kept.
# pyright: reportUnknownArgumentType=false, reportUnknownMemberType=false

from __future__ import annotations

import json
import os
import sqlite3
import tarfile
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from itertools import count, groupby
from pathlib import Path
from typing import Any, NamedTuple, cast

from bimo.curation.readers import folders, records
from bimo.curation.readers.columns import captions_and_labels, captions_of, lines_of, record_of
from bimo.curation.readers.formats import BEGINNING, PICTURE_FILES, comparable, format_of
from bimo.curation.readers.rows import Broken, Place, Row, Unusable

PICTURES = {ending[1:] for ending in PICTURE_FILES}
TEXTS = ("txt", "caption", "text")
MAXIMUM_TEXT_BYTES = 16 << 20
COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"(\xb5/\xfd": "zstd"}


class Member(NamedTuple):
    """A member of a tar: where its bytes are; not ``plain`` are links, devices, and files with holes."""

    name: str
    offset: int
    size: int
    plain: bool


@dataclass(frozen=True)
class Side:
    """A line of the parquet that img2dataset leaves beside each shard."""

    key: str
    status: str
    error: str
    values: Mapping[str, Any]


def rows(path: Path, name: str, numbers: count[int]) -> Iterator[Row | Broken]:
    """The samples of one tar, in order: members with the same name up to the first dot, wherever in the tar, are one.

    Rows that img2dataset could not download follow, from its parquet. Damage is reported, and reading resumes at the
    next intact header.
    """
    sides = {side.key: side for side in side_table(path.with_suffix(".parquet"))}
    keys = set[str]()
    with path.open("rb") as file:
        start = file.read(6)
        packed = next((kind for magic, kind in COMPRESSED.items() if start.startswith(magic)), "")
        if packed:
            yield Broken(next(numbers), name, "compressed archive", f"{packed}; unpack it to a plain .tar")
            return
        for group in _joined(path):
            if isinstance(group, Unusable):
                yield Broken(next(numbers), name, group.reason, group.detail)
                continue
            for key, members in _by_last_dot(*group):
                if sides:
                    keys.add(key.rpartition("/")[2])
                yield _sample(file.fileno(), name, key, members, next(numbers))
    for side in sides.values():
        if side.status != "success":
            yield failed(side, name, next(numbers))
        elif side.key not in keys:
            yield Broken(next(numbers), f"{name}:{side.key}", "missing", "its table has it as fetched")


def is_tar(root: Path, path: str) -> bool:
    """Whether a file of a source is a tar, whatever it is called."""
    try:
        return folders.content(root, path, 5, 257, 5) == b"ustar"
    except Unusable:
        return False


def failed(side: Side, name: str, number: int) -> Broken:
    """A pair that img2dataset could not download, with its error."""
    return Broken(number, f"{name}:{side.key}", side.status or "failed", side.error)


def is_side_table(path: Path) -> bool:
    """Whether a parquet is a table that img2dataset leaves beside a shard."""
    from bimo.curation.readers import columnar

    try:
        return path.is_file() and {"key", "status"} <= set(columnar.schema_of(path, "parquet").names)
    except Exception:  # not a parquet, or a damaged one: pyarrow raises various exceptions
        return False


def side_table(path: Path) -> Iterator[Side]:
    """The lines of the table that img2dataset leaves beside a shard; none where there is no such table."""
    from bimo.curation.readers import columnar

    if not is_side_table(path):
        return
    for row, values in columnar.lines(path, "parquet", ""):
        if isinstance(values, Mapping):
            error = str(values.get("error_message") or "")
            yield Side(str(values["key"]), str(values["status"]), error, values)
        else:
            yield Side(f"row {row}", values.reason, values.detail, {})


def _sample(file: int, name: str, key: str, members: Mapping[str, Member], number: int) -> Row | Broken:
    source = f"{name}:{key}"
    picture = next((member for kind, member in members.items() if kind in PICTURES), None)
    if picture is None:
        # Without a known extension the first bytes decide.
        others = (member for kind, member in members.items() if kind not in (*TEXTS, "json", "cls"))
        picture = next((member for member in others if member.plain and _begins_as_picture(file, member)), None)
    if picture is None:
        return Broken(number, source, "no picture", f"only {', '.join(members)}")
    if not picture.plain:
        return Broken(number, source, "not a file", f"{picture.name} is a link or has holes")
    texts, record = list[str](), dict[str, Any]()
    try:
        for kind, member in members.items():
            if kind == "json":
                record = dict(record_of(_content(file, member)))
            elif kind in TEXTS:
                texts += captions_of(_content(file, member))
        found, labels = captions_and_labels(records.described(record))
    except Unusable as error:
        return Broken(number, source, error.reason, error.detail)
    if "cls" in members and (kind := _class_of(file, members["cls"])) is not None:
        labels["cls"] = kind
    # A caption of several lines is one caption, in .txt as in .json.
    texts = [] if "\n".join(texts) in ("\n".join(lines_of(one)) for one in found) else texts
    captions = tuple(dict.fromkeys((*texts, *found)))
    return Row(number, source, Place(name, picture.offset, picture.size), captions, labels)


def _begins_as_picture(file: int, member: Member) -> bool:
    return bool(format_of(os.pread(file, min(BEGINNING, member.size), member.offset)))


def _class_of(file: int, member: Member) -> float | None:
    try:
        return float(_content(file, member))
    except (ValueError, Unusable):
        return None


def _content(file: int, member: Member) -> bytes:
    if not member.plain:
        raise Unusable("not a file", member.name)
    if member.size > MAXIMUM_TEXT_BYTES:
        raise Unusable("caption too long", f"{member.name}: {member.size} bytes; at most {MAXIMUM_TEXT_BYTES}")
    data = os.pread(file, member.size, member.offset)
    if len(data) < member.size:
        raise Unusable("damaged archive", f"{member.name} is cut off")
    return data


Group = tuple[str, dict[str, Member]]


def _joined(path: Path) -> Iterator[Group | Unusable]:
    """(key, members by extension) of each sample in the order of their first members. Members of one sample that do not
    lie together are joined, unless a kind would be there twice: then they are samples of their own.

    Groups wait on disk: a tar may have more members than memory holds.
    """
    with closing(sqlite3.connect("")) as waiting:  # it is inside a temporary folder, which is removed with it
        waiting.execute("PRAGMA journal_mode=OFF")
        waiting.execute("CREATE TABLE groups (own INTEGER PRIMARY KEY, first INTEGER, key TEXT, what TEXT)")
        waiting.executemany("INSERT INTO groups VALUES (?, ?, ?, ?)", _rows_for_sqlite(path))
        again = "SELECT key FROM groups WHERE key IS NOT NULL GROUP BY key HAVING count(*) > 1"
        several = waiting.execute(f"SELECT key, own, what FROM groups WHERE key IN ({again}) ORDER BY key, own")
        with closing(sqlite3.connect("")) as moves:
            moves.execute("CREATE TABLE moves (first INTEGER, own INTEGER)")
            for _, parts in groupby(several, key=lambda row: row[0]):
                moves.executemany("INSERT INTO moves VALUES (?, ?)", _to_earlier_group(parts))
            waiting.executemany("UPDATE groups SET first = ? WHERE own = ?", moves.execute("SELECT * FROM moves"))
        ordered = waiting.execute("SELECT first, key, what FROM groups ORDER BY first, own")
        for _, parts in groupby(ordered, key=lambda row: row[0]):
            own = list(parts)
            key = own[0][1]
            if key is None:
                yield Unusable(*json.loads(own[0][2]))
                continue
            members: dict[str, Member] = {}
            for _, _, what in own:
                members |= {kind: Member(*about) for kind, about in json.loads(what).items()}
            yield os.fsdecode(key), members


def _rows_for_sqlite(path: Path) -> Iterator[tuple[int, int, bytes | None, str]]:
    for place, group in enumerate(_groups(path)):
        if isinstance(group, Unusable):
            yield place, place, None, json.dumps([group.reason, group.detail])
        else:
            # Member names are bytes; not all of them decode.
            yield place, place, os.fsencode(group[0]), json.dumps(group[1])


def _to_earlier_group(parts: Iterable[tuple[bytes, int, str]]) -> Iterator[tuple[int, int]]:
    """(first, own) of groups that belong to an earlier one of the same key: to the first without any of their kinds."""
    earlier: list[tuple[int, set[str]]] = []
    for _, own, what in parts:
        kinds = set(json.loads(what))
        home = next(((first, has) for first, has in earlier if not has & kinds), None)
        if home is None:
            earlier.append((own, kinds))
        else:
            home[1].update(kinds)
            yield home[0], own


def _by_last_dot(key: str, members: dict[str, Member]) -> list[Group]:
    """Splits a sample whose names contain several dots: ``2024.00.jpg`` and ``2024.00.txt`` are a pair of their own.

    A further picture without a text, such as ``3.seg.png`` beside ``3.png``, stays with its sample.
    """
    inner: dict[str, dict[str, Member]] = {}
    for kind, member in members.items():
        stem, _, last = kind.rpartition(".")
        inner.setdefault(stem, {})[last] = member
    if len(inner) == 1 and "" in inner:
        return [(key, members)]
    pictured = [stem for stem, kinds in inner.items() if PICTURES & set(kinds)]
    worded = [stem for stem, kinds in inner.items() if {*TEXTS, "json"} & set(kinds)]
    # ``0.image.jpg`` and ``0.txt``: what stands before the ending is what the picture is for.
    homes = {stem: _longest_prefix(stem, [word for word in worded if word not in pictured]) for stem in pictured}
    for stem, home in homes.items():
        if stem not in worded and home is not None and [*homes.values()].count(home) == 1:
            inner[home] = {**inner[home], **inner.pop(stem)}
    alone = [
        stem
        for stem in inner
        if stem and (stem in worded if "" in pictured else stem in worded or stem in pictured)
        if PICTURES & set(inner[stem]) or "" not in pictured
    ]
    files = [(f"{key}.{stem}", inner[stem]) for stem in alone]
    rest: dict[str, Member] = {}
    for stem, kinds in inner.items():
        if stem not in alone:
            rest |= {f"{stem}.{kind}" if stem else kind: member for kind, member in kinds.items()}
    return [(key, rest), *files] if rest else files


def _longest_prefix(stem: str, stems: Iterable[str]) -> str | None:
    """The longest of some names that a name begins with, up to a dot."""
    return max((word for word in stems if not word or stem.startswith(f"{word}.")), key=len, default=None)


def _groups(path: Path) -> Iterator[Group | Unusable]:
    """(key, members by extension) of neighbours; a second member of one kind begins a sample of its own."""
    key, members = "", dict[str, Member]()
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
        folder = folder if folder.isascii() else unicodedata.normalize("NFC", folder)
        stem, _, kind = comparable(base).partition(".")
        own = f"{folder}/{stem}" if folder else stem
        if members and (own != key or kind.lower() in members):
            yield key, members
            members = {}
        key = own
        plain = member.isreg() and not member.issparse()
        members[kind.lower()] = Member(member.name, member.offset_data, member.size, plain)
    if members:
        yield key, members


def _members(path: Path) -> Iterator[tarfile.TarInfo | Unusable]:
    """The members of a tar, one at a time; gaps between them, or an end without its marker, are reported."""
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
