"""Text rendering scores: OCR results against the requested text, by the published formulas.

OneIG (arXiv:2506.07977): 1 - min(M, ED) (1 - CR) (1 - WAC) / M over all pictures, without marks. WeGenBench: segments
matched by least edit distance. LongText-Bench (X-Omni): recall of characters regardless of order; here with the
normalised edit distance, which respects their order.
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

#: M in OneIG's score, the cap of the edit distance.
MOST_EDITS = {"zh": 50, "en": 100}
#: Up to this many lines all orders are tried; with more, only the reading order and that of the best matches.
ALL_ORDERS = 5
_BLANKS = re.compile(r"\s+")
#: What OneIG counts: Chinese, Latin (with French accents) and digits.
_COUNTED_BY_ONEIG = re.compile(r"[^\u4e00-\u9fa5a-zA-Z0-9\sàâäéèêëîïôöùûüçÀÂÄÉÈÊËÎÏÔÖÙÛÜÇ]")
_HAN = re.compile("[\u4e00-\u9fff]")


def plain(text: str) -> str:
    """Removes whitespace, nothing else."""
    return _BLANKS.sub("", text)


def ned(first: str, second: str) -> float:
    """Normalised edit distance, by the longer length: 0 for equal texts, 1 if nothing is in common."""
    longest = max(len(first), len(second))
    return edit_distance(first, second) / longest if longest else 0.0


@dataclass(frozen=True)
class Glyphs:
    """Scores of one picture: ``characters``, recall regardless of order; ``similarity``, 1 - NED with the best order of
    lines; ``sentences``, the fraction read exactly; ``f1`` of characters regardless of order; ``exact``, whether
    exactly the requested text was read; and OneIG's counts: ``edits``, and ``matched`` of ``wanted`` characters (of
    words, if no Chinese is requested), both without marks.
    """

    characters: float
    similarity: float
    sentences: float
    f1: float
    exact: bool
    edits: int
    matched: int
    wanted: int


def glyphs(wanted: Sequence[str], read: Sequence[str]) -> Glyphs:
    """Compares the requested text segments with the lines that OCR read. Raises ValueError if no text is requested."""
    segments, lines = [plain(part) for part in wanted if plain(part)], [plain(part) for part in read if plain(part)]
    if not segments:
        raise ValueError("no text is wanted")
    wanted_counts, read_counts = Counter("".join(segments)), Counter("".join(lines))
    matched = (wanted_counts & read_counts).total()
    return Glyphs(
        characters=matched / wanted_counts.total(),
        similarity=_similarity("".join(segments), lines),
        sentences=_sentences([part.lower() for part in segments], [line.lower() for line in lines]),
        f1=2 * matched / (wanted_counts.total() + read_counts.total()),
        exact="".join(segments) == "".join(lines),
        **_oneig_counts(wanted, read),
    )


def _oneig_counts(wanted: Sequence[str], read: Sequence[str]) -> dict[str, int]:
    first, second = (_counted_by_oneig(parts) for parts in (wanted, read))
    units, found = (list(first), list(second)) if _HAN.search(first) else (first.split(), second.split())
    matched = (Counter(units) & Counter(found)).total()
    return {"edits": edit_distance(first, second), "matched": matched, "wanted": len(units)}


def _counted_by_oneig(parts: Sequence[str]) -> str:
    text = _COUNTED_BY_ONEIG.sub("", " ".join(parts))
    return _BLANKS.sub("" if _HAN.search(text) else " ", text).strip()


def oneig(results: Sequence[Glyphs], language: str = "zh") -> float:
    """OneIG's text score over all pictures, from the mean edit distance ED, the fraction CR of exact pictures, and the
    fraction WAC of matched characters over all pictures.
    """
    edit_limit = MOST_EDITS[language]
    edits = sum(one.edits for one in results) / len(results)
    correct = sum(one.edits == 0 for one in results) / len(results)
    # Texts of marks alone have nothing that is counted.
    matched = sum(one.matched for one in results) / max(1, sum(one.wanted for one in results))
    return 1 - min(edit_limit, edits) * (1 - correct) * (1 - matched) / edit_limit


def _similarity(wanted: str, lines: Sequence[str]) -> float:
    """WeGenBench's edit_sim: 1 - NED of all lines in their best order."""
    if not lines:
        return 0.0
    if len(lines) <= ALL_ORDERS:
        orders = list(permutations(lines))
    else:
        orders = [tuple(lines), tuple(sorted(lines, key=lambda line: _place(wanted, line)))]
    return 1 - min(ned(wanted, "".join(order)) for order in orders)


def _place(wanted: str, line: str) -> int:
    """The offset in ``wanted`` at which a line matches the most characters."""
    matches = [sum(a == b for a, b in zip(wanted[at:], line, strict=False)) for at in range(len(wanted))]
    return int(np.argmax(matches))


def _sentences(wanted: Sequence[str], lines: Sequence[str]) -> float:
    """WeGenBench's sen_acc: the fraction of exact segments after Hungarian matching by edit distance."""
    from scipy.optimize import linear_sum_assignment

    if not lines:
        return 0.0
    cost = np.array([[ned(part, line) for line in lines] for part in wanted])
    rows, columns = linear_sum_assignment(cost)
    return sum(wanted[r] == lines[c] for r, c in zip(rows, columns, strict=True)) / len(wanted)
