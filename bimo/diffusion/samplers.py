"""Samplers by the names people type: diffusers' schedulers, and those drawing must not wait for a library to have."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from bimo.core.errors import RequestError
from bimo.core.part import meant

#: Samplers by the names people type, each a class of diffusers and what it is configured with besides the law.
SAMPLERS: dict[str, tuple[str, dict[str, Any]]] = {
    "ddim": ("DDIMScheduler", {"clip_sample": False, "set_alpha_to_one": False, "steps_offset": 1}),
    "ddpm": ("DDPMScheduler", {"clip_sample": False}),
    "pndm": ("PNDMScheduler", {"skip_prk_steps": True, "set_alpha_to_one": False, "steps_offset": 1}),
    "euler": ("EulerDiscreteScheduler", {"steps_offset": 1}),
    "euler-a": ("EulerAncestralDiscreteScheduler", {"steps_offset": 1}),
    "heun": ("HeunDiscreteScheduler", {"steps_offset": 1}),
    "dpm++": ("DPMSolverMultistepScheduler", {"steps_offset": 1}),
    "dpm++-sde": ("DPMSolverMultistepScheduler", {"steps_offset": 1, "algorithm_type": "sde-dpmsolver++"}),
    "unipc": ("UniPCMultistepScheduler", {"steps_offset": 1}),
}
#: The sampler that cascades were published with, which diffusers has only nearly (see `bimo.diffusion.singlestep`).
SINGLESTEP = "dpm-singlestep"
UNLIMITED = 1e9
FLOW_SAMPLERS: dict[str, tuple[str, dict[str, Any]]] = {
    "euler": ("FlowMatchEulerDiscreteScheduler", {}),
    "heun": ("FlowMatchHeunDiscreteScheduler", {}),
}


@runtime_checkable
class Sampler(Protocol):
    """What the coroutine needs of a sampler; diffusers' schedulers have it."""

    init_noise_sigma: float
    timesteps: Tensor

    def scale_model_input(self, sample: Tensor, timestep: Tensor) -> Tensor:
        """x as the denoiser wants it at this time."""
        ...

    def step(self, model_output: Tensor, timestep: Tensor, sample: Tensor, **settings: Any) -> Any:
        """x at the next time, as ``prev_sample`` of what is answered."""
        ...


@dataclass(frozen=True)
class Stepped:
    """x at the next time, under the name that diffusers' schedulers answer it by."""

    prev_sample: Tensor


class Euler:
    """Euler's method for a flow: x + (s_next - s) v. ``sigmas`` [steps + 1] are the shares of noise from first to
    last, t is ``last`` times as much. To the bit what diffusers' FlowMatchEulerDiscreteScheduler steps; written here
    because importing the library takes longer than drawing a picture.
    """

    init_noise_sigma = 1.0
    order = 1

    def __init__(self, sigmas: Tensor, last: float) -> None:
        self.sigmas = sigmas
        self.timesteps = sigmas[:-1] * last
        places = zip(self.timesteps, sigmas, sigmas.diff(), strict=False)
        self._at = {float(t): (float(sigma), float(width)) for t, sigma, width in places}

    def scale_model_input(self, sample: Tensor, timestep: Tensor) -> Tensor:
        """x as it is."""
        return sample

    def step(self, model_output: Tensor, timestep: Tensor, sample: Tensor, **settings: Any) -> Stepped:
        """x at the time after ``timestep``, which is one of ``timesteps``; computed in float32."""
        moved = sample.float() + self._at[float(timestep)][1] * model_output
        return Stepped(moved.to(model_output.dtype))

    def scale_noise(self, sample: Tensor, timestep: Tensor, noise: Tensor) -> Tensor:
        """x as noisy as it is at ``timestep``."""
        sigma = self._at[float(timestep)][0]
        return sigma * noise + (1.0 - sigma) * sample


def unscaled(sample: Tensor, timestep: Tensor) -> Tensor:
    """x as it is."""
    return sample


class Once:
    """One step that answers what the denoiser did."""

    init_noise_sigma = 0.0

    def __init__(self) -> None:
        self.timesteps = torch.ones(1)

    def scale_model_input(self, sample: Tensor, timestep: Tensor) -> Tensor:
        return sample

    def step(self, model_output: Tensor, timestep: Tensor, sample: Tensor, **settings: Any) -> Stepped:
        return Stepped(model_output)


def of_diffusers(table: Mapping[str, tuple[str, dict[str, Any]]], name: str, law: dict[str, Any]) -> Any:
    """A scheduler of a table by its name, configured with what the table says and the law. Raises RequestError."""
    import diffusers

    if name not in table:
        zh, en = meant(name, [*table, SINGLESTEP] if table is SAMPLERS else table)
        raise RequestError(f"没有采样器 {name!r}{zh}", f"there is no sampler {name!r}{en}")
    cls_name, settings = table[name]
    return getattr(diffusers, cls_name)(**(settings | law))
