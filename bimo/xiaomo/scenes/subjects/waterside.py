"""Subjects by the water: bridges, water towns, lakes, boats, lotus, waterfalls, the sea."""

from __future__ import annotations

import math

from bimo.xiaomo.scenes.description import Scene
from bimo.xiaomo.scenes.elements import (
    animals,
    boats,
    flowers,
    grasses,
    humans,
    lanterns,
    palaces,
    sky,
    stonework,
    terrain,
    trees,
)
from bimo.xiaomo.scenes.subjects.canals import bridge_village, dragon_boats, night_mooring, water_town
from bimo.xiaomo.scenes.subjects.subject import NO_HILLS, Subject


def lone_boat(scene: Scene) -> None:
    """孤舟独钓: one boat on a wide, nearly empty river."""
    layout = scene.layout
    sky.sky(scene, layout.horizon - 0.08)
    sky.light_of_the_hour(scene)
    terrain.mountains(scene, layout.horizon - 0.08, layout.height, 3)
    terrain.lake(scene, layout.horizon - 0.07)
    sky.mist(scene, layout.horizon - 0.05, 0.05, 0.7)
    terrain.ripples(scene, layout.horizon + 0.05, 0.97, 18)
    boats.fisherman(scene, layout.main_x, layout.main_y, layout.main_size * 0.30)
    if scene.mood.season in ("autumn", "winter"):
        grasses.reeds(scene, 0.5 + layout.side * 0.42, 1.0, 0.24, 16)
    else:
        terrain.rocks(scene, 0.5 + layout.side * 0.44, 0.98, 0.09)
        grasses.reeds(scene, 0.5 + layout.side * 0.36, 1.0, 0.18, 9)


def lotus_pond(scene: Scene) -> None:
    """荷塘: leaves and flowers from near to far."""
    layout, mood = scene.layout, scene.mood
    horizon = layout.horizon - 0.22
    sky.sky(scene, horizon)
    trees.grove(scene, horizon, 14, 0.09, 0.5)
    terrain.lake(scene, horizon)
    sky.mist(scene, horizon, 0.03, 0.5)
    sky.light_of_the_hour(scene)
    terrain.ripples(scene, horizon + 0.05, 1.0, 16)
    chance = scene.chance.fork("pond")
    with scene.element("lotus leaf"):
        rows = 6
        for row in range(rows):
            near = row / (rows - 1)
            y = horizon + 0.06 + (0.95 - horizon) * near**1.15
            for _ in range(4 - int(near * 2)):
                flowers.lotus_leaf(
                    scene, chance.uniform(0.02, 0.98), y + chance.normal(0.02), 0.045 + 0.12 * near, 0.35 * (1 - near)
                )
    count = 3 + round(2 * layout.density)
    for k in range(count):
        x = (k + 0.5) / count + chance.normal(0.04)
        near = chance.uniform(0.35, 1.0)
        foot = horizon + (1 - horizon) * near
        size = 0.05 + 0.075 * near
        flowers.lotus_flower(scene, x, foot - size * chance.uniform(1.6, 2.6), foot, size, bud=k % 3 == 2)
    flowers.lotus_flower(scene, layout.main_x, layout.main_y - 0.14, 1.0, layout.main_size * 0.33)
    if mood.season == "summer" and scene.chance.fork("fish").chance(0.4):
        animals.carp(scene, layout.second_x, 0.92, 0.09, chance.uniform(-0.6, 0.6))


def west_lake(scene: Scene) -> None:
    """西湖: a long dyke with willows, a pagoda on its hill, boats, three stone lanterns in the water."""
    layout, mood = scene.layout, scene.mood
    horizon = layout.horizon - 0.02
    sky.sky(scene, horizon)
    sky.light_of_the_hour(scene)
    terrain.mountains(scene, horizon, layout.height * 0.62, 3)
    terrain.hill(scene, layout.main_x + 0.2 * layout.side, horizon + 0.01, 0.5, 0.10, 0.25)
    palaces.pagoda(scene, layout.main_x + 0.2 * layout.side, horizon - 0.075, 0.24, 5, 0.12)
    terrain.lake(scene, horizon)
    dyke = horizon + 0.085
    first = len(scene.shapes)
    with scene.element("dyke"):
        terrain.islet(scene, 0.5 - 0.1 * layout.side, dyke, 1.1)
    kinds = (
        ("willow", "peach")
        if mood.season == "spring"
        else ("willow", "willow")
        if mood.season != "winter"
        else ("bare", "bare")
    )
    for k in range(5):
        trees.tree(scene, 0.08 + 0.2 * k + 0.03 * layout.sway, dyke, 0.13, kinds[k % 2], 0.0, 0.12)
    scene.mirror(first, dyke + 0.03, 0.3, 0.7)
    stonework.arch_bridge(scene, 0.5 - 0.22 * layout.side, dyke + 0.045, 0.2, 0.055)
    terrain.ripples(scene, dyke + 0.06, 1.0, 34)
    with scene.element("stone lantern"):
        for k in range(3):
            x, y = layout.second_x + (k - 1) * 0.11, layout.main_y + 0.03 * (k == 1)
            lanterns.stone_lantern(scene, x, y, 0.045)
    boats.boat(scene, layout.main_x - 0.12 * layout.side, layout.second_y + 0.02, 0.085)
    if mood.weather != "rain":
        trees.tree(
            scene,
            0.5 + layout.side * 0.46,
            1.02,
            0.66,
            "willow" if mood.season != "winter" else "bare",
            0.1 * layout.side,
        )


def guilin(scene: Scene) -> None:
    """桂林: steep round peaks and their reflections, a bamboo raft on a calm river."""
    layout = scene.layout
    horizon = layout.horizon + 0.02
    sky.sky(scene, horizon)
    sky.light_of_the_hour(scene)
    chance = scene.chance.fork("peaks")
    first = len(scene.shapes)
    for row, (count, depth, tall) in enumerate(((5, 0.68, 0.8), (4, 0.42, 0.95), (3, 0.12, 1.0))):
        for k in range(count):
            x = (k + 0.5 + chance.normal(0.18)) / count
            height = layout.height * tall * chance.uniform(0.6, 1.25)
            terrain.peak(scene, x, horizon + 0.012 * row, height * chance.uniform(0.62, 0.95), height, "karst", depth)
        sky.mist(scene, horizon - 0.02, 0.025, 0.5, 2)
    lake_at = len(scene.shapes)
    mirrored = scene.shapes[first:lake_at]
    terrain.lake(scene, horizon)
    start = len(scene.shapes)
    scene.shapes += [one for one in mirrored if one.material == "peak"]
    scene.mirror(start, horizon + 0.02, 0.42, 0.72)
    del scene.shapes[-len([one for one in mirrored if one.material == "peak"]) :]
    trees.grove(scene, horizon + 0.022, 12, 0.035, 0.2)
    terrain.ripples(scene, horizon + 0.08, 1.0, 26)
    boats.boat(scene, layout.main_x, layout.main_y + 0.03, 0.11, awning=False)
    humans.person(
        scene,
        layout.main_x - 0.02,
        layout.main_y + 0.025,
        0.11,
        robe="robe_blue",
        hat="straw",
        staff=True,
        name="boatman",
    )
    if scene.chance.fork("bamboo").chance(0.6):
        for k in range(4):
            grasses.bamboo_stalk(
                scene, 0.5 + layout.side * (0.40 + 0.035 * k), 1.02, 0.42 + 0.06 * k, 0.016, -0.09 * layout.side, 0.0
            )


def waterfall(scene: Scene) -> None:
    """瀑布: a long fall between cliffs, a pool with rocks, a viewer below."""
    layout, mood = scene.layout, scene.mood
    sky.sky(scene, 0.84)
    if mood.light != "day":
        sky.light_of_the_hour(scene)
    terrain.mountains(scene, 0.5, layout.height, 3)
    x = layout.main_x
    terrain.peak(scene, x - 0.32, 0.86, 0.62, 0.62, "cliff", 0.22, "cliff")
    terrain.peak(scene, x + 0.32, 0.88, 0.64, 0.68, "cliff", 0.12, "cliff")
    terrain.fall(scene, x, 0.29, 0.80, 0.085 + 0.05 * layout.density)
    terrain.lake(scene, 0.80)
    sky.mist(scene, 0.79, 0.05, 0.65, 4)
    terrain.ripples(scene, 0.83, 1.0, 22)
    terrain.rocks(scene, x - 0.2, 0.88, 0.10)
    terrain.rocks(scene, x + 0.2, 0.92, 0.12)
    trees.pine(scene, x + layout.side * 0.22, 0.43, 0.24, -layout.side)
    if scene.chance.fork("viewer").chance(0.6):
        terrain.rocks(scene, 0.5 - 0.36 * layout.side, 0.99, 0.12, 2)
        humans.person(scene, 0.5 - 0.34 * layout.side, 0.93, 0.13, robe="robe", staff=True, name="scholar")
    trees.pine(
        scene, 0.5 + layout.side * 0.42, 1.0, 0.44, -0.4 * layout.side
    ) if mood.season != "autumn" else trees.tree(
        scene, 0.5 + layout.side * 0.42, 1.02, 0.46, "maple", 0.1 * layout.side
    )


def sea_moon(scene: Scene) -> None:
    """海上生明月: the moon, or the rising sun, over the open sea, rocks and sails."""
    layout = scene.layout
    horizon = layout.horizon + 0.02
    sky.sky(scene, horizon)
    if scene.mood.light == "night":
        sky.stars(scene, 20, 0.3)
        sky.moon(scene, thin=False)
    else:
        sky.sun(scene)
    sky.clouds(scene, 2, horizon - 0.2, horizon - 0.06, 0.11)
    terrain.lake(scene, horizon, material="sea")
    with scene.element("waves"):
        terrain.ripples(scene, horizon + 0.02, 1.0, 70)
    boats.sail_boat(scene, layout.main_x + 0.2 * layout.side, horizon + 0.09, 0.085, 0.1)
    boats.sail_boat(scene, layout.main_x + 0.34 * layout.side, horizon + 0.05, 0.05, 0.3)
    terrain.rocks(scene, 0.5 - layout.side * 0.34, 0.97, 0.16, 4)
    if scene.chance.fork("viewer").chance(0.5):
        humans.person(scene, 0.5 - layout.side * 0.34, 0.90, 0.13, robe="robe", name="person")


def koi(scene: Scene) -> None:
    """锦鲤: carp among lotus leaves, seen from above."""
    layout = scene.layout
    terrain.lake(scene, -0.02)
    chance = scene.chance.fork("koi")
    for _ in range(5 + round(3 * layout.density)):
        terrain.pool_rings(scene, chance.uniform(), chance.uniform(), 0.05)
    turn = chance.uniform(0, math.tau)
    for k in range(4 + round(2 * layout.density)):
        angle = turn + k * 1.25
        animals.carp(
            scene,
            layout.main_x + 0.26 * math.cos(angle),
            0.52 + 0.24 * math.sin(angle),
            layout.main_size * chance.uniform(0.34, 0.46),
            angle + math.pi / 2,
            chance.pick(("fish", "fish", "fish_white")),
        )
    with scene.element("lotus leaf"):
        for x, y in ((0.12, 0.14), (0.9, 0.86), (0.86, 0.12), (0.10, 0.88)):
            if chance.chance(0.75):
                flowers.lotus_leaf(scene, x + chance.normal(0.03), y + chance.normal(0.03), chance.uniform(0.12, 0.2))
    flowers.lotus_flower(scene, 0.5 + layout.side * 0.36, 0.16, 0.24, 0.10)


LOW_LIGHT = {"light_y": (0.20, 0.34), "light_x": (0.35, 0.65)}
WATERSIDE = (
    Subject(
        "bridge",
        "小桥流水人家",
        "a small bridge over a stream with houses",
        bridge_village,
        {"main_size": (0.40, 0.5)},
        weathers=("clear", "clear", "clear", "mist", "rain", "snow"),
    ),
    Subject(
        "water town",
        "江南水乡",
        "a water town south of the Yangtze",
        water_town,
        weathers=("clear", "clear", "mist", "rain", "snow"),
    ),
    Subject(
        "lone boat",
        "孤舟独钓",
        "a lone fisherman in a boat on a cold river",
        lone_boat,
        {"main_size": (0.42, 0.56)},
        seasons=("autumn", "winter", "winter", "summer", "spring"),
        weathers=("clear", "mist", "snow", "snow", "rain"),
    ),
    Subject(
        "lotus pond",
        "荷塘",
        "a lotus pond",
        lotus_pond,
        seasons=("summer", "summer", "summer", "autumn"),
        lights=("day", "day", "dawn", "dusk", "night", "night"),
        weathers=("clear", "clear", "mist", "rain"),
        styles=NO_HILLS,
    ),
    Subject(
        "west lake",
        "西湖",
        "West Lake in Hangzhou",
        west_lake,
        {"main_y": (0.76, 0.82)},
        weathers=("clear", "clear", "mist", "rain", "snow"),
    ),
    Subject(
        "guilin",
        "桂林山水",
        "the karst peaks of Guilin on the Li River",
        guilin,
        {"height": (0.30, 0.42), "horizon": (0.52, 0.6)},
    ),
    Subject(
        "night mooring",
        "枫桥夜泊",
        "a boat moored at night by a maple bridge",
        night_mooring,
        seasons=("autumn", "autumn", "winter"),
        lights=("night",),
    ),
    Subject(
        "dragon boats",
        "龙舟",
        "a dragon boat race",
        dragon_boats,
        seasons=("summer",),
        lights=("day", "day", "dawn", "dusk"),
        weathers=("clear",),
    ),
    Subject("waterfall", "瀑布", "a waterfall between cliffs", waterfall, {"main_x": (0.4, 0.6)}),
    Subject(
        "sea moon",
        "海上明月",
        "the moon over the sea",
        sea_moon,
        {"light_size": (0.07, 0.11), **LOW_LIGHT},
        lights=("night", "night", "dawn", "dusk"),
        weathers=("clear",),
    ),
    Subject(
        "koi",
        "锦鲤",
        "koi carp in a pond",
        koi,
        seasons=("summer", "spring"),
        lights=("day",),
        weathers=("clear",),
        styles=NO_HILLS,
    ),
)
