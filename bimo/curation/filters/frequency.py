"""Captions that are written too often: exact counts over the whole set, on disk rather than in memory."""

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

#: Captions whose marks are held before they are written, about 25 MB of them.
HELD = 1 << 18
#: Bits of a mark that choose its file: 256 files. One at a time is sorted in memory, 16 bytes a caption.
FILE_BITS = 8

_MARK = np.dtype([("high", "<u8"), ("low", "<u8")])


@dataclass(frozen=True, kw_only=True)
class TooFrequent(TableStep):
    """Drops captions written in more than ``above`` rows, and rows that have no other caption. Wukong: 10
    (arXiv:2202.06767).

    Captions count as one where their normal form is one: width, case, simplified or traditional, blanks. Twice in one
    row counts once. Captions are told apart by 128 bits: among 10^9 of them two of the same mark have a probability of
    1.5e-21. On disk this takes 32 bytes a caption while it runs, in the system's folder for temporary files.
    """

    says: ClassVar[tuple[str, str]] = ("一句太常见的说明", "a caption that is too common")

    above: int = 10

    def select(self, table: Table) -> Iterator[Change]:
        """A change for every row that loses captions; without the last one it is dropped, and the verdict has the
        highest count.
        """
        with tempfile.TemporaryDirectory(prefix="bimo-captions-") as name:
            folder = Path(name)
            _write(table, folder)
            marks, counts = _common(folder, self.above)
            yield from self._changes(table, folder / "order", marks, counts)

    def _changes(self, table: Table, order: Path, marks: np.ndarray, counts: np.ndarray) -> Iterator[Change]:
        lookups = _looked_up(order, marks, counts)
        for number, captions in table.captions():
            own = [next(lookups) for _ in captions]
            kept = tuple(caption for caption, count in zip(captions, own, strict=True) if not count)
            if len(kept) == len(captions):
                continue
            if kept:
                yield Change(number, captions=kept)
            else:
                yield Change(number, verdict=Verdict(max(own), self.above))


def mark_of(caption: str) -> bytes:
    """The 16 bytes that stand for a caption in normal form (BLAKE2b, RFC 7693)."""
    return hashlib.blake2b(normal(caption).encode("utf-8"), digest_size=16).digest()


def _write(table: Table, folder: Path) -> None:
    """All marks in the order of the table in "order", and one for each row and caption by their first bits."""
    held: list[bytes] = []
    alone: list[bytes] = []
    with (folder / "order").open("wb") as order:
        for _, captions in table.captions():
            marks = [mark_of(caption) for caption in captions]
            held += marks
            alone += dict.fromkeys(marks)
            if len(held) >= HELD:
                order.write(b"".join(held))
                _divide(alone, folder)
                held, alone = [], []
        order.write(b"".join(held))
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
    """The marks that are there more than ``above`` times, in order, and how often.

    They are held in memory together: at most one for every ``above`` captions.
    """
    marks, counts = [np.empty(0, _MARK)], [np.empty(0, np.int64)]
    for part in sorted(folder.glob("part-*")):
        # A file's marks are all larger than those of the file before.
        part_marks = np.fromfile(part, _MARK)
        part.unlink()
        part_marks = part_marks[np.lexsort((part_marks["low"], part_marks["high"]))]
        first = np.flatnonzero(np.concatenate(([True], part_marks[1:] != part_marks[:-1])))
        count = np.diff(first, append=len(part_marks))
        often = count > above
        marks.append(part_marks[first[often]])
        counts.append(count[often])
    return np.concatenate(marks), np.concatenate(counts)


def _looked_up(order: Path, marks: np.ndarray, counts: np.ndarray) -> Iterator[int]:
    """For every caption in the order of the table how often it is there, or 0 where that is not too often."""
    with order.open("rb") as file:
        while data := file.read(HELD * _MARK.itemsize):
            wanted = np.frombuffer(data, _MARK)
            answer = np.zeros(len(wanted), np.int64)
            if len(marks):
                # Several marks may share the first half; with 64 bits that is rare, and they lie next to each other.
                at = np.searchsorted(marks["high"], wanted["high"])
                while (near := at < len(marks)).any():
                    here = np.flatnonzero(near)
                    same_half = marks["high"][at[here]] == wanted["high"][here]
                    same = same_half & (marks["low"][at[here]] == wanted["low"][here])
                    answer[here[same]] = counts[at[here[same]]]
                    at[here[~same_half | same]] = len(marks)
                    at[here[same_half & ~same]] += 1
            yield from answer.tolist()
