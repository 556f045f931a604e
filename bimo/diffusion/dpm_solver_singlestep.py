"""DPM-Solver of third order in single steps (arXiv:2206.00927, appendix D), spaced evenly in log-SNR.

diffusers' DPMSolverSinglestepScheduler, with evenly spaced lambdas, is the nearest it has; it differs in three things
that move a picture of few steps. Its times are whole, these lie between; its last interval is as short as its order
is low, here all intervals are of one length; and it ends at x itself, here at the first time of the schedule.
"""

from __future__ import annotations

import torch
from torch import Tensor

from bimo.diffusion.samplers import PLAIN_STEP, Sampler, StepSettings


def threshold(x: Tensor, percentile: float) -> Tensor:
    """Dynamic thresholding (arXiv:2205.11487, section 2.3): x clipped at a percentile of its magnitudes, each of
    [B, ...] at its own but never below 1, and divided by it.
    """
    limit = torch.quantile(x.flatten(1).abs().float(), percentile, dim=1).clamp(min=1.0).to(x)
    limit = limit.reshape(-1, *[1] * (x.ndim - 1))
    return torch.minimum(limit, torch.maximum(-limit, x)) / limit


class Singlestep(Sampler):
    """A sampler over a schedule's ``signal`` [N] (the cumulative product of 1 - beta), from the share ``begin`` of its
    times down to the first. ``timesteps`` are places in the schedule, between its whole ones, each asked once.
    """

    def __init__(
        self, signal: Tensor, steps: int, prediction: str, percentile: float = 0.0, begin: float = 1.0
    ) -> None:
        self.prediction, self.percentile = prediction, percentile
        self._table = signal.double().log() / 2
        count = len(signal)
        self._times = torch.arange(1, count + 1, dtype=torch.float64) / count
        first, last = (float(_lambda(self._at(torch.tensor([t]).double()))) for t in (begin, 1 / count))
        self.orders = _orders(steps)
        edges = torch.linspace(first, last, len(self.orders) + 1, dtype=torch.float64)
        inner = [edges[i] + (edges[i + 1] - edges[i]) * j / k for i, k in enumerate(self.orders) for j in range(k)]
        self._lambdas = torch.stack([*inner, edges[-1]])
        self._places = [(i, j) for i, k in enumerate(self.orders) for j in range(k)]
        self._log_alphas = -torch.logaddexp(torch.zeros_like(self._lambdas), -2 * self._lambdas) / 2
        self.timesteps = (self._inverse(self._log_alphas[:-1]) * count - 1).float()
        self._step = 0
        self._base = self._first = torch.zeros(0)

    def step(
        self, model_output: Tensor, timestep: Tensor, sample: Tensor, settings: StepSettings = PLAIN_STEP
    ) -> Tensor:
        """x at the next time. Times are taken in their order."""
        step = self._step
        self._step += 1
        interval, inner = self._places[step]
        noise = self._noise(model_output, sample, step)
        if inner == 0:
            self._base, self._first = sample, noise
        h = self._lambdas[step + 1] - self._lambdas[step - inner]
        alpha = (self._log_alphas[step + 1] - self._log_alphas[step - inner]).exp()
        sigma = self._sigma(step + 1)
        x = float(alpha) * self._base - float(sigma * torch.expm1(h)) * self._first
        if inner:
            # Of the way to the next time, the difference of the noises was seen after this share.
            share = inner / (inner + 1)
            weight = torch.expm1(h) / 2 if self.orders[interval] == 2 else torch.expm1(h) / h - 1
            x = x - float(sigma * weight / share) * (noise - self._first)
        return x

    def _noise(self, answer: Tensor, x: Tensor, step: int) -> Tensor:
        """The noise that an answer means, with x held inside the percentile."""
        alpha, sigma = float(self._log_alphas[step].exp()), float(self._sigma(step))
        if self.prediction == "v_prediction":
            clean = alpha * x - sigma * answer
        elif self.prediction == "sample":
            clean = answer
        elif not self.percentile:
            return answer
        else:
            clean = (x - sigma * answer) / alpha
        if self.percentile:
            clean = threshold(clean, self.percentile)
        return (x - alpha * clean) / sigma

    def _sigma(self, step: int) -> Tensor:
        return (-torch.expm1(2 * self._log_alphas[step])).sqrt()

    def _at(self, times: Tensor) -> Tensor:
        """log alpha at times in (0, 1], on straight lines between those of the schedule, [K]."""
        return _lines(times, self._times, self._table)

    def _inverse(self, log_alphas: Tensor) -> Tensor:
        """The times of log alphas, [K]."""
        return _lines(log_alphas, self._table.flip(0), self._times.flip(0))


def _lambda(log_alpha: Tensor) -> Tensor:
    """log(alpha / sigma), half the log-SNR."""
    return log_alpha - torch.log(-torch.expm1(2 * log_alpha)) / 2


def _orders(steps: int) -> list[int]:
    """The orders of the intervals, as many threes as the steps allow; they sum to the steps."""
    whole, rest = divmod(steps, 3)
    return [3] * (whole - 1) + [2, 1] if rest == 0 else [3] * whole + [rest]


def _lines(at: Tensor, known: Tensor, values: Tensor) -> Tensor:
    """Values at places [K] on the lines between known ones [N], rising; the outer lines go on beyond."""
    right = torch.searchsorted(known, at).clamp(1, len(known) - 1)
    left = right - 1
    share = (at - known[left]) / (known[right] - known[left])
    return torch.lerp(values[left], values[right], share)
