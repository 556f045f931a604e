"""Drawings of one drawn style redrawn in the look of another: its colours, its outlines, its shading.

A thing that has no picture in a style, or whose picture there is held out of training, is drawn in it so.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib import resources
from types import MappingProxyType

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

    Colours become the style's own, or in ink: black if darker than ``dark`` (0 to 1), or than the share ``darker`` of
    the way from the drawing's darkest colour to its lightest, else white. Around every shape goes an ``outline``
    (colour, share of the side), under all a ``shadow``.
    """

    bases: tuple[str, ...]
    dark: float = 0.0
    darker: float = 0.0
    outline: tuple[str, float] | None = None
    shadow: bool = False


LOOKS: Mapping[str, Look] = {
    "cartoon": Look(("retro", "twemoji", "vector", "flat")),
    "twemoji": Look(("flat", "vector", "cartoon")),
    "flat": Look(("twemoji", "vector", "cartoon")),
    "silhouette": Look(("flat", "twemoji", "vector", "cartoon"), dark=0.35, darker=0.4, outline=("#000", 0.042)),
    "line": Look(("twemoji", "vector", "flat", "cartoon"), dark=0.3, outline=("#000", 0.03)),
    "retro": Look(("twemoji", "vector", "flat", "cartoon")),
    "vector": Look(("twemoji", "flat", "cartoon")),
    "minimal": Look(("flat", "twemoji", "vector", "cartoon")),
    "outlined": Look(("twemoji", "vector", "flat", "cartoon"), outline=("#45413c", 0.021), shadow=True),
}
#: So many of a style's colours are known, and so far from one of them (in Oklab) is its own range.
COLOURS, RANGE = 400, 0.027
#: Colours of a drawing that are further from each other than this (in Oklab) stay two.
APART = 0.06
#: What is lighter than this (in Oklab) is white, and on white would not be seen.
WHITE = 0.97
#: In ink a drawing has darker colours if its luma spans so much.
CONTRAST = 0.04
TABLE = "looks.tsv"


def palette(drawings: Iterable[Drawing]) -> Mapping[Colour, int]:
    """The commonest colours of drawings, and in how many each is."""
    counts = Counter(colour for each in drawings for colour in set(colours_of(each)))
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:COLOURS])


def colours_of(drawing: Drawing) -> list[Colour]:
    """Every colour of a drawing once, in the order in which they are painted."""
    return list(dict.fromkeys(_rgb(found[1]) for found in _HEX.finditer(drawing.body)))


@lru_cache(maxsize=1)
def counterparts() -> Mapping[tuple[str, str], Mapping[Colour, Colour]]:
    """By style and base: for colours of the base those of the style that lie in their places in drawings of the same
    things. The table is made by ``python tools/looks.py``.
    """
    found: dict[tuple[str, str], Mapping[Colour, Colour]] = {}
    for line in resources.files("bimo.xiaomo.artwork").joinpath(TABLE).read_text("utf-8").splitlines():
        style, base, colours = line.split("\t")
        pairs = (pair.split(":") for pair in colours.split())
        found[style, base] = {_rgb(colour): _rgb(other) for colour, other in pairs}
    return found


def redrawn(
    drawing: Drawing, look: Look, colours: Mapping[Colour, int], known: Mapping[Colour, Colour] = MappingProxyType({})
) -> Drawing:
    """The drawing in a look, in a style's ``palette``, which ink has no need of; ``known`` are ``counterparts``."""
    own = colours_of(drawing)
    change = _in_ink(own, look) if look.dark else _translated(own, colours, known)
    body = _HEX.sub(lambda found: "#{:02x}{:02x}{:02x}".format(*change[_rgb(found[1])]), drawing.body)
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


def turns_white(colour: Numbers, others: Numbers) -> npt.NDArray[np.bool_]:
    """Which of other colours [N, 3] are white, [N], when a colour [3] is not; all in Oklab."""
    return (others[:, 0] > WHITE) & (colour[0] <= WHITE)


def inked(sprite: Image.Image) -> Image.Image:
    """A black and white RGBA sprite as black ink alone: what is white is left open."""
    array = np.asarray(sprite, np.float32)
    ink = np.zeros_like(array)
    ink[..., 3] = array[..., 3] * (1 - array[..., :3] @ LUMA / 255)
    return Image.fromarray(np.round(ink).astype(np.uint8))


def solid(sprite: Image.Image) -> Image.Image:
    """A flat RGBA sprite shaded as a rounded body: lit from the upper left, deeper below."""
    return _lit(sprite, 1.0, gloss=0.6)


def soft(sprite: Image.Image) -> Image.Image:
    """A flat RGBA sprite with half of that shading and without its gloss, as gradients have it."""
    return _lit(sprite, 0.5, gloss=0.0)


#: What is done to the sprite of a redrawn drawing.
FINISH: Mapping[str, Callable[[Image.Image], Image.Image]] = {"silhouette": inked, "line": inked, "cartoon": soft}


def _lit(sprite: Image.Image, depth: float, gloss: float) -> Image.Image:
    array, alpha, side = np.asarray(sprite, np.float32) / 255, sprite.getchannel("A"), sprite.width
    near, far = (np.asarray(alpha.filter(ImageFilter.GaussianBlur(side * s)), np.float32) for s in (0.03, 0.08))
    down, across = np.gradient((near + far) / 255 * side / 10)
    light = np.clip(1 + 0.3 * depth * (down + across), 0.75, 1.25)[..., None]
    deep = np.linspace(0.06, -0.10, side, dtype=np.float32)[:, None, None] * depth
    colour = array[..., :3] * (light + deep) + np.maximum(light - 1, 0) * gloss
    shaded = np.concatenate([np.clip(colour, 0, 1), array[..., 3:]], -1)
    return Image.fromarray(np.round(shaded * 255).astype(np.uint8))


def _in_ink(own: Sequence[Colour], look: Look) -> Mapping[Colour, Colour]:
    luma = {rgb: float(np.dot(LUMA, rgb)) / 255 for rgb in own}
    darkest, lightest = min(luma.values(), default=0.0), max(luma.values(), default=0.0)
    dark = look.dark
    if lightest - darkest > CONTRAST:
        dark = max(dark, darkest + look.darker * (lightest - darkest))
    return {rgb: (0, 0, 0) if luma[rgb] < dark else (255, 255, 255) for rgb in own}


def _translated(
    own: Sequence[Colour], colours: Mapping[Colour, int], known: Mapping[Colour, Colour]
) -> Mapping[Colour, Colour]:
    """For each colour of a drawing its counterpart, else the colour of a palette that it most likely stands for: a
    common one, near to it. What can be told apart stays so.
    """
    every, places = list(colours), lab(np.array(list(colours)))
    prior = np.log(list(colours.values()))
    found: dict[Colour, Colour] = {}
    whence: dict[Colour, list[Numbers]] = {}
    for rgb in own:
        place = lab(np.array([rgb]))[0]
        likely = prior - ((places - place) ** 2).sum(1) / (2 * RANGE**2)
        likely = np.where(turns_white(place, places), -np.inf, likely)
        order: list[int] = (-likely).argsort(kind="stable").tolist()
        choices = [every[index] for index in order]
        if rgb in known:
            choices.insert(0, known[rgb])
        found[rgb] = next((each for each in choices if _alike(place, whence.get(each, ()))), choices[0])
        whence.setdefault(found[rgb], []).append(place)
    return found


def _alike(place: Numbers, others: Iterable[Numbers]) -> bool:
    return all(float(((place - other) ** 2).sum()) < APART**2 for other in others)


def _rgb(digits: str) -> Colour:
    whole = digits if len(digits) == 6 else "".join(2 * digit for digit in digits)
    return int(whole[:2], 16), int(whole[2:4], 16), int(whole[4:], 16)


def lab(rgb: npt.NDArray[np.int_]) -> Numbers:
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
