"""Backdrops, each a fixed picture drawn with Pillow, and the place of an object in those of the training data."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache

from PIL import Image, ImageChops, ImageDraw

from bimo.xiaomo.artwork.lexicon import RGB
from bimo.xiaomo.artwork.sprites import SIDE
from bimo.xiaomo.chance import Chance
from bimo.xiaomo.scenes.description import Mood

SCALE = 3
BIG = SIDE * SCALE


@dataclass(frozen=True)
class Stand:
    """The place of an object: its centre across, its foot, and its long side, as fractions of the canvas; with or
    without a shadow.
    """

    across: float
    foot: float
    size: float
    shadow: bool


STANDS: Mapping[str, Stand] = {
    "grass": Stand(0.5, 0.88, 0.62, True),
    "sea": Stand(0.5, 0.80, 0.60, False),
    "snow": Stand(0.5, 0.88, 0.62, True),
    "desert": Stand(0.5, 0.88, 0.62, True),
    "night": Stand(0.5, 0.90, 0.62, True),
    "sunset": Stand(0.5, 0.90, 0.60, True),
    "forest": Stand(0.5, 0.90, 0.60, True),
    "city": Stand(0.5, 0.92, 0.58, True),
    "room": Stand(0.5, 0.90, 0.60, True),
    "mountain": Stand(0.5, 0.90, 0.58, True),
}
#: What the light of an hour leaves of the colours of a backdrop.
_LIGHTS: Mapping[str, RGB] = {"dawn": (255, 226, 206), "dusk": (255, 186, 148), "night": (88, 98, 158)}
#: What a covered sky leaves.
_WEATHERS: Mapping[str, RGB] = {"rain": (176, 188, 204), "snow": (226, 234, 246)}


def _sky(top: RGB, bottom: RGB, height: float = 1.0) -> Image.Image:
    """A vertical gradient over the upper `height` of the canvas; `bottom` below it."""
    image = Image.new("RGB", (1, BIG))
    for y in range(BIG):
        part = min(1.0, y / (BIG * height))
        image.putpixel(
            (0, y),
            (
                round(top[0] + (bottom[0] - top[0]) * part),
                round(top[1] + (bottom[1] - top[1]) * part),
                round(top[2] + (bottom[2] - top[2]) * part),
            ),
        )
    return image.resize((BIG, BIG))


def _hills(pen: ImageDraw.ImageDraw, level: float, swing: float, waves: float, phase: float, colour: RGB) -> None:
    points = [
        (x, BIG * (level + swing * math.sin(x / BIG * math.tau * waves + phase))) for x in range(0, BIG + SCALE, SCALE)
    ]
    pen.polygon([*points, (BIG, BIG), (0, BIG)], fill=colour)


def _disc(pen: ImageDraw.ImageDraw, across: float, down: float, radius: float, colour: RGB) -> None:
    x, y, r = across * BIG, down * BIG, radius * BIG
    pen.ellipse((x - r, y - r, x + r, y + r), fill=colour)


def _cloud(pen: ImageDraw.ImageDraw, across: float, down: float, size: float, colour: RGB = (255, 255, 255)) -> None:
    for dx, dy, r in ((-0.9, 0.1, 0.5), (0, -0.15, 0.75), (0.9, 0.1, 0.5), (0.45, 0.15, 0.5), (-0.45, 0.15, 0.5)):
        _disc(pen, across + dx * size, down + dy * size, r * size, colour)


def _pine(pen: ImageDraw.ImageDraw, across: float, foot: float, height: float, colour: RGB) -> None:
    x, y, h = across * BIG, foot * BIG, height * BIG
    pen.rectangle((x - h * 0.04, y - h * 0.15, x + h * 0.04, y), fill=(98, 70, 48))
    for step in range(3):
        base, width = y - h * (0.12 + 0.26 * step), h * (0.28 - 0.06 * step)
        pen.polygon([(x - width, base), (x + width, base), (x, base - h * 0.40)], fill=colour)


def _grass(pen: ImageDraw.ImageDraw) -> None:
    _cloud(pen, 0.22, 0.17, 0.075)
    _cloud(pen, 0.80, 0.24, 0.06)
    _hills(pen, 0.60, 0.03, 1.0, 0.6, (150, 208, 106))
    _hills(pen, 0.68, 0.025, 0.8, 2.6, (112, 186, 78))
    rng = random.Random(1)
    for _ in range(60):
        x, y = rng.random() * BIG, BIG * (0.75 + 0.25 * rng.random())
        pen.line((x, y, x + 4, y - 12), fill=(82, 156, 58), width=3)


def _sea(pen: ImageDraw.ImageDraw) -> None:
    _disc(pen, 0.82, 0.16, 0.075, (255, 226, 120))
    _cloud(pen, 0.22, 0.20, 0.07)
    for step, colour in enumerate(((72, 156, 222), (54, 136, 208), (40, 116, 190), (28, 96, 170))):
        _hills(pen, 0.55 + 0.12 * step, 0.014, 3.0 - 0.3 * step, step * 1.7, colour)


def _snow(pen: ImageDraw.ImageDraw) -> None:
    for x, h in ((0.08, 0.34), (0.24, 0.24), (0.78, 0.26), (0.93, 0.36)):
        _pine(pen, x, 0.70, h, (120, 156, 160))
    _hills(pen, 0.66, 0.03, 0.9, 0.4, (232, 240, 250))
    _hills(pen, 0.76, 0.025, 0.7, 2.4, (250, 252, 255))
    rng = random.Random(2)
    for _ in range(46):
        _disc(pen, rng.random(), rng.random() * 0.72, 0.006 + 0.007 * rng.random(), (255, 255, 255))


def _desert(pen: ImageDraw.ImageDraw) -> None:
    _disc(pen, 0.80, 0.18, 0.08, (255, 240, 170))
    _hills(pen, 0.60, 0.045, 0.9, 0.0, (236, 190, 116))
    _hills(pen, 0.70, 0.04, 0.8, 2.4, (226, 172, 94))
    _hills(pen, 0.84, 0.03, 0.7, 4.4, (214, 156, 80))


def _night(pen: ImageDraw.ImageDraw) -> None:
    rng = random.Random(3)
    for _ in range(60):
        _disc(pen, rng.random(), rng.random() * 0.75, 0.003 + 0.005 * rng.random(), (255, 250, 214))
    _disc(pen, 0.80, 0.17, 0.085, (255, 240, 176))
    _disc(pen, 0.765, 0.15, 0.072, (18, 24, 70))
    _hills(pen, 0.80, 0.03, 0.9, 1.0, (24, 34, 66))


def _sunset(pen: ImageDraw.ImageDraw) -> None:
    _disc(pen, 0.5, 0.56, 0.20, (255, 222, 118))
    for y, left, right in ((0.20, 0.06, 0.36), (0.28, 0.60, 0.94), (0.38, 0.12, 0.30)):
        pen.rounded_rectangle((left * BIG, y * BIG, right * BIG, (y + 0.022) * BIG), 12, fill=(255, 176, 120))
    _hills(pen, 0.68, 0.03, 0.9, 0.5, (150, 70, 86))
    _hills(pen, 0.78, 0.025, 0.7, 2.8, (96, 46, 74))


def _forest(pen: ImageDraw.ImageDraw) -> None:
    for x in range(9):
        _pine(pen, 0.02 + x * 0.12, 0.66, 0.52, (128, 178, 128))
    for x, h in ((0.06, 0.72), (0.24, 0.60), (0.76, 0.60), (0.95, 0.72)):
        _pine(pen, x, 0.76, h, (54, 122, 76))
    _hills(pen, 0.74, 0.015, 1.2, 0.5, (92, 142, 66))
    _hills(pen, 0.84, 0.015, 0.9, 2.6, (116, 160, 78))


def _city(pen: ImageDraw.ImageDraw) -> None:
    blocks = ((0.0, 0.14, 0.36), (0.13, 0.14, 0.20), (0.28, 0.13, 0.42), (0.60, 0.12, 0.38), (0.73, 0.14, 0.16))
    for left, width, top in (*blocks, (0.88, 0.14, 0.32)):
        pen.rectangle((left * BIG, top * BIG, (left + width - 0.01) * BIG, 0.80 * BIG), fill=(122, 142, 176))
        for row in range(8):
            for column in range(3):
                x, y = left + 0.02 + column * 0.038, top + 0.035 + row * 0.06
                if y < 0.74:
                    pen.rectangle((x * BIG, y * BIG, (x + 0.02) * BIG, (y + 0.03) * BIG), fill=(250, 230, 150))
    pen.rectangle((0, 0.78 * BIG, BIG, 0.82 * BIG), fill=(196, 198, 204))
    pen.rectangle((0, 0.82 * BIG, BIG, BIG), fill=(96, 100, 110))
    for x in range(5):
        pen.rectangle(((x * 0.24 - 0.02) * BIG, 0.945 * BIG, (x * 0.24 + 0.08) * BIG, 0.96 * BIG), fill=(244, 244, 240))


def _room(pen: ImageDraw.ImageDraw) -> None:
    pen.rectangle((0, 0.72 * BIG, BIG, BIG), fill=(198, 152, 108))
    for y in (0.78, 0.86, 0.95):
        pen.line((0, y * BIG, BIG, y * BIG), fill=(180, 134, 92), width=3)
    pen.rectangle((0, 0.70 * BIG, BIG, 0.725 * BIG), fill=(250, 246, 238))
    window, frame = (0.08 * BIG, 0.10 * BIG, 0.34 * BIG, 0.42 * BIG), (0.70 * BIG, 0.14 * BIG, 0.90 * BIG, 0.32 * BIG)
    pen.rectangle(window, fill=(164, 212, 240), outline=(255, 255, 255), width=12)
    pen.line((0.21 * BIG, 0.10 * BIG, 0.21 * BIG, 0.42 * BIG), fill=(255, 255, 255), width=8)
    pen.rectangle(frame, fill=(240, 168, 130), outline=(140, 96, 64), width=8)
    pen.ellipse((0.10 * BIG, 0.80 * BIG, 0.90 * BIG, 0.98 * BIG), fill=(214, 110, 104))


def _mountain(pen: ImageDraw.ImageDraw) -> None:
    _cloud(pen, 0.18, 0.16, 0.055)
    for x, top, half, colour in ((0.22, 0.26, 0.36, (134, 154, 186)), (0.78, 0.20, 0.40, (112, 134, 170))):
        pen.polygon([((x - half) * BIG, 0.75 * BIG), (x * BIG, top * BIG), ((x + half) * BIG, 0.75 * BIG)], fill=colour)
        cap = [(-0.26, 0.26), (0, 0), (0.26, 0.26), (0.13, 0.21), (0.0, 0.28), (-0.13, 0.21)]
        slope = 0.75 - top
        pen.polygon([((x + dx * half) * BIG, (top + dy * slope) * BIG) for dx, dy in cap], fill=(250, 252, 255))
    _hills(pen, 0.70, 0.025, 0.9, 0.4, (120, 172, 104))
    _hills(pen, 0.80, 0.02, 0.8, 2.2, (98, 154, 84))


def _table(pen: ImageDraw.ImageDraw) -> None:
    pen.rectangle((0, 0.60 * BIG, BIG, BIG), fill=(188, 134, 86))
    pen.rectangle((0, 0.60 * BIG, BIG, 0.615 * BIG), fill=(222, 176, 128))
    for y, long in ((0.68, 0.5), (0.76, 0.8), (0.85, 0.6), (0.93, 0.9)):
        pen.line(
            ((1 - long) * 0.4 * BIG, y * BIG, ((1 - long) * 0.4 + long) * BIG, y * BIG), fill=(172, 118, 72), width=3
        )


def _beach(pen: ImageDraw.ImageDraw) -> None:
    _cloud(pen, 0.24, 0.17, 0.065)
    _cloud(pen, 0.74, 0.24, 0.05)
    pen.rectangle((0, 0.46 * BIG, BIG, BIG), fill=(48, 146, 206))
    _hills(pen, 0.55, 0.008, 2.6, 0.3, (74, 172, 218))
    _hills(pen, 0.645, 0.02, 1.3, 0.9, (226, 246, 250))
    _hills(pen, 0.665, 0.02, 1.3, 0.9, (244, 220, 168))


def _underwater(pen: ImageDraw.ImageDraw) -> None:
    for left, width in ((0.08, 0.10), (0.34, 0.06), (0.56, 0.12), (0.84, 0.07)):
        corners = [(left, 0), (left + width, 0), (left + width * 1.8 - 0.12, 0.85), (left - 0.18, 0.85)]
        pen.polygon([(x * BIG, y * BIG) for x, y in corners], fill=(58, 150, 204))
    _hills(pen, 0.84, 0.02, 0.9, 0.5, (206, 184, 132))
    _hills(pen, 0.91, 0.015, 1.2, 2.5, (226, 204, 150))
    rng = random.Random(5)
    for x in (0.05, 0.12, 0.20, 0.80, 0.89, 0.96):
        top = 0.55 + 0.2 * rng.random()
        for step in range(12):
            y = 0.90 - (0.90 - top) * step / 11
            _disc(pen, x + 0.014 * math.sin(step * 1.2 + x * 20), y, 0.016 - 0.0008 * step, (34, 128, 96))
    for _ in range(26):
        _disc(pen, rng.random(), rng.random() * 0.8, 0.004 + 0.007 * rng.random(), (176, 224, 244))


def _space(pen: ImageDraw.ImageDraw) -> None:
    rng = random.Random(6)
    for _ in range(90):
        _disc(pen, rng.random(), rng.random() * 0.8, 0.0025 + 0.005 * rng.random(), (252, 250, 228))
    _disc(pen, 0.5, 1.72, 0.94, (150, 152, 164))
    for x, y, r in ((0.2, 0.93, 0.035), (0.44, 0.87, 0.028), (0.72, 0.91, 0.045), (0.56, 0.97, 0.03)):
        pen.ellipse(((x - r) * BIG, (y - r * 0.4) * BIG, (x + r) * BIG, (y + r * 0.4) * BIG), fill=(124, 126, 140))


Drawer = Callable[[ImageDraw.ImageDraw], None]
DRAWERS: Mapping[str, tuple[RGB, RGB, float, Drawer]] = {
    "grass": ((120, 196, 246), (214, 240, 255), 0.6, _grass),
    "sea": ((126, 198, 246), (222, 242, 252), 0.55, _sea),
    "snow": ((164, 196, 228), (222, 234, 246), 0.7, _snow),
    "desert": ((112, 186, 236), (250, 226, 178), 0.62, _desert),
    "night": ((10, 14, 48), (40, 50, 110), 0.85, _night),
    "sunset": ((110, 64, 130), (255, 150, 84), 0.66, _sunset),
    "forest": ((206, 232, 214), (226, 242, 214), 0.6, _forest),
    "city": ((150, 200, 240), (224, 238, 250), 0.7, _city),
    "room": ((246, 226, 196), (240, 214, 180), 0.7, _room),
    "mountain": ((132, 190, 240), (232, 244, 252), 0.65, _mountain),
    # no scenes of the training data: places of descriptions
    "table": ((250, 238, 216), (244, 224, 194), 0.6, _table),
    "beach": ((112, 190, 244), (220, 240, 252), 0.5, _beach),
    "underwater": ((86, 186, 228), (18, 84, 148), 0.9, _underwater),
    "space": ((8, 10, 34), (28, 26, 66), 0.8, _space),
}


@lru_cache(maxsize=len(DRAWERS))
def backdrop(scene: str, side: int = SIDE) -> Image.Image:
    """The RGB [side x side] picture of a scene; copy it before drawing on it."""
    top, bottom, height, draw = DRAWERS[scene]
    image = _sky(top, bottom, height)
    draw(ImageDraw.Draw(image))
    return image.resize((side, side), Image.Resampling.LANCZOS)


def in_mood(picture: Image.Image, mood: Mood, chance: Chance) -> Image.Image:
    """A backdrop in the light and the weather that are said."""
    if mood.light in _LIGHTS:
        picture = ImageChops.multiply(picture, Image.new("RGB", picture.size, _LIGHTS[mood.light]))
    if mood.weather in _WEATHERS:
        picture = ImageChops.multiply(picture, Image.new("RGB", picture.size, _WEATHERS[mood.weather]))
    if mood.weather == "mist":
        picture = Image.blend(picture, Image.new("RGB", picture.size, (238, 242, 246)), 0.42)
    side, pen = picture.width, ImageDraw.Draw(picture)
    for _ in range(90 if mood.weather in ("rain", "snow") else 0):
        x, y, size = chance.uniform() * side, chance.uniform() * side, chance.uniform(0.003, 0.009) * side
        if mood.weather == "snow":
            pen.ellipse((x - size, y - size, x + size, y + size), fill=(250, 252, 255))
        else:
            pen.line((x, y, x - side * 0.018, y + side * 0.07), fill=(226, 238, 248), width=max(1, round(side / 128)))
    return picture
