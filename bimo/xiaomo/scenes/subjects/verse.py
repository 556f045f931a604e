"""A scene for a verse: a landscape with all elements that the verse names.

Each element has a zone: the sky, the far shore or hills, the middle with buildings and boats, the foreground with trees
and people. Elements of a zone are distributed over its free places.
"""

from __future__ import annotations

from collections.abc import Iterable, Set

from bimo.xiaomo.chance import Chance
from bimo.xiaomo.scenes.description import Mood, Scene, draw_layout
from bimo.xiaomo.scenes.elements import sky as air
from bimo.xiaomo.scenes.elements import (
    terrain,
)
from bimo.xiaomo.scenes.geometry import height_at
from bimo.xiaomo.scenes.subjects.verse_background import (
    draw_far_fall,
    draw_ground,
    draw_middle,
    draw_on_water,
    draw_sky,
)
from bimo.xiaomo.scenes.subjects.verse_elements import (
    FAR,
    FIGURES,
    SEASON_TREES,
    SKY_BIRDS,
    SUPPORTED,
    TREES,
    WATERY,
)
from bimo.xiaomo.scenes.subjects.verse_foreground import draw_foreground

RANGES = {"horizon": (0.48, 0.56), "main_y": (0.72, 0.80), "light_y": (0.11, 0.2)}


def verse_scene(
    key: str, wanted: Iterable[str], mood: Mood, company: bool = True, without: Set[str] = frozenset()
) -> Scene:
    """A scene with at least those of the ``wanted`` elements that are supported, derived from the key; with others as
    ``company`` where they are few, but never those of ``without``.
    """
    chance = Chance(key)
    scene = Scene(chance, _suited(mood, frozenset(wanted)), draw_layout(chance.fork("layout"), RANGES))
    named = frozenset(wanted) & SUPPORTED
    more = _company(named, scene.mood, chance.fork("company")) if company else frozenset[str]()
    _compose(scene, (named | more) - without, without)
    if "mist" in wanted and scene.mood.weather != "mist":
        air.mist(scene, scene.layout.horizon + 0.02, 0.09, 0.5, 4)
        scene.declare("mist", 0, scene.layout.horizon - 0.1, 1, scene.layout.horizon + 0.1)
    air.weather(scene)
    return scene


def _suited(mood: Mood, wanted: frozenset[str]) -> Mood:
    """A mood in which the wanted elements are visible: moon and stars at night, the sun by day, snow in winter."""
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


def _company(named: frozenset[str], mood: Mood, chance: Chance) -> frozenset[str]:
    """Further elements for a verse that names few, so that the scene is not empty."""
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


def _compose(scene: Scene, wanted: frozenset[str], without: Set[str]) -> None:
    layout, chance = scene.layout, scene.chance.fork("verse")
    horizon, wet = layout.horizon, bool(wanted & WATERY)
    draw_sky(scene, wanted, horizon, without)
    if "mountain" in wanted or "waterfall" in wanted or not wanted & {"sea", "desert"}:
        tall = 1.1 if "mountain" in wanted else 0.75
        terrain.mountains(scene, horizon, layout.height * tall, 4 if "mountain" in wanted else 3)
    if "peak" in wanted:
        terrain.peak(scene, 0.5 - 0.25 * layout.side, horizon + 0.03, 0.3, layout.height * 1.2, "pillar", 0.3)
    if "waterfall" in wanted:
        draw_far_fall(scene, horizon)
    draw_ground(scene, wanted, horizon, wet)
    draw_middle(scene, wanted, horizon, wet, chance)
    if wet:
        draw_on_water(scene, wanted, horizon)
        edge = terrain.hill(scene, 0.5 + layout.side * 0.32, 1.04, 1.15, 0.17, name="bank")

        def bank_at(x: float) -> float:
            return min(0.985, height_at(edge, x) + 0.05)
    else:

        def bank_at(x: float) -> float:
            return 0.93

    draw_foreground(scene, wanted, bank_at)


def room_for(wanted: Iterable[str]) -> bool:
    """Whether all wanted elements are supported, and not too many for a picture."""
    named = set(wanted)
    if {"rain", "snow"} <= named or {"sea", "desert"} <= named:
        return False
    return named <= SUPPORTED and len(named & set(TREES)) <= 3 and len(named & set(FAR)) <= 4 and len(named) <= 7
