"""What a face wears (戴墨镜的猫, a cat in a red coat): on it, or below it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache

from bimo.xiaomo.artwork.compositions import Box
from bimo.xiaomo.artwork.held_out import hexcode
from bimo.xiaomo.artwork.places import (
    ACCESSORIES,
    ANIMAL_FACES,
    CLOTHES,
    CLOTHES_BELOW,
    FACE_ABOVE,
    FACE_OF,
    PLAIN_FACES,
    Placed,
)
from bimo.xiaomo.captions.drawn_things import THING
from bimo.xiaomo.captions.noun_phrases import things_of

_HATS = frozenset("👑🎩👒🎓🧢🎀")
_DRAWN_HATS: Mapping[str, Box] = {f"{THING}Santa hat": (0.5, 0.2, 0.5)}
_FACE = (0.5, 0.58, 0.74)


def worn_by(text: str) -> tuple[Placed, ...] | None:
    """A face with what it wears."""
    for pattern in _WORN:
        found = pattern.fullmatch(text)
        face, worn = (things_of(found[name]) for name in "ab") if found else (None, None)
        if face is None or worn is None or face.count != 1 or worn.count != 1:
            continue
        place = _accessories().get(worn.kind)
        code = face_of(face.kind)
        # Glasses sit where the eyes of these faces are; a hat sits on anything.
        if place is not None and (code in _faces() or worn.kind in _hats()):
            return Placed(code, face.colour, _FACE), Placed(worn.kind, worn.colour, place)
        if worn.kind in _clothes() and code in _faces():
            return Placed(worn.kind, worn.colour, CLOTHES_BELOW), Placed(code, face.colour, FACE_ABOVE)
    return None


def is_worn(kind: str) -> bool:
    """Whether a kind (a hexcode) is something that faces wear."""
    return kind in _accessories() or kind in _clothes()


_WORN = (
    re.compile(r"穿着?(?P<b>.+)的(?P<a>.+)"),
    re.compile(r"(?P<a>.+?)身?穿着?(?P<b>.+)"),
    re.compile(r"戴着?(?P<b>.+)的(?P<a>.+)"),
    re.compile(r"(?P<a>.+?)头?戴着?(?P<b>.+)"),
    re.compile(r"(?P<a>.+?)(?: is)? wearing (?P<b>.+)"),
    re.compile(r"(?P<a>.+?) (?:with|in) (?P<b>.+)"),
)


@lru_cache(maxsize=1)
def _accessories() -> Mapping[str, Box]:
    return {**{hexcode(emoji): place for emoji, place in ACCESSORIES.items()}, **_DRAWN_HATS}


@lru_cache(maxsize=1)
def _clothes() -> frozenset[str]:
    return frozenset(map(hexcode, CLOTHES))


@lru_cache(maxsize=1)
def _faces() -> frozenset[str]:
    return frozenset(map(hexcode, ANIMAL_FACES + PLAIN_FACES))


@lru_cache(maxsize=1)
def _hats() -> frozenset[str]:
    return frozenset((*map(hexcode, _HATS), *_DRAWN_HATS))


def face_of(kind: str) -> str:
    """The face of an animal that has one."""
    return next((hexcode(face) for face, body in FACE_OF.items() if hexcode(body) == kind), kind)
