"""Validates a filled request against a system: raises errors for what it cannot draw."""

from __future__ import annotations

import math

from bimo.core.errors import RequestError
from bimo.core.messages import Message
from bimo.core.part import meant
from bimo.core.request import Request
from bimo.diffusion import guidance, hires
from bimo.diffusion.denoiser import ShortcutDenoiser
from bimo.diffusion.image_inputs import IMAGE, read_by_conditioners
from bimo.diffusion.step_cache import StepCacheSetting
from bimo.diffusion.system import System
from bimo.prompts.a1111 import composed, lora_tags


def check_request(system: System, request: Request) -> None:
    """Raises RequestError if a system cannot draw a filled request."""
    size = request.size
    assert size is not None, "a filled request has a size"
    enlarged = _enlarged(system, size)
    if request.image is not None and enlarged and IMAGE not in read_by_conditioners(system, _last(system)):
        raise RequestError(
            "{name} cannot use an image: its last level works out what {name_2} drew; leave the image out",
            name=system.recipe.name,
            name_2=enlarged,
        )
    _size(system, size)
    _shortcuts(system, request)
    _seamless(system, request)
    _parts(system, request)
    hires.check(system, request, picture_unit(system), bool(enlarged))
    if (request.subseed is None) != (request.subseed_strength is None):
        raise RequestError("subseed and subseed_strength are said together, for instance 7 and 0.3; say both or none")
    _names(system, request)


def _last(system: System) -> str:
    return system.recipe.levels[-1].name


def _size(system: System, size: tuple[int, int]) -> None:
    """Raises RequestError for a size that is none of the system's."""
    recipe, unit = system.recipe, picture_unit(system)
    for side in size:
        if side % unit:
            low = max(unit, side // unit * unit)
            raise RequestError(
                "a side of {side} is not a multiple of {unit}; use {low} or {low_2}",
                side=side,
                unit=unit,
                low=low,
                low_2=low + unit,
            )
    if recipe.request.sizes and size not in recipe.request.sizes:
        listed = ", ".join(f"{width}x{height}" for width, height in recipe.request.sizes)
        raise RequestError("{name} knows no size {size}; there is {listed}", name=recipe.name, size=size, listed=listed)


def _names(system: System, request: Request) -> None:
    """Raises RequestError for guidance weights and condition pictures that the system does not have by name."""
    recipe = system.recipe
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
        raise RequestError(
            "no tiny decoder was loaded with {name}; bimo draw --tiny-decoder FOLDER loads one, for instance taesd, "
            "else leave it out",
            name=system.recipe.name,
        )


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
    names = [level.name for level in system.recipe.levels]
    units = (system.space(name).factor * system.level(name).denoiser.multiple for name in names)
    return math.lcm(system.recipe.request.multiple, *units)


def heeds_empty(system: System) -> bool:
    """Whether an empty negative prompt draws another picture than none."""
    return any(guidance.heeds_empty(level.guidance) for level in system.recipe.levels)


def _enlarged(system: System, size: tuple[int, int]) -> str:
    """The earlier level of another shape that the last one upscales, "" for none."""
    *earlier, last = system.recipe.levels
    shape = system.space(last.name).shape(size)
    for level in earlier:
        read = any(each.earlier_level == level.name for each in system.level(last.name).conditioners)
        if read and system.space(level.name).shape(size) != shape:
            return level.name
    return ""
