"""A drawing is a coroutine: it yields what it asks a denoiser and is sent the answer. The main path, top to bottom."""

from __future__ import annotations

import math
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from bimo.core.errors import RequestError
from bimo.core.part import meant
from bimo.core.recipe import Branch
from bimo.core.types import Ask, Conditioning, Encoding, Picture, Request, checked
from bimo.diffusion import guidance
from bimo.diffusion.schedule import Sampler
from bimo.diffusion.system import BuiltLevel, System, merged, stacked
from bimo.words.styles import styled

if TYPE_CHECKING:
    from PIL import Image

Painting = Generator[Ask, Tensor, Picture]


@dataclass(frozen=True)
class Prepared:
    """A request filled in, its words encoded once for all of its pictures."""

    request: Request
    given: tuple[Encoding, ...]
    null: tuple[Encoding, ...]
    prefixed: Mapping[str, tuple[Encoding, ...]]
    warnings: tuple[str, ...]


@dataclass
class Drawing:
    """What hints may look at while a picture is drawn."""

    request: Request
    generator: torch.Generator
    encodings: tuple[Encoding, ...]
    #: The pictures of the request as [1, 3, H, W] at its size, by name: "image", "mask" and those hints read.
    pictures: Mapping[str, Tensor] = field(default_factory=dict[str, Tensor])
    results: dict[str, Tensor] = field(default_factory=dict[str, Tensor])


def filled(system: System, request: Request | Mapping[str, object]) -> Request:
    """The request with everything it leaves open taken from the recipe. Raises RequestError."""
    request = checked(request)
    recipe = system.recipe
    last = recipe.levels[-1]
    wanted = recipe.request
    settings: dict[str, object] = {
        "negative": request.negative if request.negative is not None else wanted.negative,
        "size": request.size or wanted.size,
        "seed": request.seed if request.seed is not None else torch.seed() % 2**32,
        "steps": request.steps or wanted.steps or last.steps,
        "guidance": _first(request.guidance, wanted.guidance, last.guide.scale),
        "sampler": request.sampler or wanted.sampler or last.sampler,
    }
    request = request.model_copy(update=settings)
    unit = math.lcm(wanted.multiple, *(system.space(level.name).factor for level in recipe.levels))
    for side in request.size or ():
        if side % unit:
            low = max(unit, side // unit * unit)
            raise RequestError(
                f"边长 {side} 不是 {unit} 的倍数；可用 {low} 或 {low + unit}",
                f"a side of {side} is not a multiple of {unit}; use {low} or {low + unit}",
            )
    if wanted.sizes and request.size not in wanted.sizes:
        listed = ", ".join(f"{width}x{height}" for width, height in wanted.sizes)
        raise RequestError(
            f"{recipe.name} 没学过 {request.size} 这个尺寸；可用的是 {listed}",
            f"{recipe.name} knows no size {request.size}; there is {listed}",
        )
    dials = [branch.name for level in recipe.levels for branch in level.guide.branches]
    for name in request.dials:
        if name not in dials:
            zh, en = meant(name, dials) if dials else ("；它没有旋钮", "; it has none")
            raise RequestError(f"{recipe.name} 没有旋钮 {name!r}{zh}", f"{recipe.name} has no dial {name!r}{en}")
    return request


def prepare(system: System, request: Request | Mapping[str, object]) -> Prepared:
    """Fills in a request and encodes its words. Raises RequestError for what cannot be drawn."""
    full = filled(system, request)
    text = system.recipe.request.prefix + styled(full.text, full.style)
    seen: dict[str, None] = {}
    for budget in system.budgets(text):
        seen.update(dict.fromkeys(budget.warnings()))
    every = [b for level in system.recipe.levels for b in level.guide.branches if b.prefix and _dial(full, b)]
    prefixes = list(dict.fromkeys(branch.prefix for branch in every))
    with torch.inference_mode():
        rows = system.encode([full.negative or "", text, *(prefix + text for prefix in prefixes)])
    null, given, *others = (tuple(_row(encoding, row) for encoding in rows) for row in range(2 + len(prefixes)))
    return Prepared(full, given, null, dict(zip(prefixes, others, strict=True)), tuple(seen))


def _dial(request: Request, branch: Branch) -> float:
    return request.dials.get(branch.name, branch.scale)


def _row(encoding: Encoding, row: int) -> Encoding:
    rows = slice(row, row + 1)
    mask, pooled = encoding.mask, encoding.pooled
    return Encoding(
        encoding.tokens[rows], None if mask is None else mask[rows], None if pooled is None else pooled[rows]
    )


def paint(system: System, prepared: Prepared, index: int = 0) -> Painting:
    """One picture: level by level, step by step, decoded once at the end.

    Its first noise is ``torch.randn`` of one picture's shape from a generator seeded with seed + index, as diffusers
    draws it; so it is the same whatever the batch, the device or its neighbours.
    """
    request = prepared.request
    seed = (request.seed or 0) + index
    # Hints have a generator of their own: how many numbers they take must not move the noise.
    drawing = Drawing(request, torch.Generator().manual_seed(seed ^ 0x5EED), prepared.given)
    noise = torch.Generator().manual_seed(seed)
    for level in system.recipe.levels:
        x = yield from _level(system, system.level(level.name), prepared, drawing, noise)
        drawing.results[level.name] = x
    space = system.space(system.recipe.levels[-1].name)
    image = to_image(space.decode(drawing.results[system.recipe.levels[-1].name])[0])
    return Picture(image, request, system.recipe.name, system.weights_hash, index, 0.0, prepared.warnings)


def _level(
    system: System, level: BuiltLevel, prepared: Prepared, drawing: Drawing, noise: torch.Generator
) -> Generator[Ask, Tensor, Tensor]:
    recipe, request = level.recipe, prepared.request
    last = recipe.name == system.recipe.levels[-1].name
    # A request's settings are for the level that makes the picture; earlier levels keep their own.
    scale = _first(request.guidance, recipe.guide.scale) if last else recipe.guide.scale
    scale = guidance.wanted(recipe.guide, scale, request.negative)
    steps = request.steps or recipe.steps if last else recipe.steps
    shape = system.space(recipe.name).shape(request.size or (0, 0))
    name = (request.sampler or recipe.sampler) if last else recipe.sampler
    sampler = level.schedule.sampler(name, steps, shape)
    dials = [(b, _dial(request, b)) for b in recipe.guide.branches if _dial(request, b)]
    given, every = _conditionings(system, level, prepared, drawing, shape, dials)
    x = torch.zeros(1, *shape)
    if sampler.init_noise_sigma:
        x = torch.randn(1, *shape, generator=noise) * sampler.init_noise_sigma
    settings = _step_settings(sampler, noise)
    count = len(sampler.timesteps)
    whole = _takes_variance(sampler)
    for step, t in enumerate(sampler.timesteps):
        guided = guidance.on(recipe.guide, scale, step, count)
        conditioning, rows = (every, 2 + len(dials)) if guided else (given, 1)
        seen = sampler.scale_model_input(x, t)
        answer = yield Ask(recipe.name, torch.cat([seen] * rows), t.expand(rows), conditioning, step, count)
        answer = guidance.combine(recipe.guide, scale, answer, dials)
        x = sampler.step(answer if whole else answer[:, : shape[0]], t, x, **settings).prev_sample
    return x


def _conditionings(
    system: System,
    level: BuiltLevel,
    prepared: Prepared,
    drawing: Drawing,
    shape: tuple[int, ...],
    dials: Sequence[tuple[Branch, float]],
) -> tuple[Conditioning, Conditioning]:
    """That of the given branch, and those of all branches in the order of ``guidance.combine``."""
    hints = [hint.drawn(system, drawing, shape) for hint in level.hints]
    nulls = [hint.null(value) for hint, value in zip(level.hints, hints, strict=True)]
    given = system.condition(prepared.given, hints)
    null = system.condition(prepared.null, nulls)
    if level.recipe.guide.null == "zeros":
        null = merged(_zeros(null), nulls)
    others: list[Conditioning] = []
    for branch, _ in dials:
        words = prepared.null if "text" in branch.drop else prepared.given
        words = prepared.prefixed[branch.prefix] if branch.prefix else words
        names = [str(getattr(hint, "name", "")) for hint in level.hints]
        kept = [n if name in branch.drop else h for name, h, n in zip(names, hints, nulls, strict=True)]
        others.append(system.condition(words, kept))
    return given, stacked((null, given, *others))


def _takes_variance(sampler: Sampler) -> bool:
    return str(getattr(getattr(sampler, "config", None), "variance_type", "")) in {"learned", "learned_range"}


def _zeros(conditioning: Conditioning) -> Conditioning:
    streams = tuple(
        Encoding(torch.zeros_like(e.tokens), e.mask, None if e.pooled is None else torch.zeros_like(e.pooled))
        for e in conditioning.streams
    )
    vector = conditioning.vector
    return Conditioning(streams, None if vector is None else torch.zeros_like(vector))


def _step_settings(sampler: object, noise: torch.Generator) -> dict[str, torch.Generator]:
    import inspect

    takes = inspect.signature(getattr(sampler, "step")).parameters  # noqa: B009
    return {"generator": noise} if "generator" in takes else {}


def _first(*values: float | None) -> float:
    return next(value for value in values if value is not None)


def to_image(pixels: Tensor) -> Image.Image:
    """[3, H, W] in [-1, 1] -> a PIL image, rounded as diffusers does."""
    from PIL import Image

    bytes_ = (pixels / 2 + 0.5).clamp(0, 1).mul(255).round().to(torch.uint8)
    return Image.fromarray(bytes_.permute(1, 2, 0).contiguous().numpy())
