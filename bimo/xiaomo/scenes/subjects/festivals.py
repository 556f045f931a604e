"""Scenes of festivals: New Year, the lantern fair, mid-autumn, rain at Qingming."""

from __future__ import annotations

import numpy as np

from bimo.xiaomo.scenes.description import Scene
from bimo.xiaomo.scenes.elements import (
    animals,
    dwellings,
    humans,
    lanterns,
    palaces,
    sky,
    still_life,
    terrain,
    trees,
)
from bimo.xiaomo.scenes.geometry import box, path
from bimo.xiaomo.scenes.subjects.near_trees import near_tree


def new_year(scene: Scene) -> None:
    """灯笼年节: a gate with couplets, rows of lanterns, fireworks, snow on the roofs."""
    layout, mood = scene.layout, scene.mood
    foot = 0.86
    sky.sky(scene, foot)
    if mood.weather == "clear":
        sky.stars(scene, 14, 0.3) if mood.light == "night" else None
        chance = scene.chance.fork("fireworks")
        if mood.light in ("night", "dusk"):
            for k, material in enumerate(("firework", "firework_gold", "firework_blue")):
                if k <= 1 + layout.density:
                    sky.firework(
                        scene,
                        0.18 + 0.3 * k + chance.normal(0.04),
                        0.17 + chance.normal(0.04),
                        chance.uniform(0.10, 0.15),
                        material,
                    )
    dwellings.village(scene, 0.14, foot - 0.06, 0.2, 2, 0.2)
    dwellings.village(scene, 0.88, foot - 0.06, 0.2, 2, 0.2)
    scene.fill("ground", box(-0.02, foot - 0.01, 1.02, 1.02), into="ground_low")
    x, wide = layout.main_x, layout.main_size * 1.15
    with scene.element("gate"):
        scene.fill("wall", box(x - wide * 0.5, foot - 0.34, x + wide * 0.5, foot), into="wall_low", rough=0.2)
        scene.fill("roof", palaces.upturned_roof(x, foot - 0.34, wide * 1.3, 0.13), rough=0.2)
        scene.fill("red_wood", box(x - wide * 0.22, foot - 0.27, x + wide * 0.22, foot), rough=0.1)
        scene.line("dark_wood", [path((x, foot - 0.27), (x, foot))], 0.005, rough=0.1)
        scene.fill(
            "gold", *[box(x + k - 0.006, foot - 0.145, x + k + 0.006, foot - 0.12) for k in (-0.02, 0.02)], rough=0.0
        )
    with scene.element("couplet"):
        for way in (-1, 1):
            cx = x + way * wide * 0.33
            scene.fill("paper_red", box(cx - 0.026, foot - 0.27, cx + 0.026, foot - 0.03), rough=0.1)
            marks = [box(cx - 0.010, foot - 0.255 + 0.045 * k, cx + 0.010, foot - 0.228 + 0.045 * k) for k in range(5)]
            scene.fill("hair", *marks, rough=1.2, strength=0.85)
        scene.fill("paper_red", box(x - 0.10, foot - 0.325, x + 0.10, foot - 0.285), rough=0.1)
        scene.fill(
            "hair",
            *[box(x - 0.078 + 0.045 * k, foot - 0.318, x - 0.056 + 0.045 * k, foot - 0.292) for k in range(4)],
            rough=1.0,
            strength=0.85,
        )
    with scene.element("lantern"):
        for way in (-1, 1):
            lanterns.lantern(scene, x + way * wide * 0.52, foot - 0.24, 0.10, 0.06)
    lanterns.lantern_row(scene, (-0.02, 0.30), (1.02, 0.28), 0.07, 0.062, 6)
    if scene.chance.fork("child").chance(0.6):
        humans.person(scene, layout.second_x, 0.96, 0.15, robe="robe_red", name="child")
        with scene.element("lantern"):
            lanterns.lantern(scene, layout.second_x + layout.side * 0.07, 0.93, 0.045, 0.02)


def lantern_fair(scene: Scene) -> None:
    """元宵: a street of lanterns by the water, sky lanterns above."""
    layout = scene.layout
    horizon = layout.horizon + 0.02
    sky.sky(scene, horizon + 0.06)
    sky.light_of_the_hour(scene)
    chance = scene.chance.fork("fair")
    for _ in range(6 + round(6 * layout.density)):
        sky.sky_lantern(scene, chance.uniform(0.05, 0.95), chance.uniform(0.05, 0.4), chance.uniform(0.022, 0.05))
    first = len(scene.shapes)
    dwellings.village(scene, 0.18, horizon + 0.04, 0.17, 3, 0.1)
    palaces.pavilion(scene, layout.main_x, horizon + 0.045, 0.26, storeys=2)
    dwellings.village(scene, 0.84, horizon + 0.04, 0.17, 2, 0.1)
    lanterns.lantern_row(scene, (0.0, horizon - 0.10), (1.0, horizon - 0.10), 0.04, 0.045, 8)
    terrain.lake(scene, horizon + 0.04)
    scene.shapes.insert(first, scene.shapes.pop())
    scene.mirror(first + 1, horizon + 0.045, 0.34, 0.7)
    terrain.ripples(scene, horizon + 0.08, 1.0, 30)
    for _ in range(5):
        lanterns.river_lantern(scene, chance.uniform(0.1, 0.9), chance.uniform(horizon + 0.16, 0.93))
    near_tree(scene, 0.55, "willow" if scene.mood.season != "winter" else "bare")


def mid_autumn(scene: Scene) -> None:
    """中秋: a full moon above a terrace, mooncakes and wine, osmanthus, a rabbit."""
    layout = scene.layout
    horizon = layout.horizon + 0.14
    sky.sky(scene, horizon)
    sky.stars(scene, 18, 0.4)
    sky.moon(scene, thin=False, size=layout.light_size * 1.7)
    terrain.mountains(scene, horizon, layout.height * 0.6, 2)
    scene.fill("marble", box(-0.02, horizon, 1.02, 1.02), into="marble_low", rough=0.2)
    rails = [path((k, horizon + 0.004), (k, horizon - 0.075)) for k in np.linspace(0.02, 0.98, 9)]
    with scene.element("terrace rail"):
        scene.line("marble", rails, 0.018, rough=0.1)
        scene.line(
            "marble",
            [
                path((-0.02, horizon - 0.065), (1.02, horizon - 0.065)),
                path((-0.02, horizon - 0.03), (1.02, horizon - 0.03)),
            ],
            0.012,
            rough=0.1,
        )
        scene.line("marble_low", [path((-0.02, horizon - 0.056), (1.02, horizon - 0.056))], 0.003, rough=0.1)
    still_life.wine_table(scene, layout.main_x, layout.main_y + 0.06, 0.40)
    still_life.mooncakes(scene, layout.main_x + 0.13, layout.main_y + 0.01, 0.15)
    animals.rabbit(scene, layout.main_x - 0.34 * layout.side, 0.95, 0.15)
    if scene.chance.fork("poet").chance(0.6):
        humans.person(
            scene,
            layout.main_x + 0.29 * layout.side,
            0.94,
            0.30,
            robe=scene.chance.fork("robe").pick(("robe_blue", "robe_red")),
            hat="scholar",
            name="poet",
        )
    if scene.chance.fork("osmanthus").chance(0.7):
        with scene.element("osmanthus"):
            trees.tree(scene, 0.5 + layout.side * 0.45, 1.02, 0.62, "ginkgo", 0.12 * layout.side)
    with scene.element("lantern"):
        lanterns.lantern(scene, 0.5 - layout.side * 0.40, 0.2, 0.085, 0.18)


def qingming(scene: Scene) -> None:
    """清明时节雨纷纷，路上行人欲断魂: rain, a walker with an umbrella, a herd boy, an inn among apricots."""
    layout = scene.layout
    horizon = layout.horizon - 0.02
    sky.sky(scene, horizon)
    terrain.mountains(scene, horizon, layout.height * 0.8, 3)
    sky.mist(scene, horizon, 0.06, 0.6, 3)
    terrain.land(scene, horizon)
    dwellings.cottage(scene, 0.5 - layout.side * 0.28, horizon + 0.12, 0.16, 0.06)
    with scene.element("wine flag"):
        x = 0.5 - layout.side * 0.18
        scene.line("dark_wood", [path((x, horizon + 0.12), (x, horizon - 0.05))], 0.005, rough=0.1)
        scene.fill(
            "paper_red",
            path((x, horizon - 0.05), (x + 0.05, horizon - 0.045), (x + 0.045, horizon + 0.01), (x, horizon + 0.015)),
            rough=0.3,
        )
    for k in (-0.36, -0.42, -0.20):
        trees.tree(scene, 0.5 + layout.side * k, horizon + 0.13, 0.17, "peach", 0.0, 0.1)
    terrain.lane(scene, layout.main_x, horizon + 0.08, 0.17, -0.14 * layout.side)
    humans.person(
        scene, layout.main_x + 0.02, layout.main_y + 0.06, 0.22, robe="robe_blue", umbrella=True, name="traveller"
    )
    if layout.density > 0.35:
        animals.herd_boy(scene, layout.main_x - layout.side * 0.26, layout.main_y + 0.02, 0.15)
    trees.willow(scene, 0.5 + layout.side * 0.44, 1.02, 0.74, 0.1 * layout.side)
    if scene.mood.weather != "rain":
        sky.mist(scene, horizon + 0.1, 0.04, 0.4, 2)
