"""Filters by the pixels of single pictures: side, aspect ratio, animation, sharpness, flatness, borders.

Pixels are measured on a copy with a fixed longer side, so that a number means the same for pictures of all sizes.
Copies are reduced by averaging (a box filter) and enlarged by cubic interpolation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, cast

import numpy as np

from bimo.curation.steps import PictureStep, Scores, Verdict

if TYPE_CHECKING:
    from PIL import Image

    from bimo.curation.decoded_image import DecodedImage

#: The longer side of the copies, in pixels: for edges, and for what needs no detail.
EDGE_SIDE = 256
COLOUR_SIDE = 128
#: The squared gradient that rounding to 8 bits alone causes, and a little more.
GRADIENT_FLOOR = 4.0
#: Bits a channel of the colours in ``Flat``: 32 levels, wide enough for JPEG noise on a plain colour.
COLOUR_BITS = 5
#: Levels by which a line of a border may differ from the border's colour, for the same reason.
BORDER_TOLERANCE = 12


@dataclass(frozen=True, kw_only=True)
class MinSide(PictureStep):
    """Keeps pictures whose shorter side, upright and at full resolution, has at least ``pixels``. Wukong: 200
    (arXiv:2202.06767).
    """

    says: ClassVar[tuple[str, str]] = ("短边太小", "the shorter side is too small")
    score: ClassVar[str] = "short_side"

    pixels: int = 200

    def measuring(self) -> str:
        """See ``PictureStep``."""
        return "MinSide/1"

    def measure(self, picture: DecodedImage) -> Scores:
        """``short_side``, in pixels."""
        return {"short_side": min(picture.size)}

    def judge(self, scores: Scores) -> Verdict | None:
        """A drop below ``pixels``."""
        return below(scores[self.score], self.pixels)


@dataclass(frozen=True, kw_only=True)
class Aspect(PictureStep):
    """Keeps pictures whose aspect ratio, width over height of the upright picture, lies from ``low`` to ``high``.
    Wukong: 1/3 to 3 (arXiv:2202.06767).
    """

    says: ClassVar[tuple[str, str]] = ("太长或太高", "too wide or too tall")
    score: ClassVar[str] = "aspect"

    low: float = 1 / 3
    high: float = 3.0

    def measuring(self) -> str:
        """See ``PictureStep``."""
        return "Aspect/1"

    def measure(self, picture: DecodedImage) -> Scores:
        """``aspect``: width over height."""
        width, height = picture.size
        return {"aspect": width / height}

    def judge(self, scores: Scores) -> Verdict | None:
        """A drop outside of ``low`` to ``high``."""
        return below(scores[self.score], self.low) or above(scores[self.score], self.high)


@dataclass(frozen=True, kw_only=True)
class Still(PictureStep):
    """Drops animations, since a caption describes no particular one of several frames."""

    says: ClassVar[tuple[str, str]] = ("动图", "animated")
    score: ClassVar[str] = "animated"

    def measuring(self) -> str:
        """See ``PictureStep``."""
        return "Still/1"

    def measure(self, picture: DecodedImage) -> Scores:
        """``animated``: 0 or 1."""
        return {"animated": int(picture.animated)}

    def judge(self, scores: Scores) -> Verdict | None:
        """A drop of an animation."""
        return above(scores[self.score], 0)


@dataclass(frozen=True, kw_only=True)
class Sharpness(PictureStep):
    """Keeps pictures with a sharpness of at least ``above``: S = sum L² / (sum G² + 4 N), grey levels of a copy whose
    longer side is 256 pixels.

    L is the Laplacian of four neighbours, G² the sum of the squared central differences, N the number of pixels; 4 N
    keeps the rounding of plain pictures from counting as detail. The usual variance of the Laplacian (Pech-Pacheco et
    al., ICPR 2000) grows with contrast; divided by the gradient it does not. White noise has 5, so grain counts as
    sharp.
    """

    says: ClassVar[tuple[str, str]] = ("模糊", "blurred")
    score: ClassVar[str] = "sharpness"

    above: float = 0.25

    def measuring(self) -> str:
        """See ``PictureStep``."""
        return "Sharpness/2"

    def measure(self, picture: DecodedImage) -> Scores:
        """``sharpness``: 0 for a plain picture; blurred photos lie below 0.2, most sharp ones above 0.5."""
        grey = np.asarray(copy_of(picture.image, EDGE_SIDE, "L"), np.float32)
        if min(grey.shape) < 3:
            return {"sharpness": 0.0}
        inside = grey[1:-1, 1:-1]
        left, right, up, down = grey[1:-1, :-2], grey[1:-1, 2:], grey[:-2, 1:-1], grey[2:, 1:-1]
        laplacian = left + right + up + down - 4 * inside
        across, along = right - left, down - up
        energy = np.vdot(across, across) + np.vdot(along, along) + GRADIENT_FLOOR * inside.size
        return {"sharpness": round(float(np.vdot(laplacian, laplacian) / energy), 6)}

    def judge(self, scores: Scores) -> Verdict | None:
        """A drop below ``above``."""
        return below(scores[self.score], self.above)


@dataclass(frozen=True, kw_only=True)
class Flat(PictureStep):
    """Drops pictures that are nearly all of one colour, or whose grey levels vary little: blank pictures, charts, plain
    logos.

    ``common_colour`` is the share of the most common of 32³ colours, ``entropy`` that of the histogram of 256 grey
    levels, -sum p log2 p in bits (Shannon 1948), both on a copy whose longer side is 128 pixels.
    """

    says: ClassVar[tuple[str, str]] = ("几乎是一片纯色", "nearly all of one colour")
    score: ClassVar[str] = "common_colour"

    above: float = 0.8
    entropy: float = 2.0

    def measuring(self) -> str:
        """See ``PictureStep``."""
        return "Flat/2"

    def measure(self, picture: DecodedImage) -> Scores:
        """``common_colour`` from 0 to 1, ``entropy`` from 0 to 8 bits."""
        small = copy_of(picture.image, COLOUR_SIDE, "RGB")
        levels = np.asarray(small, np.uint16).reshape(-1, 3) >> (8 - COLOUR_BITS)
        codes = (levels[:, 0] << 2 * COLOUR_BITS) | (levels[:, 1] << COLOUR_BITS) | levels[:, 2]
        shares = np.asarray(small.convert("L").histogram()) / len(codes)
        shares = shares[shares > 0]
        common = int(np.bincount(codes).max()) / len(codes)
        entropy = max(0.0, float(-(shares * np.log2(shares)).sum()))
        return {"common_colour": round(common, 6), "entropy": round(entropy, 4)}

    def judge(self, scores: Scores) -> Verdict | None:
        """A drop above ``above`` or below ``entropy``."""
        return above(scores[self.score], self.above) or below(scores["entropy"], self.entropy)


@dataclass(frozen=True, kw_only=True)
class Borders(PictureStep):
    """Drops pictures of which too much is a plain frame: letterboxes, scans, screenshots with a margin.

    From each side inwards, lines of pixels belong to the border while none of their pixels differs by more than 12
    levels from the middle pixel of the outermost line, on a copy whose longer side is 256 pixels.
    """

    says: ClassVar[tuple[str, str]] = ("边框太宽", "too much of it is a plain border")
    score: ClassVar[str] = "border"

    above: float = 0.3

    def measuring(self) -> str:
        """See ``PictureStep``."""
        return "Borders/2"

    def measure(self, picture: DecodedImage) -> Scores:
        """``border``: the share of the picture that is border, from 0 to 1; 1 for a plain picture."""
        pixels = np.asarray(copy_of(picture.image, EDGE_SIDE, "RGB"), np.int16)
        height, width, _ = pixels.shape
        top, bottom = _plain_lines(pixels), _plain_lines(pixels[::-1])
        inner = pixels[top : height - bottom].transpose(1, 0, 2)
        if not inner.size:
            return {"border": 1.0}
        left, right = _plain_lines(inner), _plain_lines(inner[::-1])
        inside = (height - top - bottom) * max(0, width - left - right)
        return {"border": round(1 - inside / (height * width), 6)}

    def judge(self, scores: Scores) -> Verdict | None:
        """A drop above ``above``."""
        return above(scores[self.score], self.above)


def copy_of(image: Image.Image, side: int, mode: str) -> Image.Image:
    """The picture in a mode, resized so that its longer side has ``side`` pixels and the other at least 1."""
    from PIL import Image as Pillow

    scale = side / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    if mode != image.mode:
        image = image.convert(mode)
    if size == image.size:
        return image
    return image.resize(size, Pillow.Resampling.BOX if scale < 1 else Pillow.Resampling.BICUBIC)


def below(value: float | int | str | None, least: float) -> Verdict | None:
    """The verdict on a number that is less than ``least``, or no number at all (NaN, or not measured)."""
    if value is None:
        return Verdict("—", least)
    number = float(value)
    return None if number >= least else Verdict(number, least)


def above(value: float | int | str | None, most: float) -> Verdict | None:
    """The verdict on a number that is more than ``most``, or no number at all (NaN, or not measured)."""
    if value is None:
        return Verdict("—", most)
    number = float(value)
    return None if number <= most else Verdict(number, most)


def _plain_lines(lines: np.ndarray) -> int:
    """The number of first lines [N, M, 3] that are as plain as the first one, and of its colour."""
    colour = lines[0, lines.shape[1] // 2]
    plain = _plain(lines[:1], colour)
    if not plain[0]:
        return 0
    busy = ~_plain(lines, colour)
    return int(busy.argmax()) if busy.any() else len(lines)


def _plain(lines: np.ndarray, colour: np.ndarray) -> np.ndarray:
    return cast(np.ndarray, np.abs(lines - colour).max(axis=(1, 2))) <= BORDER_TOLERANCE
