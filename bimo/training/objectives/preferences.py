"""Learning from what people or a scorer prefer: pictures weighted by their score, and pairs of better and worse."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from bimo.core.errors import BimoError, DataError
from bimo.core.messages import say
from bimo.core.tensors import Batch
from bimo.data.loader import Pictures
from bimo.data.rows import Column
from bimo.diffusion.system import System
from bimo.training.objectives.denoise import Denoise
from bimo.training.objectives.objective import Objective
from bimo.training.train_inputs import Prospect, TrainInputs, Vocabulary, refusals


@dataclass(frozen=True, kw_only=True)
class RewardWeighted(Objective):
    """Reward-weighted regression (arXiv:2302.12192, equation 3, with the weights of arXiv:1910.00177): the error of a
    picture weighs exp(score / ``temperature``), the weights of a batch having the mean 1.

    Scores are the data's label ``score``: of people who chose among a system's own drawings, or of an aesthetic model.
    For systems whose publishers tell of learning from feedback but give no formula this is an analogy.
    """

    captions: ClassVar = "selected"

    score: str = "score"
    temperature: float = 1.0
    denoise: Denoise = field(default_factory=Denoise)

    @property
    def maps(self) -> tuple[str, ...]:
        """The mask of the error."""
        return self.denoise.maps

    def pictures(self, system: System, pictures: Pictures, folder: Path) -> Pictures:
        """Those that have a score. Raises DataError where none has."""
        return pictures.of(_scored(pictures, self.score))

    def problems(self, prospect: Prospect) -> Iterator[BimoError]:
        """Scores."""
        yield from self.denoise.problems(prospect)
        yield from refusals(lambda: self.pictures(prospect.system, prospect.pictures, Path()))

    def loss(self, inputs: TrainInputs) -> Tensor:
        """The weighted mean."""
        inputs = replace(inputs, batch=self.denoise.cropped(cast(Batch, inputs.batch)))
        question = self.denoise.question(inputs, inputs.stage.level)
        errors = self.denoise.errors(question, inputs.system.denoise(question.ask))
        scores = torch.tensor([float(row[self.score]) for row in inputs.labels])
        weights = (scores / self.temperature).softmax(0) * inputs.whole
        return (inputs.own(weights) * errors).mean()


@dataclass(frozen=True, kw_only=True)
class DiffusionDPO(Objective):
    """Direct preference optimisation of a diffusion (arXiv:2311.12908, equation 14): of two pictures for one sentence
    the better is to be denoised better than by the level as it was before the stage, the worse worse.

    Rows with the same label ``pair`` belong together; that with the highest ``score`` is better than each other one, or
    with ``worst`` is learnt against the lowest alone.
    ``beta`` holds the paper's number of steps as well, as in its public code: 5000 there.
    """

    captions: ClassVar = "selected"

    pair: str = "pair"
    score: str = "score"
    beta: float = 5000.0
    worst: bool = False
    denoise: Denoise = field(default_factory=Denoise)

    def pictures(self, system: System, pictures: Pictures, folder: Path) -> Pictures:
        """Groups of (better, worse), both with the caption of the better. Raises DataError where there is no pair."""
        rows_of_pair: dict[str, list[int]] = {}
        for (row,) in _scored(pictures, self.score):
            if pictures.labels[row].get(self.pair) is not None:
                rows_of_pair.setdefault(str(pictures.labels[row][self.pair]), []).append(row)
        caption_rows = np.arange(len(pictures))
        groups: list[tuple[int, ...]] = []
        for rows in rows_of_pair.values():
            best = max(rows, key=lambda row: float(pictures.labels[row][self.score]))
            others = [min(rows, key=lambda row: float(pictures.labels[row][self.score]))] if self.worst else rows
            for row in others:
                if float(pictures.labels[row][self.score]) < float(pictures.labels[best][self.score]):
                    groups.append((best, row))
                    caption_rows[row] = caption_rows[best]
        if not groups:
            raise DataError(
                "no two pictures to compare: two with the same {pair!r} and another {score!r} are needed",
                pair=self.pair,
                score=self.score,
            )
        captions = Column(len(pictures), lambda row: pictures.captions[int(caption_rows[row])])
        return pictures.of(groups, captions)

    def extra(self, system: System, vocabulary: Vocabulary) -> nn.Module | None:
        """The denoisers as they are before the stage, which learn nothing."""
        levels: dict[str, Any] = {level.name: system.level(level.name).denoiser for level in system.recipe.levels}
        return nn.ModuleDict({name: copy.deepcopy(denoiser).eval() for name, denoiser in levels.items()})

    @property
    def maps(self) -> tuple[str, ...]:
        """The mask of the error."""
        return self.denoise.maps

    def problems(self, prospect: Prospect) -> Iterator[BimoError]:
        """Pairs."""
        yield from self.denoise.problems(prospect)
        yield from refusals(lambda: self.pictures(prospect.system, prospect.pictures, Path()))

    def loss(self, inputs: TrainInputs) -> Tensor:
        """-log sigmoid(-beta / 2 (what the better gained in error - what the worse gained))."""
        name = inputs.stage.level
        inputs = replace(inputs, batch=self.denoise.cropped(cast(Batch, inputs.batch)))
        question = self.denoise.question(inputs, name, group=2)
        ask = question.ask
        gained = self.denoise.errors(question, inputs.system.denoise(ask))
        with torch.no_grad():
            before = cast(nn.ModuleDict, inputs.extra)[name](ask.x, ask.t, ask.conditioning)
            at_first = self.denoise.errors(question, before)
        gained = gained - at_first
        return -functional.logsigmoid(-0.5 * self.beta * (gained[0::2] - gained[1::2])).mean()


def _scored(pictures: Pictures, label: str) -> list[tuple[int, ...]]:
    """The rows that have a score, each as a group of its own. Raises DataError where none has."""
    scored = [(row,) for row, labels in enumerate(pictures.labels) if isinstance(labels.get(label), (int, float))]
    if not scored:
        raise DataError("no picture has a label {label!r} with a score; score the data first", label=label)
    left = len(pictures) - len(scored)
    if left:
        print(say("{left} pictures have no {label!r} and are left out", left=left, label=label))
    return list(scored)
