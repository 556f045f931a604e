"""Captions that occur too often: exact counts over the whole set, on disk rather than in memory."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from bimo.curation.steps import Change, Table, TableStep, Verdict
from bimo.prompts.normalise import normal

#: Hashes that are held in memory before they are written, about 25 MB.
HELD = 1 << 18
#: Bits of a hash that choose its file: 256 files, of which one at a time is sorted in memory, 16 bytes a caption.
FILE_BITS = 8

_MARK = np.dtype([("high", "<u8"), ("low", "<u8")])


@dataclass(frozen=True, kw_only=True)
class TooFrequent(TableStep):
    """Drops captions that occur in more than ``above`` rows, and rows without any other caption. Wukong: 10
    (arXiv:2202.06767).

    Captions are equal if their normal forms are: width, case, simplified or traditional, blanks. Repetitions within a
    row count once. Captions are compared by 128-bit hashes: among 10^9 captions the probability of a collision is
    1.5e-21. While it runs it needs 32 bytes a caption on disk, in the system's folder for temporary files.
    """

    says: ClassVar[tuple[str, str]] = ("一句太常见的说明", "a caption that is too common")

    above: int = 10

    def select(self, table: Table) -> Iterator[Change]:
        """A change for every row that loses captions; a row that loses all of them is dropped, with the highest count
        as the value.
        """
        with tempfile.TemporaryDirectory(prefix="bimo-captions-") as name:
            folder = Path(name)
            _write(table, folder)
            marks, counts = _common(folder, self.above)
            yield from self._changes(table, folder / "order", marks, counts)

    def _changes(self, table: Table, order: Path, marks: np.ndarray, counts: np.ndarray) -> Iterator[Change]:
        lookups = _counts_in_order(order, marks, counts)
        for number, captions in table.captions():
            own = [next(lookups) for _ in captions]
            rest = tuple(caption for caption, count in zip(captions, own, strict=True) if not count)
            if len(rest) == len(captions):
                continue
            if rest:
                yield Change(number, captions=rest)
            else:
                yield Change(number, verdict=Verdict(max(own), self.above))


def mark_of(caption: str) -> bytes:
    """The 16-byte hash of a caption in normal form (BLAKE2b, RFC 7693)."""
    return hashlib.blake2b(normal(caption).encode("utf-8"), digest_size=16).digest()


def _write(table: Table, folder: Path) -> None:
    """Writes the hashes in the order of the table to "order", and one for each row and caption to files by their first
    bits.
    """
    hashes: list[bytes] = []
    alone: list[bytes] = []
    with (folder / "order").open("wb") as order:
        for _, captions in table.captions():
            marks = [mark_of(caption) for caption in captions]
            hashes += marks
            alone += dict.fromkeys(marks)
            if len(hashes) >= HELD:
                order.write(b"".join(hashes))
                _divide(alone, folder)
                hashes, alone = [], []
        order.write(b"".join(hashes))
    _divide(alone, folder)


def _divide(alone: list[bytes], folder: Path) -> None:
    marks = np.frombuffer(b"".join(alone), _MARK)
    files = marks["high"] >> np.uint64(64 - FILE_BITS)
    by_file = np.argsort(files, kind="stable")
    ends = np.searchsorted(files[by_file], np.arange(1, 2**FILE_BITS + 1, dtype=np.uint64))
    start = 0
    for number, end in enumerate(ends):
        if end > start:
            with (folder / f"part-{number:03d}").open("ab") as part:
                part.write(marks[by_file[start:end]].tobytes())
        start = end


def _common(folder: Path, above: int) -> tuple[np.ndarray, np.ndarray]:
    """The hashes that occur more than ``above`` times, sorted, and their counts.

    They are held in memory together: at most one for every ``above`` captions.
    """
    marks, counts = [np.empty(0, _MARK)], [np.empty(0, np.int64)]
    for part in sorted(folder.glob("part-*")):
        # The hashes of a file are all larger than those of the file before.
        part_marks = np.fromfile(part, _MARK)
        part.unlink()
        part_marks = part_marks[np.lexsort((part_marks["low"], part_marks["high"]))]
        first = np.flatnonzero(np.concatenate(([True], part_marks[1:] != part_marks[:-1])))
        count = np.diff(first, append=len(part_marks))
        often = count > above
        marks.append(part_marks[first[often]])
        counts.append(count[often])
    return np.concatenate(marks), np.concatenate(counts)


def _counts_in_order(order: Path, marks: np.ndarray, counts: np.ndarray) -> Iterator[int]:
    """For every caption in the order of the table its count, or 0 where that is not too high."""
    with order.open("rb") as file:
        while data := file.read(HELD * _MARK.itemsize):
            hashes = np.frombuffer(data, _MARK)
            answer = np.zeros(len(hashes), np.int64)
            if len(marks):
                # Several hashes may share their first 64 bits; that is rare, and they are neighbours.
                at = np.searchsorted(marks["high"], hashes["high"])
                while (near := at < len(marks)).any():
                    here = np.flatnonzero(near)
                    same_half = marks["high"][at[here]] == hashes["high"][here]
                    same = same_half & (marks["low"][at[here]] == hashes["low"][here])
                    answer[here[same]] = counts[at[here[same]]]
                    at[here[~same_half | same]] = len(marks)
                    at[here[same_half & ~same]] += 1
            yield from answer.tolist()
