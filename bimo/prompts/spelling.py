"""Words that are written wrongly and sound or look like known ones: 草没 is read as 草莓, butterfy as butterfly.

Chinese is mostly typed by sound, so a character in the place of another sounds like it; written by hand, or read from
paper, it looks like it (自行东, ``lookalikes.txt``). ``readings.tsv`` has the readings of characters;
``tools/readings.py`` makes it from Unicode's Unihan database.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib import resources
from string import ascii_lowercase

from bimo.prompts.commoner_words import table, words_in
from bimo.prompts.normalise import normal
from bimo.prompts.token_budget import Budget

_HAN_RUN = re.compile("[\u3400-\u9fff]+")
_ENGLISH = re.compile(r"(?<![a-z0-9'-])[a-z]+(?![a-z0-9'-])")
#: A word with a capital that does not begin a sentence: Los Angeles, the Rosetta Stone.
_NAME = re.compile(r"(?<=[\w,;'\"] )[A-Z][A-Za-z]+")
#: The letters of the shortest word of English that is read as another.
_LETTERS = 5
_SHORTEST, _LONGEST = 2, 8
#: So long a name is known by its other characters, whatever stands in the place of one.
_A_NAME = 4
#: Of so long a verse two characters may be others, else one.
_A_VERSE = 5
#: Sounds that many do not tell apart, and those that differ in breath alone: as which they count.
_INITIALS = {
    "zh": "z", "ch": "z", "c": "z", "sh": "s", "l": "n", "r": "n", "f": "h", "p": "b", "t": "d", "k": "g", "q": "j",
}  # fmt: skip
_SYLLABLE = re.compile("(zh|ch|sh|[bpmfdtnlgkhjqxzcsryw])?(.*)")
_MEDIAL = re.compile("^[iu](?=[aeo])|g$")
#: What stands before a word of two or three characters that is read as another, and behind it.
_BEFORE = re.compile(
    r"(?:^|[的和与跟在画]|[一二两三四五六七八九十几\d][只个条头匹位名朵颗粒棵株根块片张幅本把支枝杯碗盘辆架艘座间栋盏顶件套群])$"
)
_BEHIND = re.compile("$|[的和与跟在里上下]")


@dataclass(frozen=True)
class _Likeness:
    """What is like a known word from ``start`` on; ``far``: how many characters are others, how far in sound."""

    start: int
    word: str
    far: tuple[int, int]


def respelt(text: str, budget: Callable[[str], Budget], known: Set[str]) -> tuple[tuple[str, str], ...]:
    """The words of a text that are written wrongly, and what they are read as; none where every word is known.

    ``budget`` is the model's, ``known`` are the words that it learned, in their normal form. A clause of five
    characters or more that is a verse but for one that sounds alike is that verse, and so is a name of four or more.
    """
    plain = normal(text)
    unknown = budget(text).unknown
    strange = {place for word in map(normal, unknown) for place in _places(plain, word)}
    strange -= {place for span in words_in(plain) for place in range(*span)}
    found: list[tuple[str, str]] = []
    for run in _HAN_RUN.finditer(plain):
        within = frozenset(place - run.start() for place in strange if run.start() <= place < run.end())
        likeness = _likeness(run[0], within, frozenset(known))
        if likeness is not None:
            end = likeness.start + len(likeness.word)
            found.append((run[0][likeness.start : end], likeness.word))
    names = {name.lower() for name in _NAME.findall(text)}
    for word in _ENGLISH.findall(plain):
        if len(word) >= _LETTERS and word in unknown and word not in _real_words() | names:
            near = near_word(word, frozenset(known))
            found += [(word, near)] if near and word not in table() else []
    return tuple(dict.fromkeys(found))


def _places(plain: str, word: str) -> Iterator[int]:
    for found in re.finditer(re.escape(word), plain) if word else ():
        yield from range(found.start(), found.end())


@lru_cache(maxsize=256)
def _likeness(run: str, strange: frozenset[int], known: frozenset[str]) -> _Likeness | None:
    """What a run of Chinese characters is most like, if it is not that: the longest, then the nearest."""
    if run in known or run in _verses():
        return None
    words = _chinese(known)
    best: _Likeness | None = None
    for length in range(min(_LONGEST, len(run)), _SHORTEST - 1, -1):
        for start in range(len(run) - length + 1):
            window = run[start : start + length]
            odd = {place - start for place in strange if start <= place < start + length}
            if window in known or window in _real_words() or not (odd or length >= _A_NAME):
                continue
            if length < _A_NAME and not (_BEFORE.search(run[:start]) and _BEHIND.match(run, start + length)):
                continue
            verses = _verses() if length == len(run) and length >= _A_VERSE else frozenset[str]()
            for word in (*words.get(length, ()), *sorted(one for one in verses if len(one) == length)):
                far = _far(window, word, odd, window == run)
                if far is not None and far[1] and _joined(window, word, known):
                    continue
                if far is not None and (best is None or far < best.far):
                    best = _Likeness(start, word, far)
        if best is not None:
            return best
    return None


def _far(window: str, word: str, odd: Set[int], whole: bool) -> tuple[int, int] | None:
    """(characters that differ, how far they sound apart), None where that is too much. Those that differ are ``odd``,
    but for a long name and where there is nothing beside it.
    """
    differ = [place for place in range(len(word)) if window[place] != word[place]]
    most = 2 if len(word) > _A_VERSE else 1
    if not 0 < len(differ) <= most or not (len(word) >= _A_NAME or whole or odd >= set(differ)):
        return None
    apart = [_apart_or_alike(window[place], word[place]) for place in differ]
    farthest = 1 if len(word) > _SHORTEST and (whole or len(word) < _A_NAME) else 0
    return None if max(apart) > farthest else (len(differ), sum(apart))


def _joined(window: str, word: str, known: Set[str]) -> bool:
    """Whether what differs stands before or behind a word that is known by itself: 弹吉他 is no 电吉他."""
    return (window[1:] == word[1:] and word[1:] in known) or (window[:-1] == word[:-1] and word[:-1] in known)


@lru_cache(maxsize=4096)
def _apart(one: str, other: str) -> int:
    """How far two characters sound apart: 0 the same but for the tone, 1 nearly, 2 not alike."""
    first, second = (_readings().get(character, ()) for character in (one, other))
    if set(first) & set(second):
        return 0
    return 1 if any(_nearly(a, b) for a in first for b in second) else 2


def _apart_or_alike(one: str, other: str) -> int:
    """How far two characters are apart, by their sound or on paper: those that look alike are as near as can be."""
    return 0 if other in _lookalikes().get(one, "") else _apart(one, other)


@cache
def _lookalikes() -> Mapping[str, str]:
    """The characters that each is written for because they look alike (``lookalikes.txt``)."""
    text = resources.files("bimo.prompts").joinpath("lookalikes.txt").read_text("utf-8")
    found: dict[str, str] = {}
    for group in (line for line in text.splitlines() if not line.startswith("#")):
        for character in group:
            found[character] = found.get(character, "") + group.replace(character, "")
    return found


def _nearly(one: str, other: str) -> bool:
    """Whether two syllables are confused: by their beginning or by their end."""
    first, second = ((found[1] or "", found[2]) for found in map(_SYLLABLE.fullmatch, (one, other)) if found)
    alike = [_INITIALS.get(first[0], first[0]) == _INITIALS.get(second[0], second[0])]
    alike.append(_MEDIAL.sub("", first[1]) == _MEDIAL.sub("", second[1]))
    return all(alike) and (first[0] == second[0] or first[1] == second[1])


@cache
def _readings() -> Mapping[str, tuple[str, ...]]:
    """The readings of each character, without tones."""
    lines = resources.files("bimo.prompts").joinpath("readings.tsv").read_text("utf-8").splitlines()
    found: dict[str, list[str]] = {}
    for reading, characters in (line.split("\t") for line in lines[2:]):
        for character in characters:
            found.setdefault(character, []).append(reading)
    return {character: tuple(readings) for character, readings in found.items()}


def sounds_like_one_of(word: str, known: frozenset[str]) -> bool:
    """Whether a Chinese word of two or three characters would be read as a known one, if it were none itself."""
    nearest = 0 if len(word) == _SHORTEST else 1
    return any(
        _apart(word[place], other) <= nearest
        for place in range(len(word))
        for other in _others(known).get((place, word[:place] + word[place + 1 :]), "")
        if other != word[place]
    )


@lru_cache(maxsize=1)
def _others(known: frozenset[str]) -> Mapping[tuple[int, str], str]:
    """(place, a word without the character at it) -> the characters that known words have there."""
    found: dict[tuple[int, str], str] = {}
    for word in (*_chinese(known).get(2, ()), *_chinese(known).get(3, ())):
        for place in range(len(word)):
            rest = (place, word[:place] + word[place + 1 :])
            found[rest] = found.get(rest, "") + word[place]
    return found


@cache
def _real_words() -> Set[str]:
    """Words that sound like known ones and are none of them."""
    text = resources.files("bimo.prompts").joinpath("real_words.txt").read_text("utf-8")
    return frozenset(word for line in text.splitlines() if not line.startswith("#") for word in line.split())


@cache
def _verses() -> Set[str]:
    """The clauses of the poems."""
    from bimo.prompts.poems import poems

    clauses = (clause for poem in poems() for clause in _HAN_RUN.findall(poem.text))
    return frozenset(clause for clause in clauses if _A_VERSE <= len(clause) <= _LONGEST)


@lru_cache(maxsize=4)
def _chinese(known: frozenset[str]) -> Mapping[int, Sequence[str]]:
    """The Chinese words that are known, or that there are commoner ones for, by their length."""
    found: dict[int, list[str]] = {}
    for word in (*sorted(known), *sorted(table().keys() - known)):
        if _SHORTEST <= len(word) <= _LONGEST and _HAN_RUN.fullmatch(word):
            found.setdefault(len(word), []).append(word)
    return found


def near_word(word: str, known: frozenset[str]) -> str:
    """The English word that is known, or that there is a commoner one for, and is spoken as another or written as it
    but for one letter, or two in the wrong order; "" where there is none.

    It begins with the same letter; star is no other spelling of starry.
    """
    words, spoken = _english(known), _as_spoken(word)
    near = next((words[one] for one in (spoken, *_edits(spoken)) if one in words and one[0] == spoken[0]), "")
    return "" if word.startswith(near) or near.startswith(word) else near


def _edits(word: str) -> Iterator[str]:
    """All that is one edit away, the likeliest slips first (Norvig, How to Write a Spelling Corrector)."""
    halves = [(word[:place], word[place:]) for place in range(len(word) + 1)]
    yield from (left + right[1] + right[0] + right[2:] for left, right in halves if len(right) > 1)
    yield from (left + letter + right for left, right in halves for letter in ascii_lowercase)
    yield from (left + right[1:] for left, right in halves if right)
    yield from (left + letter + right[1:] for left, right in halves if right for letter in ascii_lowercase)


def _as_spoken(word: str) -> str:
    """A word with one letter for each of the spellings that are most confused."""
    return re.sub(r"(.)\1", r"\1", word.replace("ph", "f").replace("ck", "k"))


@lru_cache(maxsize=4)
def _english(known: frozenset[str]) -> Mapping[str, str]:
    """The English words that are known, or that there are commoner ones for, by how they are spoken."""
    words = sorted(word for word in {*known, *table()} if len(word) >= _LETTERS - 1 and _ENGLISH.fullmatch(word))
    return {_as_spoken(word): word for word in reversed(words)}
