"""Drives drawings: answers their asks, one drawing at a time or many in one batched call."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from bimo.core.picture import Picture
from bimo.core.request import Request
from bimo.core.tensors import DenoiserInput
from bimo.diffusion.sampling import SamplingLoop, prepare, sample
from bimo.diffusion.system import System, stack_rows

#: Told (picture, of how many, step, of how many steps); may raise to cancel.
Progress = Callable[[int, int, int, int], None]


def denoise_together(system: System, asks: Sequence[DenoiserInput]) -> list[torch.Tensor]:
    """The denoiser's answers to asks of one level and one size, in one call."""
    rows = [ask.x.shape[0] for ask in asks]
    if len(asks) == 1:
        return [system.denoise(asks[0])]
    x = torch.cat([ask.x for ask in asks])
    t = torch.cat([ask.t for ask in asks])
    merged = DenoiserInput(asks[0].level, x, t, stack_rows([ask.conditioning for ask in asks]))
    return list(torch.split(system.denoise(merged), rows))


def run_batched(
    system: System, paintings: Sequence[SamplingLoop], told: Callable[[int, DenoiserInput], None] | None = None
) -> list[Picture]:
    """Runs drawings to their end together. Asks of the same level and size share a call; others take turns.

    ``told`` hears of each ask as (which drawing, ask).
    """
    done: dict[int, Picture] = {}
    waiting: dict[int, DenoiserInput] = {}

    def advance(which: int, answer: torch.Tensor | None) -> None:
        try:
            # A generator is started by sending None.
            waiting[which] = paintings[which].send(answer)  # type: ignore[arg-type]
        except StopIteration as stop:
            waiting.pop(which, None)
            done[which] = stop.value

    with torch.inference_mode():
        for which in range(len(paintings)):
            advance(which, None)
        while waiting:
            first = next(iter(waiting.values()))
            group = [
                w for w, ask in waiting.items() if ask.level == first.level and ask.x.shape[1:] == first.x.shape[1:]
            ]
            for which in group:
                if told is not None:
                    told(which, waiting[which])
            for which, answer in zip(group, denoise_together(system, [waiting[w] for w in group]), strict=True):
                # Taken out and put back at the end, so that levels of different drawings take turns.
                del waiting[which]
                advance(which, answer)
    return [done[which] for which in range(len(paintings))]


def draw(
    system: System,
    request: Request | Mapping[str, Any] | str,
    /,
    *,
    batch: int = 1,
    progress: Progress | None = None,
    **settings: Any,
) -> list[Picture]:
    """Draws a request, or a sentence with settings: ``draw(system, "红苹果，3D风格", seed=1, steps=20)``.

    ``batch`` pictures are drawn together. With 1 a picture is the same to the byte as when it is drawn alone; larger
    batches may differ in the last bit of float32, as matrix products are ordered by shape. Raises RequestError.
    """
    if isinstance(request, str):
        request = {"text": request, **settings}
    elif settings:
        # Not dumped: of its pictures a dump keeps fingerprints alone.
        whole = isinstance(request, Request)
        given = {n: getattr(request, n) for n in request.model_fields_set} if whole else dict(request)
        request = given | settings
    prepared = prepare(system, request)
    count = prepared.request.count
    pictures: list[Picture] = []
    for first in range(0, count, batch):
        start = time.perf_counter()
        indices = range(first, min(count, first + batch))

        def told(which: int, ask: DenoiserInput, first: int = first) -> None:
            if progress is not None:
                progress(first + which, count, ask.step, ask.steps)

        drawn = run_batched(system, [sample(system, prepared, index) for index in indices], told)
        seconds = (time.perf_counter() - start) / len(indices)
        pictures += [replace(picture, seconds=seconds) for picture in drawn]
    return pictures
