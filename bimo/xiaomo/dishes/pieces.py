"""How one piece of an ingredient looks, by its shape: shreds, cubes, balls, prawns, dumplings and so on.

Every shape is drawn around (x, y) with a half length of about `size`, turned by `angle`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from bimo.xiaomo.chance import Chance
from bimo.xiaomo.dishes.table import RGB, Ingredient
from bimo.xiaomo.scenes.description import Scene
from bimo.xiaomo.scenes.geometry import Path, arc, blob, ellipse, petal, smooth, turned, xy

Points = list[tuple[float, float]]


def mixed(colour: RGB, other: RGB, share: float) -> RGB:
    """A colour with some of another in it."""
    return (
        round(colour[0] + (other[0] - colour[0]) * share),
        round(colour[1] + (other[1] - colour[1]) * share),
        round(colour[2] + (other[2] - colour[2]) * share),
    )


def darker(colour: RGB, share: float = 0.45) -> RGB:
    """A colour in shade, a little warmer than black."""
    return mixed(colour, (34, 16, 10), share)


def lighter(colour: RGB, share: float = 0.4) -> RGB:
    """A colour in the light."""
    return mixed(colour, (255, 250, 238), share)


@dataclass(frozen=True)
class Place:
    """Where a piece lies, and the chance that belongs to it; `flat` is how much the view from the side squashes it."""

    scene: Scene
    chance: Chance
    x: float
    y: float
    size: float
    angle: float
    flat: float
    tint: RGB

    def at(self, points: Points | Path) -> Path:
        """Points of a unit frame, turned, squashed and put there."""
        made = turned(np.asarray(points, np.float32), 0, 0, self.angle, self.size)
        return made * np.array([1, self.flat], np.float32) + np.array([self.x, self.y], np.float32)

    def upright(self, points: Points | Path) -> Path:
        """Points of a unit frame that are not turned: what stands."""
        return np.asarray(points, np.float32) * np.float32(self.size) + np.array([self.x, self.y], np.float32)

    def body(self, *outlines: Path, tint: RGB | None = None, into: RGB | None = None, shade: bool = True) -> None:
        """Fills with a dark edge below, as it lies on others."""
        tint = tint or self.tint
        if shade:
            drop = np.array([0.0, 0.004 + 0.03 * self.size], np.float32)
            self.scene.fill("food", *(one + drop for one in outlines), tint=darker(tint, 0.6), strength=0.7, rough=0.2)
        self.scene.fill("food", *outlines, tint=tint, into_tint=into, rough=0.3)

    def lines(self, paths: list[Path], width: float, tint: RGB, strength: float = 0.9) -> None:
        """Drawn lines, their width of the piece's size."""
        self.scene.line("food_line", paths, max(0.0016, width * self.size), tint=tint, rough=0.1, strength=strength)

    def gloss(self, x: float = -0.3, y: float = -0.3, size: float = 0.22) -> None:
        """A light that the wet surface throws back, up and to the left."""
        self.scene.fill(
            "gloss",
            ellipse(self.x + x * self.size, self.y + y * self.size, self.size * size, self.size * size * 0.55, 10),
            strength=0.55,
            rough=0.0,
        )


def _long(place: Place, length: float, width: float, bend: float) -> None:
    k = place.chance.normal(bend)
    middle = smooth(place.at([(-length, 0), (-length * 0.3, k), (length * 0.35, k * 0.6), (length, -k * 0.4)]), 12)
    drop = np.array([0.0, 0.003 + 0.02 * place.size], np.float32)
    wide = width * place.size
    line = place.scene.line
    line("food", [middle + drop], wide, wide * 0.8, tint=darker(place.tint, 0.6), strength=0.7, rough=0.2)
    line("food", [middle], wide, wide * 0.8, tint=place.tint, rough=0.2)
    shine = middle - np.array([0.0, wide * 0.22], np.float32)
    line("food_line", [shine[2:-2]], wide * 0.24, tint=lighter(place.tint, 0.45), strength=0.7, rough=0.1)


def shred(place: Place) -> None:
    """丝."""
    _long(place, 1.0, 0.24, 0.28)


def strip(place: Place) -> None:
    """条."""
    _long(place, 0.9, 0.42, 0.16)


def noodle(place: Place) -> None:
    """One noodle that winds."""
    bend = place.chance.bell(0.5, 4)
    middle = smooth(place.at([(-1.6, bend[0]), (-0.6, bend[1]), (0.4, bend[2]), (1.5, bend[3])]), 18)
    wide = 0.15 * place.size
    low = np.array([0.0, wide * 0.5], np.float32)
    place.scene.line("food", [middle + low], wide, tint=darker(place.tint, 0.42), rough=0.1, strength=0.8)
    place.scene.line("food", [middle], wide, tint=place.tint, rough=0.1)


def dice(place: Place) -> None:
    """丁: a small cube."""
    _cube(place, 0.52)


def cube(place: Place) -> None:
    """块: a cube with a lit top."""
    _cube(place, 0.72)


def _cube(place: Place, size: float) -> None:
    turn = place.angle % (math.pi / 2)
    corners = [
        (math.cos(turn + k * math.pi / 2) * size, math.sin(turn + k * math.pi / 2) * size * 0.62) for k in range(4)
    ]
    top = place.upright(corners)
    down = np.array([0, size * 0.72 * place.size], np.float32)
    order = np.argsort(top[:, 1])
    left, right = sorted(order[1:3], key=lambda k: float(top[k, 0]))
    front = order[3]
    faces = (
        np.stack([top[left], top[front], top[front] + down, top[left] + down]),
        np.stack([top[front], top[right], top[right] + down, top[front] + down]),
    )
    place.scene.fill(
        "food",
        np.concatenate([faces[0], faces[1]]) + np.array([0, 0.004], np.float32),
        tint=darker(place.tint, 0.7),
        strength=0.6,
        rough=0.2,
    )
    place.scene.fill("food", faces[0], tint=darker(place.tint, 0.16), rough=0.25)
    place.scene.fill("food", faces[1], tint=darker(place.tint, 0.32), rough=0.25)
    place.scene.fill("food", top, tint=lighter(place.tint, 0.18), rough=0.25)


def belly(place: Place) -> None:
    """A cube of pork belly: dark skin above, fat and lean in layers on its sides."""
    size = 0.74
    turn = 0.5 + 0.5 * (place.angle % 0.6)
    top = place.upright(
        [(math.cos(turn + k * math.pi / 2) * size, math.sin(turn + k * math.pi / 2) * size * 0.6) for k in range(4)]
    )
    order = np.argsort(top[:, 1])
    left, right = sorted(order[1:3], key=lambda k: float(top[k, 0]))
    front, tall = order[3], size * 0.95 * place.size
    lean, fat = place.tint, mixed(place.tint, (244, 214, 170), 0.68)
    place.scene.fill(
        "food",
        np.stack([top[left], top[right], top[right], top[front], top[left]]) + np.array([0, tall + 0.004], np.float32),
        tint=darker(lean, 0.7),
        strength=0.6,
        rough=0.3,
    )
    for k, (begin, end, tint) in enumerate(
        (
            (0.0, 0.14, darker(lean, 0.2)),
            (0.14, 0.38, fat),
            (0.38, 0.56, lean),
            (0.56, 0.74, fat),
            (0.74, 1.0, darker(lean, 0.1)),
        )
    ):
        for number, (a, b) in enumerate(((left, front), (front, right))):
            shade = 0.05 + 0.16 * number + 0.02 * k
            up, low = np.array([0, tall * begin], np.float32), np.array([0, tall * end], np.float32)
            place.scene.fill(
                "food",
                np.stack([top[a] + up, top[b] + up, top[b] + low, top[a] + low]),
                tint=darker(tint, shade),
                rough=0.3,
            )
    place.scene.fill("food", top, tint=mixed(lean, (150, 60, 24), 0.3), rough=0.3)
    place.gloss(-0.12, -0.12, 0.30)


def nut(place: Place) -> None:
    """A nut, a pea, a date."""
    place.body(place.at(ellipse(0, 0, 0.52, 0.38, 14)))
    place.gloss(-0.14, -0.16, 0.16)


def chilli(place: Place) -> None:
    """辣椒."""
    middle = smooth(place.at([(-0.9, 0), (-0.3, 0.14), (0.4, 0.05), (1.0, -0.22)]), 12)
    place.scene.line(
        "food",
        [middle + np.array([0, 0.004], np.float32)],
        0.40 * place.size,
        0.06 * place.size,
        tint=darker(place.tint, 0.65),
        strength=0.7,
        rough=0.2,
    )
    place.scene.line("food", [middle], 0.40 * place.size, 0.06 * place.size, tint=place.tint, rough=0.2)
    place.scene.line(
        "food_line",
        [middle[1:8] - np.array([0, 0.08 * place.size], np.float32)],
        0.08 * place.size,
        tint=lighter(place.tint, 0.5),
        rough=0.1,
    )
    place.scene.line("food", [place.at([(-0.86, 0), (-1.15, -0.08)])], 0.10 * place.size, tint=(92, 96, 44), rough=0.1)


def ring(place: Place) -> None:
    """A small ring: scallion, chilli."""
    place.scene.fill("food", place.at(ellipse(0, 0, 0.9, 0.9, 12)), tint=darker(place.tint, 0.15), rough=0.1)
    place.scene.fill("food", place.at(ellipse(0, 0, 0.42, 0.42, 10)), tint=lighter(place.tint, 0.55), rough=0.1)


def crumb(place: Place) -> None:
    """A crumb."""
    place.body(place.at(blob(place.chance, 0, 0, 0.8, 0.6, 0.35, 9)), shade=place.size > 0.012)


def fatslice(place: Place) -> None:
    """A slice of belly pork, curled, with its band of fat."""
    place.body(
        place.at(
            [
                (-0.95, -0.2),
                (-0.5, -0.42),
                (0.2, -0.36),
                (0.95, -0.48),
                (1.0, -0.05),
                (0.5, 0.24),
                (-0.3, 0.20),
                (-0.9, 0.32),
            ]
        )
    )
    fat = mixed(place.tint, (248, 226, 190), 0.7)
    place.scene.fill(
        "food",
        place.at(
            [
                (-0.92, -0.02),
                (-0.3, -0.16),
                (0.4, -0.12),
                (0.98, -0.24),
                (0.96, -0.04),
                (0.4, 0.06),
                (-0.3, 0.04),
                (-0.9, 0.14),
            ]
        ),
        tint=fat,
        rough=0.3,
    )
    place.gloss(-0.3, -0.22, 0.16)


def slice_(place: Place) -> None:
    """片."""
    outline = place.at(blob(place.chance, 0, 0, 0.92, 0.55, 0.22, 14))
    place.body(outline, into=darker(place.tint, 0.14))
    place.lines(
        [smooth(place.at([(-0.7, k), (0, k - 0.06), (0.7, k + 0.04)]), 7) for k in (-0.14, 0.14)],
        0.05,
        lighter(place.tint, 0.45),
        0.6,
    )


def roll(place: Place) -> None:
    """A rolled slice: red with white fat."""
    place.body(place.at([(-0.9, -0.3), (0.7, -0.42), (0.95, 0.0), (0.75, 0.42), (-0.85, 0.34)]))
    place.lines(
        [place.at([(-0.8, k), (0.6, k - 0.06)]) for k in (-0.14, 0.06, 0.22)],
        0.11,
        mixed(place.tint, (252, 236, 226), 0.75),
    )
    end = ellipse(0.72, 0, 0.24, 0.42, 14)
    place.body(place.at(end), tint=lighter(place.tint, 0.45), shade=False)
    place.lines([place.at(arc(0.72, 0, 0.13, 0.24, 0, 5.4, 12))], 0.07, place.tint)


def coin(place: Place) -> None:
    """A round slice with its skin."""
    place.body(place.at(ellipse(0, 0, 0.72, 0.72, 18)), tint=darker(place.tint, 0.24))
    place.scene.fill("food", place.at(ellipse(-0.02, -0.03, 0.60, 0.60, 18)), tint=lighter(place.tint, 0.22), rough=0.2)


def lotus(place: Place) -> None:
    """A slice of lotus root with its holes."""
    coin(place)
    holes = [place.at(ellipse(0.36 * math.cos(k), 0.36 * math.sin(k), 0.11, 0.11, 8)) for k in np.arange(7) * 0.898]
    place.scene.fill("food", *holes, place.at(ellipse(0, 0, 0.07, 0.07, 8)), tint=darker(place.tint, 0.5), rough=0.1)


def wedge(place: Place) -> None:
    """A wedge of tomato."""
    place.body(
        place.at([(-0.9, 0.0), (-0.6, -0.46), (0.0, -0.62), (0.6, -0.46), (0.9, 0.0), (0.4, 0.18), (-0.4, 0.18)])
    )
    place.scene.fill(
        "food",
        place.at([(-0.6, 0.02), (-0.3, -0.26), (0.3, -0.26), (0.6, 0.02), (0, 0.12)]),
        tint=lighter(place.tint, 0.35),
        rough=0.3,
    )
    place.scene.fill(
        "food",
        *[place.at(ellipse(k, -0.06, 0.07, 0.05, 6)) for k in (-0.25, 0.0, 0.25)],
        tint=(250, 226, 150),
        rough=0.1,
    )
    place.gloss(-0.2, -0.42, 0.18)


def curd(place: Place) -> None:
    """A soft lump, as of scrambled egg."""
    lobes = [blob(place.chance, k * 0.45, place.chance.normal(0.12), 0.5, 0.42, 0.3, 11) for k in (-1, 0.1, 1)]
    place.body(*[place.at(one) for one in lobes])
    place.scene.fill(
        "food", place.at(blob(place.chance, -0.1, -0.12, 0.42, 0.22, 0.3, 9)), tint=lighter(place.tint, 0.45), rough=0.3
    )


def frill(place: Place) -> None:
    """A frilled leaf: wood ear, white fungus, tripe."""
    place.body(place.at(blob(place.chance, 0, 0, 0.85, 0.66, 0.55, 16)))
    place.lines(
        [smooth(place.at([(-0.6, 0.1), (-0.1, -0.2 + k), (0.5, k)]), 8) for k in (-0.12, 0.16)],
        0.07,
        lighter(place.tint, 0.3),
        0.8,
    )
    place.gloss(-0.15, -0.25, 0.13)


def bokchoy(place: Place) -> None:
    """A head of greens: white stalk, green leaves."""
    place.body(
        place.at(petal(-0.2, 0.04, -0.35, 1.2, 0.62)),
        place.at(petal(-0.2, -0.04, 0.35, 1.2, 0.62)),
        place.at(petal(-0.2, 0, 0, 1.35, 0.66)),
    )
    place.body(
        place.at([(-1.0, -0.26), (-0.5, -0.24), (0.1, -0.12), (0.4, 0), (0.1, 0.12), (-0.5, 0.24), (-1.0, 0.26)]),
        tint=mixed(place.tint, (240, 246, 216), 0.72),
        shade=False,
    )
    place.lines(
        [place.at([(-0.9, k), (0.1, k * 0.5)]) for k in (-0.12, 0.12)], 0.035, mixed(place.tint, (190, 214, 140), 0.5)
    )
    place.lines([place.at([(0.2, 0), (1.0, k)]) for k in (-0.24, 0, 0.24)], 0.03, lighter(place.tint, 0.4), 0.7)


def leafy(place: Place) -> None:
    """A crinkled leaf."""
    place.body(place.at(blob(place.chance, 0, 0, 1.0, 0.62, 0.34, 18)), into=darker(place.tint, 0.12))
    place.lines(
        [
            place.at([(-0.9, 0), (0.8, 0)]),
            *[place.at([(k, 0), (k + 0.3, s * 0.4)]) for k in (-0.5, 0.0, 0.4) for s in (-1, 1)],
        ],
        0.05,
        lighter(place.tint, 0.5),
        0.8,
    )


def broccoli(place: Place) -> None:
    """A floret."""
    place.body(
        place.upright([(-0.2, 0.0), (-0.14, 0.62), (0.14, 0.62), (0.2, 0.0)]),
        tint=mixed(place.tint, (206, 220, 150), 0.55),
    )
    for dx, dy, r in (
        (-0.42, -0.02, 0.36),
        (0.42, -0.02, 0.36),
        (-0.18, -0.30, 0.36),
        (0.22, -0.30, 0.36),
        (0, -0.05, 0.40),
    ):
        place.body(place.upright(blob(place.chance, dx, dy, r, r * 0.85, 0.25, 12)), shade=False)
    dots = [
        place.upright(ellipse(place.chance.normal(0.36), -0.16 + place.chance.normal(0.2), 0.06, 0.05, 6))
        for _ in range(14)
    ]
    place.scene.fill("food", *dots, tint=lighter(place.tint, 0.28), rough=0.1)


def mushroom(place: Place) -> None:
    """A shiitake cap with its cut cross."""
    place.body(place.at(ellipse(0, 0, 0.85, 0.72, 18)), into=darker(place.tint, 0.25))
    place.lines(
        [place.at([(-0.45, 0), (0.45, 0)]), place.at([(0, -0.4), (0, 0.4)])],
        0.12,
        mixed(place.tint, (240, 222, 190), 0.75),
    )


def rib(place: Place) -> None:
    """A rib with the end of its bone."""
    place.body(
        place.at([(-0.75, -0.3), (-0.2, -0.44), (0.5, -0.34), (0.78, 0.02), (0.5, 0.38), (-0.2, 0.42), (-0.78, 0.26)]),
        into=darker(place.tint, 0.2),
    )
    place.body(place.at(ellipse(0.80, 0.02, 0.17, 0.22, 12)), tint=(236, 216, 186), shade=False)
    place.scene.fill("food", place.at(ellipse(0.82, 0.02, 0.07, 0.10, 8)), tint=(176, 120, 90), rough=0.1)
    place.gloss(-0.25, -0.24, 0.24)


def chunk(place: Place) -> None:
    """An uneven lump."""
    place.body(place.at(blob(place.chance, 0, 0, 0.78, 0.62, 0.3, 11)), into=darker(place.tint, 0.22))
    place.scene.fill(
        "food",
        place.at(blob(place.chance, -0.12, -0.16, 0.4, 0.24, 0.3, 9)),
        tint=lighter(place.tint, 0.24),
        strength=0.8,
        rough=0.3,
    )
    place.gloss(-0.22, -0.3, 0.15)


def wing(place: Place) -> None:
    """A chicken wing."""
    place.body(
        smooth(
            place.at(
                [
                    (-0.95, -0.1),
                    (-0.6, -0.42),
                    (0.0, -0.36),
                    (0.5, -0.5),
                    (0.95, -0.28),
                    (0.86, 0.02),
                    (0.45, 0.06),
                    (0.1, 0.34),
                    (-0.5, 0.36),
                    (-0.95, -0.1),
                ]
            ),
            34,
        ),
        into=darker(place.tint, 0.25),
    )
    place.lines([smooth(place.at([(0.05, -0.3), (0.16, 0.0), (0.1, 0.28)]), 7)], 0.06, darker(place.tint, 0.35))
    place.gloss(-0.4, -0.2, 0.26)


def skinslice(place: Place) -> None:
    """A slice with glossy skin above pale meat: roast duck, poached chicken."""
    meat = mixed(place.tint, (242, 216, 180), 0.72)
    place.body(place.at([(-0.95, -0.24), (0.9, -0.34), (1.0, 0.3), (-0.9, 0.42)]), tint=meat)
    place.scene.fill(
        "food",
        place.at(
            [
                (-0.97, -0.34),
                (-0.3, -0.50),
                (0.4, -0.52),
                (0.94, -0.42),
                (0.98, -0.02),
                (0.3, -0.06),
                (-0.4, -0.02),
                (-0.96, 0.06),
            ]
        ),
        tint=place.tint,
        into_tint=darker(place.tint, 0.15),
        rough=0.3,
    )
    place.gloss(-0.25, -0.34, 0.26)


def ball(place: Place) -> None:
    """丸."""
    place.body(place.upright(ellipse(0, -0.15, 0.72, 0.68, 22)), into=darker(place.tint, 0.3))
    if place.size > 0.05:
        bumps = [
            place.upright(
                blob(place.chance, place.chance.normal(0.32), -0.15 + place.chance.normal(0.28), 0.12, 0.08, 0.4, 8)
            )
            for _ in range(10)
        ]
        place.scene.fill("food", *bumps[:5], tint=darker(place.tint, 0.18), strength=0.8, rough=0.3)
        place.scene.fill("food", *bumps[5:], tint=lighter(place.tint, 0.18), strength=0.8, rough=0.3)
    place.gloss(-0.22, -0.42, 0.18)


def prawn(place: Place) -> None:
    """A curled prawn with its rings, tail and feelers."""
    turn = np.linspace(0.5, 4.3, 14, dtype=np.float32)
    middle = np.stack([0.55 * np.cos(turn), 0.55 * np.sin(turn)], 1)
    width = np.linspace(0.42, 0.20, 14, dtype=np.float32)[:, None]
    out = middle * (1 + width / 0.55 * 0.5)
    inner = middle * (1 - width / 0.55 * 0.5)
    tail = place.at(
        [
            xy(middle[-1]),
            (float(middle[-1, 0]) + 0.42, float(middle[-1, 1]) - 0.28),
            (float(middle[-1, 0]) + 0.5, float(middle[-1, 1]) + 0.02),
            (float(middle[-1, 0]) + 0.34, float(middle[-1, 1]) + 0.18),
        ]
    )
    feelers = [smooth(place.at([(0.5, 0.3), (0.9, 0.5 + k), (1.35, 0.35 + k)]), 8) for k in (0.0, 0.22)]
    if place.size > 0.03:
        place.scene.line(
            "food", feelers, 0.05 * place.size, 0.02 * place.size, tint=darker(place.tint, 0.15), rough=0.1
        )
    place.body(tail, tint=darker(place.tint, 0.12))
    place.body(place.at(np.concatenate([out, inner[::-1]])))
    rings = [np.stack([place.at(out[k : k + 1])[0], place.at(inner[k : k + 1])[0]]) for k in range(3, 13, 2)]
    place.lines(rings, 0.07, lighter(place.tint, 0.5), 0.85)
    place.scene.fill(
        "food",
        place.at(ellipse(float(middle[0, 0]) * 1.1, float(middle[0, 1]) * 0.9, 0.07, 0.07, 8)),
        tint=(24, 18, 20),
        rough=0.0,
    )


def crayfish(place: Place) -> None:
    """A crayfish with its two claws."""
    for s in (-1, 1):
        arm = smooth(place.at([(0.4, s * 0.12), (0.75, s * 0.42), (1.0, s * 0.34)]), 8)
        place.scene.line("food", [arm], 0.11 * place.size, tint=darker(place.tint, 0.1), rough=0.1)
        place.body(place.at(petal(0.92, s * 0.36, -s * 0.15, 0.62, 0.30)))
        place.lines(
            [place.at([(0.2 - k * 0.18, s * 0.2), (0.25 - k * 0.2, s * 0.52)]) for k in range(3)],
            0.06,
            darker(place.tint, 0.1),
        )
    place.body(
        place.at(
            [
                (-1.0, -0.22),
                (-0.72, -0.10),
                (0.0, -0.26),
                (0.48, -0.22),
                (0.68, 0.0),
                (0.48, 0.22),
                (0.0, 0.26),
                (-0.72, 0.10),
                (-1.0, 0.22),
                (-0.92, 0.0),
            ]
        )
    )
    place.lines(
        [place.at([(k, -0.2), (k + 0.05, 0), (k, 0.2)]) for k in (-0.6, -0.4, -0.2, 0.0)], 0.06, darker(place.tint, 0.4)
    )
    place.gloss(0.2, -0.14, 0.12)


def crab(place: Place) -> None:
    """A crab from above: shell, eight legs, two claws."""
    for s in (-1, 1):
        legs = [
            smooth(place.upright([(s * 0.34, k), (s * 0.74, k - 0.10 + 0.1 * n), (s * 0.92, k + 0.16)]), 8)
            for n, k in enumerate((-0.08, 0.06, 0.2))
        ]
        place.scene.line("food", legs, 0.09 * place.size, 0.03 * place.size, tint=darker(place.tint, 0.1), rough=0.1)
        claw = smooth(place.upright([(s * 0.34, -0.16), (s * 0.62, -0.36), (s * 0.44, -0.52)]), 8)
        place.scene.line("food", [claw], 0.12 * place.size, tint=darker(place.tint, 0.05), rough=0.1)
        place.body(place.upright(petal(s * 0.48, -0.46, math.pi + 0.9 if s > 0 else -0.9, 0.42, 0.22)))
    place.body(
        smooth(
            place.upright(
                [
                    (-0.46, -0.05),
                    (-0.34, -0.26),
                    (0, -0.32),
                    (0.34, -0.26),
                    (0.46, -0.05),
                    (0.3, 0.24),
                    (0, 0.30),
                    (-0.3, 0.24),
                    (-0.46, -0.05),
                ]
            ),
            36,
        ),
        into=darker(place.tint, 0.2),
    )
    place.lines(
        [smooth(place.upright([(-0.22, 0.0), (-0.08, 0.10), (0.08, 0.10), (0.22, 0.0)]), 9)],
        0.03,
        darker(place.tint, 0.4),
    )
    place.scene.fill(
        "food", *[place.upright(ellipse(k, -0.31, 0.035, 0.045, 8)) for k in (-0.1, 0.1)], tint=(20, 16, 18), rough=0.0
    )
    place.gloss(-0.14, -0.16, 0.12)


def clam(place: Place) -> None:
    """A shell, open."""
    turn = np.linspace(math.pi, math.tau, 14, dtype=np.float32)
    shell = np.concatenate(
        [np.stack([0.75 * np.cos(turn), 0.7 * np.sin(turn)], 1), np.array([[0.15, 0.2], [-0.15, 0.2]], np.float32)]
    )
    place.body(place.at(shell), into=darker(place.tint, 0.2))
    place.lines(
        [place.at([(0, 0.15), (0.68 * math.cos(k), 0.62 * math.sin(k))]) for k in (-2.7, -2.1, -1.57, -1.0, -0.45)],
        0.05,
        darker(place.tint, 0.3),
        0.7,
    )
    place.body(place.at(ellipse(0.05, 0.16, 0.42, 0.18, 12)), tint=(232, 178, 112), shade=False)


def fish(place: Place) -> None:
    """A whole fish with cuts across its side."""
    _fish(place)
    place.lines(
        [smooth(place.upright([(k, -0.18), (k + 0.05, 0.0), (k - 0.02, 0.18)]), 7) for k in (-0.28, -0.08, 0.12, 0.32)],
        0.022,
        darker(place.tint, 0.4),
    )


def squirrelfish(place: Place) -> None:
    """A fish whose meat is cut to stand up like fur, in sweet and sour sauce."""
    _fish(place)
    for row in range(4):
        for k in range(11):
            x, y = -0.42 + 0.085 * k + place.chance.normal(0.012), -0.14 + 0.085 * row
            spike = place.upright(petal(x, y + 0.03, -math.pi / 2 + place.chance.normal(0.25), 0.13, 0.075))
            place.scene.fill(
                "food",
                spike,
                tint=place.tint if (row + k) % 2 else (232, 140, 50),
                into_tint=darker(place.tint, 0.2),
                rough=0.1,
            )


def _fish(place: Place) -> None:
    side = 1.0 if math.cos(place.angle) >= 0 else -1.0
    points = [
        (-0.55, 0.0),
        (-0.34, -0.19),
        (0.05, -0.25),
        (0.4, -0.20),
        (0.62, -0.09),
        (0.70, 0.02),
        (0.60, 0.12),
        (0.36, 0.20),
        (0.0, 0.23),
        (-0.36, 0.15),
    ]
    tail = place.upright([(-0.50 * side, 0.0), (-0.78 * side, -0.20), (-0.70 * side, 0.0), (-0.80 * side, 0.18)])
    place.body(tail, tint=darker(place.tint, 0.15))
    place.body(
        place.upright([(-0.1 * side, -0.22), (0.02 * side, -0.34), (0.3 * side, -0.22)]), tint=darker(place.tint, 0.2)
    )
    outline = smooth(place.upright([(x * side, y) for x, y in [*points, points[0]]]), 44)
    place.body(outline, into=lighter(place.tint, 0.25))
    place.lines(
        [smooth(place.upright([(0.42 * side, -0.18), (0.36 * side, 0.0), (0.42 * side, 0.16)]), 8)],
        0.025,
        darker(place.tint, 0.5),
    )
    place.scene.fill(
        "food", place.upright(ellipse(0.54 * side, -0.05, 0.042, 0.042, 12)), tint=(250, 246, 236), rough=0.0
    )
    place.scene.fill("food", place.upright(ellipse(0.54 * side, -0.05, 0.024, 0.024, 10)), tint=(20, 18, 22), rough=0.0)


def fishhead(place: Place) -> None:
    """The head of a fish, split and laid flat."""
    for s in (-1, 1):
        place.body(
            smooth(
                place.upright(
                    [(0, -0.5), (s * 0.36, -0.40), (s * 0.56, -0.05), (s * 0.46, 0.30), (0, 0.38), (0, -0.5)]
                ),
                30,
            ),
            into=darker(place.tint, 0.2),
        )
        place.scene.fill(
            "food", place.upright(ellipse(s * 0.26, -0.2, 0.06, 0.06, 12)), tint=(248, 244, 232), rough=0.0
        )
        place.scene.fill("food", place.upright(ellipse(s * 0.26, -0.2, 0.032, 0.032, 10)), tint=(24, 20, 22), rough=0.0)
        place.lines(
            [smooth(place.upright([(s * 0.2, 0.02), (s * 0.42, 0.1), (s * 0.4, 0.28)]), 8)],
            0.025,
            darker(place.tint, 0.45),
        )


def duck(place: Place) -> None:
    """A whole roast bird."""
    place.body(
        smooth(
            place.upright(
                [
                    (-0.62, 0.12),
                    (-0.56, -0.16),
                    (-0.26, -0.33),
                    (0.16, -0.34),
                    (0.46, -0.20),
                    (0.62, 0.02),
                    (0.52, 0.22),
                    (0.1, 0.30),
                    (-0.36, 0.28),
                    (-0.62, 0.12),
                ]
            ),
            44,
        ),
        into=darker(place.tint, 0.35),
    )
    place.body(
        smooth(
            place.upright(
                [
                    (0.16, -0.02),
                    (0.42, -0.10),
                    (0.62, 0.06),
                    (0.82, 0.16),
                    (0.80, 0.22),
                    (0.56, 0.22),
                    (0.24, 0.20),
                    (0.16, -0.02),
                ]
            ),
            26,
        ),
        tint=darker(place.tint, 0.08),
    )
    place.body(place.upright(ellipse(0.84, 0.19, 0.05, 0.04, 10)), tint=(240, 226, 200))
    place.body(
        smooth(place.upright([(-0.24, -0.06), (0.0, -0.16), (0.12, 0.04), (-0.08, 0.16), (-0.24, -0.06)]), 22),
        tint=mixed(place.tint, (60, 20, 8), 0.2),
    )
    place.gloss(-0.2, -0.2, 0.14)
    place.gloss(0.36, -0.02, 0.07)


def dumpling(place: Place) -> None:
    """A half moon with its pleats."""
    turn = np.linspace(math.pi, math.tau, 16, dtype=np.float32)
    rim = np.stack([0.95 * np.cos(turn), 0.62 * np.sin(turn) + 0.06 * np.cos(turn * 9)], 1)
    place.body(
        place.at(np.concatenate([rim, np.array([[0.7, 0.28], [0, 0.42], [-0.7, 0.28]], np.float32)])),
        into=darker(place.tint, 0.16),
    )
    place.lines(
        [
            place.at([(0.86 * math.cos(k), 0.54 * math.sin(k)), (0.58 * math.cos(k), 0.26 * math.sin(k))])
            for k in np.linspace(-2.75, -0.4, 7)
        ],
        0.05,
        darker(place.tint, 0.26),
        0.9,
    )
    place.gloss(-0.1, 0.06, 0.16)


def wonton(place: Place) -> None:
    """A wonton with its loose skirt."""
    skirt = blob(place.chance, 0.1, 0.1, 0.95, 0.6, 0.4, 14)
    place.body(place.at(skirt), tint=mixed(place.tint, (226, 196, 150), 0.25))
    place.body(
        place.at(ellipse(-0.1, -0.08, 0.46, 0.40, 16)), tint=mixed(place.tint, (226, 160, 130), 0.3), shade=False
    )
    place.lines(
        [smooth(place.at([(0.2, -0.1), (0.5, 0.1 + k), (0.8, 0.15 + k)]), 7) for k in (-0.2, 0.1)],
        0.05,
        darker(place.tint, 0.2),
        0.8,
    )
    place.gloss(-0.2, -0.2, 0.13)


def bun(place: Place) -> None:
    """A bun with pleats that meet in a knot."""
    place.body(place.upright(ellipse(0, 0, 0.82, 0.66, 26)), into=darker(place.tint, 0.20))
    pleats = []
    for k in np.linspace(0, math.tau, 15, endpoint=False):
        turn = float(k)
        pleats.append(
            smooth(
                place.upright(
                    [
                        (0.10 * math.cos(turn), -0.26 + 0.06 * math.sin(turn)),
                        (0.40 * math.cos(turn + 0.25), -0.18 + 0.28 * math.sin(turn + 0.25)),
                        (0.64 * math.cos(turn + 0.35), -0.04 + 0.48 * math.sin(turn + 0.35)),
                    ]
                ),
                8,
            )
        )
    place.lines(pleats, 0.035, darker(place.tint, 0.26), 0.85)
    place.body(place.upright(ellipse(0, -0.28, 0.13, 0.10, 12)), shade=False, tint=lighter(place.tint, 0.2))
    place.gloss(-0.36, -0.2, 0.12)


def loaf(place: Place) -> None:
    """A plain bun."""
    place.body(
        smooth(
            place.upright(
                [
                    (-0.72, 0.32),
                    (-0.74, -0.10),
                    (-0.42, -0.50),
                    (0.0, -0.58),
                    (0.42, -0.50),
                    (0.74, -0.10),
                    (0.72, 0.32),
                    (0, 0.42),
                    (-0.72, 0.32),
                ]
            ),
            36,
        ),
        into=darker(place.tint, 0.16),
    )


def shumai(place: Place) -> None:
    """An open dumpling, its filling on top."""
    place.body(
        place.upright([(-0.5, -0.3), (-0.42, 0.2), (-0.46, 0.5), (0.46, 0.5), (0.42, 0.2), (0.5, -0.3)]),
        into=darker(place.tint, 0.2),
    )
    frilled = ellipse(0, -0.3, 0.62, 0.34, 20)
    frilled[::2] *= np.float32(1.07)
    place.body(place.upright(frilled), shade=False)
    place.body(place.upright(ellipse(0, -0.32, 0.42, 0.22, 16)), tint=(226, 150, 110), shade=False)
    place.scene.fill("food", place.upright(ellipse(0.05, -0.36, 0.12, 0.09, 10)), tint=(232, 110, 40), rough=0.1)


def stick(place: Place) -> None:
    """A fried roll or twist."""
    place.body(
        place.at(
            [
                (-0.95, -0.2),
                (-0.8, -0.27),
                (0.8, -0.27),
                (0.95, -0.2),
                (0.97, 0.16),
                (0.85, 0.26),
                (-0.85, 0.26),
                (-0.97, 0.16),
            ]
        ),
        into=darker(place.tint, 0.3),
    )
    place.lines([place.at([(-0.8, 0.02), (0.8, -0.02)])], 0.05, darker(place.tint, 0.35), 0.8)
    place.lines([place.at([(-0.7, -0.16), (0.7, -0.18)])], 0.08, lighter(place.tint, 0.4), 0.8)


def zongzi(place: Place) -> None:
    """A pyramid of leaves, tied with string."""
    place.body(
        place.upright([(0, -0.75), (0.78, 0.42), (0.3, 0.58), (-0.3, 0.58), (-0.78, 0.42)]),
        into=darker(place.tint, 0.3),
    )
    place.scene.fill(
        "food", place.upright([(0, -0.75), (0.3, 0.58), (-0.3, 0.58)]), tint=lighter(place.tint, 0.14), rough=0.2
    )
    place.lines(
        [place.upright([(0, -0.7), (k, 0.55)]) for k in (-0.5, -0.15, 0.15, 0.5)], 0.022, darker(place.tint, 0.3), 0.7
    )
    place.lines(
        [
            place.upright([(-0.44, -0.02), (0.0, 0.10), (0.44, -0.04)]),
            place.upright([(-0.52, 0.14), (0.0, 0.28), (0.54, 0.12)]),
        ],
        0.05,
        (226, 206, 160),
    )


def mooncake(place: Place) -> None:
    """A round cake with a scalloped rim and a pressed pattern."""
    turn = np.linspace(0, math.tau, 64, endpoint=False, dtype=np.float32)
    wavy = 1 + 0.045 * np.cos(turn * 12)
    place.body(
        place.upright(np.stack([0.82 * wavy * np.cos(turn), 0.22 + 0.56 * wavy * np.sin(turn)], 1)),
        tint=darker(place.tint, 0.25),
    )
    place.body(
        place.upright(np.stack([0.82 * wavy * np.cos(turn), 0.56 * wavy * np.sin(turn)], 1)),
        shade=False,
        into=darker(place.tint, 0.12),
    )
    ring_ = ellipse(0, 0, 0.60, 0.40, 30)
    place.lines([place.upright(np.concatenate([ring_, ring_[:1]]))], 0.035, darker(place.tint, 0.35), 0.8)
    flower = [
        place.upright(ellipse(0.28 * math.cos(k), 0.19 * math.sin(k), 0.14, 0.09, 12)) for k in np.arange(6) * 1.047
    ]
    place.lines([np.concatenate([one, one[:1]]) for one in flower], 0.03, darker(place.tint, 0.35), 0.8)
    place.gloss(-0.4, -0.26, 0.13)


def sheet(place: Place) -> None:
    """A thin pancake, folded over."""
    place.body(place.at(ellipse(0, 0, 0.95, 0.7, 30)), into=darker(place.tint, 0.14))
    place.body(
        place.at(np.concatenate([arc(0, 0, 0.93, 0.68, -0.4, 2.4, 20), np.array([[-0.2, -0.1]], np.float32)])),
        tint=lighter(place.tint, 0.16),
    )
    place.scene.fill(
        "food",
        *[
            place.at(blob(place.chance, place.chance.normal(0.35), place.chance.normal(0.25), 0.07, 0.05, 0.4, 7))
            for _ in range(10)
        ],
        tint=darker(place.tint, 0.3),
        strength=0.6,
        rough=0.2,
    )


def haws(place: Place) -> None:
    """Red fruit on a stick under clear sugar."""
    place.lines([place.at([(-1.25, 0), (1.05, 0)])], 0.05, (206, 172, 120))
    for k in (-0.62, -0.24, 0.14, 0.52, 0.88):
        centre = place.at([(k, 0)])[0]
        r = place.size * 0.20
        place.body(ellipse(float(centre[0]), float(centre[1]), r, r, 18), into=darker(place.tint, 0.35))
        place.scene.fill(
            "gloss",
            ellipse(float(centre[0]) - r * 0.35, float(centre[1]) - r * 0.4, r * 0.3, r * 0.2, 8),
            strength=0.8,
            rough=0.0,
        )


def skewer(place: Place) -> None:
    """Pieces of meat on a stick."""
    place.lines([place.at([(-1.25, 0), (1.1, 0)])], 0.035, (206, 172, 120))
    for number, k in enumerate((-0.6, -0.3, 0.0, 0.3, 0.6, 0.88)):
        tint = place.tint if number % 3 else mixed(place.tint, (240, 210, 160), 0.5)
        place.body(place.at(blob(place.chance, k, 0, 0.17, 0.16, 0.25, 10)), tint=tint, into=darker(tint, 0.3))


def grains(place: Place) -> None:
    """A few grains of rice."""
    made = [place.at(ellipse(place.chance.normal(0.7), place.chance.normal(0.5), 0.22, 0.12, 7)) for _ in range(5)]
    place.scene.fill(
        "food",
        *[one + np.array([0, 0.0022], np.float32) for one in made],
        tint=darker(place.tint, 0.30),
        strength=0.6,
        rough=0.0,
    )
    place.scene.fill("food", *made, tint=mixed(place.tint, lighter(place.tint, 0.6), place.chance.uniform()), rough=0.0)


def friedegg(place: Place) -> None:
    """A fried egg."""
    place.body(place.at(blob(place.chance, 0, 0, 0.9, 0.78, 0.22, 22)), tint=mixed(place.tint, (214, 168, 96), 0.35))
    place.scene.fill("food", place.at(blob(place.chance, 0, 0, 0.78, 0.66, 0.2, 20)), tint=place.tint, rough=0.3)
    place.body(place.upright(ellipse(0.04, -0.06, 0.34, 0.29, 20)), tint=(248, 180, 40), shade=False)
    place.gloss(-0.08, -0.18, 0.09)


def egghalf(place: Place) -> None:
    """Half an egg."""
    place.body(place.at(ellipse(0, 0, 0.72, 0.54, 20)))
    place.scene.fill(
        "food",
        place.at(ellipse(0, -0.02, 0.62, 0.45, 20)),
        tint=mixed(place.tint, (250, 240, 220), 0.7) if sum(place.tint) > 300 else lighter(place.tint, 0.12),
        rough=0.1,
    )
    place.body(
        place.at(ellipse(0.06, 0, 0.32, 0.28, 16)),
        tint=(244, 168, 50) if sum(place.tint) > 300 else (70, 76, 60),
        shade=False,
    )


def marbled(place: Place) -> None:
    """An egg whose shell was cracked and stewed in tea."""
    place.body(place.at(ellipse(0, 0, 0.78, 0.60, 24)), into=darker(place.tint, 0.3))
    cracks = []
    for _ in range(9):
        x, y = place.chance.normal(0.3), place.chance.normal(0.22)
        cracks.append(
            place.at(
                [
                    (x, y),
                    (x + place.chance.normal(0.2), y + place.chance.normal(0.16)),
                    (x + place.chance.normal(0.3), y + place.chance.normal(0.22)),
                ]
            )
        )
    place.lines(cracks, 0.035, darker(place.tint, 0.5), 0.8)
    place.gloss(-0.22, -0.24, 0.15)


def corn(place: Place) -> None:
    """A length of corn on the cob."""
    place.body(
        place.at([(-0.7, -0.4), (0.6, -0.4), (0.78, 0.0), (0.6, 0.4), (-0.7, 0.4)]), into=darker(place.tint, 0.2)
    )
    kernels = [
        place.at(ellipse(-0.55 + 0.22 * k, -0.28 + 0.19 * row, 0.09, 0.08, 7)) for k in range(6) for row in range(4)
    ]
    place.scene.fill("food", *kernels, tint=lighter(place.tint, 0.35), rough=0.0)
    place.body(place.at(ellipse(-0.72, 0, 0.18, 0.40, 14)), tint=(240, 226, 170), shade=False)


def herb(place: Place) -> None:
    """A sprig."""
    place.lines([smooth(place.at([(-0.9, 0.1), (0, 0), (0.7, -0.1)]), 8)], 0.09, darker(place.tint, 0.1))
    leaves = [
        place.at(blob(place.chance, x, y, 0.34, 0.26, 0.5, 10))
        for x, y in ((0.75, -0.15), (0.15, -0.34), (0.2, 0.32), (-0.3, 0.2))
    ]
    place.body(*leaves)


SHAPES: Mapping[str, Callable[[Place], None]] = {
    "shred": shred,
    "strip": strip,
    "noodle": noodle,
    "dice": dice,
    "cube": cube,
    "belly": belly,
    "nut": nut,
    "chilli": chilli,
    "ring": ring,
    "crumb": crumb,
    "fatslice": fatslice,
    "slice": slice_,
    "roll": roll,
    "coin": coin,
    "lotus": lotus,
    "wedge": wedge,
    "curd": curd,
    "frill": frill,
    "bokchoy": bokchoy,
    "leafy": leafy,
    "broccoli": broccoli,
    "mushroom": mushroom,
    "rib": rib,
    "chunk": chunk,
    "wing": wing,
    "skinslice": skinslice,
    "ball": ball,
    "prawn": prawn,
    "crayfish": crayfish,
    "crab": crab,
    "clam": clam,
    "fish": fish,
    "squirrelfish": squirrelfish,
    "fishhead": fishhead,
    "duck": duck,
    "dumpling": dumpling,
    "wonton": wonton,
    "bun": bun,
    "loaf": loaf,
    "shumai": shumai,
    "stick": stick,
    "zongzi": zongzi,
    "mooncake": mooncake,
    "sheet": sheet,
    "haws": haws,
    "skewer": skewer,
    "grains": grains,
    "friedegg": friedegg,
    "egghalf": egghalf,
    "marbled": marbled,
    "corn": corn,
    "herb": herb,
}


def draw_piece(
    scene: Scene, chance: Chance, one: Ingredient, x: float, y: float, unit: float, angle: float, flat: float
) -> None:
    """One piece of an ingredient at a place, `unit` being the size of a usual piece."""
    vary = chance.uniform(-0.09, 0.09)
    tint = lighter(one.colour, vary) if vary > 0 else darker(one.colour, -vary)
    SHAPES[one.shape](Place(scene, chance, x, y, unit * one.size * chance.uniform(0.9, 1.1), angle, flat, tint))
