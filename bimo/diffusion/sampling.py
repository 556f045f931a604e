"""Sampling as a coroutine: it yields the denoiser's input and is sent its output. The main path, top to bottom."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from bimo.core.errors import RequestError
from bimo.core.messages import say
from bimo.core.picture import Picture
from bimo.core.recipe import Branch
from bimo.core.request import Request
from bimo.core.tensors import Conditioning, DenoiserInput, TextEncoding
from bimo.diffusion import guidance, image_inputs, image_to_image, prompt_weighting
from bimo.diffusion.conditioner import Drawing
from bimo.diffusion.conditioning import merge_conditioning, stack_rows, zero_text
from bimo.diffusion.decoding import decode
from bimo.diffusion.image_inputs import MASK
from bimo.diffusion.request_validation import (
    fill_request,
    heeds_empty,
    negated,
    sampler_warnings,
    size_warnings,
)
from bimo.diffusion.sampler_names import SamplerOptions
from bimo.diffusion.samplers import StepSettings, initial_noise, options_of
from bimo.diffusion.schedules import Ddpm
from bimo.diffusion.step_cache import LessWork
from bimo.diffusion.system import ZERO_NULLS, BuiltLevel, System
from bimo.prompts.quoted_text import quoted
from bimo.prompts.styles import styled
from bimo.prompts.weighting import emphasis

SamplingLoop = Generator[DenoiserInput, Tensor, Picture]


@dataclass(frozen=True)
class Prepared:
    """A request filled in, its words encoded once for all of its pictures."""

    request: Request
    prompt: tuple[TextEncoding, ...]
    negative: tuple[TextEncoding, ...]
    prefixed: Mapping[str, tuple[TextEncoding, ...]]
    warnings: tuple[str, ...]
    #: Why there is nothing to draw: no text encoder ever learned a word of it. "" where one did.
    nothing_known: str = ""
    #: As ``Drawing.pictures``.
    pictures: Mapping[str, Tensor] = field(default_factory=dict[str, Tensor])


def prepare(
    system: System,
    request: Request | Mapping[str, object],
    cache: prompt_weighting.EncodingCache | None = None,
) -> Prepared:
    """Fills in a request and encodes its words, unless ``cache`` has them. Raises RequestError for what cannot be
    drawn.
    """
    encoded = prompt_weighting.encoded if cache is None else cache.encoded
    full = fill_request(system, request)
    wanted, negative, negation_warnings = negated(system, full)
    text = system.recipe.request.prefix + styled(wanted, full.style)
    every = [b for level in system.recipe.levels for b in level.guidance.branches if b.prefix and _weight_of(full, b)]
    prefixes = list(dict.fromkeys(branch.prefix for branch in every))
    prompts = [emphasis(words) for words in (negative, text, *(prefix + text for prefix in prefixes))]
    notes = (note for prompt in prompts for note in prompt.notes)
    warnings = dict.fromkeys(
        (*negation_warnings, *notes, *sampler_warnings(system, full), *size_warnings(system, full))
    )
    written = quoted(full.text) if full.inscribe is None else full.inscribe
    for budget in system.budgets(prompts[1].text):
        warnings.update(dict.fromkeys(budget.without(written).warnings()))
    # A style alone is nothing to draw.
    unlearned = [budget.nothing_known() for budget in system.budgets(emphasis(wanted).text)]
    nothing = unlearned[0] if unlearned and all(unlearned) else ""
    guided = [level.guidance.unconditional in ZERO_NULLS for level in system.recipe.levels if level.guidance.scale > 1]
    if full.negative and guided and all(guided):
        silent = say("this system reads no negative prompt; yours changed nothing")
        warnings[silent] = None
    # Not in inference mode: whoever learns from drawings sends gradients past these.
    with torch.no_grad():
        rows, weighting_warnings = encoded(system, prompts)
        skipped = encoded(system, prompts, depth)[0] if (depth := _skipped(system, full)) else ()
    warnings.update(dict.fromkeys(weighting_warnings))
    negative_rows = tuple(_row(encoding, 0) for encoding in rows)
    prompt, *others = (tuple(_row(e, row) for e in skipped or rows) for row in range(1, 2 + len(prefixes)))
    prefixed = dict(zip(prefixes, others, strict=True))
    return Prepared(full, prompt, negative_rows, prefixed, tuple(warnings), nothing, image_inputs.read(full))


def _skipped(system: System, request: Request) -> int:
    """How many of CLIP's last layers are left out for the prompts; as in diffusers the negative one is read by all.
    Raises RequestError where there is no CLIP, or it has no such layer.
    """
    if request.clip_skip is None:
        return 0
    depths = [encoder.skippable for encoder in system.text_encoders if encoder.skippable]
    if not depths:
        raise RequestError(
            "the text encoder of {name} is no CLIP, clip_skip does nothing there; leave it out", name=system.recipe.name
        )
    if request.clip_skip > min(depths):
        raise RequestError(
            "clip_skip is {clip_skip}; the CLIP of {name} allows 1 to {depths}",
            clip_skip=request.clip_skip,
            name=system.recipe.name,
            depths=min(depths),
        )
    return request.clip_skip - 1


def _weight_of(request: Request, branch: Branch) -> float:
    return request.guidance_weights.get(branch.name, branch.scale)


def _row(encoding: TextEncoding, row: int) -> TextEncoding:
    rows = slice(row, row + 1)
    mask, pooled = encoding.mask, encoding.pooled
    return TextEncoding(
        encoding.tokens[rows], None if mask is None else mask[rows], None if pooled is None else pooled[rows]
    )


def sample(system: System, prepared: Prepared, index: int = 0) -> SamplingLoop:
    """One picture, as ``pixels`` gives it."""
    drawing = yield from _levels(system, prepared, index)
    drawn, decoding = _decoded(system, drawing)
    if not bool(drawn.isfinite().all()):
        system.check_files()
    warnings = (*prepared.warnings, *decoding, *image_inputs.warnings_of(drawn))
    image = image_inputs.to_image(drawn)
    empty = prepared.request.negative == "" and heeds_empty(system)
    return Picture(image, prepared.request, system.recipe.name, system.weights_hash, index, 0.0, warnings, empty)


def pixels(system: System, prepared: Prepared, index: int = 0) -> Generator[DenoiserInput, Tensor, Tensor]:
    """One picture as [3, H, W] in about [-1, 1]: level by level, step by step, decoded once at the end.

    Its first noise is ``torch.randn`` of one picture's shape from a generator seeded with seed + index, as diffusers
    draws it; so it is the same whatever the batch, the device or its neighbours.
    """
    drawing = yield from _levels(system, prepared, index)
    return _decoded(system, drawing)[0]


def _levels(system: System, prepared: Prepared, index: int) -> Generator[DenoiserInput, Tensor, Drawing]:
    """All levels of a picture."""
    request = prepared.request
    seed = (request.seed or 0) + index
    # Conditioners have a generator of their own: how many numbers they take must not move the noise.
    apart, noise = torch.Generator().manual_seed(seed ^ 0x5EED), torch.Generator().manual_seed(seed)
    drawing = Drawing(request, apart, prepared.prompt, noise, prepared.pictures)
    for level in system.recipe.levels:
        x = yield from _level(system, system.level(level.name), prepared, drawing)
        drawing.results[level.name] = x
    return drawing


def _decoded(system: System, drawing: Drawing) -> tuple[Tensor, tuple[str, ...]]:
    """The picture [3, H, W] of the last level, and warnings about its decoding."""
    last = system.recipe.levels[-1].name
    tiny = system.tiny_space if drawing.request.tiny_decoder else None
    drawn, warnings = decode(tiny or system.space(last), drawing.results[last])
    if MASK in drawing.pictures and system.recipe.request.paste:
        drawn = image_inputs.pasted(drawn, drawing.pictures)
    return drawn[0], warnings


def _level(
    system: System, level: BuiltLevel, prepared: Prepared, drawing: Drawing
) -> Generator[DenoiserInput, Tensor, Tensor]:
    recipe, request = level.recipe, prepared.request
    last = recipe.name == system.recipe.levels[-1].name
    # A request's settings are for the level that makes the picture; earlier levels keep their own.
    scale = guidance.first_given(request.guidance, recipe.guidance.scale) if last else recipe.guidance.scale
    scale = guidance.wanted(recipe.guidance, scale, request.negative)
    steps = request.steps or recipe.steps if last else recipe.steps
    shape = system.space(recipe.name).shape(request.size or (0, 0))
    name = (request.sampler or recipe.sampler) if last else recipe.sampler
    with torch.device("cpu"):  # diffusers' schedulers compute in numpy, and leave x where it is
        sampler = level.schedule.sampler(name, steps, shape, options_of(request) if last else SamplerOptions())
    sampler.seed_noise(drawing.noise.initial_seed())
    guide = recipe.guidance
    if last and request.guidance_rescale is not None:
        guide = replace(guide, rescale=request.guidance_rescale)
    if last and request.guidance_interval is not None:
        guide = replace(guide, interval=request.guidance_interval)
    weights = [(b, _weight_of(request, b)) for b in recipe.guidance.branches if _weight_of(request, b)]
    if last and request.image is not None:
        x, times, original = image_to_image.begin(system, recipe.name, drawing, sampler, steps, shape)
    else:
        x, times, original = initial_noise(sampler, shape, drawing.noise), sampler.timesteps, None
    conditional, stacked = _conditionings(system, level, prepared, drawing, shape, weights)
    shortcuts = LessWork(request) if last else LessWork()
    clipped = isinstance(level.schedule, Ddpm) and bool(level.schedule.percentile)
    settings = StepSettings(drawing.noise, request.eta if last else None, clipped)
    count = len(times)
    for step, t in enumerate(times):
        guided = guidance.on(guide, scale, step, count)
        all_rows = guided and not shortcuts.branches_kept()
        conditioning, rows = (stacked, 2 + len(weights)) if all_rows else (conditional, 1)
        scaled = sampler.scale_model_input(x, t)
        output = shortcuts.guess(scaled, rows, step, count)
        if output is None:
            denoiser_input = DenoiserInput(
                recipe.name, torch.cat([scaled] * rows), t.expand(rows), conditioning, step, count
            )
            output = yield shortcuts.asked(denoiser_input)
            shortcuts.keep(scaled, output)
        if guided:
            output = shortcuts.all_branches(output)
        output = guidance.combine(guide, scale, output, weights)
        x = sampler.step(output if sampler.reads_variance else output[:, : shape[0]], t, x, settings)
        if original is not None:
            x = original.put_back(x, sampler, times[step + 1] if step + 1 < count else None)
    return x


def _conditionings(
    system: System,
    level: BuiltLevel,
    prepared: Prepared,
    drawing: Drawing,
    shape: tuple[int, ...],
    weights: Sequence[tuple[Branch, float]],
) -> tuple[Conditioning, Conditioning]:
    """That of the conditional branch, and those of all branches in the order of ``guidance.combine``."""
    conditions = [conditioner.from_request(system, drawing, shape) for conditioner in level.conditioners]
    nulls = [
        conditioner.unconditional(value) for conditioner, value in zip(level.conditioners, conditions, strict=True)
    ]
    conditional = system.condition(prepared.prompt, conditions)
    if prepared.request.nag is not None:
        conditional = replace(conditional, negative=system.condition(prepared.negative, nulls).streams[0])
    null = system.condition(prepared.negative, nulls)
    kind = level.recipe.guidance.unconditional
    if kind in ZERO_NULLS or (kind == "zeros_without_negative" and prepared.request.negative is None):
        text = Conditioning(conditional.streams, conditional.vector)
        null = merge_conditioning(zero_text(text, torch.ones(1, dtype=torch.bool), kind == "masked"), nulls)
    others: list[Conditioning] = []
    for branch, _ in weights:
        text = prepared.negative if "text" in branch.drop else prepared.prompt
        text = prepared.prefixed[branch.prefix] if branch.prefix else text
        rows = zip(level.conditioners, conditions, nulls, strict=True)
        values = [null_ if each.key in branch.drop else value for each, value, null_ in rows]
        others.append(system.condition(text, values))
    return conditional, stack_rows((null, conditional, *others))
