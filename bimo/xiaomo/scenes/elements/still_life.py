"""A table with wine, and mooncakes."""

from __future__ import annotations

import math

import numpy as np

from bimo.xiaomo.scenes.description import Scene
from bimo.xiaomo.scenes.geometry import box, ellipse, path, placed


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


def snowman(scene: Scene, x: float, y: float, size: float) -> None:
    """A snowman of two balls, with a nose, eyes, buttons and arms, and nothing on his head."""
    body, head = y - size * 0.28, y - size * 0.70
    with scene.element("snowman"):
        scene.fill("shadow", ellipse(x, y, size * 0.34, size * 0.06, 24), strength=0.5, soft=2.0)
        arms = [
            path((x + side * size * 0.2, body - size * 0.06), (x + side * size * 0.48, body - size * 0.28))
            for side in (-1, 1)
        ]
        scene.line("dark_wood", arms, size * 0.03, size * 0.015, rough=0.2)
        for down, radius in ((body, 0.3), (head, 0.2)):
            ball = ellipse(x, down, size * radius, size * radius, 36)
            scene.fill("wall", ball, rough=0.1, tint=(250, 252, 255), into_tint=(206, 220, 238))
            scene.line("dark_wood", [np.concatenate([ball, ball[:1]])], 0.002, rough=0.1, strength=0.35)
        dots = [(x + dx * size, head - size * 0.05, 0.026) for dx in (-0.075, 0.075)]
        dots += [(x, body + dy * size, 0.028) for dy in (-0.14, 0.0)]
        scene.fill("dark_wood", *(ellipse(a, b, size * r, size * r, 14) for a, b, r in dots), rough=0.0)
        nose = [(-0.01, -0.03), (0.16, 0.015), (-0.01, 0.04)]
        scene.fill("paper_red", placed(nose, x, head, size), rough=0.1, tint=(238, 128, 40))
