"""Sampling as a coroutine: it yields denoiser inputs and is sent the outputs. The main path, top to bottom."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from bimo.core.picture import Picture
from bimo.core.recipe import Branch, Level
from bimo.core.request import Request, seeds_of
from bimo.core.tensors import Conditioning, DenoiserInput, StepState, TextEncoding
from bimo.diffusion import (
    guidance,
    hires,
    image_inputs,
    image_to_image,
    noise,
    outpainting,
    regions,
    seamless,
    windows,
)
from bimo.diffusion.conditioner import CONDITIONER_SEED, Drawing
from bimo.diffusion.conditioning import merge_conditioning, stack_rows, zero_scalars, zero_text
from bimo.diffusion.decoding import decode
from bimo.diffusion.denoiser import NEXT, StatefulDenoiser
from bimo.diffusion.image_inputs import MASK
from bimo.diffusion.preparation import EncodedPrompts, Prepared
from bimo.diffusion.prompt_texts import weight_of
from bimo.diffusion.request_validation import heeds_empty, pads_circularly, picture_unit
from bimo.diffusion.sampler_names import SamplerOptions
from bimo.diffusion.samplers import StepSettings, options_of
from bimo.diffusion.schedules.ddpm import Ddpm
from bimo.diffusion.step_cache import StepShortcuts
from bimo.diffusion.system import ZERO_NULLS, BuiltLevel, System

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
    if prepared.request.hires is not None:
        last = system.recipe.levels[-1].name
        size = hires.size_of(prepared.request, picture_unit(system))
        request = hires.second(prepared.request, drawn, size)
        latent = None
        if request.hires_upscaler == hires.LATENT:
            latent = hires.larger(drawing.results[last], system.space(last).shape(size))
        over = replace(prepared, request=request, pictures=outpainting.read(request))
        drawing = yield from _levels(system, over, index, latent)
        drawn, decoding = _decoded(system, drawing)
    return drawn, decoding


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
        x = yield from _level(system, built, prepared, drawing)
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


def _level(
    system: System, level: BuiltLevel, prepared: Prepared, drawing: Drawing
) -> Generator[DenoiserInput, Tensor, Tensor]:
    recipe, request = level.recipe, prepared.request
    last = recipe.name == system.recipe.levels[-1].name
    # A request's settings apply to the last level; earlier levels use those of the recipe.
    scale = guidance.first_set(request.guidance, recipe.guidance.scale) if last else recipe.guidance.scale
    scale = guidance.wanted(recipe.guidance, scale, request.negative)
    steps = request.steps or recipe.steps if last else recipe.steps
    shape = system.space(recipe.name).shape_for(request)
    name = (request.sampler or recipe.sampler) if last else recipe.sampler
    with torch.device("cpu"):  # diffusers' schedulers compute in numpy, and do not move x
        sampler = level.schedule.sampler(name, steps, shape, options_of(request) if last else SamplerOptions())
    sampler.seed_noise(drawing.noise.initial_seed())
    guidance_ = recipe.guidance
    if last and request.guidance_rescale is not None:
        guidance_ = replace(guidance_, rescale=request.guidance_rescale)
    if last and request.guidance_interval is not None:
        guidance_ = replace(guidance_, interval=request.guidance_interval)
    weights = [(b, weight_of(request, b)) for b in recipe.guidance.branches if weight_of(request, b)]
    for conditioner in level.conditioners:
        conditioner.before_noise(system, drawing)
    if last and (request.image is not None or request.draft):
        x, times, original = image_to_image.begin(system, recipe.name, drawing, sampler, steps, shape)
    else:
        x, times, original = noise.initial(sampler, drawing, shape), sampler.timesteps, None
    step_conditioning = _StepConditioning(system, level, prepared, drawing, shape, weights)
    derived = any(each.earlier_level for each in level.conditioners)
    if request.regions and recipe.steps == 1 and not sampler.init_noise_sigma and not derived:
        return (yield from _compose_single_step(step_conditioning, x, times, request))
    shares = [each.to(x) for each in regions.shares(request, shape)] if request.regions and len(shape) == 3 else []
    tiles = windows.windows(request, shape, system.space(recipe.name).factor, level.denoiser.multiple) if last else []
    shortcuts = StepShortcuts(request) if last else StepShortcuts()
    clipped = isinstance(level.schedule, Ddpm) and bool(level.schedule.percentile)
    settings = StepSettings(drawing.noise, request.eta if last else None, clipped)
    projection = guidance.Projection(guidance_.projected, prepared.prompt) if guidance_.projected else None
    count = len(times)
    axes = request.seamless or ""
    rolling = None
    if axes and seamless.is_rolled(level.denoiser, shape):
        rolling = seamless.Rolling(level.denoiser, axes, drawing.noise.initial_seed())
    states = (StepState(),) if isinstance(level.denoiser, StatefulDenoiser) else ()
    for step, t in enumerate(times):
        guided = guidance.on(guidance_, scale, step, count)
        prompts = step_conditioning.at(step, count)
        all_rows = prompts.joined or (guided and not shortcuts.branches_cached())
        conditional, stacked = step_conditioning.conditionings(prompts, step, count)
        conditioning, rows = (stacked, 2 + len(weights) + len(prompts.further)) if all_rows else (conditional, 1)
        if level.denoiser.reads_next:
            following = times[step + 1] if step + 1 < count else torch.zeros_like(t)
            scalars = {**conditioning.scalars, NEXT: following.to(x.device).expand(rows)[:, None]}
            conditioning = replace(conditioning, scalars=scalars)
        scaled = sampler.scale_model_input(x, t)
        output = shortcuts.guess(scaled, rows, step, count)
        if output is None:
            denoiser_input = DenoiserInput(
                *(recipe.name, torch.cat([scaled] * rows), t.expand(rows), conditioning, step, count),
                seamless=axes if level.denoiser.shift_equivariant else "",
                states=states,
            )
            denoiser_input = shortcuts.with_shortcuts(denoiser_input)
            if rolling is None:
                output = yield from windows.predict_in_windows(denoiser_input, tiles)
            else:
                output = yield from rolling.predict(denoiser_input)
            shortcuts.keep(scaled, output)
        if prompts.joined:
            output = guidance.join(guidance_, output, 2 + len(weights), prompts.weights(shares))
            output = output if guided else output[1:2]
        elif guided:
            output = shortcuts.restore_branches(output)
        output = guidance.combine(guidance_, scale, output, weights, projection, step)
        x = sampler.step(output if sampler.reads_all else output[:, : shape[0]], t, x, settings)
        if original is not None:
            x = original.put_back(x, sampler, times[step + 1] if step + 1 < count else None)
    return x


def _compose_single_step(
    step_conditioning: _StepConditioning, x: Tensor, times: Tensor, request: Request
) -> Generator[DenoiserInput, Tensor, Tensor]:
    """The x of a single-step level, with every region's output at its place."""
    prompts = step_conditioning.at(0, 1)
    inputs = DenoiserInput(
        step_conditioning.level.recipe.name, x, times[:1], step_conditioning.conditionings(prompts, 0, 1)[0]
    )
    return (
        yield from regions.compose_regions(
            inputs, request, [step_conditioning.conditioned(text) for text in prompts.regions]
        )
    )


class _StepConditioning:
    """The conditioning of a level at each step: conditions are computed once, prompts may be edited over the steps."""

    def __init__(
        self,
        system: System,
        level: BuiltLevel,
        prepared: Prepared,
        drawing: Drawing,
        shape: tuple[int, ...],
        weights: Sequence[tuple[Branch, float]],
    ) -> None:
        self.system, self.level, self.prepared, self.weights = system, level, prepared, weights
        self.conditions = [conditioner.from_request(system, drawing, shape) for conditioner in level.conditioners]
        self.nulls = [
            conditioner.unconditional(value)
            for conditioner, value in zip(level.conditioners, self.conditions, strict=True)
        ]
        self._made: dict[int, tuple[Conditioning, Conditioning]] = {}

    def at(self, step: int, count: int) -> EncodedPrompts:
        """The prompts of a step of ``count``; samplers of second order have two steps for each of the request's."""
        every = self.prepared.encoded
        place = 1 + step * every[-1].until // count
        return next((prompts for prompts in every if prompts.until >= place), every[-1])

    def conditioned(self, text: tuple[TextEncoding, ...]) -> Conditioning:
        """The conditioning of a prompt with the level's conditions."""
        return self.system.condition(text, self.conditions)

    def conditionings(self, prompts: EncodedPrompts, step: int, count: int) -> tuple[Conditioning, Conditioning]:
        """The conditioning of the conditional branch at a step, and that of all branches in the order of
        ``guidance.combine``, then of ``guidance.join``.
        """
        if prompts.until not in self._made:
            self._made[prompts.until] = self._conditionings(prompts)
        conditional, stacked = self._made[prompts.until]
        request = self.prepared.request
        names = [name for each in self.level.conditioners for name in each.resting(request, step, count)]
        return (zero_scalars(conditional, names), zero_scalars(stacked, names)) if names else (conditional, stacked)

    def _conditionings(self, prompts: EncodedPrompts) -> tuple[Conditioning, Conditioning]:
        system, request = self.system, self.prepared.request
        conditional = system.condition(prompts.prompt, self.conditions)
        if request.nag is not None:
            conditional = replace(conditional, negative=system.condition(prompts.negative, self.nulls).streams[0])
        null = system.condition(prompts.negative, self.nulls)
        kind = self.level.recipe.guidance.unconditional
        if kind in ZERO_NULLS or (kind == "zeros_without_negative" and request.negative is None):
            text = Conditioning(conditional.streams, conditional.vector)
            null = merge_conditioning(zero_text(text, torch.ones(1, dtype=torch.bool), kind == "masked"), self.nulls)
        others: list[Conditioning] = []
        for branch, _ in self.weights:
            text = prompts.negative if "text" in branch.drop else prompts.prompt
            text = prompts.prefixed[branch.prefix] if branch.prefix else text
            rows = zip(self.level.conditioners, self.conditions, self.nulls, strict=True)
            values = [null_ if each.key in branch.drop else value for each, value, null_ in rows]
            others.append(system.condition(text, values))
        others += [self.conditioned(text) for text in prompts.further]
        return conditional, stack_rows((null, conditional, *others))
