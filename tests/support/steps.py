"""One step of training, and its loss."""

from __future__ import annotations

from bimo.core.recipe import Stage
from bimo.training.stage_trainer import StageTrainer
from bimo.training.trainer import Trainer


def stepped(run: Trainer, stage: Stage, learning: StageTrainer) -> float:
    """Takes a step; returns its loss."""
    run._step(stage, learning)  # pyright: ignore[reportPrivateUsage]
    ((_, loss),) = learning.losses.read()
    return loss
