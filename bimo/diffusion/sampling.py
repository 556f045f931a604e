"""A drawing is a coroutine: it yields what it asks a denoiser and is sent the answer. The main path, top to bottom."""

from __future__ import annotations

import inspect
import math
import warnings
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from bimo.core.errors import RequestError
from bimo.core.messages import Message, say
from bimo.core.part import meant
from bimo.core.recipe import Branch
from bimo.core.types import Conditioning, DenoiserInput, Picture, Request, TextEncoding, checked
from bimo.diffusion import guidance, image_inputs, prompt_weighting
from bimo.diffusion.image_inputs import IMAGE, MASK
from bimo.diffusion.samplers import SPACINGS, Sampler, SamplerOptions, schedule_named
from bimo.diffusion.schedules import Ddpm
from bimo.diffusion.system import ZERO_NULLS, BuiltLevel, System, merge_conditioning, name_of, stack_rows, zero_text
from bimo.prompts.negation import negation
from bimo.prompts.styles import styled
from bimo.prompts.token_budget import listed
from bimo.prompts.weighting import Emphasis, emphasis

#: The share of the steps that a picture goes through where nothing is said, as in diffusers; with a mask the recipe's.
STRENGTH = 0.8
#: Where drawing begins with noise alone, the share of the times that its first must reach: below it the denoiser is
#: told of a picture that is not there.
FIRST_TIME = 0.85
#: As many times the pixels that a system learned at are no size that it knows.
UNLEARNED = 3

SamplingLoop = Generator[DenoiserInput, Tensor, Picture]


@dataclass(frozen=True)
class Prepared:
    """A request filled in, its words encoded once for all of its pictures."""

    request: Request
    prompt: tuple[TextEncoding, ...]
    negative: tuple[TextEncoding, ...]
    prefixed: Mapping[str, tuple[TextEncoding, ...]]
    warnings: tuple[str, ...]
    #: As ``Drawing.pictures``.
    pictures: Mapping[str, Tensor] = field(default_factory=dict[str, Tensor])


@dataclass
class Drawing:
    """What hints may look at while a picture is drawn."""

    request: Request
    generator: torch.Generator
    encodings: tuple[TextEncoding, ...]
    #: That of the noise, the level's first already taken.
    noise: torch.Generator
    #: The pictures of the request as [1, 3, H, W] at its size, by name: "image", "mask" and those hints read.
    pictures: Mapping[str, Tensor] = field(default_factory=dict[str, Tensor])
    results: dict[str, Tensor] = field(default_factory=dict[str, Tensor])


def fill_request(system: System, request: Request | Mapping[str, object]) -> Request:
    """The request with everything it leaves open taken from the recipe. Raises RequestError."""
    request = checked(request)
    recipe = system.recipe
    if not recipe.levels:
        raise RequestError("{name} does not draw: it scores words and pictures", name=recipe.name)
    last = recipe.levels[-1]
    wanted = recipe.request
    unit = math.lcm(wanted.multiple, *(_unit(system, level.name) for level in recipe.levels))
    size = request.size or wanted.size
    if request.image is not None and request.size is None:
        size = image_inputs.size_for(request.image, math.prod(wanted.size), unit, wanted.sizes)
    settings: dict[str, object] = {
        "negative": _negative(system, request.negative),
        "size": size,
        "seed": request.seed if request.seed is not None else torch.seed() % 2**32,
        "steps": request.steps or wanted.steps or last.steps,
        "guidance": _first(request.guidance, wanted.guidance, last.guidance.scale),
        "sampler": wanted.sampler or last.sampler,
        **_sampling(system, request),
    }
    if request.image is not None and request.strength is None:
        plain = 1.0 if IMAGE in _read_by_hints(system, last.name) else STRENGTH
        settings["strength"] = wanted.strength if request.mask is not None else plain
    if request.image is not None and IMAGE not in _read_by_hints(system, last.name):
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
    dials = [branch.name for level in recipe.levels for branch in level.guidance.branches]
    for name in request.guidance_weights:
        if name not in dials:
            near = meant(name, dials) if dials else Message("; it has none")
            raise RequestError("{name} has no dial {name_2!r}{near}", name=recipe.name, name_2=name, near=near)
    read = {name for level in recipe.levels for name in _read_by_hints(system, level.name)}
    for name in request.condition_images:
        if name not in read:
            near = meant(name, sorted(read)) if read else Message("; it reads words alone")
            raise RequestError("{name} reads no picture {name_2!r}{near}", name=recipe.name, name_2=name, near=near)
    return request


def _unit(system: System, level: str) -> int:
    """Pixels of the picture that a side must be a multiple of, for a level's space and the patches of its denoiser."""
    return system.space(level).factor * int(getattr(system.level(level).denoiser, "multiple", 1))


def _negative(system: System, negative: str | None) -> str | None:
    """The negative prompt: the recipe's where none is given. None stays where the empty one would draw otherwise."""
    if negative is not None:
        return negative
    return system.recipe.request.negative or (None if _heeds_empty(system) else "")


def _heeds_empty(system: System) -> bool:
    return any(guidance.heeds_empty(level.guidance) for level in system.recipe.levels)


def _sampling(system: System, request: Request) -> dict[str, object]:
    """What is said of the sampler, by the names that records keep. Raises RequestError."""
    found: dict[str, object] = {}
    schedule = request.schedule
    if request.sampler:
        last: Any = system.level(system.recipe.levels[-1].name).schedule
        found["sampler"], said = last.named(request.sampler)
        if said is not None and schedule is not None and schedule_named(schedule) != said:
            raise RequestError(
                "the sampler {sampler!r} says {said}, but schedule is {schedule!r}; say one of them",
                sampler=request.sampler,
                said=said,
                schedule=schedule,
            )
        schedule = said or schedule
    if schedule is not None:
        found["schedule"] = schedule_named(schedule)
    if request.spacing is not None:
        found["spacing"] = request.spacing.strip().casefold()
        if found["spacing"] not in SPACINGS:
            near = meant(request.spacing, SPACINGS)
            raise RequestError("there is no spacing {spacing!r}{near}", spacing=request.spacing, near=near)
    return found


def _options(request: Request) -> SamplerOptions:
    return SamplerOptions(request.schedule, request.spacing)


def _read_by_hints(system: System, level: str) -> set[str]:
    """The names of the request's pictures that the hints of a level read."""
    hints = system.level(level).conditioners
    named = [getattr(hint, "reads", (str(getattr(hint, "name", "")),)) for hint in hints]
    return {name for names in named for name in names if name}


def _not_enlarging(system: System, size: tuple[int, int]) -> None:
    """Raises RequestError where the last level works out what an earlier one of another shape drew: a picture put into
    it would not go with that.
    """
    *earlier, last = system.recipe.levels
    shape = system.space(last.name).shape(size)
    for level in earlier:
        told = any(getattr(hint, "level", "") == level.name for hint in last.conditioners)
        if told and system.space(level.name).shape(size) != shape:
            raise RequestError(
                "{name} cannot use an image: its last level works out what {name_2} drew; leave the image out",
                name=system.recipe.name,
                name_2=level.name,
            )


def prepare(system: System, request: Request | Mapping[str, object]) -> Prepared:
    """Fills in a request and encodes its words. Raises RequestError for what cannot be drawn."""
    full = fill_request(system, request)
    wanted, negative, said = _denied(system, full)
    text = system.recipe.request.prefix + styled(wanted, full.style)
    every = [b for level in system.recipe.levels for b in level.guidance.branches if b.prefix and _dial(full, b)]
    prefixes = list(dict.fromkeys(branch.prefix for branch in every))
    prompts = [emphasis(words) for words in (negative, text, *(prefix + text for prefix in prefixes))]
    notes = (note for prompt in prompts for note in prompt.notes)
    seen = dict.fromkeys((*said, *notes, *_sampler_notes(system, full), *_unlearned_size(system, full)))
    for budget in system.budgets(prompts[1].text):
        seen.update(dict.fromkeys(budget.warnings()))
    guided = [level.guidance.unconditional in ZERO_NULLS for level in system.recipe.levels if level.guidance.scale > 1]
    if full.negative and guided and all(guided):
        silent = say("this system reads no negative prompt; yours changed nothing")
        seen[silent] = None
    # Not in inference mode: whoever learns from drawings sends gradients past these.
    with torch.no_grad():
        rows, told = prompt_weighting.encoded(system, prompts)
        skipped = _skipped(system, full, prompts)
    seen.update(dict.fromkeys(told))
    null = tuple(_row(encoding, 0) for encoding in rows)
    given, *others = (tuple(_row(e, row) for e in skipped or rows) for row in range(1, 2 + len(prefixes)))
    prefixed = dict(zip(prefixes, others, strict=True))
    return Prepared(full, given, null, prefixed, tuple(seen), image_inputs.read(full))


def _skipped(system: System, request: Request, prompts: Sequence[Emphasis]) -> tuple[TextEncoding, ...]:
    """The prompts with the last layers of CLIP left out, () for none of them. As in diffusers the negative prompt is
    read by all layers. Raises RequestError where there is no CLIP, or it has no such layer.
    """
    if request.clip_skip is None:
        return ()
    depths = [depth for tower in system.text_encoders if (depth := int(getattr(tower, "skippable", 0)))]
    if not depths:
        raise RequestError(
            "the text tower of {name} is no CLIP, clip_skip does nothing there; leave it out", name=system.recipe.name
        )
    if request.clip_skip > min(depths):
        raise RequestError(
            "clip_skip is {clip_skip}; the CLIP of {name} allows 1 to {depths}",
            clip_skip=request.clip_skip,
            name=system.recipe.name,
            depths=min(depths),
        )
    return prompt_weighting.encoded(system, prompts, request.clip_skip - 1)[0] if request.clip_skip > 1 else ()


def _sampler_notes(system: System, request: Request) -> tuple[str, ...]:
    """What is to be told of the last level's sampler before anything is drawn. Raises RequestError where it cannot go
    as the request says.
    """
    level = system.level(system.recipe.levels[-1].name)
    shape = system.space(level.recipe.name).shape(request.size or (0, 0))
    steps = request.steps or level.recipe.steps
    with torch.device("cpu"):
        sampler = level.schedule.sampler(request.sampler or level.recipe.sampler, steps, shape, _options(request))
    if request.eta is not None and "eta" not in inspect.signature(sampler.step).parameters:
        raise RequestError("the sampler {name} has no eta; those that have are ddim, tcd", name=type(sampler).__name__)
    law = level.schedule
    if request.image is not None or not isinstance(law, Ddpm) or not law.learnable:
        return ()
    first = float(sampler.timesteps[0])
    if first >= FIRST_TIME * (law.count - 1):
        return ()
    spacing = getattr(getattr(sampler, "config", None), "timestep_spacing", "")
    cure = say("use --spacing trailing, or more steps")
    return (
        say(
            "the times of {steps} steps ({spacing}) begin at {first:g} and not at {count}: the picture will "
            "be a blur; {cure}",
            steps=steps,
            spacing=spacing,
            first=first,
            count=law.count - 1,
            cure=cure,
        ),
    )


def _denied(system: System, request: Request) -> tuple[str, str, tuple[str, ...]]:
    """(what is wanted, the negative prompt, what is said of it) of a request: systems of our own take 不要猫 for a
    negative prompt, published ones get the prompt as it was typed, as from whoever published them.
    """
    negative = request.negative or ""
    found = negation(request.text)
    if not found.things:
        return request.text, negative, ()
    level = system.recipe.levels[-1]
    heard = _first(request.guidance, level.guidance.scale) > 1 and level.guidance.unconditional not in ZERO_NULLS
    said, things = listed([f"“{words}”" for words in found.said]), listed(found.things)
    if system.recipe.source != "own" or not heard:
        note = say(
            "{said} is read as it stands, and what it denies is likely drawn; say it with --negative {things!r}",
            said=said,
            things=things,
        )
        return request.text, negative, ((note,) if heard else ())
    note = say("{said} is taken as a negative prompt: {things}", said=said, things=things)
    if not found.text:
        note += say("; nothing else was asked for")
    comma = ", " if negative.isascii() else "，"
    return found.text, comma.join(filter(None, (negative, *found.things))), (note,)


def _unlearned_size(system: System, request: Request) -> tuple[str, ...]:
    """What is said of a size far above the one that was learned: pictures repeat themselves there, or fall apart."""
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


def _dial(request: Request, branch: Branch) -> float:
    return request.guidance_weights.get(branch.name, branch.scale)


def _row(encoding: TextEncoding, row: int) -> TextEncoding:
    rows = slice(row, row + 1)
    mask, pooled = encoding.mask, encoding.pooled
    return TextEncoding(
        encoding.tokens[rows], None if mask is None else mask[rows], None if pooled is None else pooled[rows]
    )


def sample(system: System, prepared: Prepared, index: int = 0) -> SamplingLoop:
    """One picture, as ``pixels`` gives it."""
    drawn = yield from pixels(system, prepared, index)
    if not bool(drawn.isfinite().all()):
        system.check_files()
    told = (*prepared.warnings, *image_inputs.warnings_of(drawn))
    image = image_inputs.to_image(drawn)
    empty = prepared.request.negative == "" and _heeds_empty(system)
    return Picture(image, prepared.request, system.recipe.name, system.weights_hash, index, 0.0, told, empty)


def pixels(system: System, prepared: Prepared, index: int = 0) -> Generator[DenoiserInput, Tensor, Tensor]:
    """One picture as [3, H, W] in about [-1, 1]: level by level, step by step, decoded once at the end.

    Its first noise is ``torch.randn`` of one picture's shape from a generator seeded with seed + index, as diffusers
    draws it; so it is the same whatever the batch, the device or its neighbours.
    """
    request = prepared.request
    seed = (request.seed or 0) + index
    # Hints have a generator of their own: how many numbers they take must not move the noise.
    apart, noise = torch.Generator().manual_seed(seed ^ 0x5EED), torch.Generator().manual_seed(seed)
    drawing = Drawing(request, apart, prepared.prompt, noise, prepared.pictures)
    for level in system.recipe.levels:
        x = yield from _level(system, system.level(level.name), prepared, drawing)
        drawing.results[level.name] = x
    space = system.space(system.recipe.levels[-1].name)
    drawn = space.decode(drawing.results[system.recipe.levels[-1].name])
    if MASK in drawing.pictures and system.recipe.request.paste:
        drawn = image_inputs.pasted(drawn, drawing.pictures)
    return drawn[0]


def _level(
    system: System, level: BuiltLevel, prepared: Prepared, drawing: Drawing
) -> Generator[DenoiserInput, Tensor, Tensor]:
    recipe, request = level.recipe, prepared.request
    last = recipe.name == system.recipe.levels[-1].name
    # A request's settings are for the level that makes the picture; earlier levels keep their own.
    scale = _first(request.guidance, recipe.guidance.scale) if last else recipe.guidance.scale
    scale = guidance.wanted(recipe.guidance, scale, request.negative)
    steps = request.steps or recipe.steps if last else recipe.steps
    shape = system.space(recipe.name).shape(request.size or (0, 0))
    name = (request.sampler or recipe.sampler) if last else recipe.sampler
    with torch.device("cpu"):  # diffusers' samplers reckon by numpy, and leave x where it is
        sampler = level.schedule.sampler(name, steps, shape, _options(request) if last else SamplerOptions())
    if getattr(sampler, "noise_sampler_seed", 0) is None:
        # Noise of its own, which diffusers would draw from a seed that nobody knows.
        setattr(sampler, "noise_sampler_seed", drawing.noise.initial_seed())  # noqa: B010
    guide = recipe.guidance
    if last and request.guidance_rescale is not None:
        guide = replace(guide, rescale=request.guidance_rescale)
    dials = [(b, _dial(request, b)) for b in recipe.guidance.branches if _dial(request, b)]
    if last and request.image is not None:
        x, times, kept = _begun(system, recipe.name, drawing, sampler, steps, shape)
    else:
        x, times, kept = _noise(sampler, shape, drawing.noise), sampler.timesteps, None
    given, every = _conditionings(system, level, prepared, drawing, shape, dials)
    clipped = isinstance(level.schedule, Ddpm) and bool(level.schedule.percentile)
    settings = _step_settings(sampler, drawing.noise, request.eta if last else None, clipped)
    count = len(times)
    whole = _takes_variance(sampler)
    for step, t in enumerate(times):
        guided = guidance.on(recipe.guidance, scale, step, count)
        conditioning, rows = (every, 2 + len(dials)) if guided else (given, 1)
        seen = sampler.scale_model_input(x, t)
        answer = yield DenoiserInput(recipe.name, torch.cat([seen] * rows), t.expand(rows), conditioning, step, count)
        answer = guidance.combine(guide, scale, answer, dials)
        x = _stepped(sampler, answer if whole else answer[:, : shape[0]], t, x, settings)
        if kept is not None:
            x = kept.put_back(x, sampler, times[step + 1] if step + 1 < count else None)
    return x


def _noise(sampler: Sampler, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """The x that a drawing from words alone begins with, [1, *shape]."""
    if not sampler.init_noise_sigma:
        return torch.zeros(1, *shape)
    return torch.randn(1, *shape, generator=generator) * sampler.init_noise_sigma


@dataclass
class MaskedOriginal:
    """What a mask leaves as it is: x of the picture, the noise it is given at each step, 1 where it is painted."""

    x: Tensor
    noise: Tensor
    mask: Tensor

    def put_back(self, x: Tensor, sampler: Sampler, t: Tensor | None) -> Tensor:
        """x [1, C, h, w] with the picture's own, as noisy as x is at its next time t, wherever nothing is painted."""
        own = self.x if t is None else noise_to(sampler, self.x, self.noise, t[None])
        return (1 - self.mask) * own + self.mask * x


def _begun(
    system: System, name: str, drawing: Drawing, sampler: Sampler, steps: int, shape: tuple[int, ...]
) -> tuple[Tensor, Tensor, MaskedOriginal | None]:
    """Where a picture is given: the x to begin with, the times that are left of it, what a mask keeps.

    As in diffusers' pipelines, and its numbers in their order: the picture is a sample of what it may be coded as,
    then comes the noise; by ``strength`` only the last of the steps are gone through.
    """
    request, generator = drawing.request, drawing.noise
    strength = 1.0 if request.strength is None else request.strength
    read = _read_by_hints(system, name)
    masked = request.mask is not None
    blended = masked and MASK not in read
    whole = strength == 1 and (masked or IMAGE in read)
    if whole and not blended:
        return _noise(sampler, shape, generator), sampler.timesteps, None
    space: Any = system.space(name)
    if not (hasattr(sampler, "add_noise") or hasattr(sampler, "scale_noise")) or not hasattr(space, "encode"):
        recipe, cls = system.recipe.name, type(sampler).__name__
        raise RequestError(
            "{recipe} cannot use an image: its sampler {cls} cannot begin with a picture; leave the image "
            "out, or take another sampler",
            recipe=recipe,
            cls=cls,
        )
    times = _left(sampler, steps, strength)
    own = space.encode(drawing.pictures[IMAGE], generator)
    noise = torch.randn(1, *shape, generator=generator)
    x = noise * sampler.init_noise_sigma if whole else noise_to(sampler, own, noise, times[:1])
    if not blended:
        return x, times, None
    # The numbers that diffusers spends on the masked picture, which only a denoiser that reads it needs.
    torch.randn(1, *shape, generator=generator)
    return x, times, MaskedOriginal(own, noise, to_shape(drawing.pictures[MASK], shape))


def to_shape(mask: Tensor, shape: tuple[int, ...]) -> Tensor:
    """A mask [B, 1, H, W] as one of x, [B, 1, h, w]: the nearest pixel of each place."""
    return nn.functional.interpolate(mask, size=shape[1:])


def noise_to(sampler: Sampler, x: Tensor, noise: Tensor, t: Tensor) -> Tensor:
    """x [1, *shape] as noisy as it is at time t [1] of a sampler."""
    given: Any = sampler
    return given.scale_noise(x, t, noise) if hasattr(given, "scale_noise") else given.add_noise(x, noise, t)


def _left(sampler: Sampler, steps: int, strength: float) -> Tensor:
    """The times of the last steps, ``strength`` of all; Stable Diffusion rounds them down, flow matching up."""
    given: Any = sampler
    flows = hasattr(given, "scale_noise")
    first = int(steps - min(steps * strength, steps)) if flows else steps - min(int(steps * strength), steps)
    if first >= steps:
        raise RequestError(
            "strength {strength} of {steps} steps is less than one, nothing would be drawn; raise strength or steps",
            strength=strength,
            steps=steps,
        )
    first *= getattr(given, "order", 1)
    if hasattr(given, "set_begin_index"):
        given.set_begin_index(first)
    return sampler.timesteps[first:]


def _conditionings(
    system: System,
    level: BuiltLevel,
    prepared: Prepared,
    drawing: Drawing,
    shape: tuple[int, ...],
    dials: Sequence[tuple[Branch, float]],
) -> tuple[Conditioning, Conditioning]:
    """That of the given branch, and those of all branches in the order of ``guidance.combine``."""
    hints = [hint.from_request(system, drawing, shape) for hint in level.conditioners]
    nulls = [hint.unconditional(value) for hint, value in zip(level.conditioners, hints, strict=True)]
    given = system.condition(prepared.prompt, hints)
    null = system.condition(prepared.negative, nulls)
    kind = level.recipe.guidance.unconditional
    if kind in ZERO_NULLS or (kind == "zeros_without_negative" and prepared.request.negative is None):
        words = Conditioning(given.streams, given.vector)
        null = merge_conditioning(zero_text(words, torch.ones(1, dtype=torch.bool), kind == "masked"), nulls)
    others: list[Conditioning] = []
    for branch, _ in dials:
        words = prepared.negative if "text" in branch.drop else prepared.prompt
        words = prepared.prefixed[branch.prefix] if branch.prefix else words
        names = map(name_of, level.conditioners)
        kept = [n if name in branch.drop else h for name, h, n in zip(names, hints, nulls, strict=True)]
        others.append(system.condition(words, kept))
    return given, stack_rows((null, given, *others))


def _takes_variance(sampler: Sampler) -> bool:
    return str(getattr(getattr(sampler, "config", None), "variance_type", "")) in {"learned", "learned_range"}


def _step_settings(
    sampler: Sampler, noise: torch.Generator, eta: float | None = None, clipped: bool = False
) -> dict[str, Any]:
    """What a step is told besides, as diffusers' pipelines tell it: the generator, and no eta but that asked for."""
    takes = inspect.signature(sampler.step).parameters
    settings: dict[str, Any] = {"generator": noise} if "generator" in takes else {}
    if "eta" in takes:
        settings["eta"] = eta or 0.0
    if clipped and "use_clipped_model_output" in takes:
        # Where x is clipped, what is left of the noise follows from it.
        settings["use_clipped_model_output"] = True
    return settings


def _stepped(sampler: Sampler, answer: Tensor, t: Tensor, x: Tensor, settings: Mapping[str, Any]) -> Tensor:
    """x at the next time. Raises RequestError where the sampler cannot go on as it is set."""
    try:
        with warnings.catch_warnings():
            # torchsde warns of the last bit of a time that diffusers gives it.
            warnings.filterwarnings("ignore", module="torchsde")
            return sampler.step(answer, t, x, **settings).prev_sample
    except (ValueError, IndexError, NotImplementedError, AssertionError, RecursionError) as error:
        name, count = type(sampler).__name__, len(sampler.timesteps)
        raise RequestError(
            "the sampler {name} cannot go on ({error}, of {count} steps); take another sampler or other steps",
            name=name,
            error=error,
            count=count,
        ) from None


def _first(*values: float | None) -> float:
    return next(value for value in values if value is not None)
