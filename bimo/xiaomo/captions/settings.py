"""What a text says of a whole arrangement: that its thing flies, or in what light and weather its view is."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache

from bimo.xiaomo.artwork.held_out import hexcode
from bimo.xiaomo.artwork.places import Placed
from bimo.xiaomo.captions.drawn_things import THING, views
from bimo.xiaomo.captions.lexicon import mood_of
from bimo.xiaomo.captions.noun_phrases import Things, things_of
from bimo.xiaomo.scenes.description import NO_MOOD, Mood

#: The view that what flies is in.
SKY = f"{THING}blue sky"
_WINGS = f"{THING}wings"
#: What has wings, or flies without.
_FLIERS = "🐦🕊🦅🦆🦢🦉🦩🦚🦜🪽🪿🐦‍🔥🦇🐝🦋🪰🦟🪲🐞🦗✈🛩🚁🛸🚀🎈🪂🪁🐉🧚👼🦸🧙🧞🛰🐓🐔🐤"
_FLYING = (
    re.compile(
        r"(?P<many>(?:[一二两三四五六1-6][只个条头匹架辆])?)(?P<how>会飞|飞翔|飞行|正?在飞|飞起来|在天上飞|在天空(?:中|里)?飞翔?|飞在(?:天上|空中|天空)"
        r"|长着?翅膀|有翅膀|带翅膀|生翅膀)的(?P<what>.+)"
    ),
    re.compile(
        r"(?P<many>)(?P<what>.+?)(?P<how>在?(?:天上|天空|天空中|空中|云端|云中)(?:飞翔|飞行|飞|遨游)|飞上(?:了)?(?:天空?|蓝天)|长了?翅膀)"
    ),
    re.compile(r"(?P<many>(?:an? |two |three |four )?)(?P<how>flying|winged) (?P<what>.+)"),
    re.compile(
        r"(?P<many>)(?P<what>.+?) (?P<how>with wings|flying(?: in the (?:sky|air))?|(?:is|are) flying(?: in the sky)?)"
    ),
)
#: So large is a thing in the sky, and its wings behind it.
_THING, _WING = (0.5, 0.54, 0.58), (0.5, 0.44, 0.98)


def flying(text: str, rows: Callable[[int], tuple[tuple[float, float, float], ...]]) -> tuple[Placed, ...] | None:
    """What a text in its normal form says is flying (会飞的猪, a winged cat), in the sky with wings; without if it has
    some or needs none. Several are in ``rows``. None if it says anything else.
    """
    for pattern in _FLYING:
        found = pattern.fullmatch(text)
        things = things_of(found["many"] + found["what"]) if found is not None else None
        if found is None or things is None or things.kind in views():
            continue
        winged = _needs_wings(things) or "翅" in found["how"] or "wing" in found["how"]
        if things.count == 1:
            wings = (Placed(_WINGS, "", _WING),) if winged else ()
            return (*wings, Placed(things.kind, things.colour, _THING if winged else (0.5, 0.5, 0.72)))
        placed: list[Placed] = []
        for across, down, side in rows(things.count):
            placed += [Placed(_WINGS, "", (across, down - side * 0.12, side))] if winged else []
            placed.append(Placed(things.kind, things.colour, (across, down, side * (0.6 if winged else 1.0))))
        return tuple(placed)
    return None


def _needs_wings(things: Things) -> bool:
    return things.kind not in _fliers()


@lru_cache(maxsize=1)
def airborne() -> frozenset[str]:
    """The kinds that are seen in the air, whatever is said of them."""
    return frozenset((*map(hexcode, "🛩🚁🛸🎈🪂🪁🛰"), f"{THING}hot air balloon", f"{THING}drone"))


@lru_cache(maxsize=1)
def _fliers() -> frozenset[str]:
    drawn = ("phoenix", "crane", "crow", "swallow", "magpie", "sparrow", "oriole", "kingfisher", "seagull", "cuckoo")
    others = ("hot air balloon", "dragonfly", "firefly", "drone", "fighter jet", "kunpeng", "griffin", "pelican")
    every = (emoji for emoji in re.findall("🐦‍🔥|.", _FLIERS))
    return frozenset((*map(hexcode, every), *(f"{THING}{name}" for name in (*drawn, *others))))


_IN_A_MOOD = (
    re.compile(
        r"(?P<mood>月光下|月色下|月下|星空下|夜晚|夜里|夜间|深夜|夜色中|夜色下|晚上|黄昏|傍晚|夕阳下|清晨|早晨|雪后|雪中|下雪|大雪纷飞|雨中|下雨|雨后|雾中|雾气缭绕|云雾缭绕|雾气弥漫|薄雾中|晨雾中|烟雨朦胧)"
        r"(?:时|天)?的?(?P<view>.+)"
    ),
    re.compile(r"(?P<view>.+?)的?(?P<mood>夜晚|夜色|夜景|雪景|雨景|黄昏|清晨|下雪了?|下雨了?| ?night view)"),
    re.compile(r"(?P<view>.+?) (?P<mood>at night|at dusk|at dawn|in the rain|in the snow|in the evening)"),
)


def view_in_mood(text: str) -> tuple[str, Mood]:
    """The view that a text in its normal form names and the light and weather that it is in (月光下的沙滩); ("", no
    mood) for anything else.
    """
    for pattern in _IN_A_MOOD:
        found = pattern.fullmatch(text)
        things = things_of(found["view"]) if found is not None else None
        if found is not None and things is not None and things.kind in views():
            said = {"夜景": "夜", "night view": "夜", "雪景": "雪", "雨景": "雨", "雪后": "下雪", "雨后": "下雨"}.get(
                found["mood"].strip(), "雾" if "雾" in found["mood"] else found["mood"]
            )
            return things.kind, mood_of(said, NO_MOOD)
    return "", NO_MOOD
