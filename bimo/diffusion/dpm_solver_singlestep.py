"""Third-order singlestep DPM-Solver (arXiv:2206.00927, appendix D), evenly spaced in log-SNR.

diffusers' DPMSolverSinglestepScheduler with uniform lambdas differs in three points that change pictures of few steps:
it rounds timesteps to integers; its last interval is shorter if its order is lower, here all intervals are equal; and
it ends at x_0, here at the first timestep of the schedule.
"""

from __future__ import annotations

import torch
from torch import Tensor

from bimo.diffusion.samplers import PLAIN_STEP, Sampler, StepSettings


def threshold(x: Tensor, percentile: float) -> Tensor:
    """Dynamic thresholding (arXiv:2205.11487, section 2.3): clips x [B, ...] at a percentile s of its magnitudes, s at
    least 1 and computed for each row, and divides it by s.
    """
    limit = torch.quantile(x.flatten(1).abs().float(), percentile, dim=1).clamp(min=1.0).to(x)
    limit = limit.reshape(-1, *[1] * (x.ndim - 1))
    return torch.minimum(limit, torch.maximum(-limit, x)) / limit


class Singlestep(Sampler):
    """A sampler over a schedule's ``signal`` [N] (the cumulative product of 1 - beta), from the fraction ``begin`` of
    its timesteps to the first. ``timesteps`` are fractional; each costs one evaluation.
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
        """x at the next timestep. Timesteps must be taken in order."""
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
            # The fraction of the interval over which this difference of noise predictions was measured.
            share = inner / (inner + 1)
            weight = torch.expm1(h) / 2 if self.orders[interval] == 2 else torch.expm1(h) / h - 1
            x = x - float(sigma * weight / share) * (noise - self._first)
        return x

    def _noise(self, output: Tensor, x: Tensor, step: int) -> Tensor:
        """The noise of the denoiser's output, with x thresholded."""
        alpha, sigma = float(self._log_alphas[step].exp()), float(self._sigma(step))
        if self.prediction == "v_prediction":
            clean = alpha * x - sigma * output
        elif self.prediction == "sample":
            clean = output
        elif not self.percentile:
            return output
        else:
            clean = (x - sigma * output) / alpha
        if self.percentile:
            clean = threshold(clean, self.percentile)
        return (x - alpha * clean) / sigma

    def _sigma(self, step: int) -> Tensor:
        return (-torch.expm1(2 * self._log_alphas[step])).sqrt()

    def _at(self, times: Tensor) -> Tensor:
        """log alpha at times in (0, 1], linearly interpolated between the timesteps of the schedule, [K]."""
        return _lines(times, self._times, self._table)

    def _inverse(self, log_alphas: Tensor) -> Tensor:
        """The times of given log alphas, [K]."""
        return _lines(log_alphas, self._table.flip(0), self._times.flip(0))


def _lambda(log_alpha: Tensor) -> Tensor:
    """log(alpha / sigma), half the log-SNR."""
    return log_alpha - torch.log(-torch.expm1(2 * log_alpha)) / 2


def _orders(steps: int) -> list[int]:
    """The orders of the intervals: as many of order 3 as possible; they sum to the number of steps."""
    threes, rest = divmod(steps, 3)
    return [3] * (threes - 1) + [2, 1] if rest == 0 else [3] * threes + [rest]


def _lines(at: Tensor, known: Tensor, values: Tensor) -> Tensor:
    """Interpolates known values [N] linearly at increasing positions [K], and extrapolates beyond both ends."""
    right = torch.searchsorted(known, at).clamp(1, len(known) - 1)
    left = right - 1
    share = (at - known[left]) / (known[right] - known[left])
    return torch.lerp(values[left], values[right], share)
