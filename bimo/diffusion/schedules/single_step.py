"""Diffusion at its last timestep alone: regression in one step."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from bimo.diffusion.sampler_names import (
    SamplerOptions,
)
from bimo.diffusion.samplers import OneStepSampler, Sampler
from bimo.diffusion.schedules.schedule import PLAIN, Schedule


@dataclass(frozen=True, kw_only=True)
class SingleStepRegression(Schedule):
    """Diffusion at its last timestep alone: x_t carries no information, so the optimal output is E[x | conditioning],
    in one step.
    """

    def timesteps(self, count: int, generator: torch.Generator) -> Tensor:
        """Ones, [B]."""
        return torch.ones(count)

    def add_noise(self, x: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Zeros, [B, C, h, w]."""
        return torch.zeros_like(x)

    def target(self, x: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """x itself, [B, C, h, w]."""
        return x

    def clean(self, output: Tensor, noised: Tensor, t: Tensor) -> Tensor:
        """The output itself, [B, C, h, w]."""
        return output

    def sampler(self, name: str, steps: int, shape: tuple[int, ...] = (), options: SamplerOptions = PLAIN) -> Sampler:
        """One step, whatever was requested."""
        return OneStepSampler()
