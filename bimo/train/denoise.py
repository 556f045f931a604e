"""Denoising as an objective: one squared error whatever the law of noise, with the weights and ranges of the papers."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from bimo.core.errors import RecipeError
from bimo.core.part import Part
from bimo.core.types import Ask, Batch
from bimo.data.loader import Pictures
from bimo.diffusion.schedule import Ddpm, Schedule, expand
from bimo.diffusion.system import System
from bimo.train.lesson import Lesson, Vocabulary

TRIES = 1000


@dataclass(frozen=True)
class Question:
    """A training ask of a level, with what it was made of: clean ``x`` and ``noise`` [B, C, h, w]."""

    schedule: Schedule
    ask: Ask
    x: Tensor
    noise: Tensor


@dataclass(frozen=True, kw_only=True)
class Denoise(Part):
    """Mean squared error of a level's answer (arXiv:2006.11239, equation 14), whatever its law of noise.

    ``also`` names levels whose own loss is added, as when a level and the one it takes as a hint learn together.
    ``times`` (from, below) are those of an expert that answers for a part of the noise alone (arXiv:2312.16486).
    ``snr`` is gamma of the min-SNR weight (arXiv:2303.09556, section 3.4), 0 for none. ``variance`` is lambda of the
    hybrid loss (arXiv:2102.09672, equation 16) of a denoiser that learns its variance; with 0 that half of its answer
    learns nothing. ``crops`` are sides in positions of x: each batch is cut at a random place to one of them.
    """

    also: tuple[str, ...] = ()
    times: tuple[float, float] | None = None
    snr: float = 0.0
    variance: float = 0.0
    crops: tuple[int, ...] = ()
    sees: str = "latents"

    def pictures(self, system: System, pictures: Pictures, folder: Path) -> Pictures:
        """All of them, each for itself."""
        return pictures

    def extra(self, system: System, vocabulary: Vocabulary) -> nn.Module | None:
        """None."""
        return None

    def loss(self, lesson: Lesson) -> Tensor:
        """The sum over the stage's level and ``also`` of the mean over the rows."""
        lesson = replace(lesson, batch=self.cropped(cast(Batch, lesson.batch)))
        losses: list[Tensor] = []
        for name in (lesson.stage.level, *self.also):
            question = self.question(lesson, name)
            losses.append(self.errors(question, lesson.system.denoise(question.ask)).mean())
        return torch.stack(losses).sum()

    def question(self, lesson: Lesson, name: str, lot: int = 1) -> Question:
        """What is asked of a level: noised pictures and their conditioning. Rows of a lot have one time and noise."""
        batch = cast(Batch, lesson.batch)
        level = lesson.system.level(name)
        count = len(batch.x) // lot
        t = self._times(level.schedule, count, batch.generator).repeat_interleave(lot)
        noise = torch.randn((count, *batch.x.shape[1:]), generator=batch.generator).repeat_interleave(lot, dim=0)
        hints = [hint.learned(lesson.system, batch) for hint in level.hints]
        conditioning = lesson.system.condition(batch.encodings, hints)
        ask = Ask(name, level.schedule.noised(batch.x, noise, t), t, conditioning)
        return Question(level.schedule, ask, batch.x, noise)

    def errors(self, question: Question, answer: Tensor) -> Tensor:
        """The weighted error of each row, [B]."""
        schedule, ask, x = question.schedule, question.ask, question.x
        channels = x.shape[1]
        mean = answer[:, :channels]
        error = (mean - schedule.target(x, question.noise, ask.t)).square().flatten(1).mean(1)
        if self.snr:
            error = error * self._snr_weight(_ddpm(schedule, "snr"), ask.t)
        if self.variance:
            law = _ddpm(schedule, "variance")
            if answer.shape[1] != 2 * channels:
                raise RecipeError(
                    f"目标要学方差，而层级 {ask.level!r} 的去噪网络输出 {answer.shape[1]} 个通道，应为 {2 * channels}",
                    f"the objective learns a variance, but the denoiser of level {ask.level!r} answers "
                    f"{answer.shape[1]} channels; expected {2 * channels}",
                )
            # Of the bound only the variance learns: the mean has its own, better conditioned error.
            whole = torch.cat([mean.detach(), answer[:, channels:]], dim=1)
            error = error + self.variance * law.count * variational_bound(law, x, ask.x, whole, ask.t)
        return error

    def cropped(self, batch: Batch) -> Batch:
        """The batch cut to one of ``crops``, its pixels where they belong to it; all of it where there are none."""
        if not self.crops:
            return batch
        draws = torch.rand(3, generator=batch.generator).tolist()
        side = self.crops[int(draws[0] * len(self.crops))]
        height, width = batch.x.shape[2:]
        if side > min(height, width):
            raise RecipeError(
                f"crops 里的 {side} 比 x 的边长 {min(height, width)} 还大",
                f"{side} of crops is more than a side of x, {min(height, width)}",
            )
        top, left = int(draws[1] * (height - side + 1)), int(draws[2] * (width - side + 1))
        pixels = batch.pixels
        if pixels is not None:
            pixels = _window(pixels, top, left, side, pixels.shape[2] // height)
        return replace(batch, x=_window(batch.x, top, left, side, 1), pixels=pixels)

    def _times(self, schedule: Schedule, count: int, generator: torch.Generator) -> Tensor:
        if self.times is None:
            return schedule.times(count, generator)
        low, high = self.times
        kept = torch.empty(0)
        for _ in range(TRIES):
            drawn = schedule.times(count, generator)
            kept = torch.cat([kept, drawn[(drawn >= low) & (drawn < high)]])
            if len(kept) >= count:
                return kept[:count]
        raise RecipeError(
            f"目标的 times 是 {self.times}，而噪声律几乎不给出这样的时刻",
            f"times of the objective are {self.times}, which the law of noise hardly ever draws",
        )

    def _snr_weight(self, law: Ddpm, t: Tensor) -> Tensor:
        """min(snr, gamma) as a weight on the error of x; of the noise it is divided by snr, of v by snr + 1."""
        a = law.signal()[t.long()]
        snr = a / (1 - a)
        kept = snr.clamp(max=self.snr)
        return {"epsilon": kept / snr, "v_prediction": kept / (snr + 1), "sample": kept}[law.prediction]


def variational_bound(law: Ddpm, x: Tensor, noised: Tensor, answer: Tensor, t: Tensor) -> Tensor:
    """The term of the variational bound at t in bits a dimension, [B] (arXiv:2102.09672, equations 4 to 6 and 15).

    ``answer`` [B, 2 C, h, w] is the mean's and, in [-1, 1], where log variance lies between that of the posterior and
    log beta. The term of t = 0 is the likelihood of x in steps of 1/255.
    """
    a_all = law.signal()
    before_all = torch.cat([torch.ones(1), a_all[:-1]])
    beta_all = 1 - a_all / before_all
    spread = beta_all * (1 - before_all) / (1 - a_all)
    # The posterior of the first time has no variance; its neighbour's stands in for it.
    low_all = torch.cat([spread[1:2], spread[1:]]).log()
    a, before, beta, low = (expand(v[t.long()], x).to(x) for v in (a_all, before_all, beta_all, low_all))
    said, share = answer.chunk(2, dim=1)
    if law.prediction == "epsilon":
        clean = (noised - (1 - a).sqrt() * said) / a.sqrt()
    elif law.prediction == "sample":
        clean = said
    else:
        clean = a.sqrt() * noised - (1 - a).sqrt() * said
    ours = (share + 1) / 2 * (beta.log() - low) + low
    to_clean, to_noised = beta * before.sqrt() / (1 - a), (1 - beta).sqrt() * (1 - before) / (1 - a)
    wanted, found = (to_clean * one + to_noised * noised for one in (x, clean))
    apart = 0.5 * (ours - low - 1 + (low - ours).exp() + (wanted - found).square() * (-ours).exp())
    at_first = -_log_likelihood(x, found, 0.5 * ours)
    terms = torch.where(expand(t, x) == 0, at_first, apart)
    return terms.flatten(1).mean(1) / math.log(2)


def _log_likelihood(x: Tensor, mean: Tensor, log_deviation: Tensor) -> Tensor:
    """Of x in [-1, 1] rounded to 1/255 by a normal law; the outermost steps reach to infinity."""
    narrow = (-log_deviation).exp()
    normal = torch.distributions.Normal(0.0, 1.0)
    above = normal.cdf(narrow * (x - mean + 1 / 255))
    below = normal.cdf(narrow * (x - mean - 1 / 255))
    inside = torch.where(x < -0.999, above, torch.where(x > 0.999, 1 - below, above - below))
    return inside.clamp(min=1e-12).log()


def _ddpm(schedule: Schedule, field: str) -> Ddpm:
    if not isinstance(schedule, Ddpm):
        raise RecipeError(
            f"目标的 {field} 只对 Ddpm 噪声律有定义，这里是 {type(schedule).__name__}",
            f"{field} of the objective is defined for the law Ddpm alone, not for {type(schedule).__name__}",
        )
    return schedule


def _window(value: Tensor, top: int, left: int, side: int, scale: int) -> Tensor:
    top, left, side = top * scale, left * scale, side * scale
    return value[:, :, top : top + side, left : left + side].contiguous()
