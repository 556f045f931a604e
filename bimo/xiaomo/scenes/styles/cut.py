"""剪纸: paper cut-outs. Every shape is a sheet of one red, and a gap of the ground is left around it."""

# numpy's arrays are only partly typed.
# pyright: reportUnknownArgumentType=false, reportUnknownVariableType=false

from __future__ import annotations

import numpy as np
from PIL import Image, ImageFilter

from bimo.xiaomo.chance import Floats
from bimo.xiaomo.scenes.brush import Painting, blurred
from bimo.xiaomo.scenes.description import Layout, Mood, Shape
from bimo.xiaomo.scenes.geometry import as_bytes
from bimo.xiaomo.scenes.palette import MATERIALS, Material
from bimo.xiaomo.scenes.styles.style import FLAT, LUMINANCE, Style

GROUND = {
    "day": (0.975, 0.945, 0.88),
    "dawn": (0.985, 0.92, 0.84),
    "dusk": (0.975, 0.84, 0.62),
    "night": (0.13, 0.15, 0.30),
}
REDS = ((0.62, 0.05, 0.10), (0.79, 0.11, 0.13), (0.88, 0.33, 0.27), (0.93, 0.60, 0.48))
GOLD = np.array([0.94, 0.72, 0.28], np.float32)
GOLDEN = frozenset(
    {
        "lamp",
        "window",
        "glass",
        "sun",
        "moon",
        "star",
        "gold",
        "gold_roof",
        "gold_edge",
        "dragon_gold",
        "firework_gold",
        "glitter",
        "stamen",
        "chrysanthemum",
        "lantern_glow",
        "neon",
    }
)
ABSENT = frozenset({"mist", "moon_mark", "shadow", "smoke", "cloud", "sand_shade", "ridge_low"})
#: Materials of lines that are cut out of the sheet below; all other lines are strips of paper.
CUT_OUT = frozenset(
    {
        "stone_line",
        "eave",
        "brick_line",
        "vein",
        "robe_line",
        "cun",
        "gold_edge",
        "marble_low",
        "bark",
        "terrace_edge",
        "snowfall",
        "foam",
        "moss",
        "plume",
        "bird_line",
    }
)
HILLS = frozenset({"ridge", "peak", "sand", "rock", "bank", "terrace", "needle_mass"})


def grade_cut(colour: Floats, material: Material, mood: Mood) -> Floats:
    """A red by the brightness of the natural colour."""
    grey = float(np.clip(colour @ LUMINANCE, 0, 0.999))
    place = grey * (len(REDS) - 1)
    step = int(place)
    reds = np.array(REDS, np.float32)
    return reds[step] * (1 - (place - step)) + reds[step + 1] * (place - step)


def paint_cut(painting: Painting, shape: Shape, style: Style, mood: Mood) -> None:
    """Paints a shape as a sheet of paper: no mist, no reflections, and a gap around it."""
    material = MATERIALS[shape.material]
    ground = np.array(GROUND[mood.light], np.float32)
    if material.finish == "sky":
        painting.cover(np.ones_like(painting.low), painting.whole_window(), ground, 0.02)
        return
    if shape.mirror or shape.soft > 3 or shape.material in ABSENT:
        return
    drawn = material.finish == "line" or bool(shape.strokes)
    found = painting.mask(shape, 0.25, 0.35, grow=0.0022 if drawn else 0.0)
    if found is None:
        return
    mask, window = found
    if not drawn and mask.size > 400 and material.finish in ("wash", "body"):
        wide = Image.fromarray(as_bytes(mask)).filter(ImageFilter.MaxFilter(5))
        painting.cover(blurred(np.asarray(wide, np.float32) / 255, 0.5), window, ground, 0.0)
    painting.cover(np.clip(mask, 0, 1), window, _paper(shape, material, style, mood, ground), 0.04)


def _paper(shape: Shape, material: Material, style: Style, mood: Mood, ground: Floats) -> Floats:
    """The colour of a shape's sheet; lines on an object have the colour of the background."""
    reds = np.array(REDS, np.float32)
    if shape.material in GOLDEN:
        return GOLD
    if shape.material in CUT_OUT:
        return ground
    if shape.material in FLAT:
        share = 0.16 if material.finish == "water" else 0.34
        return ground * (1 - share) + reds[2] * share
    if shape.material in HILLS:
        share = 0.35 + 0.5 * (1 - shape.depth)
        return ground * (1 - share) + reds[2] * share
    if material.finish in ("line", "air"):
        return reds[1] if mood.light != "night" else reds[2]
    return style.colour(shape.material, shape, mood, shape.tint)


def finish_cut(painting: Painting, style: Style, mood: Mood, layout: Layout) -> None:
    """A cut frame around the picture."""
    ground = np.array(GROUND[mood.light], np.float32)
    reach = np.maximum(np.abs(painting.x - 0.5), np.abs(painting.y - 0.5))
    frame = np.clip((reach - 0.468) * painting.side, 0, 1)[..., None]
    gap = np.clip((reach - 0.458) * painting.side, 0, 1)[..., None] * (1 - frame)
    painting.pixels = painting.pixels * (1 - gap) + ground * gap
    along: Floats = np.where(np.abs(painting.x - 0.5) > np.abs(painting.y - 0.5), painting.y, painting.x)
    teeth = (np.abs((along * 20) % 1 - 0.5) < 0.26) & (reach > 0.476) & (reach < 0.488)
    red = np.where(teeth[..., None], ground, np.array(REDS[1], np.float32))
    painting.pixels = (painting.pixels * (1 - frame) + red * frame).astype(np.float32)


CUT = Style("papercut", (248, 241, 225), grade_cut, paint_cut, finish_cut, tooth=0.03, light=0.0, rough=0.2, mottle=0.1)
