"""Detects the format of a source from its content, and says in one sentence why."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path

from bimo.core.errors import DataError
from bimo.core.messages import Message
from bimo.curation.readers import archives, columnar, folders, listing, records, tables
from bimo.curation.readers.columns import Beside, picture_column
from bimo.curation.readers.formats import PICTURE_FILES, comparable, is_picture
from bimo.curation.readers.listing import TABLES
from bimo.curation.readers.rows import Unusable
from bimo.data.shards import INDEX, read_index


@dataclass(frozen=True)
class SourceFormat:
    """A detected format: ``description`` says what it is and why, ``read`` yields its rows.

    ``tables``, ``tars`` and ``sides`` are the files that rows, or further columns of them, come from; without tables
    and tars the rows are the pictures of the folders.
    """

    description: Message
    read: listing.Read
    tables: frozenset[str] = frozenset()
    tars: frozenset[str] = frozenset()
    sides: frozenset[str] = frozenset()


@dataclass
class _Survey:
    """The files of a source by how they may be read: paths relative to it, in order.

    ``closed`` have names of tables or tars but are pipes, or links that lead outside; they are reported, never opened.
    ``objects`` are .json and .txt files that belong to no picture.
    """

    tars: list[str]
    tables: list[str]
    records: list[str]
    closed: list[str]
    objects: list[str]
    pictures: int = 0
    captions: int = 0


def _survey(source: Path) -> _Survey:
    survey = _Survey([], [], [], [], [])
    for folder in folders.walk(source):
        stems = {os.path.splitext(name)[0] for name in folder.by_comparable if is_picture(name)}
        for entry in folder.files:
            path, (stem, ending) = os.path.join(folder.path, entry.name), os.path.splitext(comparable(entry.name))
            kinds: list[list[str]] = []
            if entry.name.lower().endswith(listing.TARS):
                kinds = [survey.tars]
            elif ending in TABLES:
                kinds = [survey.tables]
            elif ending == ".json" and stem not in stems:
                kinds = [survey.objects] if folder.path else [survey.records, survey.objects]
            elif ending in listing.CAPTION_FILES and stem in stems:
                survey.captions += 1
            elif ending == ".txt":
                kinds = [survey.objects] if folders.is_open(source, path) else []
            elif listing.is_one(source, folder, entry.name):
                survey.pictures += 1
            elif archives.is_tar(source, path):
                kinds = [survey.tars]
            if kinds and not folders.is_open(source, path):
                kinds = [survey.closed]
            for kind in kinds:
                kind.append(path)
    return survey


def detect_format(source: Path) -> SourceFormat:
    """The format of a source, by its content. Raises DataError, with the formats that were tried, where none fits."""
    if source.is_file():
        return _detect_file(source)
    if not source.is_dir():
        raise DataError("there is no {source}", source=source)
    survey = _survey(source)
    closed, packed = survey.closed, list[str]()
    if all(name.lower().endswith(listing.PACKED) for name in survey.tars) and (survey.pictures or survey.tables):
        # Compressed archives beside readable data are reported and do not stop the run.
        packed, survey.tars = survey.tars, []
    what = _detect_tars(source, survey) or _detect_tables(source, survey)
    if what is None:
        closed = [*closed, *(name for name in survey.tables if _is_damaged(source / name))]
        description = Message("{closed} tables, none of which can be read", closed=len(closed))
        read = listing.listed(source, [])
        if survey.pictures:
            description = Message(
                "{count} pictures in folders; captions are in .txt or .json files of the same name",
                count=survey.pictures,
            )
            read = listing.pictures(source)
        elif not closed:
            raise _nothing(source)
        what = SourceFormat(description, read)
    if closed or packed:
        before = listing.both(listing.listed(source, closed), listing.tars(source, packed))
        what = replace(what, read=listing.both(before, what.read), sides=what.sides | {*packed})
    return what


def _detect_tars(source: Path, survey: _Survey) -> SourceFormat | None:
    """Shards of our own, an index of IndexKits, tars."""
    if INDEX in survey.records and survey.tars:
        try:
            names = [shard.name for shard in read_index(source).shards]
        except DataError:
            names = []  # another tool's index.json
        if names:
            description = Message("bimo's own shards: {index} lists {count} shards", index=INDEX, count=len(names))
            read = listing.tars(source, names)
            return SourceFormat(description, read, tars=frozenset(names), sides=frozenset({INDEX}))
    for name in survey.records:
        if (index := listing.index_kits(source / name)) is not None:
            return _detect_index(source, index)
    if not survey.tars:
        return None
    tables = [Path(name).with_suffix(".parquet").as_posix() for name in survey.tars]
    tables = [name for name in tables if (source / name).is_file()]
    if sides := len(tables):
        return SourceFormat(
            Message(
                "{count} tar files, {sides} of them with a parquet beside them: img2dataset's output",
                count=len(survey.tars),
                sides=sides,
            ),
            listing.tars(source, survey.tars),
            tars=frozenset(survey.tars),
            sides=frozenset(_stats(source, tables)),
        )
    description = Message("{count} tar files: webdataset", count=len(survey.tars))
    return SourceFormat(description, listing.tars(source, survey.tars), tars=frozenset(survey.tars))


def _detect_tables(source: Path, survey: _Survey) -> SourceFormat | None:
    """Folders of img2dataset, an imagefolder, tables."""
    fetched = [name for name in survey.tables if _is_side(source / name)]
    if fetched:
        description = Message("img2dataset's folders: {count} parquet tables of keys and statuses", count=len(fetched))
        sides = frozenset(_stats(source, fetched)) - {*fetched}
        return SourceFormat(description, listing.fetched(source, fetched), frozenset(fetched), sides=sides)
    # Where pictures have caption files, other texts are read as tables of texts.
    objects = [name for name in survey.objects if not (survey.captions and name.lower().endswith(".txt"))]
    survey.tables += [name for name in objects if _are_records(source, source / name)]
    metadata = [name for name in survey.tables if os.path.basename(name).startswith("metadata.")]
    apart = {listing.texts_of(name) for name in survey.tables if name.endswith(listing.APART[0])}
    chosen = metadata or [name for name in survey.tables if name not in apart]
    first = next((storage for name in chosen if (storage := _storage(source / name)) is not None), None)
    if first is None:
        return None
    kind = Message("a Hugging Face imagefolder") if metadata else Message("tables")
    description = Message("{kind}: {count} of them; {first}", kind=kind, count=len(chosen), first=first)
    read = listing.listed(source, chosen)
    return SourceFormat(description, read, frozenset(chosen), sides=frozenset(apart) & {*survey.tables})


def _stats(source: Path, names: list[str]) -> list[str]:
    """Tables of img2dataset, and the statistics that it leaves beside them."""
    stats = [name.removesuffix(".parquet") + "_stats.json" for name in names]
    return [*names, *(name for name in stats if (source / name).is_file())]


def _lies_beside(source: Path, table: Path, name: str) -> bool:
    try:
        return (source / Beside(source, table.parent).find(name)).is_file()
    except (Unusable, OSError):
        return False


def _are_records(source: Path, path: Path) -> bool:
    try:
        if path.suffix.lower() != ".txt":
            return records.is_records(path)
        # A list of captions, as some sets have it: named columns, or a first column of existing pictures.
        dialect = tables.dialect_of(path)
        if dialect is None or len(dialect.columns) < 2:
            return False
        first = next((line.values for line in tables.read(path, dialect)), None)
        if first is None or isinstance(first, Unusable) or (name := picture_column(first)) is None:
            return False
        return _lies_beside(source, path, str(first[name]))
    except OSError:  # missing or unreadable: reported when the folder is read
        return False


def _detect_index(folder: Path, index: listing.Index) -> SourceFormat:
    description = Message(
        "an index of IndexKits, {name}: {rows} rows of {tables} Arrow tables",
        name=index.name,
        rows=len(index.rows),
        tables=len(index.tables),
    )
    places = (place for table in index.tables for place in (table, os.path.basename(table)))
    read = frozenset(place for place in places if not os.path.isabs(place) and (folder / place).is_file())
    return SourceFormat(description, listing.indexed(folder, index), read, sides=frozenset({index.name, *index.beside}))


def _is_side(path: Path) -> bool:
    """Whether a parquet is what img2dataset leaves beside a folder of pictures."""
    return path.suffix == ".parquet" and path.with_suffix("").is_dir() and archives.is_side_table(path)


def _nothing(source: Path) -> DataError:
    suffixes = "metadata.jsonl, .csv, .tsv, .jsonl, .json, .parquet, .arrow, .tar, " + ", ".join(sorted(PICTURE_FILES))
    return DataError(
        "nothing in {source} can be read: looked for tables with a column of pictures, tars and pictures ({suffixes})",
        source=source,
        suffixes=suffixes,
    )


def _detect_file(source: Path) -> SourceFormat:
    folder, name = source.parent, source.name
    if (index := listing.index_kits(source)) is not None:
        return _detect_index(folder, index)
    with source.open("rb") as file:
        start = file.read(512)
    if start[257:262] == b"ustar" or name.lower().endswith((".tar", ".tgz", ".tar.gz")):
        read = listing.tars(folder, [name])
        return SourceFormat(Message("a tar file: webdataset"), read, tars=frozenset({name}))
    storage = _storage(source)
    if storage is None:
        raise _nothing(source)
    return SourceFormat(
        Message("a table: {storage}", storage=storage), listing.listed(folder, [name]), frozenset({name})
    )


def _is_damaged(path: Path) -> bool:
    """Whether a table begins as Parquet or Arrow and cannot be read as such."""
    try:
        if (form := columnar.form_of(path)) is not None:
            columnar.picture_of(path, form)
    except Exception:  # as below
        return True
    return False


def _storage(path: Path) -> Message | None:
    """How a table stores its pictures and captions; None where it has no pictures."""
    if not path.is_file():
        return None
    try:
        if path.suffix.lower() in records.ENDINGS and records.is_records(path):
            return Message("records in JSON")
        if path.suffix.lower() == ".json":
            return None
        if (form := columnar.form_of(path)) is not None:
            picture = columnar.picture_of(path, form)
            if picture is None:
                return None
            return Message("{form} with pictures in column {picture}", form=form, picture=picture[0])
        dialect = tables.dialect_of(path)
    except Exception:  # pyarrow raises various exceptions for damaged files; they are reported as such
        return None
    if dialect is None:
        return None
    how = {"": "JSON lines", "\t": "TSV", ",": "CSV"}.get(dialect.delimiter, f"CSV ({dialect.delimiter})")
    return Message("{how} in {encoding}", how=how, encoding=dialect.encoding)
