"""What is composed of several objects by a table: relations of a face to an object, and idioms drawn literally.

Both tables are data: a corrected row is a corrected picture.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from bimo.core.errors import DataError
from bimo.prompts.emoji import bare
from bimo.xiaomo.tables import read_table

#: Centre across and down, and the long side, as fractions of the canvas.
Box = tuple[float, float, float]


@dataclass(frozen=True)
class Composition:
    """The arrangement of a face and an object for a relation. `zh` and `en` are captions with {a} and {b}; `things` are
    emoji; `over` is "first" if the face covers the object, else "second". If the object has a suitable shape in some
    drawn styles only, `styles` are these, each with the face's box.
    """

    zh: tuple[str, ...]
    en: tuple[str, ...]
    things: tuple[str, ...]
    first: Box
    second: Box
    over: str
    styles: Mapping[str, Box]


@dataclass(frozen=True)
class Idiom:
    """An idiom with its literal and its actual meaning in both languages; `things` are emoji with their boxes, back to
    front.
    """

    name: str
    literal: str
    meant: str
    en: str
    en_meant: str
    things: tuple[tuple[str, Box], ...]


def _styled(text: str | None) -> list[tuple[str, str]]:
    """Style and box of each part of "3d cartoon@0.5,0.5,0.5"; the box may be empty."""
    return [(style, box) for style, _, box in (part.partition("@") for part in (text or "").split())]


def _box(text: str, where: str) -> Box:
    numbers = [float(part) for part in text.split(",")] if re.fullmatch(r"[0-9.]+,[0-9.]+,[0-9.]+", text) else []
    if len(numbers) != 3 or not all(0 < number <= 1 for number in numbers):
        raise DataError(
            "{where}: {text!r} is no place; write across,down,long side, as 0.5,0.5,0.4", where=where, text=text
        )
    return numbers[0], numbers[1], numbers[2]


@lru_cache(maxsize=1)
def compositions() -> Mapping[str, Composition]:
    """All relations by name. Raises DataError for a place that cannot be read."""
    table: dict[str, Composition] = {}
    for row in read_table("artwork", "compositions.tsv"):
        name = row["relation"]
        first, second = _box(row["first"], name), _box(row["second"], name)
        things = tuple(bare(emoji) for emoji in row["things"].split())
        table[name] = Composition(
            tuple(row["zh"].split(";")),
            tuple(row["en"].split(";")),
            things,
            first,
            second,
            row["over"],
            {style: _box(box, name) if box else first for style, box in _styled(row["styles"])},
        )
    return table


@lru_cache(maxsize=1)
def idioms() -> Mapping[str, Idiom]:
    """All idioms by name. Raises DataError for a place that cannot be read."""
    table: dict[str, Idiom] = {}
    for row in read_table("artwork", "idioms.tsv"):
        name = row["idiom"]
        parts = (part.partition("@") for part in row["things"].split())
        things = tuple((bare(emoji), _box(place, name)) for emoji, _, place in parts)
        table[name] = Idiom(name, row["literal"], row["meant"], row["en"], row["en_meant"], things)
    return table
