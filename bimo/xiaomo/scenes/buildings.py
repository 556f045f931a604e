"""What people build: houses, bridges, pagodas, pavilions, halls, the Great Wall, towers of a city, lanterns."""

from __future__ import annotations

import math

import numpy as np

from bimo.xiaomo.scenes.description import Scene, Stroke
from bimo.xiaomo.scenes.geometry import Path, arc, box, ellipse, height_at, path, placed, smooth, xy


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


def arch_bridge(scene: Scene, x: float, foot: float, span: float, rise: float) -> None:
    """A stone bridge of one high arch with steps and a rail; it stands with its arch on the water."""
    turn = np.linspace(-1, 1, 44, dtype=np.float32)
    deck = np.stack([x + span / 2 * turn, foot - 0.02 - rise * np.cos(turn * 1.5706) ** 1.25], 1).astype(np.float32)
    hole_across, hole_down = span * 0.255, rise * 0.74
    opening = arc(x, foot, hole_across, hole_down, math.pi, math.tau, 32)
    body = np.concatenate(
        [
            deck,
            path((x + span / 2, foot), (x + hole_across, foot)),
            opening[::-1],
            path((x - hole_across, foot), (x - span / 2, foot)),
        ]
    )
    first = len(scene.shapes)
    with scene.element("bridge"):
        scene.fill("stone", body, into="stone_low", rough=0.4)
        ring = arc(x, foot, hole_across * 1.16, hole_down * 1.13, math.pi, math.tau, 32)
        wedges = [np.stack([opening[k], ring[k]]) for k in range(2, 31, 3)]
        scene.line("stone_line", [opening], 0.006, rough=0.4)
        scene.line("stone_line", [ring], 0.003, rough=0.4, strength=0.8)
        scene.line("stone_line", wedges, 0.0025, rough=0.2, strength=0.7)
        courses = [deck + np.array([0, k], np.float32) for k in (0.022, 0.044)]
        scene.line("stone_line", [one[2:-2] for one in courses], 0.002, rough=0.4, strength=0.35)
        scene.line("stone", [deck - np.array([0, 0.017], np.float32)], 0.009, rough=0.3)
        scene.line("stone_line", [deck, deck - np.array([0, 0.022], np.float32)], 0.0034, rough=0.3)
        posts = [path((px, py + 0.002), (px, py - 0.030)) for px, py in deck[2:-2:5].tolist()]
        scene.line("stone_line", posts, 0.0055, 0.0045, rough=0.1)
    scene.mirror(first, foot, 0.42, 0.7)


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


def gate_tower(scene: Scene, x: float, foot: float, wide: float, depth: float = 0.0) -> None:
    """A city gate: a battlemented wall with an arch, and a hall on top."""
    high = wide * 0.42
    with scene.element("city gate"):
        scene.fill(
            "brick",
            path(
                (x - wide * 0.62, foot),
                (x - wide * 0.56, foot - high),
                (x + wide * 0.56, foot - high),
                (x + wide * 0.62, foot),
            ),
            into="brick_low",
            depth=depth,
            rough=0.3,
        )
        teeth = [
            box(
                x + wide * k - wide * 0.022,
                foot - high - wide * 0.045,
                x + wide * k + wide * 0.022,
                foot - high + 0.002,
            )
            for k in np.linspace(-0.53, 0.53, 13)
        ]
        scene.fill("brick", *teeth, depth=depth, rough=0.1)
        opening = arc(x, foot - high * 0.36, wide * 0.11, high * 0.3, math.pi, math.tau, 14)
        scene.fill(
            "dark_wood",
            np.concatenate([opening, path((x + wide * 0.11, foot), (x - wide * 0.11, foot))]),
            depth=depth,
            rough=0.1,
        )
        courses = [
            path((x - wide * 0.58, foot - high * k), (x + wide * 0.58, foot - high * k)) for k in (0.25, 0.5, 0.75)
        ]
        scene.line("brick_line", courses, 0.002, depth=depth, strength=0.4)
    hall(scene, x, foot - high, wide * 0.72, depth, terrace=False)


def great_wall(scene: Scene, edge: Path, thick: float, towers: list[float], depth: float) -> None:
    """The wall along a ridge: its lit face, its battlements, and watch towers."""
    with scene.element("great wall"):
        top = edge - np.array([0, thick], np.float32)
        scene.fill(
            "brick",
            np.concatenate([top, (edge + np.array([0, thick * 0.25], np.float32))[::-1]]),
            into="brick_low",
            depth=depth,
            rough=0.4,
        )
        scene.line(
            "brick_line", [edge - np.array([0, thick * 0.45], np.float32)], 0.002, depth=depth, strength=0.45, rough=0.4
        )
        pace = thick * 0.55
        places = np.arange(float(edge[0, 0]), float(edge[-1, 0]), pace)
        teeth = [
            box(px, height_at(top, px) - thick * 0.24, px + pace * 0.55, height_at(top, px) + 0.003)
            for px in places.tolist()
        ]
        scene.fill("brick", *teeth, depth=depth, rough=0.4)
        scene.line("brick_line", [top], 0.0035, depth=depth, strength=0.8, rough=0.4)
        for tx in towers:
            watch_tower(scene, tx, height_at(edge, tx) + thick * 0.3, thick * 1.5, depth)


def watch_tower(scene: Scene, x: float, foot: float, size: float, depth: float) -> None:
    """A watch tower with its battlements and three arched windows."""
    high = size * 1.75
    scene.fill(
        "brick",
        path(
            (x - size * 0.62, foot),
            (x - size * 0.54, foot - high),
            (x + size * 0.54, foot - high),
            (x + size * 0.62, foot),
        ),
        into="brick_low",
        depth=depth,
        rough=0.2,
    )
    teeth = [
        box(x + size * k - size * 0.09, foot - high - size * 0.22, x + size * k + size * 0.09, foot - high + 0.002)
        for k in (-0.48, -0.16, 0.16, 0.48)
    ]
    scene.fill("brick", *teeth, depth=depth, rough=0.1)
    scene.line(
        "brick_line",
        [path((x - size * 0.58, foot - high + size * 0.06), (x + size * 0.58, foot - high + size * 0.06))],
        0.0045,
        depth=depth,
        rough=0.1,
    )
    panes = [
        np.concatenate(
            [
                arc(x + size * k, foot - high * 0.62, size * 0.10, size * 0.14, math.pi, math.tau, 8),
                path((x + size * (k + 0.10), foot - high * 0.46), (x + size * (k - 0.10), foot - high * 0.46)),
            ]
        )
        for k in (-0.3, 0.0, 0.3)
    ]
    scene.fill("door", *panes, depth=depth, rough=0.1)


def lantern(scene: Scene, x: float, y: float, size: float, cord: float = 0.0) -> None:
    """A round red lantern with gold caps and a tassel; `cord` is how far up it hangs from."""
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
            panes = []
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


def fence(scene: Scene, x: float, y: float, wide: float) -> None:
    """A bamboo fence."""
    posts = [path((x + wide * k, y), (x + wide * k, y - 0.055)) for k in np.linspace(-0.5, 0.5, 11)]
    rails = [path((x - wide * 0.52, y - h), (x + wide * 0.52, y - h)) for h in (0.018, 0.042)]
    with scene.element("fence"):
        scene.line("thatch", [*posts, *rails], 0.006, rough=0.5)
        scene.line("bark", [one + np.array([0.002, 0], np.float32) for one in posts], 0.002, rough=0.5, strength=0.6)


def window_frame(scene: Scene) -> None:
    """A round moon window in a white wall, seen from inside; what was added before is the view."""
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
