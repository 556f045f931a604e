"""Image-text similarity by a CLIP, with a threshold that can be chosen by the user's own data.

Typical scores differ between models: unrelated pairs lie near 0.1 by one and near 0.4 by another. So each picture is
also scored against the captions of another row, and the threshold can be given by the share of those that it lets pass.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from bimo.core.errors import DataError, RecipeError
from bimo.curation.steps import Pair, ScorerStep, Scores, Table, Tools, Verdict

if TYPE_CHECKING:
    pass

#: Least rows for choosing a threshold: of fewer, one in twenty is a single row or two.
FEWEST = 50
MATCHED, SHUFFLED = "similarity", "similarity_shuffled"


@dataclass(frozen=True, kw_only=True)
class Similarity(ScorerStep):
    """Keeps pairs whose best caption has a cosine similarity to the picture above a threshold, by ``scorer``, a
    system's name or folder.

    The threshold is given in one of three ways: ``above`` a cosine; so that the ``top`` share of the rows is above it
    (0.3: the best 30 %); or so that at most the share ``false_accepts`` of pictures with another row's captions is. The
    last two are chosen by the rows that are left at this step; ``line``, ``rows``, ``shuffled`` and ``area`` then
    record the result: the cosine, the number of rows and of shuffled pairs, and the probability that a matched pair
    scores higher than a shuffled one (the area under the ROC curve). Raises RecipeError where not exactly one is given.
    """

    says: ClassVar[tuple[str, str]] = ("图文不符", "caption does not fit the picture")
    score: ClassVar[str] = MATCHED

    above: float | None = None
    top: float | None = None
    false_accepts: float | None = None
    line: float | None = None
    rows: int = 0
    shuffled: int = 0
    area: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        settings = {"above": self.above, "top": self.top, "false_accepts": self.false_accepts}
        named = [name for name, value in settings.items() if value is not None]
        if len(named) != 1:
            listed = ", ".join(named) or "-"
            raise RecipeError("Similarity wants one of above, top and false_accepts; given: {listed}", listed=listed)
        for name in ("top", "false_accepts"):
            share = settings[name]
            if share is not None and not 0 < share < 1:
                raise RecipeError(
                    "{name} of Similarity is {share}; expected a share between 0 and 1", name=name, share=share
                )

    def measuring(self, tools: Tools) -> str:
        """The version of what is measured, and the weights of the scorer."""
        return f"Similarity/2 {tools.scorer(self.scorer).digest}"

    def open(self, tools: Tools) -> Callable[[Sequence[Pair]], list[Scores]]:
        """Loads the scorer. Every picture and every caption of a batch is encoded once."""
        scorer = tools.scorer(self.scorer)

        def measured(pairs: Sequence[Pair]) -> list[Scores]:
            texts = {text: at for at, text in enumerate(dict.fromkeys(t for pair in pairs for t in pair.captions))}
            if not texts:
                return [{MATCHED: None, SHUFFLED: None} for _ in pairs]
            cosines = scorer.pictures([pair.picture for pair in pairs]) @ scorer.words(list(texts)).T
            others = strangers(pairs)
            results: list[Scores] = []
            for row, (pair, other) in enumerate(zip(pairs, others, strict=True)):
                own = [float(cosines[row, texts[text]]) for text in pair.captions]
                far = [float(cosines[row, texts[text]]) for text in (pairs[other].captions if other >= 0 else ())]
                scores: dict[str, Any] = {MATCHED: max(own, default=None), SHUFFLED: max(far, default=None)}
                if len(own) > 1:
                    scores["similarities"] = json.dumps([round(value, 6) for value in own])
                results.append(scores)
            return results

        return measured

    def settled(self, table: Table) -> Self:
        """The step with its threshold chosen. Raises DataError for fewer than FEWEST rows or shuffled pairs."""
        if self.above is not None:
            return dataclasses.replace(self, line=self.above)
        matched, shuffled = (_numbers(table.column(name)) for name in (MATCHED, SHUFFLED))
        if min(len(matched), len(shuffled)) < FEWEST:
            raise DataError(
                "{count} pairs with a score and {count_2} shuffled ones do not settle the line of Similarity (at "
                "least {fewest}); give above=COSINE instead",
                count=len(matched),
                count_2=len(shuffled),
                fewest=FEWEST,
            )
        if self.top is not None:
            line = above_which(matched, self.top)
        else:
            assert self.false_accepts is not None
            line = above_which(shuffled, self.false_accepts)
        return dataclasses.replace(
            self, line=line, rows=len(matched), shuffled=len(shuffled), area=round(area(matched, shuffled), 6)
        )

    def judge(self, scores: Scores) -> Verdict | None:
        """Raises DataError where the threshold has not been chosen yet."""
        line = self.above if self.line is None else self.line
        if line is None:
            raise DataError("the line of Similarity is not settled yet")
        value = scores.get(MATCHED)
        # Written so that NaN is not above the threshold.
        if isinstance(value, (int, float)) and value > line:
            return None
        return Verdict("" if value is None else value, line)


def strangers(pairs: Sequence[Pair]) -> list[int]:
    """For each pair the place of the next pair by number, cyclically, that has none of its captions; -1 where all share
    one.
    """
    order = sorted(range(len(pairs)), key=lambda place: pairs[place].number)
    partners = [-1] * len(pairs)
    for rank, place in enumerate(order):
        own = set(pairs[place].captions)
        for step in range(1, len(order)):
            other = order[(rank + step) % len(order)]
            if pairs[other].captions and own.isdisjoint(pairs[other].captions):
                partners[place] = other
                break
    return partners


def above_which(values: np.ndarray, share: float) -> float:
    """The least of some values [N] such that at most that share of them is above it."""
    # Shares such as 0.3 are not exact in binary: 0.3 of 10 is 3.
    above = int(np.floor(share * len(values) + 1e-9))
    return float(np.sort(values)[len(values) - 1 - above])


def area(matched: np.ndarray, shuffled: np.ndarray) -> float:
    """The probability that one of the first is higher than one of the second, ties counting half (Mann-Whitney)."""
    ordered = np.sort(shuffled)
    below, not_above = (np.searchsorted(ordered, matched, side).astype(np.int64) for side in ("left", "right"))
    return float((below.sum() + not_above.sum()) / (2 * len(matched) * len(shuffled)))


def _numbers(column: np.ndarray) -> np.ndarray:
    values = np.array([np.nan if value is None else value for value in column], np.float64)
    return values[np.isfinite(values)]
