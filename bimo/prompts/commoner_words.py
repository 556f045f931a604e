"""What words are called in commoner ones: ``paraphrases.tsv``, which anybody can mend; a row marked ``~`` says what is
merely like it and is only proposed.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib import resources

from bimo.prompts.normalise import normal_each

_LIKE, _ADORNING = "~", "-"


@dataclass(frozen=True)
class Row:
    """What words are called in commoner ones, the nearest first; none for words that name nothing to be seen."""

    zh: tuple[str, ...]
    en: tuple[str, ...]

    @property
    def adorns(self) -> bool:
        """Whether the words only adorn others, and are left out beside them even where they are known."""
        return self.zh == (_ADORNING,)

    def plain(self, chinese: bool) -> tuple[str, ...]:
        """What the word is, without what is merely like it."""
        return tuple(one for one in (self.zh if chinese else self.en) if not one.startswith(_LIKE))

    def every(self, chinese: bool) -> tuple[str, ...]:
        """What the word is or is like; nothing for one that only adorns."""
        return () if self.adorns else tuple(one.removeprefix(_LIKE) for one in (self.zh if chinese else self.en))


def words_in(text: str) -> Iterator[tuple[int, int]]:
    """Where words of the table begin and end in a text in its normal form: the longest at each place, none in another.

    A pattern of all words finds the same, and takes longer to compile than a picture's prompt to read.
    """
    start = 0
    while start < len(text):
        ends = range(min(len(text), start + _longest()), start, -1)
        end = next((end for end in ends if text[start:end] in table()), None)
        if end is not None:
            yield start, end
        start = end or start + 1


@cache
def _longest() -> int:
    return max(map(len, table()))


def _choices(cell: str) -> tuple[str, ...]:
    """What stands in a cell; its first ``~`` holds for all."""
    like = _LIKE if cell.startswith(_LIKE) else ""
    return tuple(like + choice.removeprefix(like) for choice in cell.split("|") if choice)


@cache
def table() -> dict[str, Row]:
    """The row of each word, in its normal form; English words in the plural, too."""
    text = resources.files("bimo.prompts").joinpath("paraphrases.tsv").read_text("utf-8")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    rows: list[tuple[str, Row]] = []
    for cells in csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE):
        words, zh, en = (*cells, "", "")[:3]
        row = Row(*map(_choices, (zh, en)))
        rows += [(word, row) for word in words.split("|")]
    table: dict[str, Row] = {}
    for word, (_, row) in zip(normal_each(word for word, _ in rows), rows, strict=True):
        table.setdefault(word, row)
        if word.isascii() and not word.endswith("s"):
            table.setdefault(word + "s", row)
    return table
