"""Optimisers, learning rates over time, and averaged weights."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from bimo.core.recipe import Stage

BETAS = (0.9, 0.99)


def rate(stage: Stage, step: int) -> float:
    """The learning rate of a step: linear warm-up to ``stage.lr``, then the stage's law down to zero."""
    if step < stage.warmup:
        return stage.lr * (step + 1) / stage.warmup
    share = (step - stage.warmup) / max(1, stage.steps - stage.warmup)
    if stage.law == "cosine":
        return stage.lr * 0.5 * (1 + math.cos(math.pi * min(1.0, share)))
    if stage.law == "linear":
        return stage.lr * max(0.0, 1 - share)
    return stage.lr


def optimiser(stage: Stage, parameters: dict[str, nn.Parameter]) -> torch.optim.Optimizer:
    """AdamW (arXiv:1711.05101); vectors and scalars (norms, biases) do not decay."""
    decayed = [p for p in parameters.values() if p.ndim > 1]
    plain = [p for p in parameters.values() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": stage.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=stage.lr, betas=BETAS, fused=True)


class Average:
    """Exponential moving average of what learns; its decay rises to ``decay`` as (1 + n) / (10 + n)."""

    def __init__(self, parameters: dict[str, nn.Parameter], decay: float) -> None:
        self.decay = decay
        self.values: dict[str, Tensor] = {n: p.detach().clone() for n, p in parameters.items()} if decay else {}

    def update(self, parameters: dict[str, nn.Parameter], step: int) -> None:
        """One step towards the parameters as they are now."""
        if not self.values:
            return
        decay = min(self.decay, (1 + step) / (10 + step))
        now = [parameters[name].detach() for name in self.values]
        for held, value in zip(self.values.values(), now, strict=True):
            held.lerp_(value, 1 - decay)

    def swap(self, parameters: dict[str, nn.Parameter]) -> None:
        """Exchanges the average with the parameters; a second call undoes it."""
        with torch.no_grad():
            for name, value in self.values.items():
                held = parameters[name].detach().clone()
                parameters[name].copy_(value)
                value.copy_(held)
