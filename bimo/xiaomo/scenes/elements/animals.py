"""Animals and riders."""

from __future__ import annotations

import math

import numpy as np

from bimo.xiaomo.scenes.description import Scene
from bimo.xiaomo.scenes.elements.humans import person
from bimo.xiaomo.scenes.geometry import Path, arc, blob, ellipse, frame, leaf, path, placed, smooth, xy


def herd_boy(scene: Scene, x: float, foot: float, size: float) -> None:
    """A boy who rides an ox and plays the flute."""
    ox(scene, x, foot, size)
    side = scene.layout.side
    at = frame(x, foot, size, side)
    with scene.element("herd boy"):
        scene.fill(
            "robe_blue", at((-0.16, -0.52), (-0.12, -0.80), (0.0, -0.88), (0.10, -0.80), (0.12, -0.52)), rough=0.3
        )
        hx, hy = at((0.01, -0.97))[0].tolist()
        scene.fill("skin", ellipse(hx, hy, size * 0.085, size * 0.09, 12), rough=0.1)
        scene.fill(
            "hair",
            arc(hx, hy, size * 0.09, size * 0.10, math.pi, math.tau, 10),
            ellipse(hx - side * size * 0.06, hy - size * 0.10, size * 0.03, size * 0.03, 8),
            rough=0.1,
        )
        scene.line("wood", [at((0.06, -0.92), (0.34, -0.90))], 0.006, rough=0.1)


def ox(scene: Scene, x: float, foot: float, size: float) -> None:
    """A water buffalo."""
    side = scene.layout.side
    at = frame(x, foot, size, side)
    with scene.element("ox"):
        legs = [at((k, -0.25), (k + 0.01, 0.0)) for k in (-0.46, -0.30, 0.22, 0.36)]
        scene.line("ox", legs, size * 0.10, size * 0.07, rough=0.2)
        scene.fill(
            "ox",
            at(
                (-0.60, -0.32),
                (-0.58, -0.50),
                (-0.40, -0.58),
                (0.10, -0.56),
                (0.36, -0.60),
                (0.56, -0.52),
                (0.74, -0.40),
                (0.80, -0.24),
                (0.70, -0.18),
                (0.58, -0.28),
                (0.44, -0.24),
                (0.20, -0.18),
                (-0.30, -0.18),
                (-0.54, -0.22),
            ),
            rough=0.3,
        )
        scene.line(
            "hair",
            [
                smooth(at((0.54, -0.54), (0.42, -0.72), (0.26, -0.74)), 10),
                smooth(at((0.60, -0.54), (0.66, -0.72), (0.56, -0.82)), 10),
            ],
            size * 0.06,
            size * 0.015,
            rough=0.1,
        )
        scene.line("ox", [at((-0.60, -0.48), (-0.70, -0.34), (-0.68, -0.20))], size * 0.035, size * 0.02, rough=0.2)


def horse(scene: Scene, x: float, foot: float, size: float, rider: str = "", material: str = "horse") -> None:
    """A walking horse, with a rider if the material of a robe is given ("robe", "robe_red" ...)."""
    side = scene.layout.side
    at = frame(x, foot, size, side)
    with scene.element("horse"):
        legs = [
            at((-0.34, -0.34), (-0.40, -0.16), (-0.36, 0.0)),
            at((-0.26, -0.34), (-0.22, -0.16), (-0.26, 0.0)),
            at((0.22, -0.36), (0.18, -0.18), (0.20, 0.0)),
            at((0.28, -0.36), (0.36, -0.20), (0.34, -0.02)),
        ]
        scene.line(material, legs, size * 0.085, size * 0.04, rough=0.1)
        scene.fill(
            material,
            smooth(
                at(
                    (-0.42, -0.44),
                    (-0.36, -0.58),
                    (-0.1, -0.56),
                    (0.18, -0.60),
                    (0.34, -0.78),
                    (0.44, -0.92),
                    (0.52, -0.90),
                    (0.68, -0.72),
                    (0.62, -0.66),
                    (0.50, -0.72),
                    (0.42, -0.56),
                    (0.34, -0.38),
                    (0.10, -0.30),
                    (-0.28, -0.30),
                    (-0.42, -0.44),
                ),
                50,
            ),
            rough=0.2,
        )
        scene.line(
            "hair",
            [
                smooth(at((0.42, -0.94), (0.30, -0.80), (0.22, -0.62)), 10),
                smooth(at((-0.40, -0.52), (-0.54, -0.40), (-0.52, -0.18)), 10),
            ],
            size * 0.055,
            size * 0.02,
            rough=0.3,
        )
        scene.fill(material, at((0.42, -0.90), (0.42, -1.0), (0.48, -0.92)), rough=0.0)
    if rider:
        with scene.element("rider"):
            scene.fill(
                rider,
                at(
                    (-0.16, -0.52),
                    (-0.13, -0.84),
                    (-0.02, -0.94),
                    (0.12, -0.86),
                    (0.20, -0.66),
                    (0.06, -0.52),
                    (0.14, -0.26),
                    (0.02, -0.28),
                    (-0.06, -0.50),
                ),
                rough=0.3,
            )
            hx, hy = at((0.03, -1.02))[0].tolist()
            scene.fill("skin", ellipse(hx, hy, size * 0.07, size * 0.075, 12), rough=0.1)
            scene.fill(
                "hair", at((-0.06, -1.02), (-0.05, -1.12), (0.04, -1.15), (0.11, -1.08), (0.02, -1.06)), rough=0.1
            )


def camel(scene: Scene, x: float, foot: float, size: float, load: bool = True) -> None:
    """A camel of two humps."""
    side = scene.layout.side
    at = frame(x, foot, size, side)
    legs = [
        at((-0.32, -0.36), (-0.36, -0.18), (-0.33, 0.0)),
        at((-0.22, -0.36), (-0.20, -0.18), (-0.22, 0.0)),
        at((0.16, -0.36), (0.14, -0.18), (0.16, 0.0)),
        at((0.26, -0.36), (0.30, -0.18), (0.28, 0.0)),
    ]
    scene.line("camel", legs, size * 0.085, size * 0.05, rough=0.1)
    body = smooth(
        at(
            (-0.44, -0.42),
            (-0.40, -0.58),
            (-0.26, -0.66),
            (-0.18, -0.86),
            (-0.08, -0.68),
            (0.02, -0.66),
            (0.12, -0.86),
            (0.20, -0.64),
            (0.34, -0.54),
            (0.46, -0.56),
            (0.54, -0.80),
            (0.60, -0.92),
            (0.70, -0.94),
            (0.82, -0.84),
            (0.78, -0.78),
            (0.67, -0.78),
            (0.62, -0.60),
            (0.52, -0.42),
            (0.30, -0.34),
            (-0.30, -0.32),
            (-0.44, -0.42),
        ),
        70,
    )
    scene.fill("camel", body, into="camel_low", rough=0.2)
    scene.line("camel_low", [at((-0.44, -0.48), (-0.52, -0.36), (-0.50, -0.26))], size * 0.03, 0.002, rough=0.1)
    if load:
        scene.fill("robe_red", at((-0.10, -0.70), (0.08, -0.70), (0.12, -0.40), (-0.14, -0.40)), rough=0.2)


def caravan(scene: Scene, x: float, foot: float, size: float, count: int) -> None:
    """Camels in a row, led by a man."""
    side = scene.layout.side
    with scene.element("camel"):
        for k in range(count):
            camel(scene, x - side * k * size * 1.35, foot + (k % 2) * 0.006, size * (1 - 0.03 * k))
        ropes = [
            path(
                (x - side * (k * 1.35 - 0.55) * size, foot - size * 0.6),
                (x - side * (k * 1.35 + 0.4 - 1.35) * size, foot - size * 0.5),
            )
            for k in range(1, count)
        ]
        scene.line("dark_wood", ropes, 0.002, rough=0.1)
    person(scene, x + side * size * 1.35, foot, size * 0.95, robe="robe_blue", hat="straw")


def sheep(scene: Scene, x: float, foot: float, size: float, count: int) -> None:
    """Sheep in a meadow."""
    chance = scene.chance.fork("sheep")
    with scene.element("sheep"):
        for _ in range(count):
            sx, sy, s = x + chance.normal(0.13), foot + chance.normal(0.025), size * chance.uniform(0.8, 1.2)
            scene.line(
                "hair",
                [path((sx + k * s, sy - 0.2 * s), (sx + k * s, sy)) for k in (-0.25, -0.12, 0.14, 0.26)],
                s * 0.09,
                rough=0.1,
            )
            scene.fill("sheep", blob(chance, sx, sy - s * 0.38, s * 0.42, s * 0.28, 0.14, 14), rough=0.8)
            scene.fill(
                "hair", ellipse(sx + scene.layout.side * s * 0.44, sy - s * 0.44, s * 0.12, s * 0.10, 10), rough=0.1
            )


def ducks(scene: Scene, x: float, y: float, size: float, count: int, name: str = "ducks") -> None:
    """Ducks on water, each with its ripple."""
    chance = scene.chance.fork(f"ducks{x:.3f}")
    with scene.element(name):
        for k in range(count):
            dx, dy = x + k * size * 1.5 * scene.layout.side + chance.normal(0.01), y + chance.normal(0.012)
            side = -scene.layout.side
            body = placed(
                [(-0.6, -0.16), (-0.48, 0.08), (0.1, 0.14), (0.46, 0.02), (0.52, -0.16), (0.2, -0.22), (-0.2, -0.20)],
                dx,
                dy,
                size,
                side,
            )
            neck = placed(
                [
                    (0.34, -0.12),
                    (0.34, -0.42),
                    (0.46, -0.54),
                    (0.60, -0.50),
                    (0.60, -0.40),
                    (0.50, -0.36),
                    (0.52, -0.10),
                ],
                dx,
                dy,
                size,
                side,
            )
            scene.fill("white_bird" if name == "geese on water" else "wood", body, rough=0.2)
            scene.fill("white_bird" if name == "geese on water" else "green_trim", neck, rough=0.2)
            scene.fill(
                "flower_yellow", placed([(0.58, -0.48), (0.76, -0.42), (0.58, -0.40)], dx, dy, size, side), rough=0.0
            )
            scene.line(
                "ripple",
                [path((dx - size * 0.8, dy + size * 0.16), (dx + size * 0.8, dy + size * 0.16))],
                0.004,
                0.002,
                strength=0.6,
            )


def carp(scene: Scene, x: float, y: float, size: float, angle: float, material: str = "fish") -> None:
    """A carp seen from above."""
    with scene.element("carp"):
        turn = math.cos(angle), math.sin(angle)

        def at(points: list[tuple[float, float]]) -> Path:
            p = np.array(points, np.float32) * size
            return np.stack(
                [x + p[:, 0] * turn[0] - p[:, 1] * turn[1], y + (p[:, 0] * turn[1] + p[:, 1] * turn[0]) * 0.8], 1
            ).astype(np.float32)

        scene.fill(material, at([(-0.46, 0.0), (-0.80, -0.24), (-0.72, 0.0), (-0.82, 0.24)]), strength=0.9, rough=0.3)
        scene.fill(
            material,
            at([(0.14, -0.10), (-0.02, -0.36), (-0.10, -0.10)]),
            at([(0.14, 0.10), (-0.02, 0.36), (-0.10, 0.10)]),
            strength=0.85,
            rough=0.2,
        )
        body = at(
            [
                (0.60, 0.0),
                (0.46, -0.15),
                (0.15, -0.20),
                (-0.25, -0.12),
                (-0.52, -0.02),
                (-0.52, 0.02),
                (-0.25, 0.12),
                (0.15, 0.20),
                (0.46, 0.15),
            ]
        )
        scene.fill(material, body, rough=0.2)
        patch = at([(0.30, -0.12), (0.05, -0.16), (-0.12, -0.04), (0.02, 0.08), (0.26, 0.05)])
        scene.fill("fish_white" if material == "fish" else "fish", patch, strength=0.85, rough=0.4)
        for k in (-0.09, 0.09):
            ex, ey = at([(0.48, k)])[0].tolist()
            scene.fill("crow", ellipse(ex, ey, size * 0.03, size * 0.03, 8), rough=0.0)


def rabbit(scene: Scene, x: float, foot: float, size: float) -> None:
    """A white rabbit that sits up."""
    side = scene.layout.side
    at = frame(x, foot, size, side)
    with scene.element("rabbit"):
        scene.fill(
            "rabbit",
            smooth(
                at(
                    (-0.36, 0.0),
                    (-0.40, -0.26),
                    (-0.18, -0.50),
                    (0.10, -0.52),
                    (0.24, -0.30),
                    (0.28, 0.0),
                    (-0.36, 0.0),
                ),
                30,
            ),
            rough=0.2,
        )
        hx, hy = at((0.20, -0.62))[0].tolist()
        scene.fill(
            "rabbit",
            ellipse(hx, hy, size * 0.20, size * 0.17, 18),
            ellipse(*xy(at((-0.40, -0.14))[0]), size * 0.09, size * 0.09, 10),
            rough=0.1,
        )
        for k in (0.02, 0.16):
            ex, ey = at((k, -0.72))[0].tolist()
            scene.fill("rabbit", leaf(ex, ey, -math.pi / 2 - 0.25 * side, size * 0.42, size * 0.15), rough=0.1)
            scene.fill(
                "blossom", leaf(ex, ey - size * 0.06, -math.pi / 2 - 0.25 * side, size * 0.28, size * 0.07), rough=0.1
            )
        scene.fill("robe_red", ellipse(*xy(at((0.28, -0.65))[0]), size * 0.026, size * 0.03, 8), rough=0.0)
