"""Where the elements of a picture may stand that a prompt asks for: by the procedures that draw scenes and dishes.

What a prompt leaves open is taken from the key, so another key is another layout. Nothing is painted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from bimo.prompts.negation import negation
from bimo.prompts.normalise import normal
from bimo.xiaomo.artwork.compositions import idioms
from bimo.xiaomo.captions.asked import FEWEST, asked, scenic, without_name
from bimo.xiaomo.captions.lexicon import elements_of, mood_of
from bimo.xiaomo.chance import Chance
from bimo.xiaomo.dishes.naming import dish_named
from bimo.xiaomo.dishes.plan import DishPlan, dish_scene
from bimo.xiaomo.scenes.description import SEASONS, Mood, Scene
from bimo.xiaomo.scenes.moods import IN_SEASON
from bimo.xiaomo.scenes.subjects import SUBJECTS, stamp
from bimo.xiaomo.scenes.subjects.verse import room_for, verse_scene

Boxes = Mapping[str, list[tuple[float, float, float, float]]]


def planned_boxes(text: str, key: str) -> Boxes:
    """Element -> boxes (left, top, right, bottom, of the side) of a scene or dish that the text asks for; {} where it
    asks for none.

    The longest name of a dish, of a subject, or an idiom in the text says which; else what its words name, if that is
    more than one element, or one that is a piece of country by itself. Milliseconds, and the same for the same text
    and key.
    """
    kind, name = asked(text)
    if kind == "idiom":
        # Of things that no scene has: which they are is for the words to say.
        boxes = [(x - size / 2, y - size / 2, x + size / 2, y + size / 2) for _, (x, y, size) in idioms()[name].things]
        return {"": boxes}
    scene = planned(text, key)
    return {} if scene is None else scene.elements


def planned_places(text: str, key: str) -> Boxes:
    """As ``planned_boxes``, with the corner that a painter's seal is stamped in."""
    scene = planned(text, key)
    if scene is None or asked(text)[0] == "dish":
        return planned_boxes(text, key)
    stamp(scene)
    return scene.elements


def planned(text: str, key: str) -> Scene | None:
    """The scene, dish or verse that a text asks for, not yet painted; None for an idiom or a thing."""
    kind, name = asked(text)
    chance = Chance(f"{key}/mood")
    if kind == "idiom":
        return None
    if kind == "dish":
        without = negation(normal(text)).things
        return dish_scene(DishPlan(key, name, dish_named(name).vessels[0], "illustration", without))[0]
    if kind:
        subject = SUBJECTS[name]
        mood = subject.draw_mood(chance)
        if mood.light == "night" and set(subject.lights) != {"night"}:
            # What names no hour is better seen by day.
            mood = replace(mood, light=chance.pick([light for light in subject.lights if light != "night"]))
        scene = subject.scene(key, mood_of(text, mood))
        others = set(elements_of(without_name(text))) - scene.elements.keys()
        if len(others) < FEWEST or not room_for(elements_of(text)):
            return scene
    named = scenic(text)
    if not named:
        return None
    season = next((IN_SEASON[name] for name in named if name in IN_SEASON), chance.pick(SEASONS))
    otherwise = Mood(season, chance.pick(("dawn", "day", "day", "dusk")), "clear")
    return verse_scene(key, named, mood_of(text, otherwise))
