"""Flowers: plum, orchid, chrysanthemum, lotus, a meadow."""

# numpy's arrays are only partly typed.
# pyright: reportUnknownArgumentType=false

from __future__ import annotations

import math

import numpy as np

from bimo.xiaomo.scenes.description import Scene, Stroke
from bimo.xiaomo.scenes.geometry import Path, blob, ellipse, path, petal, smooth, xy


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
            blades: list[Path] = []
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
        petals: list[Path] = []
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
    heads: list[tuple[float, float, float]] = []
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
        dots: list[Path] = []
        for _ in range(count // len(materials)):
            share = chance.uniform() ** 0.8
            r = 0.003 + 0.006 * share
            dots.append(ellipse(chance.uniform(), top + (bottom - top) * share, r, r * 0.8, 8))
        scene.fill(material, *dots, rough=0.2)
    scene.declare("flowers", 0, top, 1, bottom)
