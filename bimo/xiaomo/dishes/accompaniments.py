"""What surrounds a dish: chopsticks, steam."""

from __future__ import annotations

import math

import numpy as np

from bimo.xiaomo.chance import Chance
from bimo.xiaomo.dishes.vessels import Surface
from bimo.xiaomo.scenes.description import Scene
from bimo.xiaomo.scenes.geometry import Path, path, smooth


def chopsticks(scene: Scene, x: float, y: float, length: float, angle: float) -> None:
    """A pair of chopsticks on their rest."""
    dx, dy = math.cos(angle) * length, math.sin(angle) * length
    with scene.element("chopsticks"):
        for shift in (0.0, 0.022):
            ends = path((x - dx / 2 + shift, y - dy / 2 + shift * 0.6), (x + dx / 2 + shift, y + dy / 2 + shift * 0.3))
            scene.line("shadow", [ends + np.array([0.006, 0.01], np.float32)], 0.012, 0.007, strength=0.5, soft=1.0)
            scene.line("dark_wood", [ends], 0.013, 0.007, rough=0.0)
            scene.line(
                "red_wood",
                [ends[:1] + (ends[1:] - ends[:1]) * np.array([[0.0], [0.22]], np.float32)],
                0.013,
                0.012,
                rough=0.0,
            )


def steam(scene: Scene, surface: Surface, chance: Chance) -> None:
    """Steam that rises from hot food."""
    wisps: list[Path] = []
    for k in (chance.uniform(-0.5, -0.25), chance.uniform(-0.1, 0.15), chance.uniform(0.3, 0.5)):
        x, y = surface.x + surface.across * k, surface.y - surface.down * 0.35
        sway = chance.normal(0.02)
        wisps.append(
            smooth(
                [(x, y), (x + 0.025 + sway, y - 0.07), (x - 0.02 + sway, y - 0.14), (x + 0.02 + sway * 2, y - 0.22)], 18
            )
        )
    with scene.element("steam"):
        scene.line("steam", wisps, 0.010, 0.030, strength=0.26, soft=3.6, rough=0.0)
