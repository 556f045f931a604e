"""The words of scenes: which element a word names, which season, hour and weather, how subjects and styles are called.

All of it is data in the tables beside this file; a mended row is a mended lexicon.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from bimo.prompts.normalise import normal, normal_each
from bimo.xiaomo.scenes.description import Mood
from bimo.xiaomo.tables import read_table

NOTHING = "-"
#: Least characters of a clause of a verse that counts by itself.
CLAUSE = 4
_MARKS = re.compile(r"\W+")
_ARTICLE = re.compile(r"^(?:an?|the) ")
#: As many words as an English name has.
_WORDS = re.compile("[a-z]+(?: [a-z]+){0,2}")


@dataclass(frozen=True)
class Named:
    """How something is called in Chinese and English, the usual name first, and the words of verses that name it."""

    zh: tuple[str, ...]
    en: tuple[str, ...]
    words: tuple[str, ...] = ()

    def names(self) -> set[str]:
        """All in their normal form; besides them those of several English words without their article, and the clauses
        of verses.
        """
        whole = set(normal_each((*self.zh, *self.en, *self.words)))
        long = {part for part in clauses("，".join(self.words)) if len(part) >= CLAUSE}
        return whole | long | {bare for name in whole if " " in (bare := _ARTICLE.sub("", name))}


def clauses(text: str) -> list[str]:
    """The parts of a text between its marks, in their normal form."""
    return [part for part in _MARKS.split(normal(text)) if part]


def _several(text: str | None, mark: str = ",") -> tuple[str, ...]:
    return tuple(part.strip() for part in (text or "").split(mark) if part.strip())


def _words_of(row: Mapping[str, str | None]) -> tuple[str, ...]:
    """The words of a row of elements; English names of several words have _ between them in the table."""
    return tuple(word.replace("_", " ") for word in (row["words"] or "").split())


@lru_cache(maxsize=1)
def elements() -> Mapping[str, Named]:
    """Elements by name: what captions call them, and all the words that name them."""
    made: dict[str, Named] = {}
    for row in read_table("captions", "elements.tsv"):
        if row["element"] != NOTHING:
            made[row["element"]] = Named((row["zh"],), (row["en"],), _words_of(row))
    return made


@lru_cache(maxsize=1)
def moods() -> Mapping[str, Mapping[str, Named]]:
    """Names of seasons, lights and weathers: kind -> value -> names."""
    made: dict[str, dict[str, Named]] = {}
    for row in read_table("captions", "moods.tsv"):
        named = Named(_several(row["zh"]), _several(row["en"]), tuple((row["words"] or "").split()))
        made.setdefault(row["kind"], {})[row["value"]] = named
    return made


@lru_cache(maxsize=1)
def styles() -> Mapping[str, Named]:
    """Names of the manners of painting; `words` are names that captions do not use."""
    rows = read_table("captions", "styles.tsv")
    return {row["style"]: Named(_several(row["zh"]), _several(row["en"]), _several(row["words"])) for row in rows}


def style_of(text: str) -> str:
    """The manner of painting that a text names, by the longest of its names; "" for none."""
    plain = normal(text)
    named = [
        (len(word), style)
        for style, names in styles().items()
        for word in map(normal, (*names.zh, *names.en, *names.words))
        if _says(plain, word)
    ]
    return max(named)[1] if named else ""


def without_styles(text: str) -> str:
    """A text in its normal form without the names of manners of painting."""
    names = {normal(word) for named in styles().values() for word in (*named.zh, *named.en, *named.words)}
    for name in sorted(names, key=len, reverse=True):
        text = re.sub(
            rf"(?:in )?\b{name}\b(?: style)?" if name.isascii() else rf"{name}(?:风格|画风|风)?的?", " ", text
        )
    return text


@lru_cache(maxsize=1)
def subjects() -> Mapping[str, Named]:
    """Names of subjects; `words` are the verses that are said of them."""
    made: dict[str, Named] = {}
    for row in read_table("captions", "subjects.tsv"):
        english = _several(row["en"], ";" if ";" in row["en"] else ",")
        made[row["subject"]] = Named(_several(row["zh"]), english, _several(row["verses"], ";"))
    return made


@lru_cache(maxsize=1)
def _by_word() -> tuple[Mapping[str, str], int]:
    """Word -> element, or NOTHING; and the length of the longest word."""
    found: dict[str, str] = {}
    for row in read_table("captions", "elements.tsv"):
        for word in _words_of(row):
            found.setdefault(normal(word), row["element"])
    return found, max(map(len, found))


def elements_of(text: str) -> tuple[str, ...]:
    """The elements that the words of a text name, in the order of the text, longest words first.

    What a sentence names is what a picture of it must hold: 举头望明月 names the moon, 枯藤老树昏鸦 vines, a bare tree
    and crows. Traditional characters are read as simplified ones; English words are read whole.
    """
    found: dict[str, None] = {}
    words, longest = _by_word()
    plain, place = normal(text), 0
    while place < len(plain):
        if latin := _WORDS.match(plain, place):
            several = latin[0].split(" ")
            phrases = (" ".join(several[:count]) for count in range(len(several), 0, -1))
            phrase = next((each for each in phrases if words.get(each, NOTHING) != NOTHING), several[0])
            if phrase in words:
                found[words[phrase]] = None
            place += len(phrase)
            continue
        for length in range(min(longest, len(plain) - place), 0, -1):
            element = words.get(plain[place : place + length])
            if element is not None:
                if element != NOTHING:
                    found[element] = None
                place += length
                break
        else:
            place += 1
    return tuple(found)


def element_called(word: str) -> str:
    """The element that a word in its normal form names by itself, "" for none."""
    element = _by_word()[0].get(word, NOTHING)
    return "" if element == NOTHING else element


def _without_mere_words(plain: str) -> str:
    """A text without the words that look as if they named something: 二月 has no moon in it, 春日 is still spring."""
    words, _ = _by_word()
    for word, element in words.items():
        if element == NOTHING and not set(word) & set("春夏秋冬"):
            plain = plain.replace(word, " ")
    return plain


def _says(plain: str, word: str) -> bool:
    """Whether a text has a word; an English one is read whole."""
    return word in plain and (not word.isascii() or re.search(rf"\b{word}\b", plain) is not None)


def mood_of(text: str, otherwise: Mood) -> Mood:
    """Season, light and weather that the words of a text name; what it does not say is that of `otherwise`."""
    plain = _without_mere_words(normal(text))
    named_moods: dict[str, str] = {}
    for kind, values in moods().items():
        best = (0, "")
        for value, named in values.items():
            for word in named.words:
                if _says(plain, word) and (len(word), value) > best:
                    best = (len(word), value)
        named_moods[kind] = best[1]
    season = named_moods["season"] or otherwise.season
    light = named_moods["light"] or otherwise.light
    weather = named_moods["weather"] or otherwise.weather
    if weather == "snow":
        season = "winter"
    elif weather == "rain" and season == "winter":
        season = named_moods["season"] or "autumn"
        weather = "snow" if season == "winter" else weather
    return Mood(season, light, weather)
