"""Samplers by the names people type, as diffusers classes with their settings."""

from __future__ import annotations

import inspect
import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from bimo.core.errors import RequestError
from bimo.core.messages import Listed
from bimo.core.part import meant


@dataclass(frozen=True)
class NamedSampler:
    """A diffusers class. ``fixed`` settings define the sampler; ``defaults`` can be overridden.

    ``a1111`` are its names in AUTOMATIC1111, matched whatever their case, blanks and hyphens.
    """

    cls: str
    defaults: Mapping[str, Any] = field(default_factory=dict[str, Any])
    fixed: Mapping[str, Any] = field(default_factory=dict[str, Any])
    a1111: tuple[str, ...] = ()


_OFFSET: dict[str, Any] = {"steps_offset": 1}
_DDIM: dict[str, Any] = {"clip_sample": False, "set_alpha_to_one": False, "steps_offset": 1}
_CONSISTENCY: dict[str, Any] = {"set_alpha_to_one": False, "steps_offset": 1}
_DDPM: dict[str, Any] = {"clip_sample": False, "steps_offset": 1}
_SDE: dict[str, Any] = {"algorithm_type": "sde-dpmsolver++"}
_MULTISTEP = "DPMSolverMultistepScheduler"
#: Samplers for beta schedules (Stable Diffusion and its relatives), by the keys that are saved.
SAMPLERS: dict[str, NamedSampler] = {
    "ddim": NamedSampler("DDIMScheduler", _DDIM, a1111=("DDIM",)),
    "ddpm": NamedSampler("DDPMScheduler", _DDPM, a1111=("DDPM",)),
    "pndm": NamedSampler(
        "PNDMScheduler",
        {"skip_prk_steps": True, "set_alpha_to_one": False, "steps_offset": 1},
        a1111=("PLMS", "PNDM"),
    ),
    "euler": NamedSampler("EulerDiscreteScheduler", _OFFSET, a1111=("Euler",)),
    "euler-a": NamedSampler("EulerAncestralDiscreteScheduler", _OFFSET, a1111=("Euler a", "Euler ancestral")),
    "heun": NamedSampler("HeunDiscreteScheduler", _OFFSET, a1111=("Heun",)),
    "lms": NamedSampler("LMSDiscreteScheduler", _OFFSET, a1111=("LMS",)),
    "dpm2": NamedSampler("KDPM2DiscreteScheduler", _OFFSET, a1111=("DPM2",)),
    "dpm2-a": NamedSampler("KDPM2AncestralDiscreteScheduler", _OFFSET, a1111=("DPM2 a", "DPM2 ancestral")),
    "dpm++": NamedSampler(_MULTISTEP, _OFFSET, {"algorithm_type": "dpmsolver++"}, ("DPM++ 2M", "DPM++")),
    "dpm++-2m-sde": NamedSampler(_MULTISTEP, _OFFSET, _SDE, ("DPM++ 2M SDE",)),
    "dpm++-2m-sde-heun": NamedSampler(_MULTISTEP, _OFFSET, _SDE | {"solver_type": "heun"}, ("DPM++ 2M SDE Heun",)),
    "dpm++-3m-sde": NamedSampler(_MULTISTEP, _OFFSET, _SDE | {"solver_order": 3}, ("DPM++ 3M SDE",)),
    "dpm++-2s": NamedSampler("DPMSolverSinglestepScheduler", a1111=("DPM++ 2S",)),
    "dpm-solver-sde": NamedSampler("DPMSolverSDEScheduler", _OFFSET, a1111=("DPM++ SDE",)),
    "unipc": NamedSampler("UniPCMultistepScheduler", _OFFSET, a1111=("UniPC",)),
    "deis": NamedSampler("DEISMultistepScheduler", _OFFSET, a1111=("DEIS",)),
    "sa-solver": NamedSampler("SASolverScheduler", _OFFSET, a1111=("SA Solver",)),
    "lcm": NamedSampler("LCMScheduler", _CONSISTENCY, a1111=("LCM",)),
    "tcd": NamedSampler("TCDScheduler", _CONSISTENCY, a1111=("TCD",)),
    "ddim-parallel": NamedSampler("DDIMParallelScheduler", _DDIM),
    "ddpm-parallel": NamedSampler("DDPMParallelScheduler", _DDPM),
}
#: Samplers of models that are conditioned on the standard deviation of the noise (arXiv:2206.00364).
EDM_SAMPLERS = {
    "euler": NamedSampler("EDMEulerScheduler", a1111=("Euler",)),
    "dpm++": NamedSampler("EDMDPMSolverMultistepScheduler", a1111=("DPM++ 2M", "DPM++")),
}
FLOW_SAMPLERS = {
    "euler": NamedSampler("FlowMatchEulerDiscreteScheduler", a1111=("Euler",)),
    "heun": NamedSampler("FlowMatchHeunDiscreteScheduler", a1111=("Heun",)),
    "lcm": NamedSampler("FlowMatchLCMScheduler", a1111=("LCM",)),
}
#: The sampler with which cascades were published; diffusers' is not equivalent (see
#: `bimo.diffusion.dpm_solver_singlestep`).
SINGLESTEP = "dpm-singlestep"
UNLIMITED = 1e9

#: Noise schedules, as settings of diffusers' classes. "sgm_uniform" and "simple" are trailing timesteps in diffusers,
#: by its own table of AUTOMATIC1111's names.
SCHEDULES: dict[str, dict[str, Any]] = {
    "normal": {},
    "karras": {"use_karras_sigmas": True},
    "exponential": {"use_exponential_sigmas": True},
    "beta": {"use_beta_sigmas": True},
    "lu": {"use_lu_lambdas": True},
    "sgm_uniform": {"timestep_spacing": "trailing"},
    "simple": {"timestep_spacing": "trailing"},
}
#: Settings of which a scheduler takes at most one.
SIGMAS = ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas", "use_lu_lambdas")
SPACINGS = ("leading", "trailing", "linspace")


@dataclass(frozen=True)
class SamplerOptions:
    """The sampler options of a request besides the name: a key of ``SCHEDULES``, one of ``SPACINGS``, or nothing."""

    schedule: str | None = None
    spacing: str | None = None

    def settings(self, name: str, cls: Any) -> dict[str, Any]:
        """The options as settings of a diffusers class. Raises RequestError if it does not have them."""
        found: dict[str, Any] = {}
        if self.schedule is not None:
            wanted = SCHEDULES[self.schedule]
            if lacking := [setting for setting in wanted if not takes(cls, setting)]:
                raise self._unfit(name, "schedule", self.schedule, lacking[0])
            found |= dict.fromkeys((s for s in SIGMAS if takes(cls, s)), False) | wanted
        if self.spacing is not None:
            if not takes(cls, "timestep_spacing"):
                raise self._unfit(name, "spacing", self.spacing, "timestep_spacing")
            found["timestep_spacing"] = self.spacing
        return found

    def _unfit(self, name: str, option: str, value: str, setting: str) -> RequestError:
        return RequestError(
            "the sampler {name} has no {option} {value!r}; those that have are {able}",
            name=name,
            option=option,
            value=value,
            able=Listed(samplers_taking(setting)),
        )


def takes(cls: Any, name: str) -> bool:
    """Whether a class has a setting of this name."""
    return name in inspect.signature(cls.__init__).parameters


def scheduler_class(name: str) -> Any:
    """The diffusers scheduler of this name."""
    import diffusers

    return getattr(diffusers, name)


def samplers_taking(setting: str) -> list[str]:
    """The keys of ``SAMPLERS`` whose class has a setting."""
    return [key for key, sampler in SAMPLERS.items() if takes(scheduler_class(sampler.cls), setting)]


def plain_name(name: str) -> str:
    """Normalises a name: case, blanks, hyphens and underscores are ignored, and ++ may be spelt as in k-diffusion and
    ComfyUI (k_dpmpp_2m).
    """
    plain = re.sub(r"[\s_-]+", "", unicodedata.normalize("NFKC", name)).casefold()
    return re.sub("^k(?=dpm|euler|heun|lms)(?!.*(discrete|scheduler))", "", plain).replace("dpmpp", "dpm++")


def schedule_named(name: str) -> str:
    """The key of ``SCHEDULES`` for a typed name ("SGM Uniform"). Raises RequestError."""
    for key in SCHEDULES:
        if plain_name(key) == plain_name(name):
            return key
    near = meant(name, SCHEDULES)
    raise RequestError("there is no schedule {name!r}{near}", name=name, near=near)


def shown_names(table: Mapping[str, NamedSampler]) -> list[str]:
    """Display names of the samplers of a table: AUTOMATIC1111's names if there are any."""
    return [sampler.a1111[0] for sampler in table.values() if sampler.a1111]


def sampler_named(name: str, table: Mapping[str, NamedSampler], others: Iterable[str] = ()) -> tuple[str, str | None]:
    """The key of a table and the schedule (None for none) for a typed name ("DPM++ 2M Karras",
    "EulerDiscreteScheduler"). ``others`` are further keys. Raises RequestError for an unknown name, and for a sampler
    of another table.
    """
    keys = _keys(table) | {plain_name(key): key for key in others}
    wanted = plain_name(name)
    if wanted in keys:
        return keys[wanted], None
    for schedule in SCHEDULES:
        rest = wanted.removesuffix(plain_name(schedule))
        if rest != wanted and rest in keys:
            return keys[rest], schedule
    fitting = [*table, *others]
    every = (SAMPLERS, EDM_SAMPLERS, FLOW_SAMPLERS)
    if wanted == plain_name(SINGLESTEP) or any(_is_of(wanted, other) for other in every):
        raise RequestError(
            "the sampler {name!r} does not go with the noise of this system; there is {fitting}",
            name=name,
            fitting=Listed(fitting),
        )
    plain = {plain_name(key) for key in fitting}
    typed = [a for sampler in table.values() for a in (*sampler.a1111, sampler.cls) if plain_name(a) not in plain]
    near = meant(name, [*fitting, *typed])
    raise RequestError("there is no sampler {name!r}{near}", name=name, near=near)


def _keys(table: Mapping[str, NamedSampler]) -> dict[str, str]:
    """The key of a table by the normalised form of each of its names; the first of two samplers of a class has the
    class's name.
    """
    keys: dict[str, str] = {}
    for key, sampler in table.items():
        # A1111's names first: "DPM++ SDE" must not match a key that is spelt alike.
        for name in (*sampler.a1111, key, sampler.cls, sampler.cls.removesuffix("Scheduler")):
            keys.setdefault(plain_name(name), key)
    return keys


def _is_of(wanted: str, table: Mapping[str, NamedSampler]) -> bool:
    found = _keys(table)
    return wanted in found or any(wanted.removesuffix(plain_name(s)) in found for s in SCHEDULES)
