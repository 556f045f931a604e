"""Text tables of pictures (CSV, TSV, JSON lines), streamed line by line, in any encoding."""

# Parsed JSON has no types.
# pyright: reportUnknownArgumentType=false, reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, cast

from bimo.curation.readers.columns import BASE64_START, PICTURES, WEAK, is_of_pictures, looks_like_picture
from bimo.curation.readers.rows import Unusable
from bimo.curation.readers.text_lines import MAXIMUM_LINE_BYTES, QUOTED, LineReader, TextLine, encoding_of, newline_of

#: A quoted field that has not ended after so many lines has lost its second quote.
MAXIMUM_QUOTED_LINES = 1000
JSON_LINES = {".jsonl", ".ndjson"}
SAMPLED_LINES = 20
DELIMITERS = ",\t;|"
_NUMBER = re.compile(r"\s*-?[\d.]+\s*")
_HAN_OR_SPACE = re.compile(r"[\u3400-\u9fff\s]")


@dataclass(frozen=True)
class Line:
    """A line of a table: its number, where its bytes are, and the values by column, or why there are none."""

    number: int
    offset: int
    size: int
    values: Mapping[Any, Any] | Unusable


@dataclass(frozen=True)
class Dialect:
    """How a text table is written. ``columns`` is empty for JSON lines; without ``header`` they are made up. Lines end
    with ``newline``, "\\n" (a "\\r" may stand before it), or "\\r" alone as Excel for Mac writes them.
    """

    encoding: str
    delimiter: str = ""
    columns: tuple[str, ...] = ()
    header: bool = False
    newline: str = "\n"

    def code(self, column: str) -> str:
        """The column of a Place within a line, which ``cell`` reads: encoding, delimiter, and name or number."""
        return f"{self.encoding}/{self.delimiter}/{self.columns.index(column) if self.columns else column}"


def dialect_of(path: Path) -> Dialect | None:
    """The dialect of a table, by its first lines that are not empty; None where nothing in it could be a picture."""
    encoding = encoding_of(path)
    newline = newline_of(path, encoding)
    first, dialects = "", []
    with path.open("rb") as file:
        lines = LineReader(file, encoding, newline)
        while len(dialects) < SAMPLED_LINES and (line := lines.next()) is not None:
            if line.text is not None and line.text.strip():
                first = first or line.text.rstrip("\r\n")
                if not first.lstrip().startswith("{") and path.suffix.lower() not in JSON_LINES:
                    break
                dialects.append(_parsed(line.text))
    if dialects:
        # Where no line can be read, each of them is reported when it is read.
        whole = [values for values in dialects if not isinstance(values, Unusable)]
        known = any(is_of_pictures(values) or "images" in values for values in whole)
        return Dialect(encoding, newline=newline) if known or not whole else None
    for delimiter in sorted(DELIMITERS, key=first.count, reverse=True):
        names = [field.strip() for field in fields_of(first, delimiter) or ()]
        if any(name.lower() in PICTURES for name in names):
            columns = tuple(n if n not in names[:place] else f"{n}.{place}" for place, n in enumerate(names))
            return _of_pictures(path, Dialect(encoding, delimiter, columns, True, newline))
    delimiter = "\t" if "\t" in first else max(DELIMITERS, key=first.count)
    return _without_header(encoding, delimiter, fields_of(first, delimiter) or first.split(delimiter), newline)


def _of_pictures(path: Path, dialect: Dialect) -> Dialect | None:
    """The dialect, unless its picture column has an ambiguous name and no pictures in the first lines."""
    if {name.lower() for name in dialect.columns} & {*PICTURES} - {*WEAK}:
        return dialect
    values = [line.values for line in islice(read(path, dialect), SAMPLED_LINES)]
    whole = [one for one in values if not isinstance(one, Unusable)]
    return dialect if not whole or any(map(is_of_pictures, whole)) else None


def columns_of(path: Path) -> str:
    """What the columns of a text table are called, or its first line where it has no names, for people."""
    encoding = encoding_of(path)
    with path.open("rb") as file:
        line = LineReader(file, encoding, newline_of(path, encoding)).next()
    first = ((line.text if line is not None else "") or "").strip()
    if first.startswith("{"):
        values = _parsed(first)
        names = [str(name) for name in values] if isinstance(values, Mapping) else [first]
    else:
        delimiter = max(DELIMITERS, key=first.count)
        names = fields_of(first, delimiter) or first.split(delimiter)
    return text_for_people(", ".join(name.strip() for name in names))


def text_for_people(text: str, most: int = 200) -> str:
    """A text that can be printed, lone surrogates spelt out."""
    return text[:most].encode("utf-8", "backslashreplace").decode()


def _without_header(encoding: str, delimiter: str, fields: list[str], newline: str) -> Dialect | None:
    """Made-up names for a table that has none: id and base64 (Chinese-CLIP), id, id, caption, objects and base64
    (OFA), a name or a URL and a caption.
    """
    holds = [place for place, field in enumerate(fields) if looks_like_picture(field)]
    if not holds:
        return None
    names = [f"column{place}" for place in range(len(fields))]
    names[holds[0]] = "image"
    rest = [place for place in range(len(fields)) if place != holds[0]]
    if BASE64_START.match(fields[holds[0]]) and len(fields) == 5:
        names[2] = "caption"
    elif texts := [place for place in rest if _HAN_OR_SPACE.search(fields[place].strip())]:
        names[texts[0]] = "caption"
    elif len(fields) == 2 and not BASE64_START.match(fields[holds[0]]) and not _NUMBER.fullmatch(fields[rest[0]]):
        names[rest[0]] = "caption"
    if names[0] == "column0":
        names[0] = "id"
    return Dialect(encoding, delimiter, tuple(names), False, newline)


def read(path: Path, dialect: Dialect) -> Iterator[Line]:
    """Every line of a table but its header and empty ones."""
    with path.open("rb") as file:
        lines, header = LineReader(file, dialect.encoding, dialect.newline), dialect.header
        while (line := lines.next()) is not None:
            if line.text is not None and not line.text.strip():
                continue
            record = _record(lines, line, dialect) if dialect.delimiter else _object(line)
            if not header:
                yield record
            header = False


def _object(line: TextLine) -> Line:
    return Line(line.number, line.offset, line.size, _parsed(line.text))


def _record(lines: LineReader, line: TextLine, dialect: Dialect) -> Line:
    """One record of a CSV, which goes on over the next lines where a quote is open."""
    if line.text is None:
        return _object(line)
    text, size = line.text, line.size
    fields = fields_of(text.rstrip("\r\n"), dialect.delimiter)
    # In a TSV as tools write it that know no quotes, one without a second is a letter like any other. A line that is
    # whole as it stands is one such where the next, up to the second quote, is whole as well.
    letters = text.rstrip("\r\n").split("\t") if fields is None and dialect.delimiter == "\t" else []
    while fields is None:
        further = lines.next()
        lost = further is None or further.text is None or further.number - line.number > MAXIMUM_QUOTED_LINES
        if lost or _two_lines(letters, cast(TextLine, further), dialect):
            lines.rewind(line.number, line.offset + line.size)
            if len(letters) == len(dialect.columns):
                return Line(line.number, line.offset, line.size, _named(letters, line.text, dialect))
            return Line(line.number, line.offset, line.size, Unusable("open quote", line.text.strip()[:80]))
        assert further is not None
        assert further.text is not None
        text, size = text + further.text, size + further.size
        if '"' in further.text:
            fields = fields_of(text.rstrip("\r\n"), dialect.delimiter)
            if fields is not None and len(fields) != len(dialect.columns) == len(letters):
                lines.rewind(line.number, line.offset + line.size)
                return Line(line.number, line.offset, line.size, _named(letters, line.text, dialect))
    if dialect.delimiter == "\t" and text is line.text and len(fields) != len(dialect.columns):
        plain = text.rstrip("\r\n").split("\t")
        fields = plain if len(plain) == len(dialect.columns) else fields
    return Line(line.number, line.offset, size, _named(fields, text, dialect))


def _two_lines(letters: list[str], further: TextLine, dialect: Dialect) -> bool:
    """Whether a line of a TSV whose quote is open and the line behind it are whole, each by itself."""
    width = len(dialect.columns)
    return width > 1 and len(letters) == width and (further.text or "").count("\t") == width - 1


def _named(fields: list[str], text: str, dialect: Dialect) -> Mapping[Any, Any] | Unusable:
    if len(fields) != len(dialect.columns):
        return Unusable("wrong number of columns", f"{len(fields)}; expected {len(dialect.columns)}")
    if not text.isascii() and (bad := _not_text(text, dialect.encoding)) is not None:
        return bad
    return dict(zip(dialect.columns, fields, strict=True))


def fields_of(text: str, delimiter: str) -> list[str] | None:
    """The fields of a line (RFC 4180); None where a quote is left open."""
    if '"' not in text:
        return text.split(delimiter)
    fields, place = list[str](), 0
    while True:
        if text.startswith('"', place):
            quoted = QUOTED.match(text, place)
            if quoted is None:
                return None
            end = quoted.end()
            if end < len(text) and text[end] != delimiter:
                # Text after the closing quote: the quotes were part of the text.
                end = text.find(delimiter, end)
                end = len(text) if end < 0 else end
                fields.append(text[place:end])
            else:
                fields.append(quoted[1].replace('""', '"'))
        else:
            end = text.find(delimiter, place)
            end = len(text) if end < 0 else end
            fields.append(text[place:end])
        if end >= len(text):
            return fields
        place = end + 1


def _parsed(text: str | None) -> Mapping[Any, Any] | Unusable:
    if text is None:
        return Unusable("line too long", f"more than {MAXIMUM_LINE_BYTES} bytes")
    if not text.isascii() and (bad := _not_text(text, "utf-8")) is not None:
        return bad
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        return Unusable("not json", str(error)[:200])
    if not isinstance(values, dict):
        return Unusable("not an object", f"{type(values).__name__} where columns by name are expected")
    return cast("dict[Any, Any]", values)


def _not_text(text: str, encoding: str) -> Unusable | None:
    """The error of a line with bytes that are not of its encoding; they were decoded as lone surrogates."""
    bad = next((place for place, c in enumerate(text) if "\udc80" <= c <= "\udcff"), None)
    return None if bad is None else Unusable("not text", f"byte 0x{ord(text[bad]) & 0xFF:02x} is not {encoding}")


def cell(line: bytes, column: str) -> bytes:
    """The picture within a line of a table, as ``Dialect.code`` and the column's name say where.

    Raises Unusable "damaged table", "not base64".
    """
    encoding, delimiter, name = column.split("/", 2)
    text = line.decode(encoding, "replace").lstrip("\ufeff")
    if delimiter:
        fields = fields_of(text.rstrip("\r\n"), delimiter) or text.rstrip("\r\n").split(delimiter)
        value = fields[int(name)] if int(name) < len(fields) else None
    else:
        values = _parsed(text)
        value = values.get(name) if isinstance(values, Mapping) else None
    if not isinstance(value, str):
        raise Unusable("damaged table", f"no {name} at its place any more")
    return from_base64(value)


def from_base64(value: str) -> bytes:
    """Base64, of either alphabet, with or without its padding or ``data:image/...;base64,`` before it."""
    value = value.partition(",")[2] if value.startswith("data:") else value
    value = "".join(value.split()).rstrip("=").replace("-", "+").replace("_", "/")
    try:
        return base64.b64decode(value + "=" * (-len(value) % 4), validate=True)
    except (binascii.Error, ValueError) as error:
        raise Unusable("not base64", str(error)) from None
