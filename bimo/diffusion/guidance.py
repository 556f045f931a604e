"""Classifier-free guidance: how the answers of the branches become one."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from bimo.core.recipe import Branch, Guide


def on(guide: Guide, scale: float, step: int, steps: int) -> bool:
    """Whether a drawing asks for more than the given branch at a step.

    As in diffusers, a scale of 1 or less asks the conditional branch alone.
    """
    low, high = guide.interval
    return scale > 1 and low <= step / max(1, steps - 1) <= high


def combine(guide: Guide, scale: float, answer: Tensor, dials: Sequence[tuple[Branch, float]] = ()) -> Tensor:
    """[2 + n, C, h, w] (null, given, then the n dials) or [1, C, h, w] (given alone) -> [1, C, h, w].

    w of equation 6 in arXiv:2207.12598, as diffusers counts it: e + w (c - e); to it each dial adds k (c_i - c) for a
    prefix, k (c - c_i) for what is dropped. Then the rescaling of arXiv:2305.08891, equations 15 and 16.
    """
    if answer.shape[0] == 1:
        return answer
    rows = [answer[row : row + 1] for row in range(len(answer))]
    rest = rows[1][:, guide.channels :] if guide.channels else None
    if rest is not None:
        rows = [row[:, : guide.channels] for row in rows]
    null, given, *others = rows
    guided = null + scale * (given - null)
    for (branch, weight), other in zip(dials, others, strict=True):
        guided = guided + weight * ((given - other) if branch.drop else (other - given))
    axes = tuple(range(1, answer.ndim))
    if guide.rescale > 0:
        fitted = guided * (given.std(dim=axes, keepdim=True) / guided.std(dim=axes, keepdim=True))
        guided = torch.lerp(guided, fitted, guide.rescale)
    if guide.norm:
        over = axes if guide.norm == "whole" else (1,)
        wanted, found = (value.square().sum(dim=over, keepdim=True).sqrt() for value in (given, guided))
        # Only ever shortened: a guided answer shorter than the given one is left as it is.
        guided = guided * (wanted / found.clamp(min=1e-12)).clamp(max=1.0)
    return guided if rest is None else torch.cat([guided, rest], dim=1)
