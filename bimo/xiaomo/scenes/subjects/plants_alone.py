"""Subjects of one plant: bamboo, plum blossom, orchid, chrysanthemum, pine, willow with swallows."""

from __future__ import annotations

from bimo.xiaomo.scenes.description import Scene
from bimo.xiaomo.scenes.elements import animals, dwellings, flowers, grasses, sky, terrain, trees
from bimo.xiaomo.scenes.subjects.subject import NO_HILLS, Subject


def _open_sky(scene: Scene) -> None:
    sky.sky(scene, 1.02)
    if scene.mood.light in ("night", "dusk", "dawn"):
        sky.light_of_the_hour(scene)


def bamboo_grove(scene: Scene) -> None:
    """竹林."""
    layout = scene.layout
    _open_sky(scene)
    chance = scene.chance.fork("grove")
    with scene.element("bamboo"):
        for depth, count, width in ((0.68, 6, 0.013), (0.42, 4, 0.018), (0.0, 3 + round(layout.density), 0.028)):
            for k in range(count):
                x = (k + 0.5 + chance.normal(0.22)) / count
                grasses.bamboo_stalk(scene, x, 1.04, -0.05, width, 0.06 * layout.sway + chance.normal(0.03), depth)
            if depth > 0.1:
                sky.mist(scene, 0.85, 0.09, 0.4, 2)
    if scene.chance.fork("rocks").chance(0.5):
        terrain.rocks(scene, layout.second_x, 1.0, 0.14)
    terrain.tufts(scene, 0.93, 1.03, 26)


def plum_blossom(scene: Scene) -> None:
    """梅花."""
    layout = scene.layout
    _open_sky(scene)
    flowers.plum_branch(scene, 0.5 - 0.52 * layout.side, 0.98, layout.main_size * 2.25, layout.side)


def orchid(scene: Scene) -> None:
    """兰花."""
    layout = scene.layout
    _open_sky(scene)
    terrain.rocks(scene, layout.main_x - 0.18 * layout.side, 0.94, 0.17, 2)
    flowers.orchid(scene, layout.main_x, 0.90, layout.main_size * 1.5)
    terrain.tufts(scene, 0.93, 0.97, 14)


def chrysanthemum(scene: Scene) -> None:
    """菊花, often by a fence."""

    layout = scene.layout
    _open_sky(scene)
    if scene.chance.fork("hills").chance(0.45):
        terrain.mountains(scene, 0.6, layout.height * 0.8, 2, "southern hills")
    if scene.chance.fork("fence").chance(0.6):
        dwellings.fence(scene, 0.5, 0.93, 1.1)
    terrain.rocks(scene, 0.5 - 0.34 * layout.side, 0.98, 0.12, 2)
    flowers.chrysanthemums(scene, layout.main_x, 1.0, layout.main_size * 1.45, 4 + round(2 * layout.density))


def pine_rock(scene: Scene) -> None:
    """松: an old pine on a cliff above the mist, cranes."""
    layout = scene.layout
    sky.sky(scene, 1.02)
    sky.light_of_the_hour(scene)
    terrain.mountains(scene, 0.62, layout.height, 3)
    sky.mist(scene, 0.70, 0.10, 0.85, 4)
    side = layout.side
    terrain.peak(scene, 0.5 + side * 0.36, 1.06, 0.62, 0.44, "cliff", 0.0, "cliff")
    trees.pine(scene, 0.5 + side * 0.28, 0.70, layout.main_size * 1.3, -side, spread=1.15)
    if scene.chance.fork("crane").chance(0.6):
        for k in range(2):
            sky.crane(scene, 0.5 - side * (0.16 + 0.14 * k), 0.30 + 0.12 * k, 0.10 - 0.02 * k)


def willow_swallows(scene: Scene) -> None:
    """柳燕: willow withes over water, swallows, peach blossom."""
    layout = scene.layout
    horizon = layout.horizon
    sky.sky(scene, horizon)
    sky.light_of_the_hour(scene)
    terrain.mountains(scene, horizon, layout.height * 0.7, 2)
    terrain.lake(scene, horizon)
    terrain.ripples(scene, horizon + 0.05, 1.0, 30)
    terrain.islet(scene, 0.5 - layout.side * 0.3, horizon + 0.06, 0.5)
    trees.tree(scene, 0.5 - layout.side * 0.32, horizon + 0.055, 0.2, "peach", 0.0, 0.1)
    trees.tree(scene, 0.5 - layout.side * 0.18, horizon + 0.06, 0.16, "peach", 0.0, 0.12)
    chance = scene.chance.fork("swallows")
    places = [
        (layout.main_x - layout.side * 0.16 + chance.normal(0.12), 0.3 + chance.normal(0.1))
        for _ in range(3 + round(2 * layout.density))
    ]
    sky.swallows(scene, places, 0.045)

    animals.ducks(scene, layout.second_x, 0.86, 0.045, 3)
    trees.willow(scene, 0.5 + layout.side * 0.36, 1.02, 0.92, 0.12 * layout.side)


PLANTS = (
    Subject(
        "bamboo",
        "竹林",
        "a bamboo grove",
        bamboo_grove,
        seasons=("spring", "summer", "summer", "autumn", "winter"),
        lights=("day", "day", "dawn", "night"),
        weathers=("clear", "clear", "mist", "rain", "snow"),
        styles=NO_HILLS,
    ),
    Subject(
        "plum blossom",
        "梅花",
        "plum blossom",
        plum_blossom,
        {"main_size": (0.40, 0.46)},
        seasons=("winter",),
        lights=("day", "day", "day", "night", "dusk"),
        weathers=("clear", "clear", "snow"),
        styles=NO_HILLS,
    ),
    Subject(
        "orchid",
        "兰花",
        "an orchid",
        orchid,
        {"main_size": (0.36, 0.44)},
        seasons=("spring", "summer"),
        lights=("day",),
        weathers=("clear",),
        styles=NO_HILLS,
    ),
    Subject(
        "chrysanthemum",
        "菊花",
        "chrysanthemums",
        chrysanthemum,
        {"main_size": (0.38, 0.46)},
        seasons=("autumn",),
        lights=("day", "day", "dusk"),
        weathers=("clear",),
        styles=NO_HILLS,
    ),
    Subject(
        "pine",
        "松",
        "an old pine on a cliff",
        pine_rock,
        {"main_size": (0.38, 0.46)},
        weathers=("clear", "clear", "mist", "snow"),
    ),
    Subject(
        "willow",
        "杨柳燕子",
        "willows and swallows in spring",
        willow_swallows,
        seasons=("spring",),
        lights=("day", "day", "dawn", "dusk"),
        weathers=("clear", "clear", "mist", "rain"),
    ),
)
