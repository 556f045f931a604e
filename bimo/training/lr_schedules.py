"""The learning rate of a step, by the schedules of diffusers' trainers."""

from __future__ import annotations

import math

from bimo.core.recipe import Stage


def rate(stage: Stage, step: int) -> float:
    """The learning rate of a step: linear warm-up to ``stage.lr``, then the stage's schedule down to
    ``stage.floor``.
    """
    if step < stage.warmup:
        return stage.lr * (step + 1) / stage.warmup
    share = min(1.0, (step - stage.warmup) / max(1, stage.steps - stage.warmup))
    return stage.floor + (stage.lr - stage.floor) * _left(stage, share, step)


def _left(stage: Stage, share: float, step: int) -> float:
    """The fraction of the peak that is left after a ``share`` of the steps following the warm-up."""
    if stage.lr_schedule == "constant":
        return 1.0
    if stage.lr_schedule == "piecewise_constant":
        return next((left for until, left in stage.lr_pieces if step < until), stage.lr_pieces[-1][1])
    if stage.lr_schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * share))
    if stage.lr_schedule == "cosine_with_restarts":  # arXiv:1608.03983
        return 0.5 * (1 + math.cos(math.pi * (share * stage.lr_cycles % 1.0))) if share < 1 else 0.0
    return (1 - share) ** (stage.power if stage.lr_schedule == "polynomial" else 1.0)
