"""Pieces of meat and poultry."""

from __future__ import annotations

import math

import numpy as np

from bimo.xiaomo.dishes.pieces.place import Place, darker, lighter, mixed
from bimo.xiaomo.scenes.geometry import arc, blob, ellipse, smooth


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
