"""The editions of the artwork set: that of the bundled weights, and the second edition's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from bimo.xiaomo.artwork.lexicon import COLOURED, DRAWN, LATER
from bimo.xiaomo.artwork.packages import LATER_PACKAGES, PACKAGES, Package


@dataclass(frozen=True)
class Edition:
    """The side of a canvas in pixels, the drawn styles and those of them in colour, the shares of the types of canvases
    (those of `more` come after the others), and the packages.
    """

    number: int
    side: int
    drawn: tuple[str, ...]
    coloured: tuple[str, ...]
    shares: Mapping[str, float]
    more: Mapping[str, float]
    packages: tuple[Package, ...]


FIRST = Edition(
    number=1,
    side=128,
    drawn=DRAWN,
    coloured=COLOURED,
    shares={
        "single": 0.50,
        "effect": 0.14,
        "recolour": 0.09,
        "background": 0.06,
        "scene": 0.06,
        "pair": 0.06,
        "count": 0.04,
        "accessory": 0.02,
        "eating": 0.015,
        "place": 0.009,
        "size": 0.006,
    },
    # More of what is hardest to learn: two objects at once, and positions.
    more={"pair": 0.15, "place": 0.04, "size": 0.01},
    packages=PACKAGES,
)
SECOND = Edition(
    number=2,
    side=256,
    drawn=(*DRAWN, *LATER),
    coloured=(*COLOURED, *LATER),
    shares={
        "single": 0.38,
        "effect": 0.14,
        "recolour": 0.07,
        "background": 0.04,
        "scene": 0.05,
        "pair": 0.08,
        "count": 0.04,
        "accessory": 0.025,
        "eating": 0.025,
        "place": 0.02,
        "size": 0.01,
        "composition": 0.09,
        "idiom": 0.03,
    },
    more={},
    packages=(*PACKAGES, *LATER_PACKAGES),
)
EDITIONS: Mapping[int, Edition] = {edition.number: edition for edition in (FIRST, SECOND)}
