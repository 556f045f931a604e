"""Validates a request against a system: fills in defaults, and raises errors for what cannot be drawn."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch

from bimo.core.errors import RequestError
from bimo.core.messages import Message, say
from bimo.core.part import meant
from bimo.core.request import Request, checked
from bimo.diffusion import guidance, hires, image_inputs, image_to_image, outpainting
from bimo.diffusion.denoiser import ShortcutDenoiser
from bimo.diffusion.image_inputs import IMAGE, MASK, read_by_conditioners
from bimo.diffusion.sampler_names import SPACINGS, schedule_named
from bimo.diffusion.samplers import options_of
from bimo.diffusion.schedules.ddpm import Ddpm
from bimo.diffusion.step_cache import StepCacheSetting
from bimo.diffusion.system import ZERO_NULLS, System
from bimo.prompts.a1111 import composed, lora_tags
from bimo.prompts.negation import negation
from bimo.prompts.token_budget import listed

#: The default strength, as in diffusers; with a mask that of the recipe.
STRENGTH = 0.8
#: The most of x that the first timestep may leave when sampling starts from pure noise, as the root of the cumulative
#: product of 1 - beta: above it the denoiser takes noise for traces of a picture. Stable Diffusion's last timestep
#: leaves 0.07, seven "leading" steps start at 0.15.
LEFT_AT_FIRST = 0.155
#: A size with this many times the pixels that a system was trained at is out of its range.
UNLEARNED = 3


def fill_request(system: System, request: Request | Mapping[str, object]) -> Request:
    """The request with all defaults taken from the recipe. Raises RequestError."""
    request = checked(request)
    recipe = system.recipe
    if not recipe.levels:
        raise RequestError("{name} does not draw: it scores words and pictures", name=recipe.name)
    last = recipe.levels[-1]
    wanted = recipe.request
    unit = picture_unit(system)
    size = request.size or wanted.size
    if request.image is not None and request.size is None:
        conditioners = (each for level in recipe.levels for each in system.level(level.name).conditioners)
        size = next(filter(None, (each.size_for(request) for each in conditioners)), None)
        size = size or image_inputs.size_for(request.image, math.prod(wanted.size), unit, wanted.sizes)
    if request.image is not None and request.outpaint is not None:
        size = _canvas(system, request, unit)
    settings: dict[str, object] = {
        "negative": _negative(system, request.negative),
        "drawn_text": request.drawn_text or _drawn_text(system, request.text),
        "size": size,
        "seed": request.seed if request.seed is not None else torch.seed() % 2**32,
        "steps": request.steps or wanted.steps or last.steps,
        "guidance": guidance.first_set(request.guidance, wanted.guidance, last.guidance.scale),
        "sampler": wanted.sampler or last.sampler,
        **_sampling(system, request),
    }
    settings["draft"] = image_to_image.draft_share(system, request.model_copy(update=settings))
    if request.image is not None and request.strength is None:
        plain = 1.0 if IMAGE in read_by_conditioners(system, last.name) else STRENGTH
        painted = request.mask is not None or request.outpaint is not None
        settings["strength"] = wanted.strength if painted else plain
    if request.outpaint is not None and request.feather is None:
        settings["feather"] = outpainting.FEATHER
    if request.image is not None and IMAGE not in read_by_conditioners(system, last.name):
        _not_enlarging(system, size)
    request = request.model_copy(update=settings)
    for side in request.size or ():
        if side % unit:
            low = max(unit, side // unit * unit)
            raise RequestError(
                "a side of {side} is not a multiple of {unit}; use {low} or {low_2}",
                side=side,
                unit=unit,
                low=low,
                low_2=low + unit,
            )
    if wanted.sizes and request.size not in wanted.sizes:
        listed = ", ".join(f"{width}x{height}" for width, height in wanted.sizes)
        raise RequestError(
            "{name} knows no size {size}; there is {listed}", name=recipe.name, size=request.size, listed=listed
        )
    _shortcuts(system, request)
    _seamless(system, request)
    _parts(system, request)
    hires.check(system, request, unit, bool(_enlarged(system, size)))
    if (request.subseed is None) != (request.subseed_strength is None):
        raise RequestError("subseed and subseed_strength are said together, for instance 7 and 0.3; say both or none")
    branches = [branch.name for level in recipe.levels for branch in level.guidance.branches]
    for name in request.guidance_weights:
        if name not in branches:
            near = meant(name, branches) if branches else Message("; it has none")
            raise RequestError(
                "{name} has no guidance weight {name_2!r}{near}", name=recipe.name, name_2=name, near=near
            )
    read = {name for level in recipe.levels for name in read_by_conditioners(system, level.name)}
    for name in request.condition_images:
        if name not in read:
            near = meant(name, sorted(read)) if read else Message("; it reads words alone")
            raise RequestError("{name} reads no picture {name_2!r}{near}", name=recipe.name, name_2=name, near=near)
    return request


def _shortcuts(system: System, request: Request) -> None:
    """Raises RequestError for shortcuts that the last level's denoiser does not support."""
    level = system.level(system.recipe.levels[-1].name)
    setting = None if request.step_cache is None else StepCacheSetting.named(request.step_cache)
    shortcuts = {
        "step_cache deep": setting is not None and setting.kind == "deep",
        "token_merging": request.token_merging is not None,
        "nag": request.nag is not None,
    }
    for name, wanted in shortcuts.items():
        if wanted and not isinstance(level.denoiser, ShortcutDenoiser):
            raise RequestError(
                "{shortcut} is for a UNet of Stable Diffusion's kind, without an adapter beside it, and {name} has "
                "another denoiser; leave it out",
                shortcut=name,
                name=system.recipe.name,
            )
    baseline = level.recipe.guidance.baseline_scale
    if request.nag is not None and (request.guidance or 0) > baseline:
        raise RequestError(
            "nag stands for guidance, which is {guidance:g}; set guidance to {baseline:g}, or leave nag out",
            guidance=request.guidance,
            baseline=baseline,
        )
    if request.tiny_decoder and system.tiny_space is None:
        raise RequestError("no tiny decoder was given; name its folder with --tiny-decoder, for instance taesd")


def pads_circularly(system: System) -> bool:
    """Whether a seamless picture (``Request.seamless``) takes circular padding of the last level's denoiser and of its
    decoder; else x is rolled, and decoded with a margin that goes on at the other edge. What only scores does neither.
    """
    last = (level.name for level in system.recipe.levels[-1:])
    return any(system.space(one).shift_equivariant and system.level(one).denoiser.shift_equivariant for one in last)


def _seamless(system: System, request: Request) -> None:
    """Raises RequestError for settings that cannot be combined with a seamless picture."""
    if request.seamless is None:
        return
    setting = None if request.step_cache is None else StepCacheSetting.named(request.step_cache)
    if setting is not None and setting.kind != "easy" and not pads_circularly(system):
        raise RequestError(
            "the step cache {kind} keeps what blocks of the denoiser gave, and seamless shifts the picture at each "
            "step; take easy, or leave one of them out",
            kind=setting.kind,
        )
    if request.hires is not None:
        raise RequestError("hires codes the picture again, and a coder has edges; leave hires or seamless out")
    if request.tiny_decoder:
        raise RequestError("seamless is decoded by the model's own decoder; leave tiny_decoder out")


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


def _parts(system: System, request: Request) -> None:
    """Raises RequestError for settings that cannot be combined with regions or tiles."""
    flat = [level.name for level in system.recipe.levels if len(system.space(level.name).shape((64, 64))) != 3]
    if request.regions and flat:
        raise RequestError(
            "regions are places, and the level {level} of {name} draws an embedding, which has none; leave them out",
            level=flat[0],
            name=system.recipe.name,
        )
    for region in request.regions:
        if len(composed(region.text)) > 1 or lora_tags(region.text)[1]:
            raise RequestError(
                "the region {text!r} has AND or a LoRA, which are for the whole picture; put them into the prompt",
                text=region.text,
            )
    cached = request.step_cache is not None and StepCacheSetting.named(request.step_cache).kind != "easy"
    if request.tile_size is not None and (cached or request.seamless is not None):
        raise RequestError("tile_size shows the denoiser a part at a time; leave out seamless and step caches but easy")


def picture_unit(system: System) -> int:
    """A side of the picture must be a multiple of this number of pixels."""
    return math.lcm(system.recipe.request.multiple, *(_unit(system, level.name) for level in system.recipe.levels))


def _unit(system: System, level: str) -> int:
    """As ``picture_unit``, for one level: by its space and the patches of its denoiser."""
    return system.space(level).factor * system.level(level).denoiser.multiple


def _drawn_text(system: System, text: str) -> str | None:
    """The text paraphrased with words that the system learned; None if it is unchanged."""
    read = system.paraphrased(text).text
    return None if read == text else read


def _negative(system: System, negative: str | None) -> str | None:
    """The negative prompt: the recipe's if there is none. None is preserved if an empty one has another effect."""
    if negative is not None:
        return negative
    return system.recipe.request.negative or (None if heeds_empty(system) else "")


def heeds_empty(system: System) -> bool:
    return any(guidance.heeds_empty(level.guidance) for level in system.recipe.levels)


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


def _not_enlarging(system: System, size: tuple[int, int]) -> None:
    """Raises RequestError if a picture for the last level would contradict the output of an earlier one."""
    if name := _enlarged(system, size):
        raise RequestError(
            "{name} cannot use an image: its last level works out what {name_2} drew; leave the image out",
            name=system.recipe.name,
            name_2=name,
        )


def _enlarged(system: System, size: tuple[int, int]) -> str:
    """The earlier level of another shape that the last one upscales, "" for none."""
    *earlier, last = system.recipe.levels
    shape = system.space(last.name).shape(size)
    for level in earlier:
        read = any(each.earlier_level == level.name for each in system.level(last.name).conditioners)
        if read and system.space(level.name).shape(size) != shape:
            return level.name
    return ""


def sampler_warnings(system: System, request: Request) -> tuple[str, ...]:
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


def condition_warnings(system: System, request: Request) -> tuple[str, ...]:
    """A warning if the system reads some of the request's ``conditions`` nowhere, as those of another model."""
    names = [level.name for level in system.recipe.levels]
    read = {conditioner.key for name in names for conditioner in system.level(name).conditioners}
    read |= {condition for name in names for condition in system.space(name).conditions}
    unread = [name for name in request.conditions if name not in read]
    if not unread:
        return ()
    return (say("{name} reads no condition {unread}: it is left out", name=system.recipe.name, unread=listed(unread)),)


def negated(system: System, request: Request) -> tuple[str, str, tuple[str, ...]]:
    """(prompt, negative prompt, warnings) of a request: for our own systems 不要猫 becomes a negative prompt; published
    systems get the prompt unchanged.
    """
    negative = request.negative or ""
    text = request.read_text
    negation_ = negation(text)
    if not negation_.things:
        return text, negative, ()
    level = system.recipe.levels[-1]
    heard = (
        guidance.first_set(request.guidance, level.guidance.scale) > 1
        and level.guidance.unconditional not in ZERO_NULLS
    )
    phrases, things = listed([f"“{words}”" for words in negation_.phrases]), listed(negation_.things)
    if system.recipe.source != "own" or not heard:
        note = say(
            "{said} is read as it stands, and what it denies is likely drawn; say it with --negative {things!r}",
            said=phrases,
            things=things,
        )
        return text, negative, ((note,) if heard else ())
    note = say("{said} is taken as a negative prompt: {things}", said=phrases, things=things)
    if not negation_.text:
        note += say("; nothing else was asked for")
    comma = ", " if negative.isascii() else "，"
    return negation_.text, comma.join(filter(None, (negative, *negation_.things))), (note,)


def size_warnings(system: System, request: Request) -> tuple[str, ...]:
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


def picture_warnings(system: System, request: Request) -> tuple[str, ...]:
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
