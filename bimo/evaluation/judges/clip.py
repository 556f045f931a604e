"""A CLIP as judge: a phrase counts as seen if its similarity to the picture is higher than to most other pictures.

Cosines differ in scale between CLIPs and between phrases, so each phrase has its own threshold: the cosine that at most
5 % of the pictures of other prompts exceed. CLIP is bad at counting and negations: trust it for objects and places, not
for "exactly three".
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
#: The least number of other pictures for a threshold.
FEWEST = 20


class ClipJudge(Judge):
    """``language`` is that of the scorer's text encoder; ``others`` are the image embeddings of the run by hash."""

    def __init__(self, scorer: Scorer, language: str, others: Mapping[str, NDArray[np.float32]]) -> None:
        self.scorer, self.language, self.others = scorer, language, others
        self.name = f"clip-{language}"

    def identity(self) -> Mapping[str, str]:
        """The weights, the false-accept rate, and a hash of the pictures that thresholds are computed from."""
        pictures_hash = str(hash_of(sorted(self.others)))
        return {
            "judge": self.name,
            "weights": self.scorer.digest,
            "false accepts": str(FALSE_ACCEPTS),
            "by": pictures_hash,
        }

    def answer(self, looks: Sequence[Look]) -> list[Answer]:
        """Yes if the cosine is above the phrase's threshold; no answer for checks only in the other language."""
        phrases = [look.check.phrase(self.language) for look in looks]
        answerable = [look.check.language(self.language) == self.language and not look.check.question for look in looks]
        vectors = self.scorer.words(phrases) if phrases else np.zeros((0, 0), np.float32)
        return [
            self._one(look, vector) if can_answer else Answer("", None)
            for look, vector, can_answer in zip(looks, vectors, answerable, strict=True)
        ]

    def _one(self, look: Look, phrase: NDArray[np.float32]) -> Answer:
        others = [vector for sha, vector in self.others.items() if sha != look.sha256]
        if len(others) < FEWEST:
            return Answer("", None)
        vector = self.others.get(look.sha256)
        if vector is None:
            vector = self.scorer.pictures([_fitted(self.scorer, opened(look.picture))])[0]
        threshold = above_which(np.stack(others) @ phrase, FALSE_ACCEPTS)
        seen = float(vector @ phrase) > threshold
        return Answer(ANSWERS[self.language][not seen], seen == look.check.seen)


def hash_of(names: Sequence[str]) -> str:
    """A short hash of a list of names."""
    import hashlib

    return hashlib.sha256("\n".join(names).encode()).hexdigest()[:16]


def _fitted(scorer: Scorer, picture: Image.Image) -> Image.Image:
    return scorer.fitted(picture)
