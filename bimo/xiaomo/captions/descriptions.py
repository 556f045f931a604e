"""Descriptions of a place and what is in it (桌子上放着一个花瓶，旁边有一本书; a cat on a boat).

Clauses are read from left to right by words (``descriptions.tsv``, the words of scenes and those for things): which
scene to draw, and which things to put where. Nouns of country are elements of a scene, others are things that there are
references of. What is not understood is named.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import pairwise, zip_longest

from bimo.prompts.negation import negation
from bimo.prompts.normalise import normal
from bimo.xiaomo.artwork.lexicon import DEFAULT_STYLE, DRAWN, LATER, MORE_EFFECTS
from bimo.xiaomo.artwork.places import Placed
from bimo.xiaomo.captions.arranged import without_style
from bimo.xiaomo.captions.asked import COUNTRY, SKY
from bimo.xiaomo.captions.described_acts import asleep, who_they_are, with_acts
from bimo.xiaomo.captions.described_clauses import OF_THE_NEXT_NOUN, Clause
from bimo.xiaomo.captions.described_nouns import (
    AS_RELATIONS,
    Noun,
    form_of,
    phrase_of,
    side_by_side,
    together,
    zone_of,
)
from bimo.xiaomo.captions.described_tokens import Token, is_of_a_quality, tokens
from bimo.xiaomo.captions.described_words import described_words
from bimo.xiaomo.captions.drawn_things import THING, views
from bimo.xiaomo.captions.lexicon import mood_of, style_of, styles, without_styles
from bimo.xiaomo.captions.worn import is_worn
from bimo.xiaomo.scenes.description import Mood
from bimo.xiaomo.scenes.moods import IN_SEASON
from bimo.xiaomo.scenes.subjects.verse_elements import SKY_BIRDS

#: No longer text is read, in characters.
LONGEST = 300
#: At most so many groups of things stand in a picture.
MOST_GROUPS = 6
#: So many words have to be understood for each noun that is not.
UNDERSTOOD = 2
#: The drawn styles that things before a scene may have: those in colour.
COLOURFUL = frozenset((*DRAWN, *LATER)) - {"silhouette", "line"}
#: The effects that a whole picture can be drawn in.
WHOLE_EFFECTS = frozenset(("watercolour", "ink", "oil", *MORE_EFFECTS))
#: The elements that a scene has for a backdrop, where there is more than the backdrop shows.
_COUNTRY_OF = {
    "grass": ("meadow",), "snow": ("snow",), "forest": ("tree", "pine"), "beach": ("sea",), "city": ("houses", "path"),
}  # fmt: skip
#: What the hour and the weather show.
_IN_MOOD = frozenset(("sun", "stars", "cloud"))
_WEATHER = frozenset(("rain", "snow", "mist"))
#: The backdrops of things of which the weather, the hour or the season is all that is said of where they are.
_IN_WEATHER = {"rain": f"{THING}rainy day", "snow": "snow", "mist": "mountain"}
_IN_LIGHT = {"night": "night", "dusk": "sunset"}
_IN_A_SEASON = {season: f"{THING}{season} day" for season in ("spring", "summer", "autumn", "winter")}
_FLOWERS = f"{THING}flower fields"
#: The looks of things that are nearest to manners of painting scenes.
_NEAREST = {"illustration": "cartoon", "gongbi": "watercolour", "colour": "ink", "qinglu": "watercolour"}
#: What is in the sky of a subject besides what its picture has.
ABOVE = frozenset((*SKY_BIRDS, "kite", "firework", "sky lantern"))
_CLAUSE_ENDS = re.compile(r"[,.;!?:\n]+")


@dataclass(frozen=True)
class Group:
    """Things that belong together, in a square of their own, and where it is: in a ``zone`` of the picture (of
    ``descriptions.tsv``), or at an element of the scene, on which ``side`` of it.
    """

    things: tuple[Placed, ...]
    zone: str = ""
    element: str = ""
    side: str = ""

    @property
    def kinds(self) -> frozenset[str]:
        """The hexcodes of its things."""
        return frozenset(thing.kind for thing in self.things)


@dataclass(frozen=True)
class Description:
    """Groups of things before a ``backdrop``, a ``subject`` of scenes with ``elements`` in its sky, or a scene of
    ``elements`` (of all none: on white), painted in a ``style`` (of scenes' or things'), in a ``mood`` of which "" is
    not said. ``left_out`` are words that are not understood.
    """

    groups: tuple[Group, ...]
    backdrop: str = ""
    subject: str = ""
    elements: tuple[str, ...] = ()
    mood: Mood = field(default_factory=lambda: Mood("", "", ""))
    style: str = DEFAULT_STYLE
    excluded: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()

    @property
    def has_scene(self) -> bool:
        """Whether the procedures draw a scene behind its things."""
        return bool(self.subject or self.elements)


@lru_cache(maxsize=128)
def description_of(text: str, anyhow: bool = False) -> Description | None:
    """What to draw for a description; None if too little is understood, or no place and no two things are named. With
    ``anyhow`` whatever is understood is enough, one thing too.
    """
    if len(text) > LONGEST:
        return None
    without = negation(normal(text))
    plain, style = without_style(without.text)
    manner = style_of(plain)
    if manner:
        plain, style = without_styles(plain), manner
    elif style not in (*COLOURFUL, *WHOLE_EFFECTS):
        return None
    excluded = [noun for thing in without.things for noun in tokens(normal(thing)) if noun.role == "noun"]
    if len(excluded) < len(without.things):
        return None
    reading = _Reading(excluded)
    for clause in _CLAUSE_ENDS.split(plain):
        reading.read(clause)
    found = reading.description(style, anyhow)
    if found is None:
        return None
    if found.groups and style in ("papercut", "porcelain"):
        return None  # whose things would have to be cut or painted anew
    return found


def _is_apart(noun: Token) -> bool:
    """Whether what is excluded is a thing by itself rather than a part of one (花瓶 without 花, 汽车 without 轮子)."""
    return bool(noun.element) or (noun.thing is not None and is_worn(noun.thing.kind))


class _Reading:
    """What was read of a description so far."""

    def __init__(self, excluded: Sequence[Token]) -> None:
        self.excluded = excluded
        self.nouns: list[Noun] = []
        self.backdrops: list[str] = []
        self.subjects: list[str] = []
        self.places: list[Noun] = []
        self.qualities: list[str] = []
        self.unknown: list[str] = []
        self.zones: list[str] = []
        self.moods: list[str] = []

    def read(self, text: str) -> None:
        """Reads a clause."""
        every, sleepers = with_acts(text, self.nouns[-1] if self.nouns else None)
        self.moods += [token.text for token in every if token.role == "mood"]
        parts = [token for token in every if token.role not in ("silent", "mood")]
        clause = Clause()
        for token, after in zip_longest(parts, parts[1:]):
            if token.role in OF_THE_NEXT_NOUN:
                clause.say(token)
            elif token.role == "unknown":
                (self.qualities if is_of_a_quality(token, text) else self.unknown).append(token.text)
            elif token.role == "verb":
                clause.do(token)
            elif token.role == "zone":
                self.zones.append(token.value)
                self.moods.append(token.text)
                clause.go(token, is_last=after is None)
            elif token.role == "side":
                clause.side = token.value if token.english else clause.side
            else:
                self._name(clause, token, after)
        clause.end()
        for noun in clause.nouns:
            sleeps = noun.token.start in sleepers
            noun.together = asleep(noun.token) if sleeps else noun.together or who_they_are(noun.token)
        self._supported(clause.nouns)
        self._joined(text, clause.nouns, clause.verbs)
        self.nouns += clause.nouns

    def _name(self, clause: Clause, token: Token, after: Token | None) -> None:
        """Takes a place or a noun of a clause; the word ``after`` it may say where it is."""
        noun = clause.noun_of(token)
        where = after.value if after is not None and _stands_behind(token, after) else clause.side
        clause.side = ""
        if token.role == "backdrop":
            if clause.has_place and not token.english and token.value in views():
                self.backdrops.pop()  # 海边的咖啡馆 is a café
            self.backdrops.append(token.value)
            clause.has_place = True
        elif token.subject and not (token.thing and not where):
            self.subjects.append(token.subject)
            self.places.append(noun)
        elif where and noun.is_country:
            self._stand(clause.nouns, noun, where)
            self.places.append(noun)
            if not clause.nouns:
                clause.place, noun.side = noun, where
        elif where and token.thing is not None and (clause.nouns or self.nouns) and token.english:
            self._relate(clause.nouns, noun, where)
        else:
            clause.take(noun, where)

    def _stand(self, nouns: list[Noun], place: Noun, where: str) -> None:
        """What was named before a place stands there."""
        for noun in nouns or self.nouns[-1:]:
            if noun.at is None and not noun.is_country:
                noun.at, noun.side = place, where

    def _relate(self, nouns: list[Noun], second: Noun, where: str) -> None:
        """Puts the last noun and a second one together by where it is; else the second is a noun as any other."""
        first = (nouns or self.nouns)[-1]
        joined = together(AS_RELATIONS[where].format(a=first.token.text, b=second.token.text), first, second)
        if joined:
            first.together = joined
        else:
            nouns.append(second)

    def _supported(self, nouns: list[Noun]) -> None:
        """Puts together things of which one is on, in or under another in Chinese (花瓶里插着玫瑰, 猫坐在椅子上)."""
        for support in [noun for noun in nouns if noun.side.startswith("holds ")]:
            where, support.side = support.side.removeprefix("holds "), ""
            at = nouns.index(support)
            others = [*nouns[at - 1 : at], *nouns[at + 1 : at + 2]] if at else nouns[1:2]
            if not others:
                others = [noun for noun in self.nouns[-1:] if noun.token.text != support.token.text]
            for other in others:
                words = AS_RELATIONS[where].format(a=other.token.text, b=support.token.text)
                joined = together(words, other, support)
                if joined:
                    other.together = joined
                    nouns.remove(support)
                    self._forget(support)
                    break

    def _forget(self, noun: Noun) -> None:
        """A thing that was named before and is part of a relation now is drawn once."""
        self.nouns = [one for one in self.nouns if one.token.text != noun.token.text or one.together]

    def _joined(self, clause: str, nouns: list[Noun], verbs: list[Token]) -> None:
        """Puts together things that a verb is between or before."""
        things = [noun for noun in nouns if not noun.is_country]
        for first, second in pairwise(things):
            if not any(first.token.end <= verb.start < second.start for verb in verbs):
                joined = together(f"{first.token.text}正在{second.token.text}", first, second)
                if joined:  # 老人在钓鱼
                    first.together = joined
                    nouns.remove(second)
                    break
        for verb in verbs:
            after = [noun for noun in nouns if noun.start >= verb.end]
            before = [noun for noun in nouns if noun.start < verb.start]
            if not after:
                if verb.value != "beside":
                    self.qualities.append(verb.text)
                continue
            owner = self.nouns[-1] if self.nouns and not before and len(after) < 2 else None
            if after[0].together:
                continue
            pairs = [(one, after[0], "{a}{v}{b}") for one in (*before[-1:], *((owner,) if owner else ()))]
            if not before and len(after) > 1:
                pairs.append((after[1], after[0], "{v}{b}的{a}"))
            for first, second, form in pairs:
                words = form.format(a=first.token.text, v=form_of(verb), b=phrase_of(clause, second))
                joined = together(words, first, second)
                if joined:
                    first.together = joined
                    nouns.remove(second)
                    break
            else:
                if verb.value != "beside":
                    self.qualities.append(verb.text)

    def _leaves_out(self) -> bool:
        """Whether what is excluded is not seen: it is apart from what there is, or that has a bare form in scenes."""
        bare = described_words()["bare"]
        forms = [noun for noun in (*self.places, *self.nouns) if noun.token.text in bare]
        if forms and any(noun.element not in (COUNTRY | SKY) for noun in self.excluded):
            for noun in forms:
                noun.token = replace(noun.token, thing=None, element=bare[noun.token.text])
        elif not all(map(_is_apart, self.excluded)) and self.nouns:
            return False
        named = {(noun.token.element, noun.token.thing and noun.token.thing.kind) for noun in self.nouns}
        return not any((noun.element, noun.thing and noun.thing.kind) in named for noun in self.excluded)

    def _mood(self) -> Mood:
        """Season, hour and weather by the words that are said of them, by flowers and by the sky; "" where none is."""
        named = [noun.token for noun in (*self.places, *self.nouns)]
        words = [token.text for token in named if token.element in SKY | IN_SEASON.keys() or token.subject]
        return mood_of(", ".join((*self.moods, *words)), Mood("", "", ""))

    def description(self, style: str, anyhow: bool) -> Description | None:
        """The description that was read; ``anyhow`` as in ``description_of``."""
        if not self._leaves_out():
            return None
        backdrop = self.backdrops[0] if self.backdrops else ""
        subject = self.subjects[0] if self.subjects else ""
        mood = self._mood()
        left = [*self.qualities, *self.unknown]
        nouns = self.nouns
        others = [noun for noun in (*self.places, *nouns) if noun.is_country and not noun.token.subject]
        composed = bool(self.excluded) or any(noun.token.element not in _IN_MOOD for noun in others)
        if composed and all(noun.token.element for noun in self.places if noun.token.subject):
            subject = ""  # 仙鹤 beside others is a bird rather than a picture of cranes
        if subject and self.excluded:
            return None  # its pictures have what they have
        wild = [noun for noun in (*self.places, *nouns) if noun.is_country and not noun.together]
        painted = styles().keys() - WHOLE_EFFECTS
        elements: list[str] = []
        if subject:
            backdrop = ""
        elif backdrop in _COUNTRY_OF and (style in painted or any(noun.thing is None for noun in wild)):
            elements += _COUNTRY_OF.get(backdrop, ())
            backdrop = ""
        groups: list[Group] = []
        missing = len(self.unknown)
        named = [noun.token.element for noun in (*self.places, *nouns)]
        scenic = all(named) and all(noun.is_plain for noun in nouns) and _room_for([*elements, *named])
        for noun in (*self.places, *nouns):
            element = noun.token.element
            if (element in _WEATHER and (backdrop or subject)) or (
                element in _IN_MOOD and (subject or backdrop == "space")
            ):
                continue  # which the mood has
            placed = noun.together or side_by_side(noun)
            as_element = not backdrop and bool(element) and not noun.together and (noun.is_country or scenic)
            if as_element and subject and element in ABOVE:
                elements.append(element)
            elif as_element and subject and element not in _elements_of(subject) and not placed:
                left.append(noun.token.text)
                missing += 1
            elif as_element and not subject and (_room_for([*elements, element]) or not placed):
                if not _room_for([*elements, element]):
                    left.append(noun.token.text)
                    missing += 1
                elif element not in elements:
                    elements.append(element)
            elif noun in self.places and (noun.token.subject or subject):
                continue
            elif placed:
                at = noun.at.token.element if noun.at is not None else ""
                groups.append(Group(placed, zone_of(noun, backdrop), at, noun.side if at else ""))
            elif not (subject and element in _elements_of(subject)):
                left.append(noun.token.text)
                missing += 1
        understood = len(groups) + len(elements) + bool(backdrop) + bool(subject)
        understood += sum(len(group.kinds) - 1 for group in groups)
        if not (understood or missing) and (set(self.zones) & {"sky"} or mood.light):
            elements.append("meadow")  # the sky alone is seen over land
            understood = 1
        if not understood or len(groups) > MOST_GROUPS or (missing * UNDERSTOOD > understood and not anyhow):
            return None
        if groups and elements == ["flowers"] and style not in painted:
            elements, backdrop = [], _FLOWERS  # those of a scene are too small to be among
        if groups and not (backdrop or subject or elements) and style not in painted:
            backdrop = _IN_WEATHER.get(mood.weather) or _IN_LIGHT.get(mood.light) or _IN_A_SEASON.get(mood.season, "")
        if style == "gogh" and not (backdrop or subject or elements):
            elements.append("meadow")  # his strokes are those of the ground and the sky
        set_somewhere = backdrop or subject or elements or self.zones or self.excluded
        if not set_somewhere and len(groups) < 2 and not anyhow:
            return None  # one thing is for the weights, and for drafts of things
        if style in painted and not (subject or elements):  # a manner of painting scenes
            if style not in _NEAREST or not anyhow:
                return None
            style = _NEAREST[style]
        excluded = tuple(noun.element for noun in self.excluded if noun.element)
        return Description(
            tuple(groups), backdrop, subject, tuple(elements), mood, style, excluded, tuple(dict.fromkeys(left))
        )


@lru_cache(maxsize=64)
def _elements_of(subject: str) -> frozenset[str]:
    """The elements that pictures of a subject have."""
    from bimo.xiaomo.scenes.subjects import SUBJECTS

    return frozenset(SUBJECTS[subject].scene("some").elements)


def _room_for(elements: Sequence[str]) -> bool:
    from bimo.xiaomo.scenes.subjects.verse import room_for  # all painters, which reading other prompts does not need

    return room_for(elements)


def _stands_behind(token: Token, after: Token) -> bool:
    """Whether a word is the localiser of a Chinese noun."""
    return after.role == "side" and not after.english and after.start == token.end
