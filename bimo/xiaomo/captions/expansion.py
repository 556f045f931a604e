"""Lexicons of scenes and dishes for prompt expansion: the scene of a verse, the contents of a dish."""

from __future__ import annotations

import re
from collections.abc import Sequence

from bimo.prompts.expansion import Addition, Lexicon, pictures_of_sayings
from bimo.prompts.normalise import normal
from bimo.xiaomo.captions import lexicon
from bimo.xiaomo.dishes.table import dishes, ingredients
from bimo.xiaomo.scenes.description import Mood

#: The least number of elements in a prompt for a verse or a scene, which can be expanded.
LEAST_ELEMENTS = 2
MOST_CONTENTS = 5


def plates(plain: str, chinese: bool) -> list[Addition]:
    """The contents of the dishes in a text."""
    additions: list[Addition] = []
    for dish in dishes().values():
        names = (dish.name, dish.english, *dish.also)
        word = next((name for name in names if normal(name) in plain), None)
        if word is None:
            continue
        contents = dish.contents[:MOST_CONTENTS]
        if chinese:
            contents_text = f"{dish.vessels[0]}里有{'、'.join(contents)}" + ("，冒着热气" if dish.steam else "")
        else:
            contents_text = f"a dish with {', '.join(ingredients()[name].english for name in contents)}"
            contents_text += ", steaming" if dish.steam else ""
        additions.append(Addition(word, contents_text))
    return additions


def scene(plain: str, chinese: bool) -> list[Addition]:
    """The elements that a verse names, with its season, light and weather, in the words of the scenes' captions."""
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
    additions = [Addition(plain, ("、" if chinese else ", ").join(fresh))] if fresh else []
    return [*known[:1], *additions]


def lexicons() -> Sequence[Lexicon]:
    """All lexicons for expansion, the most specific first."""
    return (pictures_of_sayings, plates, scene)
