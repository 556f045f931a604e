"""The certificate of an inscription: its text and font, and for each character the method that put it into the picture
and the verdict on it. It is stored in the PNG's metadata and can be checked against the picture again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from bimo.inscription.strokes import Strokes


class Method(StrEnum):
    """How a character came into the picture."""

    DRAWN = "drawn"  # by the model, from the prompt
    CONDITIONED = "conditioned"  # by the model, from the set glyph
    COMPOSED = "composed"  # laid in, in the picture's light


class Verdict(StrEnum):
    """Whether the picture shows the character that was asked for."""

    RIGHT = "right"
    WRONG = "wrong"
    MISSING = "missing"


@dataclass(frozen=True)
class Character:
    """One character: its box (left, top, right, bottom in pixels), the method that put it there, and the verdict.

    ``read_as`` is what OCR read there, "" for nothing; ``reader_knows`` whether OCR reads the clean glyph right.
    """

    character: str
    box: tuple[int, int, int, int]
    method: Method
    verdict: Verdict
    read_as: str
    reader_knows: bool
    strokes: Strokes
    font: str

    @property
    def right(self) -> bool:
        """Whether the character is shown as it was asked for."""
        return self.verdict is Verdict.RIGHT


@dataclass(frozen=True)
class Certificate:
    """The certificate of one inscription. ``fonts`` names each face with its version, licence and SHA-256."""

    text: str
    writing: str
    characters: tuple[Character, ...]
    reader: str
    fonts: tuple[dict[str, str], ...]
    repaired: int

    @property
    def right(self) -> bool:
        """Whether every character is right."""
        return all(one.right for one in self.characters)

    def methods(self) -> dict[str, int]:
        """Method -> number of characters that it put into the picture."""
        return {method.value: sum(one.method is method for one in self.characters) for method in Method}

    def wrong(self) -> Sequence[Character]:
        """The characters that are not right."""
        return [one for one in self.characters if not one.right]

    def as_json(self) -> dict[str, Any]:
        """Plain data for the PNG's record and for ``--json``."""
        data = asdict(self)
        for one in data["characters"]:
            one["strokes"] = {name: round(value, 2) for name, value in one["strokes"].items()}
        return data | {"right": self.right, "methods": self.methods()}


def verdict_of(strokes: Strokes, read_as: str, character: str, clean: str) -> Verdict:
    """The verdict on a character by its strokes and by OCR: ``read_as`` of the picture, ``clean`` of the clean glyph.

    It is right if its strokes are and, where OCR reads the clean glyph right, OCR reads the picture right as well.
    """
    from bimo.inscription.reading import alike

    if strokes.right and (alike(read_as, character) or not alike(clean, character)):
        return Verdict.RIGHT
    return Verdict.MISSING if not read_as and strokes.missing > 4 else Verdict.WRONG
