"""Denoising as an objective: one squared error for every noise schedule, with the weights and ranges of the papers."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self, cast

import torch
from torch import Tensor

from bimo.core.errors import RecipeError
from bimo.core.recipe import Stage
from bimo.core.tensors import Batch, DenoiserInput
from bimo.diffusion.conditioning import zero_text
from bimo.diffusion.schedules.ddpm import Ddpm
from bimo.diffusion.schedules.schedule import Schedule
from bimo.diffusion.system import ZERO_NULLS
from bimo.training.objectives.objective import Objective
from bimo.training.train_inputs import TrainInputs

TRIES = 1000


@dataclass(frozen=True)
class Question:
    """A denoiser's input, with what it was made of: clean ``x`` and ``noise`` [B, C, h, w]."""

    schedule: Schedule
    ask: DenoiserInput
    x: Tensor
    noise: Tensor


@dataclass(frozen=True, kw_only=True)
class Denoise(Objective):
    """Mean squared error of a level's answer (arXiv:2006.11239, equation 14), whatever its noise schedule.

    ``also`` names levels whose own loss is added, as when a level and the one it is conditioned on learn together.
    ``times`` (from, below) are those of an expert that answers for a part of the noise alone (arXiv:2312.16486).
    ``offset`` times one more random number is added to the noise of each whole channel, as diffusers' ``noise_offset``:
    else pictures stay of middling brightness. ``snr`` is gamma of the min-SNR weight (arXiv:2303.09556, section 3.4), 0
    for none. ``variance`` is lambda of the hybrid loss (arXiv:2102.09672, equation 16), where the model learns
    its variance. ``crops`` are sides in positions of x: each batch is cut at a random place to one of them.
    """

    also: tuple[str, ...] = ()
    times: tuple[float, float] | None = None
    offset: float = 0.0
    snr: float = 0.0
    variance: float = 0.001
    crops: tuple[int, ...] = ()

    def tiny(self) -> Self:
        """Crops of an eighth, as pictures are of about that."""
        return replace(self, crops=tuple(max(8, side // 8) for side in self.crops))

    def levels(self, stage: Stage) -> tuple[str, ...]:
        """The stage's level and ``also``."""
        return (stage.level, *self.also) if stage.level else ()

    def loss(self, inputs: TrainInputs) -> Tensor:
        """The sum over the stage's level and ``also`` of the mean over the rows."""
        inputs = replace(inputs, batch=self.cropped(cast(Batch, inputs.batch)))
        losses: list[Tensor] = []
        for name in (inputs.stage.level, *self.also):
            question = self.question(inputs, name)
            losses.append(self.errors(question, inputs.system.denoise(question.ask)).mean())
        return torch.stack(losses).sum()

    def question(self, inputs: TrainInputs, name: str, group: int = 1) -> Question:
        """The denoiser's input of a level: noised pictures and their conditioning. ``group`` rows next to each other
        share their timestep and noise.
        """
        batch = cast(Batch, inputs.batch)
        level = inputs.system.level(name)
        count = batch.whole // group
        t = batch.own(self._times(level.schedule, count, batch.generator).repeat_interleave(group))
        noise = torch.randn((count, *batch.x.shape[1:]), generator=batch.generator)
        if self.offset:
            whole = (*noise.shape[:2], *[1] * (noise.ndim - 2))
            noise = noise + self.offset * torch.randn(whole, generator=batch.generator)
        noise = batch.own(noise.repeat_interleave(group, dim=0))
        conditioning = inputs.system.condition(batch.encodings, level.conditions_of(inputs.system, batch))
        null = level.recipe.guidance.unconditional
        if null in ZERO_NULLS:
            # The null branch of drawing has no words, so neither has a dropped caption.
            conditioning = zero_text(conditioning, batch.dropped_captions, null == "masked")
        ask = DenoiserInput(name, level.schedule.add_noise(batch.x, noise, t), t, conditioning)
        return Question(level.schedule, ask, batch.x, noise)

    def errors(self, question: Question, answer: Tensor) -> Tensor:
        """The weighted error of each row, [B]."""
        schedule, ask, x = question.schedule, question.ask, question.x
        channels = x.shape[1]
        mean = answer[:, :channels]
        error = (mean - schedule.target(x, question.noise, ask.t)).square().flatten(1).mean(1)
        if self.snr:
            error = error * self._snr_weight(_ddpm(schedule), ask.t)
        if isinstance(schedule, Ddpm) and schedule.variance == "learned_range":
            bound = schedule.variational(answer, x, question.noise, ask.t)
            error = error + self.variance * schedule.count * bound
        return error

    def cropped(self, batch: Batch) -> Batch:
        """The batch cut to one of ``crops``, its pixels where they belong to it; all of it where there are none."""
        if not self.crops:
            return batch
        draws = [float(draw) for draw in torch.rand(3, generator=batch.generator)]
        side = self.crops[int(draws[0] * len(self.crops))]
        height, width = batch.x.shape[2:]
        if side > min(height, width):
            raise RecipeError("{side} of crops is more than a side of x, {width}", side=side, width=min(height, width))
        top, left = int(draws[1] * (height - side + 1)), int(draws[2] * (width - side + 1))

        def window(value: Tensor) -> Tensor:
            return _window(value, top, left, side, value.shape[2] // height)

        pixels = None if batch.pixels is None else window(batch.pixels)
        maps = {name: window(value) for name, value in batch.maps.items()}
        return replace(batch, x=window(batch.x), pixels=pixels, maps=maps)

    def _times(self, schedule: Schedule, count: int, generator: torch.Generator) -> Tensor:
        if self.times is None:
            return schedule.timesteps(count, generator)
        low, high = self.times
        timesteps = torch.empty(0)
        for _ in range(TRIES):
            drawn = schedule.timesteps(count, generator)
            timesteps = torch.cat([timesteps, drawn[(drawn >= low) & (drawn < high)]])
            if len(timesteps) >= count:
                return timesteps[:count]
        raise RecipeError(
            "times of the objective are {times}, which the noise schedule hardly ever draws", times=self.times
        )

    def _snr_weight(self, schedule: Ddpm, t: Tensor) -> Tensor:
        """min(snr, gamma) as a weight on the error of x; of the noise it is divided by snr, of v by snr + 1."""
        alpha_bar = schedule.signal()[t.long()]
        snr = alpha_bar / (1 - alpha_bar)
        clamped = snr.clamp(max=self.snr)
        return {"epsilon": clamped / snr, "v_prediction": clamped / (snr + 1), "sample": clamped}[schedule.prediction]


def _ddpm(schedule: Schedule) -> Ddpm:
    if not isinstance(schedule, Ddpm):
        raise RecipeError(
            "snr of the objective is defined for the schedule Ddpm alone, not for {name}", name=type(schedule).__name__
        )
    return schedule


def _window(value: Tensor, top: int, left: int, side: int, scale: int) -> Tensor:
    top, left, side = top * scale, left * scale, side * scale
    return value[:, :, top : top + side, left : left + side].contiguous()
