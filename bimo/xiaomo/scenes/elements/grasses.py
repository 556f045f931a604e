"""Bamboo and reeds."""

from __future__ import annotations

import math

import numpy as np

from bimo.xiaomo.scenes.description import Scene
from bimo.xiaomo.scenes.geometry import Path, leaf, path, smooth, xy


def bamboo_stalk(scene: Scene, x: float, foot: float, top: float, width: float, lean: float, depth: float) -> None:
    """One stalk of bamboo in joints, with its leaves in bunches."""
    chance = scene.chance.fork(f"bamboo{x:.3f}{depth:.2f}")
    joints = np.linspace(foot, top, max(4, int((foot - top) / 0.135) + 1), dtype=np.float32)
    across = x + lean * ((foot - joints) / max(0.2, foot - top)) ** 1.3
    stalk: list[Path] = []
    rings: list[Path] = []
    leaves: list[Path] = []
    twigs: list[Path] = []
    for number in range(len(joints) - 1):
        ends = (
            (float(across[number]), float(joints[number]) - 0.005),
            (float(across[number + 1]), float(joints[number + 1]) + 0.005),
        )
        half = width / 2
        (ax, ay), (bx, by) = ends
        stalk.append(
            path(
                (ax - half * 1.06, ay),
                (ax - half * 0.92, (ay + by) / 2),
                (bx - half * 1.06, by),
                (bx + half * 1.06, by),
                (bx + half * 0.92, (ay + by) / 2),
                (ax + half * 1.06, ay),
            )
        )
        rings.append(path((bx - half * 1.2, by - 0.004), (bx, by - 0.001), (bx + half * 1.2, by - 0.004)))
    for number in range(1, len(joints)):
        if chance.chance(0.75):
            side = chance.pick((-1.0, 1.0))
            px, py = float(across[number]), float(joints[number])
            turn = -math.pi / 2 + side * chance.uniform(0.5, 1.1)
            long = chance.uniform(0.08, 0.17)
            ex, ey = px + math.cos(turn) * long, py + math.sin(turn) * long * 0.7
            twigs.append(smooth([(px, py), ((px + ex) / 2, (py + ey) / 2 - 0.008), (ex, ey)], 7))
            for sx, sy, count in ((ex, ey, 4), ((px + ex) / 2, (py + ey) / 2, 2)):
                middle = math.pi / 2 - side * 0.55 + 0.3 * scene.layout.sway
                for k in range(count):
                    leaves.append(
                        leaf(
                            sx,
                            sy,
                            middle + (k - (count - 1) / 2) * 0.42 + chance.normal(0.1),
                            chance.uniform(0.07, 0.115) * (1 - 0.3 * depth),
                            0.0165 * (1 - 0.3 * depth),
                        )
                    )
    scene.fill("bamboo", *stalk, depth=depth, into="bamboo_low" if depth < 0.3 else None, rough=0.3)
    scene.line("bamboo_low", rings, 0.005, 0.004, depth=depth, rough=0.1)
    scene.line("bamboo_low", twigs, 0.004, 0.002, depth=depth, rough=0.2)
    half = len(leaves) // 2
    scene.fill("bamboo_leaf", *leaves[half:], depth=min(1, depth + 0.14), rough=0.1)
    scene.fill("bamboo_leaf", *leaves[:half], depth=depth, rough=0.1)
    if scene.mood.white and depth < 0.3:
        scene.fill(
            "snow",
            *[leaf(*xy(one[0] - np.array([0, 0.005])), math.pi / 2, 0.04, 0.012) for one in leaves[::5]],
            rough=0.1,
        )


def reeds(scene: Scene, x: float, y: float, size: float, count: int, name: str = "reeds") -> None:
    """Reeds with feathery plumes that all bend with the wind."""
    chance, sway = scene.chance.fork(f"reeds{x:.3f}"), scene.layout.sway
    stems: list[Path] = []
    plumes: list[Path] = []
    for _ in range(count):
        root, long = x + chance.normal(size * 0.35), size * chance.uniform(0.55, 1.1)
        bend = (0.32 * sway + chance.normal(0.1)) * long
        stem = smooth([(root, y), (root + bend * 0.25, y - long * 0.55), (root + bend, y - long)], 12)
        stems.append(stem)
        if chance.chance(0.6):
            px, py = stem[-1].tolist()
            plumes.append(
                leaf(
                    px - bend * 0.12, py + long * 0.06, math.atan2(-long, bend * 2.2 + 0.01), long * 0.30, long * 0.085
                )
            )
    with scene.element(name):
        scene.line("reed", stems, 0.0055, 0.002, rough=0.3)
        scene.fill("plume", *plumes, rough=0.8)
