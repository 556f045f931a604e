"""A drawing is a coroutine: it yields what it asks a denoiser and is sent the answer. The main path, top to bottom."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from bimo.core.errors import RequestError
from bimo.core.types import Ask, Conditioning, Encoding, Picture, Request, checked
from bimo.diffusion import guidance
from bimo.diffusion.system import BuiltLevel, Space, System, merged, stacked
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
    warnings: tuple[str, ...]


@dataclass
class Drawing:
    """What hints may look at while a picture is drawn."""

    request: Request
    generator: torch.Generator
    encodings: tuple[Encoding, ...]
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
    factor = system.space(last.name).factor
    for side in request.size or ():
        if side % factor:
            low = max(factor, side // factor * factor)
            raise RequestError(
                f"边长 {side} 不是 {factor} 的倍数；可用 {low} 或 {low + factor}",
                f"a side of {side} is not a multiple of {factor}; use {low} or {low + factor}",
            )
    return request


def prepare(system: System, request: Request | Mapping[str, object]) -> Prepared:
    """Fills in a request and encodes its words. Raises RequestError for what cannot be drawn."""
    full = filled(system, request)
    text = styled(full.text, full.style)
    seen: dict[str, None] = {}
    for budget in system.budgets(text):
        seen.update(dict.fromkeys(budget.warnings()))
    with torch.inference_mode():
        both = system.encode([full.negative or "", text])
    null, given = (tuple(_row(encoding, row) for encoding in both) for row in (0, 1))
    return Prepared(full, given, null, tuple(seen))


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
    steps = request.steps or recipe.steps if last else recipe.steps
    sampler = level.schedule.sampler((request.sampler or recipe.sampler) if last else recipe.sampler, steps)
    shape = _shape(system.space(recipe.name), request)
    given, null = _conditionings(system, level, prepared, drawing, shape)
    both = stacked((null, given))
    x = torch.zeros(1, *shape)
    if sampler.init_noise_sigma:
        x = torch.randn(1, *shape, generator=noise) * sampler.init_noise_sigma
    settings = _step_settings(sampler, noise)
    count = len(sampler.timesteps)
    for step, t in enumerate(sampler.timesteps):
        rows = guidance.branches(recipe.guide, scale, step, count)
        seen = sampler.scale_model_input(x, t)
        conditioning = given if rows == 1 else both
        answer = yield Ask(recipe.name, seen.expand(rows, -1, -1, -1), t.expand(rows), conditioning, step, count)
        x = sampler.step(guidance.combine(recipe.guide, scale, answer), t, x, **settings).prev_sample
    return x


def _conditionings(
    system: System, level: BuiltLevel, prepared: Prepared, drawing: Drawing, shape: tuple[int, int, int]
) -> tuple[Conditioning, Conditioning]:
    hints = [hint.drawn(drawing, shape) for hint in level.hints]
    nulls = [hint.null(value) for hint, value in zip(level.hints, hints, strict=True)]
    given = system.condition(prepared.given, hints)
    null = system.condition(prepared.null, nulls)
    if level.recipe.guide.null == "zeros":
        null = merged(_zeros(null), nulls)
    return given, null


def _zeros(conditioning: Conditioning) -> Conditioning:
    streams = tuple(
        Encoding(torch.zeros_like(e.tokens), e.mask, None if e.pooled is None else torch.zeros_like(e.pooled))
        for e in conditioning.streams
    )
    vector = conditioning.vector
    return Conditioning(streams, None if vector is None else torch.zeros_like(vector))


def _shape(space: Space, request: Request) -> tuple[int, int, int]:
    width, height = request.size or (0, 0)
    return space.channels, height // space.factor, width // space.factor


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
