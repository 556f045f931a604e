"""Plans of dish pictures: dish, vessel, style and layout, derived from a key."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields

from PIL import Image

from bimo.xiaomo.chance import Chance
from bimo.xiaomo.dishes.accompaniments import chopsticks, steam
from bimo.xiaomo.dishes.arrange import LAYS
from bimo.xiaomo.dishes.naming import dish_named
from bimo.xiaomo.dishes.serving import Serving
from bimo.xiaomo.dishes.table import RGB, dishes
from bimo.xiaomo.dishes.vessels import VESSELS, Stand
from bimo.xiaomo.heldout import held_out_dish
from bimo.xiaomo.scenes.description import Layout, Mood, Scene
from bimo.xiaomo.scenes.geometry import Path, ellipse, path, smooth
from bimo.xiaomo.scenes.styles import STYLES, render

#: The styles of dishes; illustration is the most frequent one.
MANNERS: tuple[str, ...] = ("illustration", "watercolour", "oil", "colour", "gongbi", "gogh", "ink", "papercut")
USUAL = 6  # of ten dishes so many are in the first style
TABLES: tuple[tuple[str, RGB], ...] = (
    ("wood", (188, 138, 90)), ("wood", (126, 82, 54)), ("cloth", (222, 212, 192)), ("cloth", (176, 58, 48)),
    ("cloth", (108, 138, 120)), ("cloth", (92, 112, 146)), ("slate", (84, 86, 90)), ("cloth", (240, 236, 228)),
)  # fmt: skip


@dataclass(frozen=True)
class DishLayout:
    """Layout of a dish: `x`, `y` and `size` of the vessel as fractions of the side; `tilt`, 1 is from above; `turn` of
    the food in radians; `heap`, its height 0..1; `table`, the number of the table's surface.
    """

    x: float
    y: float
    size: float
    tilt: float
    turn: float
    heap: float
    table: int

    def as_list(self) -> list[float]:
        """The numbers in the order of the fields."""
        return [round(float(getattr(self, one.name)), 4) for one in fields(self)]


@dataclass(frozen=True)
class DishPlan:
    """The plan of one picture; ``without``: words for what does not lie in it."""

    key: str
    dish: str
    vessel: str
    style: str
    without: tuple[str, ...] = ()


@dataclass(frozen=True)
class DrawnDish:
    """A picture, its layout, the boxes of its elements, and whether it steams."""

    image: Image.Image
    layout: DishLayout
    elements: dict[str, list[tuple[float, float, float, float]]]


def vessels_of(name: str) -> list[str]:
    """The vessels for training pictures of a dish: its usual one, and others that are not held out."""
    usual, *others = dishes()[name].vessels
    return [usual, *(vessel for vessel in others if not held_out_dish(name, vessel))]


def plan_dishes(count: int, seed: int = 0) -> Iterator[DishPlan]:
    """`count` plans: every dish in turn, reshuffled in each round."""
    names, made, turn = list(dishes()), 0, 0
    while made < count:
        chance = Chance(f"dishes/{seed}/{turn}")
        order = list(names)
        for place in range(len(order) - 1, 0, -1):
            other = chance.integer(0, place)
            order[place], order[other] = order[other], order[place]
        for name in order[: count - made]:
            own = Chance(f"dish-{seed}-{made:06d}/plan")
            style = MANNERS[0] if own.integer(1, 10) <= USUAL else own.pick(MANNERS[1:])
            yield DishPlan(f"dish-{seed}-{made:06d}", name, own.pick(vessels_of(name)), style)
            made += 1
        turn += 1


#: Table surfaces for styles of thin paint, which need a pale background.
PALE_TABLES = {"ink": (2, 7), "colour": (0, 2, 7), "gongbi": (0, 2, 7)}


def draw_layout(chance: Chance, vessel: str, style: str) -> DishLayout:
    """A random layout; long plates are smaller, so that they fit."""
    size = chance.uniform(0.39, 0.46) if vessel not in ("长盘", "鱼盘", "木板") else chance.uniform(0.37, 0.415)
    return DishLayout(
        x=round(chance.uniform(0.46, 0.54), 4),
        y=round(chance.uniform(0.49, 0.56), 4),
        size=round(size, 4),
        tilt=round(chance.uniform(0.58, 0.90), 4),
        turn=round(chance.uniform(0, math.tau), 4),
        heap=round(chance.uniform(), 4),
        table=chance.pick(PALE_TABLES.get(style, tuple(range(len(TABLES))))),
    )


def _table(scene: Scene, layout: DishLayout) -> None:
    kind, tint = TABLES[layout.table]
    chance = scene.chance.fork("table")
    scene.fill("cloth", scene.whole, tint=tint, rough=0.0)
    dark = (round(tint[0] * 0.82), round(tint[1] * 0.82), round(tint[2] * 0.82))
    if kind == "wood":
        grain: list[Path] = []
        for k in range(22):
            y = (k + chance.uniform()) / 22
            grain.append(
                smooth([(-0.02, y), (0.3, y + chance.normal(0.008)), (0.7, y + chance.normal(0.008)), (1.02, y)], 16)
            )
        scene.line("cloth_line", grain, 0.003, tint=dark, strength=0.6, rough=0.3)
        scene.line("cloth_line", [path((-0.02, y), (1.02, y)) for y in (0.24, 0.52, 0.8)], 0.005, tint=dark, rough=0.1)
    elif kind == "cloth":
        lines = [path((k, -0.02), (k, 1.02)) for k in (0.06, 0.085, 0.915, 0.94)]
        lines += [path((-0.02, k), (1.02, k)) for k in (0.06, 0.085, 0.915, 0.94)]
        scene.line("cloth_line", lines, 0.006, tint=dark, strength=0.8, rough=0.0)


def _beside(scene: Scene, layout: DishLayout) -> None:
    """Objects next to the vessel: chopsticks, a small dish, a cup of tea."""
    chance = scene.chance.fork("beside")
    if chance.chance(0.45):
        chopsticks(scene, 0.5, min(0.965, layout.y + layout.size * layout.tilt + 0.10), 0.62, chance.normal(0.05))
    if chance.chance(0.3):
        x, y = (0.88 if chance.chance(0.5) else 0.12), 0.13
        with scene.element("small dish"):
            scene.fill("shadow", ellipse(x + 0.01, y + 0.02, 0.085, 0.065, 24), strength=0.5, soft=2.5)
            scene.fill("ware", ellipse(x, y, 0.085, 0.065, 28), tint=(246, 244, 238), rough=0.0)
            scene.fill(
                "broth",
                ellipse(x, y + 0.004, 0.06, 0.044, 24),
                tint=chance.pick(((74, 36, 20), (150, 40, 24), (196, 150, 60))),
                rough=0.0,
            )


def draw_dish(plan: DishPlan, side: int = 256) -> DrawnDish:
    """Draws a plan, deterministically for a plan and side in pixels."""
    scene, layout = dish_scene(plan)
    return DrawnDish(render(scene, STYLES[plan.style], side), layout, dict(scene.elements))


def dish_scene(plan: DishPlan) -> tuple[Scene, DishLayout]:
    """The shapes of a plan before they are rendered, and their layout."""
    chance, dish = Chance(plan.key), dish_named(plan.dish).without(plan.without)
    layout = draw_layout(chance.fork("layout"), plan.vessel, plan.style)
    scene = Scene(chance, Mood(), Layout(light_x=0.2, light_y=0.1))
    _table(scene, layout)
    _beside(scene, layout)
    stand = Stand(layout.x, layout.y, layout.size, layout.tilt)
    with scene.element(plan.vessel):
        surface = VESSELS[plan.vessel].draw(scene, stand)
    LAYS[dish.lay](Serving(scene, chance.fork("food"), dish, surface, layout.heap, layout.turn))
    if dish.steam and chance.fork("steam").chance(0.6):
        steam(scene, surface, chance.fork("wisps"))
    return scene, layout


def table_kind(layout: DishLayout) -> str:
    """The material of the table: wood, cloth or slate."""
    return TABLES[layout.table][0]
