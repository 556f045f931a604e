"""The base class of noise schedules."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from bimo.core.part import Part
from bimo.diffusion.sampler_names import (
    SamplerOptions,
)
from bimo.diffusion.samplers import Sampler

#: A sampler without options.
PLAIN = SamplerOptions()


@dataclass(frozen=True, kw_only=True)
class Schedule(Part, ABC):
    """A noise schedule. Timesteps t are those that the denoiser gets: 0 is clean, ``last`` is pure noise."""

    @abstractmethod
    def timesteps(self, count: int, generator: torch.Generator) -> Tensor:
        """Timesteps of a training batch, [B]."""

    @abstractmethod
    def add_noise(self, x: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """x_t of clean x, [B, C, h, w]."""

    @abstractmethod
    def target(self, x: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """What the denoiser should predict for x_t, [B, C, h, w]."""

    @abstractmethod
    def clean(self, output: Tensor, noised: Tensor, t: Tensor) -> Tensor:
        """x_0 by the denoiser's output at x_t, [B, C, h, w]; used for previews."""

    @abstractmethod
    def sampler(self, name: str, steps: int, shape: tuple[int, ...] = (), options: SamplerOptions = PLAIN) -> Sampler:
        """A new sampler with its timesteps set; ``shape`` is that of x, on which timesteps may depend."""

    def steps_for(self, steps: int, shape: tuple[int, ...]) -> int:
        """The number of steps that are taken if ``steps`` are requested, for x of this shape."""
        return steps

    def named(self, name: str) -> tuple[str, str | None]:
        """The key of a sampler by its typed name, and the schedule that the name includes. Raises RequestError."""
        return name, None

    def names(self) -> list[str]:
        """The available samplers by their display names; empty if there is no choice."""
        return []


def expand(t: Tensor, x: Tensor) -> Tensor:
    """[B] -> [B, 1, 1, ...], broadcastable to x."""
    return t.reshape(-1, *[1] * (x.ndim - 1))
