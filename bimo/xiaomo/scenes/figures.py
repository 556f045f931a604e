"""Boats, people and animals."""

from __future__ import annotations

import math

import numpy as np

from bimo.xiaomo.scenes.description import Scene
from bimo.xiaomo.scenes.geometry import Path, arc, blob, box, ellipse, frame, leaf, path, petal, placed, smooth, xy

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
    """A wooden boat with an arched awning of matting, and a lamp at its bow where asked."""
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
        for k in range(crew):
            px = -0.62 + 1.2 * k / max(1, crew - 1)
            lean = 0.05
            torso = placed(
                [(px - 0.045, 0.0), (px + lean - 0.03, -0.13), (px + lean + 0.035, -0.13), (px + 0.045, 0.0)],
                x,
                y,
                size,
                side,
            )
            scene.fill("robe_red" if not red else "gold", torso, rough=0.1)
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
        scene.fill(body, hull, rough=0.2)
        scales = [
            arc(*xy(placed([(px, 0.0)], x, y, size, side)[0]), size * 0.035, size * 0.045, 0, math.pi, 8)
            for px in np.linspace(-0.78, 0.84, 22)
        ]
        scene.line("dragon_gold", scales, 0.003, rough=0.1)
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
            "dragon_gold" if red else "paper_red",
            placed([(-0.82, -0.46), (-1.02, -0.42), (-1.08, -0.34), (-0.82, -0.30)], x, y, size, side),
            rough=0.3,
        )
    scene.mirror(first, y + size * 0.10, 0.3, 0.8)
    spray = [
        blob(scene.chance.fork(f"spray{k}{y:.3f}"), x + side * size * px, y + size * 0.14, size * 0.05, size * 0.018)
        for k, px in enumerate(np.linspace(-0.5, 1.0, 9).tolist())
    ]
    scene.fill("foam", *spray, strength=0.8, soft=0.6)


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
    """A horse at a walk, with a rider in a robe where one is named ("robe", "robe_red" ...)."""
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
    """Camels one behind the other, and the man who leads them."""
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


def wine_table(scene: Scene, x: float, y: float, size: float) -> None:
    """A low table with a jug, two cups and mooncakes."""
    with scene.element("table"):
        scene.fill(
            "wood",
            path(
                (x - size * 0.5, y),
                (x - size * 0.42, y - size * 0.16),
                (x + size * 0.42, y - size * 0.16),
                (x + size * 0.5, y),
            ),
            into="dark_wood",
            rough=0.2,
        )
        scene.line(
            "dark_wood",
            [path((x + k * size, y), (x + k * size, y + size * 0.26)) for k in (-0.42, 0.42)],
            size * 0.05,
            rough=0.1,
        )
    with scene.element("wine"):
        jug = placed(
            [
                (-0.10, 0.0),
                (-0.13, -0.14),
                (-0.05, -0.26),
                (-0.06, -0.36),
                (0.06, -0.36),
                (0.05, -0.26),
                (0.13, -0.14),
                (0.10, 0.0),
            ],
            x - size * 0.22,
            y - size * 0.06,
            size,
        )
        scene.fill("wall", jug, into="wall_low", rough=0.2)
        scene.fill("robe_blue", box(x - size * 0.34, y - size * 0.22, x - size * 0.10, y - size * 0.18), rough=0.2)
        scene.fill(
            "wall",
            *[
                placed([(-0.06, -0.1), (0.06, -0.1), (0.04, 0.0), (-0.04, 0.0)], x + k * size, y - size * 0.05, size)
                for k in (0.0, 0.14)
            ],
            rough=0.1,
        )


def mooncakes(scene: Scene, x: float, y: float, size: float) -> None:
    """A plate of mooncakes."""
    with scene.element("mooncake"):
        scene.fill("wall", ellipse(x, y + size * 0.12, size * 0.7, size * 0.2, 24), into="wall_low", rough=0.1)
        for dx, dy in ((-0.32, 0.02), (0.32, 0.02), (0.0, -0.16)):
            cx, cy = x + dx * size, y + dy * size
            scene.fill(
                "thatch" if not scene.mood.white else "wood",
                ellipse(cx, cy + size * 0.08, size * 0.27, size * 0.15, 20),
                rough=0.1,
            )
            turn = np.linspace(0, math.tau, 40, endpoint=False, dtype=np.float32)
            wavy = 1 + 0.06 * np.cos(turn * 8)
            top = np.stack([cx + size * 0.27 * wavy * np.cos(turn), cy + size * 0.15 * wavy * np.sin(turn)], 1).astype(
                np.float32
            )
            scene.fill("gold", top, into="chrysanthemum_dark", rough=0.1)
            scene.line(
                "dark_wood",
                [np.concatenate([(one := ellipse(cx, cy, size * 0.15, size * 0.08, 16)), one[:1]])],
                0.003,
                rough=0.1,
            )


def stone_lantern(scene: Scene, x: float, y: float, size: float) -> None:
    """A stone lantern that stands in the water."""

    scene.fill(
        "stone",
        placed([(-0.2, 0.0), (-0.34, -0.5), (-0.2, -0.85), (0.2, -0.85), (0.34, -0.5), (0.2, 0.0)], x, y, size),
        into="stone_low",
        rough=0.2,
    )
    scene.fill("stone_low", placed([(-0.46, -0.82), (0.0, -1.25), (0.46, -0.82)], x, y, size), rough=0.2)
    scene.fill("window", ellipse(x, y - 0.45 * size, size * 0.11, size * 0.13, 10), rough=0.0)
    scene.line("ripple", [path((x - size * 0.7, y + 0.004), (x + size * 0.7, y + 0.004))], 0.005, 0.002)


def river_lantern(scene: Scene, x: float, y: float) -> None:
    """A paper lotus with a light in it, afloat."""
    with scene.element("river lantern"):
        for turn in (-2.2, -0.9, -1.57):
            scene.fill("petal_tip", petal(x, y + 0.012, turn, 0.035, 0.018), into="petal", rough=0.1)
        scene.fill("lamp", box(x - 0.006, y - 0.028, x + 0.006, y - 0.008), rough=0.1)
