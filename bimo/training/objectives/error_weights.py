"""Loss weights by timestep, and the loss functions: min-SNR, debiased estimation, Huber."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from bimo.core.errors import RecipeError
from bimo.diffusion.schedules.ddpm import Ddpm
from bimo.diffusion.schedules.flow import Flow
from bimo.diffusion.schedules.schedule import Schedule, expand

#: The least signal at a timestep of a flow, so that weights are finite.
LEAST = 1e-4

Loss = Literal["l2", "huber", "smooth_l1"]


def signal_to_noise(schedule: Schedule, t: Tensor) -> Tensor:
    """The signal-to-noise ratio, [B]: the ratio of the squared coefficients of x and noise. Raises RecipeError for a
    schedule that has none.
    """
    if isinstance(schedule, Ddpm):
        a = schedule.signal().to(t)[t.long()]
        return a / (1 - a)
    s = _noise(schedule, t)
    return ((1 - s) / s) ** 2


def min_snr_weight(schedule: Schedule, t: Tensor, gamma: float) -> Tensor:
    """min(snr, gamma) as a weight on the error of x (arXiv:2303.09556, section 3.4), converted to the schedule's
    prediction type: divided by snr for noise, by snr + 1 for v, by 1 / s^2 for a flow's velocity. [B]
    """
    snr = signal_to_noise(schedule, t)
    return snr.clamp(max=gamma) / _times_error_of_x(schedule, t, snr)


def debiased_weight(schedule: Schedule, t: Tensor) -> Tensor:
    """1 / sqrt(snr) as a weight on the error of the noise (arXiv:2310.08442, equation 11), snr at most 1000 as in the
    authors' code, converted to the schedule's prediction type. [B]
    """
    snr = signal_to_noise(schedule, t)
    return snr / snr.clamp(max=1000.0).sqrt() / _times_error_of_x(schedule, t, snr)


def squared_or_huber(difference: Tensor, kind: Loss, c: Tensor) -> Tensor:
    """The error of each value: squared, or linear far beyond ``c`` [B]: 2 c (sqrt(d^2 + c^2) - c) ("huber",
    pseudo-Huber, arXiv:2403.16728, equation 7), or the same without the factor c ("smooth_l1").
    """
    if kind == "l2":
        return difference.square()
    c = expand(c, difference)
    grown = 2 * ((difference.square() + c * c).sqrt() - c)
    return c * grown if kind == "huber" else grown


def huber_c(schedule: Schedule, t: Tensor, least: float, law: Literal["constant", "snr", "exponential"]) -> Tensor:
    """c of each row, [B] (arXiv:2403.16728, section 4.3): constant ``least``; or falling from 1 for clean x to
    ``least`` for noise, by the timestep ("exponential") or by the noise-to-signal ratio ("snr").
    """
    if law == "constant":
        return torch.full_like(t, least)
    if law == "exponential":
        return torch.exp(math.log(least) * t / _last(schedule))
    ratio = signal_to_noise(schedule, t).rsqrt()
    return (1 - least) / (1 + ratio) ** 2 + least


def _times_error_of_x(schedule: Schedule, t: Tensor, snr: Tensor) -> Tensor:
    """The ratio of the squared error of the schedule's prediction to that of x, [B]."""
    if isinstance(schedule, Ddpm):
        return {"epsilon": snr, "v_prediction": snr + 1, "sample": torch.ones_like(snr)}[schedule.prediction]
    return _noise(schedule, t) ** -2


def _noise(schedule: Schedule, t: Tensor) -> Tensor:
    """The noise level of a flow, [B]."""
    if not isinstance(schedule, Flow):
        raise RecipeError(
            "a weight by signal and noise (snr, debiased, huber_schedule snr) is defined for the schedules Ddpm and "
            "Flow, not for {name}",
            name=type(schedule).__name__,
        )
    return (t / schedule.last).clamp(LEAST, 1 - LEAST)


def _last(schedule: Schedule) -> float:
    if isinstance(schedule, Ddpm):
        return float(schedule.count)
    if isinstance(schedule, Flow):
        return schedule.last
    raise RecipeError(
        "huber_schedule exponential is defined for the schedules Ddpm and Flow, not for {name}",
        name=type(schedule).__name__,
    )
