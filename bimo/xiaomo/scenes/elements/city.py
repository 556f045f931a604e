"""A modern city: skyline, television tower, Ferris wheel."""

from __future__ import annotations

import numpy as np

from bimo.xiaomo.scenes.description import Scene
from bimo.xiaomo.scenes.geometry import Path, box, ellipse, path, xy


def skyline(
    scene: Scene, foot: float, count: int, low: float, high: float, depth: float, name: str = "skyscrapers"
) -> None:
    """Towers of a city with their lit windows."""
    chance = scene.chance.fork(f"skyline{depth:.2f}")
    with scene.element(name):
        for k in range(count):
            wide = chance.uniform(0.8, 1.25) / count
            x, tall = (k + 0.5) / count + chance.normal(0.012), chance.uniform(low, high)
            left, right, top = x - wide / 2, x + wide / 2, foot - tall
            kind = chance.integer(0, 3)
            roof = {
                0: path((left, top), (right, top)),
                1: path((left, top + 0.03), (x - wide * 0.2, top), (x + wide * 0.2, top), (right, top + 0.03)),
                2: path((left, top + 0.05), (right, top)),
                3: path((left, top), (x, top - 0.04), (right, top)),
            }[kind]
            scene.fill(
                "tower",
                np.concatenate([roof, path((right, foot), (left, foot))]),
                into="tower_low",
                depth=depth,
                rough=0.1,
            )
            if chance.chance(0.3):
                scene.line("eave", [path((x, top), (x, top - 0.06))], 0.004, 0.002, depth=depth, rough=0.0)
            columns, rows = max(2, int(wide / 0.020)), int(tall / 0.030)
            panes: list[Path] = []
            for row in range(rows):
                for column in range(columns):
                    if chance.chance(0.52):
                        px, py = left + wide * (column + 0.5) / columns, foot - 0.02 - row * 0.030
                        if py > top + 0.05:
                            panes.append(
                                box(px - wide / columns * 0.28, py - 0.008, px + wide / columns * 0.28, py + 0.008)
                            )
            scene.fill(
                "glass",
                *panes,
                depth=depth * 0.5,
                strength=0.9 if scene.mood.light in ("night", "dusk") else 0.4,
                rough=0.0,
            )


def pearl_tower(scene: Scene, x: float, foot: float, height: float, depth: float = 0.0) -> None:
    """A television tower of spheres on a shaft."""
    with scene.element("tower"):
        legs = [path((x + height * k, foot), (x, foot - height * 0.36)) for k in (-0.10, 0.10)]
        scene.line(
            "tower",
            [*legs, path((x, foot), (x, foot - height * 0.7))],
            height * 0.028,
            height * 0.02,
            depth=depth,
            rough=0.0,
        )
        scene.line(
            "tower",
            [path((x, foot - height * 0.66), (x, foot - height))],
            height * 0.014,
            0.002,
            depth=depth,
            rough=0.0,
        )
        lit = "neon" if scene.mood.light in ("night", "dusk") else "tower"
        for level, size in ((0.30, 0.062), (0.63, 0.045), (0.78, 0.02)):
            scene.fill(lit, ellipse(x, foot - height * level, height * size, height * size, 24), depth=depth, rough=0.0)


def great_wheel(scene: Scene, x: float, foot: float, size: float) -> None:
    """A Ferris wheel."""
    with scene.element("ferris wheel"):
        y = foot - size * 1.1
        rim = ellipse(x, y, size, size, 40)
        spokes = [path((x, y), tuple(rim[k].tolist())) for k in range(0, 40, 4)]
        scene.line(
            "eave", [path((x, y), (x - size * 0.5, foot)), path((x, y), (x + size * 0.5, foot))], 0.007, rough=0.0
        )
        lit = "neon_blue" if scene.mood.light in ("night", "dusk") else "tower"
        scene.line(lit, [np.concatenate([rim, rim[:1]])], 0.007, rough=0.0)
        scene.line(lit, spokes, 0.0028, rough=0.0, strength=0.7)
        scene.fill("lamp", *[ellipse(*xy(rim[k]), 0.010, 0.010, 10) for k in range(0, 40, 4)], rough=0.0)
