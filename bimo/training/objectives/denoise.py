"""The denoising objective: a squared error for every noise schedule, with the published weights and timestep ranges."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal, Self, cast

import torch
from torch import Tensor, nn

from bimo.core.errors import BimoError, RecipeError
from bimo.core.recipe import Stage
from bimo.core.tensors import Batch, DenoiserInput
from bimo.diffusion.conditioning import zero_text
from bimo.diffusion.schedules.ddpm import Ddpm
from bimo.diffusion.schedules.flow import Flow
from bimo.diffusion.schedules.schedule import Schedule
from bimo.diffusion.system import ZERO_NULLS
from bimo.training.objectives.error_weights import (
    Loss,
    debiased_weight,
    huber_c,
    min_snr_weight,
    signal_to_noise,
    squared_or_huber,
)
from bimo.training.objectives.flow_times import FlowTimes
from bimo.training.objectives.noise import multires_noise, offset_noise
from bimo.training.objectives.objective import Objective
from bimo.training.train_inputs import Prospect, TrainInputs, refusals

TRIES = 1000


@dataclass(frozen=True)
class Question:
    """A denoiser's input with its clean ``x`` and ``noise`` [B, C, h, w], and the loss weight of each position,
    ``places`` [B, 1, h, w] in [0, 1], None for equal weights.
    """

    schedule: Schedule
    denoiser_input: DenoiserInput
    x: Tensor
    noise: Tensor
    places: Tensor | None = None


@dataclass(frozen=True, kw_only=True)
class Denoise(Objective):
    """Mean squared error of a level's prediction (arXiv:2006.11239, equation 14), for any noise schedule.

    ``also`` names levels whose loss is added, as when a level and the one it is conditioned on are trained together.
    ``times`` (from, below) are those of an expert for a part of the timesteps (arXiv:2312.16486); ``flow`` samples and
    weighs the timesteps of a flow in place of its schedule. ``crops`` are sides in positions of x: each batch is
    cropped at random to one of them. ``variance`` is lambda of the hybrid loss (arXiv:2102.09672, equation 16), for
    models with a learned variance.

    The noise: ``offset`` times a random number is added to each channel, as diffusers' ``noise_offset``: without it
    pictures keep a medium brightness. ``multires`` adds noise of so many smaller sizes, each ``multires_discount``
    times as strong as the one before (pyramid noise). ``perturbation`` is added to the noise of x but not to the target
    (arXiv:2301.11706), as diffusers' ``input_perturbation``.

    The error: ``snr`` is gamma of the min-SNR weight (arXiv:2303.09556, section 3.4), 0 for none; ``debiased`` weighs
    by 1 / sqrt(snr) instead (arXiv:2310.08442). ``loss`` "huber" or "smooth_l1" is linear beyond ``huber_c``
    (arXiv:2403.16728), which is its value at the noisiest timestep if ``huber_schedule`` is "snr" or "exponential".
    With ``mask`` the error counts where the map of that name is white, and by the factor ``outside`` elsewhere; it is
    the weighted mean.
    """

    also: tuple[str, ...] = ()
    times: tuple[float, float] | None = None
    flow: FlowTimes | None = None
    offset: float = 0.0
    multires: int = 0
    multires_discount: float = 0.3
    perturbation: float = 0.0
    snr: float = 0.0
    debiased: bool = False
    loss_type: Loss = "l2"
    huber_c: float = 0.1
    huber_schedule: Literal["constant", "snr", "exponential"] = "snr"
    mask: str = ""
    outside: float = 0.0
    variance: float = 0.001
    crops: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.snr and self.debiased:
            raise RecipeError("snr and debiased of the objective are two weights for one error; leave one of them out")
        ranges = {
            "offset": (self.offset, math.inf),
            "multires": (self.multires, 16),
            "multires_discount": (self.multires_discount, 1.0),
            "perturbation": (self.perturbation, math.inf),
            "snr": (self.snr, math.inf),
            "outside": (self.outside, 1.0),
            "huber_c": (self.huber_c, 1.0),
        }
        for name, (value, most) in ranges.items():
            if not 0 <= value <= most or (name == "huber_c" and not value):
                raise RecipeError(
                    "{name} of the objective is {value:g}; expected 0 to {most:g}", name=name, value=value, most=most
                )

    @property
    def maps(self) -> tuple[str, ...]:
        """The mask, if there is one."""
        return (self.mask,) if self.mask else ()

    def problems(self, prospect: Prospect) -> Iterator[BimoError]:
        """Whether each level's schedule supports the settings."""
        for name in self.levels(prospect.stage):
            yield from refusals(partial(self.check, prospect.system.level(name).schedule))

    def check(self, schedule: Schedule) -> None:
        """Raises RecipeError for a schedule for which a setting is not defined."""
        once = torch.ones(1)
        if self.flow is not None and not isinstance(schedule, Flow):
            raise RecipeError(
                "flow of the objective is for the times of a Flow, and the schedule is {name}; leave it out",
                name=type(schedule).__name__,
            )
        if self.snr or self.debiased:
            signal_to_noise(schedule, once)
        if self.loss_type != "l2":
            huber_c(schedule, once, self.huber_c, self.huber_schedule)

    def tiny(self) -> Self:
        """Crops of an eighth, about the size of tiny pictures."""
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
            losses.append(self.errors(question, inputs.system.denoise(question.denoiser_input)).mean())
        return torch.stack(losses).sum()

    def question(self, inputs: TrainInputs, name: str, group: int = 1) -> Question:
        """The denoiser's input of a level: noised pictures and their conditioning. Each ``group`` of consecutive rows
        shares its timestep and noise.
        """
        batch = cast(Batch, inputs.batch)
        level = inputs.system.level(name)
        count = batch.total_rows // group
        shape = tuple(batch.x.shape[1:])
        t = batch.own(self._times(level.schedule, shape, count, batch.generator).repeat_interleave(group))
        noise = torch.randn((count, *shape), generator=batch.generator)
        if self.offset:
            noise = offset_noise(noise, self.offset, batch.generator)
        if self.multires:
            noise = multires_noise(noise, self.multires, self.multires_discount, batch.generator)
        input_noise = noise
        if self.perturbation:
            input_noise = noise + self.perturbation * torch.randn((count, *shape), generator=batch.generator)
        noise, input_noise = (batch.own(each.repeat_interleave(group, dim=0)) for each in (noise, input_noise))
        conditioning = inputs.system.condition(batch.encodings, level.conditions_of(inputs.system, batch))
        null = level.recipe.guidance.unconditional
        if null in ZERO_NULLS:
            # The unconditional branch of sampling has no text, so neither has a dropped caption.
            conditioning = zero_text(conditioning, batch.dropped_captions, null == "masked")
        denoiser_input = DenoiserInput(name, level.schedule.add_noise(batch.x, input_noise, t), t, conditioning)
        return Question(level.schedule, denoiser_input, batch.x, noise, self._places(batch))

    def errors(self, question: Question, output: Tensor) -> Tensor:
        """The weighted error of each row, [B]."""
        schedule, denoiser_input, x = question.schedule, question.denoiser_input, question.x
        channels = x.shape[1]
        difference = output[:, :channels] - schedule.target(x, question.noise, denoiser_input.t)
        c = (
            denoiser_input.t
            if self.loss_type == "l2"
            else huber_c(schedule, denoiser_input.t, self.huber_c, self.huber_schedule)
        )
        each = squared_or_huber(difference, self.loss_type, c)
        error = each.flatten(1).mean(1) if question.places is None else _mean_of(each, question.places)
        if self.snr:
            error = error * min_snr_weight(schedule, denoiser_input.t, self.snr)
        if self.debiased:
            error = error * debiased_weight(schedule, denoiser_input.t)
        if self.flow is not None:
            error = error * self.flow.weights(cast(Flow, schedule), denoiser_input.t)
        if isinstance(schedule, Ddpm) and schedule.variance == "learned_range":
            bound = schedule.variational(output, x, question.noise, denoiser_input.t)
            error = error + self.variance * schedule.count * bound
        return error

    def cropped(self, batch: Batch) -> Batch:
        """The batch cropped to one of ``crops``, with its pixels if they correspond; unchanged without ``crops``."""
        if not self.crops:
            return batch
        home = batch.generator.device  # where numbers are read without waiting for a card
        draws = [float(draw) for draw in torch.rand(3, generator=batch.generator, device=home)]
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

    def _times(self, schedule: Schedule, shape: tuple[int, ...], count: int, generator: torch.Generator) -> Tensor:
        if self.times is None:
            return self._drawn(schedule, shape, count, generator)
        low, high = self.times
        timesteps = torch.empty(0)
        for _ in range(TRIES):
            drawn = self._drawn(schedule, shape, count, generator)
            timesteps = torch.cat([timesteps, drawn[(drawn >= low) & (drawn < high)]])
            if len(timesteps) >= count:
                return timesteps[:count]
        raise RecipeError(
            "times of the objective are {times}, which the noise schedule hardly ever draws", times=self.times
        )

    def _drawn(self, schedule: Schedule, shape: tuple[int, ...], count: int, generator: torch.Generator) -> Tensor:
        if self.flow is None:
            return schedule.timesteps(count, generator)
        self.check(schedule)
        return self.flow.timesteps(cast(Flow, schedule), shape, count, generator)

    def _places(self, batch: Batch) -> Tensor | None:
        """The loss weight of each position of x, [B, 1, h, w], None without a mask. Raises RecipeError if x has no
        positions.
        """
        if not self.mask:
            return None
        if batch.x.ndim != 4:
            raise RecipeError("mask of the objective is for pictures, and x of its level is none; leave it out")
        white = (batch.maps[self.mask].float().mean(1, keepdim=True) + 1) / 2
        share = nn.functional.adaptive_avg_pool2d(white, (batch.x.shape[2], batch.x.shape[3]))
        return self.outside + (1 - self.outside) * share


def _mean_of(error: Tensor, places: Tensor) -> Tensor:
    """The weighted mean of errors [B, C, h, w] over positions, [B]; 0 if all weights are 0."""
    counted = places.expand_as(error).flatten(1).sum(1)
    return (error * places).flatten(1).sum(1) / counted.clamp(min=1e-6)


def _window(value: Tensor, top: int, left: int, side: int, scale: int) -> Tensor:
    top, left, side = top * scale, left * scale, side * scale
    return value[:, :, top : top + side, left : left + side].contiguous()
