"""The transform of a piece, drawing in its frame, and shades of colours."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bimo.xiaomo.chance import Chance
from bimo.xiaomo.dishes.table import RGB
from bimo.xiaomo.scenes.description import Scene
from bimo.xiaomo.scenes.geometry import Path, ellipse, smooth, turned

Points = list[tuple[float, float]]


def mixed(colour: RGB, other: RGB, share: float) -> RGB:
    """Mixes a ``share`` of another colour into a colour."""
    return (
        round(colour[0] + (other[0] - colour[0]) * share),
        round(colour[1] + (other[1] - colour[1]) * share),
        round(colour[2] + (other[2] - colour[2]) * share),
    )


def darker(colour: RGB, share: float = 0.45) -> RGB:
    """A colour in shadow, mixed with a warm black."""
    return mixed(colour, (34, 16, 10), share)


def lighter(colour: RGB, share: float = 0.4) -> RGB:
    """A highlighted colour."""
    return mixed(colour, (255, 250, 238), share)


@dataclass(frozen=True)
class Place:
    """The position, size and angle of a piece, and its random generator; `flat` is the vertical scale of the slanted
    view.
    """

    scene: Scene
    chance: Chance
    x: float
    y: float
    size: float
    angle: float
    flat: float
    tint: RGB

    def at(self, points: Points | Path) -> Path:
        """Transforms points of the unit frame: rotated, scaled vertically by `flat`, moved."""
        made = turned(np.asarray(points, np.float32), 0, 0, self.angle, self.size)
        return made * np.array([1, self.flat], np.float32) + np.array([self.x, self.y], np.float32)

    def upright(self, points: Points | Path) -> Path:
        """Transforms points of the unit frame without rotation, for upright parts."""
        return np.asarray(points, np.float32) * np.float32(self.size) + np.array([self.x, self.y], np.float32)

    def body(self, *outlines: Path, tint: RGB | None = None, into: RGB | None = None, shade: bool = True) -> None:
        """Fills outlines, with a dark edge below them as contact shadow."""
        tint = tint or self.tint
        if shade:
            drop = np.array([0.0, 0.004 + 0.03 * self.size], np.float32)
            self.scene.fill("food", *(one + drop for one in outlines), tint=darker(tint, 0.6), strength=0.7, rough=0.2)
        self.scene.fill("food", *outlines, tint=tint, into_tint=into, rough=0.3)

    def lines(self, paths: list[Path], width: float, tint: RGB, strength: float = 0.9) -> None:
        """Draws lines; ``width`` is relative to the size of the piece."""
        self.scene.line("food_line", paths, max(0.0016, width * self.size), tint=tint, rough=0.1, strength=strength)

    def gloss(self, x: float = -0.3, y: float = -0.3, size: float = 0.22) -> None:
        """A highlight on a wet surface, by default at the upper left."""
        self.scene.fill(
            "gloss",
            ellipse(self.x + x * self.size, self.y + y * self.size, self.size * size, self.size * size * 0.55, 10),
            strength=0.55,
            rough=0.0,
        )


def long_piece(place: Place, length: float, width: float, bend: float) -> None:
    k = place.chance.normal(bend)
    middle = smooth(place.at([(-length, 0), (-length * 0.3, k), (length * 0.35, k * 0.6), (length, -k * 0.4)]), 12)
    drop = np.array([0.0, 0.003 + 0.02 * place.size], np.float32)
    wide = width * place.size
    line = place.scene.line
    line("food", [middle + drop], wide, wide * 0.8, tint=darker(place.tint, 0.6), strength=0.7, rough=0.2)
    line("food", [middle], wide, wide * 0.8, tint=place.tint, rough=0.2)
    shine = middle - np.array([0.0, wide * 0.22], np.float32)
    line("food_line", [shine[2:-2]], wide * 0.24, tint=lighter(place.tint, 0.45), strength=0.7, rough=0.1)
