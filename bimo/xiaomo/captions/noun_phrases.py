"""The things that a noun phrase names (三只小猪, a red apple): their kind, number, colour and size.

Kinds are those of ``artwork/names.tsv``, by their names and emoji, by the words of ``words.tsv`` in both languages, by
``more_words.tsv``, and by the commoner words that ``prompts.paraphrases`` has for others.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib import resources

from bimo.prompts.commoner_words import Row
from bimo.prompts.commoner_words import table as paraphrases
from bimo.prompts.normalise import normal, normal_each
from bimo.xiaomo.artwork.english import plural
from bimo.xiaomo.artwork.held_out import hexcode
from bimo.xiaomo.artwork.lexicon import SIZES
from bimo.xiaomo.artwork.words_table import read_aliases, read_names
from bimo.xiaomo.captions.colours import A_COLOUR, COLOUR_NAMES, MANY, MANY_COLOURS
from bimo.xiaomo.captions.drawn_things import THING, drawn_things, views
from bimo.xiaomo.captions.figures import FIGURE, company_of, figure_of

#: The most of one kind that are drawn one by one; 一群 is SEVERAL, 几只 A_FEW.
MOST, SEVERAL, A_FEW = 12, 6, 3
_NUMBERS: Mapping[str, int] = {
    "一": 1, "二": 2, "两": 2, "俩": 2, "三": 3, "四": 4, "五": 5, "六": 6, "七": 7, "八": 8, "九": 9, "十": 10,
    "十一": 11, "十二": 12, "几": A_FEW, "a": 1, "an": 1, "the": 1, "some": A_FEW, "several": A_FEW, "a few": A_FEW,
    "one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9, "ten": 10,
    "eleven": 11, "twelve": 12, **{str(number): number for number in range(1, MOST + 1)},
}  # fmt: skip
_UNITS = (
    "个只条头匹尾位名朵颗粒棵株根块片张幅面本册把支枝杯碗盘盆碟瓶罐盒袋双对辆台架艘座间栋盏顶件套串滴枚轮口道所家节部份"
    "群"
)
_ADJECTIVES = re.compile(
    r"(?:超级?|很|非常|特别)?(?:可爱的?|漂亮的?|美丽的?|好看的?|胖胖的|胖|毛茸茸的|快乐的?|开心的?|聪明的?"
    r"|(?:cute|happy|cool|lovely|funny|smart|fat)的?(?=[\u4e00-\u9fff]))"
    r"|(?:cute|little|small|big|large|old|young|beautiful|lovely|happy|fat|fluffy|nice)\s+"
)
#: What stands before a word that is drawn as the word alone: 小兔子.
_SMALL_OR_LARGE = "小大老"
#: Drawn singly though they come by the pair.
_ONE_OF_A_PAIR = "👞👟🥾👠👡👢"


@dataclass(frozen=True)
class Things:
    """``count`` things of one ``kind`` (a hexcode), in a ``colour`` of ``DYES`` or ``MANY`` and a ``size`` of the
    lexicon; "" where none is named.
    """

    kind: str
    count: int = 1
    colour: str = ""
    size: str = ""


@lru_cache(maxsize=1024)
def things_of(phrase: str) -> Things | None:
    """What a noun phrase in its normal form names, by all of its words; None if it says anything else."""
    return _named(phrase, paraphrases())


def is_named(phrase: str) -> bool:
    """Whether a noun phrase in its normal form names something in words for just that, not in words that are commoner
    called so: 滴水穿石 is more than a stone.
    """
    return _named(phrase, {}) is not None


def scene_of(phrase: str) -> str:
    """The scene that the one thing that a phrase names stands in if nothing else is said; "" for none."""
    things = things_of(phrase)
    if things is None or things.count != 1 or things.kind in views():
        return ""
    thing, figure = drawn_things().get(things.kind.removeprefix(THING)), company_of(things.kind)
    return thing.scene if thing is not None else figure.scene if figure is not None else ""


def has_its_own_colour(phrase: str) -> bool:
    """Whether a phrase is a kind's name with the colour that it has by itself: 红苹果 is 苹果."""
    found = A_COLOUR.match(phrase)
    return found is not None and phrase in kinds() and kinds()[phrase] == kinds().get(phrase[found.end() :])


_Rows = Mapping[str, Row]


def _named(phrase: str, rows: _Rows) -> Things | None:
    """What a phrase names, in words that ``rows`` has commoner ones for, too."""
    phrase = phrase.strip(" 的,.!?;")
    kind = kinds().get(phrase) or figure_of(phrase) or names().get(phrase)
    if kind:
        return Things(kind)
    return _counted(phrase, rows) or _sized(phrase, rows) or _coloured(phrase, rows) or _commoner(phrase, rows)


def _counted(phrase: str, rows: _Rows) -> Things | None:
    for pattern, of_many in _number_patterns():
        found = pattern.match(phrase)
        things = found and _named(phrase[found.end() :], rows)
        if not found or not things or things.count != 1:
            continue
        count = SEVERAL if of_many else _NUMBERS[found["number"]]
        unit = found.groupdict().get("unit")
        if unit in ("双", "对") and (things.kind in _singles() or _classifiers().get(things.kind) != unit):
            count *= 2
        elif unit == "群":
            count = SEVERAL
        return replace(things, count=count) if count <= MOST else None
    return None


def _sized(phrase: str, rows: _Rows) -> Things | None:
    adjective = _ADJECTIVES.match(phrase)
    if adjective is not None:
        return _named(phrase[adjective.end() :], rows)
    for size, words in SIZES.items():
        for word in (*words.zh, *(f"{each} " for each in words.en)):
            if phrase.startswith(word):
                things = _named(phrase[len(word) :], rows)
                return things and replace(things, size=size)
    return None


def _coloured(phrase: str, rows: _Rows) -> Things | None:
    many = MANY_COLOURS.match(phrase)
    things = many and _named(phrase[many.end() :], rows)
    if things and not things.colour and not things.kind.startswith(FIGURE):
        return replace(things, colour=MANY)
    found = A_COLOUR.match(phrase)
    things = found and _named(phrase[found.end() :], rows)
    if found and things and not things.colour:
        return replace(things, colour=COLOUR_NAMES[found["colour"]])
    return _named(phrase[1:], rows) if phrase[:1] in _SMALL_OR_LARGE and len(phrase) > 1 else None


def _commoner(phrase: str, rows: _Rows) -> Things | None:
    row = rows.get(phrase)
    words = () if row is None else row.plain(not phrase.isascii())
    return next((things for word in words if (things := _named(normal(word), {}))), None)


def number_at(text: str, at: int) -> tuple[int, int] | None:
    """The number that stands at a place of a text in its normal form, with its measure word, and where it ends."""
    for pattern, of_many in _number_patterns():
        found = pattern.match(text, at)
        if found is not None:
            return SEVERAL if of_many or found.groupdict().get("unit") == "群" else _NUMBERS.get(
                found["number"], 1
            ), found.end()
    return None


@lru_cache(maxsize=1)
def kinds() -> Mapping[str, str]:
    """Every word for a kind in its normal form, English ones in the plural, too, and its emoji -> the kind's hexcode;
    of several kinds with a word the first, in ``more_words.tsv`` before ``things.tsv`` before ``words.tsv``.
    """
    found: dict[str, str] = {}
    text = resources.files("bimo.xiaomo.captions").joinpath("more_words.tsv").read_text("utf-8")
    lines = [line.split("\t") for line in text.splitlines() if line and not line.startswith("#")]
    rows = [(hexcode(emoji), (emoji, *words.split("/"))) for emoji, words in lines[1:]]
    rows += [(f"{THING}{name}", (*one.zh, *one.en)) for name, one in drawn_things().items()]
    rows += [(hexcode(emoji), (emoji, *zh, *en)) for emoji, (_, zh, en) in read_aliases().items()]
    named = [(word, kind) for kind, words in rows for word in words]
    for word, (_, kind) in zip(normal_each(word for word, _ in named), named, strict=True):
        found.setdefault(word, kind)
    for kind, words in rows:
        for word in words:
            if word.isascii():
                found.setdefault(plural(word), kind)
    return found


@lru_cache(maxsize=1)
def names() -> Mapping[str, str]:
    """What the captions call each kind, in its normal form, and its emoji -> the kind's hexcode."""
    called = [(word, hexcode(emoji)) for emoji, both in read_names().items() for word in (emoji, *both)]
    return dict(zip(normal_each(word for word, _ in called), (kind for _, kind in called), strict=True))


@lru_cache(maxsize=1)
def _classifiers() -> Mapping[str, str]:
    return {hexcode(emoji): classifier for emoji, (classifier, _, _) in read_aliases().items()}


@lru_cache(maxsize=1)
def _singles() -> frozenset[str]:
    return frozenset(map(hexcode, _ONE_OF_A_PAIR))


@lru_cache(maxsize=1)
def _number_patterns() -> tuple[tuple[re.Pattern[str], bool], ...]:
    """Patterns of a number at the beginning of a phrase, and whether it is a number that is not said."""
    han = "|".join(sorted((word for word in _NUMBERS if not word.isascii()), key=len, reverse=True))
    english = "|".join(sorted((word for word in _NUMBERS if word.isalpha() and word.isascii()), key=len, reverse=True))
    return (
        (re.compile(rf"(?:一群|一堆|成群的|许多|很多|好多|好几)(?P<unit>[{_UNITS}])?"), True),
        (re.compile(r"(?:a (?:group|flock|herd|bunch|lot) of|many|lots of)\s+"), True),
        (re.compile(rf"(?P<number>{han}|\d+)(?P<unit>[{_UNITS}])"), False),
        (re.compile(rf"(?P<number>a few|{english}|\d+)\s+"), False),
    )
