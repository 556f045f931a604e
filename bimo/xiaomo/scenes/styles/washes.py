"""Transparent paint on paper: 水墨 ink, 国画 ink with colour, 水彩 watercolour."""

from __future__ import annotations

import numpy as np

from bimo.xiaomo.chance import Floats
from bimo.xiaomo.scenes.brush import Painting, blurred, noise
from bimo.xiaomo.scenes.description import Layout, Mood, Shape
from bimo.xiaomo.scenes.palette import MATERIALS, Material
from bimo.xiaomo.scenes.styles.style import FLAT, LUMINANCE, Style

#: The density of transparent paint by finish.
DENSITY = {"wash": 0.86, "line": 1.0, "sky": 1.0, "water": 0.8}
LINE_SOFT = 0.35


def grade_ink(colour: Floats, material: Material, mood: Mood) -> Floats:
    """Shades of ink; reds and golds keep some of their colour."""
    grey = float(colour @ LUMINANCE)
    shade = np.float32(grey**1.12) * np.array([1.0, 0.985, 0.955], np.float32)
    if not material.accent:
        return shade
    return 0.42 * shade + 0.58 * (0.85 * colour + 0.15 * grey)


def grade_colour(colour: Floats, material: Material, mood: Mood) -> Floats:
    """Diluted mineral and plant colours, muted except for accents."""
    grey = float(colour @ LUMINANCE)
    share = 0.14 if material.accent else 0.34
    return (colour * (1 - share) + grey * share) * np.array([1.0, 0.99, 0.965], np.float32)


def grade_watercolour(colour: Floats, material: Material, mood: Mood) -> Floats:
    """Clear colours."""
    grey = float(colour @ LUMINANCE)
    return np.clip(grey + (colour - grey) * 1.18, 0, 1) ** np.float32(0.92)


def paint_wash(painting: Painting, shape: Shape, style: Style, mood: Mood) -> None:
    """Paints a shape transparently; below bodies the paper is covered first, so that walls hide hills behind them."""
    material = MATERIALS[shape.material]
    finish = material.finish
    soft = {"line": LINE_SOFT, "body": 0.5, "glow": 0.8, "air": 1.0}.get(finish, style.soft)
    rough = style.rough * {"body": 0.55, "line": 0.7, "glow": 0.1}.get(finish, 1.0)
    found = painting.mask(shape, rough, soft)
    if found is None:
        return
    mask, window = found
    if shape.fade:
        mask = mask * painting.fading(mask, window, shape.fade)
    colour = style.colours(painting, mask, shape, mood)
    if finish == "sky":
        _paint_sky(painting, mask, window, colour, style, mood)
    elif finish == "air":
        veil = mask * shape.strength
        if material.detail < 0.5:
            veil = veil * np.clip(0.55 + 0.9 * painting.low[window], 0, 1)
        painting.cover(np.clip(veil, 0, 1), window, _veiled(painting, colour, style, mood), 0.0)
    elif finish == "glow":
        _paint_glow(painting, mask, window, colour, shape)
    elif finish == "body" and not shape.mirror:
        painting.cover(mask * min(1.0, shape.strength), window, colour, 0.10)
        _shade(painting, mask, window, colour, style)
    else:
        density = DENSITY.get(finish, 0.9) * shape.strength
        if shape.material in FLAT:
            density *= style.ground
        if finish == "water":
            density *= 0.35 + 0.65 * style.sky[mood.light]
            mask = mask * np.clip(0.55 + 0.9 * painting.streak[window], 0.2, 1.1)
        if finish == "line":
            mask = mask * np.clip(1.25 - 0.5 * painting.grain[window], 0, 1)
        painting.glaze(mask, window, colour, density, style.rim if finish == "wash" else 0.0, style.mottle)


def _veiled(painting: Painting, colour: Floats, style: Style, mood: Mood) -> Floats:
    """The colour of mist: that of the paper below the paint of the sky."""
    share = style.sky[mood.light]
    return painting.paper * (1 - share) * (0.8 if mood.light == "night" else 1.0) + colour * share


def _paint_sky(
    painting: Painting, mask: Floats, window: tuple[slice, slice], colour: Floats, style: Style, mood: Mood
) -> None:
    clouds = 0.62 + 0.76 * (painting.low[window] - 0.1)
    painting.glaze(mask * np.clip(clouds, 0, 1.15), window, colour, style.sky[mood.light], 0.0, 0.2)


def _paint_glow(painting: Painting, mask: Floats, window: tuple[slice, slice], colour: Floats, shape: Shape) -> None:
    """A light source: an opaque disc with a halo."""
    left, top, right, bottom = shape.box
    reach = max(right - left, bottom - top)
    if shape.fills and reach > 0.05:
        x, y = (left + right) / 2, (top + bottom) / 2
        far = np.hypot(painting.x - x, painting.y - y) / reach
        halo = (np.exp(-((far / 1.05) ** 2)) * 0.42 * shape.strength).astype(np.float32)
        painting.light_up(halo, painting.whole_window(), colour)
    painting.cover(np.clip(mask * shape.strength, 0, 1), window, colour, 0.05)


def _shade(painting: Painting, mask: Floats, window: tuple[slice, slice], colour: Floats, style: Style) -> None:
    """A darker rim where the paint of a body pools."""
    if mask.size < 60:
        return
    rim = np.clip(mask - blurred(mask, 2.2 * painting.scale), 0, 1) * style.rim
    painting.glaze(rim, window, np.clip(colour * 0.55, 0, 1), 0.9, 0.0, style.mottle)


def finish_scroll(painting: Painting, style: Style, mood: Mood, layout: Layout) -> None:
    """Old paper, slightly darker towards its edges."""
    edge = np.maximum(np.abs(painting.x - 0.5), np.abs(painting.y - 0.5)) * 2
    painting.pixels *= (1 - 0.05 * np.clip(edge, 0, 1)[..., None] ** 4).astype(np.float32)


def finish_watercolour(painting: Painting, style: Style, mood: Mood, layout: Layout) -> None:
    """Watercolour effects: drifting colours, blooms with a rim, granulation, and a white border."""
    chance, side = painting.chance.fork("watercolour"), painting.side
    drift = np.stack([noise(chance, side, 4, 2) for _ in range(3)], 2) - 0.5
    pixels = painting.pixels * (1 + 0.17 * drift)
    for _ in range(chance.integer(2, 4)):
        x, y, reach = chance.uniform(), chance.uniform(), chance.uniform(0.05, 0.13)
        far = np.hypot(painting.x - x, painting.y - y) / reach + 0.9 * (painting.low - 0.5)
        bloom = np.exp(-((far / 0.75) ** 2)) * 0.16 - 0.10 * np.exp(-(((far - 1) / 0.09) ** 2))
        pixels = pixels + bloom[..., None].astype(np.float32) * (1 - pixels) * pixels.mean(2, keepdims=True) * 1.6
    depth = (1 - pixels.mean(2, keepdims=True)) * 0.14
    pixels = pixels * (1 - depth * (painting.grain[..., None] - 0.5) * 2)
    ragged = np.minimum(np.minimum(painting.x, 1 - painting.x), np.minimum(painting.y, 1 - painting.y))
    margin = 0.018 + 0.055 * (noise(chance, side, 7, 4) - 0.35)
    inside = np.clip((ragged - margin) * 70, 0, 1)[..., None].astype(np.float32)
    painting.pixels = np.clip(pixels * inside + painting.paper * (1 - inside), 0, 1).astype(np.float32)


INK = Style(
    "ink",
    (244, 239, 226),
    grade_ink,
    paint_wash,
    finish_scroll,
    tooth=0.028,
    light=0.34,
    sky={"day": 0.12, "dawn": 0.16, "dusk": 0.30, "night": 0.60},
    rough=0.75,
    soft=0.8,
    rim=0.55,
    mottle=0.55,
    ground=0.42,
)
COLOUR = Style(
    "colour",
    (246, 239, 222),
    grade_colour,
    paint_wash,
    finish_scroll,
    tooth=0.028,
    light=0.52,
    sky={"day": 0.26, "dawn": 0.42, "dusk": 0.52, "night": 0.70},
    rough=0.65,
    soft=0.8,
    rim=0.5,
    mottle=0.45,
    ground=0.62,
)
WATERCOLOUR = Style(
    "watercolour",
    (253, 252, 247),
    grade_watercolour,
    paint_wash,
    finish_watercolour,
    tooth=0.035,
    light=0.9,
    sky={"day": 0.8, "dawn": 0.85, "dusk": 0.9, "night": 0.97},
    rough=0.8,
    soft=0.7,
    rim=0.8,
    mottle=0.6,
)
