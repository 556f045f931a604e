"""What is held out of training, by a hash of its content: pairs of scene and style, verses, dishes in a vessel."""

from __future__ import annotations

import hashlib

ONE_IN = 12


def _share(*parts: str) -> int:
    digest = hashlib.sha256(":".join(parts).encode()).digest()
    return int.from_bytes(digest[:8], "big")


def held_out_scene(subject: str, style: str) -> bool:
    """Whether a subject is held out in a style: one pair in twelve."""
    return _share("scene", subject, style) % ONE_IN == 0


def held_out_verse(line: str) -> bool:
    """Whether a verse is held out of all captions, whatever its punctuation and spaces. One in ten."""
    letters = "".join(character for character in line if character.isalnum())
    return _share("verse", letters) % 10 == 0


def held_out_dish(dish: str, vessel: str) -> bool:
    """Whether a dish is held out in a vessel: one pair in twelve, never the first vessel of the table, for which
    `vessel` is left empty.
    """
    return bool(vessel) and _share("dish", dish, vessel) % ONE_IN == 0
