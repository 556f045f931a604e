"""Steps of every kind, small enough to know their answers; loaded by name, so that worker processes have them too."""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from bimo.core.errors import DataError
from bimo.curation.decoded_image import DecodedImage
from bimo.curation.executors.executor import LossyTask
from bimo.curation.steps import (
    CaptionStep,
    Change,
    ModelStep,
    Pair,
    PictureStep,
    Scores,
    Table,
    TableStep,
    Tools,
    Verdict,
    WriterStep,
)


def no_scorer(name: str) -> Any:
    """For steps that need none."""
    raise AssertionError(name)


@dataclass(frozen=True, kw_only=True)
class Wide(PictureStep):
    """At least so wide; fails where the width is ``fails``, kills its process where it is ``kills``."""

    pixels: int = 0
    fails: int = -1
    kills: int = -1
    says: ClassVar[tuple[str, str]] = ("太窄", "too narrow")
    score: ClassVar[str] = "across"

    def measuring(self) -> str:
        return "Wide/1"

    def measure(self, picture: DecodedImage) -> Scores:
        if picture.size[0] == self.fails:
            raise ValueError("that width")
        if picture.size[0] == self.kills:
            os.kill(os.getpid(), signal.SIGKILL)
        return {"across": picture.size[0]}

    def judge(self, scores: Scores) -> Verdict | None:
        across = scores["across"]
        assert isinstance(across, int)
        return Verdict(across, self.pixels) if across < self.pixels else None


@dataclass(frozen=True, kw_only=True)
class Bright(PictureStep):
    """At most so bright."""

    below: float = 256.0
    says: ClassVar[tuple[str, str]] = ("太亮", "too bright")
    score: ClassVar[str] = "light"

    def measuring(self) -> str:
        return "Bright/1"

    def measure(self, picture: DecodedImage) -> Scores:
        return {"light": float(np.asarray(picture.image.convert("L")).mean()), "hash": (1 << 63) + picture.size[0]}

    def judge(self, scores: Scores) -> Verdict | None:
        light = scores["light"]
        assert isinstance(light, float)
        assert isinstance(scores["hash"], int)
        return Verdict(light, self.below) if light >= self.below else None


@dataclass(frozen=True, kw_only=True)
class Mend(CaptionStep):
    """Takes adverts off captions and drops those that are nothing else."""

    advert: str = "包邮"
    says: ClassVar[tuple[str, str]] = ("广告", "an advert")

    def caption(self, text: str) -> str | Verdict:
        if text == "raise":
            raise KeyError(text)
        return text.replace(self.advert, "") or Verdict(text, self.advert)


@dataclass(frozen=True, kw_only=True)
class Common(TableStep):
    """Drops rows whose first caption is there more often than ``most`` times; the others say how often."""

    most: int = 3
    says: ClassVar[tuple[str, str]] = ("太常见", "too frequent")

    def select(self, table: Table) -> Iterator[Change]:
        counts = Counter(texts[0] for _, texts in table.captions())
        for number, texts in table.captions():
            count = counts[texts[0]]
            if count > self.most:
                yield Change(number, Verdict(count, self.most))
            else:
                yield Change(number, labels={"often": count})


@dataclass(frozen=True, kw_only=True)
class Twice(TableStep):
    """Writes the widest rows that are left twice, by columns of other steps."""

    says: ClassVar[tuple[str, str]] = ("重复", "repeated")

    def select(self, table: Table) -> Iterator[Change]:
        across = table.column("across")
        assert table.column("hash").dtype == np.uint64
        assert set(table.column("guess")) <= {0.0, 1.0, 2.0}
        for number in table.numbers[across == across.max()].tolist():
            yield Change(number, repeats=2)


@dataclass(frozen=True, kw_only=True)
class Guess(ModelStep):
    """A model that sees three kinds of pictures; writes into ``log`` how many it was asked about."""

    log: str
    above: float = -1.0
    top: bool = False
    says: ClassVar[tuple[str, str]] = ("不像", "unlikely")
    score: ClassVar[str] = "guess"

    def measuring(self, tools: Tools) -> str:
        return "Guess/1"

    def open(self, tools: Tools) -> Callable[[Sequence[Pair]], list[Scores]]:
        def asked(pairs: Sequence[Pair]) -> list[Scores]:
            if any("poison" in pair.captions for pair in pairs):
                raise OverflowError("poison")
            with Path(self.log).open("a") as file:
                file.write("".join(f"{pair.number}\n" for pair in pairs))
            return [{"guess": float(pair.picture.width % 3)} for pair in pairs]

        return asked

    def settled(self, table: Table) -> Guess:
        if not self.top:
            return self
        return Guess(log=self.log, above=float(np.nanmax(table.column("guess"))) - 0.5)

    def judge(self, scores: Scores) -> Verdict | None:
        guess = scores["guess"]
        assert isinstance(guess, float)
        return Verdict(guess, self.above) if guess <= self.above else None


@dataclass(frozen=True, kw_only=True)
class Tell(WriterStep):
    """Adds a caption to each row, and has none for very narrow pictures."""

    log: str
    says: ClassVar[tuple[str, str]] = ("没话说", "nothing to say")

    def measuring(self, tools: Tools) -> str:
        return "Tell/1"

    def write(self, tools: Tools) -> Callable[[Sequence[Pair]], list[tuple[str, ...] | Verdict]]:
        def told(pairs: Sequence[Pair]) -> list[tuple[str, ...] | Verdict]:
            with Path(self.log).open("a") as file:
                file.write("".join(f"{pair.number}\n" for pair in pairs))
            return [
                (*pair.captions, f"{pair.picture.width} 宽") if pair.picture.width > 21 else Verdict("", "a caption")
                for pair in pairs
            ]

        return told


@dataclass(frozen=True)
class Square:
    """A task of plain numbers."""

    power: int = 2
    refuses: int = -1
    divides: int = -1
    kills: int = -1

    def __call__(self, job: int) -> int:
        if job == self.refuses:
            raise DataError("not {job}", job=job)
        if job == self.divides:
            return job // 0
        if job == self.kills:
            os.kill(os.getpid(), signal.SIGKILL)
        return job**self.power


@dataclass(frozen=True)
class Total(LossyTask):
    """A task that one number kills; every number it comes to is in ``log``."""

    kills: int
    log: str

    def __call__(self, job: Any) -> dict[int, int | str]:
        found: dict[int, int | str] = {}
        for number in range(job.first, job.stop):
            with Path(self.log).open("a") as file:
                file.write(f"{number}\n")
            if number == self.kills:
                os.kill(os.getpid(), signal.SIGKILL)
            found[number] = number
        return found

    def lost(self, job: Any) -> dict[int, int | str]:
        return {job.first: "lost"}


@dataclass(frozen=True)
class Idle:
    """A task that says who does it, and then never ends but for the first jobs."""

    def __call__(self, job: int) -> int:
        if job > 1:
            signal.pause()
        return os.getpid()


@dataclass(frozen=True, kw_only=True)
class Stuck(PictureStep):
    """Says so in ``fifo`` and stays where it is when it comes to a certain node of a cluster, told by its raylet."""

    node: str = ""
    fifo: str = ""
    says: ClassVar[tuple[str, str]] = ("", "")
    score: ClassVar[str] = "stuck"

    def measuring(self) -> str:
        return "Stuck/1"

    def measure(self, picture: DecodedImage) -> Scores:
        if self.node and os.environ["RAY_RAYLET_PID"] == self.node:
            Path(self.fifo).write_text("here")
            signal.pause()
        return {"stuck": 0}

    def judge(self, scores: Scores) -> Verdict | None:
        return None
