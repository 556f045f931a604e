"""Noise laws for training and drawing, on diffusers' schedulers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from bimo.core.errors import RequestError
from bimo.core.part import Part, meant

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


class Schedule(Protocol):
    """A noise law. Times t are what the denoiser is told: 0 is clean, ``last`` is noise alone."""

    def times(self, count: int, generator: torch.Generator) -> Tensor:
        """Times for a training batch, [B]."""
        ...

    def noised(self, x: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """x_t of clean x, [B, C, h, w]."""
        ...

    def target(self, x: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """What the denoiser should answer for x_t, [B, C, h, w]."""
        ...

    def sampler(self, name: str, steps: int, shape: tuple[int, ...] = ()) -> Sampler:
        """A fresh sampler with its times set; ``shape`` is that of x, on whose size the times may depend."""
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
        self._widths = {float(t): float(width) for t, width in zip(self.timesteps, sigmas.diff(), strict=True)}

    def scale_model_input(self, sample: Tensor, timestep: Tensor) -> Tensor:
        """x as it is."""
        return sample

    def step(self, model_output: Tensor, timestep: Tensor, sample: Tensor, **settings: Any) -> Stepped:
        """x at the time after ``timestep``, which is one of ``timesteps``; computed in float32."""
        moved = sample.float() + self._widths[float(timestep)] * model_output
        return Stepped(moved.to(model_output.dtype))


def _unscaled(sample: Tensor, timestep: Tensor) -> Tensor:
    return sample


def expand(t: Tensor, x: Tensor) -> Tensor:
    """[B] -> [B, 1, 1, ...] to go with x."""
    return t.reshape(-1, *[1] * (x.ndim - 1))


def _of_diffusers(table: Mapping[str, tuple[str, dict[str, Any]]], name: str, law: dict[str, Any]) -> Any:
    import diffusers

    if name not in table:
        zh, en = meant(name, table)
        raise RequestError(f"没有采样器 {name!r}{zh}", f"there is no sampler {name!r}{en}")
    cls_name, settings = table[name]
    return getattr(diffusers, cls_name)(**(settings | law))


@dataclass(frozen=True, kw_only=True)
class Flow(Part):
    """Rectified flow (arXiv:2209.03003): x_t = (1 - s) x + s noise, the answer is noise - x; t = 1000 s.

    Training times are logit-normal (arXiv:2403.03206, section 3.1) with the given mean and deviation. ``shift`` moves
    the times of drawing towards noise (the same paper, equation 23).
    """

    mean: float = 0.0
    deviation: float = 1.0
    shift: float = 1.0
    last: float = 1000.0

    def times(self, count: int, generator: torch.Generator) -> Tensor:
        """Logit-normal times, [B]."""
        normal = torch.randn(count, generator=generator) * self.deviation + self.mean
        return torch.sigmoid(normal) * self.last

    def noised(self, x: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """(1 - s) x + s noise, [B, C, h, w]."""
        s = expand(t / self.last, x)
        return torch.lerp(x, noise, s)

    def target(self, x: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """The velocity noise - x, [B, C, h, w]."""
        return noise - x

    def sampler(self, name: str, steps: int, shape: tuple[int, ...] = ()) -> Sampler:
        """Euler's method, or diffusers' solver of another name. Raises RequestError for an unknown name."""
        if name in ("", "euler"):
            return Euler(self._signals(steps), self.last)
        made = _of_diffusers(FLOW_SAMPLERS, name or "euler", {"shift": self.shift})
        made.set_timesteps(steps)
        if not hasattr(made, "init_noise_sigma"):
            made.init_noise_sigma = 1.0
        if not hasattr(made, "scale_model_input"):
            made.scale_model_input = _unscaled
        return made

    def _signals(self, steps: int) -> Tensor:
        """The shares of noise at each step, the last 0: float32 of as many places as diffusers takes. [steps + 1]"""
        first, final = (self._shifted(torch.tensor(s, dtype=torch.float32)).double() for s in (1.0, 1.0 / self.last))
        # diffusers shifts both ends before it spaces them out, and then all once more.
        spaced = first + (final - first) / max(1, steps - 1) * torch.arange(steps, dtype=torch.float64)
        if steps > 1:
            spaced[-1] = final
        return nn.functional.pad(self._shifted(spaced).float(), (0, 1))

    def _shifted(self, s: Tensor) -> Tensor:
        return self.shift * s / (1 + (self.shift - 1) * s)


@dataclass(frozen=True, kw_only=True)
class Ddpm(Part):
    """Denoising diffusion (arXiv:2006.11239) of ``count`` steps; ``config`` is the publisher's own sampler setting.

    The answer is the noise ("epsilon"), x itself ("sample") or v (arXiv:2202.00512, appendix D).
    """

    betas: Literal["linear", "scaled_linear", "squaredcos_cap_v2"] = "scaled_linear"
    start: float = 0.00085
    end: float = 0.012
    count: int = 1000
    prediction: Literal["epsilon", "sample", "v_prediction"] = "epsilon"
    config: Mapping[str, Any] = field(default_factory=dict[str, Any])

    def times(self, count: int, generator: torch.Generator) -> Tensor:
        """Uniform whole times, [B]."""
        return torch.randint(0, self.count, (count,), generator=generator).float()

    def signal(self) -> Tensor:
        """The cumulative product of 1 - beta, [count]."""
        from diffusers.schedulers.scheduling_ddpm import DDPMScheduler

        return DDPMScheduler(**self._law()).alphas_cumprod

    def noised(self, x: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """sqrt(a) x + sqrt(1 - a) noise, [B, C, h, w]."""
        a = expand(self.signal().to(x)[t.long()], x)
        return a.sqrt() * x + (1 - a).sqrt() * noise

    def target(self, x: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Noise, x or v, [B, C, h, w]."""
        if self.prediction == "epsilon":
            return noise
        if self.prediction == "sample":
            return x
        a = expand(self.signal().to(x)[t.long()], x)
        return a.sqrt() * noise - (1 - a).sqrt() * x

    def sampler(self, name: str, steps: int, shape: tuple[int, ...] = ()) -> Sampler:
        """The named sampler, or the publisher's own for "". Raises RequestError for an unknown name."""
        import diffusers

        if not name and self.config:
            settings = {k: v for k, v in self.config.items() if not k.startswith("_")}
            made: Any = getattr(diffusers, str(self.config["_class_name"])).from_config(settings)
        else:
            made = _of_diffusers(SAMPLERS, name or "ddim", self._law())
        made.set_timesteps(steps)
        return made

    def _law(self) -> dict[str, Any]:
        return {
            "beta_schedule": self.betas,
            "beta_start": self.start,
            "beta_end": self.end,
            "num_train_timesteps": self.count,
            "prediction_type": self.prediction,
        }


@dataclass(frozen=True, kw_only=True)
class Mean(Part):
    """Diffusion at its last time alone: x_t says nothing, so the best answer is E[x | conditioning], in one step."""

    def times(self, count: int, generator: torch.Generator) -> Tensor:
        """Ones, [B]."""
        return torch.ones(count)

    def noised(self, x: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Zeros, [B, C, h, w]."""
        return torch.zeros_like(x)

    def target(self, x: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """x itself, [B, C, h, w]."""
        return x

    def sampler(self, name: str, steps: int, shape: tuple[int, ...] = ()) -> Sampler:
        """One step whatever was asked: there is no noise to remove bit by bit."""
        return _Once()


class _Once:
    init_noise_sigma = 0.0

    def __init__(self) -> None:
        self.timesteps = torch.ones(1)

    def scale_model_input(self, sample: Tensor, timestep: Tensor) -> Tensor:
        return sample

    def step(self, model_output: Tensor, timestep: Tensor, sample: Tensor, **settings: Any) -> Stepped:
        return Stepped(model_output)
