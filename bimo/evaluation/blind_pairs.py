"""Pairs of pictures for people to choose between, from the reports of `bimo eval`: two models' pictures of one prompt,
without the models' names.

A pair is the same prompt with the same number of its seeds. The next pair is one of the two models that were compared
least, so that every rating gets votes.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from bimo.core.errors import DataError
from bimo.evaluation.suite_drawings import GIVEN, PICTURES
from bimo.evaluation.suite_report import JSON_FILE, read_record
from bimo.evaluation.suite_run import folder_of


@dataclass(frozen=True)
class Exhibit:
    """A model's picture of a prompt; ``number`` counts the seeds of that prompt from 0."""

    model: str
    key: str
    number: int
    text: str
    path: Path

    @property
    def case(self) -> tuple[str, str, int]:
        """What the two pictures of a pair have in common."""
        return self.key, self.text, self.number


@dataclass(frozen=True)
class BlindPair:
    """Two pictures, with random sides."""

    left: Exhibit
    right: Exhibit

    @property
    def files(self) -> frozenset[Path]:
        """The two files; equal for the same pair with its sides exchanged."""
        return frozenset((self.left.path, self.right.path))


class BlindPairs:
    """The pairs of some reports, and which of them each judge has judged. ``missing`` is the number of pictures in the
    reports whose files do not exist.
    """

    def __init__(self, folders: Sequence[Path]) -> None:
        """Reads the folders that `bimo eval` wrote. Raises DataError if one has no report, or no two models have a
        picture of the same prompt.
        """
        rows = [one for folder in folders for one in _exhibits(folder)]
        rows = _with_unique_names(rows, folders)
        exhibits = [one for one, _ in rows if one.path.is_file()]
        self.missing = len(rows) - len(exhibits)
        by_case: dict[tuple[str, str, int], list[Exhibit]] = {}
        for one in exhibits:
            by_case.setdefault(one.case, []).append(one)
        self.pairs = [
            (first, second)
            for case in by_case.values()
            for first, second in combinations(case, 2)
            if first.model != second.model
        ]
        if not self.pairs:
            raise DataError(
                "{folders} have no two models' pictures of one prompt; evaluate both on the same suite",
                folders=", ".join(map(str, folders)),
            )
        self._chosen: dict[str, set[frozenset[Path]]] = {}
        self._compared: Counter[frozenset[str]] = Counter()

    @property
    def models(self) -> tuple[str, ...]:
        """The models that are compared."""
        return tuple(sorted({one.model for pair in self.pairs for one in pair}))

    def chosen(self, judge: str, pair: BlindPair) -> None:
        """Remembers that a judge has chosen between two pictures."""
        if pair.files not in self._chosen.setdefault(judge, set()):
            self._chosen[judge].add(pair.files)
            self._compared[frozenset((pair.left.model, pair.right.model))] += 1

    def drop(self, exhibit: Exhibit) -> None:
        """Drops a picture that cannot be read."""
        self.pairs = [pair for pair in self.pairs if exhibit not in pair]
        self.missing += 1

    def recall(self, rows: Iterable[Any]) -> None:
        """Restores votes whose fields are those of ``vote_of`` and a judge; others are ignored."""
        by_case: dict[Any, Exhibit] = {(one.model, one.case): one for pair in self.pairs for one in pair}
        for row in rows:
            try:
                case = row["key"], row["request"], row["number"]
                pair = BlindPair(by_case[row["model_a"], case], by_case[row["model_b"], case])
                self.chosen(str(row["judge"]), pair)
            except (KeyError, TypeError):
                continue

    def left_for(self, judge: str) -> int:
        """The number of pairs that a judge has not chosen between."""
        return len(self._waiting(judge))

    def _waiting(self, judge: str) -> list[tuple[Exhibit, Exhibit]]:
        done = self._chosen.get(judge, set())
        return [pair for pair in self.pairs if frozenset(one.path for one in pair) not in done]

    def next_for(self, judge: str, chance: random.Random) -> BlindPair | None:
        """A pair that this judge has not chosen between, None after the last."""
        waiting = self._waiting(judge)
        if not waiting:
            return None
        least = min(self._compared[frozenset(one.model for one in pair)] for pair in waiting)
        pair = chance.choice([p for p in waiting if self._compared[frozenset(one.model for one in p)] == least])
        return BlindPair(*chance.sample(pair, 2))


def vote_of(pair: BlindPair, choice: str) -> dict[str, Any]:
    """The fields of a vote that ``BlindPairs.recall`` and `bimo.evaluation.preference.read_votes` read."""
    return {
        "request": pair.left.text,
        "choice": choice,
        "model_a": pair.left.model,
        "model_b": pair.right.model,
        "key": pair.left.key,
        "number": pair.left.number,
    }


def _exhibits(folder: Path) -> Iterator[tuple[Exhibit, Path]]:
    """The pictures of a report, each with the report's folder."""
    try:
        for model, record in read_record(folder / JSON_FILE)["models"].items():
            pictures = folder / folder_of(model) / PICTURES
            given = folder / folder_of(model) / GIVEN
            if given.is_file():
                pictures = Path(given.read_text("utf-8").strip())
            numbers: Counter[str] = Counter()
            for row in record["pictures"]:
                key, file = str(row["key"]), Path(str(row["file"])).name
                yield Exhibit(model, key, numbers[key], str(row["text"]), pictures / file), folder
                numbers[key] += 1
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError("{path} is no report of a suite: {error}", path=folder / JSON_FILE, error=error) from None


def _with_unique_names(exhibits: Sequence[tuple[Exhibit, Path]], folders: Sequence[Path]) -> list[tuple[Exhibit, Path]]:
    """Distinguishes models of the same name in two reports by the names of the reports' folders."""
    reports: dict[str, set[Path]] = {}
    for one, folder in exhibits:
        reports.setdefault(one.model, set()).add(folder)
    names = {folder: folder.resolve().name for folder in folders}
    if len(set(names.values())) < len(names):
        names = {folder: str(folder) for folder in folders}
    return [
        (Exhibit(f"{names[folder]}/{one.model}", one.key, one.number, one.text, one.path), folder)
        if len(reports[one.model]) > 1
        else (one, folder)
        for one, folder in exhibits
    ]
