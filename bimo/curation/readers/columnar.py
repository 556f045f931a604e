"""Tables of pictures in Parquet and Arrow: captions are read without the pictures, and a picture without the rest."""

# pyarrow has no types; what crosses it here is named where it is kept.
# pyright: reportMissingTypeStubs=false, reportUnknownArgumentType=false, reportUnknownMemberType=false
# pyright: reportUnknownParameterType=false, reportUnknownVariableType=false

from __future__ import annotations

import os
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bimo.curation.readers.columns import ADDRESS, ADDRESSES, CODED, FILES, PICTURE_NAME, PICTURES
from bimo.curation.readers.formats import BEGINNING, format_of
from bimo.curation.readers.rows import Form, Unusable
from bimo.curation.readers.tables import from_base64

if TYPE_CHECKING:
    import pyarrow as pa

ROWS_A_BATCH = 1024
PICTURES_A_BATCH = 16
OPEN_TABLES = 4
MAGIC: dict[bytes, Form] = {b"PAR1": "parquet", b"ARROW1": "arrow", b"\xff\xff\xff\xff": "arrow"}


def form_of(path: Path) -> Form | None:
    """parquet or arrow, by the first bytes: Arrow's files, and its streams as Hugging Face keeps them."""
    with path.open("rb") as file:
        start = file.read(8)
    return next((form for magic, form in MAGIC.items() if start.startswith(magic)), None)


def schema_of(path: Path, form: Form) -> pa.Schema:
    """The columns of a table. Raises what pyarrow raises."""
    import pyarrow.parquet as parquet

    if form == "parquet":
        return parquet.read_schema(path)
    with _mapped(path) as (schema, _):
        return schema


def picture_of(path: Path, form: Form) -> tuple[str, bool] | None:
    """The column of the pictures, and whether they lie in it: bytes, {bytes, path} or base64; else names or URLs.

    None where there is no such column.
    """
    import pyarrow as pa

    schema = schema_of(path, form)
    binary = [name for name in schema.names if _is_bytes(schema.field(name).type)]
    for name in [name for name in schema.names if name.lower() in PICTURES and name in binary] + binary:
        kind = schema.field(name).type
        nested = pa.types.is_struct(kind) or _is_list(kind)
        first = b"" if nested else _first(path, form, name)
        # A column with such a name whose first values are missing or damaged is still the column of the pictures.
        if format_of(first[:BEGINNING]) or (not first and (name.lower() in PICTURES or nested)):
            return name, True
    texts = {name.lower(): name for name in schema.names if _is_text(schema.field(name).type)}
    pictures = [texts[name] for name in (*FILES, *ADDRESSES, *CODED) if name in texts]
    lists = [name for name in ("images", "image") if name in schema.names and _is_list(schema.field(name).type)]
    if not pictures and lists and _is_text(schema.field(lists[0]).type.value_type):
        return lists[0], False
    for name in pictures:
        value = _first(path, form, name).decode("utf-8", "replace")
        if ADDRESS.match(value) or PICTURE_NAME.search(value):
            return name, False
        if len(value) > 60 and format_of(_base64(value)[:BEGINNING]):
            return name, True
    return (pictures[0], False) if pictures else None


def _base64(value: str) -> bytes:
    try:
        return from_base64(value)
    except Unusable:
        return b""


def _is_bytes(kind: pa.DataType) -> bool:
    import pyarrow as pa

    if _is_list(kind):
        return pa.types.is_struct(kind.value_type) and _is_bytes(kind.value_type)
    if pa.types.is_struct(kind):
        inside = {kind.field(place).name: kind.field(place).type for place in range(kind.num_fields)}
        # Of a table whose pictures are all in files the bytes are of no type.
        return "bytes" in inside and (pa.types.is_null(inside["bytes"]) or _is_bytes(inside["bytes"]))
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def _is_list(kind: pa.DataType) -> bool:
    import pyarrow as pa

    return pa.types.is_list(kind) or pa.types.is_large_list(kind)


def _is_text(kind: pa.DataType) -> bool:
    import pyarrow as pa

    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def _is_caption_or_label(kind: pa.DataType) -> bool:
    """Whether a column may hold captions or labels: texts, numbers, and lists or structures of texts."""
    import pyarrow as pa

    if _is_list(kind):
        inside = kind.value_type
        return _is_text(inside) or (pa.types.is_struct(inside) and _is_caption_or_label(inside))
    if pa.types.is_struct(kind):
        return all(_is_caption_or_label(kind.field(place).type) for place in range(kind.num_fields))
    return _is_text(kind) or pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)


def _first(path: Path, form: Form, column: str) -> bytes:
    """The first value of a column among the first rows; empty where there is none."""
    for place, (_, _, batch) in enumerate(_batches(path, form, (column,), 0, PICTURES_A_BATCH)):
        for _, values in () if isinstance(batch, Unusable) else _values(batch):
            value = values[column] if isinstance(values, Mapping) else None
            if value:
                return value if isinstance(value, bytes) else str(value).encode("utf-8", "replace")
        if place == 4:
            break
    return b""


def lines(path: Path, form: Form, without: str) -> Iterator[tuple[int, Mapping[str, Any] | Unusable]]:
    """(row, values by column) of every row, without column ``without`` and values that are neither text nor number.

    A part that cannot be read is reported once, with its rows; reading resumes after it where that is possible.
    """
    schema = schema_of(path, form)
    names = tuple(name for name in schema.names if name != without and _is_caption_or_label(schema.field(name).type))
    row = 0
    try:
        # Without a column of text or numbers Parquet still counts its rows; of Arrow, which is mapped, one column does.
        columns = names if names or form == "parquet" else schema.names[:1]
        for first, count, batch in _batches(path, form, columns, 0, ROWS_A_BATCH):
            row = first
            if isinstance(batch, Unusable):
                yield row, Unusable(batch.reason, f"rows {row} to {first + count - 1}: {batch.detail}"[:300])
            else:
                for place, values in _values(batch):
                    yield first + place, values if names or isinstance(values, Unusable) else {}
            row = first + count
    except Exception as error:  # pyarrow raises various exceptions for damaged files
        yield row, Unusable("damaged table", f"from row {row} on: {error}"[:300])


def _values(batch: pa.RecordBatch) -> Iterator[tuple[int, Mapping[str, Any] | Unusable]]:
    """(place, values) of a batch; of a row whose texts are not UTF-8, that."""
    try:
        rows = batch.to_pylist()
    except UnicodeDecodeError:
        for place in range(batch.num_rows):
            try:
                yield place, batch.slice(place, 1).to_pylist()[0]
            except UnicodeDecodeError as error:
                yield place, Unusable("not text", str(error)[:200])
    else:
        yield from enumerate(rows)


@contextmanager
def _mapped(path: Path) -> Generator[tuple[pa.Schema, Iterator[pa.RecordBatch]]]:
    """An Arrow file or stream, memory-mapped: its columns and its batches."""
    import pyarrow as pa
    from pyarrow import ipc

    with pa.memory_map(str(path)) as file:
        start = file.read(len("ARROW1"))
        file.seek(0)
        if start == b"ARROW1":
            table = ipc.open_file(file)
            yield table.schema, (table.get_batch(place) for place in range(table.num_record_batches))
        else:
            stream = ipc.open_stream(file)
            yield stream.schema, iter(stream)


Batch = tuple[int, int, "pa.RecordBatch | Unusable"]


def _batches(path: Path, form: Form, columns: Sequence[str], row: int, size: int) -> Iterator[Batch]:
    """(first row, number of rows, batch) from the part on that holds a row, at most ``size`` rows at once; a part that
    cannot be read comes as the reason.
    """
    if form == "arrow":
        yield from _arrow_batches(path, columns, row, size)
        return
    import pyarrow.parquet as parquet

    with parquet.ParquetFile(path, pre_buffer=False, buffer_size=1 << 20) as file:
        first = 0
        for group in range(file.num_row_groups):
            place, first = first, first + file.metadata.row_group(group).num_rows
            if row >= first:
                continue
            try:
                for batch in file.iter_batches(size, [group], list(columns), use_threads=False):
                    yield place, batch.num_rows, batch
                    place += batch.num_rows
            except Exception as error:  # as above
                yield place, first - place, Unusable("damaged table", str(error)[:200])


def _arrow_batches(path: Path, columns: Sequence[str], row: int, size: int) -> Iterator[Batch]:
    first = 0
    with _mapped(path) as (_, batches):
        for batch in batches:
            count = batch.num_rows
            if row < first + count:
                try:
                    selected = batch.select(list(columns))
                    # Offsets come from the file itself; unchecked, a wrong one would read anywhere.
                    selected.validate(full=True)
                except Exception as error:  # as above
                    yield first, count, Unusable("damaged table", str(error)[:200])
                else:
                    for place in range(0, count, size):
                        yield first + place, min(size, count - place), selected.slice(place, size)
            first += count


def paths(path: Path, form: Form, column: str) -> Iterator[str]:
    """The files in which pictures of a column lie that are not in the table itself. Parts of a table that hold every
    picture are passed over unread. Raises what pyarrow raises.
    """
    kind = schema_of(path, form).field(column).type
    if not _names_files(kind) or (form == "parquet" and _holds_all(path, column)):
        return
    for _, _, batch in _batches(path, form, (column,), 0, PICTURES_A_BATCH):
        if isinstance(batch, Unusable):
            continue  # it is reported by its row
        for value in batch.column(0).to_pylist():
            one = value[0] if isinstance(value, list) and value else value
            if isinstance(one, Mapping) and not one.get("bytes") and isinstance(one.get("path"), str):
                yield one["path"]


def _names_files(kind: pa.DataType) -> bool:
    import pyarrow as pa

    kind = kind.value_type if _is_list(kind) else kind
    return pa.types.is_struct(kind) and "path" in [kind.field(place).name for place in range(kind.num_fields)]


def _holds_all(path: Path, column: str) -> bool:
    """Whether a parquet's statistics say that no picture's bytes are missing in any part."""
    import pyarrow.parquet as parquet

    about = parquet.read_metadata(path)
    for group in map(about.row_group, range(about.num_row_groups)):
        for chunk in map(group.column, range(group.num_columns)):
            leaf = chunk.path_in_schema
            if leaf.startswith(f"{column}.") and leaf.endswith(".bytes"):
                known = chunk.statistics
                if known is None or not known.has_null_count or known.null_count:
                    return False
    return True


class _Cursor:
    """A column that is mostly read sequentially."""

    def __init__(self, path: Path, form: Form, column: str) -> None:
        self.path, self.column = path, column
        self.form: Form = form
        self.batches: Iterator[Batch] | None = None
        self.first = self.end = 0
        self.batch: pa.RecordBatch | Unusable | None = None

    def value(self, row: int) -> Any:
        """The value of a row; None behind the end. Raises Unusable, and what pyarrow raises."""
        if self.batches is None or row < self.first:
            self.batches = _batches(self.path, self.form, (self.column,), row, PICTURES_A_BATCH)
            self.first = self.end = 0
        while row >= self.end:
            batch = next(self.batches, None)
            if batch is None:
                self.batches = None
                return None
            self.first, self.end, self.batch = batch[0], batch[0] + batch[1], batch[2]
        if isinstance(self.batch, Unusable):
            raise self.batch
        assert self.batch is not None  # the loop above has set it
        return self.batch.column(0)[row - self.first].as_py()


@lru_cache(maxsize=OPEN_TABLES)
def _cursor(path: Path, form: Form, column: str, state: tuple[int, int], process: int) -> _Cursor:
    return _Cursor(path, form, column)


def cell(path: Path, form: Form, row: int, column: str) -> bytes | str:
    """The picture of a row: its bytes, or its path where only that is there.

    Raises Unusable "damaged table", "empty", "not base64".
    """
    about = path.stat()
    cursor = _cursor(path, form, column, (about.st_size, about.st_mtime_ns), os.getpid())
    try:
        value = cursor.value(row)
    except Unusable:
        raise
    except Exception as error:  # as above
        cursor.batches = None
        raise Unusable("damaged table", str(error)[:300]) from None
    if isinstance(value, list):
        if len(value) > 1:
            raise Unusable("several pictures", f"row {row} of {column} holds {len(value)}")
        value = value[0] if value else None
    if isinstance(value, Mapping):
        value = value.get("bytes") or value.get("path")
        if isinstance(value, str) and value:
            return value
    if isinstance(value, str):
        return from_base64(value)
    if not value:
        raise Unusable("empty", f"row {row} of {column} holds nothing")
    return value
