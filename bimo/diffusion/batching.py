"""Drives sampling loops: one at a time, or many with one batched call of the denoiser."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from bimo.core.picture import Picture
from bimo.core.tensors import DeepFeatures, DenoiserInput
from bimo.diffusion.conditioning import stack_rows
from bimo.diffusion.sampling import SamplingLoop
from bimo.diffusion.system import System


def denoise_together(system: System, inputs: Sequence[DenoiserInput]) -> list[torch.Tensor]:
    """The denoiser's outputs for inputs of one level and one size, in one call, or one call for each phase of weights
    that depend on the step.
    """
    if system.stepwise is None:
        return _in_one_call(system, inputs)
    by_phase: dict[tuple[bool, ...], list[int]] = {}
    for place, one in enumerate(inputs):
        by_phase.setdefault(system.stepwise.phase(one.step, one.steps), []).append(place)
    outputs: dict[int, torch.Tensor] = {}
    for phase, places in by_phase.items():
        system.stepwise.enter(system, phase)
        outputs |= zip(places, _in_one_call(system, [inputs[place] for place in places]), strict=True)
    return [outputs[place] for place in range(len(inputs))]


def _in_one_call(system: System, inputs: Sequence[DenoiserInput]) -> list[torch.Tensor]:
    rows = [one.x.shape[0] for one in inputs]
    if len(inputs) == 1:
        return [system.denoise(inputs[0])]
    x = torch.cat([one.x for one in inputs])
    t = torch.cat([one.t for one in inputs])
    # Each drawing has DeepCache features of its own; they are stacked for the call and split afterwards.
    cached = [one.deep for one in inputs if one.deep is not None]
    deep = None
    if cached:
        reused = [one.value for one in cached if one.reused and one.value is not None]
        deep = DeepFeatures(torch.cat(reused) if reused else None, bool(reused))
    conditioning = stack_rows([one.conditioning for one in inputs])
    states = tuple(state for one in inputs for state in one.states)
    outputs = system.denoise(replace(inputs[0], x=x, t=t, conditioning=conditioning, deep=deep, states=states))
    if deep is not None and not deep.reused and deep.value is not None:
        for own, value in zip(cached, torch.split(deep.value, rows), strict=True):
            own.value = value
    return list(torch.split(outputs, rows))


def _alike(one: DenoiserInput, other: DenoiserInput) -> bool:
    """Whether two inputs can share a call."""
    return _kind(one) == _kind(other)


def _kind(one: DenoiserInput) -> tuple[object, ...]:
    """What inputs must have in common to share a call. The shapes of reference pictures and scalars may differ between
    drawings; with states from step to step, the number of rows must be equal.
    """
    conditioning = one.conditioning
    shapes = {name: v.shape[1:] for name, v in (*conditioning.pictures.items(), *conditioning.scalars.items())}
    return one.level, one.x.shape[1:], one.shortcuts, shapes, len(one.x) if one.states else 0


def run_batched(
    system: System, loops: Sequence[SamplingLoop], on_step: Callable[[int, DenoiserInput], None] | None = None
) -> list[Picture]:
    """Runs sampling loops to their end together. Those at the same level and size share a call; others take turns.

    ``on_step`` is called before each step with the loop's place and its input.
    """
    done: dict[int, Picture] = {}
    waiting: dict[int, DenoiserInput] = {}

    def advance(place: int, output: torch.Tensor | None) -> None:
        try:
            # The first send to a generator must be None.
            waiting[place] = loops[place].send(output)  # type: ignore[arg-type]
        except StopIteration as stop:
            waiting.pop(place, None)
            done[place] = stop.value

    with torch.inference_mode():
        for place in range(len(loops)):
            advance(place, None)
        while waiting:
            first = next(iter(waiting.values()))
            group = [p for p, one in waiting.items() if _alike(one, first)]
            for place in group:
                if on_step is not None:
                    on_step(place, waiting[place])
            for place, output in zip(group, denoise_together(system, [waiting[p] for p in group]), strict=True):
                # Taken out and put back at the end, so that levels of different loops take turns.
                del waiting[place]
                advance(place, output)
    return [done[place] for place in range(len(loops))]
