"""Subjects of people, festivals and towns: palace, lanterns, mid-autumn, rain at Qingming, snow, the city,
moonlight.
"""

from __future__ import annotations

from bimo.xiaomo.scenes.description import Scene
from bimo.xiaomo.scenes.elements import (
    animals,
    dwellings,
    flowers,
    grasses,
    humans,
    sky,
    still_life,
    terrain,
    trees,
)
from bimo.xiaomo.scenes.geometry import box, path
from bimo.xiaomo.scenes.subjects.festivals import lantern_fair, mid_autumn, new_year, qingming
from bimo.xiaomo.scenes.subjects.near_trees import near_tree
from bimo.xiaomo.scenes.subjects.subject import ALL_STYLES, MODERN, NO_HILLS, Subject
from bimo.xiaomo.scenes.subjects.towns import city_night, cliff_town, palace, snow_night

TODAY = (*MODERN, "gongbi", "porcelain")


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
