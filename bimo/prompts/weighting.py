"""Prompt weighting: (词:1.3) or （词：1.3） changes the weight of words, in half and full width.

The syntax is AUTOMATIC1111's with an explicit number; other text in brackets with a colon and a number stays prose and
is reported.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from bimo.core.messages import say

#: The range of weights. Outside it pictures fall apart; such a number is taken as prose.
LOWEST, HIGHEST = 0.0, 2.0
_OPEN, _CLOSE = "(（", ")）"
_ESCAPES = {f"\\{mark}" for mark in _OPEN + _CLOSE}
#: A colon, a number and a closing bracket, any of them full width: the end of an emphasis.
_WEIGHT = re.compile(r"[:：]\s*([-+]?(?:[0-9０-９]+[.．]?[0-9０-９]*|[.．][0-9０-９]+))\s*[)）]")


@dataclass(frozen=True)
class Emphasis:
    """``text`` without the markup, and the weighted ``spans``: (start, end, weight) in characters of ``text``.

    ``notes`` are sentences about ambiguous cases: weights that may have been meant as prose, and the reverse.
    """

    text: str
    spans: tuple[tuple[int, int, float], ...] = ()
    notes: tuple[str, ...] = ()

    def part(self, start: int, end: int) -> Emphasis:
        """The part between two positions, with surrounding whitespace stripped."""
        inside = self.text[start:end]
        start += len(inside) - len(inside.lstrip())
        end = max(start, end - (len(inside) - len(inside.rstrip())))
        spans = [(max(a, start) - start, min(b, end) - start, w) for a, b, w in self.spans]
        return Emphasis(self.text[start:end], tuple((a, b, w) for a, b, w in spans if a < b), self.notes)


def emphasis(prompt: str) -> Emphasis:
    r"""Parses the weights of a prompt; nested weights multiply.

    Brackets without a number are text, as 《》 and 「」 are: a sentence may have an aside（如此）. So are ratios and
    times, (16:9), (比例 1:2), (上午8:30), and numbers outside the range of weights, (第一队:30). ``\(`` is always a
    literal bracket.
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
            bracket_text = "".join(text[first:]) + ending[0]
            if not LOWEST <= weight <= HIGHEST and not _ratio(inside, ending[1]):
                notes.append(_prose_note(bracket_text, ending[1]))
            elif not _ratio(inside, ending[1]):
                if "." not in ending[1] and "．" not in ending[1]:
                    notes.append(_weight_note(bracket_text, weight))
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
    weighted = sorted((a, b, w) for a, b, w in spans if a < b and w != 1.0)
    return Emphasis("".join(text), tuple(weighted), tuple(dict.fromkeys(notes)))


def _ratio(inside: str, number: str) -> bool:
    """Whether a bracket ends in a ratio, a score or a time, (16:9), (比例 1:2): integers on both sides of the colon."""
    return inside.strip().isdecimal() or (inside[-1:].isdecimal() and number.isdecimal())


def _prose_note(bracket_text: str, number: str) -> str:
    return say(
        "{shown} is read as it stands: {number} is no weight from {lowest:g} to {highest:g}; to weigh "
        "words write one, for instance (word:1.3); with \\ before the bracket this is not said",
        shown=bracket_text,
        number=number,
        lowest=LOWEST,
        highest=HIGHEST,
    )


def _weight_note(bracket_text: str, weight: float) -> str:
    return say(
        "{shown} is taken for a weight of {weight:g}; if it is text, put \\ before the bracket",
        shown=bracket_text,
        weight=weight,
    )
