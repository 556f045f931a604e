"""What a folder's scheduler_config.json says: a class of diffusers that draws, or a named refusal."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from bimo.core.errors import RecipeError

#: Steps that are tried: PNDM takes four at least where Runge-Kutta's are not left out, SANA's sampler exactly two.
TRIALS = (4, 2)


def scheduler_class(path: Path, name: str) -> Any:
    """The scheduler of diffusers that a config names. Raises RecipeError where there is none, or its library is not
    installed.
    """
    import diffusers
    from diffusers import SchedulerMixin

    cls: Any = getattr(diffusers, name, None)
    if isinstance(cls, type) and issubclass(cls, SchedulerMixin):
        return cls
    needed = [str(each) for each in getattr(cls, "_backends", ()) if each != "torch"]
    if needed:
        raise RecipeError(
            f"{path} 的 {name} 还要 {'、'.join(needed)}；请 pip install {' '.join(needed)}",
            f"{name} of {path} needs {', '.join(needed)} as well: pip install {' '.join(needed)}",
        )
    raise RecipeError(f"{path}：diffusers 没有采样器 {name}", f"{path}: diffusers has no scheduler {name}")


def kin_settings(cls: Any) -> set[str]:
    """The settings of the classes that diffusers lets take over a class's: kept for when one is asked for by name."""
    kin = [other for other in cls._get_compatibles() if hasattr(other, "_get_init_keys")] if cls.has_compatibles else []
    return {name for other in kin for name in cls._get_init_keys(other)} - {"self", "kwargs"}


def demand_steps(path: Path, cls: Any, settings: Mapping[str, Any]) -> None:
    """Takes a first step as diffusers' pipelines do. Raises RecipeError where that cannot be done: a scheduler for
    other models, or a setting that its class does not go with.
    """
    name, why = cls.__name__, ""
    for steps in TRIALS:
        try:
            found = _first_step(cls, settings, steps)
        except Exception as error:  # a scheduler for another kind of model may fail in any way
            why = why or (str(error).strip().splitlines() or [type(error).__name__])[0]
            continue
        if found == (1, 4, 2, 2):
            return
        why = f"{found}"
    raise RecipeError(
        f"{path} 的 {name} 画不了这类模型（{why}）；请换成发布者用的采样器，例如 EulerDiscreteScheduler",
        f"{name} of {path} cannot draw this kind of model ({why}); name the scheduler that its publisher used, for "
        "instance EulerDiscreteScheduler",
    )


def _first_step(cls: Any, settings: Mapping[str, Any], steps: int) -> tuple[int, ...]:
    """The shape of x after the first of some steps. Raises whatever the class does."""
    # Some draw numbers of their own: loading a model must not move those of the process.
    with torch.random.fork_rng(devices=[]), torch.device("cpu"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sampler = cls.from_config(dict(settings))
        sampler.set_timesteps(steps)
        x = torch.zeros(1, 4, 2, 2) * sampler.init_noise_sigma
        t = sampler.timesteps[:: sampler.order][0]
        return tuple(sampler.step(sampler.scale_model_input(x, t), t, x).prev_sample.shape)
