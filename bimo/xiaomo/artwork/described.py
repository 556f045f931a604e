"""Pictures of descriptions: a scene by procedure or a backdrop, and before it references of things where they are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from PIL import Image

from bimo.xiaomo.artwork.backdrops import backdrop, in_mood
from bimo.xiaomo.artwork.compose import on_colour, paste_at, paste_standing
from bimo.xiaomo.artwork.lexicon import DEFAULT_STYLE
from bimo.xiaomo.artwork.looks import LOOKS
from bimo.xiaomo.artwork.manners import APPLY
from bimo.xiaomo.artwork.references import dyed, reference
from bimo.xiaomo.captions.descriptions import Description, Group
from bimo.xiaomo.captions.drawn_things import indoors, views
from bimo.xiaomo.chance import Chance
from bimo.xiaomo.drawn.sprites import drawn
from bimo.xiaomo.drawn.vector import shaded
from bimo.xiaomo.scenes.description import Mood, Scene
from bimo.xiaomo.scenes.moods import IN_SEASON
from bimo.xiaomo.scenes.styles import STYLES, render
from bimo.xiaomo.scenes.subjects import SUBJECTS
from bimo.xiaomo.scenes.subjects.verse import verse_scene
from bimo.xiaomo.scenes.subjects.verse_background import draw_above

#: Across, the foot, and the long side of a square with things.
Spot = tuple[float, float, float]
#: The manner of a scene whose description names none: the one that references stand in best.
UNNAMED = "illustration"
#: The effect on things in a manner of scenes; without one they are as they are.
_EFFECTS: Mapping[str, str] = {
    "ink": "ink", "colour": "ink", "watercolour": "watercolour", "gongbi": "watercolour", "qinglu": "watercolour",
    "oil": "oil", "gogh": "oil",
}  # fmt: skip
_INDOORS = frozenset(("room", "table", "underwater", "space"))
_GROUND: Mapping[int, Sequence[Spot]] = {
    1: ((0.5, 0.93, 0.5),),
    2: ((0.3, 0.92, 0.40), (0.72, 0.94, 0.40)),
    3: ((0.22, 0.88, 0.32), (0.78, 0.88, 0.32), (0.5, 0.96, 0.34)),
    4: ((0.2, 0.84, 0.27), (0.74, 0.83, 0.27), (0.36, 0.97, 0.30), (0.82, 0.98, 0.28)),
    5: ((0.16, 0.82, 0.25), (0.5, 0.80, 0.25), (0.84, 0.82, 0.25), (0.32, 0.97, 0.28), (0.70, 0.97, 0.28)),
    6: (
        (0.16, 0.80, 0.24), (0.5, 0.78, 0.24), (0.84, 0.80, 0.24),
        (0.17, 0.98, 0.26), (0.5, 0.97, 0.26), (0.83, 0.98, 0.26),
    ),
}  # fmt: skip
_SKY: Sequence[Spot] = ((0.76, 0.28, 0.22), (0.24, 0.30, 0.22), (0.5, 0.24, 0.2), (0.9, 0.42, 0.16))
_FAR: Sequence[Spot] = ((0.76, 0.62, 0.22), (0.22, 0.62, 0.22), (0.5, 0.60, 0.2))
_AROUND: Sequence[tuple[Spot, ...]] = (
    ((0.12, 0.34, 0.2), (0.88, 0.34, 0.2)),
    ((0.14, 0.92, 0.2), (0.86, 0.92, 0.2)),
    ((0.1, 0.62, 0.16), (0.9, 0.62, 0.16)),
)
_SIDES: Mapping[str, float] = {"left": 0.24, "right": 0.76}
#: How far things at one element are apart.
_APART = 0.28
#: On white there is nothing else to see: larger than on the ground of a scene.
_ALONE: Spot = (0.5, 0.92, 0.84)


@dataclass(frozen=True)
class _Ground:
    """What is behind the things of a picture, RGB, and the boxes of its elements."""

    picture: Image.Image
    boxes: Mapping[str, Sequence[tuple[float, float, float, float]]]


def draw_description(description: Description, key: str, side: int) -> Image.Image:
    """The picture of a description, RGB, ``side`` pixels square; what it leaves open is taken from the key."""
    ground = _ground(description, key, side)
    canvas = ground.picture
    shadows = description.backdrop not in ("underwater", "space") and bool(
        description.backdrop or description.has_scene
    )
    for group, spots in _spots(description, ground.boxes):
        layer = _drawn(group, description.style, side)
        for across, foot, size in spots:
            paste_standing(canvas, layer, across, foot, size, shadows and foot > 0.55)
    whole = APPLY.get(description.style)
    if whole is not None and (description.style not in STYLES or not description.has_scene):
        return whole(canvas.convert("RGBA"))
    return canvas


def scene_of(description: Description, key: str) -> Scene | None:
    """The scene behind the things of a description, not yet painted; None for a backdrop or white."""
    chance, said = Chance(f"{key}/mood"), description.mood
    if description.subject:
        subject = SUBJECTS[description.subject]
        own = subject.draw_mood(chance)
        light = own.light if own.light != "night" or set(subject.lights) == {"night"} else "day"
        scene = subject.scene(key, _filled(said, replace(own, light=light)))
        draw_above(scene, frozenset(description.elements) - scene.elements.keys())
        return scene
    if not description.elements:
        return None
    season = next((IN_SEASON[name] for name in description.elements if name in IN_SEASON), "summer")
    mood = _filled(said, Mood(season, "day", "clear"))
    return verse_scene(key, description.elements, mood, company=False, without=frozenset(description.excluded))


def _filled(said: Mood, otherwise: Mood) -> Mood:
    return Mood(said.season or otherwise.season, said.light or otherwise.light, said.weather or otherwise.weather)


def _ground(description: Description, key: str, side: int) -> _Ground:
    scene = scene_of(description, key)
    if scene is not None:
        manner = description.style if description.style in STYLES else UNNAMED
        return _Ground(render(scene, STYLES[manner], side).convert("RGB"), dict(scene.elements))
    if not description.backdrop:
        return _Ground(Image.new("RGB", (side, side), (255, 255, 255)), {})
    if description.backdrop in views():
        picture = on_colour(shaded(drawn(description.backdrop)).render(side))
    else:
        picture = backdrop(description.backdrop, side).copy()
    if description.backdrop not in _INDOORS | indoors():
        picture = in_mood(picture, description.mood, Chance(f"{key}/weather"))
    return _Ground(picture, {})


def _drawn(group: Group, style: str, side: int) -> Image.Image:
    """The things of a group in their square, RGBA."""
    layer = Image.new("RGBA", (side, side))
    for thing in group.things:
        image = reference(thing.kind, style if style in LOOKS else DEFAULT_STYLE, side)
        paste_at(layer, dyed(image, thing.colour) if thing.colour else image, *thing.box)
    effect = _EFFECTS.get(style, "")
    if not effect:
        return layer
    painted = APPLY[effect](layer).convert("RGBA")
    painted.putalpha(layer.getchannel("A"))
    return painted


def _spots(
    description: Description, boxes: Mapping[str, Sequence[tuple[float, float, float, float]]]
) -> list[tuple[Group, Sequence[Spot]]]:
    """Where each group stands, from back to front."""
    taken = {"sky": 0, "far": 0, "around": 0}
    lists: Mapping[str, Sequence[Spot]] = {"sky": _SKY, "far": _FAR}
    found: list[tuple[Group, Sequence[Spot]]] = []
    standing: list[Group] = []
    held: Counter[str] = Counter()
    for group in description.groups:
        anchored = _at_element(group, boxes, held[group.element])
        held[group.element] += anchored is not None
        if group.zone in lists:
            spots = (lists[group.zone][taken[group.zone] % len(lists[group.zone])],)
        elif group.zone == "around":
            spots = _AROUND[taken["around"] % len(_AROUND)]
        elif anchored is not None:
            spots = (anchored,)
        else:
            standing.append(group)
            continue
        if group.zone in taken:
            taken[group.zone] += 1
        found.append((group, spots))
    if len(description.groups) == 1 and standing and not (description.backdrop or description.has_scene):
        return [(standing[0], (_ALONE,))]
    places = _GROUND.get(len(standing), _GROUND[6])
    for group, (across, foot, size) in zip(standing, places, strict=False):
        found.append((group, ((_SIDES.get(group.zone, across), foot, size),)))
    order = {id(group): number for number, group in enumerate(description.groups)}
    return sorted(found, key=lambda one: (one[1][0][1], order[id(one[0])]))


def _at_element(
    group: Group, boxes: Mapping[str, Sequence[tuple[float, float, float, float]]], others: int
) -> Spot | None:
    """At an element of the scene that is no wide piece of country, beside ``others`` that are there."""
    if not group.element or group.zone or group.element not in boxes:
        return None
    left, top, right, bottom = boxes[group.element][0]
    if right - left > 0.75 or bottom - top > 0.75:
        return None
    across = min(0.82, max(0.18, (left + right) / 2))
    across += others * (_APART if across < 0.5 else -_APART)
    if group.side == "on":
        return across, max(0.24, min(0.94, top + 0.3 * (bottom - top))), 0.24
    return across, max(0.55, min(0.97, bottom + 0.03)), 0.28
