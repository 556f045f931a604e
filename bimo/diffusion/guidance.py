"""Classifier-free guidance: how the answers of the branches become one."""

from __future__ import annotations

import torch
from torch import Tensor

from bimo.core.recipe import Guide


def branches(guide: Guide, scale: float, step: int, steps: int) -> int:
    """How many rows a drawing asks for at a step: 2 where guidance is on, else 1.

    As in diffusers, a scale of 1 or less asks the conditional branch alone.
    """
    low, high = guide.interval
    share = step / max(1, steps - 1)
    return 2 if scale > 1 and low <= share <= high else 1


def combine(guide: Guide, scale: float, answer: Tensor) -> Tensor:
    """[2, C, h, w] (null first) or [1, C, h, w] -> [1, C, h, w].

    w of equation 6 in arXiv:2207.12598, as diffusers counts it: e + w (c - e); then the rescaling of
    arXiv:2305.08891, equations 15 and 16.
    """
    if answer.shape[0] == 1:
        return answer
    null, given = answer.chunk(2)
    guided = null + scale * (given - null)
    if guide.rescale > 0:
        axes = tuple(range(1, answer.ndim))
        fitted = guided * (given.std(dim=axes, keepdim=True) / guided.std(dim=axes, keepdim=True))
        guided = torch.lerp(guided, fitted, guide.rescale)
    return guided
