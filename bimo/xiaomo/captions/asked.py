"""What a text asks for, by its words: a scene, a dish, an idiom, a landscape or a thing. No painter is imported."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence, Set
from functools import lru_cache

from bimo.prompts.negation import negation
from bimo.prompts.normalise import normal, normal_each
from bimo.xiaomo.artwork.compositions import idioms
from bimo.xiaomo.captions.lexicon import elements, elements_of, moods, styles, subjects, without_styles
from bimo.xiaomo.captions.verses import is_verse, shown_by_famous_line
from bimo.xiaomo.dishes.naming import composed_dish
from bimo.xiaomo.dishes.table import dishes

#: One element alone is a thing rather than a scene: 月亮.
FEWEST = 2
#: But for those that no drawing of a thing shows, which are a piece of country by themselves: 田野, 湖.
COUNTRY = frozenset(
    (
        *("smoke", "geese", "egret", "peak", "cliff", "water", "river", "stream", "spring", "waves", "rock", "path"),
        *("meadow", "terrace", "field", "tree", "bare tree", "peach blossom", "maple", "ginkgo", "osmanthus", "willow"),
        *("pine", "plum blossom", "lotus leaf", "reeds", "houses", "bridge", "pagoda", "temple", "temple hall"),
        *("pavilion", "palace", "city gate", "beacon tower", "fence", "stilt houses", "poet", "scholar", "monk"),
        *("traveller", "boatman", "hill", "southern hills", "dyke", "moonlight", "sea of clouds"),
    )
)
#: What is in a landscape, too, and alone a thing.
SKY = frozenset(
    ("moon", "sun", "stars", "cloud", "mist", "rain", "snow", "mountain", "sea", "grass", "flowers", "boat")
)
#: Besides the words of an element, season, light, weather and style a bare prompt has one more character at most.
_FILLING = re.compile(
    r"乡间|山间|远处|远方|深处|尽头|风景|风光|景色|[的地之一在与和片座条道里中上下边旁画幅张棵株\W_]|\b(?:a|an|the|of|in|on|over|under|by|near|at|with|and|some)\b"
)
_REST = 1
#: Before and after the name of a dish.
_SERVED = re.compile(
    r"^(?:[一两二三来]{0,2}[碗盘份锅道碟盆笼盅])|热(?:气?腾腾|乎乎)的?|冒着?热气的?|刚出锅的?|香喷喷的?|美味的?|好吃的?"
    r"|我?(?:妈妈|外婆|奶奶)做的"
)
_MARKS = re.compile(r"[\W_的]+")


def is_scene(text: str) -> bool:
    """Whether a text asks for a scene, a dish or what a verse names: the data draws those without a pose."""
    kind, _ = asked(text)
    return kind in ("scene", "dish") or (not kind and bool(scenic(text)))


def is_landscape(text: str) -> bool:
    """Whether elements of a landscape, several or one of the country, are all that a text names."""
    named = elements_of(text)
    return bool(scenic(text)) and (COUNTRY | SKY).issuperset(named) and not _beside(text, named)


def scenic(text: str) -> tuple[str, ...]:
    """The elements that a text names, or that a famous line shows, if they make a scene: several, or one of the country
    and nothing beside it.
    """
    elements = shown_by_famous_line(text) or elements_of(text)
    if len(elements) >= FEWEST or (elements and is_verse(text)):
        return elements
    return elements if COUNTRY.issuperset(elements) and len(_beside(text, elements).replace(" ", "")) <= _REST else ()


def rest_of(text: str) -> str:
    """What a text says besides the dish, subject or elements that it names, season, light, weather and style."""
    kind, name = asked(text)
    names = [_longest_name(text), *(word for word, known in _named().items() if known == (kind, name))]
    return _beside(text, elements_of(text), names)


def without_name(text: str) -> str:
    """A text in its normal form without the name of the dish, subject or idiom that it asks for."""
    name = _longest_name(text)
    return normal(text).replace(name, " ") if name else normal(text)


def is_scenic_word(word: str) -> bool:
    """Whether a word names elements, a season, light, weather, style, or something that is drawn whole."""
    plain = normal(word)
    named = any(one in _scenic_words() or one in _named() for one in (plain, _FILLING.sub("", plain)))
    return named or not rest_of(word)


@lru_cache(maxsize=1)
def _scenic_words() -> Set[str]:
    words = {word for named in elements().values() for word in (*named.words, *named.zh, *named.en)}
    return frozenset(map(normal, (*words, *_mood_and_style_words())))


def _mood_and_style_words() -> list[str]:
    named = [mood for values in moods().values() for mood in values.values()] + list(styles().values())
    return [word for one in named for word in (*one.zh, *one.en, *one.words)]


def _beside(text: str, named: Sequence[str], names: Sequence[str] = ()) -> str:
    """What a text says besides elements, ``names`` in their normal form, season, light, weather and style."""
    words = [*names, *_mood_and_style_words()]
    words += [word for name in named for word in (*elements()[name].words, *elements()[name].en)]
    rest = normal(text)
    for word in sorted(map(normal, words), key=len, reverse=True):
        rest = re.sub(rf"\b{word}\b" if word.isascii() else word, " ", rest)
    return " ".join(_FILLING.sub(" ", rest).split())


def asked(text: str) -> tuple[str, str]:
    """The longest name in a text: of what ("dish", "idiom", "scene"; "" for none), and its own."""
    name = _longest_name(text)
    return _named().get(name) or (("dish", name) if name else ("", ""))


@lru_cache(maxsize=1024)
def _longest_name(text: str) -> str:
    """The longest name in a text, or all that a text names if that describes a dish: 红烧茄子, 番茄鸡蛋面."""
    plain = normal(text)
    listed = max((name for name in _named() if name in plain), key=len, default="")
    bare = _SERVED.sub("", negation(plain).text)
    parts = [part for part in _MARKS.split(without_styles(bare)) if part]
    described = len(parts) == 1 and len(parts[0]) > len(listed) and composed_dish(parts[0]) is not None
    return parts[0] if described else listed


@lru_cache(maxsize=1)
def _named() -> Mapping[str, tuple[str, str]]:
    """Names in their normal form -> ("dish", "idiom" or "scene", its own name)."""
    found: dict[str, tuple[str, str]] = {}
    rows = [(word, ("dish", name)) for name, dish in dishes().items() for word in (name, dish.english, *dish.also)]
    rows += [(word, ("idiom", name)) for name, one in idioms().items() for word in (name, one.literal, one.en)]
    found |= zip(normal_each(word for word, _ in rows), (kind for _, kind in rows), strict=True)
    for name, called in subjects().items():
        found |= dict.fromkeys(called.names(), ("scene", name))
    return {word: kind for word, kind in found.items() if word}
