"""Subjects of hills and open country: landscapes, Huangshan, the Great Wall, pagodas, desert, terraces, grassland."""

from __future__ import annotations

import numpy as np

from bimo.xiaomo.scenes.description import Scene
from bimo.xiaomo.scenes.elements import (
    animals,
    boats,
    dwellings,
    flowers,
    humans,
    palaces,
    sky,
    stonework,
    terrain,
    trees,
)
from bimo.xiaomo.scenes.geometry import Path, below, blob, height_at, ridge, smooth
from bimo.xiaomo.scenes.subjects.near_trees import near_tree, near_tree_kind
from bimo.xiaomo.scenes.subjects.plains import desert, grassland, terraces
from bimo.xiaomo.scenes.subjects.subject import Subject


def landscape(scene: Scene) -> None:
    """山水: high mountains, mist, a river with a boat, a pavilion among pines."""
    layout, mood = scene.layout, scene.mood
    horizon = layout.horizon + 0.05
    sky.sky(scene, horizon)
    sky.light_of_the_hour(scene)
    terrain.mountains(scene, horizon - 0.06, layout.height * 1.15, 3)
    chance = scene.chance.fork("peaks")
    for k, depth in enumerate((0.5, 0.34, 0.16)):
        x = layout.main_x + layout.side * (0.30 - 0.24 * k) + chance.normal(0.04)
        height = layout.height * (1.5 - 0.24 * k) * chance.uniform(0.85, 1.15)
        terrain.peak(scene, x, horizon + 0.02 * k, height * 0.8, height, "pillar", depth)
        sky.mist(scene, horizon - 0.02 + 0.02 * k, 0.04, 0.6, 2)
    terrain.lake(scene, horizon + 0.03)
    sky.mist(scene, horizon + 0.03, 0.035, 0.7, 3)
    terrain.ripples(scene, horizon + 0.08, 1.0, 22)
    boats.boat(scene, layout.second_x, layout.second_y - 0.03, 0.07, scene.chance.fork("awning").chance(0.6))
    bank = 0.5 + layout.side * 0.30
    terrain.hill(scene, bank, 1.02, 0.8, 0.15)
    if scene.chance.fork("pavilion").chance(0.6):
        palaces.pavilion(scene, bank - 0.06 * layout.side, 0.90, 0.13)
    near_tree(scene, 0.5, "pine" if scene.chance.fork("pine").chance(0.6) else near_tree_kind(scene))
    if mood.weather == "clear" and mood.light != "night":
        sky.geese(scene, 0.5 - 0.2 * layout.side, 0.16, 0.026)


def huangshan(scene: Scene) -> None:
    """黄山云海: pillars of rock with pines above a sea of clouds."""
    layout = scene.layout
    sky.sky(scene, 1.02)
    sky.light_of_the_hour(scene)
    terrain.mountains(scene, 0.5, layout.height * 0.7, 2)
    chance = scene.chance.fork("pillars")
    for count, depth, foot, tall in ((3, 0.55, 0.62, 0.85), (3, 0.32, 0.76, 1.1), (2, 0.06, 0.98, 1.45)):
        for k in range(count):
            x = (k + 0.5 + chance.normal(0.2)) / count
            height = layout.height * tall * chance.uniform(0.8, 1.3)
            edge = terrain.peak(scene, x, foot, height * chance.uniform(0.46, 0.66), height, "pillar", depth)
            if depth < 0.4:
                trees.pine(
                    scene,
                    x + 0.02,
                    height_at(edge, x + 0.02) + 0.012,
                    0.085 + 0.10 * (0.4 - depth),
                    chance.pick((-1.0, 1.0)),
                    depth * 0.6,
                )
        sky.mist(scene, foot - 0.03, 0.06, 0.9, 4)
    scene.declare("sea of clouds", 0, 0.56, 1, 1)
    side = layout.side
    terrain.peak(scene, 0.5 + side * 0.42, 1.06, 0.42, 0.30, "cliff", 0.0, "cliff")
    trees.pine(scene, 0.5 + side * 0.38, 0.79, layout.main_size * 0.82, -side, spread=1.25)


def great_wall(scene: Scene) -> None:
    """长城: a far stretch along a ridge, and the near wall that climbs from the foot of the picture to its tower."""
    layout, side = scene.layout, scene.layout.side
    horizon = layout.horizon - 0.04
    sky.sky(scene, horizon + 0.06)
    sky.light_of_the_hour(scene)
    terrain.mountains(scene, horizon, layout.height, 3)
    chance = scene.chance.fork("wall")
    for depth, base, swing, thick, towers in (
        (0.42, horizon + 0.06, 0.13, 0.014, 3),
        (0.2, horizon + 0.20, 0.17, 0.026, 2),
    ):
        edge = ridge(chance, base, swing, 1.7, 0.38)
        edge[:, 1] = np.convolve(np.pad(edge[:, 1], 4, "edge"), np.ones(9) / 9, "valid")
        _slope(scene, edge, depth)
        places = [(layout.second_x + k * 0.37) % 0.94 + 0.03 for k in range(towers)]
        stonework.great_wall(scene, edge, thick, places, depth)
        sky.mist(scene, base + 0.03, 0.025, 0.4, 2)
    top = layout.main_y - 0.20
    knots = [
        (0.5 - 0.54 * side, 0.93),
        (0.5 - 0.34 * side, 0.90),
        (0.5 - 0.16 * side, 0.80),
        (0.5 + 0.02 * side, 0.79),
        (0.5 + 0.16 * side, 0.66),
        (0.5 + 0.30 * side, top),
        (0.5 + 0.42 * side, top + 0.03),
        (0.5 + 0.56 * side, top + 0.12),
    ]
    edge = smooth(knots if side > 0 else knots[::-1], 80)
    _slope(scene, edge, 0.0)
    stonework.great_wall(scene, edge, 0.052, [0.5 - 0.26 * side, 0.5 + 0.33 * side], 0.0)
    if scene.mood.season == "autumn":
        sky.geese(scene, 0.5 - 0.2 * side, 0.16, 0.028)
    if scene.chance.fork("tree").chance(0.5):
        kind = {"spring": "peach", "autumn": "maple", "summer": "leafy", "winter": "bare"}[scene.mood.season]
        trees.tree(scene, 0.5 - side * 0.42, 1.05, 0.40, kind, -0.1 * side)


def _slope(scene: Scene, edge: np.ndarray, depth: float) -> None:
    """The hillside below a wall, with its bushes."""
    scene.fill("ground", below(edge, 1.03), into="ground_low", depth=depth, strength=1.0)
    scene.fill("meadow", below(edge + np.array([0, 0.05], np.float32), 1.03), depth=depth, strength=0.35, soft=3.5)
    _hillside(scene, edge, depth)


def _hillside(scene: Scene, edge: np.ndarray, depth: float) -> None:

    chance = scene.chance.fork(f"hillside{depth:.2f}")
    for material, count in (
        ("leaf_dark", 60),
        ("leaf", 60),
        ("maple" if scene.mood.season == "autumn" else "leaf_dark", 22),
    ):
        dots: list[Path] = []
        for _ in range(count):
            x = chance.uniform()
            y = height_at(edge, x) + 0.035 + chance.uniform() ** 1.4 * 0.22
            r = 0.004 + 0.007 * (1 - depth) * chance.uniform()
            dots.append(blob(chance, x, y, r * 1.3, r, 0.3, 9))
        scene.fill(material, *dots, depth=depth, strength=0.55)


def old_pagoda(scene: Scene) -> None:
    """古塔."""
    layout = scene.layout
    horizon = layout.horizon + 0.06
    sky.sky(scene, horizon)
    sky.light_of_the_hour(scene)
    sky.clouds(scene, 2, 0.14, 0.34) if scene.mood.light == "day" else None
    terrain.mountains(scene, horizon, layout.height * 0.85, 3)
    terrain.land(scene, horizon)
    trees.grove(scene, horizon + 0.02, 12, 0.06, 0.3)
    edge = terrain.hill(scene, layout.main_x, 1.02, 0.95, 0.24)
    foot = height_at(edge, layout.main_x) + 0.012
    places = [(layout.main_x + k, height_at(edge, layout.main_x + k) + 0.02) for k in (-0.22, -0.14, 0.15, 0.23)]
    trees.far_trees(scene, places, 0.09, 0.08)
    palaces.pagoda(scene, layout.main_x, foot, layout.main_size * 1.42, 7 if layout.density < 0.6 else 9)
    trees.far_trees(scene, [(layout.main_x + k, foot + 0.03) for k in (-0.09, 0.1)], 0.07, 0.0)
    terrain.lane(scene, layout.main_x, foot + 0.03, 0.07, 0.05 * layout.sway)
    near_tree(scene, 0.52)
    if scene.mood.light == "dusk":
        sky.crow(scene, 0.5 - layout.side * 0.25, 0.3, 0.035, True)
        sky.crow(scene, 0.5 - layout.side * 0.32, 0.25, 0.03, True)


def pavilion(scene: Scene) -> None:
    """亭台."""
    layout, mood = scene.layout, scene.mood
    horizon = layout.horizon
    sky.sky(scene, horizon)
    sky.light_of_the_hour(scene)
    terrain.mountains(scene, horizon, layout.height, 3)
    terrain.lake(scene, horizon)
    terrain.ripples(scene, horizon + 0.06, 1.0, 28)
    first = len(scene.shapes)
    terrain.islet(scene, layout.main_x, layout.main_y, 0.56)
    terrain.rocks(scene, layout.main_x - 0.2, layout.main_y + 0.02, 0.06)
    terrain.rocks(scene, layout.main_x + 0.22, layout.main_y + 0.02, 0.05, 2)
    palaces.pavilion(
        scene, layout.main_x, layout.main_y, layout.main_size * 0.86, storeys=1 if layout.density < 0.6 else 2
    )
    scene.mirror(first, layout.main_y + 0.03, 0.28, 0.75)
    if mood.season == "summer":
        with scene.element("lotus leaf"):
            for k in range(5):
                flowers.lotus_leaf(scene, 0.1 + 0.19 * k, 0.93 + 0.02 * (k % 2), 0.07)
    near_tree(scene, 0.6)


def snow_mountain_temple(scene: Scene) -> None:
    """深山古寺: a temple deep in the mountains, stairs, mist."""
    layout = scene.layout
    horizon = layout.horizon
    sky.sky(scene, 1.02)
    sky.light_of_the_hour(scene)
    terrain.mountains(scene, horizon, layout.height * 1.2, 3)
    for k, (x, depth) in enumerate(((layout.main_x - 0.28, 0.4), (layout.main_x + 0.30, 0.3))):
        terrain.peak(scene, x, 0.80, 0.4, layout.height * (1.7 - 0.3 * k), "pillar", depth)
    sky.mist(scene, 0.68, 0.06, 0.75, 3)
    edge = terrain.hill(scene, layout.main_x, 1.03, 1.25, 0.34)
    foot = height_at(edge, layout.main_x) + 0.03
    with scene.element("temple"):
        dwellings.house(scene, layout.main_x - 0.16, foot + 0.02, 0.15, 0.075, 0.06)
        dwellings.house(scene, layout.main_x + 0.16, foot + 0.02, 0.15, 0.075, 0.06)
        palaces.pavilion(scene, layout.main_x, foot + 0.01, 0.26, storeys=2, name="temple hall")
    trees.far_trees(scene, [(layout.main_x + k, foot + 0.05) for k in (-0.3, -0.24, 0.25, 0.31)], 0.11, 0.0)
    terrain.lane(scene, layout.main_x, foot + 0.02, 0.09, 0.07 * layout.sway)
    if scene.chance.fork("monk").chance(0.6):
        humans.person(scene, layout.main_x + 0.02, 0.94, 0.11, robe="robe_red", hat="straw", staff=True, name="monk")
    near_tree(scene, 0.6, "pine")


def peach_spring(scene: Scene) -> None:
    """桃花源: peach trees on both banks of a stream, cottages behind, a boat that arrives."""
    layout = scene.layout
    horizon = layout.horizon
    sky.sky(scene, horizon)
    sky.light_of_the_hour(scene)
    terrain.mountains(scene, horizon, layout.height, 4)
    terrain.land(scene, horizon)
    edges = terrain.stream(scene, horizon + 0.02, layout.main_x, 0.24, 0.12 * layout.sway)
    dwellings.cottage(scene, layout.main_x - 0.28, horizon + 0.09, 0.13, 0.05)
    dwellings.cottage(scene, layout.main_x + 0.30, horizon + 0.08, 0.12, 0.08)
    terrain.banks(scene, edges)
    for k in range(4):
        near = k / 3
        for way in (-1, 1):
            x = layout.main_x + way * (0.12 + 0.30 * near)
            trees.tree(
                scene, x, horizon + 0.08 + 0.22 * near, 0.14 + 0.17 * near, "peach", 0.1 * way, 0.22 * (1 - near)
            )
    terrain.ripples(scene, horizon + 0.16, 1.0, 20, layout.main_x - 0.18, layout.main_x + 0.18)
    boats.boat(scene, layout.main_x, layout.second_y, 0.085, awning=False)
    humans.person(
        scene, layout.main_x, layout.second_y - 0.005, 0.10, robe="robe_blue", hat="straw", staff=True, name="fisherman"
    )
    trees.tree(scene, 0.5 + layout.side * 0.44, 1.03, 0.66, "peach", 0.14 * layout.side)
    flowers.flowers(scene, 0.8, 1.0, 40, ("blossom", "white_blossom"))


def old_tree_crows(scene: Scene) -> None:
    """枯藤老树昏鸦，古道西风瘦马."""
    layout = scene.layout
    horizon = layout.horizon + 0.06
    sky.sky(scene, horizon)
    sky.light_of_the_hour(scene)
    terrain.mountains(scene, horizon, layout.height * 0.6, 2)
    terrain.land(scene, horizon)
    terrain.lane(scene, layout.main_x - 0.1 * layout.side, horizon + 0.03, 0.16, 0.16 * layout.side)
    dwellings.village(scene, 0.5 - 0.34 * layout.side, horizon + 0.04, 0.09, 2, 0.2)
    animals.horse(scene, layout.main_x - 0.16 * layout.side, layout.main_y + 0.07, 0.22, rider="robe_blue")
    x = 0.5 + layout.side * 0.40
    tips = trees.tree(scene, x, 1.0, 0.92, "bare", 0.03 * layout.side)
    chance = scene.chance.fork("vines")

    vines: list[Path] = []
    for k in range(12):
        tx, ty = tips[(k * 5) % len(tips)]
        long = chance.uniform(0.10, 0.24)
        vines.append(
            smooth([(tx, ty), (tx + chance.normal(0.015), ty + long * 0.5), (tx + 0.03 * layout.sway, ty + long)], 12)
        )
    with scene.element("vine"):
        scene.line("bark", vines, 0.004, 0.002)
    for k in range(3):
        tx, ty = tips[(k * 7 + 3) % len(tips)]
        sky.crow(scene, tx, ty - 0.01, 0.042)
    sky.crow(scene, 0.5 - layout.side * 0.08, 0.24, 0.045, True)
    sky.crow(scene, 0.5 - layout.side * 0.2, 0.31, 0.038, True)


def cranes(scene: Scene) -> None:
    """云鹤: cranes that fly over clouds and pines, or white egrets that rise over the water."""
    layout = scene.layout
    horizon = layout.horizon + 0.1
    sky.sky(scene, 1.02)
    sky.light_of_the_hour(scene)
    terrain.mountains(scene, horizon, layout.height, 3)
    sky.mist(scene, horizon - 0.02, 0.10, 0.9, 5)
    chance = scene.chance.fork("cranes")
    for k in range(3 + round(2 * layout.density)):
        sky.crane(
            scene,
            layout.main_x - layout.side * (0.30 - 0.17 * k) + chance.normal(0.02),
            0.50 - 0.075 * k + chance.normal(0.02),
            layout.main_size * (0.42 - 0.035 * k),
        )
    terrain.hill(scene, 0.5 + layout.side * 0.34, 1.04, 0.7, 0.14)
    trees.pine(scene, 0.5 + layout.side * 0.36, 0.96, 0.5, -layout.side)
    sky.clouds(scene, 3, 0.62, 0.84, 0.16)


SUN_LOW = {"light_x": (0.25, 0.75), "light_size": (0.06, 0.09)}
HILLS = (
    Subject(
        "landscape",
        "山水",
        "a landscape of mountains and water",
        landscape,
        weathers=("clear", "clear", "mist", "snow"),
    ),
    Subject(
        "huangshan",
        "黄山云海",
        "the pines and sea of clouds of Huangshan",
        huangshan,
        {"height": (0.26, 0.34)},
        weathers=("clear", "clear", "mist", "snow"),
    ),
    Subject("great wall", "长城", "the Great Wall", great_wall, weathers=("clear", "clear", "clear", "mist", "snow")),
    Subject(
        "pagoda",
        "古塔",
        "an old pagoda",
        old_pagoda,
        {"main_size": (0.38, 0.46), "main_x": (0.40, 0.6)},
        weathers=("clear", "clear", "mist", "rain", "snow"),
    ),
    Subject(
        "pavilion",
        "亭台",
        "a pavilion by the water",
        pavilion,
        {"main_y": (0.72, 0.80)},
        weathers=("clear", "clear", "mist", "rain", "snow"),
    ),
    Subject(
        "desert",
        "大漠孤烟",
        "a caravan in the desert at sunset",
        desert,
        SUN_LOW,
        seasons=("summer", "autumn"),
        lights=("dusk", "dusk", "dusk", "day", "night"),
        weathers=("clear",),
    ),
    Subject(
        "mountain temple",
        "深山古寺",
        "an old temple deep in the mountains",
        snow_mountain_temple,
        weathers=("clear", "mist", "mist", "snow", "rain"),
    ),
    Subject("terraces", "梯田", "rice terraces", terraces, weathers=("clear", "mist", "rain")),
    Subject(
        "grassland",
        "草原",
        "the grassland with sheep and yurts",
        grassland,
        seasons=("spring", "summer", "summer", "autumn"),
        lights=("day", "day", "dawn", "dusk"),
        weathers=("clear",),
    ),
    Subject(
        "peach spring",
        "桃花源",
        "the peach blossom spring",
        peach_spring,
        seasons=("spring",),
        lights=("day", "day", "dawn", "dusk"),
        weathers=("clear", "clear", "mist", "rain"),
    ),
    Subject(
        "old tree",
        "枯藤老树昏鸦",
        "an old tree with crows, a traveller on a thin horse",
        old_tree_crows,
        seasons=("autumn", "autumn", "winter"),
        lights=("dusk", "dusk", "dusk", "day"),
        weathers=("clear", "mist"),
    ),
    Subject(
        "cranes",
        "松鹤",
        "cranes above pines and clouds",
        cranes,
        lights=("day", "day", "dawn", "dusk"),
        weathers=("clear",),
    ),
)
