"""Eight effects on a sprite on the canvas: watercolour, ink, sketch, oil, pixel, paper-cut, neon, porcelain.

Each maps a posed sprite (RGBA, square) to an RGB canvas of its size; stroke widths are in pixels. Papers, grains and
warps are the same for every canvas, so that a canvas has no variation outside of its labels.
"""

# numpy's arrays are typed in part; what crosses it here is named where it is used.
# pyright: reportUnknownArgumentType=false, reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

Array = NDArray[np.floating[Any]]
LUMA = np.array([0.299, 0.587, 0.114], np.float32)


def _array(image: Image.Image) -> Array:
    return np.asarray(image, np.float32) / 255


def _picture(array: Array) -> Image.Image:
    return Image.fromarray(np.round(np.clip(array, 0, 1) * 255).astype(np.uint8))


def _blur(plane: Array, radius: float) -> Array:
    """[H, W] in 0..1, blurred with a Gaussian of `radius` pixels."""
    return _array(_picture(plane).filter(ImageFilter.GaussianBlur(radius)))


def _smooth(value: Array, low: float, high: float) -> Array:
    edge = np.clip((value - low) / (high - low), 0, 1)
    return (edge * edge * (3 - 2 * edge)).astype(np.float32)


@lru_cache(maxsize=32)
def _noise(side: int, seed: int, cells: int) -> Array:
    """[side, side] smooth fixed noise in 0..1 of about `cells` bumps a side."""
    grid = np.random.default_rng(seed).random((cells, cells)).astype(np.float32)
    return _array(_picture(grid).resize((side, side), Image.Resampling.BICUBIC))


@lru_cache(maxsize=4)
def _warp_map(side: int, amount: float) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Rows and columns [side, side] that a hand-drawn edge reads from; `amount` in pixels."""
    rows, columns = np.mgrid[0:side, 0:side]
    down = (_noise(side, 11, 16) - 0.5) * 2 * amount
    across = (_noise(side, 12, 16) - 0.5) * 2 * amount
    return (
        np.clip(np.round(rows + down), 0, side - 1).astype(np.intp),
        np.clip(np.round(columns + across), 0, side - 1).astype(np.intp),
    )


def _warp(array: Array, amount: float) -> Array:
    return array[_warp_map(array.shape[0], amount)]


def _split(image: Image.Image) -> tuple[Array, Array, Array]:
    """Colour [H, W, 3] over white, alpha [H, W], luminance over white [H, W]."""
    array = _array(image)
    alpha = array[..., 3]
    colour = array[..., :3] * alpha[..., None] + 1 - alpha[..., None]
    return colour, alpha, colour @ LUMA


def _edges(plane: Array) -> Array:
    """[H, W] strength of edges by central differences."""
    down = np.zeros_like(plane)
    across = np.zeros_like(plane)
    down[1:-1] = plane[2:] - plane[:-2]
    across[:, 1:-1] = plane[:, 2:] - plane[:, :-2]
    return np.hypot(down, across)


def _colour_edges(colour: Array) -> Array:
    return np.max(np.stack([_edges(colour[..., channel]) for channel in range(3)]), 0)


def _over(paper: Array, colour: Array, cover: Array) -> Array:
    return paper * (1 - cover[..., None]) + colour * cover[..., None]


def watercolour(image: Image.Image) -> Image.Image:
    """Washes of colour with wandering edges, pooled pigment and grain, on white paper."""
    flat = image.filter(ImageFilter.MedianFilter(5))
    colour, alpha, _ = _split(flat)
    colour, alpha = _warp(colour, 2.5), _blur(_warp(alpha, 2.5), 0.9)
    colour = np.stack([_blur(colour[..., channel], 1.0) for channel in range(3)], -1)
    wash = 0.62 + 0.5 * (_noise(image.width, 21, 7) - 0.5) + 0.22 * (_noise(image.width, 22, 24) - 0.5)
    grain = 0.10 * (_noise(image.width, 23, 64) - 0.5)
    rim = np.clip(alpha * (1 - _blur(alpha, 3.0)) * 2.2, 0, 1) + 0.5 * _smooth(_colour_edges(colour), 0.05, 0.4)
    density = np.clip(wash + grain + 0.75 * rim, 0.3, 1.25)
    pigment = np.clip(1 - (1 - colour) * density[..., None] * 0.98, 0, 1)
    paper = np.ones_like(pigment) * np.array([0.992, 0.988, 0.972], np.float32)
    paper = paper + 0.02 * (_noise(image.width, 24, 64)[..., None] - 0.5)
    bleed = 0.16 * _blur(alpha, 5.0) * (1 - alpha)
    paper = paper * (1 - bleed[..., None] * (1 - np.stack([_blur(colour[..., c], 5.0) for c in range(3)], -1)))
    return _picture(_over(paper, pigment, alpha))


def ink(image: Image.Image) -> Image.Image:
    """Grey washes and dark strokes on rice paper, with a small red seal at the lower right."""
    colour, alpha, light = _split(image.filter(ImageFilter.MedianFilter(3)))
    light, alpha, strokes = _warp(light, 2.0), _warp(alpha, 2.0), _warp(_colour_edges(colour), 2.0)
    inside = light[alpha > 0.5]
    low, high = (np.percentile(inside, 5), np.percentile(inside, 95)) if inside.size else (0.0, 1.0)
    dark = 1 - np.clip((light - low) / max(high - low, 0.15), 0, 1)
    wash = _blur((0.10 + 0.62 * dark**1.4) * alpha, 1.6) * (0.72 + 0.7 * (_noise(image.width, 31, 9) - 0.3))
    line = _smooth(_blur(strokes, 0.8) * (0.5 + 0.9 * _noise(image.width, 32, 14)), 0.06, 0.36)
    density = np.clip(np.maximum(wash, 0.92 * line) + 0.10 * _blur(alpha, 4.0) * (1 - alpha), 0, 0.95)
    paper = np.ones((image.width, image.width, 3), np.float32) * np.array([0.957, 0.933, 0.878], np.float32)
    paper += 0.035 * (_noise(image.width, 33, 60)[..., None] - 0.5) + 0.02 * (
        _noise(image.width, 34, 12)[..., None] - 0.5
    )
    drawn = _picture(_over(paper, np.ones_like(paper) * 0.09, density))
    return _seal(drawn)


def _seal(canvas: Image.Image) -> Image.Image:
    pen = ImageDraw.Draw(canvas)
    left, top, side, red, white = canvas.width - 18, canvas.width - 18, 13, (186, 34, 30), (244, 232, 214)
    pen.rounded_rectangle((left, top, left + side, top + side), 2, fill=red)
    for x in (left + 3, left + 6, left + 10):
        pen.line((x, top + 3, x, top + 10), fill=white)
    pen.line((left + 3, top + 6, left + 10, top + 6), fill=white)
    return canvas


@lru_cache(maxsize=2)
def _hatching(side: int) -> Array:
    rows, columns = np.mgrid[0:side, 0:side].astype(np.float32)
    first = 0.5 + 0.5 * np.sin((rows + columns) * 1.5 + 3 * _noise(side, 41, 10))
    second = 0.5 + 0.5 * np.sin((rows - columns) * 1.6 + 3 * _noise(side, 42, 10))
    return np.stack([first, second])


def sketch(image: Image.Image) -> Image.Image:
    """Graphite lines with hatched shadows on white paper."""
    colour, alpha, light = _split(image)
    inverted = _blur(1 - light, 2.2)
    dodge = np.clip(light / np.clip(1 - inverted, 0.05, 1), 0, 1)
    lines = np.maximum(1 - dodge, _smooth(_colour_edges(colour), 0.06, 0.45))
    lines = _warp(np.clip(lines * 1.15, 0, 1), 0.8)
    shade = _warp((1 - light) * alpha, 0.8)
    first, second = _hatching(image.width)
    hatch = 0.58 * first * _smooth(shade, 0.12, 0.75) + 0.5 * second * _smooth(shade, 0.5, 0.95)
    density = np.clip(np.maximum(0.9 * lines, 0) + hatch * alpha + 0.14 * shade, 0, 0.93)
    density = density * (0.86 + 0.28 * (_noise(image.width, 43, 90) - 0.5))
    paper = 0.985 - 0.02 * _noise(image.width, 44, 70)
    grey = paper * (1 - density) + 0.16 * density
    return _picture(np.repeat(grey[..., None], 3, -1))


def oil(image: Image.Image) -> Image.Image:
    """Short strokes of thick paint (a Kuwahara filter with a relief) on a warm canvas."""
    colour, alpha, _ = _split(image)
    warm = np.array([0.93, 0.88, 0.77], np.float32) + 0.07 * (_noise(image.width, 51, 34)[..., None] - 0.5)
    scene = _over(np.ones_like(colour) * warm, _array(image)[..., :3], alpha)
    scene = _kuwahara(_warp(scene, 1.6), 2)
    light = scene @ LUMA
    scene = np.clip(light[..., None] + (scene - light[..., None]) * 1.22, 0, 1)
    rows, columns = np.mgrid[0 : image.width, 0 : image.width].astype(np.float32)
    bristle = np.sin(rows * 1.5 + columns * 0.8 + 5 * _noise(image.width, 52, 7) + 5 * light) * 0.5 + 0.5 * (
        _noise(image.width, 53, 80) - 0.5
    )
    relief = np.zeros_like(light)
    relief[1:, 1:] = bristle[1:, 1:] - bristle[:-1, :-1]
    return _picture(scene * (1 + (0.03 + 0.04 * _blur(alpha, 1.0)[..., None]) * relief[..., None]))


def _kuwahara(scene: Array, radius: int) -> Array:
    """[H, W, 3] -> the mean of the quadrant with the least variance around each pixel."""
    size = radius + 1
    # What a type checker makes of numpy's nested widths depends on what else it has read.
    around: Any = ((radius, radius), (radius, radius), (0, 0))
    before: Any = ((1, 0), (1, 0), (0, 0))
    padded = np.pad(scene, around, mode="edge")
    stack = np.concatenate([padded, (padded @ LUMA)[..., None] ** 2], -1)
    total = np.cumsum(np.cumsum(np.pad(stack, before), 0, np.float64), 1)
    sums = total[size:, size:] - total[:-size, size:] - total[size:, :-size] + total[:-size, :-size]
    means = (sums / size**2).astype(np.float32)
    variance = means[..., 3] - (means[..., :3] @ LUMA) ** 2
    height, width = scene.shape[:2]
    corners = [(0, 0), (0, radius), (radius, 0), (radius, radius)]
    spread = np.stack([variance[y : y + height, x : x + width] for y, x in corners])
    quarters = np.stack([means[y : y + height, x : x + width, :3] for y, x in corners])
    return np.take_along_axis(quarters, spread.argmin(0)[None, ..., None], 0)[0]


def pixel(image: Image.Image) -> Image.Image:
    """32 x 32 blocks in at most 12 colours with a dark outline, on white."""
    small = image.convert("RGBa").resize((32, 32), Image.Resampling.BOX).convert("RGBA")
    array = np.asarray(small)
    solid = array[..., 3] > 110
    few = small.convert("RGB").quantize(12, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE).convert("RGB")
    blocks = np.asarray(few).copy()
    grown = np.pad(solid, 1)
    grown = grown[:-2, 1:-1] | grown[2:, 1:-1] | grown[1:-1, :-2] | grown[1:-1, 2:]
    blocks[~solid] = 255
    blocks[grown & ~solid] = (38, 34, 48)
    return Image.fromarray(blocks).resize((image.width, image.width), Image.Resampling.NEAREST)


def papercut(image: Image.Image) -> Image.Image:
    """One sheet of red paper: light parts and inner lines are cut out, the rim stays."""
    big = image.resize((image.width * 2, image.width * 2), Image.Resampling.BICUBIC).filter(ImageFilter.MedianFilter(3))
    colour, alpha, light = _split(big)
    body = alpha > 0.5
    values = np.sort(light[body])
    middle = _otsu(values) if values.size else 0.5
    plane = _blur(light, 1.5)
    holes = (plane > middle) & body
    mask = Image.fromarray((body * 255).astype(np.uint8))
    rim = body & (np.asarray(mask.filter(ImageFilter.MinFilter(9))) < 128)
    lines = (_blur(_colour_edges(colour), 1.2) > 0.13) & ~rim
    if body.any() and (holes & ~rim).sum() > 0.62 * body.sum():
        holes = np.zeros_like(holes)
    keep = ((body & ~holes & ~lines) | rim).astype(np.float32)
    keep = _array(
        _picture(keep).filter(ImageFilter.MedianFilter(5)).resize((image.width, image.width), Image.Resampling.BOX)
    )
    shadow = np.zeros_like(keep)
    shadow[2:, 2:] = keep[:-2, :-2]
    paper = np.ones((image.width, image.width, 3), np.float32) * np.array([0.988, 0.968, 0.925], np.float32)
    paper = paper * (1 - 0.28 * _blur(shadow, 1.5)[..., None])
    red = np.array([0.80, 0.07, 0.09], np.float32) + 0.05 * (_noise(image.width, 61, 40)[..., None] - 0.5)
    return _picture(_over(paper, np.ones_like(paper) * red, keep))


def _otsu(values: Array) -> float:
    """Otsu's threshold of sorted values in 0..1."""
    counts, bounds = np.histogram(values, 32, (0, 1))
    centres = (bounds[:-1] + bounds[1:]) / 2
    weight = np.cumsum(counts)
    mass = np.cumsum(counts * centres)
    other = weight[-1] - weight
    with np.errstate(divide="ignore", invalid="ignore"):
        between = weight * other * (mass / weight - (mass[-1] - mass) / other) ** 2
    return float(bounds[1 + int(np.nanargmax(np.nan_to_num(between)))])


def neon(image: Image.Image) -> Image.Image:
    """Glowing tubes along the edges on a dark wall; grey things glow cyan."""
    colour, alpha, _ = _split(image.filter(ImageFilter.MedianFilter(3)))
    outline = _edges(_blur(alpha, 1.0))
    inner = _blur(_colour_edges(colour), 0.8) * alpha
    tube = _blur(np.clip(np.maximum(_smooth(outline, 0.12, 0.5), _smooth(inner, 0.10, 0.38)), 0, 1), 0.5)
    raw = _array(image)[..., :3]
    top, low = raw.max(-1, keepdims=True), raw.min(-1, keepdims=True)
    vivid = (raw - low) / np.clip(top - low, 0.02, 1)
    strength = _smooth(np.clip(top - low, 0, 1), 0.10, 0.30)
    hue = vivid * strength + np.array([0.15, 0.9, 1.0], np.float32) * (1 - strength)
    cover = np.clip(alpha, 0, 1)[..., None]
    spread = [_blur((hue * cover)[..., channel], 2.0) for channel in range(3)]
    hue = np.stack(spread, -1) / np.clip(_blur(cover[..., 0], 2.0), 0.05, 1)[..., None]
    hue = np.clip(hue / np.clip(hue.max(-1, keepdims=True), 0.3, 1), 0, 1)
    lit = hue * tube[..., None]
    glow = np.stack([_blur(lit[..., c], 2.5) * 0.9 + _blur(lit[..., c], 7.0) * 1.0 for c in range(3)], -1)
    core = _smooth(tube, 0.55, 1.0)[..., None] * 0.55
    wall = np.array([0.045, 0.04, 0.11], np.float32) + 0.012 * (_noise(image.width, 71, 30)[..., None] - 0.5)
    return _picture(wall + glow + lit * 0.85 + core)


def porcelain(image: Image.Image) -> Image.Image:
    """Cobalt drawing on white glaze inside a double blue ring."""
    colour, alpha, light = _split(image.filter(ImageFilter.MedianFilter(3)))
    inside = light[alpha > 0.5]
    low, high = (np.percentile(inside, 4), np.percentile(inside, 96)) if inside.size else (0.0, 1.0)
    dark = 1 - np.clip((light - low) / max(high - low, 0.15), 0, 1)
    wash = (0.16 + 0.66 * dark**1.3) * (0.82 + 0.45 * (_noise(image.width, 81, 12) - 0.4)) * _blur(alpha, 0.6)
    line = _smooth(_blur(_colour_edges(colour), 0.6), 0.07, 0.34)
    density = np.clip(np.maximum(wash, 0.96 * line), 0, 1)
    glaze = _array(_plate(image.width))
    cobalt = np.array([0.07, 0.17, 0.56], np.float32)
    return _picture(_over(glaze, np.ones_like(glaze) * cobalt, density))


@lru_cache(maxsize=2)
def _plate(size: int) -> Image.Image:
    plate = Image.new("RGB", (size * 4, size * 4), (236, 241, 246))
    pen = ImageDraw.Draw(plate)
    side = size * 4
    pen.ellipse((6, 6, side - 6, side - 6), fill=(248, 250, 252), outline=(34, 62, 156), width=9)
    pen.ellipse((22, 22, side - 22, side - 22), outline=(66, 96, 184), width=4)
    return plate.resize((size, size), Image.Resampling.LANCZOS)


APPLY: Mapping[str, Callable[[Image.Image], Image.Image]] = {
    "watercolour": watercolour,
    "ink": ink,
    "sketch": sketch,
    "oil": oil,
    "pixel": pixel,
    "papercut": papercut,
    "neon": neon,
    "porcelain": porcelain,
}
