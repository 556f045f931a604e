"""The tables of dishes and ingredients, read once and validated."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from bimo.core.errors import DataError
from bimo.xiaomo.tables import read_table

RGB = tuple[int, int, int]


@dataclass(frozen=True)
class Ingredient:
    """An ingredient: its names, the shape of a piece, its colour and relative size (1 is average)."""

    name: str
    english: str
    shape: str
    colour: RGB
    size: float


@dataclass(frozen=True)
class Dish:
    """A dish. `pieces` and `garnish` are (ingredient, count), back to front; `vessels` have the usual one first."""

    name: str
    english: str
    vessels: tuple[str, ...]
    lay: str
    sauce: RGB
    pieces: tuple[tuple[str, int], ...]
    garnish: tuple[tuple[str, int], ...]
    steam: bool
    also: tuple[str, ...]

    @property
    def contents(self) -> tuple[str, ...]:
        """The names of all of its ingredients."""
        return tuple(dict.fromkeys(name for name, _ in (*self.pieces, *self.garnish)))

    def without(self, things: Sequence[str]) -> Dish:
        """The same without ingredients whose Chinese or English name has one of ``things`` in it, of which several may
        stand in one (香菜，葱).
        """
        if not things:
            return self
        words = [word for thing in things for word in re.split("[,，]", thing) if word]
        left = tuple(
            tuple((name, count) for name, count in part if not any(word in _names(name) for word in words))
            for part in (self.pieces, self.garnish)
        )
        return replace(self, pieces=left[0], garnish=left[1])


def _names(ingredient: str) -> str:
    return f"{ingredient} {ingredients()[ingredient].english}".lower()


def colour_of(text: str, where: str) -> RGB:
    """A colour as it is written in the tables. Raises DataError."""
    if not re.fullmatch("#[0-9a-f]{6}", text):
        raise DataError("{where}: the colour is {text!r}, not like #a0522d", where=where, text=text)
    return int(text[1:3], 16), int(text[3:5], 16), int(text[5:7], 16)


@lru_cache(maxsize=1)
def ingredients() -> Mapping[str, Ingredient]:
    """All ingredients by name. Raises DataError for an invalid row."""
    made: dict[str, Ingredient] = {}
    for row in read_table("dishes", "ingredients.tsv"):
        colour = colour_of(row["colour"], row["name"])
        made[row["name"]] = Ingredient(row["name"], row["english"], row["shape"], colour, float(row["size"]))
    return made


def counted(text: str | None, dish: str) -> tuple[tuple[str, int], ...]:
    """Ingredients with their counts as they are written in the tables. Raises DataError."""
    made: list[tuple[str, int]] = []
    for part in (text or "").split():
        name, star, count = part.partition("*")
        if name not in ingredients() or not star or not count.isdigit():
            raise DataError(
                "{part!r} in {dish} cannot be read: an ingredient of ingredients.tsv, a star, a number, as 葱花*8",
                part=part,
                dish=dish,
            )
        made.append((name, int(count)))
    return tuple(made)


@lru_cache(maxsize=1)
def dishes() -> Mapping[str, Dish]:
    """All dishes by name. Raises DataError for an invalid row."""
    made: dict[str, Dish] = {}
    for row in read_table("dishes", "dishes.tsv"):
        name = row["name"]
        made[name] = Dish(
            name,
            row["english"],
            tuple(re.split("[,，]", row["vessels"])),
            row["lay"],
            colour_of(row["sauce"], name),
            counted(row["pieces"], name),
            counted(row["garnish"], name),
            row["steam"] == "1",
            tuple(filter(None, re.split("[,，]", row["also"] or ""))),
        )
    return made
