"""People that a phrase names (关羽, 穿红色旗袍的女人, an old man practising tai chi), by ``drawn/figures.tsv``: who it
is, what they wear, what they do and what they look like.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from bimo.prompts.normalise import normal
from bimo.xiaomo.artwork.held_out import hexcode
from bimo.xiaomo.artwork.lexicon import DYES
from bimo.xiaomo.captions.colours import A_COLOUR, COLOUR_NAMES
from bimo.xiaomo.tables import read_table

#: What the kind of a figure begins with; the names of its rows follow, joined by +, a colour of its clothes by *.
FIGURE = "figure:"
PERSON, _CLOTHES, _ANIMAL = "person", "clothes", "animal"
#: People of whom the references are heads.
_HEADS = {
    "👦": "男孩",
    "👧": "女孩",
    "🧒": "小孩",
    "👨": "男人",
    "👩": "女人",
    "🧑": "男人",
    "👴": "老人",
    "👵": "老奶奶",
}
#: Acts that somebody unnamed is a girl for, rather than a boy.
_OF_GIRLS = ("跳", "弹古筝", "弹琵琶", "瑜伽", "摇扇", "拿花", "买花", "采摘", "浇花")
#: What animals do in their own way.
_OF_ANIMALS = frozenset(("跑步", "欢呼", "微笑", "背书包", "哭泣", "生气"))


@dataclass(frozen=True)
class Row:
    """A row of the table: its ``name`` and ``part`` (person, animal, clothes, act, look), the words for it, the
    ``looks`` that it gives a figure, and of a person what else is in the picture (emoji or names with their places,
    * for the person) and the scene.
    """

    name: str
    part: str
    zh: tuple[str, ...]
    en: tuple[str, ...]
    looks: tuple[tuple[str, str], ...]
    company: tuple[tuple[str, str], ...]
    scene: str


@lru_cache(maxsize=1)
def rows() -> Mapping[str, Row]:
    """All rows by name."""
    found: dict[str, Row] = {}
    for row in read_table("drawn", "figures.tsv"):
        zh, en = (tuple(filter(None, row[language].split("/"))) for language in ("zh", "en"))
        looks = tuple((key, value) for key, _, value in (part.partition("=") for part in row["figure"].split()))
        company = tuple((what, box) for what, _, box in (part.partition("@") for part in row["company"].split()))
        found[row["name"]] = Row(row["name"], row["part"], zh, en, looks, company, row["scene"])
    return found


def looks_of(kind: str) -> Mapping[str, str]:
    """What the figure of a kind looks like: of each part what the last row says. ``hair:long=palace`` is said of
    somebody whose hair was long.
    """
    names, _, colour = kind.removeprefix(FIGURE).partition("*")
    looks: dict[str, str] = {}
    person: Mapping[str, str] = {}
    for name in names.split("+"):
        row = rows()[name]
        for key, value in row.looks:
            part, _, was = key.partition(":")
            if not was or person.get(part) == was:
                looks[part] = value
        person = person or dict(row.looks)
    if colour:
        looks["main"] = "#{:02x}{:02x}{:02x}".format(*DYES[colour].rgb)
    return looks


def figure_of(phrase: str) -> str:
    """The kind of the figure that a phrase in its normal form names by all of its words; "" for none."""
    said = _said(phrase, frozenset())
    if said is None:
        return ""
    person = [name for name in said if rows()[name.partition("*")[0]].part in (PERSON, _ANIMAL)]
    others = [name for name in said if name not in person]
    if len(person) != 1 or (rows()[person[0]].part == _ANIMAL and not _as_people(others)):
        return ""
    others.sort(key=lambda name: ("clothes", "act", "look").index(rows()[name.partition("*")[0]].part))
    colour = next((name.partition("*")[2] for name in others if "*" in name), "")
    names = "+".join(name.partition("*")[0] for name in (*person, *others))
    return f"{FIGURE}{names}" + (f"*{colour}" if colour else "")


def somebody_who(phrase: str) -> str:
    """The kind of the figure of somebody who does what a phrase says without naming anybody (打网球), or is named as a
    picture (古风插画少女); "" for none.
    """
    name = _words()["act"].get(phrase.strip(" 的,.!?;"), "")
    if not name:  # 中国风插画少女 is a girl in such dress
        plain = _AS_A_PICTURE.sub("", phrase)
        return figure_of(plain) if plain != phrase else ""
    return f"{FIGURE}{'女孩' if name.startswith(_OF_GIRLS) else '男孩'}+{name}"


def _as_people(said: Sequence[str]) -> bool:
    """Whether an animal wears clothes or does what people do; else it is itself."""
    parts = {rows()[name.partition("*")[0]].part for name in said if name not in _OF_ANIMALS}
    return bool(parts & {_CLOTHES, "act"}) and not _OF_ANIMALS.intersection(said)


def _said(phrase: str, without: frozenset[str]) -> tuple[str, ...] | None:
    """The names of the rows that a phrase says, None if it says anything else."""
    phrase = phrase.strip(" 的,.!?;")
    person = _words()[PERSON].get(phrase) or _words()[_ANIMAL].get(phrase)
    if person is not None:
        return (person,)
    for names, rest in _split(phrase):
        others = _said(rest, without)
        if others is not None:
            return (*names, *others)
    return None


def _split(phrase: str) -> Iterator[tuple[tuple[str, ...], str]]:
    """Each way to take off what somebody wears, does or looks like: its name, and what is left."""
    for pattern in (*_WORN, _clothes_pattern()):
        found = pattern.fullmatch(phrase)
        if found is not None:
            named = _clothes_of(found["clothes"])
            if named:
                yield (named,), found["rest"]
    table = {**_words()["act"], **_words()["look"]}
    for pattern in _DONE:
        found = pattern.fullmatch(phrase)
        if found is not None and found["act"] in table:
            yield (table[found["act"]],), found["rest"]
    for length in range(min(len(phrase) - 1, max(map(len, table))), 0, -1):
        if phrase[:length] in table:
            yield (table[phrase[:length]],), re.sub(r"^[着了]?的?\s*", "", phrase[length:])
        if phrase[-length:] in table:
            yield (table[phrase[-length:]],), re.sub(r"(?:[,\s]|正|在|is|are)*$", "", phrase[:-length])


_AS_A_PICTURE = re.compile(r"(?:手绘)?插[画图](?:风格?)?的?|手绘")
_WORN = (
    re.compile(r"(?:身)?(?:穿|着|披)着?(?:一[身件条套])?(?P<clothes>[^的]+(?:色的|的)??[^的]*?)的(?P<rest>.+)"),
    re.compile(r"(?P<rest>.+?),?(?:身)?(?:穿|披)着?(?:一[身件条套])?(?P<clothes>.+)"),
    re.compile(r"(?P<rest>.+?) (?:in|wearing|dressed in)(?: an?)? (?P<clothes>.+)"),
)
_DONE = (
    re.compile(r"(?:正在|在)(?P<act>.+?)的(?P<rest>.+)"),
    re.compile(r"(?P<rest>.+?)(?:正在|在|正)(?P<act>.+)"),
)


def _clothes_of(text: str) -> str:
    """The name of clothes, with their colour after *; "" for none."""
    text = text.strip(" 的")
    name = _words()[_CLOTHES].get(text)
    if name is not None:
        return name
    found = A_COLOUR.match(text)
    name = _words()[_CLOTHES].get(text[found.end() :].strip(" 的")) if found is not None else None
    return "" if found is None or name is None else f"{name}*{COLOUR_NAMES[found['colour']]}"


@lru_cache(maxsize=1)
def _words() -> Mapping[str, Mapping[str, str]]:
    """Part -> word in its normal form -> name."""
    found: dict[str, dict[str, str]] = {"person": {}, "animal": {}, "clothes": {}, "act": {}, "look": {}}
    for row in rows().values():
        for word in (*row.zh, *row.en):
            found[row.part].setdefault(normal(word), row.name)
    return found


@lru_cache(maxsize=1)
def _clothes_pattern() -> re.Pattern[str]:
    """红衣少女, 蓝色汉服的少女: clothes without a verb."""
    words = "|".join(sorted((word for word in _words()[_CLOTHES] if not word.isascii()), key=len, reverse=True))
    return re.compile(rf"(?P<clothes>(?:{A_COLOUR.pattern})?(?:{words}))的?(?P<rest>.+)")


def is_animal(kind: str) -> bool:
    """Whether a figure is an animal in clothes or doing what people do."""
    return kind.startswith(FIGURE) and rows()[kind.removeprefix(FIGURE).partition("*")[0].split("+")[0]].part == _ANIMAL


@lru_cache(maxsize=1)
def _bodies() -> Mapping[str, str]:
    return {hexcode(face): f"{FIGURE}{name}" for face, name in _HEADS.items()}


def act_words() -> Mapping[str, str]:
    """Every word for what people do in its normal form, and the row's name."""
    return _words()["act"]


def body_of(kind: str) -> str:
    """The whole figure of somebody of whom the reference is a head, as people stand in a place; of others the kind."""
    return _bodies().get(kind, kind)


def company_of(kind: str) -> Row | None:
    """The row of somebody who is drawn in company or in a scene; None for anything else."""
    row = rows().get(kind.removeprefix(FIGURE)) if kind.startswith(FIGURE) else None
    return row if row is not None and (row.company or row.scene) else None
