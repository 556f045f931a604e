"""What a judge is: it answers the checks of prompts by looking at their pictures; answers are kept in a file."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from bimo.evaluation.kept import Kept
from bimo.evaluation.suites.suite import Check


@dataclass(frozen=True)
class Look:
    """A picture, what its bytes hash to, and a check of its prompt that is to be answered in ``language``."""

    picture: Path
    sha256: str
    check: Check
    language: str

    def key(self, judge: str) -> str:
        """What an answer depends on: the picture's bytes, the question, who is asked."""
        asked = f"{judge}\n{self.sha256}\n{self.check.asked(self.language)}"
        return hashlib.sha256(asked.encode()).hexdigest()[:32]


@dataclass(frozen=True)
class Answer:
    """What was said, and whether that is the right answer; None where nothing could be said."""

    said: str
    right: bool | None


class Judge(ABC):
    """Answers checks. ``name`` is short and has a column in reports."""

    name: str

    @abstractmethod
    def identity(self) -> Mapping[str, str]:
        """What its answers depend on: weights, model, settings."""

    @abstractmethod
    def answer(self, looks: Sequence[Look]) -> list[Answer]:
        """An answer to each look, in their order."""


def answers(judge: Judge, looks: Sequence[Look], kept: Kept, together: int = 64) -> list[Answer]:
    """The answers to looks, those that are known from what is kept; what got no answer is asked again next time."""
    name = json.dumps(dict(judge.identity()), sort_keys=True)
    keys = [look.key(name) for look in looks]
    todo = [place for place, key in enumerate(keys) if key not in kept.known]
    found: dict[int, Answer] = {}
    for first in range(0, len(todo), together):
        part = todo[first : first + together]
        for place, answer in zip(part, judge.answer([looks[place] for place in part]), strict=True):
            found[place] = answer
            if answer.right is not None:
                kept.keep(keys[place], [answer.said, answer.right])
    return [found[place] if place in found else Answer(*kept.known[key]) for place, key in enumerate(keys)]


def opened(path: Path) -> Image.Image:
    """The picture of a look as RGB."""
    with Image.open(path) as image:
        return image.convert("RGB")
