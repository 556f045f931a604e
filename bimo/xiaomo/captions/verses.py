"""Lines of Tang and Song poems about things that can be drawn, each with its poem and poet.

`verses.tsv` was derived by `derive` from chinese-poetry (https://github.com/chinese-poetry/chinese-poetry, MIT licence;
its notice is in `LICENSE.chinese-poetry.txt`). The elements of a line are computed by the lexicon.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from bimo.prompts.normalise import normal, normal_each
from bimo.xiaomo.captions.lexicon import CLAUSE, clauses, elements_of, style_of, subjects
from bimo.xiaomo.heldout import held_out_verse
from bimo.xiaomo.tables import read_table

COLLECTIONS = ("tangshi300.json", "songci300.json", "shuimotangshi.json")
LEAST = 2
LONGEST = 26


@dataclass(frozen=True)
class Verse:
    """One line as printed, in simplified characters, and its source."""

    line: str
    title: str = ""
    author: str = ""

    @property
    def elements(self) -> tuple[str, ...]:
        """The elements of the line."""
        return elements_of(self.line)

    @property
    def clauses(self) -> tuple[str, ...]:
        """The parts between commas."""
        return tuple(filter(None, self.line.rstrip("。？！；").replace("，", "\n").replace("、", "\n").split("\n")))


@lru_cache(maxsize=1)
def verses() -> tuple[Verse, ...]:
    """All lines of the table."""
    return tuple(Verse(row["line"], row["title"], row["author"]) for row in read_table("captions", "verses.tsv"))


def is_verse(text: str) -> bool:
    """Whether a text is of clauses of the table's lines alone, or one of them with others of its length, five or seven
    characters; or of a famous line's; or the title of a poem; and perhaps a manner of painting.
    """
    if is_title(text):
        return True
    parts = [part for part in clauses(text) if not style_of(part)]
    alike = {len(part) for part in parts} in ({5}, {7})
    famous = {part for line in _famous(parts) for part in line}
    known = _clauses() | famous
    return any(part in known for part in parts) and (alike or known.issuperset(parts))


def is_title(text: str) -> bool:
    """Whether a text is the title of a poem or essay, perhaps with its poet and a manner of painting."""
    parts = [part for part in clauses(text) if not style_of(part) and part not in _poets()]
    return len(parts) == 1 and parts[0] in titles()


def shown_by_famous_line(text: str) -> tuple[str, ...]:
    """The elements that the first of the famous lines in a text, or the poem of a title, shows, which its words do not
    name; of a clause that names none those of its line (国破山河在); () for none.
    """
    parts = clauses(text)
    lines = [famous_lines()[line] for line in _famous(parts)]
    famous = next(iter([*lines, *(titles()[part] for part in parts if part in titles())]), ())
    if famous or elements_of(text):
        return famous
    return next(filter(None, map(_of_lines().get, parts)), ())


@lru_cache(maxsize=1)
def _of_lines() -> Mapping[str, tuple[str, ...]]:
    """The elements of the line that each clause of the table is of."""
    return {part: verse.elements for verse in verses() for part in clauses(verse.line) if len(part) >= CLAUSE}


@lru_cache(maxsize=1)
def famous_lines() -> Mapping[tuple[str, ...], tuple[str, ...]]:
    """The clauses of each line of ``famous_lines.tsv`` in their normal form -> the elements that it shows."""
    rows = read_table("captions", "famous_lines.tsv")
    return {tuple(clauses(row["line"])): tuple(row["elements"].split(", ")) for row in rows}


@lru_cache(maxsize=1)
def _poets() -> frozenset[str]:
    return frozenset(normal_each(verse.author for verse in verses()))


@lru_cache(maxsize=1)
def titles() -> Mapping[str, tuple[str, ...]]:
    """Titles of poems and essays in their normal form -> the elements of a picture of them (``titles.tsv``)."""
    rows = read_table("captions", "titles.tsv")
    named = [(title, tuple(row["elements"].split(", "))) for row in rows for title in row["title"].split("/")]
    return dict(zip(normal_each(title for title, _ in named), (elements for _, elements in named), strict=True))


def _famous(parts: Sequence[str]) -> list[tuple[str, ...]]:
    """The famous lines of which a clause that counts by itself is among some."""
    return [line for line in famous_lines() if any(len(part) >= CLAUSE and part in parts for part in line)]


@lru_cache(maxsize=1)
def _clauses() -> frozenset[str]:
    lines = (*(verse.line for verse in verses()), *(line for named in subjects().values() for line in named.words))
    return frozenset(clauses("，".join(lines)))


@lru_cache(maxsize=1)
def drawn_verses() -> tuple[Verse, ...]:
    """The lines that can be drawn: their elements fit into one picture, and they are not held out."""
    from bimo.xiaomo.scenes.subjects.verse import room_for  # all painters, which reading the table does not need

    return tuple(one for one in verses() if len(one.elements) >= LEAST and room_for(one.elements) and not held_out(one))


def held_out(verse: Verse) -> bool:
    """Whether a line, or a clause with enough elements of its own, is held out."""
    return held_out_verse(verse.line) or any(
        held_out_verse(part) for part in verse.clauses if len(elements_of(part)) >= LEAST
    )


def derive(folder: Path) -> list[Verse]:
    """The lines of the collections in a folder with at least two elements that fit into one picture."""
    from bimo.xiaomo.scenes.subjects.verse import room_for

    lines: dict[str, Verse] = {}
    for name in COLLECTIONS:
        for poem in json.loads((folder / name).read_text("utf-8")):
            for paragraph in poem["paragraphs"]:
                line = _printed(paragraph)
                named = elements_of(line)
                if len(line) <= LONGEST and len(named) >= LEAST and room_for(named):
                    lines.setdefault(
                        line,
                        Verse(line, _printed(poem.get("title") or poem.get("rhythmic", "")), _printed(poem["author"])),
                    )
    return list(lines.values())


def write_table(rows: Sequence[Verse], path: Path) -> None:
    """Writes the table."""
    head = "# 诗句 lines of poems; from chinese-poetry (MIT, see LICENSE.chinese-poetry.txt)\nline\ttitle\tauthor\n"
    path.write_text(head + "".join(f"{one.line}\t{one.title}\t{one.author}\n" for one in rows), "utf-8")


def _printed(text: str) -> str:
    """Simplified characters with Chinese punctuation, without notes in brackets."""
    plain = normal(text.partition("(")[0].partition("（")[0]).strip()
    return plain.translate(str.maketrans({".": "。", ",": "，", "?": "？", "!": "！", ";": "；", ":": "：", "\t": " "}))
