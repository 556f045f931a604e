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

#: Beta schedules that training supports.
BETAS = ("linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid", "laplace")
#: Prediction types that training supports.
LEARNT = ("epsilon", "sample", "v_prediction")


@dataclass(frozen=True, kw_only=True)
class Ddpm(Schedule):
    """Denoising diffusion (arXiv:2006.11239) of ``count`` steps; ``config`` is the publisher's own scheduler config.

    The denoiser predicts the noise ("epsilon"), x itself ("sample") or v (arXiv:2202.00512, appendix D). With
    ``variance`` "learned_range" the output has twice the channels; the second half interpolates the log variance
    between its two bounds (arXiv:2102.09672, equation 15).

    With ``zero_terminal`` the betas are rescaled to zero terminal SNR (arXiv:2305.08891, algorithm 1), and sampling
    starts there ("trailing" timesteps, section 3.3); the prediction cannot be the noise then.

    ``percentile`` is that of dynamic thresholding at every step (arXiv:2205.11487, section 2.3); ``begin`` is the
    fraction of the timesteps at which "dpm-singlestep" starts.
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
        """Whether the publisher's scheduler uses betas, which training requires."""
        if not self.config:
            return True
        cls = scheduler_class(str(self.config["_class_name"]))
        flows = self.config.get("use_flow_sigmas") or self.config.get("prediction_type", "epsilon") not in LEARNT
        rescaled = bool(self.config.get("rescale_betas_zero_snr")) and not self.zero_terminal
        other = self.config.get("beta_schedule", self.beta_schedule) != self.beta_schedule
        return takes(cls, "beta_schedule") and not (flows or rescaled or other)

    def timesteps(self, count: int, generator: torch.Generator) -> Tensor:
        """Uniform integer timesteps, [B]."""
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

    def variational(self, output: Tensor, x: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """The variational bound of each row in bits, [B], for an output with twice the channels: the loss of the
        learned variance (arXiv:2102.09672, equations 4 to 6 and 15). The mean is detached, as in section 3.1; the
        weight of 1 / 1000 for a bound summed over 1000 timesteps is a weight of 1 for the mean over timesteps.
        """
        if self.variance != "learned_range" or output.shape[1] != 2 * x.shape[1]:
            raise RecipeError(
                "this level learns no variance: it is {variance!r}, with an answer of {shape} channels for "
                "{shape_2} of x",
                variance=self.variance,
                shape=output.shape[1],
                shape_2=x.shape[1],
            )
        return _variational(self, output, x, noise, t)

    def clean(self, output: Tensor, noised: Tensor, t: Tensor) -> Tensor:
        """x_0 by an output without variance at x_t, [B, C, h, w]."""
        a = expand(self.signal().to(noised)[t.long()], noised)
        if self.prediction == "epsilon":
            return (noised - (1 - a).sqrt() * output) / a.sqrt()
        return output if self.prediction == "sample" else a.sqrt() * noised - (1 - a).sqrt() * output

    def named(self, name: str) -> tuple[str, str | None]:
        """The key of a sampler for this schedule. Raises RequestError."""
        table = self._table()
        return sampler_named(name, table, (SINGLESTEP,) if table is SAMPLERS else ())

    def names(self) -> list[str]:
        """The samplers for this schedule."""
        return shown_names(self._table())

    def sampler(self, name: str, steps: int, shape: tuple[int, ...] = (), options: SamplerOptions = PLAIN) -> Sampler:
        """The named sampler, or the publisher's own for "". Raises RequestError for an unknown name, for a sampler that
        does not support this schedule's thresholding, and for options that the sampler does not have.
        """
        name = FORMER_SAMPLERS.get(name, name)  # saved recipes may have an earlier name
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
        """The samplers for this schedule: for a publisher's scheduler without betas only its relatives."""
        own = str(self.config.get("_class_name", ""))
        if own in {sampler.cls for sampler in EDM_SAMPLERS.values()}:
            return EDM_SAMPLERS
        if self.config.get("use_flow_sigmas"):
            return {key: SAMPLERS[key] for key in samplers_taking("use_flow_sigmas")}
        return SAMPLERS if not own or takes(scheduler_class(own), "beta_schedule") else {}

    def _made(self, name: str, options: SamplerOptions) -> Any:
        """A diffusers scheduler: the publisher's for "", else the named one with the publisher's settings that it has,
        as diffusers' ``from_config``.
        """
        if not name and self.config:
            cls = scheduler_class(str(self.config["_class_name"]))
            return cls.from_config(self._publisher_settings(), **options.settings(cls.__name__, cls))
        sampler = self._table()[name or "ddim"]
        cls = scheduler_class(sampler.cls)
        fixed = {**sampler.fixed, **options.settings(name or "ddim", cls)}
        if self.config:
            publisher = self._publisher_settings()
            # Unless the config says otherwise, latents are not clipped and Runge-Kutta steps are skipped.
            defaults = {"clip_sample": False, "skip_prk_steps": True}
            unset = {n: v for n, v in defaults.items() if takes(cls, n) and n not in publisher}
            return cls.from_config(publisher, **(unset | fixed))
        settings = {**sampler.defaults, **self._betas(), **self._clipping(name or "ddim")}
        if self.zero_terminal:
            # An offset of the timesteps would leave out the last one again.
            settings |= {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing", "steps_offset": 0}
        return cls(**{n: v for n, v in (settings | fixed).items() if takes(cls, n)})

    def _publisher_settings(self) -> dict[str, Any]:
        """The publisher's settings, without the defaults of their class."""
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
        """The settings of a diffusers sampler for the percentile and the learned variance."""
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
            # diffusers clamps the percentile's value to 1 by default, which would be plain clipping.
            limit = {"sample_max_value": UNLIMITED}
            settings |= {"thresholding": True, "dynamic_thresholding_ratio": self.percentile} | limit
        return settings

    def _refuse(self, name: str) -> None:
        """Raises RequestError for a sampler that does not support rescaled betas, if there are any."""
        if not self.zero_terminal or name not in (SINGLESTEP, *SAMPLERS):
            return
        able = samplers_taking("rescale_betas_zero_snr")
        if name not in able:
            raise RequestError(
                "the sampler {name!r} cannot go by rescaled betas (zero_terminal); there is {able}",
                name=name,
                able=", ".join(able),
            )


def _variational(schedule: Ddpm, output: Tensor, x: Tensor, noise: Tensor, t: Tensor) -> Tensor:
    """KL to the posterior in bits, [B]; at t = 0 the likelihood of x, in bins of 1 / 255 around it."""
    at = t.long()
    signal = schedule.signal().double()
    before = torch.cat([signal.new_ones(1), signal[:-1]])
    betas = 1 - signal / before
    posterior = betas * (1 - before) / (1 - signal)
    # The posterior has no variance at the first timestep; the next one's is used, as in the paper's code.
    low, high = (expand(v.log().to(x)[at], x) for v in (torch.cat([posterior[1:2], posterior[1:]]), betas))
    of_x = expand((betas * before.sqrt() / (1 - signal)).to(x)[at], x)
    of_noised = expand(((1 - before) * (1 - betas).sqrt() / (1 - signal)).to(x)[at], x)
    noised = schedule.add_noise(x, noise, t)
    mean_output, position = output.chunk(2, dim=1)
    log_variance = torch.lerp(low, high, (position + 1) / 2)
    mean = of_x * schedule.clean(mean_output.detach(), noised, t) + of_noised * noised
    true = of_x * x + of_noised * noised
    divergence = (log_variance - low - 1 + (low - log_variance).exp() + (true - mean) ** 2 * (-log_variance).exp()) / 2
    normal = torch.distributions.Normal(mean, (log_variance / 2).exp())
    upper, lower = normal.cdf(x + 1 / 255), normal.cdf(x - 1 / 255)
    # The first and last bin extend to infinity.
    share = torch.where(x > 0.999, 1 - lower, torch.where(x < -0.999, upper, upper - lower))
    likelihood = -share.clamp(min=1e-12).log()
    bits = torch.where(expand(at == 0, x), likelihood, divergence)
    return bits.flatten(1).mean(1) / math.log(2)
