"""Plants: trees of many kinds, bamboo, plum, orchid, chrysanthemum, pine, lotus, reeds."""

from __future__ import annotations

import math

import numpy as np

from bimo.xiaomo.chance import Chance
from bimo.xiaomo.scenes.description import Scene, Stroke
from bimo.xiaomo.scenes.geometry import Path, arc, blob, ellipse, leaf, path, petal, smooth, xy

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
    """A tree with its foot at (x, y): leafy, bare, willow, peach, maple, ginkgo. The ends of its twigs are given."""
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
        dabs = []
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
        dabs = []
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
    limbs, withes, tips = [Stroke(trunk, height * 0.065, height * 0.042)], [], []
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
            leaves = []
            for withe in withes:
                for spot in range(2, 14, 2 if height > 0.35 else 4):
                    px, py = withe[min(13, spot)].tolist()
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
    limbs, clouds = [Stroke(trunk, height * 0.062, height * 0.022)], []
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
        needles = []
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
    light, dark = [], []
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


def bamboo_stalk(scene: Scene, x: float, foot: float, top: float, width: float, lean: float, depth: float) -> None:
    """One stalk of bamboo in joints, with its leaves in bunches."""
    chance = scene.chance.fork(f"bamboo{x:.3f}{depth:.2f}")
    joints = np.linspace(foot, top, max(4, int((foot - top) / 0.135) + 1), dtype=np.float32)
    across = x + lean * ((foot - joints) / max(0.2, foot - top)) ** 1.3
    stalk, rings, leaves, twigs = [], [], [], []
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


def plum_branch(scene: Scene, x: float, y: float, size: float, side: float) -> None:
    """An old plum branch that enters from one side, with blossoms and buds along its twigs."""
    chance = scene.chance.fork("plum")
    main = smooth(
        [
            (x, y),
            (x + side * 0.20 * size, y - 0.22 * size),
            (x + side * 0.34 * size, y - 0.20 * size),
            (x + side * 0.55 * size, y - 0.46 * size),
            (x + side * 0.80 * size, y - 0.52 * size),
        ],
        40,
    )
    main += np.float32(0.006) * chance.bell(1, 40, 2)
    limbs = [Stroke(main, 0.055 * size, 0.012 * size)]
    twigs: list[Path] = []
    for number in range(11):
        px, py = main[6 + number * 3].tolist()
        turn = -math.pi / 2 + side * chance.uniform(-0.7, 0.9) + (math.pi if number % 4 == 3 else 0) * 0.55
        long = size * chance.uniform(0.14, 0.34)
        twig = smooth(
            [
                (px, py),
                (px + math.cos(turn) * long * 0.5 + chance.normal(0.01), py + math.sin(turn) * long * 0.5),
                (px + math.cos(turn + 0.2 * side) * long, py + math.sin(turn + 0.2 * side) * long),
            ],
            12,
        )
        limbs.append(Stroke(twig, 0.016 * size, 0.005 * size))
        twigs.append(twig)
    with scene.element("plum blossom"):
        scene.strokes("trunk", limbs, rough=1.4)
        moss = [
            blob(chance, *xy(main[chance.integer(2, 24)] + np.array([0, -0.012 * size])), 0.014, 0.007)
            for _ in range(7)
        ]
        scene.fill("moss" if not scene.mood.white else "snow", *moss)
        for number, twig in enumerate(twigs):
            for spot in (4, 7, 9, 11):
                if chance.chance(0.55 + 0.35 * scene.layout.density):
                    px, py = (twig[spot] + chance.bell(0.008, 2)).tolist()
                    five_petals(
                        scene,
                        px,
                        py,
                        size * chance.uniform(0.022, 0.036),
                        "plum" if number % 3 else "plum_pale",
                        open_=spot != 11,
                    )


def five_petals(scene: Scene, x: float, y: float, size: float, material: str, open_: bool = True) -> None:
    """A blossom of five petals, or a bud."""
    chance = scene.chance.fork(f"blossom{x:.4f}{y:.4f}")
    if not open_:
        scene.fill(material, ellipse(x, y, size * 0.55, size * 0.6, 10), rough=0.3)
        return
    turn = chance.uniform(0, math.tau)
    petals = [
        ellipse(
            x + math.cos(turn + k * 1.2566) * size * 0.72,
            y + math.sin(turn + k * 1.2566) * size * 0.62,
            size * 0.62,
            size * 0.56,
            12,
        )
        for k in range(5)
    ]
    scene.fill(material, *petals, rough=0.4)
    lines = [
        path((x, y), (x + math.cos(turn + k * 0.785) * size * 0.7, y + math.sin(turn + k * 0.785) * size * 0.6))
        for k in range(8)
    ]
    scene.line("stamen", lines, 0.0022, rough=0.0)


def orchid(scene: Scene, x: float, y: float, size: float) -> None:
    """An orchid: long blades that cross, and pale flowers on their stems."""
    chance, sway = scene.chance.fork("orchid"), scene.layout.sway
    with scene.element("orchid"):
        for batch, depth in ((8, 0.35), (9, 0.0)):
            blades = []
            for _ in range(batch):
                turn = chance.uniform(-1.15, 1.15) + 0.15 * sway
                long = size * chance.uniform(0.6, 1.15)
                bend = chance.uniform(0.25, 0.7) * (1 if turn > 0 else -1)
                root = x + chance.normal(0.02)
                points = [
                    (root, y),
                    (root + math.sin(turn) * long * 0.45, y - math.cos(turn) * long * 0.55),
                    (root + math.sin(turn + bend * 0.6) * long * 0.85, y - math.cos(turn + bend * 0.6) * long * 0.75),
                    (root + math.sin(turn + bend) * long * 1.05, y - math.cos(turn + bend) * long * 0.72),
                ]
                curve = smooth(points, 22)
                width = (
                    np.sin(np.linspace(0.15, math.pi, 22, dtype=np.float32)) * size * 0.016 * chance.uniform(0.75, 1.2)
                )
                normal = np.gradient(curve, axis=0)
                normal = np.stack([-normal[:, 1], normal[:, 0]], 1) / np.maximum(np.hypot(*normal.T), 1e-6)[:, None]
                blades.append(
                    np.concatenate([curve + normal * width[:, None], (curve - normal * width[:, None])[::-1]]).astype(
                        np.float32
                    )
                )
            scene.fill("blade", *blades, depth=depth, rough=0.2)
        for _ in range(chance.integer(3, 5)):
            turn, long = chance.uniform(-0.7, 0.7), size * chance.uniform(0.45, 0.8)
            fx, fy = x + math.sin(turn) * long, y - math.cos(turn) * long
            scene.line("stem", [smooth([(x, y), ((x + fx) / 2 + 0.01, (y + fy) / 2), (fx, fy)], 9)], 0.006, 0.004)
            for angle, reach in ((-2.5, 1.0), (-0.6, 1.0), (-1.57, 1.1), (2.2, 0.75), (0.9, 0.75)):
                scene.fill(
                    "orchid", petal(fx, fy, angle + chance.normal(0.12), size * 0.10 * reach, size * 0.034), rough=0.2
                )
            scene.fill(
                "orchid_heart",
                petal(fx, fy, 1.57, size * 0.05, size * 0.026),
                ellipse(fx, fy, size * 0.012, size * 0.012, 8),
                rough=0.1,
            )


def chrysanthemum(scene: Scene, x: float, y: float, size: float) -> None:
    """One flower head: rings of narrow petals, the inner ones short and turned in."""
    chance = scene.chance.fork(f"mum{x:.3f}{y:.3f}")
    for ring, (reach, count, material) in enumerate(
        (
            (1.0, 22, "chrysanthemum_dark"),
            (0.86, 20, "chrysanthemum"),
            (0.62, 15, "chrysanthemum"),
            (0.40, 10, "chrysanthemum_dark"),
        )
    ):
        petals = []
        for number in range(count):
            turn = math.tau * (number + 0.5 * (ring % 2)) / count + chance.normal(0.06)
            long = size * reach * chance.uniform(0.88, 1.08)
            inner = size * 0.12
            points = petal(x + math.cos(turn) * inner, y + math.sin(turn) * inner * 0.85, turn, long, size * 0.17)
            points[:, 1] = y + (points[:, 1] - y) * 0.85
            petals.append(points)
        scene.fill(material, *petals, rough=0.2)


def chrysanthemums(scene: Scene, x: float, y: float, size: float, count: int) -> None:
    """A clump with stems, lobed leaves and several heads."""
    chance = scene.chance.fork("mums")
    heads = []
    for number in range(count):
        turn = -0.75 + 1.5 * (number + 0.5) / count + chance.normal(0.08)
        long = size * chance.uniform(0.6, 1.0)
        heads.append((x + math.sin(turn) * long * 0.85, y - math.cos(turn) * long, size * chance.uniform(0.17, 0.23)))
    with scene.element("chrysanthemum"):
        for hx, hy, _ in heads:
            stem = smooth(
                [(x + chance.normal(0.012), y), ((x + hx) / 2 + chance.normal(0.015), (y + hy) / 2), (hx, hy)], 14
            )
            scene.line("stem", [stem], 0.009, 0.006)
            for spot in (4, 6, 8, 10):
                px, py = stem[spot].tolist()
                way = 1 if spot % 4 else -1
                turn = -0.5 * way + (math.pi if way < 0 else 0) + chance.normal(0.2)
                lobes = [
                    petal(px, py, turn + k, size * 0.19 * (1 - 0.25 * abs(k)), size * 0.085) for k in (-0.55, 0, 0.55)
                ]
                scene.fill("bamboo_leaf", *lobes, rough=0.5)
                scene.line(
                    "vein",
                    [path((px, py), (px + math.cos(turn) * size * 0.16, py + math.sin(turn) * size * 0.16))],
                    0.003,
                    rough=0.1,
                )
        for hx, hy, r in sorted(heads, key=lambda head: head[1]):
            chrysanthemum(scene, hx, hy, r)


def lotus_leaf(scene: Scene, x: float, y: float, across: float, depth: float = 0.0) -> None:
    """A floating leaf with its notch and veins, or a raised one seen from the side."""
    chance = scene.chance.fork(f"lotusleaf{x:.3f}{y:.3f}")
    notch = chance.uniform(0, math.tau)
    turn = np.linspace(notch + 0.22, notch + math.tau - 0.22, 24, dtype=np.float32)
    wavy = 1 + 0.05 * chance.bell(1, 24)
    rim = np.stack([x + across * wavy * np.cos(turn), y + across * 0.40 * wavy * np.sin(turn)], 1).astype(np.float32)
    scene.fill("lotus_leaf", np.concatenate([rim, path((x, y))]), depth=depth, into="lotus_leaf_low", rough=0.6)
    scene.line(
        "vein",
        [path((x, y), tuple((np.array([x, y]) * 0.12 + one * 0.88).tolist())) for one in rim[1:-1:3]],
        0.0028,
        0.0014,
        depth=depth,
        rough=0.1,
    )


def lotus_flower(scene: Scene, x: float, y: float, foot: float, size: float, bud: bool = False) -> None:
    """A lotus on its stem: an open flower of three rings, or a bud."""
    chance = scene.chance.fork(f"lotus{x:.3f}")
    with scene.element("lotus"):
        scene.line(
            "stem",
            [smooth([(x + chance.normal(0.01), foot), (x + chance.normal(0.012), (y + foot) / 2), (x, y)], 10)],
            size * 0.085,
            size * 0.07,
        )
        if bud:
            scene.fill(
                "petal_tip",
                petal(x, y + size * 0.1, -math.pi / 2 - 0.12, size * 0.95, size * 0.42),
                into="petal",
                rough=0.2,
            )
            scene.fill("petal", petal(x, y + size * 0.1, -math.pi / 2 + 0.14, size * 0.8, size * 0.26), rough=0.2)
            return
        rings = (((-1.28, 1.28), 1.0, 0.40), ((-0.95, 0.95, -0.5, 0.5), 1.05, 0.44), ((0.0,), 1.08, 0.46))
        for turns, reach, width in rings:
            for turn in turns:
                scene.fill(
                    "petal_tip",
                    petal(x, y + size * 0.14, -math.pi / 2 + turn, size * reach, size * width),
                    into="petal",
                    rough=0.25,
                )
        scene.fill("pod", ellipse(x, y - size * 0.02, size * 0.16, size * 0.10, 12), rough=0.2)
        front = [petal(x, y + size * 0.16, -math.pi / 2 + turn, size * 0.72, size * 0.40) for turn in (-0.75, 0.75)]
        for one in front:
            scene.fill("petal_tip", one, into="petal", rough=0.25)


def reeds(scene: Scene, x: float, y: float, size: float, count: int, name: str = "reeds") -> None:
    """Reeds with feathery plumes that all bend with the wind."""
    chance, sway = scene.chance.fork(f"reeds{x:.3f}"), scene.layout.sway
    stems, plumes = [], []
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


def grove(scene: Scene, level: float, count: int, size: float, depth: float) -> None:
    """A line of small trees along a level, closer in groups."""
    chance = scene.chance.fork(f"grove{level:.3f}{depth:.2f}")
    middle = [chance.uniform(0.05, 0.95) for _ in range(3)]
    places = [
        (min(1.0, max(0.0, chance.pick(middle) + chance.normal(0.09))), level + chance.normal(0.006))
        for _ in range(count)
    ]
    far_trees(scene, sorted(places, key=lambda place: place[1]), size, depth)


def flowers(
    scene: Scene,
    top: float,
    bottom: float,
    count: int,
    materials: tuple[str, ...] = ("flower_red", "flower_yellow", "blossom"),
) -> None:
    """Small flowers in grass."""
    chance = scene.chance.fork("flowers")
    for material in materials:
        dots = []
        for _ in range(count // len(materials)):
            share = chance.uniform() ** 0.8
            r = 0.003 + 0.006 * share
            dots.append(ellipse(chance.uniform(), top + (bottom - top) * share, r, r * 0.8, 8))
        scene.fill(material, *dots, rough=0.2)
    scene.declare("flowers", 0, top, 1, bottom)
