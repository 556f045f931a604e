"""Lanterns: single, in a row, of stone, floating."""

from __future__ import annotations

import math

from bimo.xiaomo.scenes.description import Scene
from bimo.xiaomo.scenes.geometry import arc, box, ellipse, path, petal, placed, smooth


def lantern(scene: Scene, x: float, y: float, size: float, cord: float = 0.0) -> None:
    """A round red lantern with gold caps and a tassel; `cord` is the length of its cord."""
    if cord:
        scene.line("dark_wood", [path((x, y - size * 0.5 - cord), (x, y - size * 0.5))], 0.003, rough=0.1)
    if scene.mood.light in ("night", "dusk"):
        scene.fill("lantern_glow", ellipse(x, y, size * 0.9, size * 0.85, 20), strength=0.28, soft=6.0, rough=0.0)
    lit = scene.mood.light in ("night", "dusk")
    scene.fill(
        "lantern",
        ellipse(x, y, size * 0.56, size * 0.46, 24),
        into="lantern_glow" if lit else None,
        radial=lit,
        rough=0.2,
    )
    ribs = [arc(x, y, size * 0.56 * k, size * 0.46, -math.pi / 2, math.pi / 2, 10) for k in (-0.7, -0.35, 0.35, 0.7)]
    scene.line("tassel", ribs, 0.0028, rough=0.1, strength=0.6)
    scene.fill(
        "gold",
        box(x - size * 0.2, y - size * 0.52, x + size * 0.2, y - size * 0.42),
        box(x - size * 0.2, y + size * 0.42, x + size * 0.2, y + size * 0.52),
        rough=0.1,
    )
    threads = [
        path((x + size * k, y + size * 0.52), (x + size * k * 1.3, y + size * 0.92)) for k in (-0.10, -0.04, 0.04, 0.10)
    ]
    scene.line("tassel", threads, 0.005, 0.003, rough=0.2)


def lantern_row(
    scene: Scene, start: tuple[float, float], end: tuple[float, float], sag: float, size: float, count: int
) -> None:
    """Lanterns on a rope."""
    middle = ((start[0] + end[0]) / 2, (start[1] + end[1]) / 2 + sag)
    rope = smooth([start, middle, end], 30)
    with scene.element("lantern"):
        scene.line("dark_wood", [rope], 0.003, rough=0.1)
        for k in range(count):
            px, py = rope[int((k + 0.5) / count * 29)].tolist()
            lantern(scene, px, py + size * 0.62, size, 0.01)


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
