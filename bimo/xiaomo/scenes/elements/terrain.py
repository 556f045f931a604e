"""Land and water: mountain ranges, peaks, banks, rocks, rivers, waterfalls, dunes, terraces."""

from __future__ import annotations

import math

import numpy as np

from bimo.xiaomo.chance import Chance
from bimo.xiaomo.scenes.description import Scene, Stroke
from bimo.xiaomo.scenes.geometry import Path, arc, below, blob, box, ellipse, height_at, path, ridge, smooth, xy

#: The upper edges of peaks, in their width and height.
PROFILES: dict[str, list[tuple[float, float]]] = {
    "pillar": [
        (-0.5, 0),
        (-0.42, 0.30),
        (-0.33, 0.38),
        (-0.27, 0.72),
        (-0.16, 0.80),
        (-0.08, 0.97),
        (0.05, 1.0),
        (0.13, 0.86),
        (0.22, 0.80),
        (0.27, 0.52),
        (0.38, 0.42),
        (0.5, 0),
    ],
    "karst": [
        (-0.5, 0),
        (-0.46, 0.18),
        (-0.40, 0.46),
        (-0.30, 0.74),
        (-0.15, 0.94),
        (0.0, 1.0),
        (0.15, 0.95),
        (0.30, 0.76),
        (0.41, 0.44),
        (0.46, 0.18),
        (0.5, 0),
    ],
    "cliff": [
        (-0.5, 0),
        (-0.47, 0.45),
        (-0.40, 0.72),
        (-0.34, 0.93),
        (-0.12, 1.0),
        (0.16, 0.96),
        (0.34, 0.90),
        (0.40, 0.62),
        (0.48, 0.35),
        (0.5, 0),
    ],
}


def mountains(scene: Scene, horizon: float, height: float, layers: int = 4, name: str = "mountain") -> None:
    """Mountain ranges in layers, each fading into mist at its foot; the near ones with ridges and creases."""
    chance = scene.chance.fork("mountains")
    with scene.element(name):
        for layer in range(layers):
            near = layer / max(1, layers - 1)
            edge = ridge(chance, horizon - 0.015 + 0.03 * near, height * (1 - 0.5 * near), 2 + layer)
            depth = 0.72 - 0.62 * near
            scene.fill(
                "ridge",
                below(edge, horizon + 0.05),
                depth=depth,
                fade=height * (0.62 - 0.2 * near),
                strength=0.62 + 0.3 * near,
                soft=1.0 - 0.9 * near,
                into="ridge_low",
            )
            if near > 0.3:
                scene.line("cun", [edge], 0.0035, 0.0025, depth=depth * 0.8, strength=0.25 + 0.45 * near, rough=1.1)
                scene.strokes(
                    "cun",
                    creases(chance, edge, height * 0.30, int(26 * near)),
                    depth=depth,
                    strength=0.30 * near + 0.12,
                )


def creases(chance: Chance, edge: Path, length: float, count: int) -> list[Stroke]:
    """Strokes that run down from a ridge along its slopes, as rock folds are drawn."""
    made: list[Stroke] = []
    for _ in range(count):
        place = int(chance.uniform(0.03, 0.97) * len(edge))
        x, y = edge[place].tolist()
        before, after = edge[max(0, place - 3)], edge[min(len(edge) - 1, place + 3)]
        slope = float((after[1] - before[1]) / max(1e-4, after[0] - before[0]))
        way, long = (1 if slope > 0 else -1), length * chance.uniform(0.35, 1.0)
        drift = way * long * chance.uniform(0.15, 0.7)
        start = chance.uniform(0, 0.12) * length
        points = [(x, y + start), (x + drift * 0.4, y + start + long * 0.45), (x + drift, y + start + long)]
        made.append(Stroke(smooth(points, 8), 0.0055, 0.001))
    return made


def peak(
    scene: Scene, x: float, foot: float, width: float, height: float, kind: str, depth: float, name: str = "peak"
) -> Path:
    """One peak: "pillar" as Huangshan's, "karst" as Guilin's, "cliff" flat-topped. Returns its upper edge."""
    chance = scene.chance.fork(f"peak{x:.3f}{foot:.3f}")
    bent = [
        (
            x + width * (px + chance.normal(0.025)),
            foot - height * max(0.0, py + (chance.normal(0.025) if 0 < py < 1 else 0)),
        )
        for px, py in PROFILES[kind]
    ]
    edge = smooth(bent, 48)
    with scene.element(name):
        scene.fill("peak", below(edge, foot), depth=depth, fade=height * 1.05, into="peak_low", rough=1.2)
        scene.line("cun", [edge], 0.005, 0.004, depth=depth * 0.7, strength=0.75 - 0.4 * depth, rough=1.2)
        folds = _folds(chance, edge, x, height, int(9 + 14 * (1 - depth)))
        scene.strokes("cun", folds, depth=depth, strength=0.55 - 0.3 * depth)
        if kind != "cliff":
            dots = [
                blob(
                    chance,
                    *xy(edge[chance.integer(12, 36)] + np.array([chance.normal(0.012), 0.006])),
                    width * 0.05,
                    width * 0.035,
                )
                for _ in range(9)
            ]
            scene.fill("moss", *dots, depth=depth, strength=0.8)
    return edge


def _folds(chance: Chance, edge: Path, x: float, height: float, count: int) -> list[Stroke]:
    """Strokes down the slopes of a peak at x, each from a random point of its upper edge."""
    folds: list[Stroke] = []
    for _ in range(count):
        place = chance.integer(8, 39)
        px, py = edge[place].tolist()
        long = height * chance.uniform(0.12, 0.42)
        lean = (px - x) * 0.35
        folds.append(
            Stroke(
                smooth(
                    [
                        (px * 0.92 + x * 0.08, py + 0.01),
                        (px + lean * 0.3 + chance.normal(0.006), py + long * 0.5),
                        (px + lean + chance.normal(0.008), py + long),
                    ],
                    8,
                ),
                0.006,
                0.0012,
            )
        )
    return folds


def land(scene: Scene, top: float, bottom: float = 1.02) -> None:
    """The ground from a level down."""
    chance = scene.chance.fork(f"land{top:.3f}")
    edge = ridge(chance, top + 0.02, 0.025, 2)
    scene.fill("ground", below(edge, bottom), into="ground_low", strength=0.95)
    tufts(scene, top + 0.03, bottom, 30)


def tufts(scene: Scene, top: float, bottom: float, count: int) -> None:
    """Short strokes of grass, larger near."""
    chance = scene.chance.fork(f"tufts{top:.3f}")
    if scene.mood.white:
        count //= 3
    strokes: list[Stroke] = []
    for _ in range(count):
        share = chance.uniform() ** 0.7
        x, y, size = chance.uniform(), top + (bottom - top) * share, 0.008 + 0.02 * share
        for lean in (-0.4, 0.05, 0.45):
            strokes.append(
                Stroke(
                    path((x, y), (x + lean * size * 0.5, y - size * 0.6), (x + lean * size, y - size)),
                    0.003 + 0.002 * share,
                    0.001,
                )
            )
    scene.strokes("grass", strokes, strength=0.7, rough=0.2)


def lake(scene: Scene, top: float, bottom: float = 1.02, material: str = "water") -> None:
    """Still water from a level down; declared as water."""
    scene.fill(material, box(-0.02, top, 1.02, bottom), into="water_low", rough=0.3)
    scene.declare("water", 0, top, 1, bottom)


def stream(scene: Scene, top: float, x: float, near: float, bend: float, name: str = "stream") -> tuple[Path, Path]:
    """A stream that comes from the horizon to the foot of the picture; returns its two banks."""
    share = np.linspace(0, 1, 30, dtype=np.float32)
    y = top + (1.03 - top) * share
    middle = x + bend * np.sin(share * 3.1) * (1 - 0.35 * share)
    half = 0.05 + (near - 0.05) * share**1.15
    left, right = np.stack([middle - half, y], 1), np.stack([middle + half, y], 1)
    with scene.element(name):
        scene.fill("water", np.concatenate([left, right[::-1]]), into="water_low", rough=1.0)
    return left, right


def banks(scene: Scene, edges: tuple[Path, Path]) -> None:
    """Stones and grass along the two banks of a stream."""
    chance = scene.chance.fork("banks")
    for edge, way in zip(edges, (-1, 1), strict=True):
        scene.line("bank", [edge + np.array([way * 0.004, 0], np.float32)], 0.008, 0.026, rough=1.6, strength=0.8)
        stones: list[Path] = []
        strokes: list[Stroke] = []
        for _ in range(11):
            share = chance.uniform(0.1, 1) ** 0.8
            px, py = edge[min(29, int(share * 29))].tolist()
            size = 0.006 + 0.022 * share
            stones.append(blob(chance, px + way * size * 0.5, py, size * chance.uniform(0.8, 1.4), size * 0.6))
            for lean in (-0.5, 0.1, 0.5):
                gx = px + way * size * 2
                strokes.append(Stroke(path((gx, py), (gx + lean * size, py - size * 1.6)), 0.003, 0.001))
        scene.fill("rock", *stones, into="rock_low")
        scene.strokes("grass", strokes, rough=0.2)


def ripples(scene: Scene, top: float, bottom: float, count: int, left: float = 0.0, right: float = 1.0) -> None:
    """Small waves as level strokes, wider near; at night and dusk some of them carry the light."""
    chance, layout = scene.chance.fork(f"ripples{top:.3f}"), scene.layout
    dark: list[Stroke] = []
    lit: list[Stroke] = []
    for _ in range(count):
        share = chance.uniform(0.02, 1)
        x, y, wide = (
            chance.uniform(left, right),
            top + (bottom - top) * share,
            (0.015 + 0.05 * share) * chance.uniform(0.6, 1.3),
        )
        wave = smooth([(x - wide, y), (x - wide * 0.3, y - 0.0022), (x + wide * 0.3, y + 0.0016), (x + wide, y)], 9)
        dark.append(Stroke(wave, 0.0042, 0.001))
    if scene.mood.light in ("night", "dusk") and scene.mood.weather not in ("rain", "snow"):
        for number in range(18):
            share = (number + chance.uniform()) / 18
            y, wide = top + (bottom - top) * share, (0.012 + 0.03 * share) * chance.uniform(0.5, 1.2)
            x = layout.light_x + chance.normal(0.022)
            lit.append(Stroke(path((x - wide, y), (x, y - 0.001), (x + wide, y)), 0.004, 0.002))
    scene.strokes("ripple", dark, strength=0.55, rough=0.4)
    scene.strokes("glitter", lit, strength=0.75, rough=0.3)


def rocks(scene: Scene, x: float, y: float, size: float, count: int = 3) -> None:
    """A group of rocks with a lit top and a dark foot."""
    chance = scene.chance.fork(f"rocks{x:.3f}{y:.3f}")
    with scene.element("rock"):
        for number in range(count):
            rx, r = (
                x + (number - (count - 1) / 2) * size * 0.8 + chance.normal(size * 0.1),
                size * chance.uniform(0.45, 0.8),
            )
            points = [
                (-1, 0.1),
                (-0.86, -0.4),
                (-0.45, -0.72 + chance.normal(0.12)),
                (0.05, -1.0 + chance.normal(0.1)),
                (0.5, -0.74 + chance.normal(0.14)),
                (0.92, -0.25),
                (1.0, 0.1),
            ]
            outline = path(*((rx + px * r, y + py * r * 0.8) for px, py in points))
            scene.fill("rock", outline, into="rock_low", rough=1.5)
            folds = [
                Stroke(
                    path((rx + px * r, y - 0.6 * r), (rx + (px + 0.12) * r, y - 0.3 * r), (rx + (px + 0.05) * r, y)),
                    0.005,
                    0.0015,
                )
                for px in (-0.4, 0.05, 0.45)
            ]
            scene.strokes("cun", folds, strength=0.6)


def hill(
    scene: Scene, x: float, foot: float, width: float, height: float, depth: float = 0.0, name: str = "hill"
) -> Path:
    """A rounded hill; returns its upper edge."""
    chance = scene.chance.fork(f"hill{x:.3f}")
    turn = np.linspace(-1, 1, 40, dtype=np.float32)
    y = foot - height * np.cos(turn * 1.5706) ** 1.3 + 0.006 * chance.bell(1, 40)
    edge = np.stack([x + turn * width / 2, y], 1).astype(np.float32)
    with scene.element(name):
        scene.fill("ground", below(edge, foot), into="ground_low", depth=depth)
    dots = [
        blob(
            chance,
            px := x + chance.normal(width * 0.16),
            height_at(edge, px) + chance.uniform(0.0, 0.3) * height,
            0.012,
            0.008,
        )
        for _ in range(16)
    ]
    scene.fill("moss", *dots, depth=depth, strength=0.8)
    return edge


def fall(scene: Scene, x: float, top: float, foot: float, width: float) -> None:
    """A waterfall: white water in threads, and spray where it lands."""
    chance = scene.chance.fork("fall")
    share = np.linspace(0, 1, 24, dtype=np.float32)
    y = top + (foot - top) * share
    middle = x + 0.012 * np.sin(share * 5 + chance.uniform(0, 6))
    half = width / 2 * (0.62 + 0.55 * share)
    with scene.element("waterfall"):
        scene.fill(
            "foam",
            np.concatenate([np.stack([middle - half, y], 1), np.stack([middle + half, y], 1)[::-1]]).astype(np.float32),
            rough=0.8,
        )
        threads = [
            np.stack([middle + half * place + 0.003 * np.sin(share * 9 + k), y], 1)[
                chance.integer(0, 6) : chance.integer(14, 24)
            ].astype(np.float32)
            for k, place in enumerate(np.linspace(-0.8, 0.8, 9))
        ]
        scene.line("ripple", threads, 0.003, 0.0015, strength=0.45, lean=math.pi / 2)
    spray = [
        blob(chance, x + chance.normal(width * 0.5), foot + chance.normal(0.01), width * 0.4, 0.022) for _ in range(5)
    ]
    scene.fill("mist", *spray, strength=0.75, soft=3.5)


def dunes(scene: Scene, horizon: float) -> None:
    """Dunes with a lit and a shaded slope."""
    chance = scene.chance.fork("dunes")
    with scene.element("desert"):
        for layer in range(4):
            near = layer / 3
            base = horizon + 0.04 + 0.42 * near**1.2
            turn = np.linspace(0, 1, 60, dtype=np.float32)
            phase, waves = chance.uniform(0, 6.28), chance.uniform(1.0, 1.7)
            wave = np.abs(np.sin(turn * math.pi * waves + phase)) ** 1.3
            edge = np.stack([turn * 1.04 - 0.02, base - (0.05 + 0.06 * near) * wave], 1).astype(np.float32)
            scene.fill("sand", below(edge, 1.03), into="sand_low", depth=0.5 * (1 - near), rough=0.5)
            crest = int(np.argmax(wave))
            x, y = edge[crest].tolist()
            long = 0.10 + 0.14 * near
            shade = np.concatenate(
                [edge[crest : min(59, crest + 18)], path((x + 0.26, y + long), (x + 0.05, y + long * 0.8))]
            )
            scene.fill("sand_shade", shade, strength=0.45, soft=1.2)
            lines = [edge + np.array([0, k * 0.018 * (0.5 + near)], np.float32) for k in (1, 2, 3)]
            scene.line(
                "sand_shade",
                [one[chance.integer(0, 15) : chance.integer(30, 60)] for one in lines],
                0.003,
                0.001,
                strength=0.3,
            )


def terraces(scene: Scene, top: float) -> None:
    """Rice terraces: bands that follow the slope, some reflecting the sky."""
    chance = scene.chance.fork("terraces")
    turn = np.linspace(-0.02, 1.02, 60, dtype=np.float32)
    phase, number, y = chance.uniform(0, 6.28), 0, top
    with scene.element("terrace"):
        while y < 1.06:
            share = (y - top) / (1.06 - top)
            swing = (0.05 + 0.05 * share) * np.sin(turn * (4.2 + 0.3 * share) + phase) + 0.02 * np.sin(
                turn * 11 + phase * 2
            )
            edge = np.stack([turn, y + swing], 1).astype(np.float32)
            wet = scene.mood.season in ("spring",) and number % 2 == 0
            scene.fill("water" if wet else "terrace", below(edge, 1.1), strength=0.9 - 0.2 * (number % 2), rough=0.5)
            scene.line("terrace_edge", [edge], 0.004 + 0.006 * share, rough=0.6, strength=0.85)
            y, number = y + 0.03 + 0.05 * share, number + 1


def lane(scene: Scene, x: float, top: float, near: float, bend: float) -> None:
    """A path that leads into the picture."""
    share = np.linspace(0, 1, 24, dtype=np.float32)
    y = top + (1.03 - top) * share
    middle = x + bend * np.sin(share * 2.8) * (1 - 0.4 * share)
    half = 0.012 + (near - 0.012) * share**1.4
    with scene.element("path"):
        scene.fill(
            "path",
            np.concatenate([np.stack([middle - half, y], 1), np.stack([middle + half, y], 1)[::-1]]).astype(np.float32),
            rough=1.2,
        )


def islet(scene: Scene, x: float, y: float, width: float) -> None:
    """A low island."""
    chance = scene.chance.fork(f"islet{x:.3f}")
    scene.fill("ground", blob(chance, x, y, width / 2, width * 0.09, 0.1), into="ground_low")
    scene.line("bank", [arc(x, y, width / 2, width * 0.09, 0.1, math.pi - 0.1)], 0.005, rough=1.2)


def pool_rings(scene: Scene, x: float, y: float, size: float) -> None:
    """Rings on water."""
    rings = [ellipse(x, y, size * k, size * k * 0.3, 24) for k in (0.5, 1.0)]
    scene.line("ripple", [np.concatenate([one, one[:1]]) for one in rings], 0.003, strength=0.5, rough=0.3)
