"""Roofs with upturned eaves: pagodas, pavilions, halls."""

from __future__ import annotations

import math

import numpy as np

from bimo.xiaomo.scenes.description import Scene, Stroke
from bimo.xiaomo.scenes.geometry import Path, arc, box, ellipse, path


def upturned_roof(x: float, eaves: float, wide: float, high: float, curl: float = 1.0) -> Path:
    """The outline of a roof whose corners turn up."""
    half = wide / 2
    points = [
        (-1.0, -0.30 * curl),
        (-0.82, 0.10),
        (-0.5, 0.0),
        (0.0, -0.02),
        (0.5, 0.0),
        (0.82, 0.10),
        (1.0, -0.30 * curl),
        (0.74, -0.20),
        (0.46, -0.55),
        (0.30, -1.0),
        (-0.30, -1.0),
        (-0.46, -0.55),
        (-0.74, -0.20),
    ]
    return path(*((x + px * half, eaves + py * high) for px, py in points))


def pagoda(scene: Scene, x: float, foot: float, height: float, storeys: int = 7, depth: float = 0.0) -> None:
    """A tower of many storeys with upturned eaves and a spire."""
    with scene.element("pagoda"):
        unit = height / (storeys + 1.4)
        wide, y = height * 0.235, foot
        scene.fill(
            "stone",
            path(
                (x - wide * 0.62, y),
                (x - wide * 0.55, y - unit * 0.25),
                (x + wide * 0.55, y - unit * 0.25),
                (x + wide * 0.62, y),
            ),
            depth=depth,
            rough=0.3,
        )
        y -= unit * 0.25
        for _storey in range(storeys):
            half, high = wide * 0.40, unit * 0.72
            scene.fill("brick", box(x - half, y - high, x + half, y), into="brick_low", depth=depth, rough=0.3)
            scene.line(
                "red_wood",
                [path((x + half * k, y), (x + half * k, y - high)) for k in (-0.94, -0.42, 0.42, 0.94)],
                wide * 0.03 + 0.001,
                depth=depth,
                rough=0.1,
            )
            doors = [
                arc(x + half * k, y - high * 0.36, half * 0.17, high * 0.36, math.pi, math.tau, 8)
                for k in (-0.68, 0, 0.68)
            ]
            panes = [
                np.concatenate([one, path((float(one[-1, 0]), y - high * 0.06), (float(one[0, 0]), y - high * 0.06))])
                for one in doors
            ]
            scene.fill("window", *panes, depth=depth * 0.4, rough=0.1)
            eaves = y - high + unit * 0.02
            roof = upturned_roof(x, eaves, wide * 1.34, unit * 0.34)
            scene.fill("roof", roof, depth=depth, rough=0.25)
            scene.line("eave", [roof[:7]], 0.004, depth=depth, rough=0.2, strength=0.8)
            y -= unit
            wide *= 0.905
        tip = y - unit * 1.15
        scene.strokes(
            "dark_wood",
            [Stroke(path((x, y + unit * 0.1), (x, tip)), wide * 0.10 + 0.001, 0.002)],
            depth=depth,
            rough=0.1,
        )
        scene.fill(
            "gold",
            *[ellipse(x, y - unit * k, wide * 0.09 * (1.2 - k), unit * 0.07, 10) for k in (0.15, 0.4, 0.65)],
            depth=depth,
            rough=0.1,
        )


def pavilion(
    scene: Scene, x: float, foot: float, size: float, depth: float = 0.0, storeys: int = 1, name: str = "pavilion"
) -> None:
    """A pavilion of red columns under an upturned roof with a finial."""
    with scene.element(name):
        scene.fill(
            "stone",
            path(
                (x - size * 0.46, foot),
                (x - size * 0.42, foot - size * 0.07),
                (x + size * 0.42, foot - size * 0.07),
                (x + size * 0.46, foot),
            ),
            into="stone_low",
            depth=depth,
            rough=0.3,
        )
        y, wide, top = foot - size * 0.07, size, foot
        for storey in range(storeys):
            high = wide * (0.42 if storeys == 1 else 0.34)
            back = [path((x + wide * k, y), (x + wide * k, y - high)) for k in (-0.14, 0.14)]
            scene.line("red_wood", back, wide * 0.028, depth=min(1, depth + 0.15), rough=0.1)
            if storeys > 1:
                scene.fill(
                    "window",
                    box(x - wide * 0.26, y - high * 0.8, x + wide * 0.26, y - high * 0.16),
                    depth=depth * 0.3,
                    rough=0.1,
                )
            columns = (
                [path((x + wide * k, y), (x + wide * k, y - high)) for k in (-0.33, -0.12, 0.12, 0.33)]
                if storeys > 1
                else [path((x + wide * k, y), (x + wide * k, y - high)) for k in (-0.33, 0.33)]
            )
            scene.line("red_wood", columns, wide * 0.042, depth=depth, rough=0.1)
            scene.line(
                "red_wood",
                [path((x - wide * 0.36, y - wide * 0.10), (x + wide * 0.36, y - wide * 0.10))],
                wide * 0.02,
                depth=depth,
                rough=0.1,
            )
            scene.line(
                "red_wood",
                [path((x + wide * k, y), (x + wide * k, y - wide * 0.10)) for k in np.linspace(-0.3, 0.3, 7)],
                wide * 0.010,
                depth=depth,
                rough=0.1,
            )
            scene.fill(
                "green_trim",
                box(x - wide * 0.36, y - high - wide * 0.005, x + wide * 0.36, y - high + wide * 0.05),
                depth=depth,
                rough=0.1,
            )
            roof = upturned_roof(x, y - high, wide * 1.22, wide * (0.42 if storey == storeys - 1 else 0.2))
            if storey == storeys - 1:
                roof[9], roof[10] = (x + wide * 0.03, y - high - wide * 0.46), (x - wide * 0.03, y - high - wide * 0.46)
            scene.fill("roof", roof, depth=depth, rough=0.25)
            top = float(roof[9, 1])
            ribs = [
                path(
                    (x + wide * 0.03 * k, top),
                    (x + wide * 0.22 * k, y - high - wide * 0.08),
                    (x + wide * 0.42 * k, y - high + wide * 0.02),
                )
                for k in (-1, -0.45, 0, 0.45, 1)
            ]
            scene.line("eave", ribs, 0.003, depth=depth, rough=0.2, strength=0.6)
            y, wide = y - high - wide * 0.12, wide * 0.80
        scene.fill("gold", ellipse(x, top - size * 0.03, size * 0.03, size * 0.045, 10), depth=depth, rough=0.1)


def hall(scene: Scene, x: float, foot: float, wide: float, depth: float = 0.0, terrace: bool = True) -> None:
    """A palace hall: white terraces, red columns and walls, a double roof of golden tiles."""
    with scene.element("palace"):
        y = foot
        if terrace:
            for step in range(3):
                half = wide * (0.66 - 0.05 * step)
                scene.fill(
                    "marble", box(x - half, y - wide * 0.045, x + half, y), into="marble_low", depth=depth, rough=0.2
                )
                rails = [
                    path((px, y - wide * 0.045), (px, y - wide * 0.07)) for px in np.linspace(x - half, x + half, 17)
                ]
                scene.line(
                    "marble",
                    [path((x - half, y - wide * 0.068), (x + half, y - wide * 0.068))],
                    0.005,
                    depth=depth,
                    rough=0.1,
                )
                scene.line("marble_low", rails, 0.004, depth=depth, rough=0.1)
                y -= wide * 0.045
            stair = path((x - wide * 0.09, foot), (x - wide * 0.07, y), (x + wide * 0.07, y), (x + wide * 0.09, foot))
            scene.fill("marble", stair, depth=depth, rough=0.2)
            scene.line(
                "marble_low",
                [
                    path((x - wide * 0.085, foot - k), (x + wide * 0.085, foot - k))
                    for k in np.linspace(0.006, foot - y, 7)
                ],
                0.0028,
                depth=depth,
                rough=0.1,
            )
        high = wide * 0.17
        scene.fill("red_wall", box(x - wide * 0.44, y - high, x + wide * 0.44, y), depth=depth, rough=0.2)
        scene.fill(
            "window",
            *[
                box(x + wide * (k - 0.032), y - high * 0.72, x + wide * (k + 0.032), y - high * 0.06)
                for k in (-0.345, -0.22, -0.11, 0, 0.11, 0.22, 0.345)
            ],
            depth=depth * 0.3,
            rough=0.1,
        )
        scene.line(
            "red_wood",
            [
                path((x + wide * k, y), (x + wide * k, y - high))
                for k in (-0.42, -0.285, -0.165, -0.055, 0.055, 0.165, 0.285, 0.42)
            ],
            wide * 0.017,
            depth=depth,
            rough=0.1,
        )
        scene.fill(
            "green_trim",
            box(x - wide * 0.45, y - high - wide * 0.018, x + wide * 0.45, y - high + wide * 0.012),
            depth=depth,
            rough=0.1,
        )
        lower = _hip(x, y - high, wide * 1.12, wide * 0.10, 0.86)
        _golden(scene, lower, depth)
        y2 = y - high - wide * 0.085
        scene.fill(
            "red_wall", box(x - wide * 0.36, y2 - wide * 0.055, x + wide * 0.36, y2 + 0.01), depth=depth, rough=0.2
        )
        scene.fill(
            "green_trim",
            box(x - wide * 0.365, y2 - wide * 0.055, x + wide * 0.365, y2 - wide * 0.030),
            depth=depth,
            rough=0.1,
        )
        scene.fill("gold", box(x - wide * 0.03, y2 - wide * 0.05, x + wide * 0.03, y2), depth=depth, rough=0.1)
        _golden(scene, _hip(x, y2 - wide * 0.05, wide * 0.94, wide * 0.19, 0.62), depth)


def _hip(x: float, eaves: float, wide: float, high: float, top: float) -> Path:
    half = wide / 2
    points = [
        (-1, -0.16),
        (-0.92, 0.05),
        (-0.5, 0.03),
        (0, 0.03),
        (0.5, 0.03),
        (0.92, 0.05),
        (1, -0.16),
        (0.86, -0.24),
        (top + 0.06, -0.7),
        (top, -1.0),
        (-top, -1.0),
        (-top - 0.06, -0.7),
        (-0.86, -0.24),
    ]
    return path(*((x + px * half, eaves + py * high) for px, py in points))


def _golden(scene: Scene, roof: Path, depth: float) -> None:
    scene.fill("gold_roof", roof, depth=depth, rough=0.2)
    scene.line("gold_edge", [roof[:7], roof[8:12]], 0.007, depth=depth, rough=0.15)
    left, right = roof[10], roof[9]
    low_left, low_right = roof[1], roof[5]
    ribs = [
        np.stack([left + (right - left) * k, low_left + (low_right - low_left) * k])
        for k in np.linspace(0.04, 0.96, 15)
    ]
    scene.line("gold_edge", ribs, 0.0025, depth=depth, rough=0.1, strength=0.55)
    scene.line("eave", [roof[[1, 2, 3, 4, 5]]], 0.003, depth=depth, rough=0.1, strength=0.7)
