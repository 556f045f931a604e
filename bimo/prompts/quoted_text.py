"""Quoted text in a prompt, which has to appear in the picture letter by letter and is protected from rewriting."""

from __future__ import annotations

from collections.abc import Sequence

#: Opening and closing marks, Chinese and European; a closing mark ends the innermost quotation that it matches.
PAIRS = {"「": "」", "『": "』", "﹁": "﹂", "﹃": "﹄", "《": "》", "〈": "〉", "“": "”", "〝": "〞", "«": "»"}
#: Marks that both open and close.
STRAIGHT = {'"': '"', "＂": "＂"}
_OPENING = PAIRS | STRAIGHT
_MARKS = frozenset((*_OPENING, *_OPENING.values()))


def quoted(text: str) -> tuple[str, ...]:
    """The quoted texts in order, without their marks; nested quotations are part of the outer one.

    Unclosed marks are ignored. So are single quotes, which may be apostrophes.
    """
    texts: list[str] = []
    expected_closings: list[str] = []
    start = 0
    for place, character in enumerate(text):
        if expected_closings and character in expected_closings:
            while expected_closings.pop() != character:
                pass
            if not expected_closings:
                texts.append(_bare(text[start:place]))
        elif character in _OPENING:
            start = start if expected_closings else place + 1
            expected_closings.append(_OPENING[character])
    # The outermost mark was not closed: look for quotations inside it.
    rest = quoted(text[start:]) if expected_closings else ()
    return (*filter(None, texts), *rest)


def quoted_spans(text: str) -> list[tuple[int, int]]:
    """The spans of the quotations that ``quoted`` returns, including their marks."""
    spans: list[tuple[int, int]] = []
    first = 0
    while first < len(text):
        end = _end(text, first) if text[first] in _OPENING else None
        if end is not None and _bare(text[first:end]):
            spans.append((first, end))
        first = first + 1 if end is None else end
    return spans


def _end(text: str, first: int) -> int | None:
    """The end of the quotation that begins at ``first``, None if it is never closed."""
    expected_closings: list[str] = []
    for place in range(first, len(text)):
        character = text[place]
        if expected_closings and character in expected_closings:
            while expected_closings.pop() != character:
                pass
            if not expected_closings:
                return place + 1
        elif character in _OPENING:
            expected_closings.append(_OPENING[character])
    return None


def _bare(text: Sequence[str]) -> str:
    return "".join(character for character in text if character not in _MARKS).strip()
