"""Training on preferences of people or a scorer: pictures weighted by score, and pairs of better and worse."""

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
    picture is weighted by exp(score / ``temperature``), normalised to a mean of 1 in the batch.

    Scores are the data's label ``score``: of people who chose among a system's drawings, or of an aesthetic model. For
    systems whose publishers mention learning from feedback without a formula this is an analogy.
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
        """The pictures that have a score. Raises DataError if there are none."""
        return pictures.of(_scored(pictures, self.score))

    def problems(self, prospect: Prospect) -> Iterator[BimoError]:
        """Missing scores."""
        yield from self.denoise.problems(prospect)
        yield from refusals(lambda: self.pictures(prospect.system, prospect.pictures, Path()))

    def loss(self, inputs: TrainInputs) -> Tensor:
        """The weighted mean."""
        inputs = replace(inputs, batch=self.denoise.cropped(cast(Batch, inputs.batch)))
        question = self.denoise.question(inputs, inputs.stage.level)
        errors = self.denoise.errors(question, inputs.system.denoise(question.denoiser_input))
        scores = torch.tensor([float(row[self.score]) for row in inputs.labels])
        weights = (scores / self.temperature).softmax(0) * inputs.total_rows
        return (inputs.own(weights) * errors).mean()


@dataclass(frozen=True, kw_only=True)
class DiffusionDPO(Objective):
    """Direct preference optimisation of diffusion models (arXiv:2311.12908, equation 14): of two pictures for one
    sentence the better is to be denoised better than by the level before the stage, and the worse one worse.

    Rows with the same label ``pair`` belong together; the one with the highest ``score`` is preferred to each other
    one, or with ``worst`` only to the lowest.
    ``beta`` includes the paper's number of timesteps, as in its public code: 5000 there.
    """

    captions: ClassVar = "selected"

    pair: str = "pair"
    score: str = "score"
    beta: float = 5000.0
    worst: bool = False
    denoise: Denoise = field(default_factory=Denoise)

    def pictures(self, system: System, pictures: Pictures, folder: Path) -> Pictures:
        """Groups of (better, worse), both with the caption of the better. Raises DataError if there is no pair."""
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
        """Frozen copies of the denoisers before the stage."""
        levels: dict[str, Any] = {level.name: system.level(level.name).denoiser for level in system.recipe.levels}
        return nn.ModuleDict({name: copy.deepcopy(denoiser).eval() for name, denoiser in levels.items()})

    @property
    def maps(self) -> tuple[str, ...]:
        """The mask of the error."""
        return self.denoise.maps

    def problems(self, prospect: Prospect) -> Iterator[BimoError]:
        """Missing pairs."""
        yield from self.denoise.problems(prospect)
        yield from refusals(lambda: self.pictures(prospect.system, prospect.pictures, Path()))

    def loss(self, inputs: TrainInputs) -> Tensor:
        """-log sigmoid(-beta / 2 (change in error of the better - change in error of the worse))."""
        name = inputs.stage.level
        inputs = replace(inputs, batch=self.denoise.cropped(cast(Batch, inputs.batch)))
        question = self.denoise.question(inputs, name, group=2)
        denoiser_input = question.denoiser_input
        gained = self.denoise.errors(question, inputs.system.denoise(denoiser_input))
        with torch.no_grad():
            before = cast(nn.ModuleDict, inputs.extra)[name](
                denoiser_input.x, denoiser_input.t, denoiser_input.conditioning
            )
            at_first = self.denoise.errors(question, before)
        gained = gained - at_first
        return -functional.logsigmoid(-0.5 * self.beta * (gained[0::2] - gained[1::2])).mean()


def _scored(pictures: Pictures, label: str) -> list[tuple[int, ...]]:
    """The rows that have a score, each as its own group. Raises DataError if there are none."""
    scored = [(row,) for row, labels in enumerate(pictures.labels) if isinstance(labels.get(label), (int, float))]
    if not scored:
        raise DataError("no picture has a label {label!r} with a score; score the data first", label=label)
    left = len(pictures) - len(scored)
    if left:
        print(say("{left} pictures have no {label!r} and are left out", left=left, label=label))
    return list(scored)
