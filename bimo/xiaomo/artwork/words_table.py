"""Assigns words to kinds: first the hand-written table, then names, then keywords; every word belongs to one kind.

The table `words.tsv` is this project's own: emoji, classifier, Chinese words, English words, most common first.
`names.tsv` has what captions call each kind, also those without a row there; it is written by ``tools/references.py``.
"""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from importlib import resources

from bimo.core.errors import DataError
from bimo.core.messages import Listed
from bimo.xiaomo.artwork.lexicon import reserved_words
from bimo.xiaomo.artwork.sprites import Kind

COLUMNS = ["emoji", "classifier", "zh", "en"]
SHARED_AT_MOST = 3
Row = tuple[str, tuple[str, ...], tuple[str, ...]]


def read_aliases() -> dict[str, Row]:
    """Emoji without variation selector -> (classifier, Chinese words, English words). Raises DataError for
    a bad row.
    """
    text = resources.files("bimo.xiaomo.artwork").joinpath("words.tsv").read_text("utf-8")
    rows = list(csv.reader(io.StringIO(text), delimiter="\t"))
    table: dict[str, Row] = {}
    for number, row in enumerate(rows, 1):
        if number == 1:
            continue
        if rows[0] != COLUMNS or len(row) != len(COLUMNS) or not all(row):
            raise DataError(
                "Line {number} of the word table is {row}; expected four columns: {columns}. Mend it.",
                number=number,
                row=row,
                columns=Listed(COLUMNS),
            )
        table[row[0].replace("\ufe0f", "")] = (row[1], tuple(row[2].split("/")), tuple(row[3].split("/")))
    return table


def assign_words(kinds: list[Kind]) -> list[Kind]:
    """The kinds with aliases, classifier, `zh_words` and `en_words`; every word belongs to exactly one kind.

    A keyword counts only if at most three kinds share it, and goes to the first of them unless it is another kind's
    alias or name. A kind all of whose words belong to others is dropped, as no prompt could mean it.
    """
    aliases = read_aliases()
    chinese = _own(kinds, {k.hexcode: aliases[_plain(k)][1] for k in kinds if _plain(k) in aliases}, "zh")
    english = _own(kinds, {k.hexcode: aliases[_plain(k)][2] for k in kinds if _plain(k) in aliases}, "en")
    done: list[Kind] = []
    for kind in kinds:
        classifier, zh, en = aliases.get(_plain(kind), ("", (), ()))
        zh_words, en_words = chinese[kind.hexcode], english[kind.hexcode]
        if zh_words and en_words:
            done.append(
                replace(kind, classifier=classifier, aliases_zh=zh, aliases_en=en, zh_words=zh_words, en_words=en_words)
            )
    return done


def name_of(kind: Kind, chinese: bool) -> str:
    """What a kind is called in the captions: the name of CLDR where the kind owns it, else its first word."""
    words = kind.zh_words if chinese else kind.en_words
    name = (kind.zh if chinese else kind.en).strip().lower()
    return name if name in words else words[0]


def names_of(kinds: Iterable[Kind]) -> str:
    """The table of what kinds with words are called: emoji, Chinese name, English name."""
    return "".join(f"{_plain(kind)}\t{name_of(kind, True)}\t{name_of(kind, False)}\n" for kind in kinds)


def read_names() -> dict[str, tuple[str, str]]:
    """Emoji without variation selector -> its Chinese name, its English name."""
    text = resources.files("bimo.xiaomo.artwork").joinpath("names.tsv").read_text("utf-8")
    rows = (line.split("\t") for line in text.splitlines())
    return {emoji: (zh, en) for emoji, zh, en in rows}


def _plain(kind: Kind) -> str:
    return kind.emoji.replace("\ufe0f", "")


def _own(kinds: list[Kind], aliases: dict[str, tuple[str, ...]], language: str) -> dict[str, tuple[str, ...]]:
    """Hexcode -> its words in one language: aliases, then the name, then keywords."""
    owner: dict[str, str] = {}
    words: dict[str, list[str]] = {kind.hexcode: [] for kind in kinds}

    def give(word: str, hexcode: str) -> None:
        key = word.strip().lower()
        if key and owner.setdefault(key, hexcode) == hexcode and key not in words[hexcode]:
            words[hexcode].append(key)

    for hexcode, own in aliases.items():
        for word in own:
            give(word, hexcode)
    for kind in kinds:
        give(_tidy(kind.zh if language == "zh" else kind.en), kind.hexcode)
    reserved = reserved_words()
    keywords = {kind.hexcode: (kind.keywords_zh if language == "zh" else kind.keywords_en) for kind in kinds}
    shared = Counter(word.lower() for own in keywords.values() for word in dict.fromkeys(own))
    for kind in kinds:
        for word in keywords[kind.hexcode]:
            if shared[word.lower()] <= SHARED_AT_MOST and word.lower() not in reserved and _usable(word, language):
                give(word, kind.hexcode)
    return {hexcode: tuple(own) for hexcode, own in words.items()}


def _tidy(name: str) -> str:
    return name.replace("“", "").replace("”", "").replace("’", "'").replace(": ", " ")


def _usable(word: str, language: str) -> bool:
    if any(character.isdigit() for character in word):
        return False
    if language == "zh":
        return len(word) >= 2 and all("\u4e00" <= character <= "\u9fff" for character in word)
    return len(word) >= 3 and word.isascii()
