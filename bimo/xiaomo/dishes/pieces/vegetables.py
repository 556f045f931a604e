"""Pieces cut into shreds, cubes and slices, vegetables whole and in leaves, noodles and nuts."""

from __future__ import annotations

import math

import numpy as np

from bimo.xiaomo.dishes.pieces.place import Place, darker, lighter, long_piece, mixed
from bimo.xiaomo.scenes.geometry import blob, ellipse, petal, smooth


def shred(place: Place) -> None:
    """丝."""
    long_piece(place, 1.0, 0.24, 0.28)


def strip(place: Place) -> None:
    """条."""
    long_piece(place, 0.9, 0.42, 0.16)


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
