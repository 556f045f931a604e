"""Words for the things that are drawn (``drawn/things.tsv``), and the scenes that some stand in."""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass
from functools import lru_cache

from bimo.xiaomo.artwork.lexicon import Words
from bimo.xiaomo.tables import read_table

#: What the kind of a thing that is drawn begins with; its name follows.
THING = "thing:"
#: The scene of a thing that fills the picture, and is itself a scene for others; that of one with a roof.
VIEW, INDOORS = "view", "indoors"


@dataclass(frozen=True)
class DrawnThing:
    """The words for a thing that is drawn, and the scene that it stands in if nothing else is said; "" for none."""

    zh: tuple[str, ...]
    en: tuple[str, ...]
    scene: str


@lru_cache(maxsize=1)
def drawn_things() -> Mapping[str, DrawnThing]:
    """All things that are drawn, by name."""
    rows = read_table("drawn", "things.tsv")
    return {
        row["name"]: DrawnThing(tuple(row["zh"].split("/")), tuple(row["en"].split("/")), row["scene"]) for row in rows
    }


@lru_cache(maxsize=1)
def views() -> Mapping[str, Words]:
    """The words for being in each thing that fills the picture, by its kind: 公园里, in the park."""
    return {
        f"{THING}{name}": Words(one.zh, tuple(f"{where} {word}" for word in one.en for where in _IN))
        for name, one in drawn_things().items()
        if one.scene in (VIEW, INDOORS)
    }


@lru_cache(maxsize=1)
def indoors() -> Set[str]:
    """The kinds of views that no weather is in."""
    return frozenset(f"{THING}{name}" for name, one in drawn_things().items() if one.scene == INDOORS)


_IN = tuple(f"{where}{article}" for where in ("in", "at", "on") for article in ("", " the", " a", " an"))
