"""Timestep densities and loss weights for training flows, as in Stable Diffusion 3 (arXiv:2403.03206)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from bimo.core.errors import RecipeError
from bimo.core.part import Part
from bimo.diffusion.schedules.flow import Flow


@dataclass(frozen=True, kw_only=True)
class FlowTimes(Part):
    """Timesteps of a training batch in place of the schedule's own, by the noise level s (0 clean, 1 noise).

    ``density`` is "logit_normal" with ``mean`` and ``std`` (section 3.1, equation 19), "uniform", or "mode" with
    ``scale`` (equation 20). ``shift`` a moves them towards noise as in sampling, s' = a s / (1 + (a - 1) s) (equation
    23); 0 is the shift with which the schedule samples pictures of that size. ``weight`` is on each row's error, as in
    diffusers' trainers: "none", "sigma_sqrt" (1 / s^2), or "cosmap" (2 / pi / (1 - 2 s + 2 s^2)).
    """

    density: Literal["logit_normal", "uniform", "mode"] = "logit_normal"
    mean: float = 0.0
    std: float = 1.0
    scale: float = 1.29
    shift: float = 1.0
    weight: Literal["none", "sigma_sqrt", "cosmap"] = "none"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.std <= 0 or self.shift < 0 or self.scale < -1 or self.scale > 2 / (math.pi - 2):
            raise RecipeError(
                "FlowTimes wants std above 0, shift 0 or above, scale from -1 to 1.75; got {std}, {shift}, {scale}",
                std=self.std,
                shift=self.shift,
                scale=self.scale,
            )

    def timesteps(self, schedule: Flow, shape: tuple[int, ...], count: int, generator: torch.Generator) -> Tensor:
        """Timesteps [count] for x of a shape (C, h, w)."""
        if self.density == "logit_normal":
            s = torch.sigmoid(torch.randn(count, generator=generator) * self.std + self.mean)
        else:
            s = torch.rand(count, generator=generator)
            if self.density == "mode":
                s = 1 - s - self.scale * (torch.cos(math.pi * s / 2) ** 2 - 1 + s)
        shift = self.shift or drawn_shift(schedule, shape)
        return shift * s / (1 + (shift - 1) * s) * schedule.last

    def weights(self, schedule: Flow, t: Tensor) -> Tensor:
        """The weight of each row's error, [B]."""
        s = t / schedule.last
        if self.weight == "sigma_sqrt":
            return s.clamp(min=1e-3) ** -2
        return torch.ones_like(s) if self.weight == "none" else 2 / (math.pi * (1 - 2 * s + 2 * s * s))


def drawn_shift(schedule: Flow, shape: tuple[int, ...]) -> float:
    """The shift a with which a schedule samples an x of a shape."""
    if not schedule.dynamic:
        return schedule.shift
    mu = schedule.mu(shape)
    return mu if schedule.curve == "linear" else math.exp(mu)
