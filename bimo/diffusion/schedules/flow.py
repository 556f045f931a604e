"""Rectified flow (arXiv:2209.03003), with the timestep shifts of published systems."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy
import torch
from torch import Tensor, nn

from bimo.diffusion.sampler_names import (
    FLOW_SAMPLERS,
    NamedSampler,
    SamplerOptions,
    sampler_named,
    scheduler_class,
    shown_names,
    takes,
)
from bimo.diffusion.samplers import Euler, Sampler, timed
from bimo.diffusion.schedules.schedule import PLAIN, Schedule, expand


@dataclass(frozen=True, kw_only=True)
class Flow(Schedule):
    """Rectified flow (arXiv:2209.03003): x_t = (1 - s) x + s noise, the denoiser predicts noise - x; t = 1000 s.

    Training times are logit-normal (arXiv:2403.03206, section 3.1) with ``mean`` and ``deviation``. ``shift`` moves
    sampling times towards noise (the same paper, equation 23): s' = a s / (1 + (a - 1) s). ``dynamic`` computes a from
    the size of x instead, as its length in patches of ``patch`` a side relative to ``base_length`` and ``max_length``:
    a mu linear between ``base_shift`` and ``max_shift`` ("line"), or ``base_shift`` + ``max_shift`` times the root of
    length / ``base_length`` ("root"); a is e^mu, or mu itself if ``curve`` is "linear". ``grid`` are the times before
    the shift: the sampler's own, from 1 to 1 / steps ("even"), or integers from the last to 1, which are passed to the
    denoiser unchanged ("whole"), or one more of them without the 1 ("whole_open"). ``terminal`` stretches them to end
    there. ``config`` is the publisher's own scheduler config if these fields do not cover it.
    """

    logit_mean: float = 0.0
    logit_std: float = 1.0
    shift: float = 1.0
    last: float = 1000.0
    dynamic: Literal["", "line", "root"] = ""
    curve: Literal["exponential", "linear"] = "exponential"
    base_length: int = 256
    max_length: int = 4096
    base_shift: float = 0.5
    max_shift: float = 1.15
    patch: int = 2
    grid: Literal["own", "even", "whole", "whole_open"] = "own"
    terminal: float = 0.0
    config: Mapping[str, Any] = field(default_factory=dict[str, Any])

    def timesteps(self, count: int, generator: torch.Generator) -> Tensor:
        """Logit-normal times, [B]."""
        normal = torch.randn(count, generator=generator) * self.logit_std + self.logit_mean
        return torch.sigmoid(normal) * self.last

    def add_noise(self, x: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """(1 - s) x + s noise, [B, C, h, w]."""
        s = expand(t / self.last, x)
        return torch.lerp(x, noise, s)

    def target(self, x: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """The velocity noise - x, [B, C, h, w]."""
        return noise - x

    def clean(self, output: Tensor, noised: Tensor, t: Tensor) -> Tensor:
        """x_0 by the denoiser's output at x_t, [B, C, h, w]."""
        return noised - expand(t / self.last, noised) * output

    def named(self, name: str) -> tuple[str, str | None]:
        """The key of a sampler of flows. Raises RequestError."""
        return sampler_named(name, self._table())

    def names(self) -> list[str]:
        """The samplers for flows."""
        return shown_names(self._table())

    def _table(self) -> dict[str, NamedSampler]:
        return {key: sampler for key, sampler in FLOW_SAMPLERS.items() if key != "heun" or self._plain()}

    def _plain(self) -> bool:
        return not (self.dynamic or self.terminal or self.config) and self.grid == "own"

    def sampler(self, name: str, steps: int, shape: tuple[int, ...] = (), options: SamplerOptions = PLAIN) -> Sampler:
        """Euler's method, or diffusers' solver if the name or the times require it. Raises RequestError for an unknown
        name, and for options that a solver does not have.
        """
        if name and name not in self._table():
            name, schedule = self.named(name)
            options = options if schedule is None else replace(options, schedule=schedule)
        if name in ("", "euler") and self._plain() and options == PLAIN:
            return Euler(self._signals(steps), self.last)
        made = self._made(name, options)
        moved = {"mu": self.mu(shape)} if self.dynamic else {}
        if self.grid == "even":
            return timed(made, name, steps, sigmas=numpy.linspace(1.0, 1 / steps, steps), **moved)
        if self.grid in ("whole", "whole_open"):
            more = int(self.grid == "whole_open")
            spaced = numpy.linspace(self.last, 1.0, steps + more)[:steps]
            whole = spaced.astype(numpy.int64).astype(numpy.float32)
            return timed(made, name, steps, timesteps=whole, sigmas=whole / self.last, **moved)
        return timed(made, name, steps, **moved)

    def _made(self, name: str, options: SamplerOptions) -> Any:
        """A scheduler of diffusers: the publisher's for "", else the named one with the publisher's settings."""
        settings: dict[str, Any] = {"shift": self.shift}
        if self.dynamic:
            # The sampler reads the first two; the rest is for exported configs.
            settings |= {"use_dynamic_shifting": True, "time_shift_type": self.curve}
            settings |= {"base_shift": self.base_shift, "max_shift": self.max_shift}
            settings |= {"base_image_seq_len": self.base_length, "max_image_seq_len": self.max_length}
        if self.terminal:
            settings["shift_terminal"] = self.terminal
        said = {setting: value for setting, value in self.config.items() if not setting.startswith("_")}
        own = str(self.config.get("_class_name", "")) if not name else ""
        cls = scheduler_class(own or FLOW_SAMPLERS[name or "euler"].cls)
        taken = {setting: value for setting, value in (settings | said).items() if takes(cls, setting)}
        return cls(**(taken | options.settings(name or "euler", cls)))

    def mu(self, shape: tuple[int, ...]) -> float:
        """The dynamic shift mu for x with shape (C, h, w)."""
        length = math.prod(shape[1:]) // self.patch**2
        if self.dynamic == "root":
            return (length / self.base_length) ** 0.5 * self.max_shift + self.base_shift
        slope = (self.max_shift - self.base_shift) / (self.max_length - self.base_length)
        return length * slope + self.base_shift - slope * self.base_length

    def _signals(self, steps: int) -> Tensor:
        """The noise levels of all steps, the last 0: float32 at the same places as in diffusers. [steps + 1]"""
        first, final = (self._shifted(torch.tensor(s, dtype=torch.float32)).double() for s in (1.0, 1.0 / self.last))
        # diffusers shifts both ends before it interpolates, and then all of them again.
        spaced = first + (final - first) / max(1, steps - 1) * torch.arange(steps, dtype=torch.float64)
        if steps > 1:
            spaced[-1] = final
        return nn.functional.pad(self._shifted(spaced).float(), (0, 1))

    def _shifted(self, s: Tensor) -> Tensor:
        return self.shift * s / (1 + (self.shift - 1) * s)
