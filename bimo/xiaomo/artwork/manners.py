"""Manners that the training data lacks: woodblock print (浮世绘), wax crayon (蜡笔) and cyberpunk (赛博朋克).

Each maps a posed sprite (RGBA, square) to an RGB picture of its size, as ``effects`` does, by what it is made of:

- a Japanese woodblock print has a few flat colours of plant and mineral pigments, a keyblock of dark lines cut around
  them, a sky that fades from a band of Prussian blue (bokashi), and the grain of paper and wood;
- wax crayon catches the tooth of the paper, is laid on in slanting strokes and is pressed harder at the rim;
- cyberpunk pictures are lit from two sides in magenta and cyan, at night before lit windows, on wet ground.
"""

# numpy's arrays are typed in part; what crosses it here is named where it is used.
# pyright: reportUnknownArgumentType=false, reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from bimo.xiaomo.artwork.compose import LUMA
from bimo.xiaomo.artwork.effects import APPLY as LEARNED

#: The pigments of prints of the 1830s: sumi, Prussian blue and washes of it, safflower, ochre, orpiment, green.
_PIGMENTS = np.array(
    [
        (38, 36, 42), (31, 62, 112), (74, 118, 158), (150, 182, 196), (184, 62, 50), (216, 130, 96), (196, 148, 84),
        (226, 190, 110), (86, 112, 78), (140, 158, 108), (240, 228, 200), (206, 190, 164), (112, 78, 60),
        (226, 178, 160), (118, 110, 120),
    ],
    np.float32,
) / 255  # fmt: skip
_PAPER = np.array([0.945, 0.905, 0.80], np.float32)
_KEYBLOCK = np.array([0.13, 0.14, 0.20], np.float32)

Array = np.ndarray


def _parts(image: Image.Image) -> tuple[Array, Array]:
    """Colour [H, W, 3] and alpha [H, W], in 0..1."""
    array = np.asarray(image.convert("RGBA"), np.float32) / 255
    return array[..., :3], array[..., 3]


def _picture(array: Array) -> Image.Image:
    return Image.fromarray(np.round(np.clip(array, 0, 1) * 255).astype(np.uint8))


def _noise(side: int, seed: int, down: int, across: int) -> Array:
    """[side, side] smooth fixed noise in 0..1 of so many bumps down and across."""
    grid = np.random.default_rng(seed).random((down, across)).astype(np.float32)
    return np.asarray(_picture(grid).resize((side, side), Image.Resampling.BICUBIC), np.float32) / 255


def _edges(plane: Array) -> Array:
    """[H, W] -> the largest difference to a neighbour."""
    found = np.zeros_like(plane)
    down, across = np.abs(np.diff(plane, axis=0)), np.abs(np.diff(plane, axis=1))
    for apart, each in ((down, found[:-1]), (down, found[1:]), (across, found[:, :-1]), (across, found[:, 1:])):
        np.maximum(each, apart, out=each)
    return found


def woodblock(image: Image.Image) -> Image.Image:
    """A print of flat pigments with a keyblock, on paper with a sky that fades from a blue band."""
    side = image.width
    smooth = image.filter(ImageFilter.MedianFilter(5)).filter(ImageFilter.MedianFilter(5))
    colour, alpha = _parts(smooth)
    apart = ((colour[:, :, None, :] - _PIGMENTS) ** 2 @ LUMA[:, None])[..., 0]
    index = Image.fromarray(apart.argmin(-1).astype(np.uint8)).filter(ImageFilter.ModeFilter(7))
    block = np.asarray(index)
    cover = np.asarray(_picture(alpha).filter(ImageFilter.GaussianBlur(0.8)), np.float32) / 255
    sky = np.clip(1 - np.linspace(0, 3.2, side, dtype=np.float32), 0, 1)[:, None, None] ** 1.3
    paper = np.ones((side, side, 3), np.float32) * _PAPER * (1 - 0.85 * sky) + 0.85 * sky * _PIGMENTS[1]
    wood = (
        1
        + 0.05 * (_noise(side, 71, side // 3, 5)[..., None] - 0.5)
        + 0.05 * (_noise(side, 72, 64, 64)[..., None] - 0.5)
    )
    inked = _PIGMENTS[block] * 0.94 + 0.06 * _PAPER
    lines = np.maximum((_edges(block.astype(np.float32)) > 0) * (alpha > 0.5), _edges(cover) > 0.18).astype(np.float32)
    lines = (
        np.asarray(_picture(lines).filter(ImageFilter.MaxFilter(3)).filter(ImageFilter.GaussianBlur(0.7)), np.float32)[
            ..., None
        ]
        / 255
    )
    mixed = paper * (1 - cover[..., None]) + inked * cover[..., None]
    return _cartouche(_picture((mixed * (1 - 0.9 * lines) + _KEYBLOCK * 0.9 * lines) * wood))


def _cartouche(print_: Image.Image) -> Image.Image:
    """The red frame at the upper right, where a print has its title and seal."""
    pen, side = ImageDraw.Draw(print_), print_.width
    left, top, right, bottom = (round(share * side) for share in (0.90, 0.04, 0.96, 0.22))
    pen.rectangle((left, top, right, bottom), fill=(226, 196, 128), outline=(150, 46, 40), width=max(1, side // 128))
    for row in (0.07, 0.105, 0.14, 0.175):
        pen.line(
            (left + side * 0.018, row * side, right - side * 0.018, row * side),
            fill=(60, 40, 40),
            width=max(1, side // 100),
        )
    return print_


def crayon(image: Image.Image) -> Image.Image:
    """Wax crayon in slanting strokes on rough white paper."""
    side = image.width
    colour, alpha = _parts(image.filter(ImageFilter.MedianFilter(5)))
    light = (colour @ LUMA)[..., None]
    strong = np.clip(light + (colour - light) * 1.35, 0, 1)
    rows, columns = np.mgrid[0:side, 0:side]
    wander = _noise(side, 81, 18, 18)
    shift = np.round((wander - 0.5) * 7).astype(int)
    strong = strong[np.clip(rows + shift, 0, side - 1), np.clip(columns - shift, 0, side - 1)]
    body = alpha[np.clip(rows + shift, 0, side - 1), np.clip(columns - shift, 0, side - 1)]
    strokes = 0.5 + 0.5 * np.sin((rows * 0.8 + columns) * (2 * np.pi / 7.0) + 9 * wander)
    tooth = _noise(side, 82, side // 2, side // 2)
    soft = np.asarray(_picture(body).filter(ImageFilter.GaussianBlur(4)), np.float32) / 255
    rim = np.clip(body * (1 - soft) * 2.4, 0, 1)
    edge = np.clip(_edges(strong @ LUMA) * 5, 0, 1)
    pressed = np.clip(0.52 + 0.34 * strokes + 0.8 * rim + 0.6 * edge - 0.75 * np.clip(tooth - 0.52, 0, 1) * 2, 0, 1)
    wax = strong * (1 - 0.35 * np.maximum(rim, edge)[..., None])
    cover = (pressed * body)[..., None]
    paper = np.array([0.988, 0.98, 0.955], np.float32) * (1 - 0.04 * tooth[..., None])
    return _picture(paper * (1 - cover) + wax * cover)


def cyberpunk(image: Image.Image) -> Image.Image:
    """By night before lit towers, lit in magenta from the left and cyan from the right, mirrored on wet ground."""
    side = image.width
    colour, alpha = _parts(image)
    city = _neon_city(side)
    near = np.asarray(_picture(alpha).filter(ImageFilter.GaussianBlur(side * 0.02)), np.float32) / 255
    across = np.gradient(near, axis=1) * side / 8
    light = (colour @ LUMA)[..., None]
    body = (0.25 * colour + 0.75 * light) * np.array([0.42, 0.40, 0.66], np.float32) + 0.10 * colour
    magenta, cyan = np.array([1.0, 0.16, 0.72], np.float32), np.array([0.10, 0.90, 1.0], np.float32)
    lit = body + np.clip(across, 0, 1)[..., None] * magenta * 0.95 + np.clip(-across, 0, 1)[..., None] * cyan * 0.95
    lit += np.clip(_edges(light[..., 0]) * 2.2, 0, 0.8)[..., None] * (magenta * 0.45 + cyan * 0.55)
    glow = np.asarray(_picture(alpha).filter(ImageFilter.GaussianBlur(side * 0.045)), np.float32)[..., None] / 255
    tint = np.linspace(0, 1, side, dtype=np.float32)[None, :, None]
    halo = glow * (magenta * (1 - tint) + cyan * tint) * 0.42
    cover = alpha[..., None]
    return _picture((city + halo) * (1 - cover) + lit * cover)


def _neon_city(side: int) -> Array:
    """[side, side, 3]: towers with lit windows and signs under a violet sky, and their light on the ground."""
    rng = np.random.default_rng(91)
    picture = Image.new("RGB", (side, side), (18, 10, 42))
    pen, ground = ImageDraw.Draw(picture), round(side * 0.80)
    for row in range(ground):
        share = row / ground
        pen.line((0, row, side, row), fill=(round(18 + 70 * share), round(10 + 8 * share), round(42 + 62 * share)))
    at = 0.0
    while at < side:
        width, top = side * rng.uniform(0.07, 0.14), side * rng.uniform(0.10, 0.46)
        pen.rectangle((at, top, at + width, ground), fill=(22, 16, 50))
        sign = [(255, 42, 170), (24, 224, 255), (255, 214, 64), (150, 80, 255)][rng.integers(4)]
        for y in np.arange(top + side * 0.03, ground - side * 0.03, side * 0.035):
            for x in np.arange(at + side * 0.015, at + width - side * 0.02, side * 0.028):
                if rng.random() < 0.42:
                    pen.rectangle(
                        (x, y, x + side * 0.012, y + side * 0.014), fill=sign if rng.random() < 0.4 else (90, 80, 150)
                    )
        if rng.random() < 0.6:
            pen.rectangle((at + width * 0.3, top + side * 0.05, at + width * 0.62, top + side * 0.2), fill=sign)
        at += width + side * 0.012
    mirrored = picture.crop((0, ground - (side - ground), side, ground)).transpose(Image.Transpose.FLIP_TOP_BOTTOM)
    picture.paste(mirrored.filter(ImageFilter.GaussianBlur(side * 0.012)), (0, ground))
    city = np.asarray(picture.filter(ImageFilter.GaussianBlur(side * 0.004)), np.float32) / 255
    bloom = np.asarray(picture.filter(ImageFilter.GaussianBlur(side * 0.03)), np.float32) / 255
    return city * 0.8 + bloom * 0.5


#: Every manner that things can be drawn in by their picture as a whole: those of the data, and these.
APPLY: Mapping[str, Callable[[Image.Image], Image.Image]] = {
    **LEARNED,
    "woodblock": woodblock,
    "crayon": crayon,
    "cyberpunk": cyberpunk,
}
