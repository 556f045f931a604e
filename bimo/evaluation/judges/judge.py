"""The interface of judges, which answer the checks of prompts by their pictures; answers are cached in a file."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from bimo.evaluation.result_cache import ResultCache
from bimo.evaluation.suites.suite import Check


@dataclass(frozen=True)
class Look:
    """A picture with the hash of its bytes, and a check of its prompt to be answered in ``language``."""

    picture: Path
    sha256: str
    check: Check
    language: str

    def key(self, judge: str) -> str:
        """A hash of what an answer depends on: the judge, the picture's bytes, the question."""
        identity = f"{judge}\n{self.sha256}\n{self.check.question_in(self.language)}"
        return hashlib.sha256(identity.encode()).hexdigest()[:32]


@dataclass(frozen=True)
class Answer:
    """A judge's answer and whether it is right; ``right`` is None without a usable answer."""

    text: str
    right: bool | None


class Judge(ABC):
    """Answers checks. ``name`` is short and has a column in reports."""

    name: str

    @abstractmethod
    def identity(self) -> Mapping[str, str]:
        """What its answers depend on: weights, model, settings; part of the cache key."""

    @abstractmethod
    def answer(self, looks: Sequence[Look]) -> list[Answer]:
        """An answer to each look, in their order."""


def answers(judge: Judge, looks: Sequence[Look], cache: ResultCache, together: int = 64) -> list[Answer]:
    """Answers looks, from the cache where possible; looks without a usable answer are not cached and asked again."""
    name = json.dumps(dict(judge.identity()), sort_keys=True)
    keys = [look.key(name) for look in looks]
    todo = [place for place, key in enumerate(keys) if key not in cache.values]
    new_answers: dict[int, Answer] = {}
    for first in range(0, len(todo), together):
        part = todo[first : first + together]
        for place, answer in zip(part, judge.answer([looks[place] for place in part]), strict=True):
            new_answers[place] = answer
            if answer.right is not None:
                cache.store(keys[place], [answer.text, answer.right])
    return [
        new_answers[place] if place in new_answers else Answer(*cache.values[key]) for place, key in enumerate(keys)
    ]


def opened(path: Path) -> Image.Image:
    """The picture of a look as RGB."""
    with Image.open(path) as image:
        return image.convert("RGB")
