"""Protected text: what stands in quotation marks in a prompt and is to stand in the picture letter by letter."""

from __future__ import annotations

from collections.abc import Sequence

#: Marks that open and close, Chinese and European; a closing one ends the innermost that it fits.
PAIRS = {"「": "」", "『": "』", "﹁": "﹂", "﹃": "﹄", "《": "》", "〈": "〉", "“": "”", "〝": "〞", "«": "»"}
#: Marks that open where nothing is open and close where something is.
STRAIGHT = {'"': '"', "＂": "＂"}
_OPENING = PAIRS | STRAIGHT
_MARKS = frozenset((*_OPENING, *_OPENING.values()))


def quoted(text: str) -> tuple[str, ...]:
    """The texts in quotation marks, in their order, each without marks: one within another is a part of the outer.

    A mark that is never closed protects nothing. Single quotes are apostrophes as often and protect nothing either.
    """
    found: list[str] = []
    waiting: list[str] = []
    start = 0
    for place, character in enumerate(text):
        if waiting and character in waiting:
            while waiting.pop() != character:
                pass
            if not waiting:
                found.append(_bare(text[start:place]))
        elif character in _OPENING:
            start = start if waiting else place + 1
            waiting.append(_OPENING[character])
    # The outermost was not closed: what is inside it still may be.
    rest = quoted(text[start:]) if waiting else ()
    return (*filter(None, found), *rest)


def quoted_spans(text: str) -> list[tuple[int, int]]:
    """From where to where in a text each quotation stands, its marks with it: those of ``quoted``."""
    spans: list[tuple[int, int]] = []
    first = 0
    while first < len(text):
        end = _end(text, first) if text[first] in _OPENING else None
        if end is not None and _bare(text[first:end]):
            spans.append((first, end))
        first = first + 1 if end is None else end
    return spans


def _end(text: str, first: int) -> int | None:
    """Where a quotation that begins at a place ends; None where it is never closed."""
    waiting: list[str] = []
    for place in range(first, len(text)):
        character = text[place]
        if waiting and character in waiting:
            while waiting.pop() != character:
                pass
            if not waiting:
                return place + 1
        elif character in _OPENING:
            waiting.append(_OPENING[character])
    return None


def _bare(text: Sequence[str]) -> str:
    return "".join(character for character in text if character not in _MARKS).strip()
