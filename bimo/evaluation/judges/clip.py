"""A CLIP as judge: a phrase is seen where the picture is nearer to it than most other prompts' pictures are.

What cosine is high differs from CLIP to CLIP and from phrase to phrase, so each phrase has a line of its own: the
cosine that at most one in twenty pictures of other prompts reaches. A CLIP counts badly and does not read negations:
trust it for things and places, not for "exactly three".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bimo.curation.filters.similarity import above_which
from bimo.curation.steps import Scorer
from bimo.evaluation.judges.judge import Answer, Judge, Look, opened
from bimo.evaluation.suites.suite import ANSWERS

FALSE_ACCEPTS = 0.05
#: Fewer other pictures give no line.
FEWEST = 20


class ClipJudge(Judge):
    """``scorer`` looks, ``language`` is that of its text encoder, ``others`` are the run's pictures by their hash."""

    def __init__(self, scorer: Scorer, language: str, others: Mapping[str, NDArray[np.float32]]) -> None:
        self.scorer, self.language, self.others = scorer, language, others
        self.name = f"clip-{language}"

    def identity(self) -> Mapping[str, str]:
        """The weights, the share of false accepts, and the pictures that lines are drawn by."""
        rest = str(hash_of(sorted(self.others)))
        return {"judge": self.name, "weights": self.scorer.digest, "false accepts": str(FALSE_ACCEPTS), "by": rest}

    def answer(self, looks: Sequence[Look]) -> list[Answer]:
        """Yes where the cosine is above the phrase's line; none for a check in the other language alone."""
        phrases = [look.check.phrase(self.language) for look in looks]
        mine = [look.check.language(self.language) == self.language and not look.check.question for look in looks]
        vectors = self.scorer.words(phrases) if phrases else np.zeros((0, 0), np.float32)
        return [
            self._one(look, vector) if own else Answer("", None)
            for look, vector, own in zip(looks, vectors, mine, strict=True)
        ]

    def _one(self, look: Look, phrase: NDArray[np.float32]) -> Answer:
        others = [vector for sha, vector in self.others.items() if sha != look.sha256]
        if len(others) < FEWEST:
            return Answer("", None)
        own = self.others.get(look.sha256)
        if own is None:
            own = self.scorer.pictures([_fitted(self.scorer, opened(look.picture))])[0]
        line = above_which(np.stack(others) @ phrase, FALSE_ACCEPTS)
        seen = float(own @ phrase) > line
        return Answer(ANSWERS[self.language][not seen], seen == look.check.seen)


def hash_of(names: Sequence[str]) -> str:
    """A short name of many."""
    import hashlib

    return hashlib.sha256("\n".join(names).encode()).hexdigest()[:16]


def _fitted(scorer: Scorer, picture: Image.Image) -> Image.Image:
    return scorer.fitted(picture)
