"""Emphasis in a prompt: (词:1.3) or （词：1.3） makes words count more or less, in full width as in half width.

It is AUTOMATIC1111's syntax with a number; what else has a bracket, a colon and a number stays prose and is told of.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from bimo.core.messages import say

#: What a weight may be: beyond it pictures fall apart, and a number in brackets is no weight.
LOWEST, HIGHEST = 0.0, 2.0
_OPEN, _CLOSE = "(（", ")）"
_ESCAPES = {f"\\{mark}" for mark in _OPEN + _CLOSE}
#: A colon, a number and a closing bracket, any of them full width: the end of an emphasis.
_WEIGHT = re.compile(r"[:：]\s*([-+]?(?:[0-9０-９]+[.．]?[0-9０-９]*|[.．][0-9０-９]+))\s*[)）]")


@dataclass(frozen=True)
class Emphasis:
    """``text`` without its marks, and what counts differently: (start, end, weight), characters of ``text``.

    ``notes`` are what is to be reported it: weights that may have been meant as prose, prose that may have been meant
    as a weight.
    """

    text: str
    spans: tuple[tuple[int, int, float], ...] = ()
    notes: tuple[str, ...] = ()

    def part(self, start: int, end: int) -> Emphasis:
        """What stands between two places, blanks at its ends left out."""
        inside = self.text[start:end]
        start += len(inside) - len(inside.lstrip())
        end = max(start, end - (len(inside) - len(inside.rstrip())))
        kept = [(max(a, start) - start, min(b, end) - start, w) for a, b, w in self.spans]
        return Emphasis(self.text[start:end], tuple((a, b, w) for a, b, w in kept if a < b), self.notes)


def emphasis(prompt: str) -> Emphasis:
    r"""What a prompt says and how much each part of it counts; emphases inside one another multiply.

    Brackets without a number are part of the text, as 《》 and 「」 are: a sentence may have an aside（如此）. Nor do
    (16:9), (比例 1:2) and (上午8:30) weigh anything, nor numbers that are no weight, (第一队:30); ``\(`` is a bracket
    whatever follows.
    """
    text: list[str] = []
    opened: list[int] = []
    spans: list[tuple[int, int, float]] = []
    notes: list[str] = []
    at = 0
    while at < len(prompt):
        ending = _WEIGHT.match(prompt, at) if opened else None
        if prompt[at : at + 2] in _ESCAPES:
            text.append(prompt[at + 1])
            at += 2
            continue
        if ending:
            first = opened[-1]
            inside = "".join(text[first + 1 :])
            weight = float(ending[1].replace("．", "."))  # Python reads full-width digits as they are
            shown = "".join(text[first:]) + ending[0]
            if not LOWEST <= weight <= HIGHEST and not _ratio(inside, ending[1]):
                notes.append(_left(shown, ending[1]))
            elif not _ratio(inside, ending[1]):
                if "." not in ending[1] and "．" not in ending[1]:
                    notes.append(_taken(shown, weight))
                opened.pop()
                del text[first]  # the bracket that it closes
                spans = [(a - (a > first), b - (b > first), w) for a, b, w in spans]
                spans.append((first, len(text), weight))
                at += len(ending[0])
                continue
        if prompt[at] in _OPEN:
            opened.append(len(text))
        elif prompt[at] in _CLOSE and opened:
            opened.pop()
        text.append(prompt[at])
        at += 1
    found = sorted((a, b, w) for a, b, w in spans if a < b and w != 1.0)
    return Emphasis("".join(text), tuple(found), tuple(dict.fromkeys(notes)))


def _ratio(inside: str, number: str) -> bool:
    """Whether a bracket ends in a ratio, a score or a time, (16:9), (比例 1:2): whole numbers about the colon."""
    return inside.strip().isdecimal() or (inside[-1:].isdecimal() and number.isdecimal())


def _left(shown: str, number: str) -> str:
    return say(
        "{shown} is read as it stands: {number} is no weight from {lowest:g} to {highest:g}; to weigh "
        "words write one, for instance (word:1.3); with \\ before the bracket this is not said",
        shown=shown,
        number=number,
        lowest=LOWEST,
        highest=HIGHEST,
    )


def _taken(shown: str, weight: float) -> str:
    return say(
        "{shown} is taken for a weight of {weight:g}; if it is text, put \\ before the bracket",
        shown=shown,
        weight=weight,
    )
