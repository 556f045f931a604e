"""Questions to a system, its answers, and measures of them next to those of baselines and ground-truth pictures."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Generic, Self, TypeVar

from PIL import Image

from bimo.evaluation.intervals import Interval, share, verdict


@dataclass(frozen=True)
class Question:
    """One prompt. The same question in the other language has the same ``key``; subclasses add what a right picture
    must show.
    """

    group: str
    key: str
    language: str
    text: str
    seed: int = field(default=1, kw_only=True)


AnyQuestion = TypeVar("AnyQuestion", bound=Question)


@dataclass(frozen=True)
class Answers(Generic[AnyQuestion]):
    """One painter's pictures for some questions; subclasses add what a judge saw in them."""

    questions: list[AnyQuestion]
    images: list[Image.Image]

    def rows(self, rows: Sequence[int]) -> Self:
        """The answers of these rows, in this order."""
        picked = [self.questions[row] for row in rows], [self.images[row] for row in rows]
        return replace(self, questions=picked[0], images=picked[1])

    def of(self, group: str, language: str | None = None) -> Self:
        """The answers of a group, in one language or all."""
        numbers = (n for n, q in enumerate(self.questions) if q.group == group and language in (None, q.language))
        return self.rows(list(numbers))

    def mixed(self, most: int) -> Self:
        """At most ``most`` of them, evenly spaced."""
        count = len(self.questions)
        return self if count <= most else self.rows([row * count // most for row in range(most)])


AnyAnswers = TypeVar("AnyAnswers", bound=Answers[Any])


@dataclass(frozen=True)
class Figure:
    """One measure of a group in a language ("" for all), with the baselines' values.

    ``unit`` is "share" (Wilson) or "mean" (bootstrap); ``baselines`` has None if a baseline cannot answer; ``ceiling``
    is the score of true pictures of the requested things, in new poses.
    """

    group: str
    measure: str
    language: str
    unit: str
    model: Interval
    baselines: dict[str, Interval | None] = field(default_factory=dict[str, "Interval | None"])
    ceiling: Interval | None = None

    def as_dict(self) -> dict[str, Any]:
        """JSON-compatible, with the verdict against each baseline."""
        verdicts = {n: verdict(self.model, b) for n, b in self.baselines.items() if b is not None}
        return asdict(self) | {"verdicts": verdicts}


def figures(
    measures: Mapping[str, Mapping[str, Callable[[AnyAnswers], list[bool]]]],
    painters: Mapping[str, AnyAnswers | None],
    true: AnyAnswers | None = None,
) -> list[Figure]:
    """Computes every measure for every group and language; ``measures`` maps group and name to a function that returns
    which answers are right.

    The first painter is the model, the others are baselines; ``true`` are the true pictures for the questions that have
    one. Groups without questions are skipped.
    """
    (_, model), *others = painters.items()
    if model is None:
        raise ValueError("the first painter is the model, and it has drawn nothing")
    results: list[Figure] = []
    for group, measures_by_name in measures.items():
        for language in ("zh", "en"):
            model_answers = model.of(group, language)
            if not model_answers.questions:
                continue
            other_answers = {name: None if answers is None else answers.of(group, language) for name, answers in others}
            true_answers = None if true is None else true.of(group, language)
            for name, right in measures_by_name.items():
                baselines = {
                    n: None if answers is None else share(right(answers)) for n, answers in other_answers.items()
                }
                ceiling = share(right(true_answers)) if true_answers is not None and true_answers.questions else None
                results.append(Figure(group, name, language, "share", share(right(model_answers)), baselines, ceiling))
    return results
