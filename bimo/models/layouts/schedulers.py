"""Scheduler configs of folders: the diffusers scheduler, or a specific error."""

# diffusers loads its classes lazily, which reads as private, and leaves parts of its interface untyped.
# pyright: reportPrivateImportUsage=false, reportUnknownMemberType=false

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy
import torch

from bimo.core.errors import RecipeError
from bimo.core.messages import Listed
from bimo.diffusion.samplers import DiffusersSampler

#: Numbers of steps for the trial: PNDM needs at least four unless it skips its Runge-Kutta steps, SANA's exactly two.
TRIALS = (4, 2)
#: The shape of x in the trial.
SHAPE = (1, 4, 2, 2)


def scheduler_class(path: Path, name: str) -> Any:
    """The diffusers scheduler that a config names. Raises RecipeError if there is none, or its library is not
    installed.
    """
    import diffusers
    from diffusers import SchedulerMixin

    cls: Any = getattr(diffusers, name, None)
    if isinstance(cls, type) and issubclass(cls, SchedulerMixin):
        return cls
    backends: Sequence[str] = getattr(cast(Any, cls), "_backends", ())
    needed = [each for each in backends if each != "torch"]
    if needed:
        raise RecipeError(
            "{name} of {path} needs {needed} as well: pip install {needed_2}",
            name=name,
            path=path,
            needed=Listed(needed),
            needed_2=" ".join(needed),
        )
    raise RecipeError("{path}: diffusers has no scheduler {name}", path=path, name=name)


def relatives_settings(cls: Any) -> set[str]:
    """The settings of a scheduler's compatible classes in diffusers, which are kept for when one is chosen by name."""
    relatives = (
        [other for other in cls._get_compatibles() if hasattr(other, "_get_init_keys")] if cls.has_compatibles else []
    )
    return {name for other in relatives for name in cls._get_init_keys(other)} - {"self", "kwargs"}


def demand_steps(path: Path, cls: Any, settings: Mapping[str, Any]) -> None:
    """Takes a first step as diffusers' pipelines do. Raises RecipeError if that fails: a scheduler for other models, or
    an invalid setting.
    """
    why = ""
    for steps in TRIALS:
        try:
            outcome = _first_step(cls, settings, {"num_inference_steps": steps})
        except Exception as error:  # a scheduler for another kind of model may fail in any way
            why = why or _first_line(error)
            continue
        if outcome == SHAPE:
            return
        why = f"{outcome}"
    raise _unsupported(path, cls.__name__, why, "EulerDiscreteScheduler")


def demand_flow_steps(path: Path, cls: Any, settings: Mapping[str, Any], grid: str) -> None:
    """As ``demand_steps``, with the timesteps of flow-matching pipelines: with a mu, and "even" or "whole" as in
    `bimo.diffusion.schedules.flow.Flow`, or its "own".
    """
    whole = numpy.linspace(1000.0, 1.0, TRIALS[0]).astype(numpy.int64).astype(numpy.float32)
    arguments: dict[str, Any] = {"mu": 0.5}
    if grid == "own":
        arguments["num_inference_steps"] = TRIALS[0]
    elif grid == "even":
        arguments["sigmas"] = numpy.linspace(1.0, 1 / TRIALS[0], TRIALS[0])
    else:
        arguments |= {"timesteps": whole, "sigmas": whole / 1000.0}
    try:
        outcome = _first_step(cls, settings, arguments)
        why = "" if outcome == SHAPE else f"{outcome}"
    except Exception as error:
        why = _first_line(error)
    if why:
        raise _unsupported(path, cls.__name__, why, "FlowMatchEulerDiscreteScheduler")


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _unsupported(path: Path, name: str, why: str, example: str) -> RecipeError:
    return RecipeError(
        "{name} of {path} cannot draw this kind of model ({why}); name the scheduler that its publisher "
        "used, for instance {example}",
        name=name,
        path=path,
        why=why,
        example=example,
    )


def _first_step(cls: Any, settings: Mapping[str, Any], times: Mapping[str, Any]) -> tuple[int, ...]:
    """The shape of x after the first step. Raises whatever the scheduler does."""
    # Some draw random numbers: loading a model must not advance the global generators.
    with torch.random.fork_rng(devices=[]), torch.device("cpu"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sampler = cls.from_config(dict(settings))
        sampler.set_timesteps(**times)
        x = torch.zeros(SHAPE)
        if "num_inference_steps" in times and "mu" not in times:  # flow matching does not scale the initial noise
            x = x * sampler.init_noise_sigma
        t = sampler.timesteps[:: sampler.order][0]
        x = DiffusersSampler(sampler).scale_model_input(x, t)
        return tuple(sampler.step(x, t, x).prev_sample.shape)
