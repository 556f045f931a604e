"""Painting on paper: masks of shapes, transparent paint that multiplies, opaque paint that covers.

Each operation is limited to the window of the picture that a shape touches.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from bimo.xiaomo.chance import Chance, Floats
from bimo.xiaomo.scenes.description import Shape
from bimo.xiaomo.scenes.geometry import Path, as_bytes, dense, ribbon

OVER = 2  # the factor by which masks are supersampled
REFERENCE = 256  # lengths in pixels, such as those of soft edges, refer to a picture of this side

Window = tuple[slice, slice]


def noise(chance: Chance, side: int, cells: int, octaves: int = 3, stretch: float = 1.0) -> Floats:
    """Smooth noise around 0.5, [side, side]: `cells` across in the first octave, `stretch` times as many down."""
    total, weight = np.zeros((side, side), np.float32), 0.0
    for octave in range(octaves):
        across = max(2, cells * 2**octave)
        grid = Image.fromarray(chance.array(max(2, int(across * stretch)), across))
        amplitude = 0.5**octave
        total += amplitude * np.asarray(grid.resize((side, side), Image.Resampling.BICUBIC))
        weight += amplitude
    return total / weight


def blurred(mask: Floats, radius: float) -> Floats:
    """A mask of 0..1, blurred by a Gaussian of this radius in pixels."""
    if radius < 0.3:
        return mask
    image = Image.fromarray(as_bytes(mask))
    return np.asarray(image.filter(ImageFilter.GaussianBlur(radius)), np.float32) / 255


class Painting:
    """A picture being painted: `pixels` [side, side, 3] in 0..1, and the textures of its paper.

    `grain` is fine, `low` coarse, `streak` horizontal; `bend` displaces the points of outlines, so that edges are not
    perfectly straight. `angle` and `detail` are the direction and the fineness of brush strokes at each pixel; `later`
    are shapes that a style paints last.
    """

    def __init__(self, chance: Chance, side: int, paper: tuple[int, int, int], tooth: float) -> None:
        self.chance, self.side = chance, side
        self.scale = side / REFERENCE
        self.grain = noise(chance, side, 128, 1)
        self.low = noise(chance, side, 5, 3)
        self.streak = noise(chance, side, 20, 2, 4.0)
        self.bend = np.stack([noise(chance, side, 24, 2), noise(chance, side, 24, 2)], 2) - 0.5
        self.y, self.x = (np.mgrid[0:side, 0:side].astype(np.float32) + 0.5) / side
        texture = 1 - tooth * (self.grain[..., None] - 0.5) - 0.7 * tooth * (self.low[..., None] - 0.5)
        self.paper = np.array(paper, np.float32) / 255
        self.pixels: Floats = np.clip(self.paper * texture, 0, 1)
        self.angle = np.zeros((side, side), np.float32)
        self.sky = np.ones((side, side), np.float32)
        self.detail = np.zeros((side, side), np.float32)
        self.later: list[Shape] = []

    def mask(self, shape: Shape, rough: float, soft: float, grow: float = 0.0) -> tuple[Floats, Window] | None:
        """The coverage of each pixel of a window by a shape, and the window; None if the shape is outside.

        `rough` bends outlines, `soft` blurs edges, in pixels of the reference; `grow` widens strokes, of the side.
        """
        outlines = [*shape.fills]
        outlines += [ribbon(one.points, one.begin + grow, one.end + grow) for one in shape.strokes]
        outlines = self._bent(outlines, rough * shape.rough)
        sizes = np.concatenate(outlines) * self.side
        margin = 2 + math.ceil(3 * (soft + shape.soft) * self.scale)
        left, top = np.floor(sizes.min(0)).astype(int) - margin
        right, bottom = np.ceil(sizes.max(0)).astype(int) + margin
        left, top, right, bottom = max(left, 0), max(top, 0), min(right, self.side), min(bottom, self.side)
        if right <= left or bottom <= top:
            return None
        image = Image.new("L", ((right - left) * OVER, (bottom - top) * OVER))
        pen = ImageDraw.Draw(image)
        origin = np.array([left, top], np.float32)
        for outline in outlines:
            pen.polygon(((outline * self.side - origin) * OVER).ravel().tolist(), fill=255)
        for one in shape.strokes:
            self._caps(pen, one.points, one.begin + grow, one.end + grow, origin)
        mask = np.asarray(image.reduce(OVER), np.float32) / 255
        return blurred(mask, (soft + shape.soft) * self.scale), (slice(top, bottom), slice(left, right))

    def _caps(self, pen: ImageDraw.ImageDraw, points: Path, begin: float, end: float, origin: Floats) -> None:
        """Draws round ends of strokes that are wide enough to show them."""
        for place, width in ((points[0], begin), (points[-1], end)):
            radius = width * self.side * OVER / 2
            if radius > 1.5:
                x, y = (place * self.side - origin) * OVER
                pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=255)

    def _bent(self, outlines: Sequence[Path], rough: float) -> list[Path]:
        """Outlines displaced by `bend`; long segments are subdivided first."""
        if rough < 0.05 or not outlines:
            return list(outlines)
        if len(outlines) <= 40:
            outlines = [dense(one, 1 / 72) for one in outlines]
        ends = np.cumsum([len(one) for one in outlines])[:-1]
        points = np.concatenate(outlines)
        place = np.clip((points * self.side).astype(int), 0, self.side - 1)
        moved = points + self.bend[place[:, 1], place[:, 0]] * np.float32(rough * 9 / REFERENCE)
        return np.split(moved, ends)

    def fading(self, mask: Floats, window: Window, length: float) -> Floats:
        """1 at the upper edge of a mask in each column, 0 at `length` of the side below it."""
        solid = mask > 0.4
        top = np.where(solid.any(0), solid.argmax(0), 10**6)
        rows = np.arange(mask.shape[0], dtype=np.float32)[:, None]
        depth = (rows - top) / max(1.0, length * self.side)
        return np.clip(1.04 - depth, 0, 1) ** 1.3

    def gradient(self, mask: Floats, radial: bool) -> Floats:
        """0 at the upper edge and 1 at the lower edge of a mask's extent; or 0 at its rim and 1 in its middle."""
        height, width = mask.shape
        if not radial:
            rows = np.flatnonzero(mask.max(1) > 0.3)
            first, last = (rows[0], rows[-1]) if rows.size else (0, height)
            return np.clip(
                (np.arange(height, dtype=np.float32)[:, None] - first) / max(1, last - first), 0, 1
            ) + np.zeros((1, width), np.float32)
        weight = max(float(mask.sum()), 1e-6)
        y, x = np.mgrid[0:height, 0:width].astype(np.float32)
        cy, cx = float((y * mask).sum()) / weight, float((x * mask).sum()) / weight
        reach = np.hypot((y - cy) / max(1, height / 2), (x - cx) / max(1, width / 2))
        return np.clip(1 - reach, 0, 1)

    def glaze(self, mask: Floats, window: Window, colour: Floats, density: float, rim: float, mottle: float) -> None:
        """Transparent paint: multiplies the pixels below, mottled, darker at its rim."""
        low, grain = self.low[window], self.grain[window]
        amount = mask * density * (1 + mottle * (1.2 * (low - 0.5) + 0.22 * (grain - 0.5)))
        if rim:
            amount = amount + np.clip(mask - blurred(mask, 3.2 * self.scale), 0, 1) * rim * density
        veil = np.clip(amount, 0, 1)[..., None]
        self.pixels[window] *= 1 - veil * (1 - np.clip(colour, 0, 1))

    def cover(self, mask: Floats, window: Window, colour: Floats, mottle: float = 0.08) -> None:
        """Opaque paint: replaces the pixels below."""
        low, grain = self.low[window][..., None], self.grain[window][..., None]
        paint = np.clip(colour * (1 + mottle * (low - 0.5) + 0.6 * mottle * (grain - 0.5)), 0, 1)
        area = self.pixels[window]
        area += mask[..., None] * (paint - area)

    def light_up(self, mask: Floats, window: Window, colour: Floats) -> None:
        """Light: brightens the pixels below towards a colour, and never darkens them."""
        area = self.pixels[window]
        area += mask[..., None] * np.clip(colour - area, 0, 1)

    def lay(self, mask: Floats, window: Window, angle: Floats | float, detail: float, sky: bool) -> None:
        """Records the direction and fineness of brush strokes on a shape."""
        solid = mask > 0.35
        self.angle[window][solid] = angle if isinstance(angle, (int, float)) else angle[solid]
        self.detail[window][solid] = detail
        self.sky[window][solid] = float(sky)

    def whole_window(self) -> Window:
        """The window of the whole picture."""
        return slice(0, self.side), slice(0, self.side)

    def image(self) -> Image.Image:
        """The picture in its current state."""
        return Image.fromarray(as_bytes(self.pixels))
