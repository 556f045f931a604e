"""The words of a clause of a description: nouns with their number, colour and size, where they are, and verbs."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from functools import lru_cache

from bimo.prompts.commoner_words import table as paraphrases
from bimo.prompts.normalise import normal
from bimo.xiaomo.artwork.held_out import hexcode
from bimo.xiaomo.artwork.lexicon import SIZES
from bimo.xiaomo.captions.colours import COLOUR_NAMES
from bimo.xiaomo.captions.described_words import described_words
from bimo.xiaomo.captions.drawn_things import views
from bimo.xiaomo.captions.figures import act_words, figure_of
from bimo.xiaomo.captions.lexicon import element_called, moods, subjects
from bimo.xiaomo.captions.noun_phrases import Things, kinds, number_at, things_of

#: The longest word of Chinese that is looked for, in characters, and of English, in words.
_CHARACTERS, _ENGLISH_WORDS = 10, 4
_LONGEST_ACT = 30
#: What anybody does who sleeps.
SLEEPING = ("睡觉", "睡着了", "睡着", "熟睡", "sleeping", "asleep")
_ENGLISH = re.compile(r"[a-z0-9]+(?:['-][a-z]+)*")
_HAN = re.compile("[\u3400-\u9fff]")
#: What follows a word that tells how something is or is done, or what is done.
_OF_A_QUALITY = re.compile(r"[的地着了过得]")
#: The backdrops that stand for several places, of which a view may be drawn: a lawn for a park, a room for a classroom.
_STAND_INS = frozenset(("grass", "room", "city"))
#: Dishes and drinks that are made of others.
_MADE = "🍞🥐🥖🥨🥞🧇🍔🍟🍕🌭🥪🌮🌯🍲🥗🍿🍱🍙🍚🍛🍜🍝🍣🥮🍡🥟🍦🍧🍨🍩🍪🎂🍰🧁🥧🍫🍬🍭🍮🥛☕🍵🍷🍹🍺🥤🧋"
_OF_A_QUALITY_EN = re.compile(r"(?:ly|ing|ed|ful|ous)$")


@dataclass(frozen=True)
class Token:
    """A word of a clause from ``start`` to ``end``: its ``role`` (of ``descriptions.tsv``, "noun", "count", "colour",
    "size", "mood", "unknown") and the ``value`` of that. A noun may be a thing, an element, a subject or several of
    these.
    """

    start: int
    end: int
    text: str
    role: str
    value: str = ""
    thing: Things | None = None
    element: str = ""
    subject: str = ""

    @property
    def english(self) -> bool:
        """Whether it is a word of English."""
        return self.text.isascii()


def tokens(clause: str, acts: bool = False) -> list[Token]:
    """The words of a clause in its normal form, without blanks; with ``acts`` what people do (打伞) are words, too."""
    found = list(_joined(list(_words(clause, acts))))
    return [_guarded(found, place) for place in range(len(found))]


def _words(clause: str, acts: bool) -> Iterator[Token]:
    at = 0
    while at < len(clause):
        if not (clause[at].isalnum() or ord(clause[at]) > 0x2000):
            at += 1
            continue
        token = _act_at(clause, at) if acts else None
        token = token or (_english_at(clause, at) if clause[at].isascii() else _chinese_at(clause, at))
        yield token
        at = token.end


def _act_at(clause: str, at: int) -> Token | None:
    """The longest word at a place for what people do; of one character none."""
    ends = (end for end in range(min(len(clause), at + _LONGEST_ACT), at + 1, -1))
    whole = (clause[at:end] for end in ends if not clause[at].isascii() or not clause[end : end + 1].isalpha())
    if clause[at].isascii() and clause[at - 1 : at].isalpha():
        return None
    text = next((text for text in whole if text in act_words() or text in SLEEPING), "")
    return Token(at, at + len(text), text, "act") if text else None


def _english_at(clause: str, at: int) -> Token:
    ends: list[int] = []
    place = at
    while len(ends) < _ENGLISH_WORDS and (found := _ENGLISH.match(clause, place)):
        ends.append(found.end())
        if clause[found.end() : found.end() + 1] != " ":
            break
        place = found.end() + 1
    if not ends:
        return Token(at, at + 1, clause[at], "silent")
    for end in reversed(ends):
        token = _token(at, end, clause[at:end])
        if token is not None:
            return token
    number = number_at(clause, at)
    if number is not None:
        return Token(at, number[1], clause[at : number[1]], "count", str(number[0]))
    return Token(at, ends[0], clause[at : ends[0]], "unknown")


def _chinese_at(clause: str, at: int) -> Token:
    number = number_at(clause, at)
    for end in range(min(len(clause), at + _CHARACTERS), at, -1):
        if number is not None and end <= number[1]:
            break
        token = _token(at, end, clause[at:end])
        if token is not None:
            return token
    if number is not None:
        return Token(at, number[1], clause[at : number[1]], "count", str(number[0]))
    return Token(at, at + 1, clause[at], "unknown")


def _token(start: int, end: int, text: str) -> Token | None:
    """The token of a word, None if it is not known."""
    for role in ("backdrop", "zone", "side", "verb", "silent", "mood"):
        value = described_words()[role].get(text)
        if value is not None:
            thing = _thing(text) if role == "backdrop" else None
            if text in kinds() and kinds()[text] in views() and value in _STAND_INS:
                value = kinds()[text]
            return Token(start, end, text, role, value, thing)
    if text in _colours():
        return Token(start, end, text, "colour", _colours()[text])
    if text in _sizes():
        return Token(start, end, text, "size", _sizes()[text])
    noun = _noun(text)
    if noun is not None and noun.thing and noun.thing.kind in views() and not (noun.element or noun.subject):
        if text in _mood_words():  # 深秋的傍晚: said of what is seen rather than seen itself
            return Token(start, end, text, "mood")
        return Token(start, end, text, "backdrop", noun.thing.kind, noun.thing)
    if noun is not None:
        return replace(noun, start=start, end=end, text=text)
    return Token(start, end, text, "mood") if text in _mood_words() else None


def _noun(text: str) -> Token | None:
    thing = _thing(text)
    element = described_words()["element"].get(text, "")
    subject = "" if element else _subjects().get(text, "")
    element = element or element_called(text)
    thing = thing or (things_of(text) if element else None)
    if thing or element or subject:
        return Token(0, 0, text, "noun", "", thing, element, subject)
    row = paraphrases().get(text)
    if row is None:
        return None
    if row.adorns or not row.every(not text.isascii()):
        return Token(0, 0, text, "silent")
    for word in row.plain(not text.isascii()):
        token = _token(0, 0, normal(word)) if normal(word) not in paraphrases() else None
        if token is not None and token.role in ("noun", "backdrop", "mood"):
            return token
    return None


def _thing(text: str) -> Things | None:
    known = text in kinds() or text in paraphrases() or bool(figure_of(text))
    return things_of(text) if known else None


def _joined(found: list[Token]) -> Iterator[Token]:
    """The tokens, with unknown characters beside each other as one word."""
    last: Token | None = None
    for token in found:
        if last is not None and last.role == token.role == "unknown" and last.end == token.start and not token.english:
            last = replace(last, end=token.end, text=last.text + token.text)
            continue
        if last is not None:
            yield last
        last = token
    if last is not None:
        yield last


def _guarded(found: list[Token], place: int) -> Token:
    """A token; a noun that is part of an unknown word is not known: one of one character that touches unknown ones, or
    any that one more character ends (铁路局).
    """
    token = found[place]
    if token.role != "noun" or token.english:
        return token
    before, after, last = (
        found[other] if 0 <= other < len(found) else None for other in (place - 1, place + 1, place + 2)
    )
    follows = _touches(token, after)
    ends = follows and after is not None and len(after.text) == 1 and not (last and last.role == "noun")
    short = token.end - token.start == 1 and (follows or _touches(before, token))
    return replace(token, role="unknown") if short or ends else token


def _touches(first: Token | None, second: Token | None) -> bool:
    """Whether two words stand together of which one is unknown Chinese."""
    if first is None or second is None or first.end != second.start:
        return False
    return any(one.role == "unknown" and not one.english for one in (first, second))


def without_flavours(found: Sequence[Token]) -> list[Token]:
    """The tokens, of which what a dish is made of or tastes of is not known: 巧克力蛋糕 is a cake, no chocolate."""
    kept = list(found)
    within = False
    for place in range(len(kept) - 1, -1, -1):
        token = kept[place]
        of_next = place + 1 < len(kept) and token.end == kept[place + 1].start and not token.english
        if within and of_next and (token.role == "unknown" or (token.role == "noun" and token.thing)):
            kept[place] = replace(token, role="unknown")
        else:
            within = token.role == "noun" and token.thing is not None and token.thing.kind in _made_dishes()
    return kept


@lru_cache(maxsize=1)
def _made_dishes() -> Set[str]:
    return frozenset(map(hexcode, _MADE))


def is_of_a_quality(token: Token, clause: str) -> bool:
    """Whether an unknown word tells how something is or is done rather than what there is."""
    if token.english:
        return _OF_A_QUALITY_EN.search(token.text) is not None
    return _OF_A_QUALITY.match(clause, token.end) is not None or not _HAN.search(token.text)


@lru_cache(maxsize=1)
def _colours() -> Mapping[str, str]:
    return {form: name for word, name in COLOUR_NAMES.items() for form in (word, f"{word}的") if len(form) > 1}


@lru_cache(maxsize=1)
def _sizes() -> Mapping[str, str]:
    return {word: size for size, words in SIZES.items() for word in (*words.zh, *words.en)}


@lru_cache(maxsize=1)
def _subjects() -> Mapping[str, str]:
    return {
        name: subject
        for subject, called in subjects().items()
        for name in called.names()
        if name.isascii() or len(name) > 1
    }


@lru_cache(maxsize=1)
def _mood_words() -> Set[str]:
    named = [mood for values in moods().values() for mood in values.values()]
    words = [word for one in named for word in (*one.zh, *one.en, *one.words)]
    return frozenset((*map(normal, words), *described_words()["mood"]))
