"""What is asked of a system, what it drew, and each measure of that beside the baselines' and the true pictures'."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Generic, Self, TypeVar

from PIL import Image

from bimo.evaluation.intervals import Interval, share, verdict


@dataclass(frozen=True)
class Question:
    """One prompt. ``key`` is shared by the same question in the other language; what a right picture must show is for
    a class of its own to say.
    """

    group: str
    key: str
    language: str
    text: str
    seed: int = field(default=1, kw_only=True)


AnyQuestion = TypeVar("AnyQuestion", bound=Question)


@dataclass(frozen=True)
class Answers(Generic[AnyQuestion]):
    """One painter's pictures of some questions; a class of its own adds what its judge saw in them."""

    questions: list[AnyQuestion]
    images: list[Image.Image]

    def rows(self, rows: Sequence[int]) -> Self:
        """Some of them, in that order."""
        picked = [self.questions[row] for row in rows], [self.images[row] for row in rows]
        return replace(self, questions=picked[0], images=picked[1])

    def of(self, group: str, language: str | None = None) -> Self:
        """Those of a group, in one language or in all."""
        mine = (n for n, q in enumerate(self.questions) if q.group == group and language in (None, q.language))
        return self.rows(list(mine))

    def mixed(self, most: int) -> Self:
        """At most so many of them, evenly spread."""
        count = len(self.questions)
        return self if count <= most else self.rows([row * count // most for row in range(most)])


AnyAnswers = TypeVar("AnyAnswers", bound=Answers[Any])


@dataclass(frozen=True)
class Figure:
    """One measured number: of which group and measure, in which language ("" for all), beside the baselines'.

    ``unit`` is "share" (Wilson) or "mean" (bootstrap); ``baselines`` has None where a baseline cannot answer;
    ``ceiling`` is what the true pictures of the very things asked for score, in new poses.
    """

    group: str
    measure: str
    language: str
    unit: str
    model: Interval
    baselines: dict[str, Interval | None] = field(default_factory=dict[str, "Interval | None"])
    ceiling: Interval | None = None

    def as_dict(self) -> dict[str, Any]:
        """For JSON, with the verdict on each baseline."""
        verdicts = {n: verdict(self.model, b) for n, b in self.baselines.items() if b is not None}
        return asdict(self) | {"verdicts": verdicts}


def figures(
    measures: Mapping[str, Mapping[str, Callable[[AnyAnswers], list[bool]]]],
    painters: Mapping[str, AnyAnswers | None],
    true: AnyAnswers | None = None,
) -> list[Figure]:
    """Every measure of every group and language: by group, the name of the measure -> which answers are right.

    The first painter is the model, the others are baselines; ``true`` are the true pictures of the questions that have
    one. A group without questions has no figures.
    """
    (_, model), *others = painters.items()
    if model is None:
        raise ValueError("the first painter is the model, and it has drawn nothing")
    done: list[Figure] = []
    for group, named in measures.items():
        for language in ("zh", "en"):
            mine = model.of(group, language)
            if not mine.questions:
                continue
            theirs = {name: None if answers is None else answers.of(group, language) for name, answers in others}
            best = None if true is None else true.of(group, language)
            for name, right in named.items():
                beside = {n: None if answers is None else share(right(answers)) for n, answers in theirs.items()}
                ceiling = share(right(best)) if best is not None and best.questions else None
                done.append(Figure(group, name, language, "share", share(right(mine)), beside, ceiling))
    return done
