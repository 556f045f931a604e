"""Adapters that apply in a range of steps, and ranges in which no step lies: a step counts as a whole or not at all."""

from __future__ import annotations

import torch

from bimo.core.messages import Message, say
from bimo.core.request import Request
from bimo.diffusion import hires, image_to_image
from bimo.diffusion.request_validation import picture_unit
from bimo.diffusion.samplers import options_of
from bimo.diffusion.system import System


def range_warnings(system: System, request: Request) -> tuple[str, ...]:
    """A warning for each LoRA, ControlNet or IP-Adapter of a filled request whose range holds none of its steps."""
    ranged = any(len(numbers) == 3 for numbers in request.conditions.values())
    if system.stepwise is None and not ranged:
        return ()
    counts = step_counts(system, request)
    warnings: list[str] = []
    if system.stepwise is not None:
        for lora, weight in system.stepwise.idle(counts):
            warnings.append(_warning(Message("the LoRA {name}", name=lora), weight.first, weight.last, counts))
    for name, steps in counts.items():
        for conditioner in system.level(name).conditioners:
            numbers = request.conditions.get(conditioner.key, [])
            every = ((step, count) for count in steps for step in range(count))
            if len(numbers) == 3 and all(conditioner.resting(request, step, count) for step, count in every):
                warnings.append(_warning(conditioner.key, numbers[1], numbers[2], {name: steps}))
    return tuple(warnings)


def step_counts(system: System, request: Request) -> dict[str, list[int]]:
    """How many steps each level of a filled request takes, the last one's second pass after its first."""
    *earlier, last = system.recipe.levels
    counts = {level.name: [_steps(system, level.name, level.steps, request)] for level in earlier}
    steps = request.steps or last.steps
    counts[last.name] = [_steps(system, last.name, steps, request, image_to_image.share_of_steps(request))]
    if request.hires is not None:
        again, strength = hires.steps_of(request, steps)
        over = request.model_copy(update={"size": hires.size_of(request, picture_unit(system))})
        counts[last.name].append(_steps(system, last.name, again, over, strength))
    return counts


def _steps(system: System, name: str, steps: int, request: Request, strength: float | None = None) -> int:
    level = system.level(name)
    last = name == system.recipe.levels[-1].name
    sampler_name = (request.sampler if last else None) or level.recipe.sampler
    shape = system.space(name).shape_for(request)
    with torch.device("cpu"):
        options = (options_of(request),) if last else ()
        sampler = level.schedule.sampler(sampler_name, steps, shape, *options)
    return len(sampler.timesteps if strength is None else image_to_image.last_times(sampler, steps, strength))


def _warning(name: str | Message, first: float, last: float, counts: dict[str, list[int]]) -> str:
    return say(
        "no step of {steps} lies within {first:g}-{last:g}, where {name} applies: it changes none; widen the range, or "
        "take more steps",
        steps=max(count for steps in counts.values() for count in steps),
        first=first,
        last=last,
        name=name,
    )
