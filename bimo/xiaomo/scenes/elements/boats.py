"""Boats and their crews."""

from __future__ import annotations

import math

import numpy as np

from bimo.xiaomo.scenes.description import Scene
from bimo.xiaomo.scenes.geometry import arc, blob, ellipse, path, placed, smooth, xy

HULL = [
    (-1.0, -0.20),
    (-0.72, 0.10),
    (-0.4, 0.20),
    (0.4, 0.20),
    (0.75, 0.10),
    (1.06, -0.24),
    (0.6, -0.04),
    (0.2, 0.0),
    (-0.3, 0.0),
    (-0.65, -0.04),
]


def _wake(scene: Scene, x: float, y: float, size: float) -> None:
    scene.fill("shadow", ellipse(x, y + size * 0.17, size * 0.95, size * 0.10, 20), strength=0.4, soft=2.0)


def boat(
    scene: Scene, x: float, y: float, size: float, awning: bool = True, lamp: bool = False, side: float | None = None
) -> None:
    """A wooden boat with an arched awning of matting, and optionally a lamp at its bow."""
    side = scene.layout.side if side is None else side
    first = len(scene.shapes)
    with scene.element("boat"):
        scene.fill("hull", placed(HULL, x, y, size, side), into="hull_low", rough=0.3)
        scene.line(
            "hull_low",
            [placed([(-1.0, -0.20), (-0.65, -0.03), (0.2, 0.01), (0.6, -0.03), (1.06, -0.24)], x, y, size, side)],
            0.005,
            rough=0.2,
        )
        if awning:
            roof = placed(
                [
                    (-0.55, 0.02),
                    (-0.50, -0.26),
                    (-0.34, -0.42),
                    (-0.05, -0.48),
                    (0.22, -0.42),
                    (0.36, -0.26),
                    (0.40, 0.02),
                ],
                x,
                y,
                size,
                side,
            )
            scene.fill("awning", roof, rough=0.3)
            ribs = [
                placed([(k, 0.0), (k + 0.02, -0.28), (k + 0.10, -0.45)], x, y, size, side)
                for k in (-0.40, -0.22, -0.04, 0.14)
            ]
            scene.line("bark", ribs, 0.003, rough=0.2, strength=0.7)
            inside = placed([(0.30, 0.01), (0.33, -0.22), (0.26, -0.34), (0.17, -0.22), (0.18, 0.01)], x, y, size, side)
            scene.fill("window" if scene.mood.light in ("night", "dusk") else "hull_low", inside, rough=0.1)
        if lamp:
            lx, ly = placed([(0.78, -0.42)], x, y, size, side)[0].tolist()
            scene.line("dark_wood", [path((lx, ly - size * 0.1), (lx, y - size * 0.08))], 0.004, rough=0.1)
            scene.fill("lamp", ellipse(lx, ly, size * 0.08, size * 0.10, 12), rough=0.1)
    scene.mirror(first, y + size * 0.18, 0.3, 0.8)
    _wake(scene, x, y, size)


def fisherman(scene: Scene, x: float, y: float, size: float) -> None:
    """An old man in a straw cloak and hat who fishes alone from a small boat."""
    side = scene.layout.side
    first = len(scene.shapes)
    with scene.element("boat"):
        scene.fill("hull", placed(HULL, x, y, size, side), into="hull_low", rough=0.3)
    with scene.element("fisherman"):
        cloak = placed(
            [(-0.26, 0.02), (-0.22, -0.30), (-0.10, -0.46), (0.06, -0.46), (0.18, -0.26), (0.24, 0.02)],
            x,
            y,
            size,
            side,
        )
        scene.fill("cloak", cloak, rough=0.6)
        straws = [placed([(k * 0.5, -0.42), (k, -0.02)], x, y, size, side) for k in (-0.2, -0.12, -0.03, 0.06, 0.15)]
        scene.line("bark", straws, 0.003, rough=0.3, strength=0.7)
        scene.fill(
            "skin",
            ellipse(*xy(placed([(0.03, -0.50)], x, y, size, side)[0]), size * 0.075, size * 0.075, 12),
            rough=0.1,
        )
        scene.fill(
            "straw",
            placed(
                [(-0.27, -0.52), (-0.10, -0.64), (0.0, -0.74), (0.10, -0.65), (0.28, -0.52), (0.0, -0.555)],
                x,
                y,
                size,
                side,
            ),
            rough=0.3,
        )
        rod = placed([(0.16, -0.28), (0.6, -0.52), (1.12, -0.70), (1.52, -0.74)], x, y, size, side)
        scene.line("dark_wood", [smooth(rod, 16)], 0.005, 0.002, rough=0.1)
        end = rod[-1].tolist()
        scene.line("robe_line", [path((end[0], end[1]), (end[0], y + size * 0.16))], 0.0016, rough=0.0, strength=0.8)
    scene.mirror(first, y + size * 0.18, 0.28, 0.8)
    _wake(scene, x, y, size)


def sail_boat(scene: Scene, x: float, y: float, size: float, depth: float = 0.0) -> None:
    """A junk with one ribbed sail."""
    side = scene.layout.side
    with scene.element("sail"):
        scene.fill("hull", placed(HULL, x, y, size * 0.7, side), depth=depth, rough=0.2)
        sail = placed([(-0.30, -0.16), (-0.36, -0.9), (-0.10, -1.35), (0.22, -1.2), (0.40, -0.2)], x, y, size, side)
        scene.fill("sail", sail, depth=depth, rough=0.3)
        ribs = [
            placed([(-0.33, -0.16 - k * 0.2), (0.40 - k * 0.035, -0.2 - k * 0.19)], x, y, size, side)
            for k in range(1, 5)
        ]
        scene.line("bark", ribs, 0.0025, depth=depth, rough=0.1, strength=0.7)
        scene.line("dark_wood", [placed([(0.02, 0.0), (0.0, -1.4)], x, y, size, side)], 0.004, depth=depth, rough=0.1)


def dragon_boat(scene: Scene, x: float, y: float, size: float, crew: int = 7, red: bool = True) -> None:
    """A dragon boat: head with horns and beard, tail, rowers with paddles, a drummer under a flag."""
    side = scene.layout.side
    body = "dragon" if red else "green_trim"
    first = len(scene.shapes)
    with scene.element("dragon boat"):
        hull = placed(
            [
                (-1.0, -0.10),
                (-0.8, 0.06),
                (-0.4, 0.10),
                (0.5, 0.10),
                (0.84, 0.05),
                (0.96, -0.10),
                (0.7, -0.02),
                (-0.7, -0.02),
            ],
            x,
            y,
            size,
            side,
        )
        _crew(scene, x, y, size, crew, "robe_red" if not red else "gold")
        scene.fill(body, hull, rough=0.2)
        scales = [
            arc(*xy(placed([(px, 0.0)], x, y, size, side)[0]), size * 0.035, size * 0.045, 0, math.pi, 8)
            for px in np.linspace(-0.78, 0.84, 22)
        ]
        scene.line("dragon_gold", scales, 0.003, rough=0.1)
        _dragon_head(scene, x, y, size, body)
        _dragon_tail(scene, x, y, size, body, "dragon_gold" if red else "paper_red")
    scene.mirror(first, y + size * 0.10, 0.3, 0.8)
    spray = [
        blob(scene.chance.fork(f"spray{k}{y:.3f}"), x + side * size * px, y + size * 0.14, size * 0.05, size * 0.018)
        for k, px in enumerate(np.linspace(-0.5, 1.0, 9).tolist())
    ]
    scene.fill("foam", *spray, strength=0.8, soft=0.6)


def _crew(scene: Scene, x: float, y: float, size: float, count: int, robe: str) -> None:
    """Rowers with paddles in a row."""
    side = scene.layout.side
    for k in range(count):
        px = -0.62 + 1.2 * k / max(1, count - 1)
        lean = 0.05
        torso = placed(
            [(px - 0.045, 0.0), (px + lean - 0.03, -0.13), (px + lean + 0.035, -0.13), (px + 0.045, 0.0)],
            x,
            y,
            size,
            side,
        )
        scene.fill(robe, torso, rough=0.1)
        scene.fill(
            "skin",
            ellipse(*xy(placed([(px + lean + 0.015, -0.175)], x, y, size, side)[0]), size * 0.036, size * 0.04, 10),
            rough=0.0,
        )
        scene.line(
            "dark_wood",
            [placed([(px + lean + 0.03, -0.11), (px + 0.12, 0.05), (px + 0.08, 0.16)], x, y, size, side)],
            0.005,
            0.007,
            rough=0.1,
        )


def _dragon_head(scene: Scene, x: float, y: float, size: float, body: str) -> None:
    """The head of a dragon boat with horns, mane, beard and eye."""
    side = scene.layout.side
    head = placed(
        [
            (0.82, 0.0),
            (0.90, -0.18),
            (0.92, -0.30),
            (1.02, -0.38),
            (1.16, -0.36),
            (1.30, -0.26),
            (1.32, -0.20),
            (1.18, -0.21),
            (1.30, -0.14),
            (1.16, -0.13),
            (1.06, -0.12),
            (1.0, 0.0),
        ],
        x,
        y,
        size,
        side,
    )
    scene.fill(body, head, rough=0.2)
    scene.line(
        "dragon_gold",
        [
            placed([(1.0, -0.36), (0.92, -0.46), (0.94, -0.54)], x, y, size, side),
            placed([(1.05, -0.38), (1.02, -0.50), (1.07, -0.56)], x, y, size, side),
        ],
        0.009,
        0.004,
        rough=0.1,
    )
    scene.line(
        "dragon_gold",
        [
            placed([(0.90 - k * 0.02, -0.28 + k * 0.07), (0.80 - k * 0.02, -0.31 + k * 0.07)], x, y, size, side)
            for k in range(3)
        ],
        0.008,
        0.002,
        rough=0.1,
    )
    scene.line(
        "dragon_gold",
        [placed([(1.20, -0.13), (1.22, -0.04), (1.28, 0.02)], x, y, size, side)],
        0.007,
        0.002,
        rough=0.1,
    )
    ex, ey = placed([(1.10, -0.295)], x, y, size, side)[0].tolist()
    scene.fill("white_bird", ellipse(ex, ey, size * 0.028, size * 0.028, 10), rough=0.0)
    scene.fill("crow", ellipse(ex, ey, size * 0.013, size * 0.013, 8), rough=0.0)


def _dragon_tail(scene: Scene, x: float, y: float, size: float, body: str, flag: str) -> None:
    """The tail of a dragon boat, and a flag on a pole."""
    side = scene.layout.side
    tail = placed(
        [
            (-0.84, 0.02),
            (-1.0, -0.12),
            (-1.08, -0.30),
            (-1.22, -0.40),
            (-1.10, -0.42),
            (-0.98, -0.36),
            (-0.94, -0.22),
            (-0.80, -0.06),
        ],
        x,
        y,
        size,
        side,
    )
    scene.fill(body, tail, rough=0.2)
    pole = placed([(-0.82, 0.0), (-0.82, -0.46)], x, y, size, side)
    scene.line("dark_wood", [pole], 0.005, rough=0.1)
    scene.fill(
        flag,
        placed([(-0.82, -0.46), (-1.02, -0.42), (-1.08, -0.34), (-0.82, -0.30)], x, y, size, side),
        rough=0.3,
    )
