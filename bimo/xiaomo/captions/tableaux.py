"""Several things together that stand for something (``tableaux.tsv``): festivals, idioms, stories, wishes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from bimo.core.errors import DataError
from bimo.prompts.normalise import normal
from bimo.xiaomo.artwork.places import Placed
from bimo.xiaomo.captions.noun_phrases import things_of
from bimo.xiaomo.tables import read_table


@dataclass(frozen=True)
class Tableau:
    """Things by their emoji or name with their places (across, down, long side), from back to front, before a
    ``scene`` or "".
    """

    things: tuple[tuple[str, tuple[float, float, float]], ...]
    scene: str

    def placed(self) -> tuple[Placed, ...]:
        """Its things. Raises DataError for one that no table of things or people names."""
        return tuple(_placed(name, box) for name, box in self.things)


@lru_cache(maxsize=1)
def tableaux() -> Mapping[str, Tableau]:
    """All tableaux by each of their names in its normal form."""
    found: dict[str, Tableau] = {}
    for row in read_table("captions", "tableaux.tsv"):
        parts = [part.rpartition("@") for part in row["things"].split()]
        tableau = Tableau(tuple((name, _box(box)) for name, _, box in parts), row["scene"])
        found |= {normal(word): tableau for cell in (row["zh"], row["en"]) for word in cell.split("/")}
    return found


def _box(text: str) -> tuple[float, float, float]:
    across, down, side = map(float, text.split(","))
    return across, down, side


def _placed(name: str, box: tuple[float, float, float]) -> Placed:
    things = things_of(normal(name))
    if things is None:
        raise DataError("a tableau shows {name!r}, which no table of things or people names", name=name)
    return Placed(things.kind, things.colour, box)
