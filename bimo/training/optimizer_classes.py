"""Optimisers by name: those of the library pytorch-optimizer, 8-bit ones of bitsandbytes, or a class by its path."""

# pytorch-optimizer's loaders are typed by a union of its classes, and accept the arguments of each.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import fields
from importlib import import_module
from typing import Any, cast

import torch

from bimo.core.errors import RecipeError
from bimo.core.installing import installing
from bimo.core.messages import Message
from bimo.core.recipe import Stage

#: Those that are torch's own classes, with the stage's fields as settings.
OWN = ("adamw", "adafactor", "muon")
#: Names in other trainers -> names in the library.
ALIASES = {
    "adamwschedulefree": "schedulefreeadamw",
    "radamschedulefree": "schedulefreeradam",
    "sgdschedulefree": "schedulefreesgd",
    "dadaptation": "dadaptadam",
    "dadaptadampreprint": "dadaptadam",
    "prodigyopt": "prodigy",
}
#: Those with 8-bit moments by bitsandbytes, for CUDA only; "paged..." keep them in CPU memory.
EIGHT_BIT = ("adam8bit", "adamw8bit", "lion8bit", "pagedadam8bit", "pagedadamw8bit", "pagedlion8bit")
#: Those that estimate one learning rate for all parameters, from the first group.
ONE_RATE = ("prodigy", "dadaptadagrad", "dadaptadam", "dadaptadan", "dadaptlion", "dadaptsgd")
#: Those whose step of a parameter does not depend on others, so that it can be taken as soon as its gradient is
#: complete.
BY_PARAMETER = (*OWN, "adamw8bit", "adam8bit", "lion8bit", "lion", "came", "ademamix", "adopt", "stableadamw", "tiger")
_MODEL = Message("a step of it asks for more than gradients: the loss or the model itself")
_OTHER = Message("it is made for other parameters, or asks for more")
_MUON = Message("it wants each matrix marked as one; muon is here by itself")
_STATE = Message("its state is no plain data, so that a run could not go on from a file")
#: Those of the library that are unsupported, and why.
UNUSABLE = {
    **dict.fromkeys(("adahessian", "adalomo", "adammini", "alig", "bsam", "demo", "lbfgs", "lomo", "sophiah"), _MODEL),
    "kron": Message("its steps are drawn by a generator of its own, so that a run could not go on to the bit"),
    **dict.fromkeys(("lorarite", "ranger21", "spectralsphere"), _OTHER),
    **dict.fromkeys(("adago", "adamuon", "distributedmuon", "muonclip", "normuon"), _MUON),
    **dict.fromkeys(("adashift", "conda", "scalableshampoo", "scion", "scionlight"), _STATE),
}


def plain(name: str) -> str:
    """The normalised name of an optimiser: kohya's "AdamWScheduleFree" and the library's are one."""
    short = name.lower().replace("_", "").replace("-", "")
    return ALIASES.get(short, short)


def schedule_free(name: str) -> bool:
    """Whether an optimiser has an average of its own, which is used for drawing (arXiv:2405.15682)."""
    return plain(name).startswith("schedulefree")


def check_optimiser(stage: Stage) -> None:
    """Raises RecipeError for an unknown optimiser, and for settings that it would ignore."""
    if stage.optimiser in OWN:
        return
    optimizer_class(stage)
    fresh = {field.name: field.default for field in fields(stage)}
    if (stage.betas, stage.eps) != (fresh["betas"], fresh["eps"]):
        raise RecipeError(
            "betas and eps of stage {name!r} are for adamw; of {optimiser} say them in optimiser_args",
            name=stage.name,
            optimiser=stage.optimiser,
        )
    if plain(stage.optimiser) in ONE_RATE and stage.lr_overrides:
        raise RecipeError(
            "lr_overrides of stage {name!r}: {optimiser} finds one rate for all that learns; leave them out",
            name=stage.name,
            optimiser=stage.optimiser,
        )
    if schedule_free(stage.optimiser) and stage.ema:
        raise RecipeError(
            "ema of stage {name!r}: {optimiser} keeps an average by itself; let ema be 0",
            name=stage.name,
            optimiser=stage.optimiser,
        )


def optimizer_class(stage: Stage) -> Callable[..., torch.optim.Optimizer]:
    """The class of a stage's optimiser outside ``OWN``: "package.module:Class" of an installed package, or the
    library's. Raises RecipeError for one that does not exist or is unsupported.
    """
    if ":" in stage.optimiser:
        return _imported(stage)
    name = plain(stage.optimiser)
    if name in UNUSABLE:
        raise RecipeError(
            "the optimiser {optimiser} of stage {name!r} is not used here: {why}; take another, such as prodigy",
            optimiser=stage.optimiser,
            name=stage.name,
            why=UNUSABLE[name],
        )
    library: Any = _library(stage)
    known: list[str] = library.get_supported_optimizers()
    if name in EIGHT_BIT:
        return _eight_bit(stage, name)
    if name not in known:
        every = [*OWN, *EIGHT_BIT, *(each for each in known if each not in UNUSABLE)]
        near = difflib.get_close_matches(name, every, n=3, cutoff=0.0)
        raise RecipeError(
            "optimiser of stage {name!r} is {optimiser!r}; of {count} the nearest are {near}",
            name=stage.name,
            optimiser=stage.optimiser,
            count=len(every),
            near=", ".join(near),
        )
    return cast("Callable[..., torch.optim.Optimizer]", library.load_optimizer(name))


def _library(stage: Stage) -> Any:
    try:
        return import_module("pytorch_optimizer")
    except ImportError:
        raise RecipeError(
            "the optimiser {optimiser} of stage {name!r} is one of a library that is not here: {installing}",
            installing=installing("train"),
            optimiser=stage.optimiser,
            name=stage.name,
        ) from None


def _eight_bit(stage: Stage, name: str) -> Callable[..., torch.optim.Optimizer]:
    """A class of bitsandbytes."""
    try:
        import_module("bitsandbytes")
        ready = torch.cuda.is_available()
    except (ImportError, RuntimeError):
        ready = False
    if not ready:
        raise RecipeError(
            "the optimiser {optimiser} of stage {name!r} keeps 8 bits by bitsandbytes (pip install bitsandbytes), and "
            "that on CUDA alone; elsewhere adafactor keeps least",
            optimiser=stage.optimiser,
            name=stage.name,
        )
    own: Any = import_module("bitsandbytes.optim")
    classes: dict[str, Any] = {key.lower(): value for key, value in vars(own).items()}
    return cast("Callable[..., torch.optim.Optimizer]", classes[name])


def _imported(stage: Stage) -> Callable[..., torch.optim.Optimizer]:
    module, _, wanted = stage.optimiser.partition(":")
    try:
        class_: object = vars(import_module(module)).get(wanted)
    except ImportError:
        class_ = None
    if not (isinstance(class_, type) and issubclass(class_, torch.optim.Optimizer)):
        raise RecipeError(
            "optimiser of stage {name!r} is {optimiser!r}; expected package.module:Class of an installed package, a "
            "subclass of torch.optim.Optimizer",
            name=stage.name,
            optimiser=stage.optimiser,
        )
    return class_
