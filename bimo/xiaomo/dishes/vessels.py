"""Plates, bowls, pots and steamers on a table, in a slanted view from above."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from bimo.xiaomo.dishes.pieces.place import darker, lighter
from bimo.xiaomo.dishes.table import RGB
from bimo.xiaomo.scenes.description import Scene
from bimo.xiaomo.scenes.geometry import Path, arc, box, ellipse, path, smooth


@dataclass(frozen=True)
class Surface:
    """The ellipse for the food: centre and half axes."""

    x: float
    y: float
    across: float
    down: float


@dataclass(frozen=True)
class Stand:
    """The position of a vessel: centre, half its width, and the tilt of the view (1: from above)."""

    x: float
    y: float
    size: float
    tilt: float


@dataclass(frozen=True)
class Vessel:
    """A vessel: its English name and its drawing function, which returns the surface for the food."""

    english: str
    draw: Callable[[Scene, Stand], Surface]


def _ring(outline: Path) -> Path:
    return np.concatenate([outline, outline[:1]])


def _shadow(scene: Scene, stand: Stand, across: float, down: float, drop: float) -> None:
    scene.fill(
        "shadow",
        ellipse(stand.x + 0.02, stand.y + drop, across * 1.04, down * 1.06, 40),
        strength=0.55,
        soft=4.0,
        rough=0.0,
    )


def _plate(tint: RGB, wide: float = 1.0, deep: float = 1.0, pattern: str = "") -> Callable[[Scene, Stand], Surface]:
    def draw(scene: Scene, stand: Stand) -> Surface:
        across, down = stand.size * wide, stand.size * stand.tilt * deep
        x, y = stand.x, stand.y
        _shadow(scene, stand, across, down, 0.035)
        scene.fill("ware", ellipse(x, y + 0.018, across * 0.99, down * 0.99, 48), tint=darker(tint, 0.28), rough=0.0)
        scene.fill("ware", ellipse(x, y, across, down, 48), tint=tint, rough=0.0)
        scene.line(
            "ware_line",
            [_ring(ellipse(x, y, across * 0.985, down * 0.985, 48))],
            0.004,
            tint=darker(tint, 0.12),
            rough=0.0,
            strength=0.8,
        )
        if pattern:
            blue = (54, 84, 158)
            for k in (0.95, 0.80):
                scene.line("ware_line", [_ring(ellipse(x, y, across * k, down * k, 48))], 0.005, tint=blue, rough=0.0)
            motifs: list[Path] = []
            for turn in np.linspace(0, math.tau, 18, endpoint=False):
                px, py = x + across * 0.875 * math.cos(turn), y + down * 0.875 * math.sin(turn)
                motifs.append(arc(px, py, across * 0.05, down * 0.045, 0.4, 5.2, 9))
            scene.line("ware_line", motifs, 0.006, tint=blue, rough=0.0)
        scene.fill("ware", ellipse(x, y + 0.004, across * 0.76, down * 0.76, 44), tint=darker(tint, 0.08), rough=0.0)
        scene.fill("ware", ellipse(x, y + 0.010, across * 0.73, down * 0.72, 44), tint=tint, rough=0.0)
        return Surface(x, y + 0.008, across * 0.70, down * 0.68)

    return draw


def _bowl(
    tint: RGB,
    inside: RGB,
    tall: float,
    foot: float,
    pattern: RGB | None = None,
    handles: bool = False,
    thick: float = 0.045,
) -> Callable[[Scene, Stand], Surface]:
    def draw(scene: Scene, stand: Stand) -> Surface:
        across, down = stand.size * 0.92, stand.size * 0.92 * stand.tilt * 0.94
        height = stand.size * tall * (1.25 - 0.7 * stand.tilt)
        x, y = stand.x, stand.y - height * 0.35
        base = y + height
        _shadow(scene, Stand(x, base, 0, 0), across * (foot + 0.18), down * (foot + 0.12), down * 0.35)
        if handles:
            for side in (-1, 1):
                ear = smooth(
                    [
                        (x + side * across * 0.96, y + height * 0.10),
                        (x + side * across * 1.20, y + height * 0.06),
                        (x + side * across * 1.20, y + height * 0.34),
                        (x + side * across * 0.92, y + height * 0.40),
                    ],
                    14,
                )
                scene.line("ware", [ear], stand.size * 0.085, tint=darker(tint, 0.2), rough=0.0)
        levels = [_level(x, y, across, down, height, foot, share) for share in np.linspace(0, 1, 9).tolist()]
        scene.fill(
            "ware", *(ellipse(*level, 44) for level in levels), tint=tint, into_tint=darker(tint, 0.34), rough=0.0
        )
        if pattern is not None:
            _band(scene, x, y, across, down, height, foot, pattern)
        scene.fill("ware", ellipse(x, y, across, down, 48), tint=lighter(tint, 0.12), rough=0.0)
        scene.fill(
            "ware",
            ellipse(x, y + 0.004, across * (1 - thick), down * (1 - thick), 48),
            tint=darker(inside, 0.25),
            into_tint=inside,
            rough=0.0,
        )
        if pattern is not None:
            scene.line(
                "ware_line", [_ring(ellipse(x, y, across * 0.985, down * 0.985, 48))], 0.006, tint=pattern, rough=0.0
            )
        return Surface(x, y + down * 0.09, across * (0.93 - thick), down * (0.88 - thick))

    return draw


def _level(
    x: float, y: float, across: float, down: float, height: float, foot: float, share: float
) -> tuple[float, float, float, float]:
    """The horizontal section of a bowl between its rim (0) and its foot (1), as an ellipse (x, y, across, down)."""
    half = across * (1 - 0.12 * share - (0.88 - foot) * share**3)
    return x, y + share * (height + 0.22 * down), half, down * (1 - share + 0.62 * foot * share)


def _band(scene: Scene, x: float, y: float, across: float, down: float, height: float, foot: float, tint: RGB) -> None:
    """Painted bands and scrolls around a bowl, at levels of its wall."""

    def band(share: float) -> Path:
        return arc(*_level(x, y, across, down, height, foot, share), 0.10, math.pi - 0.10, 25)

    scene.line("ware_line", [band(0.16), band(0.74)], 0.005, tint=tint, rough=0.0)
    curls: list[Path] = []
    for place in band(0.45)[5:-4:3]:
        px, py = float(place[0]), float(place[1])
        curls += [
            arc(px, py, across * 0.050, height * 0.10, 0.5, 5.4, 10),
            arc(px + across * 0.055, py, across * 0.03, height * 0.06, 3.4, 7.6, 8),
        ]
    scene.line("ware_line", curls, 0.006, tint=tint, rough=0.0)


def _pan(scene: Scene, stand: Stand) -> Surface:
    across, down = stand.size * 0.95, stand.size * 0.95 * stand.tilt
    x, y = stand.x, stand.y
    _shadow(scene, stand, across, down, 0.04)
    scene.line(
        "ware",
        [path((x + across * 0.6, y - down * 0.75), (x + across * 1.25, y - down * 1.45))],
        0.055,
        0.045,
        tint=(58, 48, 44),
        rough=0.0,
    )
    scene.fill("ware", ellipse(x, y + 0.028, across, down, 48), tint=(24, 23, 25), rough=0.0)
    scene.fill("ware", ellipse(x, y, across, down, 48), tint=(66, 64, 66), rough=0.0)
    scene.fill(
        "ware",
        ellipse(x, y + 0.006, across * 0.92, down * 0.91, 48),
        tint=(34, 33, 35),
        into_tint=(52, 50, 52),
        rough=0.0,
    )
    return Surface(x, y + 0.01, across * 0.82, down * 0.80)


def _steamer(scene: Scene, stand: Stand) -> Surface:
    across, down = stand.size * 0.95, stand.size * 0.95 * stand.tilt
    height = stand.size * 0.30 * (1.25 - 0.7 * stand.tilt)
    x, y = stand.x, stand.y - height * 0.3
    bamboo, dark = (216, 178, 116), (150, 108, 60)
    _shadow(scene, Stand(x, y + height, 0, 0), across, down, 0.03)
    turn = np.linspace(0, math.pi, 30, dtype=np.float32)
    lower = np.stack([x + across * np.cos(turn), y + height + down * np.sin(turn)], 1).astype(np.float32)
    scene.fill(
        "ware",
        np.concatenate([path((x + across, y)), lower, path((x - across, y))]),
        tint=bamboo,
        into_tint=dark,
        rough=0.0,
    )
    for share in (0.35, 0.7):
        scene.line(
            "ware_line",
            [arc(x, y + height * share, across, down, 0.05, math.pi - 0.05, 30)],
            0.006,
            tint=dark,
            rough=0.0,
        )
    scene.fill("ware", ellipse(x, y, across, down, 48), tint=lighter(bamboo, 0.2), rough=0.0)
    scene.line("ware_line", [_ring(ellipse(x, y, across * 0.95, down * 0.95, 44))], 0.005, tint=dark, rough=0.0)
    scene.fill(
        "ware",
        ellipse(x, y + 0.008, across * 0.90, down * 0.89, 48),
        tint=(184, 142, 88),
        into_tint=(226, 194, 138),
        rough=0.0,
    )
    slats: list[Path] = []
    for k in np.linspace(-0.8, 0.8, 13):
        reach = math.sqrt(1 - float(k) ** 2) * 0.88
        slats.append(
            path(
                (x - across * reach, y + 0.008 + down * 0.86 * float(k)),
                (x + across * reach, y + 0.008 + down * 0.86 * float(k)),
            )
        )
    scene.line("ware_line", slats, 0.004, tint=(158, 116, 66), rough=0.0, strength=0.8)
    return Surface(x, y + 0.004, across * 0.80, down * 0.78)


def _basket(scene: Scene, stand: Stand) -> Surface:
    surface = _bowl((196, 152, 92), (206, 166, 108), 0.34, 0.78)(scene, stand)
    x, y, across, down = surface.x, surface.y, surface.across, surface.down
    weave = [_ring(ellipse(x, y, across * k, down * k, 36)) for k in (0.35, 0.55, 0.75, 0.95)]
    spokes = [
        path((x, y), (x + across * math.cos(k), y + down * math.sin(k)))
        for k in np.linspace(0, math.tau, 22, endpoint=False)
    ]
    scene.line("ware_line", [*weave, *spokes], 0.004, tint=(150, 108, 58), rough=0.0, strength=0.7)
    return surface


def _board(scene: Scene, stand: Stand) -> Surface:
    across, down = stand.size * 1.1, stand.size * stand.tilt * 0.86
    x, y = stand.x, stand.y
    wood = (190, 138, 84)
    scene.fill(
        "shadow",
        box(x - across, y - down + 0.03, x + across + 0.015, y + down + 0.045),
        strength=0.5,
        soft=4.0,
        rough=0.0,
    )
    scene.fill("ware", box(x - across, y - down + 0.02, x + across, y + down + 0.03), tint=darker(wood, 0.4), rough=0.1)
    scene.fill("ware", box(x - across, y - down, x + across, y + down), tint=wood, rough=0.1)
    grain = [
        smooth(
            [
                (x - across * 0.98, y + down * float(k)),
                (x, y + down * (float(k) + 0.03)),
                (x + across * 0.98, y + down * float(k)),
            ],
            14,
        )
        for k in np.linspace(-0.85, 0.85, 9)
    ]
    scene.line("ware_line", grain, 0.003, tint=darker(wood, 0.2), rough=1.4, strength=0.7)
    return Surface(x, y, across * 0.84, down * 0.78)


def _hotpot(scene: Scene, stand: Stand) -> Surface:
    """A steel pot with an S across it: one half red, one half clear. The red half is the sauce of the dish."""
    surface = _bowl((176, 180, 186), (120, 122, 128), 0.42, 0.86, handles=True, thick=0.05)(scene, stand)
    return surface


def _copper(scene: Scene, stand: Stand) -> Surface:
    return _bowl((196, 122, 64), (150, 92, 50), 0.50, 0.62, handles=True, thick=0.05)(scene, stand)


def chimney(scene: Scene, surface: Surface) -> None:
    """The chimney in the middle of a copper pot; drawn after the food."""
    x, y, wide = surface.x, surface.y, surface.across * 0.22
    scene.fill(
        "ware",
        path(
            (x - wide, y + surface.down * 0.1),
            (x - wide * 0.72, y - surface.down * 1.15),
            (x + wide * 0.72, y - surface.down * 1.15),
            (x + wide, y + surface.down * 0.1),
        ),
        tint=(204, 130, 70),
        into_tint=(140, 82, 42),
        rough=0.0,
    )
    scene.fill("ware", ellipse(x, y - surface.down * 1.15, wide * 0.72, wide * 0.3, 20), tint=(70, 42, 26), rough=0.0)
    scene.fill("lantern_glow", ellipse(x, y - surface.down * 1.13, wide * 0.45, wide * 0.16, 14), rough=0.0)


BLUE: RGB = (50, 80, 156)
VESSELS: Mapping[str, Vessel] = {
    "圆盘": Vessel("a white plate", _plate((247, 245, 240))),
    "青花盘": Vessel("a blue-and-white plate", _plate((244, 246, 249), pattern="blue")),
    "长盘": Vessel("an oval plate", _plate((247, 245, 240), 1.12, 0.84)),
    "鱼盘": Vessel("a fish plate", _plate((244, 245, 246), 1.18, 0.80)),
    "家常碗": Vessel("a bowl", _bowl((246, 243, 236), (248, 245, 238), 0.62, 0.46, (196, 60, 48))),
    "青花碗": Vessel("a blue-and-white bowl", _bowl((246, 247, 249), (248, 248, 248), 0.62, 0.46, BLUE)),
    "大碗": Vessel("a large bowl", _bowl((52, 50, 54), (74, 66, 62), 0.55, 0.50)),
    "深碗": Vessel("a deep bowl", _bowl((232, 226, 212), (240, 234, 222), 0.66, 0.52)),
    "砂锅": Vessel("a clay pot", _bowl((112, 74, 52), (86, 60, 46), 0.60, 0.70, handles=True, thick=0.075)),
    "石锅": Vessel("a stone pot", _bowl((70, 70, 72), (58, 57, 58), 0.56, 0.70, thick=0.10)),
    "瓦罐": Vessel("an earthen jar", _bowl((150, 94, 58), (96, 64, 46), 0.86, 0.66, thick=0.09)),
    "铁锅": Vessel("an iron pan", _pan),
    "蒸笼": Vessel("a bamboo steamer", _steamer),
    "竹篮": Vessel("a bamboo basket", _basket),
    "木板": Vessel("a wooden board", _board),
    "鸳鸯锅": Vessel("a split hot pot", _hotpot),
    "铜火锅": Vessel("a copper hot pot", _copper),
}
