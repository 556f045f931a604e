"""Averages of the trained parameters: a stage is validated with them, draws with them, and ends with them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from bimo.core.recipe import Stage
from bimo.training.optimizer_classes import schedule_free


class EMA:
    """Exponential moving average of the trained parameters; its decay rises to ``decay`` as (1 + n) / (10 + n)."""

    def __init__(self, parameters: dict[str, nn.Parameter], decay: float) -> None:
        self.decay = decay
        self.values: dict[str, Tensor] = {n: p.detach().clone() for n, p in parameters.items()} if decay else {}

    def update(self, parameters: dict[str, nn.Parameter], step: int) -> None:
        """One update from the current parameters."""
        if not self.values:
            return
        decay = min(self.decay, (1 + step) / (10 + step))
        now = [parameters[name].detach() for name in self.values]
        for average, value in zip(self.values.values(), now, strict=True):
            average.lerp_(value, 1 - decay)

    def swap(self, parameters: dict[str, nn.Parameter]) -> None:
        """Exchanges the average with the parameters; a second call undoes it."""
        with torch.no_grad():
            for name, value in self.values.items():
                weights = parameters[name].detach().clone()
                parameters[name].copy_(value)
                value.copy_(weights)

    def averaged(self, parameters: dict[str, nn.Parameter]) -> dict[str, Tensor]:
        """The averages by the names of their parameters; empty if they are the parameters themselves."""
        return self.values


class ScheduleFreeAverage(EMA):
    """The average of a schedule-free optimiser (arXiv:2405.15682), computed from the parameters and the optimiser's
    state; swapping back restores the parameters bit by bit.
    """

    def __init__(self, parameters: dict[str, nn.Parameter], optimiser: torch.optim.Optimizer) -> None:
        super().__init__(parameters, 0.0)
        self._optimiser: Any = optimiser
        self._training: dict[str, Tensor] = {}

    def swap(self, parameters: dict[str, nn.Parameter]) -> None:
        """Exchanges the average with the parameters; a second call undoes it."""
        if not self._training:
            self._training = {name: p.detach().clone() for name, p in parameters.items()}
            self._optimiser.eval()
            return
        with torch.no_grad():
            for name, value in self._training.items():
                parameters[name].copy_(value)
        for group in self._optimiser.param_groups:
            group["train_mode"] = True  # what ``train`` sets; calling it would round the parameters
        self._training = {}

    def averaged(self, parameters: dict[str, nn.Parameter]) -> dict[str, Tensor]:
        """The averages by the names of their parameters."""
        self.swap(parameters)
        averages = {name: p.detach().clone() for name, p in parameters.items()}
        self.swap(parameters)
        return averages


def average_of(stage: Stage, parameters: dict[str, nn.Parameter], optimiser: torch.optim.Optimizer) -> EMA:
    """The average that a stage ends with."""
    if schedule_free(stage.optimiser):
        return ScheduleFreeAverage(parameters, optimiser)
    return EMA(parameters, stage.ema)
