"""Reward fine-tuning by backpropagation through the last sampling steps (DRaFT, arXiv:2309.17400)."""

# torch leaves parts of its interface untyped.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import copy
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Self, cast

import torch
from torch import Tensor, nn

from bimo.core.errors import BimoError, RecipeError
from bimo.core.part import Part
from bimo.core.tensors import DenoiserInput
from bimo.diffusion.batching import denoise_together
from bimo.diffusion.preparation import prepare
from bimo.diffusion.sampling import pixels
from bimo.diffusion.system import System
from bimo.training.objectives.objective import Objective
from bimo.training.objectives.online_rewards import request_of
from bimo.training.objectives.rewards import TOTAL, ColourfulReward, Judges, Shown, of_rewards
from bimo.training.train_inputs import Prospect, TrainInputs, Vocabulary

Drawing = Generator[DenoiserInput, Tensor, Tensor]


@dataclass(frozen=True, kw_only=True)
class DRaFT(Objective):
    """Maximises the reward of the level's own drawings: each step draws a picture for every caption of the batch and
    backpropagates ``reward`` through the decoder and the last ``through`` sampling steps. That is DRaFT-K of
    arXiv:2309.17400, which maximises E[r(sample(theta, c, x_T))]; ReFL, arXiv:2304.05977, is similar with one step at a
    random timestep. The steps before have no gradient, so memory holds ``through`` of them.

    The reward must be differentiable; for others see `bimo.training.objectives.online_rewards.OnlineRewards`. Against
    reward hacking, ``anchor`` weighs the mean squared distance of the predictions in those steps from those of the
    level before the stage, and an adapter (`Lora`), as in the paper, can be removed again.

    ``steps``, ``size`` and ``guidance`` are those of sampling; 0 and None are the recipe's. The level must be the last.
    """

    captions: ClassVar = "selected"
    varies_rows: ClassVar = False

    reward: Part
    through: int = 1
    anchor: float = 0.0
    steps: int = 0
    size: tuple[int, int] | None = None
    guidance: float | None = None
    sees: str = "texts"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not getattr(self.reward, "differentiable", False):
            raise RecipeError(
                "the reward {name} has no gradient for DRaFT; take OnlineRewards", name=type(self.reward).__name__
            )
        if self.through < 1:
            raise RecipeError("through of DRaFT is {through}; at least 1", through=self.through)

    def tiny(self) -> Self:
        """Two sampling steps; a reward without weights."""
        return replace(self, reward=ColourfulReward(), steps=2, size=(128, 128))

    def extra(self, system: System, vocabulary: Vocabulary) -> nn.Module | None:
        """A copy of the denoiser before the stage, if there is an anchor."""
        if not self.anchor:
            return None
        denoiser = system.level(system.recipe.levels[-1].name).denoiser
        return nn.ModuleDict({"before": copy.deepcopy(denoiser).eval()})

    def problems(self, prospect: Prospect) -> Iterator[BimoError]:
        """Missing user functions that the reward names."""
        yield from of_rewards(self.reward, prospect.judges)

    def loss(self, inputs: TrainInputs) -> Tensor:
        """Minus the mean reward, plus the anchor. Raises RecipeError if no gradient reaches the trained parameters."""
        self._check(inputs)
        system = inputs.system
        seeds = inputs.own(torch.randint(2**31, (inputs.total_rows,), generator=inputs.generator)).tolist()
        texts, labels = inputs.own(inputs.texts), inputs.own(inputs.labels)
        requests = [request_of(system, self, text, seed) for text, seed in zip(texts, seeds, strict=True)]
        drawings: list[Drawing] = [pixels(system, prepare(system, request)) for request in requests]
        before = None if inputs.extra is None else cast(nn.ModuleDict, inputs.extra)["before"]
        drawn, drift = self._driven(system, drawings, before)
        shown = Shown(drawn.float(), texts, labels)
        worth = (inputs.judges or Judges()).scores(self.reward, shown)[TOTAL]
        # Pictures without a reward do not count.
        return -worth.nanmean() + self.anchor * drift

    def _driven(self, system: System, drawings: Sequence[Drawing], before: nn.Module | None) -> tuple[Tensor, Tensor]:
        """Drives the sampling loops: (drawings [B, 3, H, W], mean squared distance of the predictions from those of
        ``before``).
        """
        last = system.recipe.levels[-1].name
        done: list[Tensor] = []
        drifts: list[Tensor] = []
        with torch.no_grad():
            pending = [next(drawing) for drawing in drawings]
            while pending:
                first = pending[0]
                with torch.set_grad_enabled(first.level == last and first.step >= first.steps - self.through):
                    outputs = denoise_together(system, pending)
                    if torch.is_grad_enabled() and before is not None:
                        drifts.append(_distance(before, pending, outputs))
                    following: list[DenoiserInput] = []
                    for drawing, output in zip(drawings, outputs, strict=True):
                        try:
                            following.append(drawing.send(output))
                        except StopIteration as stop:
                            done.append(stop.value)
                    pending = following
        return torch.stack(done), torch.stack(drifts).mean() if drifts else torch.zeros(())

    def _check(self, inputs: TrainInputs) -> None:
        stage, recipe = inputs.stage, inputs.system.recipe
        if stage.level != recipe.levels[-1].name or stage.drops:
            raise RecipeError(
                "stage {name!r}: DRaFT is for the last level, {name_2!r}, and drops nothing",
                name=stage.name,
                name_2=recipe.levels[-1].name,
            )
        own = f"{stage.level}.denoiser."
        lost = [name for name, p in inputs.system.named_parameters() if p.requires_grad and not name.startswith(own)]
        if lost:
            raise RecipeError(
                "stage {name!r}: no gradient reaches {lost} ({count} in all); DRaFT learns {own}* alone",
                name=stage.name,
                lost=lost[0],
                count=len(lost),
                own=own,
            )


def _distance(before: nn.Module, pending: Sequence[DenoiserInput], outputs: Sequence[Tensor]) -> Tensor:
    """The mean squared distance of predictions from those of the level before the stage."""
    with torch.no_grad():
        # Samplers keep timesteps on the CPU.
        wanted = [before(first.x, first.t.to(first.x.device), first.conditioning) for first in pending]
    return torch.stack([(a - b).square().mean() for a, b in zip(outputs, wanted, strict=True)]).mean()
