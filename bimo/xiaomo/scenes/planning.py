"""Where the elements of a picture may stand that a prompt asks for: by the procedures that draw scenes and dishes.

What a prompt leaves open is taken from the key, so another key is another layout. Nothing is painted.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

from bimo.prompts.normalise import normal
from bimo.xiaomo.artwork.told import idioms
from bimo.xiaomo.captions.lexicon import elements_of, mood_of, subjects
from bimo.xiaomo.chance import Chance
from bimo.xiaomo.dishes.plan import DishPlan, dish_scene
from bimo.xiaomo.dishes.table import dishes
from bimo.xiaomo.scenes.description import SEASONS, Mood, Scene
from bimo.xiaomo.scenes.subjects import SUBJECTS, stamp
from bimo.xiaomo.scenes.subjects.verse import verse_scene

Boxes = Mapping[str, list[tuple[float, float, float, float]]]
#: One element alone is a thing rather than a scene: 月亮.
FEWEST = 2


def planned_boxes(text: str, key: str) -> Boxes:
    """Element -> boxes (left, top, right, bottom, of the side) of a scene or dish that the text asks for; {} where it
    asks for none.

    The longest name of a dish, of a subject, or an idiom in the text says which; else what its words name, if that is
    more than one element. Milliseconds, and the same for the same text and key.
    """
    planned = _planned(text, key)
    return planned.elements if isinstance(planned, Scene) else planned


def planned_places(text: str, key: str) -> Boxes:
    """As ``planned_boxes``, with the corner that a painter's seal is stamped in."""
    planned = _planned(text, key)
    if not isinstance(planned, Scene):
        return planned
    stamp(planned)
    return planned.elements


def is_scene(text: str) -> bool:
    """Whether a text asks for a scene, a dish or what a verse names: the data draws those without a pose."""
    kind, _ = _asked(text)
    return kind in ("scene", "dish") or (not kind and len(elements_of(text)) >= FEWEST)


def _asked(text: str) -> tuple[str, str]:
    """The longest name in a text: of what ("dish", "idiom", "scene"; "" for none), and its own."""
    plain = normal(text)
    longest = max((name for name in _named() if name in plain), key=len, default="")
    return _named().get(longest, ("", ""))


def _planned(text: str, key: str) -> Scene | Boxes:
    """The scene that a text asks for, or the boxes of what is none."""
    kind, name = _asked(text)
    chance = Chance(f"{key}/mood")
    if kind:
        if kind == "idiom":
            # Of things that no scene has: which they are is for the words to say.
            return {
                "": [
                    (x - size / 2, y - size / 2, x + size / 2, y + size / 2)
                    for _, (x, y, size) in idioms()[name].things
                ]
            }
        if kind == "dish":
            return dish_scene(DishPlan(key, name, dishes()[name].vessels[0], "illustration"))[0].elements
        subject = SUBJECTS[name]
        return subject.scene(key, mood_of(text, subject.draw_mood(chance)))
    elements = elements_of(text)
    if len(elements) < FEWEST:
        return {}
    otherwise = Mood(chance.pick(SEASONS), chance.pick(("dawn", "day", "day", "dusk")), "clear")
    return verse_scene(key, elements, mood_of(text, otherwise))


@lru_cache(maxsize=1)
def _named() -> Mapping[str, tuple[str, str]]:
    """Names in their normal form -> ("dish", "idiom" or "scene", its own name)."""
    found: dict[str, tuple[str, str]] = {}
    for name, dish in dishes().items():
        found |= {normal(word): ("dish", name) for word in (name, dish.english, *dish.also)}
    for name, idiom in idioms().items():
        found |= {normal(word): ("idiom", name) for word in (name, idiom.literal, idiom.en)}
    for name, called in subjects().items():
        found |= {normal(word): ("scene", name) for word in (*called.zh, *called.en, *called.words)}
    return {word: kind for word, kind in found.items() if word}
