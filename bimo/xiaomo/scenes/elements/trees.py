"""Trees of many kinds, near and far."""

from __future__ import annotations

import math

import numpy as np

from bimo.xiaomo.chance import Chance
from bimo.xiaomo.scenes.description import Scene, Stroke
from bimo.xiaomo.scenes.geometry import Path, arc, blob, leaf, path, smooth, xy

Point = tuple[float, float]


def skeleton(
    chance: Chance,
    x: float,
    y: float,
    height: float,
    lean: float,
    levels: int = 4,
    spread: float = 0.5,
    gnarl: float = 0.12,
) -> tuple[list[Stroke], list[Point]]:
    """The limbs of a tree and the ends of its twigs."""
    limbs: list[Stroke] = []
    tips: list[Point] = []

    def grow(px: float, py: float, angle: float, length: float, width: float, level: int) -> None:
        points = [(px, py)]
        for _ in range(4):
            angle += chance.normal(gnarl)
            px, py = px + math.cos(angle) * length / 4, py - math.sin(angle) * length / 4
            points.append((px, py))
        limbs.append(Stroke(smooth(points, 12), width, width * 0.62))
        if level < 2:
            tips.append((px, py))
        if level:
            for way in (-1, 1):
                turn = way * spread * chance.uniform(0.6, 1.25) + chance.normal(0.08)
                grow(px, py, angle + turn, length * chance.uniform(0.62, 0.82), width * 0.62, level - 1)

    grow(x, y, math.pi / 2 + lean, height * 0.34, height * 0.05, levels)
    return limbs, tips


def tree(
    scene: Scene, x: float, y: float, height: float, kind: str, lean: float = 0.0, depth: float = 0.0
) -> list[Point]:
    """A tree with its foot at (x, y): leafy, bare, willow, peach, maple, ginkgo. Returns the ends of its twigs."""
    chance = scene.chance.fork(f"tree{x:.3f}{y:.3f}")
    if kind in ("leafy", "maple", "ginkgo") and scene.mood.white:
        kind = "bare"
    if kind == "willow":
        return willow(scene, x, y, height, lean, depth)
    levels = 4 if height > 0.3 else 3 if height > 0.14 else 2
    limbs, tips = skeleton(chance, x, y, height, lean, levels)
    name = {"leafy": "tree", "bare": "bare tree", "peach": "peach blossom", "maple": "maple", "ginkgo": "ginkgo"}[kind]
    with scene.element(name):
        scene.strokes("trunk", limbs, depth=depth)
        if kind == "bare":
            if scene.mood.white and height > 0.2:
                snow = [
                    Stroke(one.points - np.array([0, one.begin * 0.35], np.float32), one.begin * 0.4, one.end * 0.3)
                    for one in limbs[:7]
                ]
                scene.strokes("snow", snow, strength=0.9, depth=depth)
        elif kind == "peach":
            _blossoms(scene, chance, tips, height, depth, ("blossom", "blossom_dark", "white_blossom"))
        else:
            _crown(
                scene,
                chance,
                tips,
                height,
                depth,
                {
                    "leafy": ("leaf", "leaf_dark"),
                    "maple": ("maple", "maple_dark"),
                    "ginkgo": ("gold_leaf", "leaf_dark"),
                }[kind],
            )
    return tips


def _crown(
    scene: Scene, chance: Chance, tips: list[Point], height: float, depth: float, materials: tuple[str, str]
) -> None:
    """Foliage: soft masses first, then dabs, dark ones below."""
    light, dark = materials
    masses = [
        blob(
            chance,
            x + chance.normal(height * 0.03),
            y + chance.normal(height * 0.03),
            height * chance.uniform(0.07, 0.12),
            height * chance.uniform(0.05, 0.085),
            0.3,
        )
        for x, y in tips[:: max(1, len(tips) // 14)]
    ]
    scene.fill(light, *masses, strength=0.62, depth=depth, soft=0.6, rough=1.8)
    many = max(3, int(190 / max(8, len(tips)))) if height > 0.14 else 3
    for material, shift, size, count in ((dark, 0.02, 0.015, many), (light, -0.012, 0.014, many)):
        dabs: list[Path] = []
        for x, y in tips:
            for _ in range(count):
                r = height * size * chance.uniform(0.6, 1.3)
                dabs.append(
                    blob(
                        chance,
                        x + chance.normal(height * 0.055),
                        y + shift * height + chance.normal(height * 0.045),
                        r * 1.4,
                        r,
                        0.35,
                        8,
                    )
                )
        scene.fill(material, *dabs, strength=0.78, depth=depth, rough=0.6)


def _blossoms(
    scene: Scene, chance: Chance, tips: list[Point], height: float, depth: float, materials: tuple[str, str, str]
) -> None:
    soft = [blob(chance, x, y, height * 0.08, height * 0.06, 0.3) for x, y in tips[:: max(1, len(tips) // 12)]]
    scene.fill(materials[0], *soft, strength=0.30, depth=depth, soft=2.0)
    for material, count in zip(materials, (4, 2, 2), strict=True):
        dabs: list[Path] = []
        for x, y in tips:
            for _ in range(count if height > 0.2 else 1):
                r = height * chance.uniform(0.010, 0.020) + 0.001
                dabs.append(
                    blob(
                        chance, x + chance.normal(height * 0.05), y + chance.normal(height * 0.045), r, r * 0.9, 0.25, 8
                    )
                )
        scene.fill(material, *dabs, depth=depth, rough=0.4)


def willow(scene: Scene, x: float, y: float, height: float, lean: float = 0.0, depth: float = 0.0) -> list[Point]:
    """A weeping willow: limbs that arch outwards, long withes that hang and all sway one way."""
    chance = scene.chance.fork(f"willow{x:.3f}{y:.3f}")
    sway = 0.35 * scene.layout.sway
    trunk = smooth(
        [(x, y), (x + lean * height * 0.10, y - height * 0.22), (x + lean * height * 0.32, y - height * 0.45)], 14
    )
    tx, ty = trunk[-1].tolist()
    limbs = [Stroke(trunk, height * 0.065, height * 0.042)]
    withes: list[Path] = []
    tips: list[Point] = []
    for number in range(9):
        turn = -1.25 + 2.5 * number / 8 + chance.normal(0.08)
        reach, rise = height * chance.uniform(0.22, 0.40), height * chance.uniform(0.26, 0.46)
        ex, ey = tx + math.sin(turn) * reach, ty - rise * (0.55 + 0.45 * math.cos(turn))
        limb = smooth([(tx, ty), (tx + math.sin(turn) * reach * 0.45, ty - rise * 0.72), (ex, ey)], 12)
        limbs.append(Stroke(limb, height * 0.026, height * 0.008))
        tips.append((ex, ey))
        for place in range(6):
            px, py = limb[3 + int(place * 1.6)].tolist()
            px, long = px + chance.normal(height * 0.03), height * chance.uniform(0.22, 0.52)
            out = math.sin(turn) * height * 0.07
            points = [
                (px, py),
                (px + out * 0.7, py + long * 0.18),
                (px + out + sway * long * 0.18, py + long * 0.55),
                (px + out + sway * long * 0.6 + chance.normal(0.008), py + long),
            ]
            withes.append(smooth(points, 14))
    with scene.element("willow"):
        scene.strokes("trunk", limbs, depth=depth)
        scene.line("willow", withes, 0.0034, 0.0016, depth=depth, rough=0.3)
        if scene.mood.season != "winter":
            leaves: list[Path] = []
            for withe in withes:
                for spot in range(2, 14, 2 if height > 0.35 else 4):
                    px, py = xy(withe[min(13, spot)])
                    way = 1 if spot % 4 else -1
                    leaves.append(leaf(px, py, math.pi / 2 + way * 0.55, height * 0.042, height * 0.012))
            scene.fill("leaf", *leaves[::2], depth=depth, rough=0.1, strength=0.9)
            scene.fill("willow", *leaves[1::2], depth=depth, rough=0.1, strength=0.9)
    return tips


def pine(
    scene: Scene, x: float, y: float, height: float, lean: float = 0.0, depth: float = 0.0, spread: float = 1.0
) -> None:
    """A Chinese pine: a bent trunk with scales, and needles in flat clouds, the longest arm held out to one side."""
    chance = scene.chance.fork(f"pine{x:.3f}{y:.3f}")
    way = 1.0 if lean >= 0 else -1.0
    trunk = smooth(
        [
            (x, y),
            (x + way * 0.06 * height + chance.normal(0.01), y - 0.28 * height),
            (x - way * 0.03 * height, y - 0.55 * height),
            (x + way * 0.07 * height + lean * height * 0.2, y - 0.84 * height),
        ],
        24,
    )
    limbs = [Stroke(trunk, height * 0.062, height * 0.022)]
    clouds: list[tuple[float, float, float]] = []
    arms = (
        (0.38, way, 0.46),
        (0.50, -way, 0.30),
        (0.62, way, 0.34),
        (0.74, -way, 0.30),
        (0.86, way, 0.24),
        (0.97, -way, 0.16),
        (1.0, way, 0.14),
    )
    for place, side, reach in arms:
        px, py = trunk[min(23, int(place * 23))].tolist()
        long = height * reach * chance.uniform(0.85, 1.15) * spread
        limb = smooth(
            [
                (px, py),
                (px + side * long * 0.4, py - 0.02 * height + chance.normal(0.008)),
                (px + side * long * 0.75, py + 0.015 * height),
                (px + side * long, py - 0.03 * height),
            ],
            14,
        )
        limbs.append(Stroke(limb, height * 0.024, height * 0.009))
        clouds += [(*xy(limb[13]), 0.115), (*xy(limb[8]), 0.10)]
    with scene.element("pine"):
        scene.strokes("trunk", limbs, depth=depth)
        if height > 0.35:
            scales = [
                arc(
                    *xy(trunk[chance.integer(1, 20)] + np.array([chance.normal(0.010) * height, 0])),
                    0.008 * height / 0.6,
                    0.006 * height / 0.6,
                    0,
                    math.pi,
                    6,
                )
                for _ in range(16)
            ]
            scene.line("bark", scales, 0.0028, depth=depth)
        masses = [
            blob(chance, cx, cy - r * height * 0.22, r * height * 1.25, r * height * 0.42, 0.2) for cx, cy, r in clouds
        ]
        scene.fill("needle_mass", *masses, depth=depth, strength=0.8, rough=1.4)
        needles: list[Path] = []
        for cx, cy, r in clouds:
            for _ in range(30 if height > 0.35 else 12):
                fx = cx + chance.normal(r * height * 0.6)
                fy = cy - r * height * 0.12 + chance.normal(r * height * 0.13)
                turn = -math.pi / 2 + (fx - cx) / (r * height) * 0.7 + chance.normal(0.25)
                long = r * height * chance.uniform(0.35, 0.55)
                needles.append(path((fx, fy), (fx + math.cos(turn) * long, fy + math.sin(turn) * long)))
        scene.line("needle", needles, 0.0036 if height > 0.35 else 0.0028, 0.001, depth=depth, rough=0.0)
        if scene.mood.white:
            caps = [
                blob(chance, cx, cy - r * height * 0.40, r * height * 1.0, r * height * 0.17, 0.2)
                for cx, cy, r in clouds
            ]
            scene.fill("snow", *caps, depth=depth, strength=0.92)


def far_trees(scene: Scene, places: list[Point], size: float, depth: float, name: str | None = None) -> None:
    """Small round trees in the distance."""
    chance = scene.chance.fork(f"far{len(places)}{size:.3f}{places[0] if places else 0}")
    trunks = [path((x, y), (x + chance.normal(0.002), y - size * 0.7)) for x, y in places]
    light: list[Path] = []
    dark: list[Path] = []
    for x, y in places:
        for dx, dy, r in ((0, -0.75, 0.42), (-0.3, -0.55, 0.3), (0.3, -0.55, 0.3)):
            light.append(blob(chance, x + dx * size, y + dy * size, r * size, r * size * 0.85, 0.25, 10))
        dark.append(blob(chance, x + 0.08 * size, y - 0.42 * size, 0.42 * size, 0.2 * size, 0.3, 10))
    scene.line("trunk", trunks, size * 0.10, depth=depth)
    scene.fill("leaf", *light, depth=depth, strength=0.85)
    scene.fill("leaf_dark", *dark, depth=depth, strength=0.75)
    if name and places:
        xs, ys = [x for x, _ in places], [y for _, y in places]
        scene.declare(name, min(xs) - size, min(ys) - size, max(xs) + size, max(ys))


def grove(scene: Scene, level: float, count: int, size: float, depth: float) -> None:
    """A row of small trees in groups."""
    chance = scene.chance.fork(f"grove{level:.3f}{depth:.2f}")
    middle = [chance.uniform(0.05, 0.95) for _ in range(3)]
    places = [
        (min(1.0, max(0.0, chance.pick(middle) + chance.normal(0.09))), level + chance.normal(0.006))
        for _ in range(count)
    ]
    far_trees(scene, sorted(places, key=lambda place: place[1]), size, depth)
