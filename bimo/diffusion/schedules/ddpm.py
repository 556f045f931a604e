"""Denoising diffusion by betas (arXiv:2006.11239)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor

from bimo.core.errors import RecipeError, RequestError
from bimo.core.picture import FORMER_SAMPLERS
from bimo.diffusion.sampler_names import (
    EDM_SAMPLERS,
    SAMPLERS,
    SINGLESTEP,
    UNLIMITED,
    NamedSampler,
    SamplerOptions,
    sampler_named,
    samplers_taking,
    scheduler_class,
    shown_names,
    takes,
)
from bimo.diffusion.samplers import Sampler, timed
from bimo.diffusion.schedules.schedule import PLAIN, Schedule, expand

#: Ways in which the noise grows from step to step that training knows.
BETAS = ("linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid", "laplace")
#: Predictions that a training target is known for.
LEARNT = ("epsilon", "sample", "v_prediction")


@dataclass(frozen=True, kw_only=True)
class Ddpm(Schedule):
    """Denoising diffusion (arXiv:2006.11239) of ``count`` steps; ``config`` is the publisher's own sampler setting.

    The answer is the noise ("epsilon"), x itself ("sample") or v (arXiv:2202.00512, appendix D). With ``variance``
    "learned_range" it has twice the channels, the second half being the place of the log variance between its two
    bounds (arXiv:2102.09672, equation 15).

    With ``zero_terminal`` the betas are rescaled so that nothing of x is left at the last time (arXiv:2305.08891,
    algorithm 1), and drawing begins there ("trailing" times, section 3.3); the answer cannot be the noise then.

    ``percentile`` clips what is found of x at every step (dynamic thresholding, arXiv:2205.11487, section 2.3);
    ``begin`` is the share of the times at which "dpm-singlestep" begins.
    """

    beta_schedule: Literal["linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid", "laplace"] = "scaled_linear"
    beta_start: float = 0.00085
    beta_end: float = 0.012
    count: int = 1000
    prediction: Literal["epsilon", "sample", "v_prediction"] = "epsilon"
    variance: Literal["fixed", "learned_range"] = "fixed"
    zero_terminal: bool = False
    percentile: float = 0.0
    begin: float = 1.0
    config: Mapping[str, Any] = field(default_factory=dict[str, Any])

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.zero_terminal and self.prediction == "epsilon":
            raise RecipeError(
                "at the last time of zero_terminal there is noise alone, so to answer it teaches nothing; let "
                "prediction be v_prediction or sample"
            )

    @property
    def learnable(self) -> bool:
        """Whether the publisher's sampler goes by betas, as all that is learnt here does."""
        if not self.config:
            return True
        cls = scheduler_class(str(self.config["_class_name"]))
        flows = self.config.get("use_flow_sigmas") or self.config.get("prediction_type", "epsilon") not in LEARNT
        rescaled = bool(self.config.get("rescale_betas_zero_snr")) and not self.zero_terminal
        other = self.config.get("beta_schedule", self.beta_schedule) != self.beta_schedule
        return takes(cls, "beta_schedule") and not (flows or rescaled or other)

    def timesteps(self, count: int, generator: torch.Generator) -> Tensor:
        """Uniform whole times, [B]."""
        return torch.randint(0, self.count, (count,), generator=generator).float()

    def signal(self) -> Tensor:
        """The cumulative product of 1 - beta, [count]."""
        from diffusers.schedulers.scheduling_ddpm import DDPMScheduler

        if not self.learnable:
            name = self.config["_class_name"]
            raise RecipeError(
                "the noise of this model ({name}) does not go by betas: it draws, but is not trained here", name=name
            )
        return DDPMScheduler(**self._betas(), rescale_betas_zero_snr=self.zero_terminal).alphas_cumprod

    def add_noise(self, x: Tensor, noise: Tensor, t: Tensor) -> Tensor:
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

    def variational(self, answer: Tensor, x: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """The variational term of each row in bits, [B], of an answer with twice the channels: what teaches the
        variance (arXiv:2102.09672, equations 4 to 6 and 15). The mean is left out of the gradient, as in section 3.1;
        with its weight of 1 / 1000 for a bound summed over 1000 times, a mean over times has weight 1.
        """
        if self.variance != "learned_range" or answer.shape[1] != 2 * x.shape[1]:
            raise RecipeError(
                "this level learns no variance: it is {variance!r}, with an answer of {shape} channels for "
                "{shape_2} of x",
                variance=self.variance,
                shape=answer.shape[1],
                shape_2=x.shape[1],
            )
        return _variational(self, answer, x, noise, t)

    def clean(self, answer: Tensor, noised: Tensor, t: Tensor) -> Tensor:
        """x that an answer without variance means at x_t, [B, C, h, w]."""
        a = expand(self.signal().to(noised)[t.long()], noised)
        if self.prediction == "epsilon":
            return (noised - (1 - a).sqrt() * answer) / a.sqrt()
        return answer if self.prediction == "sample" else a.sqrt() * noised - (1 - a).sqrt() * answer

    def named(self, name: str) -> tuple[str, str | None]:
        """The key of a sampler that goes with this noise. Raises RequestError."""
        table = self._table()
        return sampler_named(name, table, (SINGLESTEP,) if table is SAMPLERS else ())

    def names(self) -> list[str]:
        """The samplers that go with this noise."""
        return shown_names(self._table())

    def sampler(self, name: str, steps: int, shape: tuple[int, ...] = (), options: SamplerOptions = PLAIN) -> Sampler:
        """The named sampler, or the publisher's own for "". Raises RequestError for an unknown name, for one that
        cannot clip where this schedule is to be clipped, and for what the sampler does not take.
        """
        name = FORMER_SAMPLERS.get(name, name)  # saved recipes may have it
        if name and name != SINGLESTEP and name not in self._table():
            name, schedule = self.named(name)
            options = options if schedule is None else replace(options, schedule=schedule)
        self._refuse(name)
        if name == SINGLESTEP:
            if options != PLAIN:
                raise RequestError(
                    "the times of the sampler {name} are its own; leave schedule and spacing out", name=name
                )
            from bimo.diffusion.dpm_solver_singlestep import Singlestep

            return Singlestep(self.signal(), steps, self.prediction, self.percentile, self.begin)
        return timed(self._made(name, options), name, steps)

    def _table(self) -> Mapping[str, NamedSampler]:
        """The samplers that go with this noise: of a publisher's who does not go by betas, none but its relatives."""
        own = str(self.config.get("_class_name", ""))
        if own in {sampler.cls for sampler in EDM_SAMPLERS.values()}:
            return EDM_SAMPLERS
        if self.config.get("use_flow_sigmas"):
            return {key: SAMPLERS[key] for key in samplers_taking("use_flow_sigmas")}
        return SAMPLERS if not own or takes(scheduler_class(own), "beta_schedule") else {}

    def _made(self, name: str, options: SamplerOptions) -> Any:
        """A scheduler of diffusers: the publisher's for "", else the named one with all that the publisher's settings
        say and it has, as diffusers' ``from_config`` takes them over.
        """
        if not name and self.config:
            cls = scheduler_class(str(self.config["_class_name"]))
            return cls.from_config(self._said(), **options.settings(cls.__name__, cls))
        sampler = self._table()[name or "ddim"]
        cls = scheduler_class(sampler.cls)
        fixed = {**sampler.fixed, **options.settings(name or "ddim", cls)}
        if self.config:
            said = self._said()
            # Unless the config says otherwise, latents are not clipped and Runge-Kutta steps are skipped.
            defaults = {"clip_sample": False, "skip_prk_steps": True}
            unsaid = {n: v for n, v in defaults.items() if takes(cls, n) and n not in said}
            return cls.from_config(said, **(unsaid | fixed))
        settings = {**sampler.defaults, **self._betas(), **self._clipping(name or "ddim")}
        if self.zero_terminal:
            # An offset of the times would leave the last one out again.
            settings |= {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing", "steps_offset": 0}
        return cls(**{n: v for n, v in (settings | fixed).items() if takes(cls, n)})

    def _said(self) -> dict[str, Any]:
        """What the publisher's settings say, without what they leave to the defaults of their class."""
        silent = set(self.config.get("_use_default_values", ()))
        return {n: v for n, v in self.config.items() if n not in silent and n != "_use_default_values"}

    def _betas(self) -> dict[str, Any]:
        trained = self.config.get("trained_betas")
        return {
            "beta_schedule": self.beta_schedule,
            "beta_start": self.beta_start,
            "beta_end": self.beta_end,
            "num_train_timesteps": self.count,
            "prediction_type": self.prediction,
        } | ({} if trained is None else {"trained_betas": list(trained)})

    def _clipping(self, name: str) -> dict[str, Any]:
        """The settings of a sampler of diffusers for the percentile and the learnt variance."""
        settings: dict[str, Any] = {}
        if name == "ddpm" and self.variance == "learned_range":
            settings["variance_type"] = "learned_range"
        if self.percentile and name in SAMPLERS:
            able = samplers_taking("thresholding")
            if name not in able:
                listed = ", ".join([SINGLESTEP, *able])
                raise RequestError(
                    "the sampler {name!r} cannot clip pixels, which this system needs; there is {listed}",
                    name=name,
                    listed=listed,
                )
            # diffusers limits the percentile's value to 1 unless told otherwise, which would be plain clipping.
            limit = {"sample_max_value": UNLIMITED}
            settings |= {"thresholding": True, "dynamic_thresholding_ratio": self.percentile} | limit
        return settings

    def _refuse(self, name: str) -> None:
        """Raises RequestError for a sampler that cannot go by rescaled betas where there are such."""
        if not self.zero_terminal or name not in (SINGLESTEP, *SAMPLERS):
            return
        able = samplers_taking("rescale_betas_zero_snr")
        if name not in able:
            raise RequestError(
                "the sampler {name!r} cannot go by rescaled betas (zero_terminal); there is {able}",
                name=name,
                able=", ".join(able),
            )


def _variational(schedule: Ddpm, answer: Tensor, x: Tensor, noise: Tensor, t: Tensor) -> Tensor:
    """KL to the posterior in bits, [B]; at t = 0 the likelihood of x, in bins of 1 / 255 about it."""
    at = t.long()
    signal = schedule.signal().double()
    before = torch.cat([signal.new_ones(1), signal[:-1]])
    betas = 1 - signal / before
    posterior = betas * (1 - before) / (1 - signal)
    # The posterior has no variance at the first time; its neighbour's stands in, as in the paper's code.
    low, high = (expand(v.log().to(x)[at], x) for v in (torch.cat([posterior[1:2], posterior[1:]]), betas))
    of_x = expand((betas * before.sqrt() / (1 - signal)).to(x)[at], x)
    of_noised = expand(((1 - before) * (1 - betas).sqrt() / (1 - signal)).to(x)[at], x)
    noised = schedule.add_noise(x, noise, t)
    mean_output, position = answer.chunk(2, dim=1)
    log_variance = torch.lerp(low, high, (position + 1) / 2)
    mean = of_x * schedule.clean(mean_output.detach(), noised, t) + of_noised * noised
    true = of_x * x + of_noised * noised
    divergence = (log_variance - low - 1 + (low - log_variance).exp() + (true - mean) ** 2 * (-log_variance).exp()) / 2
    normal = torch.distributions.Normal(mean, (log_variance / 2).exp())
    upper, lower = normal.cdf(x + 1 / 255), normal.cdf(x - 1 / 255)
    # What lies at the ends of the range is as likely as all beyond them.
    share = torch.where(x > 0.999, 1 - lower, torch.where(x < -0.999, upper, upper - lower))
    likelihood = -share.clamp(min=1e-12).log()
    bits = torch.where(expand(at == 0, x), likelihood, divergence)
    return bits.flatten(1).mean(1) / math.log(2)
