"""Runs sampling loops: gives each the output of the denoiser, of one loop at a time or of many in one batched call."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from bimo.core.picture import Picture
from bimo.core.tensors import DenoiserInput
from bimo.diffusion.sampling import SamplingLoop
from bimo.diffusion.system import System, stack_rows


def denoise_together(system: System, inputs: Sequence[DenoiserInput]) -> list[torch.Tensor]:
    """The denoiser's outputs for inputs of one level and one size, in one call."""
    rows = [one.x.shape[0] for one in inputs]
    if len(inputs) == 1:
        return [system.denoise(inputs[0])]
    x = torch.cat([one.x for one in inputs])
    t = torch.cat([one.t for one in inputs])
    merged = DenoiserInput(inputs[0].level, x, t, stack_rows([one.conditioning for one in inputs]))
    return list(torch.split(system.denoise(merged), rows))


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
            # A generator is started by sending None.
            waiting[place] = loops[place].send(output)  # type: ignore[arg-type]
        except StopIteration as stop:
            waiting.pop(place, None)
            done[place] = stop.value

    with torch.inference_mode():
        for place in range(len(loops)):
            advance(place, None)
        while waiting:
            first = next(iter(waiting.values()))
            group = [p for p, i in waiting.items() if i.level == first.level and i.x.shape[1:] == first.x.shape[1:]]
            for place in group:
                if on_step is not None:
                    on_step(place, waiting[place])
            for place, output in zip(group, denoise_together(system, [waiting[p] for p in group]), strict=True):
                # Taken out and put back at the end, so that levels of different loops take turns.
                del waiting[place]
                advance(place, output)
    return [done[place] for place in range(len(loops))]
