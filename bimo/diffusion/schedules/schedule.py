"""What a noise schedule must answer."""

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

#: A sampler of which nothing is said but its name.
PLAIN = SamplerOptions()


@dataclass(frozen=True, kw_only=True)
class Schedule(Part, ABC):
    """A noise schedule. Times t are what the denoiser is given: 0 is clean, ``last`` is noise alone."""

    @abstractmethod
    def timesteps(self, count: int, generator: torch.Generator) -> Tensor:
        """Times for a training batch, [B]."""

    @abstractmethod
    def add_noise(self, x: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """x_t of clean x, [B, C, h, w]."""

    @abstractmethod
    def target(self, x: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """What the denoiser should predict for x_t, [B, C, h, w]."""

    @abstractmethod
    def clean(self, answer: Tensor, noised: Tensor, t: Tensor) -> Tensor:
        """x that an answer of the denoiser means at x_t, [B, C, h, w]: what a preview shows."""

    @abstractmethod
    def sampler(self, name: str, steps: int, shape: tuple[int, ...] = (), options: SamplerOptions = PLAIN) -> Sampler:
        """A fresh sampler with its times set; ``shape`` is that of x, on whose size the times may depend."""

    def named(self, name: str) -> tuple[str, str | None]:
        """The key of a sampler by what was typed, and the schedule that this says. Raises RequestError."""
        return name, None

    def names(self) -> list[str]:
        """The samplers to choose from, by the names people know; none where there is no choice."""
        return []


def expand(t: Tensor, x: Tensor) -> Tensor:
    """[B] -> [B, 1, 1, ...] to go with x."""
    return t.reshape(-1, *[1] * (x.ndim - 1))
