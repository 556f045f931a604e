"""Samplers: from x at one timestep to x at the next. Those of diffusers, and two that do not need to import it."""

from __future__ import annotations

import inspect
import warnings
from abc import ABC, abstractmethod
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bimo.core.errors import RequestError
from bimo.core.request import Request
from bimo.diffusion.sampler_names import SamplerOptions


@dataclass(frozen=True)
class StepSettings:
    """What a step may depend on besides x: the generator of its noise; ``eta`` of DDIM and TCD, None for 0; whether the
    model output is recomputed from the clipped x_0.
    """

    generator: torch.Generator | None = None
    eta: float | None = None
    clipped: bool = False


PLAIN_STEP = StepSettings()


class Sampler(ABC):
    """Takes x from noise to a picture over ``timesteps``, from the noisiest to the cleanest."""

    timesteps: Tensor
    #: The standard deviation of the initial x; 0 if sampling starts from zeros.
    init_noise_sigma: float = 1.0
    #: Whether noise is added as (1 - s) x + s noise.
    of_flow: bool = False
    #: Whether it can start from a picture noised by ``add_noise``.
    can_add_noise: bool = False
    #: Whether a step depends on ``StepSettings.eta``.
    takes_eta: bool = False
    #: Whether a step reads all of the output and not only as many channels as x has: a learned variance in the second
    #: half of them, or the logits of a token.
    reads_all: bool = False
    #: The spacing of timesteps, as diffusers' ``timestep_spacing``; "" if there is no such setting.
    spacing: str = ""

    @property
    def name(self) -> str:
        """Its name in messages."""
        return type(self).__name__

    def scale_model_input(self, sample: Tensor, timestep: Tensor) -> Tensor:
        """x as the denoiser's input at this timestep: unchanged, unless a sampler scales it."""
        return sample

    @abstractmethod
    def step(
        self, model_output: Tensor, timestep: Tensor, sample: Tensor, settings: StepSettings = PLAIN_STEP
    ) -> Tensor:
        """x at the time after ``timestep``."""

    def add_noise(self, sample: Tensor, noise: Tensor, timestep: Tensor) -> Tensor:
        """Clean x [B, *shape] with the noise of ``timestep`` [B]. Raises RequestError unless ``can_add_noise``."""
        raise RequestError(
            "the sampler {name} cannot begin with a picture; leave the image out, or take another sampler",
            name=self.name,
        )

    def times_from(self, first: int) -> Tensor:
        """The remaining timesteps if the first steps are skipped."""
        return self.timesteps[first:]

    def seed_noise(self, seed: int) -> None:
        """Seeds the noise of a sampler with a generator of its own; no effect on others."""
        return


class DiffusersSampler(Sampler):
    """A diffusers scheduler. Its classes differ in what they have; they are probed here and nowhere else."""

    def __init__(self, scheduler: Any) -> None:
        self.scheduler = scheduler
        self.timesteps = scheduler.timesteps
        config = scheduler.config
        # Flow schedulers have neither method, except their Heun.
        self._scales = hasattr(scheduler, "scale_model_input")
        self.init_noise_sigma = scheduler.init_noise_sigma if hasattr(scheduler, "init_noise_sigma") else 1.0
        self.of_flow = hasattr(scheduler, "scale_noise")
        self.can_add_noise = self.of_flow or hasattr(scheduler, "add_noise")
        self._parameters = inspect.signature(scheduler.step).parameters
        self.takes_eta = "eta" in self._parameters
        self.reads_all = config.get("variance_type") in {"learned", "learned_range"}
        self.spacing = str(config.get("timestep_spacing", ""))

    @property
    def name(self) -> str:
        """The name of the diffusers class."""
        return type(self.scheduler).__name__

    def scale_model_input(self, sample: Tensor, timestep: Tensor) -> Tensor:
        """x as the denoiser's input at this timestep."""
        return self.scheduler.scale_model_input(sample, timestep) if self._scales else sample

    def step(
        self, model_output: Tensor, timestep: Tensor, sample: Tensor, settings: StepSettings = PLAIN_STEP
    ) -> Tensor:
        """x at the time after ``timestep``. Raises RequestError if the scheduler fails with its settings."""
        options: dict[str, Any] = {}
        if "generator" in self._parameters:
            options["generator"] = settings.generator
        if self.takes_eta:
            options["eta"] = settings.eta or 0.0
        if settings.clipped and "use_clipped_model_output" in self._parameters:
            options["use_clipped_model_output"] = True
        try:
            # Tensors that schedulers compute themselves stay on the CPU, where they were created.
            own = nullcontext() if sample.device.type == "cpu" else torch.device("cpu")
            with warnings.catch_warnings(), own:
                # torchsde warns about rounding of the times that diffusers passes.
                warnings.filterwarnings("ignore", module="torchsde")
                return self.scheduler.step(model_output, timestep, sample, **options).prev_sample
        except (ValueError, IndexError, NotImplementedError, AssertionError, RecursionError) as error:
            raise RequestError(
                "the sampler {name} cannot go on ({error}, of {count} steps); take another sampler or other steps",
                name=self.name,
                error=error,
                count=len(self.timesteps),
            ) from None

    def add_noise(self, sample: Tensor, noise: Tensor, timestep: Tensor) -> Tensor:
        """Clean x with the noise of ``timestep`` [B]."""
        if self.of_flow:
            return self.scheduler.scale_noise(sample, timestep, noise)
        return self.scheduler.add_noise(sample, noise, timestep)

    def times_from(self, first: int) -> Tensor:
        """The remaining timesteps; a second-order scheduler has two for each step."""
        first *= self.scheduler.order
        if hasattr(self.scheduler, "set_begin_index"):  # DDIM and PNDM find their position by the timestep
            self.scheduler.set_begin_index(first)
        return self.timesteps[first:]

    def seed_noise(self, seed: int) -> None:
        """DPMSolverSDEScheduler would otherwise use a random seed."""
        if self.scheduler.config.get("noise_sampler_seed", seed) is None:
            self.scheduler.noise_sampler_seed = seed


class Euler(Sampler):
    """Euler's method for flows: x + (s_next - s) v. ``sigmas`` [steps + 1] are the noise levels from first to last; t
    is ``last`` times as much. Bit-identical to diffusers' FlowMatchEulerDiscreteScheduler; implemented here because
    importing diffusers takes longer than drawing a picture.
    """

    of_flow = can_add_noise = True

    def __init__(self, sigmas: Tensor, last: float) -> None:
        self.sigmas = sigmas
        self.timesteps = sigmas[:-1] * last
        places = zip(self.timesteps, sigmas, sigmas.diff(), strict=False)
        self._at = {float(t): (float(sigma), float(width)) for t, sigma, width in places}

    def step(
        self, model_output: Tensor, timestep: Tensor, sample: Tensor, settings: StepSettings = PLAIN_STEP
    ) -> Tensor:
        """x at the time after ``timestep``, which is one of ``timesteps``; computed in float32."""
        moved = sample.float() + self._at[float(timestep)][1] * model_output
        return moved.to(model_output.dtype)

    def add_noise(self, sample: Tensor, noise: Tensor, timestep: Tensor) -> Tensor:
        """x with the noise of ``timestep``."""
        sigma = self._at[float(timestep)][0]
        return sigma * noise + (1.0 - sigma) * sample


class OneStepSampler(Sampler):
    """One step, whose x is the denoiser's output."""

    init_noise_sigma = 0.0

    def __init__(self) -> None:
        self.timesteps = torch.ones(1)

    def step(
        self, model_output: Tensor, timestep: Tensor, sample: Tensor, settings: StepSettings = PLAIN_STEP
    ) -> Tensor:
        """The denoiser's output."""
        return model_output


def timed(scheduler: Any, name: str, steps: int, **settings: Any) -> DiffusersSampler:
    """A diffusers scheduler with its timesteps set. Raises RequestError if it does not support this number of steps."""
    try:
        count = {} if settings.keys() & {"sigmas", "timesteps"} else {"num_inference_steps": steps}
        scheduler.set_timesteps(**count, **settings)
        if not len(scheduler.timesteps):
            raise ValueError("no times are left")
    except (ValueError, IndexError, AssertionError, RuntimeError, ZeroDivisionError, NotImplementedError) as error:
        called = name or type(scheduler).__name__
        raise RequestError(
            "the sampler {called} cannot take {steps} steps ({error}); take other steps or another sampler",
            called=called,
            steps=steps,
            error=error,
        ) from None
    return DiffusersSampler(scheduler)


def options_of(request: Request) -> SamplerOptions:
    """The sampler options of a request besides the name."""
    return SamplerOptions(request.schedule, request.spacing)
