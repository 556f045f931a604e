"""Sampling as a coroutine: it yields denoiser inputs and is sent the outputs. The main path, top to bottom."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import replace

import torch
from torch import Tensor

from bimo.core.errors import RecipeError
from bimo.core.picture import Picture
from bimo.core.recipe import Level
from bimo.core.request import Request, seeds_of
from bimo.core.tensors import DenoiserInput
from bimo.diffusion import hires, image_inputs, image_to_image, outpainting, seamless, windows
from bimo.diffusion.conditioner import CONDITIONER_SEED, Drawing
from bimo.diffusion.decoding import decode
from bimo.diffusion.image_inputs import MASK
from bimo.diffusion.level_sampling import StopSampling, sample_level
from bimo.diffusion.preparation import Prepared
from bimo.diffusion.request_validation import heeds_empty, pads_circularly, picture_unit
from bimo.diffusion.system import System

SamplingLoop = Generator[DenoiserInput, Tensor, Picture]


def sample(system: System, prepared: Prepared, index: int = 0) -> SamplingLoop:
    """One picture from ``pixels``, with its metadata and warnings."""
    drawn, decoding = yield from _drawn(system, prepared, index)
    if not bool(drawn.isfinite().all()):
        system.check_files()
    warnings = (*prepared.warnings, *decoding, *image_inputs.warnings_of(drawn))
    layers = tuple(image_inputs.to_image(layer) for layer in drawn) if drawn.ndim == 4 else ()
    image = image_inputs.composited(layers) if layers else image_inputs.to_image(drawn)
    empty = prepared.request.negative == "" and heeds_empty(system)
    made = Picture(image, prepared.request, system.recipe.name, system.weights_hash, index, 0.0, warnings, empty)
    return replace(made, layers=layers) if layers else made


def pixels(system: System, prepared: Prepared, index: int = 0) -> Generator[DenoiserInput, Tensor, Tensor]:
    """One picture as [3, H, W] in about [-1, 1], or its layers [layers, 4, H, W]: level by level, step by step, decoded
    once at the end.

    The initial noise is ``torch.randn`` with one picture's shape from a generator seeded with seed + index, as in
    diffusers; it does not depend on the batch or the device.
    """
    return (yield from _drawn(system, prepared, index))[0]


def _drawn(
    system: System, prepared: Prepared, index: int
) -> Generator[DenoiserInput, Tensor, tuple[Tensor, tuple[str, ...]]]:
    """A picture [3, H, W] and warnings about its decoding, with the second pass of "hires fix" if requested."""
    drawing = yield from _levels(system, prepared, index)
    drawn, decoding = _decoded(system, drawing)
    if prepared.request.hires is not None and not drawing.stopped:
        last = system.recipe.levels[-1].name
        size = hires.size_of(prepared.request, picture_unit(system))
        request = hires.second(prepared.request, drawn, size)
        latent = None
        if request.hires_upscaler == hires.LATENT:
            latent = hires.larger(drawing.results[last], system.space(last).shape(size))
        over = replace(prepared, request=request, pictures=outpainting.read(request))
        try:
            drawing = yield from _levels(system, over, index, latent)
        except StopSampling:  # before a step of the second pass: the picture of the first
            return drawn, decoding
        drawn, decoding = _decoded(system, drawing)
    return drawn, decoding


def stopped(loop: SamplingLoop) -> Picture | None:
    """The picture of a loop that waits at a step, as its last step predicts it: the rest is left out. None if no step
    of the last level is done, or its schedule cannot tell (`Schedule.clean`). The loop is ended either way.
    """
    try:
        loop.throw(StopSampling())
    except StopIteration as stop:
        return stop.value
    except (StopSampling, RecipeError):
        return None
    raise RuntimeError("a sampling loop went on after StopSampling")


def calls(system: System, request: Request) -> int:
    """The number of denoiser calls of a filled request, by its steps."""
    *earlier, last = system.recipe.levels
    built = system.level(last.name)
    count = image_to_image.steps_taken(request, request.steps or last.steps)
    space = system.space(last.name)
    tiles = windows.windows(request, space.shape_for(request), space.factor, built.denoiser.multiple)
    earlier_calls = sum(_earlier_calls(system, level, request) for level in earlier)
    first = earlier_calls + count * max(1, len(tiles)) * _shifts(system, last, request)
    if request.hires is None:
        return first
    steps, share = hires.steps_of(request, request.steps or last.steps)
    changes = {
        "hires": None,
        "draft": None,
        "size": hires.size_of(request, picture_unit(system)),
        "steps": max(1, int(steps * share)),
    }
    return first + calls(system, request.model_copy(update=changes))


def _earlier_calls(system: System, level: Level, request: Request) -> int:
    steps = system.level(level.name).schedule.steps_for(level.steps, system.space(level.name).shape_for(request))
    return steps * (1 + len(request.regions) * (steps == 1)) * _shifts(system, level, request)


def _shifts(system: System, level: Level, request: Request) -> int:
    """The number of shifts at which a level's denoiser is called at each step."""
    shape = system.space(level.name).shape_for(request)
    rolled = request.seamless is not None and seamless.is_rolled(system.level(level.name).denoiser, shape)
    return 2 if rolled else 1


def _levels(
    system: System, prepared: Prepared, index: int, latent: Tensor | None = None
) -> Generator[DenoiserInput, Tensor, Drawing]:
    """Runs all levels of a picture."""
    request = prepared.request
    seed, subseed = seeds_of(request.seed or 0, request.subseed, request.subseed_strength, index)
    # Conditioners have a generator of their own, so that the random numbers they take do not change the noise.
    conditioner_generator, noise_generator = (
        torch.Generator().manual_seed(one) for one in (seed ^ CONDITIONER_SEED, seed)
    )
    variation_generator = None if subseed is None else torch.Generator().manual_seed(subseed)
    drawing = Drawing(
        request,
        conditioner_generator,
        prepared.prompt,
        noise_generator,
        prepared.pictures,
        variation=variation_generator,
        latent=latent,
    )
    for level in system.recipe.levels:
        built, space = system.level(level.name), system.space(level.name)
        x = yield from sample_level(system, built, prepared, drawing)
        if request.seamless is not None and not built.denoiser.reads_x:
            x = seamless.periodic_x(space, x, request.seamless)
        drawing.results[level.name] = x
    return drawing


def _decoded(system: System, drawing: Drawing) -> tuple[Tensor, tuple[str, ...]]:
    """The picture [3, H, W] of the last level, and warnings about its decoding."""
    last = system.recipe.levels[-1].name
    tiny = system.tiny_space if drawing.request.tiny_decoder else None
    space = system.space(last)
    axes, x = drawing.request.seamless or "", drawing.results[last]
    if axes and not pads_circularly(system):
        padded = seamless.pad(x, axes, seamless.MARGIN)
        drawn, warnings = decode(space, padded)
        drawn = seamless.crop(drawn, axes, seamless.MARGIN * drawn.shape[-1] // padded.shape[-1])
    else:
        with seamless.circular(space, axes):
            drawn, warnings = decode(tiny or space, x)
    if MASK in drawing.pictures and (system.recipe.request.paste or drawing.request.outpaint is not None):
        drawn = outpainting.composite(drawn, drawing.pictures, drawing.request)
    return drawn[0], warnings
