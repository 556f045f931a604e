"""The rows of folders of shards as columns: offsets are indexed once, values are read on demand.

Memory does not grow with the data: the index is memory-mapped, captions and labels stay in the shards.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, TypeVar, cast, overload

import numpy as np

from bimo.core.errors import DataError
from bimo.core.messages import say
from bimo.data import shards

T = TypeVar("T", covariant=True)
#: The index of a row: its shard, counted through all folders; offsets and lengths of picture and record in it; width
#: and height in pixels; the end of its key; the SHA-256 of its content; whether it has a pose.
ROW = np.dtype(
    [
        ("shard", "<u4"),
        ("image", "<u8"),
        ("image_bytes", "<u8"),
        ("record", "<u8"),
        ("record_bytes", "<u8"),
        ("size", "<u4", (2,)),
        ("key_end", "<u8"),
        ("content", "u1", (32,)),
        ("posed", "u1"),
    ]
)
#: The version of the index: another version is rebuilt.
VERSION = 1
OPEN_SHARDS = 64
CACHED_RECORDS = 1024


class Column(Sequence[T]):
    """``count`` values that are computed on demand, by ``value_of`` a row's number."""

    def __init__(self, count: int, value_of: Callable[[int], T]) -> None:
        self._count, self._value_of = count, value_of

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> list[T]: ...
    def __getitem__(self, index: int | slice) -> T | list[T]:
        if isinstance(index, slice):
            return [self._value_of(row) for row in range(self._count)[index]]
        return self._value_of(range(self._count)[index])

    def __iter__(self) -> Iterator[T]:
        return map(self._value_of, range(self._count))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence):
            return NotImplemented
        others = cast("Sequence[object]", other)
        return len(others) == self._count and all(a == b for a, b in zip(self, others, strict=True))

    __hash__ = None  # type: ignore[assignment]


class ShardFile:
    """An open shard that several threads may read."""

    def __init__(self, path: Path) -> None:
        self._path, self._lock = path, threading.Lock()
        self._stream: BinaryIO | None = None
        self._stream = path.open("rb", buffering=0)

    def read(self, offset: int, count: int) -> bytes:
        """``count`` bytes from ``offset`` on. Raises DataError if the shard is shorter."""
        stream = cast(BinaryIO, self._stream)
        with self._lock:
            stream.seek(offset)
            data = stream.read(count)
        if len(data) != count:
            raise shards.unreadable(self._path, "it ends too early")
        return data

    def __del__(self) -> None:
        if self._stream is not None:
            self._stream.close()


class RowIndex:
    """The index of the rows of some folders: ``rows`` [N] of ``ROW``, memory-mapped from a file in ``cache``."""

    def __init__(self, folders: Sequence[Path], digest: str, cache: Path) -> None:
        indices = [shards.read_index(folder) for folder in folders]
        self.folders = folders
        homes = [(f, shard.name) for f, index in zip(folders, indices, strict=True) for shard in index.shards]
        self.paths = [folder / name for folder, name in homes]
        self._homes = [folder for folder, _ in homes]
        self.rows, self._keys = self._mapped(cache, digest)
        self._shard = lru_cache(maxsize=OPEN_SHARDS)(self._open)
        #: The JSON of a row: captions, labels and whatever else the data declares.
        self.record = lru_cache(maxsize=CACHED_RECORDS)(self._record)

    def __len__(self) -> int:
        return len(self.rows)

    def key(self, row: int) -> str:
        """The name of a row in its shard, without the extension."""
        start = int(self.rows[row - 1]["key_end"]) if row else 0
        return self._keys[start : int(self.rows[row]["key_end"])].tobytes().decode()

    def home(self, row: int) -> Path:
        """The folder of a row."""
        return self._homes[int(self.rows[row]["shard"])]

    def image(self, row: int) -> bytes:
        """The bytes of a row's picture, empty for a text without one."""
        entry = self.rows[row]
        return self._shard(int(entry["shard"])).read(int(entry["image"]), int(entry["image_bytes"]))

    def _record(self, row: int) -> Mapping[str, Any]:
        entry = self.rows[row]
        shard = int(entry["shard"])
        data = self._shard(shard).read(int(entry["record"]), int(entry["record_bytes"]))
        try:
            return json.loads(data)
        except ValueError as error:
            raise shards.unreadable(self.paths[shard], error) from None

    def _open(self, shard: int) -> ShardFile:
        try:
            return ShardFile(self.paths[shard])
        except OSError as error:
            raise shards.unreadable(self.paths[shard], error) from None

    def _mapped(self, cache: Path, digest: str) -> tuple[np.ndarray, np.ndarray]:
        """(rows [N], keys [bytes of all keys]), memory-mapped; in memory if nothing can be written."""
        name = hashlib.sha256(f"{digest} {VERSION}".encode()).hexdigest()[:16]
        folder = cache / f"rows-{name}"
        if not (folder / "rows").is_file():
            try:
                self._write(folder)
            except OSError as error:
                print(
                    say(
                        "the index of the data cannot be written to {cache} ({strerror}): it is held in memory; "
                        "another folder can be named by --cache",
                        cache=cache,
                        strerror=error.strerror,
                    )
                )
                rows, keys = io.BytesIO(), io.BytesIO()
                self._scan(rows, keys)
                return np.frombuffer(rows.getvalue(), ROW), np.frombuffer(keys.getvalue(), np.uint8)
        return np.memmap(folder / "rows", ROW, "r"), np.memmap(folder / "keys", np.uint8, "r")

    def _write(self, folder: Path) -> None:
        """Writes the index atomically."""
        cache, created = folder.parent, not folder.parent.exists()
        cache.mkdir(parents=True, exist_ok=True)
        part = folder.with_suffix(f".{uuid.uuid4().hex}.part")
        try:
            part.mkdir()
            with (part / "rows").open("wb") as rows, (part / "keys").open("wb") as keys:
                self._scan(rows, keys)
            try:
                os.replace(part, folder)
            except OSError:
                if not folder.is_dir():  # otherwise another process was faster
                    raise
        finally:
            shutil.rmtree(part, ignore_errors=True)
            if created and cache.is_dir() and not any(cache.iterdir()):
                cache.rmdir()

    def _scan(self, rows: BinaryIO, keys: BinaryIO) -> None:
        """Reads every shard once and writes the index of its rows."""
        key_end = count = 0
        for shard, path in enumerate(self.paths):
            for key, image, member in shards.members(path):
                try:
                    record = json.loads(member.data)
                except ValueError as error:
                    raise shards.unreadable(path, error) from None
                key_end += keys.write(key.encode())
                content = hashlib.sha256(image.data or "\n".join(c["text"] for c in record["captions"]).encode())
                entry = (
                    shard,
                    *(image.offset, len(image.data)),
                    *(member.offset, len(member.data)),
                    _size(image.data, key),
                    key_end,
                    np.frombuffer(content.digest(), np.uint8),
                    bool(record.get("pose")),
                )
                rows.write(np.array(entry, ROW).tobytes())
                count += 1
        if not count:
            listed = ", ".join(map(str, self.folders))
            raise DataError("there is not one picture in {listed}", listed=listed)


def _size(image: bytes, key: str) -> tuple[int, int]:
    """(width, height) in pixels of a picture's bytes, (0, 0) for no picture."""
    from PIL import Image

    if not image:
        return 0, 0
    try:
        with Image.open(io.BytesIO(image)) as picture:
            return picture.size
    except OSError as error:
        raise undecodable(key, error) from None


def undecodable(key: str, error: Exception) -> DataError:
    """The error for bytes that are no picture."""
    return DataError("the picture {key} cannot be decoded: {error}; build the data again", key=key, error=error)
