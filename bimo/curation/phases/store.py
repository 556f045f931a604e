"""The files of a run: parquet units, written whole or not at all, each with a fingerprint of its inputs.

A unit is a run of consecutive rows of a source. Its size depends on its number alone, so that the same rows are in the
same files whatever else changes.
"""

# pyarrow has no types; what crosses it here is named where it is kept.
# pyright: reportMissingTypeStubs=false, reportUnknownArgumentType=false, reportUnknownMemberType=false
# pyright: reportUnknownParameterType=false, reportUnknownVariableType=false

from __future__ import annotations

import errno
import hashlib
import io
import json
import math
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from bimo.core.errors import BimoError, DataError
from bimo.core.files import write_whole
from bimo.core.messages import Message

if TYPE_CHECKING:
    import pyarrow as pa

ROWS_A_UNIT = 1000
#: The first units are small, so that small sets have work for several processes.
SMALL_UNITS, ROWS_A_SMALL_UNIT = 16, 64
#: Captions of a unit, in characters: a unit that holds more is closed early.
CHARACTERS_A_UNIT = 1 << 23
FINGERPRINT = b"made of"


def begin_arrow() -> None:
    """Imports pyarrow without pandas, which its first array of a list would import: a third of a second in every
    process, for nothing that is used here. pandas can still be imported later.
    """
    without = _Without("pandas")
    sys.meta_path.insert(0, without)
    try:
        import pyarrow as pa
        import pyarrow.parquet  # pyright: ignore[reportUnusedImport]

        pa.array([0])
    finally:
        sys.meta_path.remove(without)


@dataclass(frozen=True)
class _Without:
    """A module finder that hides one module."""

    name: str

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        """Raises ModuleNotFoundError for the name."""
        if name == self.name:
            raise ModuleNotFoundError(f"{name} is not asked for yet", name=name)


@dataclass(frozen=True)
class Work:
    """The paths of a run's files, below ``folder``."""

    folder: Path

    def unit(self, folder_name: str, number: int) -> Path:
        """The file of a unit in a folder such as "rows"."""
        return self.folder / folder_name / f"{number:06d}.parquet"

    @property
    def fetched(self) -> Path:
        """The folder of downloaded pictures."""
        return self.folder / "fetched"


def most_rows(unit: int) -> int:
    """How many rows a unit has at most."""
    return ROWS_A_SMALL_UNIT if unit < SMALL_UNITS else ROWS_A_UNIT


def digest(*values: Any) -> str:
    """The SHA-256 of plain data, in hexadecimal."""
    text = json.dumps(values, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def save(path: Path, content: bytes) -> None:
    """Writes a file whole or not at all. Raises DataError where the disk does not take it."""
    try:
        write_whole(path, content)
    except BimoError as error:
        raise unwritten(error) from None


def unwritten(error: BimoError | OSError, path: Path | None = None) -> DataError:
    """The error for a failed write, with what to do by its errno."""
    if isinstance(error, BimoError):
        failure, cause = error.message, error.__cause__
    else:
        failure, cause = Message("cannot write to {path}: {strerror}", path=path, strerror=error.strerror), error
    number = cause.errno if isinstance(cause, OSError) else None
    if number in (errno.EACCES, errno.EPERM, errno.EROFS):
        return DataError("{failure}. Name a folder that you may write in", failure=failure)
    if number in (errno.EEXIST, errno.ENOTDIR, errno.EISDIR):
        return DataError("{failure}. A part of the path is a file and no folder; give another name", failure=failure)
    if number in (errno.ENOSPC, errno.EDQUOT):
        return DataError(
            "{failure}. What was finished is kept; make room and run the same command again to go on", failure=failure
        )
    return DataError(
        "{failure}. What was finished is kept; mend this and run the same command again to go on", failure=failure
    )


def save_json(path: Path, value: Any) -> None:
    """Writes plain data as readable JSON, whole or not at all."""
    save(path, (json.dumps(value, ensure_ascii=False, indent=1) + "\n").encode("utf-8", "backslashreplace"))


def read_json(path: Path) -> Any:
    """The content of a JSON file; None where there is none or it is damaged."""
    try:
        return json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return None


def save_table(path: Path, columns: Mapping[str, Any], fingerprint: str = "") -> None:
    """Writes a parquet file. Columns are arrays of pyarrow, or lists of numbers and texts as ``column`` takes them."""
    save(path, table_bytes(columns, fingerprint))


def table_bytes(columns: Mapping[str, Any], fingerprint: str = "") -> bytes:
    """A parquet file in memory; the same columns give the same bytes."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    arrays = {name: value if isinstance(value, pa.Array) else column(value) for name, value in columns.items()}
    table = pa.table(arrays).replace_schema_metadata({FINGERPRINT: fingerprint.encode()} if fingerprint else None)
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    return buffer.getvalue()


def column(values: Sequence[Any]) -> pa.Array:
    """Numbers or texts as a column that reads back equal: integers stay integers where all are."""
    import pyarrow as pa

    present = [value for value in values if value is not None]
    if any(isinstance(value, str) for value in present):
        return pa.array([None if value is None else str(value) for value in values], pa.string())
    if any(isinstance(value, float) for value in present):
        return pa.array([None if value is None else float(value) for value in values], pa.float64())
    if not present:
        return pa.array(values, pa.float64())
    return pa.array(values, pa.uint64() if max(present) > np.iinfo(np.int64).max else pa.int64())


def plain(value: Any) -> float | int | str | None:
    """A score as plain data. Raises TypeError for what is no score, ValueError for an integer of more than 64 bits."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, (bool, int, np.integer, np.bool_)):
        whole = int(value)
        if not -(1 << 63) <= whole < 1 << 64:
            raise ValueError(f"{whole} needs more than 64 bits")
        return whole
    if isinstance(value, (float, np.floating)):
        return float(value)
    raise TypeError(f"{type(value).__name__} is no score")


def fingerprint_of(path: Path) -> str:
    """The fingerprint a unit file was saved with, empty where there is no such file or it cannot be read."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return (pq.read_schema(path).metadata or {}).get(FINGERPRINT, b"").decode()
    except (OSError, pa.ArrowException):
        return ""


def load_table(path: Path, names: Sequence[str] | None = None) -> pa.Table:
    """A unit file, or some of its columns. Raises DataError where it is gone or damaged."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        # One thread: units are small, and there are several processes.
        with pq.ParquetFile(path) as file:
            return file.read(columns=None if names is None else list(names), use_threads=False)
    except (OSError, pa.ArrowException) as error:
        raise DataError(
            "{path} cannot be read: {error}. Delete it and run the same command again", path=path, error=error
        ) from None


def load_rows(path: Path, names: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """The rows of a unit file. Raises DataError as ``load_table``."""
    return load_table(path, names).to_pylist()


def names_in(path: Path) -> list[str]:
    """The columns of a unit file, none where there is no such file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return list(pq.read_schema(path).names)
    except (OSError, pa.ArrowException):
        return []


def joined(pieces: Sequence[np.ndarray]) -> np.ndarray:
    """Pieces of one column of scores: integers stay integers, a missing number is NaN, texts are objects.

    Whole numbers of which some need all 64 bits without a sign are uint64: nothing is rounded.
    """
    filled = [piece for piece in pieces if len(piece)]
    if not filled:
        return np.zeros(0)
    if any(piece.dtype == object for piece in filled):
        return np.concatenate([piece.astype(object) for piece in filled])
    if any(piece.dtype.kind == "f" for piece in filled):
        return np.concatenate([piece.astype(np.float64) for piece in filled])
    if any(piece.dtype == np.uint64 for piece in filled) and all(int(piece.min()) >= 0 for piece in filled):
        return np.concatenate([piece.astype(np.uint64) for piece in filled])
    return np.concatenate(filled)


def ranked(
    pieces: Iterable[np.ndarray], rank: np.ndarray, count: int, shape: tuple[int, ...], dtype: str
) -> np.ndarray:
    """[count, *shape]: a column, piece by piece, each row at its rank; a row of rank -1 is left out. Memory holds the
    result and one piece.
    """
    result, at = np.empty((count, *shape), dtype), 0
    for piece in pieces:
        to = rank[at : at + len(piece)]
        result[to[to >= 0]] = piece[to >= 0]
        at += len(piece)
    return result


#: The most frequent cells: made without parsing, anew each time, as callers may change them.
_USUAL: dict[str, Callable[[], Any]] = {"{}": dict, "[]": list, "null": lambda: None}
_ENCODE = json.JSONEncoder(ensure_ascii=False).encode


def to_cell(value: Any) -> str:
    """Plain data as the text of a cell: JSON."""
    return "null" if value is None else _ENCODE(value)


def of_cell(text: str) -> Any:
    """The inverse of ``to_cell``."""
    usual = _USUAL.get(text)
    return json.loads(text) if usual is None else usual()


def array_of(values: Sequence[Any]) -> np.ndarray:
    """A list of scores as ``joined`` has them."""
    present = [value for value in values if value is not None]
    if any(isinstance(value, str) for value in present):
        objects = np.empty(len(values), dtype=object)
        objects[:] = list(values)
        return objects
    if len(present) < len(values) or any(isinstance(value, float) for value in present):
        return np.array([math.nan if value is None else value for value in values], dtype=np.float64)
    whole = cast("list[int]", present)
    return np.array(whole, dtype=np.uint64 if whole and max(whole) > np.iinfo(np.int64).max else np.int64)


def sweep(folder: Path, count: int, ending: str = ".parquet") -> None:
    """Removes the numbered files of a folder from ``count`` on: those of an earlier, longer run."""
    for path in numbered(folder, ending):
        if int(path.name.removesuffix(ending).rpartition("-")[2]) >= count:
            path.unlink(missing_ok=True)


def numbered(folder: Path, ending: str) -> Iterator[Path]:
    """The numbered files of a folder, sorted; none where there is no folder."""
    if folder.is_dir():
        yield from sorted(
            p for p in folder.iterdir() if p.name.endswith(ending) and p.name.removesuffix(ending)[-5:].isdigit()
        )
