"""Emphasis in a prompt: (词:1.3) or （词：1.3） makes words count more or less, in full width as in half width."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from bimo.core.errors import RequestError

#: What a weight may be: at the ends of it pictures fall apart.
LOWEST, HIGHEST = 0.0, 4.0
_OPEN, _CLOSE = "(（", ")）"
_ESCAPES = {f"\\{mark}" for mark in _OPEN + _CLOSE}
#: A colon, a number and a closing bracket, any of them full width: the end of an emphasis.
_WEIGHT = re.compile(r"[:：]\s*([-+]?[0-9０-９]*[.．]?[0-9０-９]+)\s*[)）]")


@dataclass(frozen=True)
class Emphasis:
    """``text`` without its marks, and what counts differently: (start, end, weight), characters of ``text``."""

    text: str
    spans: tuple[tuple[int, int, float], ...] = ()


def emphasis(prompt: str) -> Emphasis:
    r"""What a prompt says and how much each part of it counts; emphases inside one another multiply.

    Brackets without a number are part of the text, as 《》 and 「」 are: a sentence may have an aside（如此）. Nor do
    (16:9) and (8:30) weigh a number; ``\(`` is a bracket whatever follows. Raises RequestError for a
    weight out of range.
    """
    text: list[str] = []
    opened: list[int] = []
    spans: list[tuple[int, int, float]] = []
    at = 0
    while at < len(prompt):
        ending = _WEIGHT.match(prompt, at)
        if prompt[at : at + 2] in _ESCAPES:
            text.append(prompt[at + 1])
            at += 2
        elif ending and opened and not _number("".join(text[opened[-1] + 1 :])):
            first = opened.pop()
            del text[first]  # the bracket that it closes
            opened = [place for place in opened if place < first]
            spans = [(a - (a > first), b - (b > first), w) for a, b, w in spans]
            spans.append((first, len(text), _checked(ending[1], prompt)))
            at = ending.end()
        else:
            if prompt[at] in _OPEN:
                opened.append(len(text))
            elif prompt[at] in _CLOSE and opened:
                opened.pop()
            text.append(prompt[at])
            at += 1
    return Emphasis("".join(text), tuple(sorted((a, b, w) for a, b, w in spans if a < b and w != 1.0)))


def _number(inside: str) -> bool:
    """Whether a bracket holds a ratio or a time of day, (16:9), which is what it says."""
    return inside.strip().isdecimal()


def _checked(number: str, prompt: str) -> float:
    weight = float(number.replace("．", "."))  # Python reads full-width digits as they are
    if not (math.isfinite(weight) and LOWEST <= weight <= HIGHEST):
        raise RequestError(
            f"提示词 {prompt!r} 里的权重是 {number}，应在 {LOWEST} 到 {HIGHEST} 之间；若不是权重，请在括号前加 \\",
            f"a weight in the prompt {prompt!r} is {number}; expected {LOWEST} to {HIGHEST}; if it is no weight, "
            "put \\ before the bracket",
        )
    return weight
