"""Scenes of palaces and towns: the Forbidden City, a snowy night, the modern city, a town on cliffs."""

from __future__ import annotations

import numpy as np

from bimo.xiaomo.scenes.description import Scene
from bimo.xiaomo.scenes.elements import (
    boats,
    city,
    dwellings,
    humans,
    lanterns,
    palaces,
    sky,
    terrain,
    trees,
)
from bimo.xiaomo.scenes.geometry import box, path


def palace(scene: Scene) -> None:
    """故宫."""
    layout, mood = scene.layout, scene.mood
    foot = layout.main_y + 0.02
    sky.sky(scene, foot)
    sky.light_of_the_hour(scene)
    sky.clouds(scene, 2, 0.1, 0.28) if mood.light == "day" and mood.weather == "clear" else None
    trees.grove(scene, foot - 0.14, 14, 0.08, 0.45)
    for way in (-1, 1):
        x = layout.main_x + way * 0.47
        palaces.hall(scene, x, foot - 0.03, 0.30, 0.22, terrace=False)
    scene.fill("red_wall", box(-0.02, foot - 0.09, 1.02, foot - 0.015), depth=0.14, rough=0.1)
    scene.fill("gold_roof", box(-0.02, foot - 0.105, 1.02, foot - 0.088), depth=0.14, rough=0.1)
    scene.fill(
        "marble" if not mood.white else "ground",
        box(-0.02, foot - 0.016, 1.02, 1.02),
        into="marble_low" if not mood.white else "ground_low",
        rough=0.1,
    )
    scene.line(
        "marble_low",
        [path((layout.main_x + (k - layout.main_x) * 0.45, foot), (k * 1.8 - 0.4, 1.03)) for k in np.linspace(0, 1, 9)],
        0.002,
        0.004,
        strength=0.5,
        rough=0.1,
    )
    palaces.hall(scene, layout.main_x, foot + 0.01, layout.main_size * 1.55)
    if scene.chance.fork("walker").chance(0.55):
        humans.person(
            scene, layout.second_x, 0.95, 0.13, robe="robe_red", umbrella=mood.weather in ("snow", "rain"), back=True
        )
    if scene.chance.fork("branch").chance(0.5):
        kind = {"spring": "peach", "summer": "leafy", "autumn": "ginkgo", "winter": "bare"}[mood.season]
        trees.tree(scene, 0.5 + layout.side * 0.46, 1.04, 0.5, kind, 0.1 * layout.side)


def snow_night(scene: Scene) -> None:
    """风雪夜归人: cottages with lit windows under snow, someone coming home."""
    layout = scene.layout
    horizon = layout.horizon
    sky.sky(scene, horizon)
    sky.light_of_the_hour(scene)
    terrain.mountains(scene, horizon, layout.height, 3)
    terrain.land(scene, horizon)
    trees.grove(scene, horizon + 0.02, 10, 0.06, 0.4)
    dwellings.cottage(scene, layout.main_x + 0.18 * layout.side, layout.main_y - 0.06, layout.main_size * 0.62)
    dwellings.cottage(scene, layout.main_x - 0.16 * layout.side, layout.main_y - 0.12, layout.main_size * 0.38, 0.12)
    dwellings.fence(scene, layout.main_x + 0.16 * layout.side, layout.main_y - 0.005, 0.44)
    terrain.lane(scene, layout.main_x + 0.12 * layout.side, layout.main_y - 0.05, 0.12, -0.12 * layout.side)
    humans.person(
        scene, layout.main_x - 0.10 * layout.side, 0.93, 0.16, robe="cloak", hat="straw", staff=True, name="traveller"
    )
    for x, height in ((0.43, 0.74), (-0.42, 0.42)):
        trees.tree(scene, 0.5 + layout.side * x, 1.0 if x > 0 else 0.86, height, "bare", 0.1 * layout.side * np.sign(x))


def city_night(scene: Scene) -> None:
    """城市夜景."""
    layout, mood = scene.layout, scene.mood
    horizon = layout.horizon + 0.10
    sky.sky(scene, horizon)
    sky.light_of_the_hour(scene)
    city.skyline(scene, horizon, 11, 0.10, 0.26, 0.45)
    first = len(scene.shapes)
    city.skyline(scene, horizon + 0.01, 7, 0.14, 0.38, 0.08)
    if scene.chance.fork("tower").chance(0.6):
        city.pearl_tower(scene, layout.main_x, horizon + 0.01, layout.main_size * 1.05)
    else:
        city.great_wheel(scene, layout.main_x, horizon + 0.01, 0.12)
    shapes = [one for one in scene.shapes[first:] if len(one.fills) < 60 or mood.light in ("night", "dusk")]
    terrain.lake(scene, horizon + 0.01)
    start = len(scene.shapes)
    scene.shapes += shapes
    scene.mirror(start, horizon + 0.015, 0.5, 0.75)
    del scene.shapes[-len(shapes) :]
    terrain.ripples(scene, horizon + 0.05, 1.0, 50)
    boats.boat(scene, layout.second_x, 0.88, 0.09, True, True)


def cliff_town(scene: Scene) -> None:
    """洪崖洞: tiers of stilt houses against a cliff, all their windows lit, above the river."""
    layout = scene.layout
    water = layout.horizon + 0.20
    sky.sky(scene, water + 0.02)
    sky.light_of_the_hour(scene)
    city.skyline(scene, layout.horizon - 0.04, 9, 0.05, 0.16, 0.55)
    middle = layout.main_x
    terrain.peak(scene, middle, water + 0.01, 1.25, 0.44, "cliff", 0.12, "cliff")
    first = len(scene.shapes)
    tiers = 4 + round(layout.density)
    with scene.element("stilt houses"):
        for tier in range(tiers):
            near = tier / (tiers - 1)
            foot = water - 0.36 * (1 - near)
            wide, count = 0.30 + 0.42 * near, 2 + tier // 2
            scene.line(
                "dark_wood",
                [path((middle + wide * k, foot), (middle + wide * k, foot + 0.06)) for k in np.linspace(-0.5, 0.5, 9)],
                0.008,
                rough=0.2,
            )
            for place in range(count):
                x = middle + wide * ((place + 0.5) / count - 0.5)
                palaces.pavilion(
                    scene,
                    x,
                    foot,
                    wide / count * 0.92,
                    0.06 * (1 - near),
                    storeys=2 if tier == 0 else 1,
                    name="pavilion",
                )
                lit = wide / count * 0.92
                scene.fill(
                    "window",
                    box(x - lit * 0.28, foot - lit * 0.40, x + lit * 0.28, foot - lit * 0.15),
                    strength=0.85,
                    rough=0.1,
                )
    lanterns.lantern_row(scene, (middle - 0.40, water - 0.06), (middle + 0.40, water - 0.06), 0.02, 0.030, 10)
    shapes = list(scene.shapes[first:])
    terrain.lake(scene, water)
    start = len(scene.shapes)
    scene.shapes += shapes
    scene.mirror(start, water + 0.004, 0.42, 0.7)
    del scene.shapes[-len(shapes) :]
    terrain.ripples(scene, water + 0.04, 1.0, 34)
    boats.boat(scene, layout.second_x, 0.92, 0.09, True, True)
