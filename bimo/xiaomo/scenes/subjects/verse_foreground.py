"""The foreground of a verse's scene: trees, people, animals and objects on the ground."""

from __future__ import annotations

from collections.abc import Callable

from bimo.xiaomo.scenes.description import Mood, Scene
from bimo.xiaomo.scenes.elements import (
    animals,
    dwellings,
    flowers,
    grasses,
    humans,
    lanterns,
    sky,
    still_life,
    terrain,
    trees,
)
from bimo.xiaomo.scenes.geometry import Path, path, smooth
from bimo.xiaomo.scenes.subjects.verse_elements import (
    FIGURES,
    TREE_KIND,
    TREES,
    WATERY,
    Places,
)


def draw_foreground(scene: Scene, wanted: frozenset[str], bank_at: Callable[[float], float]) -> None:
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
    _draw_near_trees(scene, wanted, bank_at)
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
    _draw_figures(scene, wanted, bank_at)
    if "flowers" in wanted:
        flowers.flowers(scene, min(0.94, bank_at(0.5) - 0.02), 1.01, 60)
    if "chrysanthemum" in wanted:
        flowers.chrysanthemums(scene, 0.5 - 0.24 * side, 1.02, 0.30, 4)
    if "orchid" in wanted:
        flowers.orchid(scene, 0.5 - 0.28 * side, 0.99, 0.26)


def _draw_near_trees(scene: Scene, wanted: frozenset[str], bank_at: Callable[[float], float]) -> None:
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
                tips = trees.tree(scene, x, foot, size, _tree_kind(name, scene.mood), 0.05 * side)
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


def _tree_kind(name: str, mood: Mood) -> str:
    """The kind of tree to draw: a named kind keeps its leaves, an unspecified tree is bare in snow."""
    return "bare" if name == "tree" and mood.white else TREE_KIND[name]


def _draw_figures(scene: Scene, wanted: frozenset[str], bank_at: Callable[[float], float]) -> None:
    side = scene.layout.side
    spots = (0.06, 0.24, -0.14, 0.36)
    if wanted & {"stream", "spring"} and not wanted & WATERY:  # beside the stream, not in it
        middle = (scene.layout.main_x - 0.5) * side
        spots = (middle + 0.22, middle - 0.24, middle + 0.36, middle - 0.38)
    free = Places(*((0.5 + k * side, bank_at(0.5 + k * side)) for k in spots))
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
        elif name == "snowman":
            x, y = free.take()
            still_life.snowman(scene, x, y, 0.34)
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
