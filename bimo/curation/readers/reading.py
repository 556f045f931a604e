"""Reads the rows and pictures of any source: folders, tables, tars, output of other tools."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from itertools import count
from pathlib import Path

from bimo.core.messages import say
from bimo.curation.readers import columnar, folders, tables, text_lines
from bimo.curation.readers.columns import Beside
from bimo.curation.readers.detect_format import detect_format
from bimo.curation.readers.rows import Broken, Place, Row, Unusable

MAXIMUM_PICTURE_BYTES = 256 << 20


def rows(source: Path) -> Iterator[Row | Broken]:
    """Every row of a source in a fixed order, each line once: as a row, or as an error.

    Only a folder's names or a table's batch are in memory. Raises DataError where nothing can be read.
    """
    return detect_format(source).read(count())


def kind(source: Path) -> str:
    """The detected format of a source, and why, in one sentence. Raises DataError where nothing there can be read."""
    return say(detect_format(source).description)


def root(source: Path) -> Path:
    """The folder that places are relative to: the source, or that of a source that is one file."""
    return source if source.is_dir() else source.parent


def state(source: Path) -> str:
    """A fingerprint of the names, sizes and times of everything in a source; nothing is opened."""
    digest = hashlib.sha256()
    if not source.is_dir():
        about = source.stat()
        digest.update(f"{source.name}\0{about.st_size}\0{about.st_mtime_ns}".encode("utf-8", "surrogateescape"))
        return digest.hexdigest()
    for listing in folders.walk(source):
        for entry in listing.files:
            try:
                about = entry.stat()
            except OSError:  # a link to nothing
                about = entry.stat(follow_symlinks=False)
            line = f"{listing.path}/{entry.name}\0{about.st_size}\0{about.st_mtime_ns}\n"
            digest.update(line.encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def picture_bytes(source: Path, place: Place) -> bytes:
    """The encoded picture at a place, never more than 256 MB and never from outside the source.

    Raises Unusable: "outside the folder", "missing", "not a file", "unreadable", "empty", "too many bytes",
    "damaged archive", "damaged table", "not base64", "not fetched".
    """
    folder = root(source)
    if place.form == "url":
        raise Unusable("not fetched", place.path[:200])
    if place.form == "base64":
        line = _part(folder, place, text_lines.MAXIMUM_LINE_BYTES, "damaged table")
        data = tables.cell(line, place.column)
    elif place.form == "bytes":
        data = _part(folder, place, MAXIMUM_PICTURE_BYTES, "damaged archive")
    else:
        data = _columnar(folder, place)
    if len(data) > MAXIMUM_PICTURE_BYTES:
        raise Unusable("too many bytes", f"{len(data)}; at most {MAXIMUM_PICTURE_BYTES}")
    if not data:
        raise Unusable("empty")
    return data


def _part(folder: Path, place: Place, maximum: int, damaged: str) -> bytes:
    try:
        return folders.content(folder, place.path, maximum, place.offset, place.size)
    except Unusable as error:
        raise Unusable(damaged, error.detail) if error.reason == "cut off" else error from None


def _columnar(folder: Path, place: Place) -> bytes:
    path = Path(folders.inside(folder, place.path))
    if not path.is_file():
        raise Unusable("missing", place.path[:200])
    cell = columnar.cell(path, place.form, place.offset, place.column)
    if isinstance(cell, bytes):
        return cell
    beside = Beside(folder, folder / Path(place.path).parent)
    return folders.content(folder, beside.find(cell), MAXIMUM_PICTURE_BYTES)
