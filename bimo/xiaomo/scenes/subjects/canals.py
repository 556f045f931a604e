"""Scenes of towns and boats on canals: a bridge, a water town, a mooring by night, dragon boats."""

from __future__ import annotations

from bimo.xiaomo.scenes.description import Scene
from bimo.xiaomo.scenes.elements import (
    boats,
    dwellings,
    grasses,
    lanterns,
    palaces,
    sky,
    stonework,
    terrain,
    trees,
)
from bimo.xiaomo.scenes.geometry import Path, box
from bimo.xiaomo.scenes.subjects.near_trees import near_tree


def bridge_village(scene: Scene) -> None:
    """小桥流水人家."""
    layout, mood = scene.layout, scene.mood
    horizon = layout.horizon
    sky.sky(scene, horizon)
    sky.light_of_the_hour(scene)
    terrain.mountains(scene, horizon, layout.height)
    terrain.land(scene, horizon)
    edges = terrain.stream(scene, horizon + 0.01, layout.main_x, 0.36, 0.07 * layout.sway, "stream")
    trees.grove(scene, horizon + 0.02, 9, 0.045, 0.35)
    back = horizon + 0.085
    dwellings.village(
        scene,
        layout.main_x - 0.27,
        back,
        0.11,
        2 + round(layout.density),
        0.08,
        horse_head=scene.chance.fork("gable").chance(0.5),
    )
    dwellings.village(scene, layout.main_x + 0.29, back + 0.02, 0.12, 2, 0.04)
    sky.smoke(
        scene, layout.main_x - 0.27, back - 0.09, 0.13
    ) if mood.light != "night" and mood.weather == "clear" else None
    terrain.banks(scene, edges)
    terrain.ripples(scene, layout.main_y, 1.0, 22, layout.main_x - 0.22, layout.main_x + 0.22)
    stonework.arch_bridge(scene, layout.main_x, layout.main_y, layout.main_size, layout.main_size * 0.34)
    if scene.chance.fork("boat").chance(0.5):
        boats.boat(scene, layout.main_x - 0.06 * layout.side, layout.main_y + 0.15, 0.075)
    near_tree(scene, 0.74)
    if mood.season == "spring":
        sky.swallows(scene, [(0.5 - 0.2 * layout.side, 0.2), (0.5 - 0.3 * layout.side, 0.27)], 0.03)
    elif mood.season == "autumn":
        sky.geese(scene, 0.5 - 0.18 * layout.side, 0.2, 0.03)


def water_town(scene: Scene) -> None:
    """江南水乡: white walls on both sides of a canal, lanterns under the eaves, boats and a far bridge."""
    layout, mood = scene.layout, scene.mood
    horizon = layout.horizon
    sky.sky(scene, horizon + 0.02)
    sky.light_of_the_hour(scene)
    terrain.mountains(scene, horizon, layout.height * 0.5, 2)
    terrain.lake(scene, horizon)
    trees.grove(scene, horizon + 0.01, 8, 0.05, 0.35)
    stonework.arch_bridge(scene, layout.main_x, horizon + 0.08, 0.26, 0.085)
    first = len(scene.shapes)
    with scene.element("houses"):
        for way in (-1, 1):
            for k in range(4):
                near = k / 3
                size = 0.10 + 0.15 * near
                x = layout.main_x + way * (0.15 + 0.36 * near)
                foot = horizon + 0.055 + 0.15 * near**1.3
                dwellings.house(
                    scene, x, foot, size * 1.25, size * 1.05, 0.3 * (1 - near), horse_head=k % 2 == (way > 0)
                )
                scene.fill("stone", _quay(x, foot, size), depth=0.25 * (1 - near), into="stone_low")
    scene.mirror(first, horizon + 0.20, 0.3, 0.75)
    if mood.light in ("night", "dusk") or scene.chance.fork("lamps").chance(0.4):
        with scene.element("lantern"):
            for way in (-1, 1):
                for k in range(3):
                    near = (k + 1) / 3
                    lanterns.lantern(
                        scene,
                        layout.main_x + way * (0.15 + 0.28 * near),
                        horizon - 0.005 + 0.045 * near,
                        0.022 + 0.018 * near,
                        0.01,
                    )
    terrain.ripples(scene, horizon + 0.10, 1.0, 34)
    boats.boat(
        scene, layout.second_x * 0.4 + layout.main_x * 0.6, layout.second_y - 0.03, 0.10, True, mood.light == "night"
    )
    if scene.chance.fork("tree").chance(0.75):
        trees.tree(
            scene,
            0.5 + layout.side * 0.44,
            1.02,
            0.62,
            "willow" if mood.season != "winter" else "bare",
            0.1 * layout.side,
        )


def _quay(x: float, foot: float, size: float) -> Path:

    return box(x - size * 0.72, foot - 0.004, x + size * 0.72, foot + size * 0.12)


def night_mooring(scene: Scene) -> None:
    """夜泊: a boat with a lamp by the bank, maples, a temple on the far side, a low moon, crows."""
    layout = scene.layout
    horizon = layout.horizon
    sky.sky(scene, horizon + 0.02)
    sky.light_of_the_hour(scene)
    terrain.mountains(scene, horizon, layout.height, 3)
    first = len(scene.shapes)
    palaces.pagoda(scene, 0.5 - 0.26 * layout.side, horizon + 0.01, 0.24, 7, 0.2)
    with scene.element("temple"):
        dwellings.house(scene, 0.5 - 0.13 * layout.side, horizon + 0.012, 0.13, 0.06, 0.2)
    stonework.arch_bridge(scene, 0.5 + 0.16 * layout.side, horizon + 0.03, 0.2, 0.06)
    terrain.lake(scene, horizon + 0.01)
    scene.shapes.insert(first, scene.shapes.pop())
    terrain.ripples(scene, horizon + 0.06, 1.0, 32)
    boats.boat(scene, layout.main_x, layout.main_y, layout.main_size * 0.34, True, True)
    trees.tree(
        scene,
        0.5 + layout.side * 0.46,
        1.02,
        0.62,
        "maple" if scene.mood.season == "autumn" else "bare",
        0.03 * layout.side,
    )
    sky.crow(scene, 0.5 + layout.side * 0.10, 0.26, 0.045, flying=True)
    sky.crow(scene, 0.5 + layout.side * 0.20, 0.19, 0.038, flying=True)
    grasses.reeds(scene, 0.5 - layout.side * 0.42, 1.0, 0.2, 10)


def dragon_boats(scene: Scene) -> None:
    """龙舟: two dragon boats race on the river."""
    layout = scene.layout
    horizon = layout.horizon - 0.06
    sky.sky(scene, horizon)
    sky.light_of_the_hour(scene)
    terrain.mountains(scene, horizon, layout.height * 0.7, 3)
    first = len(scene.shapes)
    dwellings.village(scene, 0.5 + 0.25 * layout.side, horizon + 0.02, 0.09, 4, 0.2)
    trees.grove(scene, horizon + 0.015, 10, 0.05, 0.25)
    terrain.lake(scene, horizon + 0.015)
    scene.shapes.insert(first, scene.shapes.pop())
    terrain.ripples(scene, horizon + 0.06, 1.0, 46)
    boats.dragon_boat(scene, layout.second_x * 0.3 + 0.35, horizon + 0.16, 0.25, 7, red=False)
    boats.dragon_boat(scene, layout.main_x, layout.main_y + 0.05, layout.main_size * 0.80, 8)
    if scene.chance.fork("willow").chance(0.5):
        trees.willow(scene, 0.5 + layout.side * 0.47, 1.02, 0.62, 0.0)
