"""A clause of a description while it is read: its nouns and verbs so far, and what is said of the noun to come."""

from __future__ import annotations

from dataclasses import dataclass, field

from bimo.xiaomo.captions.described_nouns import Noun, with_more
from bimo.xiaomo.captions.described_tokens import Token

#: The roles of words that are said of the noun after them.
OF_THE_NEXT_NOUN = frozenset(("count", "colour", "size"))


def _unnamed() -> Noun:
    """The noun to come, of which nothing is said yet."""
    return Noun(Token(0, 0, "", ""), -1)


@dataclass
class Clause:
    """What was read of a clause: its ``nouns`` and ``verbs``, and whether it ``has_place`` (a backdrop); the ``zone``
    and the country (``place``) that the nouns to come are at, and the English ``side`` before the next.
    """

    nouns: list[Noun] = field(default_factory=list[Noun])
    verbs: list[Token] = field(default_factory=list[Token])
    zone: str = ""
    place: Noun | None = None
    side: str = ""
    has_place: bool = False
    #: The noun to come, and the one before a verb, whose number is that of the noun behind it.
    _next: Noun = field(default_factory=_unnamed)
    _held: Noun | None = None

    def say(self, token: Token) -> None:
        """Takes a word that is said of the next noun: its number, colour or size."""
        value = int(token.value) if token.role == "count" else token.value
        self._next = with_more(self._next, self._begin(token), **{token.role: value})

    def do(self, verb: Token) -> None:
        """Takes a verb; 一只穿着棉袄的小猫: the number before it is that of the second noun."""
        self.verbs.append(verb)
        if self._next.start >= 0:
            self._held, self._next = self._next, _unnamed()

    def go(self, zone: Token, is_last: bool) -> None:
        """Takes a word for where in the picture; in English, and at the end, it is that of what was named."""
        self.zone = zone.value
        if zone.english or is_last:
            for noun in self.nouns:
                noun.zone = noun.zone or zone.value

    def noun_of(self, token: Token) -> Noun:
        """The noun of a token with all that was said of it."""
        said, self._next = self._next, _unnamed()
        start = token.start if said.start < 0 else said.start
        return Noun(token, start, said.count, said.colour, said.size, self.zone)

    def take(self, noun: Noun, where: str) -> None:
        """Takes a noun that is no place; ``where`` something else is to it, if it is Chinese."""
        if self.place is not None and not noun.is_country:
            noun.at, noun.side = self.place, self.place.side
        if where and not noun.token.english:
            noun.side = f"holds {where}"
        self.nouns.append(noun)

    def end(self) -> None:
        """Gives the number and colour before a verb to the noun that they are of."""
        if self._held is not None and self.nouns:
            owner = self.nouns[min(1, len(self.nouns) - 1)]
            owner.count, owner.colour = max(owner.count, self._held.count), owner.colour or self._held.colour

    def _begin(self, token: Token) -> int:
        return token.start if self._next.start < 0 else self._next.start
