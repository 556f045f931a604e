"""People standing, walking, flying a kite."""

from __future__ import annotations

import numpy as np

from bimo.xiaomo.scenes.description import Scene
from bimo.xiaomo.scenes.geometry import ellipse, frame, path, smooth, xy


def person(
    scene: Scene,
    x: float,
    foot: float,
    height: float,
    robe: str = "robe",
    hat: str = "",
    umbrella: bool = False,
    staff: bool = False,
    back: bool = False,
    name: str = "person",
) -> None:
    """A person in a long robe with wide sleeves, from the side; `hat`: "", "straw", "scholar"."""
    side = scene.layout.side
    at = frame(x, foot, height, side)
    with scene.element(name):
        robe_shape = at(
            (-0.20, 0.0),
            (-0.17, -0.28),
            (-0.13, -0.56),
            (-0.10, -0.76),
            (0.03, -0.80),
            (0.12, -0.74),
            (0.13, -0.52),
            (0.16, -0.24),
            (0.20, 0.0),
            (0.0, 0.02),
        )
        sleeve = at((-0.02, -0.72), (0.10, -0.70), (0.27, -0.52), (0.26, -0.36), (0.14, -0.40), (0.04, -0.52))
        scene.fill(robe, smooth(np.concatenate([robe_shape, robe_shape[:1]]), 30)[:-1], rough=0.3)
        scene.fill(robe, sleeve, rough=0.3)
        folds = [
            at((-0.06, -0.60), (-0.08, -0.3), (-0.12, -0.02)),
            at((0.05, -0.48), (0.07, -0.25), (0.08, -0.02)),
            at((0.04, -0.54), (0.15, -0.40), (0.26, -0.38)),
            at((-0.15, -0.46), (0.13, -0.44)),
        ]
        scene.line("robe_line", folds, 0.0034, 0.002, rough=0.2, strength=0.75)
        hx, hy = at((0.02, -0.88))[0].tolist()
        r = height * 0.072
        if not back:
            scene.fill("skin", ellipse(hx, hy, r, r * 1.1, 14), rough=0.1)
        hair = (
            at(
                (-0.06, -0.83),
                (-0.07, -0.93),
                (0.0, -0.975),
                (0.07, -0.95),
                (0.05, -0.91),
                (0.0, -0.90),
                (-0.02, -0.84),
            )
            if not back
            else ellipse(hx, hy, r, r * 1.1, 14)
        )
        scene.fill("hair", hair, ellipse(*xy(at((-0.01, -0.99))[0]), height * 0.032, height * 0.032, 10), rough=0.1)
        if hat == "straw":
            scene.fill(
                "straw",
                at((-0.20, -0.90), (-0.06, -1.0), (0.02, -1.06), (0.10, -1.0), (0.23, -0.90), (0.02, -0.93)),
                rough=0.2,
            )
        elif hat == "scholar":
            scene.fill("hair", at((-0.08, -0.93), (-0.07, -1.04), (0.06, -1.06), (0.08, -0.95)), rough=0.1)
        if staff:
            scene.line("dark_wood", [at((0.27, -0.66), (0.30, 0.02))], 0.006, rough=0.2)
        if umbrella:
            scene.line("dark_wood", [at((0.22, -0.46), (0.10, -1.16))], 0.005, rough=0.1)
            top = at(
                (-0.36, -1.02),
                (-0.24, -1.17),
                (-0.02, -1.27),
                (0.14, -1.28),
                (0.34, -1.20),
                (0.52, -1.05),
                (0.30, -1.08),
                (0.08, -1.06),
                (-0.14, -1.05),
            )
            scene.fill("umbrella", top, rough=0.2)
            scene.line(
                "robe_line",
                [at((0.10, -1.28), k) for k in ((-0.24, -1.05), (-0.04, -1.06), (0.20, -1.07), (0.40, -1.07))],
                0.0022,
                rough=0.1,
                strength=0.6,
            )


def kite(scene: Scene, x: float, y: float, size: float, hand: tuple[float, float]) -> None:
    """A kite of red paper with two tails, and its string."""
    with scene.element("kite"):
        scene.line(
            "robe_line",
            [smooth([(x, y), ((x + hand[0]) / 2 - 0.04, (y + hand[1]) / 2 + 0.05), hand], 20)],
            0.0018,
            rough=0.0,
            strength=0.7,
        )
        scene.fill(
            "paper_red",
            path((x, y - size * 0.6), (x + size * 0.5, y), (x, y + size * 0.5), (x - size * 0.5, y)),
            rough=0.1,
        )
        scene.fill(
            "flower_yellow",
            path((x, y - size * 0.6), (x + size * 0.16, y), (x, y + size * 0.5), (x - size * 0.16, y)),
            rough=0.1,
        )
        sway = scene.layout.sway
        tails = [
            smooth(
                [
                    (x + k * size, y + size * 0.4),
                    (x + k * size + 0.02 * sway, y + size),
                    (x + k * size - 0.02 * sway, y + size * 1.5),
                ],
                10,
            )
            for k in (-0.12, 0.12)
        ]
        scene.line("paper_red", tails, 0.006, 0.003, rough=0.1)
