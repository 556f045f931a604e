"""Fills in what a request leaves open: from the recipe of the system that draws it, and from its picture."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from bimo.core.errors import RequestError
from bimo.core.part import meant
from bimo.core.request import Request, checked
from bimo.diffusion import guidance, image_inputs, image_to_image, outpainting
from bimo.diffusion.image_inputs import IMAGE, MASK, read_by_conditioners
from bimo.diffusion.request_validation import check_request, heeds_empty, picture_unit
from bimo.diffusion.sampler_names import SPACINGS, schedule_named
from bimo.diffusion.system import System

#: The default strength, as in diffusers; with a mask that of the recipe.
STRENGTH = 0.8


@dataclass(frozen=True)
class FilledRequest:
    """A request as it was ``asked``, and as it is drawn: with every field that it left open filled in."""

    asked: Request
    request: Request


def fill_request(system: System, request: Request | Mapping[str, object] | FilledRequest) -> FilledRequest:
    """The request with all defaults taken from the recipe; one that is filled is returned as it is. Raises RequestError
    if the system cannot draw it.
    """
    if isinstance(request, FilledRequest):
        return request
    asked = checked(request)
    if not system.recipe.levels:
        raise RequestError("{name} does not draw: it scores words and pictures", name=system.recipe.name)
    settings = _settings(system, asked)
    settings["draft"] = image_to_image.draft_share(system, asked.model_copy(update=settings))
    filled = asked.model_copy(update=settings | _picture_settings(system, asked))
    check_request(system, filled)
    return FilledRequest(asked, filled)


def _settings(system: System, request: Request) -> dict[str, object]:
    """The fields that every picture has. Raises RequestError."""
    wanted, last = system.recipe.request, system.recipe.levels[-1]
    return {
        "negative": _negative(system, request.negative),
        "drawn_text": request.drawn_text or _drawn_text(system, request.text),
        "size": _size(system, request),
        "seed": request.seed if request.seed is not None else torch.seed() % 2**32,
        "steps": request.steps or wanted.steps or last.steps,
        "guidance": guidance.first_set(request.guidance, wanted.guidance, last.guidance.scale),
        "sampler": wanted.sampler or last.sampler,
        **_sampling(system, request),
    }


def _picture_settings(system: System, request: Request) -> dict[str, object]:
    """The fields that only a request with an image has."""
    settings: dict[str, object] = {}
    if request.image is not None and request.strength is None:
        plain = 1.0 if IMAGE in read_by_conditioners(system, system.recipe.levels[-1].name) else STRENGTH
        painted = request.mask is not None or request.outpaint is not None
        settings["strength"] = system.recipe.request.strength if painted else plain
    if request.outpaint is not None and request.feather is None:
        settings["feather"] = outpainting.FEATHER
    return settings


def _size(system: System, request: Request) -> tuple[int, int]:
    """The size to draw at: that of the border around the image, the request's own, that of the image as the system
    reads it, or the recipe's.
    """
    recipe, unit = system.recipe, picture_unit(system)
    if request.image is not None and request.outpaint is not None:
        return _canvas(system, request, unit)
    if request.size is not None or request.image is None:
        return request.size or recipe.request.size
    conditioners = (each for level in recipe.levels for each in system.level(level.name).conditioners)
    own = next(filter(None, (each.size_for(request) for each in conditioners)), None)
    area = math.prod(recipe.request.size)
    return own or image_inputs.size_for(request.image, area, unit, recipe.request.sizes)


def _canvas(system: System, request: Request, unit: int) -> tuple[int, int]:
    """The size to draw an image with its border at. Raises RequestError if the request has another size, or if its
    image is only a condition.
    """
    assert request.outpaint is not None
    assert request.image is not None
    size = outpainting.canvas_size(request.image, request.outpaint, unit)
    if request.size not in (None, size):
        raise RequestError(
            "the size of the image and its border is {size}, not {other}; leave the size out",
            size=size,
            other=request.size,
        )
    read = read_by_conditioners(system, system.recipe.levels[-1].name)
    if IMAGE in read and MASK not in read:
        raise RequestError(
            "{name} reads an image as a condition and does not go on from it; leave outpaint out",
            name=system.recipe.name,
        )
    return size


def _negative(system: System, negative: str | None) -> str | None:
    """The negative prompt: the recipe's if there is none. None is preserved if an empty one has another effect."""
    if negative is not None:
        return negative
    return system.recipe.request.negative or (None if heeds_empty(system) else "")


def _drawn_text(system: System, text: str) -> str | None:
    """The text paraphrased with words that the system learned; None if it is unchanged."""
    read = system.paraphrased(text).text
    return None if read == text else read


def _sampling(system: System, request: Request) -> dict[str, object]:
    """The sampler settings, by the names in records. Raises RequestError."""
    settings: dict[str, object] = {}
    schedule = request.schedule
    if request.sampler:
        last: Any = system.level(system.recipe.levels[-1].name).schedule
        settings["sampler"], named_schedule = last.named(request.sampler)
        if named_schedule is not None and schedule is not None and schedule_named(schedule) != named_schedule:
            raise RequestError(
                "the sampler {sampler!r} says {said}, but schedule is {schedule!r}; say one of them",
                sampler=request.sampler,
                said=named_schedule,
                schedule=schedule,
            )
        schedule = named_schedule or schedule
    if schedule is not None:
        settings["schedule"] = schedule_named(schedule)
    if request.spacing is not None:
        settings["spacing"] = request.spacing.strip().casefold()
        if settings["spacing"] not in SPACINGS:
            near = meant(request.spacing, SPACINGS)
            raise RequestError("there is no spacing {spacing!r}{near}", spacing=request.spacing, near=near)
    return settings
