"""What to say about a filled request before it is drawn: what will look bad, what will be left out."""

from __future__ import annotations

import math

import torch

from bimo.core.errors import RequestError
from bimo.core.messages import say
from bimo.core.request import Request
from bimo.diffusion import hires, image_to_image
from bimo.diffusion.image_inputs import IMAGE
from bimo.diffusion.request_validation import picture_unit
from bimo.diffusion.samplers import options_of
from bimo.diffusion.schedules.ddpm import Ddpm
from bimo.diffusion.step_ranges import range_warnings
from bimo.diffusion.system import System
from bimo.prompts.token_budget import listed

#: The most of x that the first timestep may leave when sampling starts from pure noise, as the root of the cumulative
#: product of 1 - beta: above it the denoiser takes noise for traces of a picture. Stable Diffusion's last timestep
#: leaves 0.07, seven "leading" steps start at 0.15.
LEFT_AT_FIRST = 0.155
#: A size with this many times the pixels that a system was trained at is out of its range.
UNLEARNED = 3


def request_warnings(system: System, request: Request) -> tuple[str, ...]:
    """Every warning about the settings of a filled request. Raises RequestError for impossible sampler settings."""
    return (
        *_sampler_warnings(system, request),
        *_size_warnings(system, request),
        *_picture_warnings(system, request),
        *_condition_warnings(system, request),
        *range_warnings(system, request),
    )


def _sampler_warnings(system: System, request: Request) -> tuple[str, ...]:
    """Warnings about the last level's sampler before anything is drawn. Raises RequestError for impossible settings."""
    level = system.level(system.recipe.levels[-1].name)
    shape = system.space(level.recipe.name).shape(request.size or (0, 0))
    steps = request.steps or level.recipe.steps
    with torch.device("cpu"):
        sampler = level.schedule.sampler(request.sampler or level.recipe.sampler, steps, shape, options_of(request))
    if request.eta is not None and not sampler.takes_eta:
        raise RequestError("the sampler {name} has no eta; those that have are ddim, tcd", name=sampler.name)
    if request.hires is not None:
        size = hires.size_of(request, picture_unit(system))
        count, strength = hires.steps_of(request, steps)
        larger = system.space(level.recipe.name).shape(size)
        with torch.device("cpu"):
            over = level.schedule.sampler(request.sampler or level.recipe.sampler, count, larger, options_of(request))
        if not over.can_add_noise:
            raise RequestError(
                "the sampler {name} cannot draw over a picture; leave hires out, or take another sampler",
                name=over.name,
            )
        image_to_image.last_times(over, count, strength)
    noise_schedule = level.schedule
    if image_to_image.share_of_steps(request) or not isinstance(noise_schedule, Ddpm) or not noise_schedule.learnable:
        return ()
    first = float(sampler.timesteps[0])
    if float(noise_schedule.signal()[min(int(first), noise_schedule.count - 1)]) ** 0.5 <= LEFT_AT_FIRST:
        return ()
    cure = say("use --spacing trailing, or more steps")
    return (
        say(
            "the times of {steps} steps ({spacing}) begin at {first:g} and not at {count}: the picture will "
            "be a blur; {cure}",
            steps=steps,
            spacing=sampler.spacing,
            first=first,
            count=noise_schedule.count - 1,
            cure=cure,
        ),
    )


def _size_warnings(system: System, request: Request) -> tuple[str, ...]:
    """Warnings about a size far above the training size: pictures repeat or fall apart there."""
    width, height = request.size or (0, 0)
    own = system.recipe.request.size
    if system.recipe.request.sizes or request.image is not None or width * height < UNLEARNED * math.prod(own):
        return ()
    return (
        say(
            "{name} learned at {own}x{own_2}; at {width}x{height} things repeat or blur, use --size {own}x{own_2}",
            name=system.recipe.name,
            own=own[0],
            own_2=own[1],
            width=width,
            height=height,
        ),
    )


def _picture_warnings(system: System, request: Request) -> tuple[str, ...]:
    """Warnings about a missing picture for a system that edits pictures."""
    every = [each for level in system.recipe.levels for each in system.level(level.name).conditioners]
    named = {IMAGE: request.image, **request.condition_images}
    names = {name for each in every for name in each.edits}
    if not names or any(named.get(name) is not None for name in names):
        return ()
    return (
        say(
            "{name} edits a picture that it is given, and there is none: this is drawn from the words alone; name one "
            "with --image",
            name=system.recipe.name,
        ),
    )


def _condition_warnings(system: System, request: Request) -> tuple[str, ...]:
    """A warning if the system reads some of the request's ``conditions`` nowhere, as those of another model."""
    names = [level.name for level in system.recipe.levels]
    read = {conditioner.key for name in names for conditioner in system.level(name).conditioners}
    read |= {condition for name in names for condition in system.space(name).conditions}
    unread = [name for name in request.conditions if name not in read]
    if not unread:
        return ()
    return (say("{name} reads no condition {unread}: it is left out", name=system.recipe.name, unread=listed(unread)),)
