"""Scenes of open land: the desert, rice terraces, the grassland."""

from __future__ import annotations

from bimo.xiaomo.scenes.description import Scene, Stroke
from bimo.xiaomo.scenes.elements import (
    animals,
    dwellings,
    flowers,
    humans,
    sky,
    stonework,
    terrain,
    trees,
)
from bimo.xiaomo.scenes.geometry import below, ridge


def desert(scene: Scene) -> None:
    """大漠孤烟直，长河落日圆."""
    layout, mood = scene.layout, scene.mood
    horizon = layout.horizon - 0.02
    sky.sky(scene, horizon + 0.06, dust=mood.light != "night")
    if mood.light == "night":
        sky.stars(scene, 40, 0.4)
        sky.moon(scene)
    else:
        sky.sun(
            scene,
            layout.light_x,
            horizon - layout.light_size * (0.6 if mood.light == "dusk" else 2.2),
            layout.light_size * 1.35,
        )
    terrain.dunes(scene, horizon)
    if scene.chance.fork("river").chance(0.5):
        terrain.stream(scene, horizon + 0.13, layout.second_x, 0.10, 0.22, "river")
    if scene.chance.fork("smoke").chance(0.6) and mood.light != "night":
        from bimo.xiaomo.scenes.geometry import path

        x = 0.5 - 0.3 * layout.side
        with scene.element("smoke"):
            scene.strokes(
                "smoke", [Stroke(path((x, horizon + 0.05), (x, horizon - 0.30)), 0.008, 0.028)], strength=0.8, soft=1.0
            )
        with scene.element("beacon tower"):
            stonework.watch_tower(scene, x, horizon + 0.07, 0.035, 0.1)
    animals.caravan(scene, layout.main_x + 0.16 * layout.side, layout.main_y, layout.main_size * 0.32, 3)


def terraces(scene: Scene) -> None:
    """梯田."""
    layout = scene.layout
    horizon = layout.horizon - 0.08
    sky.sky(scene, horizon)
    sky.light_of_the_hour(scene)
    terrain.mountains(scene, horizon, layout.height * 0.9, 3)
    sky.mist(scene, horizon, 0.05, 0.8, 3)
    terrain.terraces(scene, horizon + 0.05)
    dwellings.village(scene, layout.main_x, horizon + 0.16, 0.085, 4, 0.05)
    trees.far_trees(scene, [(layout.main_x + k, horizon + 0.16) for k in (-0.25, -0.2, 0.24)], 0.08, 0.05)
    animals.ox(scene, layout.second_x, 0.9, 0.10) if scene.chance.fork("ox").chance(0.5) else None
    humans.person(scene, layout.second_x + 0.12, 0.9, 0.12, robe="robe_blue", hat="straw", name="farmer")


def grassland(scene: Scene) -> None:
    """草原: 天苍苍，野茫茫，风吹草低见牛羊."""
    layout, mood = scene.layout, scene.mood
    horizon = layout.horizon
    sky.sky(scene, horizon)
    sky.light_of_the_hour(scene)
    sky.clouds(scene, 4, 0.08, horizon - 0.14, 0.13)
    terrain.mountains(scene, horizon, layout.height * 0.4, 2)
    chance = scene.chance.fork("grass")
    for k in range(3):
        edge = ridge(chance, horizon + 0.04 + 0.14 * k, 0.05, 1.5, 0.3)
        scene.fill("meadow", below(edge, 1.03), into="ground_low", depth=0.35 - 0.17 * k)
    with scene.element("yurt"):
        for k in range(1 + round(layout.density * 2)):
            dwellings.yurt(
                scene, layout.main_x + 0.15 * k * layout.side, layout.main_y - 0.10 - 0.01 * k, 0.15 - 0.02 * k
            )
    animals.sheep(scene, layout.second_x, layout.second_y - 0.02, 0.055, 8)
    animals.horse(scene, 0.5 - layout.side * 0.24, 0.86, 0.15, rider="robe_red")
    terrain.tufts(scene, horizon + 0.1, 1.02, 90)
    flowers.flowers(scene, 0.75, 1.0, 40) if mood.season in ("spring", "summer") else None
    with scene.element("eagle"):
        sky.crow(scene, 0.5 - layout.side * 0.2, 0.2, 0.05, True)
