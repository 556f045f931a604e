"""Shards: tar files in the webdataset layout, deterministic and written atomically.

A sample is `{key}.png` (or .jpg, .webp, by its bytes) and `{key}.json`; texts without a picture have only `{key}.json`.
`index.json` lists every shard with its SHA-256 and its number of samples, and has a digest of all.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bimo.core.errors import DataError

SAMPLES_PER_SHARD = 2000
INDEX = "index.json"
#: The first bytes of picture files, by extension.
PICTURES = {"png": b"\x89PNG", "jpg": b"\xff\xd8\xff", "webp": b"RIFF"}
Sample = tuple[str, bytes, Mapping[str, Any]]


@dataclass(frozen=True)
class Shard:
    """A finished shard: file name, SHA-256 of the file, number of samples."""

    name: str
    sha256: str
    count: int


@dataclass(frozen=True)
class Index:
    """The content of `index.json`: the digest of all shards, the number of samples, the shards sorted by name."""

    digest: str
    count: int
    shards: tuple[Shard, ...]


def extension_of(picture: bytes) -> str:
    """The extension for a picture by its bytes; png if they are not recognised."""
    return next((name for name, start in PICTURES.items() if picture.startswith(start)), "png")


def shard_name(number: int) -> str:
    """The file name of a shard by number."""
    return f"shard-{number:05d}.tar"


def hash_of(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def write_shard(path: Path, samples: Iterable[Sample], stamp: str) -> Shard:
    """Writes samples sorted by key to a temporary file, which is renamed when complete; `{path}.done` has hash, count
    and stamp.

    `stamp` identifies the inputs of the samples, so that a later run can tell whether the shard is up to date.
    """
    partial, count = path.with_suffix(".partial"), 0
    try:
        with tarfile.open(partial, "w", format=tarfile.USTAR_FORMAT) as archive:
            for key, png, record in sorted(samples, key=lambda sample: sample[0]):
                text = json.dumps(record, ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode()
                if png:
                    _add(archive, f"{key}.{extension_of(png)}", png)
                _add(archive, f"{key}.json", text)
                count += 1
    except BaseException:
        # If the disk is full, the partial file must not stay.
        partial.unlink(missing_ok=True)
        raise
    shard = Shard(path.name, hash_of(partial), count)
    partial.replace(path)
    mark = path.with_suffix(".done.partial")
    mark.write_text(json.dumps({**asdict(shard), "stamp": stamp}))
    mark.replace(path.with_suffix(".done"))
    return shard


def _add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size, member.mode, member.mtime = len(data), 0o644, 0
    archive.addfile(member, io.BytesIO(data))


def finished(path: Path, stamp: str) -> Shard | None:
    """The shard at `path` if it is complete, undamaged and has this stamp; None if it must be written."""
    mark = path.with_suffix(".done")
    if not mark.is_file() or not path.is_file():
        return None
    try:
        record = json.loads(mark.read_text())
        shard = Shard(record["name"], record["sha256"], record["count"])
    except (ValueError, KeyError):
        return None
    return shard if record.get("stamp") == stamp and hash_of(path) == shard.sha256 else None


def write_index(folder: Path, shards: Iterable[Shard]) -> str:
    """Writes `index.json` for the shards, sorted by name, and returns the digest of all."""
    ordered = sorted(shards, key=lambda shard: shard.name)
    digest = hashlib.sha256("".join(shard.sha256 for shard in ordered).encode()).hexdigest()
    record = {"digest": digest, "count": sum(shard.count for shard in ordered), "shards": [asdict(s) for s in ordered]}
    partial = folder / f"{INDEX}.partial"
    partial.write_text(json.dumps(record, indent=1))
    partial.replace(folder / INDEX)
    return digest


def read_index(folder: Path) -> Index:
    """Reads `index.json`. Raises DataError if it is missing or invalid."""
    path = folder / INDEX
    if not folder.exists():
        raise DataError("there is no folder {source}", source=folder)
    if not path.is_file():
        raise DataError(
            "{folder} is no finished data folder: there is no {index} in it. If it holds pictures, first run "
            "bimo data folder {folder} DATA",
            folder=folder,
            index=INDEX,
        )
    try:
        record = json.loads(path.read_text())
        shards = tuple(Shard(entry["name"], entry["sha256"], entry["count"]) for entry in record["shards"])
        return Index(record["digest"], record["count"], shards)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            "{path} cannot be read: {error}. It should be a finished data folder: build it again.",
            path=path,
            error=error,
        ) from error


def verify(folder: Path) -> None:
    """Raises DataError if a shard in the index is missing or damaged."""
    for shard in read_index(folder).shards:
        path = folder / shard.name
        digest = hash_of(path) if path.is_file() else "missing"
        if digest != shard.sha256:
            raise DataError(
                "{path} has SHA-256 {found}, expected {sha256}. Delete it and build again.",
                path=path,
                found=digest,
                sha256=shard.sha256,
            )


@dataclass(frozen=True)
class Member:
    """A file in a shard: the offset of its bytes, and the bytes."""

    offset: int
    data: bytes


def members(path: Path) -> Iterator[tuple[str, Member, Member]]:
    """(key, picture, record) of every sample of a shard, in order. Raises DataError if it is damaged or incomplete."""
    try:
        with tarfile.open(path, "r:") as archive:
            picture_key, picture = "", Member(0, b"")
            for member in archive:
                stream = archive.extractfile(member)
                data = stream.read() if stream is not None else b""
                key, _, extension = member.name.rpartition(".")
                if extension in PICTURES:
                    picture_key, picture = key, Member(member.offset_data, data)
                elif extension == "json":
                    yield key, picture if picture_key == key else Member(0, b""), Member(member.offset_data, data)
                    picture_key, picture = "", Member(0, b"")
    except (tarfile.TarError, OSError) as error:
        raise unreadable(path, error) from error


def read_shard(path: Path) -> Iterator[tuple[str, bytes, dict[str, Any]]]:
    """(key, picture bytes, record) of every sample of a shard, in order. Raises DataError if it is damaged."""
    for key, picture, record in members(path):
        try:
            values = json.loads(record.data)
        except ValueError as error:
            raise unreadable(path, error) from error
        yield key, picture.data, values


def unreadable(path: Path, error: object) -> DataError:
    """The error for a damaged or incomplete shard."""
    return DataError("The shard {path} cannot be read: {error}. Delete it and build again.", path=path, error=error)


def read(
    folder: Path, wanted: Callable[[Mapping[str, Any]], bool] | None = None
) -> Iterator[tuple[str, bytes, dict[str, Any]]]:
    """(key, picture bytes, record) of every sample of a finished folder, filtered by ``wanted``, called with the
    record.
    """
    for shard in read_index(folder).shards:
        for key, png, record in read_shard(folder / shard.name):
            if wanted is None or wanted(record):
                yield key, png, record
