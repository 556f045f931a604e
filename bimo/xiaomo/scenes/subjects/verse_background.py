"""The background of a verse's scene: sky, far shore, ground, and the middle with buildings, boats and water."""

from __future__ import annotations

from collections.abc import Set

from bimo.xiaomo.chance import Chance
from bimo.xiaomo.scenes.description import Scene, Stroke
from bimo.xiaomo.scenes.elements import (
    animals,
    boats,
    dwellings,
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
from bimo.xiaomo.scenes.geometry import below, path, ridge
from bimo.xiaomo.scenes.subjects.verse_elements import (
    FAR,
    SKY_BIRDS,
    Places,
)


def draw_sky(scene: Scene, wanted: frozenset[str], horizon: float, without: Set[str] = frozenset()) -> None:
    """The sky and what is in it; of stars and the sun, which are there by themselves, none of ``without``."""
    layout, mood = scene.layout, scene.mood
    sky.sky(scene, horizon + 0.01, dust="desert" in wanted and mood.light != "night")
    if "stars" in wanted or (mood.light == "night" and mood.weather == "clear" and "stars" not in without):
        sky.stars(scene, 30 if "stars" in wanted else 16, 0.4)
    if "sun" in wanted:
        low = mood.light in ("dusk", "dawn")
        sky.sun(scene, None, horizon - 0.1 if low else None, layout.light_size * (1.15 if low else 1.0))
    if "moon" in wanted:
        aside = "sun" in wanted
        sky.moon(scene, 1 - layout.light_x if aside else None, None, layout.light_size * 1.1)
    elif not {"sun"} & (wanted | without) and mood.weather == "clear" and mood.light in ("dawn", "dusk"):
        sky.sun(scene)
    if "cloud" in wanted:
        sky.clouds(scene, 4, 0.10, horizon - 0.14, 0.13)
    draw_above(scene, wanted)


def draw_above(scene: Scene, wanted: Set[str]) -> None:
    """What flies in the sky."""
    layout = scene.layout
    free = Places(
        (0.5 - 0.22 * layout.side, 0.17),
        (0.5 + 0.14 * layout.side, 0.26),
        (0.5 - 0.34 * layout.side, 0.33),
        (0.5, 0.12),
    )
    for name in SKY_BIRDS:
        if name not in wanted:
            continue
        x, y = free.take()
        if name == "geese":
            sky.geese(scene, x, y, 0.034)
        elif name == "egret":
            sky.egrets(scene, x - 0.1 * layout.side, y + 0.08, 0.075, 4)
        elif name == "crane":
            sky.crane(scene, x, y, 0.15)
        elif name == "swallow":
            sky.swallows(scene, [(x, y), (x + 0.09, y + 0.06), (x - 0.08, y + 0.07)], 0.042)
        elif name == "crow":
            for dx, dy in ((0, 0), (0.1, 0.05), (-0.07, 0.08)):
                sky.crow(scene, x + dx, y + dy, 0.042, flying=True)
        else:
            with scene.element("eagle"):
                sky.crow(scene, x, y, 0.065, flying=True)
    if "kite" in wanted:
        x, y = free.take()
        humans.kite(scene, x, y, 0.11, (0.5 + 0.1 * layout.side, 0.82))
    if "firework" in wanted:
        for k, material in enumerate(("firework", "firework_gold")):
            sky.firework(scene, 0.28 + 0.42 * k, 0.17 + 0.05 * k, 0.14, material)
    if "sky lantern" in wanted:
        for k in range(7):
            spots = scene.chance.fork(f"sky lantern {k}")
            sky.sky_lantern(scene, spots.uniform(0.06, 0.94), spots.uniform(0.05, 0.38), spots.uniform(0.022, 0.045))


def draw_far_fall(scene: Scene, horizon: float) -> None:
    x = 0.5 - 0.2 * scene.layout.side
    terrain.peak(scene, x - 0.13, horizon + 0.05, 0.28, 0.34, "cliff", 0.25, "cliff")
    terrain.peak(scene, x + 0.13, horizon + 0.05, 0.26, 0.30, "cliff", 0.2, "cliff")
    terrain.fall(scene, x, horizon - 0.24, horizon + 0.045, 0.045)


def draw_ground(scene: Scene, wanted: frozenset[str], horizon: float, wet: bool) -> None:
    layout = scene.layout
    if "desert" in wanted:
        terrain.dunes(scene, horizon - 0.02)
        if wet:
            terrain.stream(scene, horizon + 0.12, 0.5 - 0.15 * layout.side, 0.24, 0.16, "water")
    elif wet:
        terrain.lake(scene, horizon, material="sea" if wanted & {"sea", "waves"} else "water")
        terrain.ripples(scene, horizon + 0.04, 1.0, 60 if wanted & {"sea", "waves"} else 30)
    else:
        terrain.land(scene, horizon)
    if wet:
        for name in ("river", "sea", "waves"):
            if name in wanted:
                scene.declare(name, 0, horizon, 1, 1)
    if wanted & {"stream", "spring"}:
        name = "spring" if "spring" in wanted else "stream"
        if not wet:
            edges = terrain.stream(scene, horizon + 0.03, layout.main_x, 0.17, 0.09 * layout.sway, name)
            terrain.banks(scene, edges)
            if name == "spring":
                terrain.rocks(scene, layout.main_x - 0.05, 0.86, 0.07, 2)
        for one in wanted & {"stream", "spring"}:
            if one not in scene.elements:
                scene.declare(one, 0.2, horizon, 0.8, 1)
    if wanted & {"meadow", "field"} and not wet:
        first = ridge(scene.chance.fork("meadow"), horizon + 0.10, 0.05, 1.5, 0.3)
        scene.fill("meadow", below(first, 1.03), strength=0.9)
        if "field" in wanted:
            rows = [
                path((0.5 + (k - 0.5) * 0.5, horizon + 0.10), (0.5 + (k - 0.5) * 1.7, 1.03))
                for k in (0, 0.17, 0.34, 0.5, 0.66, 0.83, 1)
            ]
            scene.line("grass", rows, 0.004, 0.012, strength=0.7)
    for name in ("meadow", "field"):
        if name in wanted:
            scene.declare(name, 0, horizon + 0.05, 1, 1)


def draw_middle(scene: Scene, wanted: frozenset[str], horizon: float, wet: bool, chance: Chance) -> None:
    """Buildings along the far shore or the foot of the hills."""
    layout = scene.layout
    places = [0.5 - 0.30 * layout.side, 0.5 + 0.06 * layout.side, 0.5 - 0.12 * layout.side, 0.5 + 0.3 * layout.side]
    free = Places(*((place + chance.normal(0.015), horizon + 0.02) for place in places))
    trees.grove(scene, horizon + 0.015, 8, 0.05, 0.32)
    for name in FAR:
        if name not in wanted:
            continue
        x, foot = free.take()
        if name == "pagoda":
            palaces.pagoda(scene, x, foot, 0.27, 7, 0.12)
        elif name == "temple":
            with scene.element("temple"):
                dwellings.house(scene, x - 0.07, foot, 0.10, 0.055, 0.15)
                palaces.pavilion(scene, x + 0.02, foot, 0.15, 0.12, storeys=2, name="temple hall")
        elif name == "city gate":
            stonework.gate_tower(scene, x, foot + 0.01, 0.26, 0.12)
        elif name == "palace":
            palaces.hall(scene, x, foot + 0.01, 0.32, 0.1)
        elif name == "great wall":
            edge = ridge(chance.fork("wall"), horizon - 0.02, 0.14, 1.6, 0.36)
            scene.fill("ground", below(edge, horizon + 0.03), into="ground_low", depth=0.25)
            stonework.great_wall(scene, edge, 0.022, [0.2, 0.52, 0.84], 0.18)
        elif name == "beacon tower":
            with scene.element("beacon tower"):
                stonework.watch_tower(scene, x, foot, 0.05, 0.12)
        elif name == "pavilion":
            palaces.pavilion(scene, x, foot + 0.02, 0.21, 0.06, storeys=2 if chance.chance(0.6) else 1)
        elif name == "yurt":
            with scene.element("yurt"):
                dwellings.yurt(scene, x, foot + 0.04, 0.14)
        else:
            dwellings.village(scene, x, foot + 0.012, 0.10, 3, 0.10, horse_head=chance.chance(0.4))
    if wanted & {"cottage", "gate", "window"}:
        x, y = 0.5 - 0.33 * layout.side, horizon + (0.17 if not wet else 0.07)
        size = 0.22 if not wet else 0.16
        dwellings.cottage(scene, x, y, size, 0.03)
        if "gate" in wanted:
            scene.declare("gate", x - size * 0.08, y - size * 0.3, x + size * 0.1, y)
        if "window" in wanted:
            scene.declare("window", x - size * 0.3, y - size * 0.28, x - size * 0.17, y - size * 0.14)
    if "smoke" in wanted:
        x = 0.5 - 0.1 * layout.side
        if "desert" in wanted:
            with scene.element("smoke"):
                scene.strokes(
                    "smoke", [Stroke(path((x, horizon + 0.05), (x, horizon - 0.28)), 0.008, 0.026)], strength=0.85
                )
        else:
            sky.smoke(scene, 0.5 - 0.30 * layout.side, horizon - 0.05, 0.16)
    if "dyke" in wanted:
        with scene.element("dyke"):
            terrain.islet(scene, 0.5 - 0.1 * layout.side, horizon + 0.075, 1.1)
    if "bridge" in wanted:
        span = 0.34 if wet else 0.36
        stonework.arch_bridge(
            scene,
            0.5 - 0.1 * layout.side if wet else layout.main_x,
            horizon + (0.14 if wet else 0.22),
            span,
            span * 0.33,
        )


def draw_on_water(scene: Scene, wanted: frozenset[str], horizon: float) -> None:
    layout = scene.layout
    depth = 1 - horizon
    free = Places(
        (0.5 - 0.18 * layout.side, horizon + 0.50 * depth), (0.5 + 0.16 * layout.side, horizon + 0.34 * depth),
        (0.5 - 0.36 * layout.side, horizon + 0.28 * depth), (0.5 - 0.30 * layout.side, horizon + 0.72 * depth),
    )  # fmt: skip
    if "sail" in wanted:
        boats.sail_boat(scene, 0.5 + 0.05 * layout.side, horizon + 0.09, 0.085, 0.15)
    if "fisherman" in wanted:
        boats.fisherman(scene, *free.take(), 0.13)
    if "dragon boat" in wanted:
        boats.dragon_boat(scene, *free.take(), 0.28)
    if "boatman" in wanted:
        x, y = free.take()
        boats.boat(scene, x, y, 0.12, awning=False)
        humans.person(scene, x - 0.02, y - 0.005, 0.12, robe="robe_blue", hat="straw", staff=True, name="boatman")
    if "boat" in wanted and "boat" not in scene.elements:
        boats.boat(scene, *free.take(), 0.12, lamp=scene.mood.light == "night")
    if wanted & {"lotus", "lotus leaf"}:
        chance = scene.chance.fork("lotus")
        with scene.element("lotus leaf"):
            for k in range(7):
                x = 0.5 - layout.side * (0.02 + 0.065 * k) + chance.normal(0.02)
                flowers.lotus_leaf(scene, x, 0.88 + 0.05 * (k % 3), 0.075 + 0.012 * (k % 3))
        if "lotus" in wanted:
            for k in range(3):
                flowers.lotus_flower(
                    scene, 0.5 - layout.side * (0.10 + 0.14 * k), 0.80 - 0.03 * (k % 2), 0.93, 0.075, bud=k == 1
                )
    if "ducks" in wanted:
        animals.ducks(scene, *free.take(), 0.045, 3)
    if "geese on water" in wanted:
        animals.ducks(scene, *free.take(), 0.06, 2, "geese on water")
    if "carp" in wanted:
        for k in range(2):
            animals.carp(scene, 0.5 - layout.side * (0.2 - 0.18 * k), 0.86 + 0.05 * k, 0.10, 0.4 - 0.9 * k)
    if "reeds" in wanted:
        grasses.reeds(scene, 0.5 - layout.side * 0.43, 1.0, 0.24, 16)
    if "river lantern" in wanted:
        for k in range(4):
            lanterns.river_lantern(scene, 0.2 + 0.2 * k, horizon + depth * (0.4 + 0.12 * (k % 3)))
    if "stone lantern" in wanted:
        with scene.element("stone lantern"):
            for k in range(3):
                lanterns.stone_lantern(scene, 0.3 + 0.13 * k, horizon + 0.16, 0.045)
