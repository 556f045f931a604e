"""A scene for words: a landscape that holds whatever elements a verse names.

Elements have their places: the sky, the far shore or hills, the middle with buildings and boats, the foreground with
trees and people. What is wanted twice for one place goes to the next free one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from bimo.xiaomo.chance import Chance
from bimo.xiaomo.scenes.description import Mood, Scene, Stroke, draw_layout
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
    still_life,
    stonework,
    terrain,
    trees,
)
from bimo.xiaomo.scenes.elements import sky as air
from bimo.xiaomo.scenes.geometry import Path, below, height_at, path, ridge, smooth

WATERY = frozenset({
    "water", "river", "sea", "waves", "boat", "sail", "fisherman", "boatman", "lotus", "lotus leaf", "ducks", "carp",
    "geese on water", "reeds", "dyke", "dragon boat", "river lantern", "stone lantern",
})  # fmt: skip
SKY_BIRDS = ("geese", "egret", "crane", "crow", "swallow", "eagle")
FAR = ("pagoda", "temple", "city gate", "palace", "great wall", "beacon tower", "pavilion", "houses", "yurt")
TREES = (
    "willow", "pine", "peach blossom", "maple", "plum blossom", "bamboo", "tree", "bare tree", "ginkgo", "osmanthus",
)  # fmt: skip
FIGURES = (
    "person", "traveller", "poet", "scholar", "monk", "child", "farmer", "herd boy", "ox", "horse", "rider", "sheep",
    "camel", "wine", "table", "rabbit",
)  # fmt: skip
FLAT = ("path", "grass", "meadow", "field", "flowers", "rock", "fence", "chrysanthemum", "orchid", "wine flag")
#: Everything that a verse may name and that `compose` can put into a picture.
SUPPORTED: frozenset[str] = WATERY | {
    "moon", "sun", "stars", "cloud", "mist", "rain", "snow", "smoke", "bird", "kite", "firework", "sky lantern",
    "mountain", "peak", "cliff", "hill", "stream", "spring", "waterfall", "desert", "vine", "cottage", "bridge", "gate",
    "window", "lantern", "terrace rail", *SKY_BIRDS, *FAR, *TREES, *FIGURES, *FLAT,
}  # fmt: skip
RANGES = {"horizon": (0.48, 0.56), "main_y": (0.72, 0.80), "light_y": (0.11, 0.2)}
TREE_KIND = {
    "willow": "willow", "peach blossom": "peach", "maple": "maple", "tree": "leafy", "bare tree": "bare",
    "ginkgo": "ginkgo", "osmanthus": "ginkgo",
}  # fmt: skip


def verse_scene(key: str, wanted: Iterable[str], mood: Mood) -> Scene:
    """A scene with at least the wanted elements, of those that are supported; all chance from the key."""
    chance = Chance(key)
    scene = Scene(chance, _suited(mood, frozenset(wanted)), draw_layout(chance.fork("layout"), RANGES))
    named = frozenset(wanted) & SUPPORTED
    _compose(scene, named | _company(named, scene.mood, chance.fork("company")))
    if "mist" in wanted and scene.mood.weather != "mist":
        air.mist(scene, scene.layout.horizon + 0.02, 0.09, 0.5, 4)
        scene.declare("mist", 0, scene.layout.horizon - 0.1, 1, scene.layout.horizon + 0.1)
    air.weather(scene)
    return scene


def _suited(mood: Mood, wanted: frozenset[str]) -> Mood:
    """A mood in which what is wanted can be seen: the moon and stars by night, the sun by day, snow when it falls."""
    season, light, weather = mood.season, mood.light, mood.weather
    if "snow" in wanted:
        season, weather = "winter", "snow"
    elif "rain" in wanted:
        season, weather = ("autumn" if season == "winter" else season), "rain"
    elif "mist" in wanted:
        weather = "mist"
    elif weather == "snow" and season != "winter":
        weather = "clear"
    if wanted & {"stars", "firework", "sky lantern", "moon"} and "sun" not in wanted:
        light = "night"
    elif "sun" in wanted and light == "night":
        light = "dusk"
    return Mood(season, light, weather)


SEASON_TREES = {
    "spring": ("willow", "peach blossom"),
    "summer": ("willow", "tree", "pine"),
    "autumn": ("maple", "ginkgo", "pine"),
    "winter": ("bare tree", "pine", "plum blossom"),
}


def _company(named: frozenset[str], mood: Mood, chance: Chance) -> frozenset[str]:
    """What a painter would add, so that a verse that names little is still a picture; it is declared like the rest."""
    more: set[str] = set()
    wet, day = bool(named & WATERY), mood.light != "night" and mood.weather == "clear"
    if not named & {"desert", "sea"}:
        if not named & set(TREES) and chance.chance(0.8):
            more.add(chance.pick(SEASON_TREES[mood.season]))
        if not named & {*FAR, "cottage", "gate", "window"} and chance.chance(0.6):
            more.add(chance.pick(("houses", "houses", "pavilion", "pagoda", "cottage")))
        if not wet and not named & {"stream", "spring", "path", "meadow", "field"} and chance.chance(0.7):
            more.add(chance.pick(("stream", "path")))
    if wet and not named & {"boat", "sail", "fisherman", "boatman"} and chance.chance(0.55):
        more.add(chance.pick(("boat", "boat", "fisherman") if "sea" not in named else ("sail",)))
    if not named & set(FIGURES) and chance.chance(0.5):
        more.add("person")
    if day and not named & {*SKY_BIRDS, "bird"} and chance.chance(0.35):
        more.add({"spring": "swallow", "autumn": "geese"}.get(mood.season, "egret"))
    if "stream" in more and chance.chance(0.5):
        more.add("bridge")
    return frozenset(more)


class _Places:
    """Places of one kind, each given away once; when none is left the last is shared."""

    def __init__(self, *places: tuple[float, float]) -> None:
        self._free = list(places)

    def take(self) -> tuple[float, float]:
        """The next free place."""
        return self._free.pop(0) if len(self._free) > 1 else self._free[0]


def _compose(scene: Scene, wanted: frozenset[str]) -> None:
    layout, chance = scene.layout, scene.chance.fork("verse")
    horizon, wet = layout.horizon, bool(wanted & WATERY)
    _sky(scene, wanted, horizon)
    if "mountain" in wanted or "waterfall" in wanted or not wanted & {"sea", "desert"}:
        tall = 1.1 if "mountain" in wanted else 0.75
        terrain.mountains(scene, horizon, layout.height * tall, 4 if "mountain" in wanted else 3)
    if "peak" in wanted:
        terrain.peak(scene, 0.5 - 0.25 * layout.side, horizon + 0.03, 0.3, layout.height * 1.2, "pillar", 0.3)
    if "waterfall" in wanted:
        _far_fall(scene, horizon)
    _ground(scene, wanted, horizon, wet)
    _middle(scene, wanted, horizon, wet, chance)
    if wet:
        _on_water(scene, wanted, horizon)
        edge = terrain.hill(scene, 0.5 + layout.side * 0.32, 1.04, 1.15, 0.17, name="bank")

        def bank_at(x: float) -> float:
            return min(0.985, height_at(edge, x) + 0.05)
    else:

        def bank_at(x: float) -> float:
            return 0.93

    _foreground(scene, wanted, bank_at)


def _sky(scene: Scene, wanted: frozenset[str], horizon: float) -> None:
    layout, mood = scene.layout, scene.mood
    sky.sky(scene, horizon + 0.01, dust="desert" in wanted and mood.light != "night")
    if "stars" in wanted or (mood.light == "night" and mood.weather == "clear"):
        sky.stars(scene, 30 if "stars" in wanted else 16, 0.4)
    if "sun" in wanted:
        low = mood.light in ("dusk", "dawn")
        sky.sun(scene, None, horizon - 0.1 if low else None, layout.light_size * (1.15 if low else 1.0))
    if "moon" in wanted:
        aside = "sun" in wanted
        sky.moon(scene, 1 - layout.light_x if aside else None, None, layout.light_size * 1.1)
    elif "sun" not in wanted and mood.weather == "clear" and mood.light in ("dawn", "dusk"):
        sky.sun(scene)
    if "cloud" in wanted:
        sky.clouds(scene, 4, 0.10, horizon - 0.14, 0.13)
    free = _Places(
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


def _far_fall(scene: Scene, horizon: float) -> None:
    x = 0.5 - 0.2 * scene.layout.side
    terrain.peak(scene, x - 0.13, horizon + 0.05, 0.28, 0.34, "cliff", 0.25, "cliff")
    terrain.peak(scene, x + 0.13, horizon + 0.05, 0.26, 0.30, "cliff", 0.2, "cliff")
    terrain.fall(scene, x, horizon - 0.24, horizon + 0.045, 0.045)


def _ground(scene: Scene, wanted: frozenset[str], horizon: float, wet: bool) -> None:
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


def _middle(scene: Scene, wanted: frozenset[str], horizon: float, wet: bool, chance: Chance) -> None:
    """Buildings along the far shore or the foot of the hills."""
    layout = scene.layout
    places = [0.5 - 0.30 * layout.side, 0.5 + 0.06 * layout.side, 0.5 - 0.12 * layout.side, 0.5 + 0.3 * layout.side]
    free = _Places(*((place + chance.normal(0.015), horizon + 0.02) for place in places))
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


def _on_water(scene: Scene, wanted: frozenset[str], horizon: float) -> None:
    layout = scene.layout
    depth = 1 - horizon
    free = _Places(
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


def _foreground(scene: Scene, wanted: frozenset[str], bank_at: Callable[[float], float]) -> None:
    layout = scene.layout
    side = layout.side
    if "path" in wanted:
        terrain.lane(
            scene,
            0.5 + 0.12 * side,
            min(0.9, bank_at(0.5 + 0.12 * side)) - (0.0 if wanted & WATERY else 0.32),
            0.14,
            -0.12 * side,
        )
    if wanted & {"grass", "meadow", "field"}:
        with scene.element("grass"):
            terrain.tufts(scene, bank_at(0.5) + 0.01 if wanted & WATERY else layout.horizon + 0.08, 1.03, 90)
    if "rock" in wanted:
        terrain.rocks(scene, 0.5 + 0.16 * side, bank_at(0.5 + 0.16 * side) + 0.04, 0.10)
    if "fence" in wanted:
        dwellings.fence(scene, 0.5 - 0.05 * side, bank_at(0.5) + 0.02, 0.5)
    if "hill" in wanted and "hill" not in scene.elements:
        terrain.hill(scene, 0.5 - 0.3 * side, layout.horizon + 0.04, 0.4, 0.09, 0.2)
    if "cliff" in wanted and "cliff" not in scene.elements:
        terrain.peak(scene, 0.5 + side * 0.42, 1.06, 0.42, 0.34, "cliff", 0.0, "cliff")
    _near_trees(scene, wanted, bank_at)
    if "wine flag" in wanted:
        x, y = 0.5 + 0.02 * side, layout.horizon + 0.06
        with scene.element("wine flag"):
            scene.line("dark_wood", [path((x, y), (x, y - 0.18))], 0.005, rough=0.1)
            scene.fill(
                "paper_red",
                path((x, y - 0.18), (x + 0.055, y - 0.175), (x + 0.05, y - 0.11), (x, y - 0.105)),
                rough=0.3,
            )
    if "terrace rail" in wanted:
        y = 0.97
        with scene.element("terrace rail"):
            scene.line("marble", [path((k / 8, y), (k / 8, y - 0.085)) for k in range(9)], 0.018, rough=0.1)
            scene.line(
                "marble",
                [path((-0.02, y - 0.075), (1.02, y - 0.075)), path((-0.02, y - 0.035), (1.02, y - 0.035))],
                0.012,
                rough=0.1,
            )
    if "lantern" in wanted:
        with scene.element("lantern"):
            if "boat" in scene.elements:
                left, top, right, _ = scene.elements["boat"][-1]
                lanterns.lantern(scene, (left + right) / 2, top - 0.02, 0.045)
            lanterns.lantern(scene, 0.5 - 0.40 * side, 0.20, 0.08, 0.16)
    _figures(scene, wanted, bank_at)
    if "flowers" in wanted:
        flowers.flowers(scene, min(0.94, bank_at(0.5) - 0.02), 1.01, 60)
    if "chrysanthemum" in wanted:
        flowers.chrysanthemums(scene, 0.5 - 0.24 * side, 1.02, 0.30, 4)
    if "orchid" in wanted:
        flowers.orchid(scene, 0.5 - 0.28 * side, 0.99, 0.26)


def _near_trees(scene: Scene, wanted: frozenset[str], bank_at: Callable[[float], float]) -> None:
    side = scene.layout.side
    sizes = [0.72, 0.46, 0.36]
    places = [0.5 + side * 0.43, 0.5 + side * 0.20, 0.5 - side * 0.42]
    number, tips = 0, [(0.5 + side * 0.3, 0.4)]
    for name in TREES:
        if name not in wanted:
            continue
        x, size = places[min(number, 2)], sizes[min(number, 2)]
        foot = 1.01 if number == 0 else min(0.99, bank_at(x))
        if name == "pine":
            trees.pine(scene, x + 0.05 * side, foot, size * 0.86, -side)
        elif name == "bamboo":
            with scene.element("bamboo"):
                for k in range(4):
                    grasses.bamboo_stalk(
                        scene,
                        x + 0.035 * (k - 1.5),
                        foot,
                        foot - size * (1.0 + 0.12 * (k % 2)),
                        0.018,
                        -0.07 * side,
                        0.0,
                    )
        elif name == "plum blossom":
            flowers.plum_branch(scene, x + 0.12 * side, foot, size * 1.1, -side)
        else:
            with scene.element(name):
                tips = trees.tree(scene, x, foot, size, _grown(name, scene.mood), 0.05 * side)
        number += 1
    if "vine" in wanted:
        chance = scene.chance.fork("vines")
        if number == 0:
            tips = trees.tree(scene, places[0], 1.01, sizes[0], "bare", 0.1 * side)
        vines: list[Path] = []
        for k in range(12):
            x, y = tips[(k * 5) % len(tips)]
            long = chance.uniform(0.1, 0.24)
            vines.append(
                smooth(
                    [(x, y), (x + chance.normal(0.015), y + long * 0.5), (x + 0.03 * scene.layout.sway, y + long)], 12
                )
            )
        with scene.element("vine"):
            scene.line("bark", vines, 0.0045, 0.002)
    if "bird" in wanted:
        perches = [tips[k % len(tips)] for k in (2, 7)] if number else [(0.5 - 0.1 * side, 0.3), (0.5, 0.36)]
        held = [(min(0.94, max(0.06, x)), min(0.88, max(0.10, y))) for x, y in perches]
        sky.small_birds(scene, [(x, y - 0.02) for x, y in held], 0.042)


def _grown(name: str, mood: Mood) -> str:
    """The kind that is drawn: what is named keeps its leaves, but a tree in winter is bare."""
    return "bare" if name == "tree" and mood.white else TREE_KIND[name]


def _figures(scene: Scene, wanted: frozenset[str], bank_at: Callable[[float], float]) -> None:
    side = scene.layout.side
    spots = (0.06, 0.24, -0.14, 0.36)
    if wanted & {"stream", "spring"} and not wanted & WATERY:  # beside the stream, not in it
        middle = (scene.layout.main_x - 0.5) * side
        spots = (middle + 0.22, middle - 0.24, middle + 0.36, middle - 0.38)
    free = _Places(*((0.5 + k * side, bank_at(0.5 + k * side)) for k in spots))
    robes = {
        "person": "robe_blue",
        "traveller": "robe_blue",
        "poet": "robe",
        "scholar": "robe",
        "monk": "robe_red",
        "child": "robe_red",
        "farmer": "robe_blue",
    }
    night = scene.mood.light == "night"
    for name in FIGURES:
        if name not in wanted or name in scene.elements:
            continue
        if name in ("herd boy",):
            animals.herd_boy(scene, *free.take(), 0.21)
        elif name == "ox":
            animals.ox(scene, *free.take(), 0.20)
        elif name in ("horse", "rider"):
            x, y = free.take()
            animals.horse(
                scene, x, y, 0.24, rider="robe_blue" if "rider" in wanted or wanted & {"traveller", "person"} else ""
            )
        elif name == "sheep":
            animals.sheep(scene, *free.take(), 0.065, 6)
        elif name == "camel":
            x, y = free.take()
            animals.caravan(scene, x, y, 0.15, 3)
        elif name == "rabbit":
            animals.rabbit(scene, *free.take(), 0.12)
        elif name in ("wine", "table"):
            x, y = free.take()
            still_life.wine_table(scene, x, y - 0.02, 0.24)
        else:
            x, y = free.take()
            height = 0.16 if name == "child" else 0.23
            robe = robes[name] if not (night and robes[name] == "robe") else "robe_blue"
            rain = scene.mood.weather == "rain" and name in ("person", "traveller")
            hat = "straw" if name in ("farmer", "monk") else "scholar" if name in ("poet", "scholar") else ""
            humans.person(
                scene,
                x,
                y,
                height,
                robe=robe,
                hat=hat,
                umbrella=rain,
                staff=name in ("traveller", "monk") and not rain,
                name=name,
            )


def room_for(wanted: Iterable[str]) -> bool:
    """Whether all that is wanted is supported, and no more than a picture holds."""
    named = set(wanted)
    if {"rain", "snow"} <= named or {"sea", "desert"} <= named:
        return False
    return named <= SUPPORTED and len(named & set(TREES)) <= 3 and len(named & set(FAR)) <= 4 and len(named) <= 7
