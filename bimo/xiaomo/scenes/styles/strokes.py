"""Thick paint in strokes that follow the form: 油画 oil, and the style of Van Gogh."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image, ImageDraw

from bimo.xiaomo.chance import Floats
from bimo.xiaomo.scenes.brush import Painting, blurred, noise
from bimo.xiaomo.scenes.description import Layout, Mood, Shape
from bimo.xiaomo.scenes.geometry import as_bytes
from bimo.xiaomo.scenes.palette import MATERIALS, Material
from bimo.xiaomo.scenes.styles.style import LUMINANCE, UNDRAWN, Style, note_strokes, outlines
from bimo.xiaomo.scenes.styles.washes import paint_wash

#: Materials that are painted over the strokes.
FALLING = frozenset({"snowfall", "rainfall"})


@dataclass(frozen=True)
class Layer:
    """A layer of strokes: their width and length (fractions of the side), their number, and the least detail of pixels
    that get them.
    """

    width: float
    length: float
    count: int
    least: float


OIL_LAYERS = (Layer(0.034, 0.060, 900, 0.0), Layer(0.018, 0.036, 2200, 0.0), Layer(0.008, 0.016, 5200, 0.42))
GOGH_LAYERS = (Layer(0.026, 0.11, 900, 0.0), Layer(0.015, 0.065, 2600, 0.0), Layer(0.008, 0.024, 5200, 0.42))


def grade_oil(colour: Floats, material: Material, mood: Mood) -> Floats:
    """Full colours with deep darks."""
    grey = float(colour @ LUMINANCE)
    full = np.clip(grey + (colour - grey) * 1.22, 0, 1)
    if mood.light == "night" and material.finish != "glow":
        full = np.clip(full * 1.22 + 0.03, 0, 1)
    return np.clip((full - 0.5) * 1.10 + 0.48, 0.02, 1)


def grade_gogh(colour: Floats, material: Material, mood: Mood) -> Floats:
    """Pure colours, warm against cold; nothing is grey, and no day is pale."""
    grey = float(colour @ LUMINANCE)
    pure = np.clip(grey + (colour - grey) * 1.75, 0, 1)
    if mood.light == "night" and material.finish != "glow":
        pure = np.clip(pure * np.array([1.15, 1.25, 1.22], np.float32) + 0.02, 0, 1)
    if material.finish in ("sky", "water"):
        pure = pure * np.array([0.84, 0.94, 1.06], np.float32) if pure[2] >= pure[0] else pure
        pure = np.clip((pure - 0.5) * 1.12 + 0.44, 0, 1)
    elif float(pure.max() - pure.min()) < 0.16:
        warm = np.array([1.06, 0.98, 0.72], np.float32) if grey > 0.55 else np.array([0.80, 0.92, 1.30], np.float32)
        pure = np.clip(pure * warm, 0, 1)
    return np.clip(pure, 0.03, 1)


def paint_thick(painting: Painting, shape: Shape, style: Style, mood: Mood) -> None:
    """Paints a shape of the opaque underpainting below the strokes."""
    material = MATERIALS[shape.material]
    if shape.material in FALLING:
        painting.later.append(shape)
        return
    if material.finish in ("air", "glow") or shape.mirror:
        if shape.material == "star" and style.name == "gogh":
            halos = tuple((one - one.mean(0)) * 2.6 + one.mean(0) for one in shape.fills)
            paint_wash(painting, replace(shape, fills=halos, strength=0.45), style, mood)
        paint_wash(painting, shape, style, mood)
        if material.finish == "glow":
            _note(painting, shape, style)
        return
    found = painting.mask(shape, style.rough, 0.5)
    if found is None:
        return
    mask, window = found
    strength = min(1.0, shape.strength * (1.0 if material.finish != "wash" else 0.94))
    veil = mask * strength
    if shape.fade:
        least = 0.08 if shape.material == "peak" else 0.25
        veil = veil * (least + (1 - least) * painting.fading(mask, window, shape.fade * 1.6))
    painting.cover(veil, window, style.colours(painting, mask, shape, mood), 0.16)
    note_strokes(painting, mask, window, shape)
    if material.finish in ("body", "line") and shape.fills and len(shape.fills) <= 24 and shape.material not in UNDRAWN:
        _contour(painting, shape, style, mood)


def _contour(painting: Painting, shape: Shape, style: Style, mood: Mood) -> None:
    """The dark contour of an object, without which strokes would blur it."""
    found = painting.mask(outlines(shape, style.line), style.rough, 0.3)
    if found is not None:
        tone = style.colour(shape.material, shape, mood, shape.tint) * 0.32 + np.array([0.02, 0.03, 0.09], np.float32)
        painting.cover(found[0] * (0.85 - 0.5 * shape.depth), found[1], tone, 0.0)


def _note(painting: Painting, shape: Shape, style: Style) -> None:
    found = painting.mask(shape, 0.0, 0.3)
    if found is not None:
        note_strokes(painting, found[0], found[1], shape)


def swirls(painting: Painting, layout: Layout, turns: int) -> Floats:
    """The stroke angles of a swirling sky: around the sun or the moon, around some vortices, and level in between."""
    chance = painting.chance.fork("swirls")
    centres = [(layout.light_x, layout.light_y, 0.24, 1.0)]
    for _ in range(turns):
        centres.append(
            (chance.uniform(0.1, 0.9), chance.uniform(0.06, 0.4), chance.uniform(0.12, 0.2), chance.pick((-1.0, 1.0)))
        )
    wave = 1.5 * (noise(chance, painting.side, 3, 2) - 0.5)
    across, down = np.cos(wave) * 0.35, np.sin(wave) * 0.35
    for x, y, reach, way in centres:
        dx, dy = painting.x - x, painting.y - y
        far = np.hypot(dx, dy) + 1e-4
        pull = np.exp(-((far / reach) ** 2)) * 1.6
        across = across - way * dy / far * pull
        down = down + way * dx / far * pull
    return np.arctan2(down, across).astype(np.float32)


def restroke(painting: Painting, layers: tuple[Layer, ...], bend: float, jitter: float, ridge: float) -> Image.Image:
    """Paints strokes along `painting.angle` over the underpainting; `ridge` is the contrast of their relief."""
    chance, side = painting.chance.fork("strokes"), painting.side
    big = side * 2
    coat = painting.pixels
    image = Image.fromarray(as_bytes(coat)).resize((big, big), Image.Resampling.BILINEAR)
    pen = ImageDraw.Draw(image)
    detail = blurred(painting.detail, 1.0)
    for layer in layers:
        x, y = chance.array(layer.count), chance.array(layer.count)
        column, row = (x * side).astype(int), (y * side).astype(int)
        busy = detail[row, column]
        keep = busy >= layer.least
        x, y, column, row, busy = x[keep], y[keep], column[keep], row[keep], busy[keep]
        count = len(x)
        shrink = 1 - 0.6 * busy if layer.least == 0 else np.ones(count, np.float32)
        length = layer.length * shrink * chance.spread(0.6, 1.15, count)
        paths = _follow(painting, x, y, length, bend * chance.bell(0.12, count))
        tone = coat[row, column]
        tone = tone * (1 + jitter * chance.bell(1, count, 1)) + 0.5 * jitter * chance.bell(1, count, 3)
        _draw_strokes(pen, paths * big, tone, np.maximum(2.0, layer.width * shrink * big), ridge)
    return image


def _follow(painting: Painting, x: Floats, y: Floats, length: Floats, drift: Floats) -> Floats:
    """Paths of five points through (x, y) along the angle: [strokes x 5 x 2], in unit coordinates."""
    side, steps = painting.side, 2
    halves: list[list[Floats]] = []
    for way in (-1.0, 1.0):
        px, py = x.copy(), y.copy()
        points: list[Floats] = []
        heading = None
        for _ in range(steps):
            column = np.clip((px * side).astype(int), 0, side - 1)
            row = np.clip((py * side).astype(int), 0, side - 1)
            angle = painting.angle[row, column] + drift
            dx, dy = np.cos(angle) * way, np.sin(angle) * way
            if heading is not None:  # an outline's angle may jump by half a turn
                turn = np.sign(dx * heading[0] + dy * heading[1])
                dx, dy = np.where(turn < 0, -dx, dx), np.where(turn < 0, -dy, dy)
            heading = (dx, dy)
            px, py = px + dx * length / (2 * steps), py + dy * length / (2 * steps)
            points.append(np.stack([px, py], 1))
        halves.append(points)
    return np.stack([*halves[0][::-1], np.stack([x, y], 1), *halves[1]], 1)


def _draw_strokes(pen: ImageDraw.ImageDraw, paths: Floats, tone: Floats, width: Floats, ridge: float) -> None:
    colours = as_bytes(tone)
    light = as_bytes(tone * (1 + ridge) + 0.12 * ridge)
    dark = as_bytes(tone * (1 - 0.8 * ridge))
    offset = np.array([0.28, 0.34], np.float32) * width[:, None, None]
    lists = (
        paths.reshape(len(paths), 10).tolist(),
        (paths - offset).reshape(len(paths), 10).tolist(),
        (paths + offset).reshape(len(paths), 10).tolist(),
    )
    for main, upper, lower, own, bright, deep, wide in zip(
        *lists, colours.tolist(), light.tolist(), dark.tolist(), width.tolist(), strict=True
    ):
        pen.line(main, fill=tuple(own), width=round(wide), joint="curve")
        if ridge and wide > 3:
            pen.line(lower, fill=tuple(deep), width=max(1, round(wide * 0.16)))
            pen.line(upper, fill=tuple(bright), width=max(1, round(wide * 0.22)))


def _paint_later(painting: Painting, style: Style, mood: Mood) -> None:
    for shape in painting.later:
        paint_wash(painting, shape, style, mood)


def _sharpened(painting: Painting, coat: Floats, strokes: Floats, least: float, most: float) -> Floats:
    """Blends strokes with the underpainting, most where the detail is fine."""
    share = (least + (most - least) * blurred(painting.detail, 1.5) ** 1.5)[..., None]
    return strokes * (1 - share) + coat * share


def finish_oil(painting: Painting, style: Style, mood: Mood, layout: Layout) -> None:
    """Short dabs over the underpainting, and the weave of the canvas."""
    free = painting.sky > 0.5
    painting.angle[free] = (0.9 * (painting.low - 0.5) * math.pi)[free]
    coat, image = painting.pixels, restroke(painting, OIL_LAYERS, 1.6, 0.045, 0.05)
    weave = 1 + 0.018 * (np.sin(painting.x * painting.side * 1.6) * np.sin(painting.y * painting.side * 1.6))[..., None]
    pixels = _sharpened(painting, coat, np.asarray(image.reduce(2), np.float32) / 255, 0.30, 0.35)
    painting.pixels = np.clip(pixels * weave, 0, 1).astype(np.float32)
    _paint_later(painting, style, mood)


def finish_gogh(painting: Painting, style: Style, mood: Mood, layout: Layout) -> None:
    """Long strokes that swirl in the sky and follow every form, in pairs of colours."""
    free = painting.sky > 0.5
    painting.angle[free] = swirls(painting, layout, 2)[free]
    rings = np.hypot(painting.x - layout.light_x, painting.y - layout.light_y)
    bands = 0.055 * np.sin(rings * 62) * np.exp(-((rings / 0.26) ** 2)) + 0.07 * np.sin(
        (painting.low * 5 + painting.y * 3) * math.tau
    )
    tint = np.array([0.75, 0.95, 1.3], np.float32)
    painting.pixels = np.clip(painting.pixels + (bands * free)[..., None].astype(np.float32) * tint, 0, 1)
    coat, image = painting.pixels, restroke(painting, GOGH_LAYERS, 1.0, 0.075, 0.24)
    painting.pixels = _sharpened(painting, coat, np.asarray(image.reduce(2), np.float32) / 255, 0.08, 0.42)
    _paint_later(painting, style, mood)


OIL = Style(
    "oil",
    (196, 182, 156),
    grade_oil,
    paint_thick,
    finish_oil,
    tooth=0.03,
    light=1.0,
    rough=0.4,
    soft=0.6,
    rim=0.2,
    mottle=0.3,
    line=1 / 260,
)
GOGH = Style(
    "gogh",
    (206, 188, 132),
    grade_gogh,
    paint_thick,
    finish_gogh,
    tooth=0.03,
    light=0.74,
    rough=0.5,
    soft=0.6,
    rim=0.2,
    mottle=0.3,
    line=1 / 190,
)
