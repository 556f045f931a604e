"""Drives sampling loops: one at a time, or many with one batched call of the denoiser."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace

import torch

from bimo.core.picture import Picture
from bimo.core.tensors import DeepFeatures, DenoiserInput
from bimo.diffusion import block_cache
from bimo.diffusion.conditioning import stack_rows
from bimo.diffusion.sampling import SamplingLoop
from bimo.diffusion.system import System


def denoise_together(system: System, inputs: Sequence[DenoiserInput]) -> list[torch.Tensor]:
    """The denoiser's outputs for inputs that are alike by ``kind_of``, in one call, or one for each phase of weights
    that depend on the step, and for each drawing whose blocks are cached.
    """
    stepwise = system.stepwise
    by_call: dict[tuple[tuple[bool, ...], int | None], list[int]] = {}
    for place, one in enumerate(inputs):
        phase = () if stepwise is None else stepwise.phase(one.step, one.steps)
        by_call.setdefault((phase, None if one.blocks is None else place), []).append(place)
    outputs: dict[int, torch.Tensor] = {}
    for (phase, _), places in by_call.items():
        if stepwise is not None:
            stepwise.enter(system, phase)
        outputs |= zip(places, _in_one_call(system, [inputs[place] for place in places]), strict=True)
    return [outputs[place] for place in range(len(inputs))]


def _in_one_call(system: System, inputs: Sequence[DenoiserInput]) -> list[torch.Tensor]:
    rows = [one.x.shape[0] for one in inputs]
    if len(inputs) == 1:
        with block_cache.cached(system, inputs[0]):
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


def kind_of(one: DenoiserInput) -> tuple[Hashable, ...]:
    """What inputs must have in common to share a call. The shapes of reference pictures and scalars may differ between
    drawings; with states from step to step, the number of rows must be equal.
    """
    c = one.conditioning
    named = (*c.pictures.items(), *c.scalars.items())
    shapes = tuple(sorted((name, tuple(value.shape[1:])) for name, value in named))
    parts = (c.vector is None, c.spatial is None, shapes)
    blocks = "" if one.blocks is None else one.blocks.kind
    return one.level, tuple(one.x.shape[1:]), parts, one.shortcuts, blocks, len(one.x) if one.states else 0


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
            group = [p for p, one in waiting.items() if kind_of(one) == kind_of(first)]
            for place in group:
                if on_step is not None:
                    on_step(place, waiting[place])
            for place, output in zip(group, denoise_together(system, [waiting[p] for p in group]), strict=True):
                # Taken out and put back at the end, so that levels of different loops take turns.
                del waiting[place]
                advance(place, output)
    return [done[place] for place in range(len(loops))]
