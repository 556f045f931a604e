"""The nouns of a description with what is said of them, and the things that they show, alone or two together."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

from bimo.xiaomo.artwork.held_out import hexcode
from bimo.xiaomo.artwork.places import Placed
from bimo.xiaomo.captions.arranged import placed_by_relation
from bimo.xiaomo.captions.asked import COUNTRY, SKY
from bimo.xiaomo.captions.described_tokens import Token
from bimo.xiaomo.captions.drawn_things import views
from bimo.xiaomo.captions.figures import body_of
from bimo.xiaomo.captions.noun_phrases import MOST, Things
from bimo.xiaomo.captions.settings import airborne

#: Emoji that are whole pictures with a frame, which no other picture has room for.
_PICTURES = "🎆🎇🌃🌅🌄🌇🌉🌌🏙🏞🌠🖼🗾🌁🎑"
#: Where a second thing is that somebody has.
_AT_HAND = (0.84, 0.58, 0.34)
#: How the place of one thing in another is said by relations.
AS_RELATIONS = {
    "on": "{a}坐在{b}上",
    "in": "{a}坐在{b}里",
    "under": "{a}坐在{b}下",
    "beside": "{a}在{b}旁边",
    "front": "{a}在{b}前面",
    "behind": "{a}在{b}后面",
}


@dataclass
class Noun:
    """A noun with what is said of it and where it is."""

    token: Token
    start: int
    count: int = 1
    colour: str = ""
    size: str = ""
    zone: str = ""
    at: Noun | None = None
    side: str = ""
    #: The things of a relation that it stands for, with those of the other noun.
    together: tuple[Placed, ...] = ()

    @property
    def thing(self) -> Things | None:
        """The thing by its word and by what is said of it; None for one that is none, or for too many."""
        own = self.token.thing
        if own is None or own.kind in _pictures() or own.count * self.count > MOST:
            return None
        return replace(own, count=own.count * self.count, colour=self.colour or own.colour, size=self.size or own.size)

    @property
    def is_country(self) -> bool:
        """Whether a scene shows it rather than a thing."""
        return self.token.element in COUNTRY | SKY or (bool(self.token.element) and self.thing is None)

    @property
    def is_plain(self) -> bool:
        """Whether nothing is said of it that a scene's element does not show."""
        return not (self.colour or self.together) and (self.count == 1 or self.is_country)


@lru_cache(maxsize=1)
def _pictures() -> frozenset[str]:
    return frozenset((*map(hexcode, _PICTURES), *views()))


def with_more(noun: Noun, start: int, **values: object) -> Noun:
    """A noun that is not yet named with more said of it."""
    made = Noun(noun.token, start, noun.count, noun.colour, noun.size)
    for name, value in values.items():
        setattr(made, name, value)
    return made


def phrase_of(clause: str, noun: Noun) -> str:
    return clause[noun.start : noun.token.end] if noun.count == 1 else noun.token.text


def together(words: str, first: Noun, second: Noun) -> tuple[Placed, ...]:
    if second.together or any(noun.thing is None or noun.thing.count > 1 for noun in (first, second)):
        return ()
    assert second.thing is not None
    found = tuple(
        replace(thing, colour=thing.colour or noun.colour)
        for thing in placed_by_relation(words) or ()
        for noun in ((second if _is(thing, second) else first),)
    )
    if found and first.together:  # what it wears besides is on it already: the other thing is at its hand
        return (*first.together, Placed(second.thing.kind, second.thing.colour, _AT_HAND))
    return found


def _is(thing: Placed, noun: Noun) -> bool:
    return noun.thing is not None and noun.thing.kind == thing.kind


def form_of(verb: Token) -> str:
    """A verb as relations have it."""
    word = verb.text if verb.value in ("", "beside") else verb.value
    return f" {word} " if verb.english else word


def zone_of(noun: Noun, backdrop: str) -> str:
    """Where a noun is: where it is said to be; a thing of the sky in the sky."""
    own = noun.token.element
    if noun.thing is not None and noun.thing.kind in airborne() and not (noun.zone or noun.side or noun.at):
        return "sky"
    return noun.zone or ("sky" if own in SKY - {"grass", "flowers", "boat", "sea", "mountain"} else "")


def side_by_side(noun: Noun) -> tuple[Placed, ...]:
    """A noun's things, side by side in a square of their own."""
    things = noun.thing
    if things is None:
        return ()
    size = {"small": 0.6, "": 1.0, "large": 1.0}[things.size]
    count = things.count
    side = (0.98 if count == 1 else 0.96 / count) * size
    kind = body_of(things.kind)
    return tuple(Placed(kind, things.colour, ((place + 0.5) / count, 0.5, side)) for place in range(count))
