"""Drawn outlines filled with graded colour: 工笔 fine brush, 青绿 blue and green, 青花 blue on porcelain."""

# numpy's arrays are only partly typed.
# pyright: reportUnknownArgumentType=false, reportUnknownVariableType=false

from __future__ import annotations

import math

import numpy as np

from bimo.xiaomo.chance import Floats
from bimo.xiaomo.scenes.brush import Painting, blurred
from bimo.xiaomo.scenes.description import Layout, Mood, Shape
from bimo.xiaomo.scenes.palette import MATERIALS, Material
from bimo.xiaomo.scenes.styles.style import LUMINANCE, UNDRAWN, Style, outlines
from bimo.xiaomo.scenes.styles.washes import finish_scroll, paint_wash

MANY = 90  # shapes with more outlines are not contoured one by one
COBALT = np.array([[0.06, 0.13, 0.42], [0.20, 0.36, 0.70], [0.62, 0.74, 0.90], [0.945, 0.965, 0.975]], np.float32)
AZURITE = np.array([0.13, 0.36, 0.56], np.float32)
MALACHITE = np.array([0.30, 0.58, 0.44], np.float32)
OCHRE = np.array([0.78, 0.60, 0.36], np.float32)
GOLD = np.array([0.86, 0.68, 0.30], np.float32)
HILLS = frozenset({"ridge", "peak", "rock", "ground", "meadow", "sand", "bank", "terrace"})


def grade_gongbi(colour: Floats, material: Material, mood: Mood) -> Floats:
    """Elegant, a little faded, on silk."""
    grey = float(colour @ LUMINANCE)
    share = 0.06 if material.accent else 0.20
    return (colour * (1 - share) + grey * share) * np.array([1.0, 0.985, 0.94], np.float32) * 0.98 + 0.015


def grade_qinglu(colour: Floats, material: Material, mood: Mood) -> Floats:
    """Azurite, malachite and ochre: greens and blues become mineral pigments."""
    if material.accent or material.finish == "glow":
        return colour
    grey = float(colour @ LUMINANCE)
    if grey > 0.82 and material.finish == "body":
        return colour * np.array([1.0, 0.97, 0.9], np.float32)
    warm = float(colour[0] - colour[2])
    mineral = OCHRE if warm > 0.16 else (MALACHITE if colour[1] > colour[2] + 0.04 else AZURITE)
    tinted = mineral * (0.35 + 1.1 * grey)
    if material.finish in ("sky", "air"):
        return colour * 0.55 + 0.45 * np.array([0.80, 0.66, 0.42], np.float32)
    return colour * 0.42 + tinted * 0.58


def grade_porcelain(colour: Floats, material: Material, mood: Mood) -> Floats:
    """Cobalt blue from dark to pale."""
    grey = float(np.clip(colour @ LUMINANCE, 0, 1)) ** 0.8
    if material.finish == "sky":
        grey = 0.35 + 0.65 * grey
    place = grey * (len(COBALT) - 1)
    step = min(int(place), len(COBALT) - 2)
    return COBALT[step] * (1 - (place - step)) + COBALT[step + 1] * (place - step)


def paint_lines(painting: Painting, shape: Shape, style: Style, mood: Mood) -> None:
    """Paints a shape: filled with a gradient from its rim, and outlined."""
    material = MATERIALS[shape.material]
    finish = material.finish
    if finish in ("sky", "air", "glow") or shape.mirror or (finish == "water" and style.name != "porcelain"):
        paint_wash(painting, shape, style, mood)
        return
    soft = 0.5 if finish in ("wash", "body") else 0.3
    found = painting.mask(shape, style.rough * (0.6 if finish == "line" else 1.0), soft)
    if found is None:
        return
    mask, window = found
    colour = style.colours(painting, mask, shape, mood)
    if style.name == "qinglu" and shape.material in HILLS and shape.material != "sand":
        colour = _mineral(painting, mask, shape, mood)
    if finish == "line":
        painting.cover(np.clip(mask * shape.strength, 0, 1), window, colour * 0.92, 0.05)
        return
    strength = min(1.0, shape.strength * (0.92 if finish == "body" else 0.80))
    if shape.fade:
        least = 0.04 if shape.material == "peak" else 0.3
        strength = strength * (least + (1 - least) * painting.fading(mask, window, shape.fade * 1.5))
    if shape.soft > 3:
        painting.glaze(mask * strength, window, colour, 0.8, 0.0, 0.2)
        return
    inner = blurred(mask, 3.0 * painting.scale) * mask
    shaded = colour * (0.80 + 0.24 * inner[..., None]) if mask.size > 80 else colour
    painting.cover(mask * strength, window, shaded, 0.10)
    if style.line and shape.fills and len(shape.fills) <= MANY and shape.material not in UNDRAWN:
        _contour(painting, shape, style, mood)


def _mineral(painting: Painting, mask: Floats, shape: Shape, mood: Mood) -> Floats:
    """A hill of blue and green: azurite on its heights, then malachite, bare silk at its foot."""
    share = painting.gradient(mask, False)[..., None]
    far = shape.depth * 0.55
    upper = AZURITE if shape.material in ("ridge", "peak", "rock") else MALACHITE
    middle, lower = MALACHITE, OCHRE * 1.08
    colour = np.where(
        share < 0.5, upper * (1 - share * 2) + middle * share * 2, middle * (2 - share * 2) + lower * (share * 2 - 1)
    )
    colour = colour * (1 - far) + far * np.array([0.74, 0.70, 0.56], np.float32)
    dim = {"night": 0.62, "dusk": 0.9}.get(mood.light, 1.0)
    if mood.white:
        colour = colour * 0.62 + 0.38 * np.array([0.95, 0.95, 0.93], np.float32) * (1 - 0.5 * share)
    return (colour * dim).astype(np.float32)


def _contour(painting: Painting, shape: Shape, style: Style, mood: Mood) -> None:
    found = painting.mask(outlines(shape, style.line), style.rough, 0.25)
    if found is None:
        return
    mask, window = found
    strength = (0.9 - 0.55 * shape.depth) * (0.75 if shape.depth else 1.0)
    if style.name == "porcelain":
        painting.cover(mask * strength, window, COBALT[0], 0.05)
    elif style.name == "qinglu" and shape.material in HILLS:
        painting.cover(mask * strength, window, GOLD if mood.light != "night" else GOLD * 0.8, 0.05)
    else:
        tone = style.colour(shape.material, shape, mood, shape.tint) * 0.34
        painting.cover(mask * strength, window, tone, 0.05)


def finish_porcelain(painting: Painting, style: Style, mood: Mood, layout: Layout) -> None:
    """A plate or a tile: rings or lines around the picture with a scroll of waves, and the gloss of the glaze."""
    side = painting.side
    plate = painting.chance.fork("porcelain").chance(0.5)
    x, y = painting.x - 0.5, painting.y - 0.5
    reach = np.hypot(x, y) if plate else np.maximum(np.abs(x), np.abs(y))
    turn = np.arctan2(y, x)
    outer, inner = (0.485, 0.425) if plate else (0.48, 0.43)
    glaze = np.array([0.94, 0.96, 0.97], np.float32)
    pixels = np.where((reach > inner)[..., None], glaze, painting.pixels)
    along: Floats = turn * 24 if plate else np.where(np.abs(x) > np.abs(y), y, x) * math.tau * 14
    middle = (outer + inner) / 2 + 0.010 * np.sin(along)
    rings = np.zeros((side, side), np.float32)
    for level, width in ((outer, 0.0032), (outer - 0.011, 0.0018), (inner, 0.0032), (inner + 0.010, 0.0018)):
        rings = np.maximum(rings, np.clip(1.5 - np.abs(reach - level) / width, 0, 1))
    rings = np.maximum(rings, np.clip(1.5 - np.abs(reach - middle) / 0.0045, 0, 1) * 0.85)
    pixels = pixels * (1 - rings[..., None]) + COBALT[1] * rings[..., None] * 0.9 + 0.1 * rings[..., None] * pixels
    if plate:
        outside = np.clip((reach - 0.493) * side / 1.2, 0, 1)[..., None]
        table = np.array([0.80, 0.82, 0.83], np.float32) * (1 - 0.10 * painting.y[..., None])
        pixels = pixels * (1 - outside) + table * outside
    gloss = np.exp(-(((painting.x - 0.3) / 0.35) ** 2) - ((painting.y - 0.22) / 0.22) ** 2)[..., None] * 0.10
    painting.pixels = np.clip(pixels + gloss * (1 - pixels), 0, 1).astype(np.float32)


GONGBI = Style(
    "gongbi",
    (236, 222, 190),
    grade_gongbi,
    paint_lines,
    finish_scroll,
    tooth=0.03,
    light=0.5,
    sky={"day": 0.30, "dawn": 0.42, "dusk": 0.50, "night": 0.66},
    rough=0.28,
    soft=0.5,
    rim=0.25,
    mottle=0.2,
    line=1 / 330,
)
QINGLU = Style(
    "qinglu",
    (214, 182, 126),
    grade_qinglu,
    paint_lines,
    finish_scroll,
    tooth=0.07,
    light=0.42,
    sky={"day": 0.22, "dawn": 0.32, "dusk": 0.42, "night": 0.62},
    rough=0.35,
    soft=0.5,
    rim=0.3,
    mottle=0.3,
    line=1 / 300,
)
PORCELAIN = Style(
    "porcelain",
    (241, 246, 248),
    grade_porcelain,
    paint_lines,
    finish_porcelain,
    tooth=0.012,
    light=0.3,
    sky={"day": 0.16, "dawn": 0.24, "dusk": 0.34, "night": 0.66},
    rough=0.4,
    soft=0.5,
    rim=0.5,
    mottle=0.4,
    line=1 / 240,
)
