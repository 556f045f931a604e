"""Lexicons of scenes and dishes by which a short prompt is expanded: a verse's scene, what is on a dish's plate."""

from __future__ import annotations

import re
from collections.abc import Sequence

from bimo.prompts.expansion import Addition, Lexicon, pictures_of_sayings
from bimo.prompts.normalise import normal
from bimo.xiaomo.captions import lexicon
from bimo.xiaomo.dishes.table import dishes, ingredients
from bimo.xiaomo.scenes.description import Mood

#: A prompt that names as many things as this is a verse or a scene, of which more can be said.
LEAST_ELEMENTS = 2
MOST_CONTENTS = 5


def plates(plain: str, chinese: bool) -> list[Addition]:
    """What is on the plates of the dishes that a text names."""
    found: list[Addition] = []
    for dish in dishes().values():
        names = (dish.name, dish.english, *dish.also)
        word = next((name for name in names if normal(name) in plain), None)
        if word is None:
            continue
        contents = dish.contents[:MOST_CONTENTS]
        if chinese:
            seen = f"{dish.vessels[0]}里有{'、'.join(contents)}" + ("，冒着热气" if dish.steam else "")
        else:
            seen = f"a dish with {', '.join(ingredients()[name].english for name in contents)}"
            seen += ", steaming" if dish.steam else ""
        found.append(Addition(word, seen))
    return found


def scene(plain: str, chinese: bool) -> list[Addition]:
    """What the words of a verse name, with its season, light and weather, as the captions of scenes call them."""
    known = [
        Addition(verse, (subject.zh if chinese else subject.en)[0])
        for subject in lexicon.subjects().values()
        for verse in map(normal, subject.words)
        if any(clause in plain for clause in re.split("[,.?!;]", verse) if len(clause) > 3)
    ]
    named = lexicon.elements_of(plain)
    if len(named) < LEAST_ELEMENTS:
        return known[:1]
    elements, moods = lexicon.elements(), lexicon.moods()
    words = [(elements[name].zh if chinese else elements[name].en)[0] for name in named]
    mood = lexicon.mood_of(plain, Mood("", "", ""))
    for kind, value in (("season", mood.season), ("light", mood.light), ("weather", mood.weather)):
        called = moods[kind].get(value)
        if called is not None:
            words += (called.zh if chinese else called.en)[:1]
    fresh = [word for word in dict.fromkeys(words) if normal(word) not in plain]
    said = [Addition(plain, ("、" if chinese else ", ").join(fresh))] if fresh else []
    return [*known[:1], *said]


def lexicons() -> Sequence[Lexicon]:
    """All that a prompt is expanded by, the nearest first."""
    return (pictures_of_sayings, plates, scene)
