"""What words are called in commoner ones: ``paraphrases.tsv``, which anybody can mend; a row marked ``~`` says what is
merely like it and is only proposed.
"""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass
from functools import cache
from importlib import resources

from bimo.prompts.normalise import normal

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


@cache
def words_of_table() -> re.Pattern[str]:
    """Any word of the table, the longest that begins at a place."""
    return re.compile("|".join(map(re.escape, sorted(table(), key=len, reverse=True))))


def _choices(cell: str) -> tuple[str, ...]:
    """What stands in a cell; its first ``~`` holds for all."""
    like = _LIKE if cell.startswith(_LIKE) else ""
    return tuple(like + choice.removeprefix(like) for choice in cell.split("|") if choice)


@cache
def table() -> dict[str, Row]:
    """The row of each word, in its normal form; English words in the plural, too."""
    text = resources.files("bimo.prompts").joinpath("paraphrases.tsv").read_text("utf-8")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    table: dict[str, Row] = {}
    for cells in csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE):
        words, zh, en = (*cells, "", "")[:3]
        row = Row(*map(_choices, (zh, en)))
        for word in map(normal, words.split("|")):
            table.setdefault(word, row)
            if word.isascii() and not word.endswith("s"):
                table.setdefault(word + "s", row)
    return table
