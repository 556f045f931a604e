"""插画: illustration with clean edges. Bodies are shaded as if lit from the upper left."""

from __future__ import annotations

import numpy as np

from bimo.xiaomo.chance import Floats
from bimo.xiaomo.scenes.brush import Painting, Window, blurred
from bimo.xiaomo.scenes.description import Layout, Mood, Shape
from bimo.xiaomo.scenes.palette import MATERIALS, Material
from bimo.xiaomo.scenes.styles.style import LUMINANCE, Style
from bimo.xiaomo.scenes.styles.washes import paint_wash


def grade_clear(colour: Floats, material: Material, mood: Mood) -> Floats:
    """Fresh colours."""
    grey = float(colour @ LUMINANCE)
    return np.clip(grey + (colour - grey) * 1.12, 0, 1)


def paint_clear(painting: Painting, shape: Shape, style: Style, mood: Mood) -> None:
    """Paints a shape: opaque, and shaded if it is a body."""
    material = MATERIALS[shape.material]
    if material.finish in ("air", "glow") or shape.mirror or shape.soft > 1.5:
        paint_wash(painting, shape, style, mood)
        return
    found = painting.mask(shape, style.rough * (0.4 if material.finish == "body" else 1.0), 0.35)
    if found is None:
        return
    mask, window = found
    veil = mask * min(1.0, shape.strength)
    if shape.fade:
        least = 0.05 if shape.material == "peak" else 0.3
        veil = veil * (least + (1 - least) * painting.fading(mask, window, shape.fade * 1.6))
    colour = style.colours(painting, mask, shape, mood)
    if material.finish == "body" and min(mask.shape) > 1:
        colour = _modelled(painting, mask, window, colour)
    painting.cover(veil, window, colour, 0.05 if material.finish != "body" else 0.03)


def _modelled(painting: Painting, mask: Floats, window: Window, colour: Floats) -> Floats:
    """Shades a colour under light from the upper left, with the blurred mask as height map."""
    height = mask.shape[0] / painting.scale
    radius = min(4.5, max(1.2, height * 0.10)) * painting.scale
    hill = blurred(mask, radius)
    down, across = np.gradient(hill)
    light: Floats = np.expand_dims((0.6 * across + 0.8 * down) * radius, 2)
    shade = 1 + np.clip(light, -0.5, 0.5) * 0.9
    gloss = np.clip(light - 0.16, 0, 1) * 0.5
    return np.clip(colour * shade + gloss, 0, 1)


def finish_clear(painting: Painting, style: Style, mood: Mood, layout: Layout) -> None:
    """Does nothing."""


CLEAR = Style(
    "illustration",
    (246, 242, 234),
    grade_clear,
    paint_clear,
    finish_clear,
    tooth=0.008,
    light=0.95,
    rough=0.25,
    soft=0.5,
    rim=0.1,
    mottle=0.1,
)
