"""Model ratings from human votes between two pictures: Bradley-Terry (Biometrika 39, 1952) on Elo's scale.

Votes come from ``bimo serve``'s page, which shows two pictures for one prompt without naming the models, or from any
JSON lines with model_a, model_b and choice (a, b, tie); ``bimo data feedback`` makes training pairs from the same file.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bimo.core.errors import DataError
from bimo.core.messages import Message
from bimo.evaluation.intervals import Interval

#: The difference in points at which a model is ten times as likely to win.
TENFOLD = 400
MIDDLE = 1000
RESAMPLES = 500
ROUNDS = 2000
#: A virtual tie of this weight between every two models; without it a model that won every vote is infinitely strong.
PRIOR = 0.5
NO_VOTE, ITSELF = Message("line is no vote"), Message("a model against itself")
AGAIN = Message("judged again by the same")


@dataclass(frozen=True)
class Vote:
    """A vote between two models; ``score`` is 1 for the first, 0 for the second, 0.5 for a tie."""

    first: str
    second: str
    score: float


@dataclass(frozen=True)
class Rating:
    """A model's points with their interval, its fraction of votes won (ties count half), and its number of votes."""

    model: str
    points: Interval
    won: float
    votes: int


def read_votes(path: Path) -> tuple[list[Vote], Counter[str]]:
    """Reads the votes of a file of JSON lines, and counts unusable lines by reason. Of a voter's votes on the same two
    pictures the last counts. Raises DataError if no vote is left.
    """
    unusable: Counter[str] = Counter()
    votes: dict[Any, Vote] = {}
    for number, line in enumerate(path.read_text("utf-8").splitlines()):
        try:
            row = json.loads(line)
            first, second, choice = str(row["model_a"]), str(row["model_b"]), row["choice"]
            score = {"a": 1.0, "b": 0.0, "tie": 0.5}[choice]
        except (ValueError, KeyError, TypeError):
            unusable[NO_VOTE.text] += 1
            continue
        if first == second:
            unusable[ITSELF.text] += 1
            continue
        # The same two pictures with their sides exchanged are the same question.
        ballot = row.get("judge"), frozenset((str(row.get("a", number)), str(row.get("b", number))))
        if ballot in votes:
            unusable[AGAIN.text] += 1
        votes[ballot] = Vote(first, second, score)
    if not votes:
        raise DataError("{path} holds no vote between two models; vote on the page of bimo serve", path=path)
    return list(votes.values()), unusable


def ratings(votes: Sequence[Vote], seed: int = 0) -> list[Rating]:
    """Every model's rating, best first, with a bootstrap interval over votes (2.5 to 97.5 %). Raises DataError without
    votes, or if the models fall into groups that were never compared.
    """
    models = sorted({name for vote in votes for name in (vote.first, vote.second)})
    if not models:
        raise DataError("there is no vote; vote on the page of bimo serve")
    _demand_connected(models, votes)
    places = {name: place for place, name in enumerate(models)}
    rows = np.array([(places[v.first], places[v.second], v.score) for v in votes], np.float64)
    points = _points(rows, len(models))
    rng = np.random.default_rng(seed)
    resampled = np.stack([_points(rows[rng.integers(0, len(rows), len(rows))], len(models)) for _ in range(RESAMPLES)])
    low, high = np.quantile(resampled, (0.025, 0.975), axis=0)
    result: list[Rating] = []
    for name, place in places.items():
        scores = [v.score if v.first == name else 1 - v.score for v in votes if name in (v.first, v.second)]
        interval = Interval(float(points[place]), float(low[place]), float(high[place]), len(scores))
        result.append(Rating(name, interval, sum(scores) / len(scores), len(scores)))
    return sorted(result, key=lambda one: -one.points.value)


def _points(rows: NDArray[np.float64], count: int) -> NDArray[np.float64]:
    """Elo points [models] from votes [N, 3] of (first, second, score), by Hunter's MM iteration (Annals of Statistics
    32, 2004).
    """
    wins = np.full((count, count), PRIOR / 2)
    np.fill_diagonal(wins, 0)
    first, second = rows[:, 0].astype(int), rows[:, 1].astype(int)
    np.add.at(wins, (first, second), rows[:, 2])
    np.add.at(wins, (second, first), 1 - rows[:, 2])
    played = wins + wins.T
    strength = np.ones(count)
    for _ in range(ROUNDS):
        update = wins.sum(1) / (played / (strength[:, None] + strength[None])).sum(1)
        update /= np.exp(np.log(update).mean())
        if np.abs(np.log(update / strength)).max() < 1e-9:
            break
        strength = update
    return MIDDLE + TENFOLD * np.log10(strength)


def _demand_connected(models: Sequence[str], votes: Iterable[Vote]) -> None:
    group = {name: name for name in models}

    def root(name: str) -> str:
        while group[name] != name:
            name = group[name]
        return name

    for vote in votes:
        group[root(vote.first)] = root(vote.second)
    roots = {root(name) for name in models}
    if len(roots) > 1:
        examples = [next(name for name in models if root(name) == one) for one in sorted(roots)]
        raise DataError("{first} and {second} are joined by no vote, directly or through others; vote between them",
                        first=examples[0], second=examples[1])  # fmt: skip


def expected(points: float, other: float) -> float:
    """The probability by Elo that the first of two ratings wins."""
    return 1 / (1 + math.pow(10, (other - points) / TENFOLD))
