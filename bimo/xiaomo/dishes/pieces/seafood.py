"""Prawns, crabs, clams and fish."""

from __future__ import annotations

import math

import numpy as np

from bimo.xiaomo.dishes.pieces.place import Place, darker, lighter
from bimo.xiaomo.scenes.geometry import ellipse, petal, smooth, xy


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
