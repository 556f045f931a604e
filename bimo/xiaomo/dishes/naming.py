"""Dishes by name: those of the table, and others whose names say what is in them and how it was cooked.

红烧冬瓜 is in no table, yet its name is a way of cooking and a vegetable: such names are read word by word
(``dish_words.tsv``), longest words first, and the dish is put together from what the words say.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from bimo.core.errors import DataError
from bimo.prompts.normalise import normal
from bimo.xiaomo.dishes.table import RGB, Dish, colour_of, counted, dishes, ingredients
from bimo.xiaomo.tables import read_table

Pieces = tuple[tuple[str, int], ...]

KINDS = ("food", "fruit", "fish", "way", "form", "flavour")
#: What a dish has whose words say nothing of it.
LAY, VESSELS, SAUCE, GARNISH = "mound", ("圆盘", "青花盘"), (176, 128, 64), (("葱花", 6),)
#: So few of a food are large, and stay as many.
_FEW = 2
#: Between words of food.
_JOINS = re.compile(r"[和与加配跟夹、·\s]")
#: How much there is of each food where so many share a vessel (of four and more the last), and of each on noodles.
_SHARES, _ON_TOP = (1.0, 2.0, 1.35, 0.95, 0.75), 0.55
#: A whole fish as it was cooked, and its pieces in a soup or on noodles.
_WHOLE_FISH, _PALE_FISH, _FISH_STEAKS = "红烧鱼", "鲈鱼", ("鱼块", 7)
_PALE_WAYS = frozenset(("清蒸", "蒸", "白煮", "煮", "清炖"))
#: How wrapped food lies, whose filling nobody sees: 猪肉白菜饺子.
_WRAPPED = frozenset(("ring", "stack"))
#: Where one large thing lies alone, whatever the name says of how it was cooked.
_LARGE = frozenset((_WHOLE_FISH, _PALE_FISH, "鱼头"))


@dataclass(frozen=True)
class _Word:
    """What a word of a name says of a dish; what is empty it leaves to others."""

    word: str
    kind: str
    lay: str
    vessels: tuple[str, ...]
    sauce: RGB | None
    pieces: Pieces
    garnish: Pieces
    steam: bool | None


def dish_named(name: str) -> Dish:
    """The dish of a name: of the table, else put together from its words. Raises KeyError if there is none."""
    dish = dishes().get(name) or composed_dish(name)
    if dish is None:
        raise KeyError(name)
    return dish


@lru_cache(maxsize=4096)
def composed_dish(name: str) -> Dish | None:
    """The dish that a Chinese name describes by its words; None where one is not understood, where no more than a food
    (土豆) or a way of cooking (红烧) is named, and for a dish of the table.
    """
    words = _words_in(_JOINS.sub("", normal(name)))
    if name in dishes() or words is None:
        return None
    cooked = any(word.kind in ("way", "form") or word.sauce or word.garnish for word in words)
    # 香菇青菜 is a dish, 香菇和青菜 are two things.
    cooked = cooked or (len(_of_kind(words, "food")) > 1 and not _of_kind(words, "fruit") and not _JOINS.search(name))
    served = any(word.kind in ("food", "fruit", "fish", "form") for word in words)
    pieces = tuple(_pieces(words))
    if not (cooked and served and pieces):
        return None
    form, ways, flavours = _form(words), _of_kind(words, "way")[::-1], _of_kind(words, "flavour")
    # How it is served says more than how it was cooked in the end, and that more than what was done before.
    orders = [*([form] if form else []), *ways]
    large = form is None and any(food in _LARGE for food, _ in pieces)
    # Sauces are named by flavours, but rice stays white under them.
    tastes = [form] if form is not None and form.lay == "rice" else [*flavours, *ways, *orders]
    return Dish(
        name=name,
        english="a dish with " + " and ".join(ingredients()[food].english for food, _ in pieces),
        vessels=("鱼盘", "长盘") if large else next((word.vessels for word in orders if word.vessels), VESSELS),
        lay="whole" if large else next((word.lay for word in orders if word.lay), LAY),
        sauce=next((word.sauce for word in tastes if word.sauce), SAUCE),
        pieces=pieces,
        garnish=next((word.garnish for word in (*flavours, *orders) if word.garnish), GARNISH),
        steam=all(word.steam is not False for word in orders),
        also=(),
    )


def _of_kind(words: Sequence[_Word], *kinds: str) -> list[_Word]:
    return [word for word in words if word.kind in kinds]


def _form(words: Sequence[_Word]) -> _Word | None:
    """What it is served as: the last one, as in 牛肉粉丝汤."""
    forms = _of_kind(words, "form")
    return forms[-1] if forms else None


def _pieces(words: Sequence[_Word]) -> Iterator[tuple[str, int]]:
    """What lies in it, back to front, each ingredient once."""
    form = _form(words)
    foods = [] if form is not None and form.lay in _WRAPPED else _of_kind(words, "food", "fruit")
    share = _SHARES[min(len(foods), len(_SHARES) - 1)]
    if form is not None and form.pieces:
        share = min(share, _ON_TOP)
    most: dict[str, int] = dict(form.pieces) if form is not None else {}
    if _of_kind(words, "fish"):
        pale = any(word.word in _PALE_WAYS for word in words)
        most |= [(_PALE_FISH if pale else _WHOLE_FISH, 1)] if form is None else [_FISH_STEAKS]
    for word in foods:
        for food, count in word.pieces:
            most[food] = max(most.get(food, 0), count if count <= _FEW else max(2, round(count * share)))
    for word in words:
        if word.kind in ("way", "flavour"):
            most |= {food: count for food, count in word.pieces if food not in most}
    yield from most.items()


def _words_in(plain: str) -> list[_Word] | None:
    """The words of a name in turn, the longest first; None if it has others."""
    words = _words()
    longest, place, read = max(map(len, words)), 0, list[_Word]()
    while place < len(plain):
        lengths = range(min(longest, len(plain) - place), 0, -1)
        word = next((words[part] for length in lengths if (part := plain[place : place + length]) in words), None)
        if word is None:
            return None
        read.append(word)
        place += len(word.word)
    return read


@lru_cache(maxsize=1)
def _words() -> Mapping[str, _Word]:
    """Words of dishes' names in their normal form. Raises DataError for an invalid row."""
    made: dict[str, _Word] = {}
    for row in read_table("dishes", "dish_words.tsv"):
        word = normal(row["word"])
        if row["kind"] not in KINDS:
            raise DataError(
                "{word} is of the kind {kind!r}; expected {kinds}", word=word, kind=row["kind"], kinds=", ".join(KINDS)
            )
        made[word] = _Word(
            word,
            row["kind"],
            row["lay"] or "",
            tuple(filter(None, re.split("[,，]", row["vessels"] or ""))),
            colour_of(row["sauce"], word) if row["sauce"] else None,
            counted(row["pieces"], word),
            counted(row["garnish"], word),
            {"0": False, "1": True}.get(row["steam"] or ""),
        )
    return made
