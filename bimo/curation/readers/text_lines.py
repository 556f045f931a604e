"""Lines of a text file in any encoding, with their byte offsets; very long lines are skipped, not read."""

from __future__ import annotations

import io
import re
from dataclasses import dataclass
from pathlib import Path

MAXIMUM_LINE_BYTES = 384 << 20  # the base64 of the largest picture that is read
SAMPLE_BYTES = 1 << 20
SAMPLES = 16
_ASCII = bytes(range(128))
QUOTED = re.compile(r'"([^"]*(?:""[^"]*)*)"')
_CR_ALONE = re.compile(r"\r(?!\n)")
_LINE_ENDS = re.compile(rb"[\r\n]+")


def encoding_of(path: Path) -> str:
    """Detects utf-8, gb18030, utf-16-le or utf-16-be: by byte order mark, by zero bytes, else by which of utf-8 and
    gb18030 decodes more lines.

    Reads until a byte is not ASCII, at most 16 MB.
    """
    sample = b""
    with path.open("rb") as file:
        for _ in range(SAMPLES):
            sample = file.read(SAMPLE_BYTES)
            if sample.startswith((b"\xff\xfe", b"\xfe\xff")):
                return "utf-16-le" if sample[0] == 0xFF else "utf-16-be"
            zeros = [sample[place::2].count(0) * 5 > len(sample) for place in (0, 1)]
            if zeros[0] != zeros[1]:
                return "utf-16-be" if zeros[0] else "utf-16-le"
            if len(sample) < SAMPLE_BYTES or not sample.isascii():
                break
    odd = [
        line for line in _LINE_ENDS.split(sample)[: -1 if len(sample) == SAMPLE_BYTES else None] if not line.isascii()
    ]
    weights = [len(line.translate(None, _ASCII)) for line in odd]
    utf, gb = (
        sum(weight for line, weight in zip(odd, weights, strict=True) if _fits(line, encoding))
        for encoding in ("utf-8", "gb18030")
    )
    return "gb18030" if gb > utf and utf * 2 < sum(weights) else "utf-8"


def newline_of(path: Path, encoding: str) -> str:
    """The line ending of a table, by its start: "\r" where most lines end so, else "\n". Quoted text does not count:
    Excel for Mac ends rows with "\r" and lines within a cell with "\n".
    """
    with path.open("rb") as file:
        start = file.read(SAMPLE_BYTES)
    if b"\r" not in start:
        return "\n"
    text = QUOTED.sub("", start.decode(encoding, "replace"))
    return "\r" if len(_CR_ALONE.findall(text)) > text.count("\n") else "\n"


def _fits(line: bytes, encoding: str) -> bool:
    try:
        line.decode(encoding)
    except UnicodeDecodeError:
        return False
    return True


@dataclass(frozen=True)
class TextLine:
    """A line as it is in the file; ``text`` is None where it is too long to be held."""

    number: int
    offset: int
    size: int
    text: str | None


class LineReader:
    """Lines with their offsets, with seeking."""

    def __init__(self, file: io.BufferedReader, encoding: str, newline: str = "\n") -> None:
        self.file, self.encoding = file, encoding
        self.end = newline.encode(encoding)
        self.number = self.offset = 0
        self.wide = encoding.startswith("utf-16")
        self.mark = "\ufeff".encode(encoding) if self.wide or encoding == "utf-8" else b""

    def rewind(self, number: int, offset: int) -> None:
        """The next line is the one after line ``number``."""
        self.number, self.offset = number, offset
        self.file.seek(offset)

    def next(self) -> TextLine | None:
        """The next line; None at the end."""
        raw = self._wide() if self.wide else self._plain(MAXIMUM_LINE_BYTES + 1)
        if not raw:
            return None
        offset, size, text = self.offset, len(raw), None
        if size > MAXIMUM_LINE_BYTES:
            while raw and not raw.endswith(self.end):
                raw = self._plain(SAMPLE_BYTES)
                size += len(raw)
        else:
            raw = raw.removeprefix(self.mark) if offset == 0 else raw
            # Invalid bytes are decoded as lone surrogates, and reported with their line.
            text = raw.decode(self.encoding, "replace" if self.wide else "surrogateescape")
        self.number, self.offset = self.number + 1, offset + size
        return TextLine(self.number, offset, size, text)

    def _plain(self, most: int) -> bytes:
        """A line of an encoding with one-byte line endings, truncated where it is too long."""
        if self.end == b"\n":
            return self.file.readline(most)
        whole = bytearray()
        while len(whole) < most and (ahead := self.file.peek()):
            at = ahead.find(self.end)
            whole += self.file.read(min(len(ahead) if at < 0 else at + 1, most - len(whole)))
            if at >= 0:
                break
        return bytes(whole)

    def _wide(self) -> bytes:
        """A line of UTF-16, whose line ending is two bytes at an even offset."""
        whole, mark = bytearray(), self.end.strip(b"\0")
        while len(whole) <= MAXIMUM_LINE_BYTES:
            piece = self.file.readline(MAXIMUM_LINE_BYTES + 1) if mark == b"\n" else self._to(mark)
            whole += piece
            if self.encoding.endswith("le") and len(whole) % 2:
                whole += self.file.read(1)
            if not piece or (len(whole) % 2 == 0 and bytes(whole[-2:]) == self.end):
                break
        return bytes(whole)

    def _to(self, mark: bytes) -> bytes:
        """The bytes up to and with a delimiter."""
        whole = bytearray()
        while ahead := self.file.peek():
            at = ahead.find(mark)
            whole += self.file.read(len(ahead) if at < 0 else at + 1)
            if at >= 0:
                break
        return bytes(whole)
