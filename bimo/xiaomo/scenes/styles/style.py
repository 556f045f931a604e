"""Definition of a style: paper, strength of lighting, colour grading, and functions that paint shapes and finish."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from bimo.xiaomo.chance import Floats
from bimo.xiaomo.scenes.brush import Painting, Window
from bimo.xiaomo.scenes.description import Layout, Mood, Shape, Stroke
from bimo.xiaomo.scenes.palette import MATERIALS, RGB, Material, natural

LUMINANCE = np.array([0.30, 0.59, 0.11], np.float32)


@dataclass(frozen=True)
class Style:
    """A painting style.

    `light` is the strength of lighting; `sky` the density of the sky by light; `rough` the displacement and `soft` the
    blur of edges, in pixels; `line` the width of outlines as a fraction of the side (0: none); `ground` the density of
    land and water, which are mostly bare paper on old scrolls.
    """

    name: str
    paper: RGB
    grade: Callable[[Floats, Material, Mood], Floats]
    paint: Callable[[Painting, Shape, Style, Mood], None]
    finish: Callable[[Painting, Style, Mood, Layout], None]
    tooth: float = 0.05
    light: float = 1.0
    sky: Mapping[str, float] = field(default_factory=lambda: {"day": 0.9, "dawn": 0.9, "dusk": 0.95, "night": 1.0})
    rough: float = 0.5
    soft: float = 0.6
    rim: float = 0.5
    mottle: float = 0.4
    line: float = 0.0
    ground: float = 1.0

    def colour(self, name: str, shape: Shape, mood: Mood, tint: RGB | None = None) -> Floats:
        """The colour of a material in this style, 0..1."""
        material = MATERIALS[name]
        return np.clip(self.grade(natural(material, mood, shape.depth, self.light, tint), material, mood), 0, 1)

    def colours(self, painting: Painting, mask: Floats, shape: Shape, mood: Mood) -> Floats:
        """The colour of a shape: one, or with a gradient one for each pixel of its window."""
        first = self.colour(shape.material, shape, mood, shape.tint)
        if shape.into is None and shape.into_tint is None:
            return first
        second = self.colour(shape.into or shape.material, shape, mood, shape.into_tint)
        share = painting.gradient(mask, shape.radial)[..., None]
        return first * (1 - share) + second * share


#: Materials of wide, flat areas.
FLAT = frozenset({"ground", "meadow", "water", "sea"})
#: Materials of soft shapes, which are not outlined.
UNDRAWN = frozenset(
    {
        "leaf",
        "leaf_dark",
        "maple",
        "maple_dark",
        "gold_leaf",
        "needle_mass",
        "moss",
        "shadow",
        "moon_mark",
        "sand_shade",
        "seal",
        "seal_mark",
        "meadow",
        "water",
        "sea",
        "snowfall",
        "plume",
        "lantern_glow",
        "glass",
        "hair",
        "crow",
    }
)


def outlines(shape: Shape, width: float) -> Shape:
    """The contours of a shape's fills as strokes."""
    closed = tuple(Stroke(np.concatenate([one, one[:1]]), width, width) for one in shape.fills)
    return Shape(shape.material, strokes=closed, rough=shape.rough, soft=0.0)


def note_strokes(painting: Painting, mask: Floats, window: Window, shape: Shape) -> None:
    """Records the direction and fineness of brush strokes on a shape."""
    material = MATERIALS[shape.material]
    if material.finish == "air":
        return
    if shape.lean is not None:
        angle: Floats | float = shape.lean
    elif material.lean == "level":
        angle = 0.5 * (painting.low[window] - 0.5)
    elif material.lean == "upright":
        angle = np.pi / 2 + 0.5 * (painting.low[window] - 0.5)
    elif material.lean == "around" and min(mask.shape) > 1:
        down, across = np.gradient(mask.astype(np.float32))
        angle = np.arctan2(across, -down)
    else:
        angle = np.pi * 2.2 * (painting.low[window] - 0.5)
    painting.lay(mask, window, angle, material.detail, material.finish == "sky")
