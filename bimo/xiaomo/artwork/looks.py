"""Drawings of one drawn style redrawn in the look of another: its colours, its outlines, its shading.

A thing that has no picture in a style, or whose picture there is held out of training, is drawn in it so.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter

from bimo.xiaomo.artwork.compose import LUMA
from bimo.xiaomo.artwork.drawings import Drawing

Colour = tuple[int, int, int]
Numbers = npt.NDArray[np.float64]
_HEX = re.compile(r"#([0-9a-fA-F]{6}|[0-9a-fA-F]{3})\b")


@dataclass(frozen=True)
class Look:
    """How a style is drawn from drawings in ``bases``, the best first.

    Colours become the likeliest of the style, or in ink: black if darker than ``dark`` (0 to 1), else white. Around
    every shape goes an ``outline`` (colour, share of the side), under all a ``shadow``.
    """

    bases: tuple[str, ...]
    dark: float = 0.0
    outline: tuple[str, float] | None = None
    shadow: bool = False


LOOKS: Mapping[str, Look] = {
    "cartoon": Look(("twemoji", "vector", "flat", "retro")),
    "twemoji": Look(("vector", "flat", "cartoon")),
    "flat": Look(("twemoji", "vector", "cartoon")),
    "silhouette": Look(("flat", "twemoji", "vector", "cartoon"), dark=0.35, outline=("#000", 0.03)),
    "line": Look(("twemoji", "vector", "flat", "cartoon"), dark=0.3, outline=("#000", 0.022)),
    "retro": Look(("twemoji", "vector", "flat", "cartoon")),
    "vector": Look(("twemoji", "flat", "cartoon")),
    "minimal": Look(("twemoji", "vector", "flat", "cartoon")),
    "outlined": Look(("vector", "twemoji", "flat", "cartoon"), outline=("#45413c", 0.021), shadow=True),
}
#: So many of a style's colours are known, and so far from one of them (in Oklab) is its own range.
COLOURS, RANGE = 160, 0.027


def palette(drawings: Iterable[Drawing]) -> Mapping[Colour, int]:
    """The commonest colours of drawings, and in how many each is."""
    counts = Counter(colour for each in drawings for colour in {_rgb(found[1]) for found in _HEX.finditer(each.body)})
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:COLOURS])


def redrawn(drawing: Drawing, look: Look, colours: Mapping[Colour, int]) -> Drawing:
    """The drawing in a look, in a style's ``palette``, which ink has no need of."""
    change = _in_ink(look.dark) if look.dark else _likeliest(colours)
    body = _HEX.sub(lambda found: "#{:02x}{:02x}{:02x}".format(*change(_rgb(found[1]))), drawing.body)
    left, top, width, height = drawing.box
    if look.outline is not None:
        colour, share = look.outline
        side = share * max(width, height)
        body = f'<g stroke="{colour}" stroke-width="{side:g}" stroke-linejoin="round">{body}</g>'
        left, top, width, height = left - side, top - side, width + 2 * side, height + 2 * side
    if look.shadow:
        x, y, rx, ry = left + width / 2, top + height * 0.97, width * 0.42, height * 0.045
        body = f'<ellipse cx="{x:g}" cy="{y:g}" rx="{rx:g}" ry="{ry:g}" fill="#45413c" opacity=".15"/>{body}'
        height *= 1.02
    return replace(drawing, box=(left, top, width, height), body=body)


def inked(sprite: Image.Image) -> Image.Image:
    """A black and white RGBA sprite as black ink alone: what is white is left open."""
    array = np.asarray(sprite, np.float32)
    ink = np.zeros_like(array)
    ink[..., 3] = array[..., 3] * (1 - array[..., :3] @ LUMA / 255)
    return Image.fromarray(np.round(ink).astype(np.uint8))


def solid(sprite: Image.Image) -> Image.Image:
    """A flat RGBA sprite shaded as a rounded body: lit from the upper left, deeper below."""
    array, alpha, side = np.asarray(sprite, np.float32) / 255, sprite.getchannel("A"), sprite.width
    near, far = (np.asarray(alpha.filter(ImageFilter.GaussianBlur(side * s)), np.float32) for s in (0.03, 0.08))
    down, across = np.gradient((near + far) / 255 * side / 10)
    light = np.clip(1 + 0.3 * (down + across), 0.75, 1.25)[..., None]
    deep = np.linspace(0.06, -0.10, side, dtype=np.float32)[:, None, None]
    colour = array[..., :3] * (light + deep) + np.maximum(light - 1, 0) * 0.6
    shaded = np.concatenate([np.clip(colour, 0, 1), array[..., 3:]], -1)
    return Image.fromarray(np.round(shaded * 255).astype(np.uint8))


#: What is done to the sprite of a redrawn drawing.
FINISH: Mapping[str, Callable[[Image.Image], Image.Image]] = {"silhouette": inked, "line": inked}


def _in_ink(dark: float) -> Callable[[Colour], Colour]:
    return lambda rgb: (0, 0, 0) if float(np.dot(LUMA, rgb)) / 255 < dark else (255, 255, 255)


def _likeliest(colours: Mapping[Colour, int]) -> Callable[[Colour], Colour]:
    """The colour of a palette that another most likely stands for: a common one, near to it."""
    every, known = list(colours), _lab(np.array(list(colours)))
    prior = np.log(list(colours.values()))

    def likeliest(rgb: Colour) -> Colour:
        apart = ((known - _lab(np.array([rgb]))) ** 2).sum(1)
        return every[int((prior - apart / (2 * RANGE**2)).argmax())]

    return likeliest


def _rgb(digits: str) -> Colour:
    whole = digits if len(digits) == 6 else "".join(2 * digit for digit in digits)
    return int(whole[:2], 16), int(whole[2:4], 16), int(whole[4:], 16)


def _lab(rgb: npt.NDArray[np.int_]) -> Numbers:
    """sRGB [N, 3] in 0..255 -> Oklab [N, 3] (Ottosson 2020), in which near means looking alike."""
    share = rgb / 255
    linear = np.where(share > 0.04045, ((share + 0.055) / 1.055) ** 2.4, share / 12.92)
    cones = np.cbrt(linear @ _TO_CONES.T)
    return cones @ _FROM_CONES.T


_TO_CONES = np.array(
    [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ]
)
_FROM_CONES = np.array(
    [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ]
)
