"""Dwellings: houses, villages, cottages, yurts, a fence, a window."""

from __future__ import annotations

import math

import numpy as np

from bimo.xiaomo.scenes.description import Scene
from bimo.xiaomo.scenes.geometry import box, path, placed, smooth


def house(
    scene: Scene, x: float, foot: float, wide: float, high: float, depth: float = 0.0, horse_head: bool = False
) -> None:
    """A white-walled house with a dark tiled roof; its windows are lit at night."""
    left, right, top = x - wide / 2, x + wide / 2, foot - high
    over, rise = wide * 0.10, high * 0.46
    scene.fill("wall", box(left, top, right, foot), depth=depth, into="wall_low", rough=0.5)
    if horse_head:  # the stepped gable of Huizhou
        steps = [
            (left - over * 0.4, foot),
            (left - over * 0.4, top - rise * 0.5),
            (left + wide * 0.12, top - rise * 0.5),
            (left + wide * 0.12, top - rise * 1.0),
            (left + wide * 0.32, top - rise * 1.0),
            (left + wide * 0.32, top - rise * 0.5),
            (left + wide * 0.46, top - rise * 0.5),
            (left + wide * 0.46, foot),
        ]
        scene.fill(
            "roof",
            path(
                (left + wide * 0.4, top + 0.004),
                (left + wide * 0.46, top - rise * 0.62),
                (right - over * 0.5, top - rise * 0.62),
                (right + over, top + 0.004),
            ),
            depth=depth,
            rough=0.4,
        )
        scene.fill("wall", path(*steps), depth=depth, into="wall_low", rough=0.4)
        caps = [
            box(steps[1][0] - 0.004, steps[1][1] - high * 0.07, steps[2][0] + 0.004, steps[1][1]),
            box(steps[3][0] - 0.004, steps[3][1] - high * 0.07, steps[4][0] + 0.004, steps[3][1]),
            box(steps[5][0] - 0.004, steps[5][1] - high * 0.07, steps[6][0] + 0.006, steps[5][1]),
        ]
        scene.fill("roof", *caps, depth=depth, rough=0.3)
    else:
        roof = path(
            (left - over, top + high * 0.06),
            (left - over * 0.2, top - rise * 0.32),
            (left + over * 0.9, top - rise),
            (right - over * 0.9, top - rise),
            (right + over * 0.2, top - rise * 0.32),
            (right + over, top + high * 0.06),
        )
        scene.fill("roof", roof, depth=depth, rough=0.4)
        ridge_line = path(
            (left + over * 0.5, top - rise * 1.05),
            (left + over * 0.9, top - rise * 0.98),
            (right - over * 0.9, top - rise * 0.98),
            (right - over * 0.5, top - rise * 1.05),
        )
        tiles = [
            path((left + over + k * wide * 0.8, top - rise * 0.9), (left + k * wide * 1.0, top + high * 0.02))
            for k in np.linspace(0.06, 0.94, 7)
        ]
        scene.line("eave", [ridge_line], 0.05 * high + 0.002, depth=depth, rough=0.3)
        scene.line(
            "eave", [roof[[0, 5]], *(tiles if wide > 0.07 else [])], 0.0028, 0.002, depth=depth, rough=0.3, strength=0.6
        )
    scene.fill("door", box(x - wide * 0.08, foot - high * 0.56, x + wide * 0.10, foot), depth=depth, rough=0.3)
    panes = [box(x + wide * k, foot - high * 0.68, x + wide * (k + 0.14), foot - high * 0.38) for k in (-0.36, 0.24)]
    scene.fill("window", *panes, depth=depth * 0.3, rough=0.2)


def village(
    scene: Scene,
    x: float,
    foot: float,
    size: float,
    count: int,
    depth: float = 0.0,
    horse_head: bool = False,
    name: str = "houses",
) -> None:
    """Houses in a row, some further back."""
    chance = scene.chance.fork(f"village{x:.3f}{foot:.3f}")
    with scene.element(name):
        order = sorted(range(count), key=lambda k: k % 2 == 0)
        for k in order:
            wide, high = size * chance.uniform(0.85, 1.3), size * chance.uniform(0.5, 0.75)
            hx = x + (k - (count - 1) / 2) * size * 0.98 + chance.normal(size * 0.06)
            house(
                scene, hx, foot - (k % 2) * size * 0.20, wide, high, depth + (k % 2) * 0.08, horse_head and k % 2 == 0
            )


def cottage(scene: Scene, x: float, foot: float, size: float, depth: float = 0.0) -> None:
    """A thatched cottage."""
    with scene.element("cottage"):
        scene.fill("wall", box(x - size * 0.4, foot - size * 0.4, x + size * 0.4, foot), into="wall_low", depth=depth)
        scene.fill("door", box(x - size * 0.08, foot - size * 0.3, x + size * 0.1, foot), depth=depth)
        scene.fill("window", box(x - size * 0.3, foot - size * 0.28, x - size * 0.17, foot - size * 0.14), depth=depth)
        roof = path(
            (x - size * 0.55, foot - size * 0.34),
            (x - size * 0.36, foot - size * 0.66),
            (x - size * 0.2, foot - size * 0.78),
            (x + size * 0.2, foot - size * 0.78),
            (x + size * 0.36, foot - size * 0.66),
            (x + size * 0.55, foot - size * 0.34),
        )
        scene.fill("thatch", roof, depth=depth, rough=1.2)
        straws = [
            path((x + size * 0.36 * k, foot - size * 0.74), (x + size * 0.5 * k, foot - size * 0.36))
            for k in np.linspace(-1, 1, 9)
        ]
        scene.line("bark", straws, 0.003, 0.002, depth=depth, strength=0.5)


def fence(scene: Scene, x: float, y: float, wide: float) -> None:
    """A bamboo fence."""
    posts = [path((x + wide * k, y), (x + wide * k, y - 0.055)) for k in np.linspace(-0.5, 0.5, 11)]
    rails = [path((x - wide * 0.52, y - h), (x + wide * 0.52, y - h)) for h in (0.018, 0.042)]
    with scene.element("fence"):
        scene.line("thatch", [*posts, *rails], 0.006, rough=0.5)
        scene.line("bark", [one + np.array([0.002, 0], np.float32) for one in posts], 0.002, rough=0.5, strength=0.6)


def window_frame(scene: Scene) -> None:
    """A round moon window in a white wall, seen from inside; shapes that were added before are the view."""
    turn = np.linspace(0, math.tau, 60, dtype=np.float32)
    ring = np.stack([0.5 + 0.40 * np.cos(turn), 0.46 + 0.40 * np.sin(turn)], 1).astype(np.float32)
    outside = path((-0.02, -0.02), (1.02, -0.02), (1.02, 1.02), (-0.02, 1.02), (-0.02, 0.46))
    wall = np.concatenate([outside, ring[30:], ring[:31]])
    with scene.element("moon window"):
        scene.fill("wall", wall, into="wall_low", rough=0.1)
        scene.line("dark_wood", [np.concatenate([ring, ring[:2]])], 0.024, rough=0.1)


def yurt(scene: Scene, x: float, foot: float, size: float) -> None:
    """A felt tent of the grassland."""

    scene.fill(
        "wall",
        placed([(-0.5, 0.0), (-0.5, -0.34), (0.5, -0.34), (0.5, 0.0)], x, foot, size),
        into="wall_low",
        rough=0.3,
    )
    scene.fill(
        "wall",
        smooth(placed([(-0.54, -0.33), (-0.3, -0.56), (0.0, -0.66), (0.3, -0.56), (0.54, -0.33)], x, foot, size), 20),
        into="wall_low",
        rough=0.2,
    )
    scene.line(
        "robe_blue",
        [path((x - size * 0.5, foot - size * 0.33), (x + size * 0.5, foot - size * 0.33))],
        size * 0.05,
        rough=0.1,
    )
    scene.fill("red_wood", box(x - size * 0.09, foot - size * 0.27, x + size * 0.09, foot), rough=0.1)
    scene.line(
        "robe_line",
        [path((x + k * size, foot), (x + k * size, foot - size * 0.33)) for k in (-0.36, -0.22, 0.22, 0.36)],
        0.0022,
        rough=0.1,
        strength=0.5,
    )
