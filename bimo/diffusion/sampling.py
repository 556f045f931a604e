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
from bimo.diffusion.schedules.ddpm import Ddpm
from bimo.diffusion.step_cache import LessWork
from bimo.diffusion.system import ZERO_NULLS, BuiltLevel, System
from bimo.prompts.a1111 import composed, lora_tags, schedule
from bimo.prompts.chunks import parts_between_breaks, without_breaks
from bimo.prompts.quoted_text import quoted
from bimo.prompts.styles import styled
from bimo.prompts.weighting import emphasis

SamplingLoop = Generator[DenoiserInput, Tensor, Picture]


@dataclass(frozen=True)
class Words:
    """What is said up to a step, encoded: ``until`` is the last, counted from 1 as the request's steps are.

    ``others`` are the prompts that AND joins to the first, which counts ``weight``, each with its own weight.
    """

    until: int
    prompt: tuple[TextEncoding, ...]
    negative: tuple[TextEncoding, ...]
    prefixed: Mapping[str, tuple[TextEncoding, ...]]
    weight: float = 1.0
    others: tuple[tuple[float, tuple[TextEncoding, ...]], ...] = ()


@dataclass(frozen=True)
class Prepared:
    """A request filled in, its words encoded once for all of its pictures: one entry of ``words`` unless the prompt is
    edited over the steps.
    """

    request: Request
    words: tuple[Words, ...]
    warnings: tuple[str, ...]
    #: Why there is nothing to draw: no text encoder ever learned a word of it. "" where one did.
    nothing_known: str = ""
    #: As ``Drawing.pictures``.
    pictures: Mapping[str, Tensor] = field(default_factory=dict[str, Tensor])

    @property
    def prompt(self) -> tuple[TextEncoding, ...]:
        """The words of the first step."""
        return self.words[0].prompt


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
    wanted, _ = lora_tags(wanted)
    every = [b for level in system.recipe.levels for b in level.guidance.branches if b.prefix and _weight_of(full, b)]
    prefixes = list(dict.fromkeys(branch.prefix for branch in every))
    joined = composed(wanted)
    _check_joined(full, joined)
    texts = [system.recipe.request.prefix + styled(text, full.style) for text, _ in joined]
    # The first two are the empty branch and the given one, then come those of a prefix, then what AND joins.
    roles = [negative, texts[0], *(prefix + texts[0] for prefix in prefixes), *texts[1:]]
    ends, spoken = _over_steps(roles, _steps_taken(full))
    chunked = prompt_weighting.chunked(system, full)
    each = [emphasis(text) for text in spoken]
    broken = any(len(parts_between_breaks(one)) > 1 for one in each)
    prompts = each if chunked and (broken or full.long_prompt == "chunks") else [without_breaks(one) for one in each]
    in_chunks = prompts is each
    notes = (note for prompt in prompts for note in prompt.notes)
    warnings = dict.fromkeys(
        (*negation_warnings, *notes, *sampler_warnings(system, full), *size_warnings(system, full))
    )
    written = quoted(full.text) if full.inscribe is None else full.inscribe
    if broken and not in_chunks:
        warnings[say("BREAK begins a chunk of CLIP; this model reads a prompt as one, a comma stands there")] = None
    positive = {prompt.text: prompt for end in ends for prompt in (prompts[i] for i in end.given(len(prefixes)))}
    for prompt in positive.values():
        for budget in system.budgets(prompt.text):
            read = replace(budget, lost="") if in_chunks else budget
            warnings.update(dict.fromkeys(read.without(written).warnings()))
    # A style alone is nothing to draw.
    plain = [emphasis(text).text for part, _ in joined for _, text in schedule(part, 1)]
    unlearned = [budget.nothing_known() for text in plain for budget in system.budgets(text)]
    nothing = unlearned[0] if unlearned and all(unlearned) else ""
    guided = [level.guidance.unconditional in ZERO_NULLS for level in system.recipe.levels if level.guidance.scale > 1]
    if full.negative and guided and all(guided):
        silent = say("this system reads no negative prompt; yours changed nothing")
        warnings[silent] = None
    # Not in inference mode: whoever learns from drawings sends gradients past these.
    with torch.no_grad():
        rows, weighting_warnings = encoded(system, prompts, 0, in_chunks)
        skipped = encoded(system, prompts, depth, in_chunks)[0] if (depth := _skipped(system, full)) else ()
    warnings.update(dict.fromkeys(weighting_warnings))

    def row(place: int) -> tuple[TextEncoding, ...]:
        return tuple(_row(encoding, place) for encoding in skipped or rows)

    words: list[Words] = []
    for end in ends:
        negative_rows = tuple(_row(encoding, end.roles[0]) for encoding in rows)
        prompt, *others = (row(place) for place in end.roles[1:])
        prefixed = dict(zip(prefixes, others[: len(prefixes)], strict=True))
        more = tuple((weight, one) for (_, weight), one in zip(joined[1:], others[len(prefixes) :], strict=True))
        words.append(Words(end.until, prompt, negative_rows, prefixed, joined[0][1], more))
    return Prepared(full, tuple(words), tuple(warnings), nothing, image_inputs.read(full))


def _check_joined(request: Request, joined: Sequence[tuple[str, float]]) -> None:
    """Raises RequestError for what leaves out the branches that AND needs."""
    if len(joined) == 1 and joined[0][1] == 1.0:
        return
    left_out = {"guidance_every": request.guidance_every, "nag": request.nag}
    for name, value in left_out.items():
        if value is not None:
            raise RequestError("{name} leaves out branches of guidance, by which AND joins prompts; say one", name=name)


@dataclass(frozen=True)
class _End:
    """Up to a step: which of the texts that are encoded each role has, the negative first."""

    until: int
    roles: tuple[int, ...]

    def given(self, prefixes: int) -> tuple[int, ...]:
        """Those of the prompt, and of what AND joins to it."""
        return (self.roles[1], *self.roles[2 + prefixes :])


def _over_steps(roles: Sequence[str], steps: int) -> tuple[list[_End], list[str]]:
    """What every role says up to which step, and all texts: each once, those of the first step in the roles' order."""
    schedules = [schedule(text, steps) for text in roles]
    spoken: list[str] = []
    ends: list[_End] = []
    for until in sorted({end for one in schedules for end, _ in one}):
        now = [next(text for end, text in one if end >= until) for one in schedules]
        if not spoken:
            spoken += now
            ends.append(_End(until, tuple(range(len(now)))))
            continue
        spoken += [text for text in dict.fromkeys(now) if text not in spoken]
        ends.append(_End(until, tuple(spoken.index(text) for text in now)))
    return ends, spoken


def _steps_taken(request: Request) -> int:
    """How many steps a request goes through: fewer than it says where it begins with a picture."""
    steps = request.steps or 1
    if request.image is None or request.strength is None:
        return steps
    return max(1, int(steps * request.strength))


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
    said = _SaidOverSteps(system, level, prepared, drawing, shape, weights)
    shortcuts = LessWork(request) if last else LessWork()
    clipped = isinstance(level.schedule, Ddpm) and bool(level.schedule.percentile)
    settings = StepSettings(drawing.noise, request.eta if last else None, clipped)
    count = len(times)
    for step, t in enumerate(times):
        guided = guidance.on(guide, scale, step, count)
        words = said.at(step, count)
        joined = bool(words.others) or words.weight != 1
        all_rows = joined or (guided and not shortcuts.branches_kept())
        conditional, stacked = said.conditionings(words)
        conditioning, rows = (stacked, 2 + len(weights) + len(words.others)) if all_rows else (conditional, 1)
        scaled = sampler.scale_model_input(x, t)
        output = shortcuts.guess(scaled, rows, step, count)
        if output is None:
            denoiser_input = DenoiserInput(
                recipe.name, torch.cat([scaled] * rows), t.expand(rows), conditioning, step, count
            )
            output = yield shortcuts.asked(denoiser_input)
            shortcuts.keep(scaled, output)
        if joined:
            parts = (words.weight, *(weight for weight, _ in words.others))
            output = guidance.join(guide, output, 2 + len(weights), parts)
            output = output if guided else output[1:2]
        elif guided:
            output = shortcuts.all_branches(output)
        output = guidance.combine(guide, scale, output, weights)
        x = sampler.step(output if sampler.reads_variance else output[:, : shape[0]], t, x, settings)
        if original is not None:
            x = original.put_back(x, sampler, times[step + 1] if step + 1 < count else None)
    return x


class _SaidOverSteps:
    """What a level is told at each step: its conditions once, its words as they are edited."""

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

    def at(self, step: int, count: int) -> Words:
        """The words of a step, of ``count`` of this level; a sampler may take two for one that was asked for."""
        every = self.prepared.words
        place = 1 + step * every[-1].until // count
        return next((words for words in every if words.until >= place), every[-1])

    def conditionings(self, words: Words) -> tuple[Conditioning, Conditioning]:
        """That of the conditional branch, and those of all branches in the order of ``guidance.combine``, then of
        ``guidance.join``.
        """
        if words.until not in self._made:
            self._made[words.until] = self._conditionings(words)
        return self._made[words.until]

    def _conditionings(self, words: Words) -> tuple[Conditioning, Conditioning]:
        system, request = self.system, self.prepared.request
        conditional = system.condition(words.prompt, self.conditions)
        if request.nag is not None:
            conditional = replace(conditional, negative=system.condition(words.negative, self.nulls).streams[0])
        null = system.condition(words.negative, self.nulls)
        kind = self.level.recipe.guidance.unconditional
        if kind in ZERO_NULLS or (kind == "zeros_without_negative" and request.negative is None):
            text = Conditioning(conditional.streams, conditional.vector)
            null = merge_conditioning(zero_text(text, torch.ones(1, dtype=torch.bool), kind == "masked"), self.nulls)
        others: list[Conditioning] = []
        for branch, _ in self.weights:
            text = words.negative if "text" in branch.drop else words.prompt
            text = words.prefixed[branch.prefix] if branch.prefix else text
            rows = zip(self.level.conditioners, self.conditions, self.nulls, strict=True)
            values = [null_ if each.key in branch.drop else value for each, value, null_ in rows]
            others.append(system.condition(text, values))
        others += [system.condition(text, self.conditions) for _, text in words.others]
        return conditional, stack_rows((null, conditional, *others))
