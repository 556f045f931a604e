"""Subjects of people, feasts and towns: palace, lanterns, mid-autumn, rain at Qingming, snow, the city, moonlight."""

from __future__ import annotations

import numpy as np

from bimo.xiaomo.scenes.description import Scene
from bimo.xiaomo.scenes.elements import (
    animals,
    boats,
    city,
    dwellings,
    flowers,
    grasses,
    humans,
    lanterns,
    palaces,
    sky,
    still_life,
    terrain,
    trees,
)
from bimo.xiaomo.scenes.geometry import box, path
from bimo.xiaomo.scenes.subjects.subject import ALL_STYLES, MODERN, NO_HILLS, Subject
from bimo.xiaomo.scenes.subjects.waterside import near_tree

TODAY = (*MODERN, "gongbi", "porcelain")


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


def moon_pines(scene: Scene) -> None:
    """明月松间照，清泉石上流."""
    layout = scene.layout
    horizon = layout.horizon
    sky.sky(scene, horizon)
    sky.stars(scene, 16, 0.4)
    sky.moon(scene, thin=False, size=layout.light_size * 1.2)
    terrain.mountains(scene, horizon, layout.height * 0.9, 3)
    terrain.land(scene, horizon + 0.02)
    edges = terrain.stream(scene, horizon + 0.04, layout.main_x, 0.16, 0.10 * layout.sway, "spring")
    terrain.banks(scene, edges)
    terrain.ripples(scene, horizon + 0.16, 1.0, 14, layout.main_x - 0.1, layout.main_x + 0.1)
    for k, (x, y, size) in enumerate(((0.0, 0.80, 0.07), (0.10, 0.88, 0.09), (-0.10, 0.93, 0.09))):
        terrain.rocks(scene, layout.main_x + x, y, size, 2 + k % 2)
    for x, y, height, depth in (
        (0.42, 0.78, 0.40, 0.16),
        (0.30, 0.72, 0.30, 0.28),
        (-0.42, 0.76, 0.36, 0.2),
        (0.40, 1.0, 0.80, 0.0),
    ):
        trees.pine(scene, 0.5 + layout.side * x, y, height, -layout.side if x > 0 else layout.side, depth)
    if scene.chance.fork("walker").chance(0.4):
        humans.person(scene, 0.5 - layout.side * 0.26, 0.93, 0.14, robe="robe", name="scholar")


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


def snow_night(scene: Scene) -> None:
    """风雪夜归人: cottages with lit windows under snow, someone who comes home."""
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


def moon_gazing(scene: Scene) -> None:
    """床前明月光: someone at a moon window looks up to the moon."""
    layout = scene.layout
    sky.sky(scene, 0.9)
    sky.stars(scene, 16, 0.5)
    sky.moon(scene, 0.5 - 0.12 * layout.side, 0.24, layout.light_size * 1.25, thin=False)
    terrain.mountains(scene, 0.72, layout.height * 0.8, 3)
    for k in range(2):
        grasses.bamboo_stalk(
            scene, 0.5 + layout.side * (0.24 + 0.06 * k), 0.92, 0.14 + 0.06 * k, 0.016, -0.05 * layout.side, 0.1
        )
    dwellings.window_frame(scene)
    scene.fill("wood", box(-0.02, 0.88, 1.02, 1.02), into="dark_wood", rough=0.2)
    with scene.element("moonlight"):
        scene.fill("glitter", path((0.34, 0.89), (0.62, 0.89), (0.74, 1.02), (0.22, 1.02)), strength=0.34, soft=4.0)
    humans.person(
        scene,
        layout.main_x - layout.side * 0.02,
        0.96,
        0.44,
        robe=scene.chance.fork("robe").pick(("robe_blue", "robe_red")),
        hat="scholar",
        name="poet",
    )
    still_life.wine_table(scene, 0.5 - layout.side * 0.34, 0.96, 0.24)


def spring_kites(scene: Scene) -> None:
    """放纸鸢: children fly kites over the spring grass."""
    layout = scene.layout
    horizon = layout.horizon + 0.04
    sky.sky(scene, horizon)
    sky.light_of_the_hour(scene)
    sky.clouds(scene, 2, 0.1, 0.3)
    terrain.mountains(scene, horizon, layout.height * 0.6, 2)
    terrain.land(scene, horizon)
    trees.grove(scene, horizon + 0.02, 8, 0.06, 0.3)
    dwellings.village(scene, 0.5 + layout.side * 0.3, horizon + 0.05, 0.09, 2, 0.15)
    hand = (layout.main_x + layout.side * 0.06, layout.main_y + 0.02)
    humans.kite(scene, 0.5 - layout.side * 0.22, 0.2, 0.12, hand)
    humans.person(scene, layout.main_x, layout.main_y + 0.14, 0.20, robe="robe_red", name="child")
    humans.person(scene, layout.main_x + layout.side * 0.2, layout.main_y + 0.13, 0.17, robe="robe_blue", name="child")
    terrain.tufts(scene, horizon + 0.1, 1.02, 50)
    flowers.flowers(scene, 0.78, 1.0, 36)
    trees.willow(scene, 0.5 + layout.side * 0.45, 1.02, 0.66, 0.1 * layout.side)


def ox_boy(scene: Scene) -> None:
    """牧童短笛."""
    layout = scene.layout
    horizon = layout.horizon
    sky.sky(scene, horizon)
    sky.light_of_the_hour(scene)
    terrain.mountains(scene, horizon, layout.height * 0.8, 3)
    terrain.land(scene, horizon)
    edges = terrain.stream(scene, horizon + 0.04, 0.5 - layout.side * 0.24, 0.14, 0.10)
    terrain.banks(scene, edges)
    trees.grove(scene, horizon + 0.02, 9, 0.06, 0.3)
    terrain.tufts(scene, horizon + 0.1, 1.02, 50)
    animals.herd_boy(scene, layout.main_x - 0.12 * layout.side, layout.main_y + 0.10, layout.main_size * 0.66)
    kind = {"spring": "peach", "summer": "willow", "autumn": "maple", "winter": "bare"}[scene.mood.season]
    trees.tree(scene, 0.5 + layout.side * 0.46, 1.02, 0.74, kind, 0.02 * layout.side)


def wine_under_moon(scene: Scene) -> None:
    """月下独酌: a poet with wine among flowers under the moon."""
    layout = scene.layout
    horizon = layout.horizon + 0.10
    sky.sky(scene, horizon)
    sky.stars(scene, 16, 0.4)
    sky.moon(scene, thin=None, size=layout.light_size * 1.3)
    terrain.mountains(scene, horizon, layout.height * 0.7, 3)
    terrain.land(scene, horizon)
    trees.tree(
        scene,
        0.5 - layout.side * 0.40,
        0.92,
        0.4,
        "peach" if scene.mood.season == "spring" else "bare",
        -0.1 * layout.side,
    )
    terrain.rocks(scene, 0.5 - layout.side * 0.34, 0.95, 0.09)
    still_life.wine_table(scene, layout.main_x, layout.main_y + 0.13, 0.30)
    humans.person(
        scene,
        layout.main_x + layout.side * 0.22,
        layout.main_y + 0.19,
        0.34,
        robe=scene.chance.fork("robe").pick(("robe_blue", "robe_red")),
        hat="scholar",
        name="poet",
    )
    near_tree(scene, 0.66, "pine" if scene.mood.season in ("winter", "summer") else None)


NIGHT = ("night",)
PEOPLE = (
    Subject(
        "palace",
        "故宫",
        "the Forbidden City",
        palace,
        {"main_x": (0.44, 0.56), "main_size": (0.40, 0.48), "main_y": (0.72, 0.80)},
        seasons=("winter", "winter", "spring", "autumn", "summer"),
        weathers=("clear", "clear", "snow", "snow"),
        styles=NO_HILLS,
    ),
    Subject(
        "new year",
        "春节灯笼",
        "lanterns and couplets at Chinese New Year",
        new_year,
        {"main_x": (0.44, 0.56)},
        seasons=("winter",),
        lights=("night", "night", "dusk", "day"),
        weathers=("clear", "clear", "snow"),
        styles=NO_HILLS,
    ),
    Subject(
        "lantern fair",
        "元宵灯会",
        "the Lantern Festival by the river",
        lantern_fair,
        seasons=("winter", "spring"),
        lights=("night", "night", "dusk"),
        weathers=("clear",),
        styles=NO_HILLS,
    ),
    Subject(
        "mid-autumn",
        "中秋赏月",
        "Mid-Autumn, a full moon, mooncakes and wine",
        mid_autumn,
        {"main_y": (0.76, 0.82)},
        seasons=("autumn",),
        lights=NIGHT,
        weathers=("clear",),
        styles=NO_HILLS,
    ),
    Subject(
        "moon pines",
        "明月松间照",
        "the moon among pines, a spring over stones",
        moon_pines,
        lights=NIGHT,
        weathers=("clear",),
    ),
    Subject(
        "qingming",
        "清明雨",
        "rain at Qingming, a traveller with an umbrella",
        qingming,
        seasons=("spring",),
        lights=("day", "day", "dusk", "dawn"),
        weathers=("rain", "rain", "rain", "mist"),
    ),
    Subject(
        "snow night",
        "风雪夜归人",
        "a traveller coming home on a snowy night",
        snow_night,
        seasons=("winter",),
        lights=("night", "night", "dusk"),
        weathers=("snow", "snow", "clear"),
    ),
    Subject(
        "city",
        "城市夜景",
        "a city at night",
        city_night,
        {"main_size": (0.40, 0.5)},
        lights=("night", "night", "dusk", "day"),
        weathers=("clear", "clear", "rain"),
        styles=TODAY,
    ),
    Subject(
        "cliff town",
        "山城吊脚楼",
        "a town of stilt houses on a cliff above the river",
        cliff_town,
        {"main_x": (0.44, 0.56), "horizon": (0.46, 0.54)},
        lights=("night", "night", "dusk"),
        weathers=("clear", "clear", "mist", "rain"),
        styles=TODAY,
    ),
    Subject(
        "moon window",
        "床前明月光",
        "a poet at a round window, looking up at the moon",
        moon_gazing,
        lights=NIGHT,
        weathers=("clear",),
        styles=NO_HILLS,
    ),
    Subject(
        "kites",
        "放纸鸢",
        "children flying kites in spring",
        spring_kites,
        seasons=("spring",),
        lights=("day",),
        weathers=("clear",),
        styles=ALL_STYLES,
    ),
    Subject(
        "herd boy",
        "牧童骑牛",
        "a herd boy on an ox",
        ox_boy,
        weathers=("clear", "clear", "mist"),
        lights=("day", "day", "dawn", "dusk"),
    ),
    Subject(
        "wine moon",
        "月下独酌",
        "a poet drinking alone under the moon",
        wine_under_moon,
        lights=NIGHT,
        weathers=("clear",),
    ),
)
