"""Dumplings, buns and pastries; rice, eggs and sweets."""

from __future__ import annotations

import math

import numpy as np

from bimo.xiaomo.dishes.pieces.place import Place, darker, lighter, mixed
from bimo.xiaomo.scenes.geometry import Path, arc, blob, ellipse, smooth


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
    pleats: list[Path] = []
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
    cracks: list[Path] = []
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
