"""Text in pictures as a reader (OCR) gives it, against the text that was asked for, by the published formulas.

OneIG (arXiv:2506.07977): 1 - min(M, ED) (1 - CR) (1 - WAC) / M over all pictures. WeGenBench: segments matched by the
least edit distance. LongText-Bench (X-Omni): characters recalled whatever their order; beside it here the normalised
edit distance, which sees their order.
"""

# scipy has no types.
# pyright: reportMissingTypeStubs=false, reportUnknownArgumentType=false, reportUnknownVariableType=false

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations

import numpy as np

from bimo.curation.filters.ocr import edit_distance

#: The most that an edit distance counts in OneIG's score.
MOST_EDITS = {"zh": 50, "en": 100}
#: As many lines are tried in every order; of more, as they were read and by where they fit best.
ALL_ORDERS = 5
_BLANKS = re.compile(r"\s+")


def plain(text: str) -> str:
    """Without blanks; no other character is left out or folded."""
    return _BLANKS.sub("", text)


def ned(first: str, second: str) -> float:
    """Edit distance over the longer length: 0 for equal texts, 1 for texts without anything in common."""
    longest = max(len(first), len(second))
    return edit_distance(first, second) / longest if longest else 0.0


@dataclass(frozen=True)
class Glyphs:
    """Of one picture: ``characters`` recalled whatever their order (a share); ``similarity``, 1 - NED with the best
    order of lines; ``sentences`` read whole (a share); ``edits`` and ``matched`` of ``wanted`` characters as OneIG
    counts them; ``f1`` of characters whatever their order.
    """

    characters: float
    similarity: float
    sentences: float
    f1: float
    edits: int
    matched: int
    wanted: int

    @property
    def whole(self) -> bool:
        """Whether all that was wanted, and nothing else, is read."""
        return self.edits == 0


def glyphs(wanted: Sequence[str], read: Sequence[str]) -> Glyphs:
    """Segments that should stand in a picture, and the lines that are read of it. Raises ValueError where nothing is
    wanted.
    """
    asked, lines = [plain(part) for part in wanted if plain(part)], [plain(part) for part in read if plain(part)]
    if not asked:
        raise ValueError("no text is wanted")
    whole, found = Counter("".join(asked)), Counter("".join(lines))
    matched = (whole & found).total()
    return Glyphs(
        characters=matched / whole.total(),
        similarity=_similarity("".join(asked), lines),
        sentences=_sentences([part.lower() for part in asked], [line.lower() for line in lines]),
        f1=2 * matched / (whole.total() + found.total()),
        edits=edit_distance("".join(asked), "".join(lines)),
        matched=matched,
        wanted=whole.total(),
    )


def oneig(found: Sequence[Glyphs], language: str = "zh") -> float:
    """OneIG's text score over all pictures: the mean edit distance ED, the share CR that is whole, the share WAC of
    matched characters of all pictures together.
    """
    most = MOST_EDITS[language]
    edits = sum(one.edits for one in found) / len(found)
    whole = sum(one.whole for one in found) / len(found)
    matched = sum(one.matched for one in found) / sum(one.wanted for one in found)
    return 1 - min(most, edits) * (1 - whole) * (1 - matched) / most


def _similarity(wanted: str, lines: Sequence[str]) -> float:
    """WeGenBench's edit_sim: 1 - NED of all lines in the order that fits best."""
    if not lines:
        return 0.0
    if len(lines) <= ALL_ORDERS:
        orders = list(permutations(lines))
    else:
        orders = [tuple(lines), tuple(sorted(lines, key=lambda line: _place(wanted, line)))]
    return 1 - min(ned(wanted, "".join(order)) for order in orders)


def _place(wanted: str, line: str) -> int:
    """Where a line agrees with the most characters of what is wanted."""
    agree = [sum(a == b for a, b in zip(wanted[at:], line, strict=False)) for at in range(len(wanted))]
    return int(np.argmax(agree))


def _sentences(wanted: Sequence[str], lines: Sequence[str]) -> float:
    """WeGenBench's sen_acc: of segments and lines matched by the least edit distance (Hungarian), the equal share."""
    from scipy.optimize import linear_sum_assignment

    if not lines:
        return 0.0
    cost = np.array([[ned(part, line) for line in lines] for part in wanted])
    rows, columns = linear_sum_assignment(cost)
    return sum(wanted[r] == lines[c] for r, c in zip(rows, columns, strict=True)) / len(wanted)
