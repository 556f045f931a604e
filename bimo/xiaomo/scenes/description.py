"""Description of a scene before rendering: shapes of named materials from far to near, and the boxes of its
elements.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace

import numpy as np

from bimo.xiaomo.chance import Chance
from bimo.xiaomo.scenes.geometry import Path, bounds, box

SEASONS = ("spring", "summer", "autumn", "winter")
LIGHTS = ("dawn", "day", "dusk", "night")
WEATHERS = ("clear", "mist", "rain", "snow")


@dataclass(frozen=True)
class Mood:
    """Season, light and weather of a picture."""

    season: str = "summer"
    light: str = "day"
    weather: str = "clear"

    @property
    def white(self) -> bool:
        """Whether the ground is covered with snow."""
        return self.weather == "snow" or self.season == "winter"


#: Of which nothing is said.
NO_MOOD = Mood("", "", "")


@dataclass(frozen=True)
class Layout:
    """Positions and sizes in fractions of the side, which are stored as labels of the picture.

    `light` is the sun or the moon; `main` the subject's main element, by its foot and its size; `second` the one next
    to it; `side` that of the tree in the foreground, -1 or 1; `height` that of mountains; `density` 0..1 that of
    repeated elements; `sway` -1..1 the wind.
    """

    horizon: float = 0.5
    light_x: float = 0.7
    light_y: float = 0.16
    light_size: float = 0.055
    main_x: float = 0.5
    main_y: float = 0.75
    main_size: float = 0.4
    second_x: float = 0.3
    second_y: float = 0.8
    side: float = 1.0
    height: float = 0.26
    density: float = 0.5
    sway: float = 0.0

    def as_list(self) -> list[float]:
        """The numbers in the order of the fields."""
        return [round(float(getattr(self, one.name)), 4) for one in fields(self)]


#: The default ranges of a layout's fields.
RANGES: dict[str, tuple[float, float]] = {
    "horizon": (0.46, 0.58),
    "light_x": (0.14, 0.86),
    "light_y": (0.10, 0.24),
    "light_size": (0.045, 0.07),
    "main_x": (0.36, 0.64),
    "main_y": (0.70, 0.80),
    "main_size": (0.36, 0.50),
    "second_x": (0.2, 0.8),
    "second_y": (0.78, 0.9),
    "side": (-1.0, 1.0),
    "height": (0.20, 0.34),
    "density": (0.0, 1.0),
    "sway": (-1.0, 1.0),
}


def draw_layout(chance: Chance, ranges: dict[str, tuple[float, float]]) -> Layout:
    """A random layout within the ranges of a subject; `side` is one of the two ends of its range."""
    values: dict[str, float] = {}
    for name, (low, high) in (RANGES | ranges).items():
        drawn = chance.uniform(low, high)
        values[name] = round(drawn, 4) if name != "side" else (1.0 if drawn >= 0 else -1.0)
    return Layout(**values)


@dataclass(frozen=True)
class Stroke:
    """A brush stroke along a path; its width goes from `begin` to `end`, in fractions of the side."""

    points: Path
    begin: float
    end: float


@dataclass(frozen=True)
class Shape:
    """Outlines and strokes of one material.

    `depth` is 0 near and 1 far. `fade` is the distance below its upper edge at which a shape disappears in mist (0: it
    does not). `into` is the second material of a gradient towards its foot, or towards its middle if `radial`. `lean`
    is the angle of brush strokes on it, None for that of its material. `mirror` marks a reflection in water. `tint` and
    `into_tint` are colours that replace those of the materials.
    """

    material: str
    fills: tuple[Path, ...] = ()
    strokes: tuple[Stroke, ...] = ()
    depth: float = 0.0
    fade: float = 0.0
    soft: float = 0.0
    strength: float = 1.0
    into: str | None = None
    radial: bool = False
    rough: float = 1.0
    lean: float | None = None
    mirror: bool = False
    tint: tuple[int, int, int] | None = None
    into_tint: tuple[int, int, int] | None = None

    @property
    def box(self) -> tuple[float, float, float, float]:
        """Left, top, right and bottom."""
        wide = max((max(one.begin, one.end) for one in self.strokes), default=0.0) / 2
        inner = [*self.fills, *(one.points for one in self.strokes)]
        left, top, right, bottom = bounds(inner)
        return left - wide, top - wide, right + wide, bottom + wide


class Scene:
    """A scene as composed by a subject; shapes are painted in the order in which they were added."""

    def __init__(self, chance: Chance, mood: Mood, layout: Layout) -> None:
        self.chance, self.mood, self.layout = chance, mood, layout
        self.shapes: list[Shape] = []
        self.elements: dict[str, list[tuple[float, float, float, float]]] = {}

    def fill(self, material: str, *paths: Path, **options: object) -> None:
        """Adds filled outlines; `options` are fields of `Shape`."""
        if paths:
            self.shapes.append(Shape(material, fills=paths, **options))  # type: ignore[arg-type]

    def line(
        self, material: str, paths: Sequence[Path], begin: float, end: float | None = None, **options: object
    ) -> None:
        """Adds strokes of one width; `options` are fields of `Shape`."""
        last = begin if end is None else end
        strokes = tuple(Stroke(points, begin, last) for points in paths)
        if strokes:
            self.shapes.append(Shape(material, strokes=strokes, **options))  # type: ignore[arg-type]

    def strokes(self, material: str, strokes: Sequence[Stroke], **options: object) -> None:
        """Adds strokes of many widths."""
        if strokes:
            self.shapes.append(Shape(material, strokes=tuple(strokes), **options))  # type: ignore[arg-type]

    @contextmanager
    def element(self, name: str) -> Generator[None]:
        """In this context all added shapes belong to an element, which is declared with their box."""
        first = len(self.shapes)
        yield
        boxes = [shape.box for shape in self.shapes[first:] if not shape.mirror]
        if boxes:
            edges = np.array(boxes)
            whole = (*edges[:, :2].min(0), *edges[:, 2:].max(0))
            self.declare(name, *whole)

    def declare(self, name: str, *sides: float) -> None:
        """Declares an element with its box, clipped to the picture; an element outside of it is not declared."""
        left, top, right, bottom = (round(min(1.0, max(0.0, float(side))), 3) for side in sides)
        if right - left > 0.004 and bottom - top > 0.004:
            self.elements.setdefault(name, []).append((left, top, right, bottom))

    def mirror(self, first: int, level: float, strength: float = 0.34, squash: float = 0.8) -> None:
        """Adds the reflections, below a level of water, of all shapes added since `first`, before them."""
        made: list[Shape] = []
        for shape in self.shapes[first:]:
            if shape.mirror or shape.material in UNREFLECTED:
                continue
            flipped = replace(
                shape,
                fills=tuple(_flipped(one, level, squash) for one in shape.fills),
                strokes=tuple(replace(one, points=_flipped(one.points, level, squash)) for one in shape.strokes),
                strength=shape.strength * strength,
                soft=shape.soft + 1.6,
                fade=0.0,
                rough=2.4,
                mirror=True,
                into=None,
            )
            made.append(flipped)
        self.shapes[first:first] = made

    @property
    def whole(self) -> Path:
        """The outline of the whole picture."""
        return box(-0.02, -0.02, 1.02, 1.02)


UNREFLECTED = frozenset({"shadow", "ripple", "water", "snowfall", "rainfall", "mist"})


def _flipped(points: Path, level: float, squash: float) -> Path:
    return np.stack([points[:, 0], level + squash * (level - points[:, 1])], 1).astype(np.float32)
