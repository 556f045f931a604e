"""Autoregressive generation of tokens as a schedule: each step samples one token."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from bimo.core.errors import RecipeError, TrainingError
from bimo.diffusion.sampler_names import SamplerOptions
from bimo.diffusion.samplers import PLAIN_STEP, Sampler, StepSettings
from bimo.diffusion.schedules.schedule import PLAIN, Schedule

#: The size of a tiny model's codebook.
TINY = 32


@dataclass(frozen=True, kw_only=True)
class NextToken(Schedule):
    """x are token ids [B, N]; t is a position, for which the denoiser predicts the logits [B, V] from the tokens before
    it. Sampling is as in transformers' ``generate``: logits are divided by ``temperature``, then filtered by ``top_k``
    (0: no filter) and ``top_p`` (arXiv:1904.09751).

    Only the first ``vocabulary`` of V tokens belong to pictures (0: all). If another is sampled, such as the end token,
    sampling is repeated among these.
    """

    temperature: float = 1.0
    top_k: int = 50
    top_p: float = 1.0
    vocabulary: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.temperature > 0 or self.top_k < 0 or not 0 < self.top_p <= 1:
            raise RecipeError(
                "temperature is {temperature:g}, top_k {top_k} and top_p {top_p:g}; expected a temperature above 0, a "
                "top_k of 0 or more, a top_p above 0 and up to 1",
                temperature=self.temperature,
                top_k=self.top_k,
                top_p=self.top_p,
            )

    def tiny(self) -> Self:
        """With a tiny codebook."""
        return replace(self, vocabulary=min(self.vocabulary, TINY))

    def timesteps(self, count: int, generator: torch.Generator) -> Tensor:
        """Raises TrainingError."""
        raise self._unlearnt()

    def add_noise(self, x: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Raises TrainingError."""
        raise self._unlearnt()

    def target(self, x: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Raises TrainingError."""
        raise self._unlearnt()

    def clean(self, output: Tensor, noised: Tensor, t: Tensor) -> Tensor:
        """The tokens so far, [B, N]."""
        return noised

    def sampler(self, name: str, steps: int, shape: tuple[int, ...] = (), options: SamplerOptions = PLAIN) -> Sampler:
        """A sampler with a step for each of the N tokens of ``shape``, whatever number was requested."""
        return NextTokenSampler(self, shape[0])

    def steps_for(self, steps: int, shape: tuple[int, ...]) -> int:
        """One for each token."""
        return shape[0]

    def _unlearnt(self) -> TrainingError:
        return TrainingError(
            "a level that writes tokens one after another has no noise to learn from: it is drawn with, as it was "
            "published; name the level that is conditioned on it"
        )


class NextTokenSampler(Sampler):
    """Samples tokens with a generator of its own on the CPU, so that all devices give the same tokens. It is seeded as
    diffusers' pipelines seed torch's global generator before they call ``generate``.
    """

    init_noise_sigma = 0.0
    reads_all = True

    def __init__(self, schedule: NextToken, count: int) -> None:
        self.schedule = schedule
        self.timesteps = torch.arange(count)
        self.generator = torch.Generator()

    def seed_noise(self, seed: int) -> None:
        """Seeds the generator of the tokens."""
        self.generator.manual_seed(seed)

    def scale_model_input(self, sample: Tensor, timestep: Tensor) -> Tensor:
        """The ids as integers, [1, N]."""
        return sample.cpu().long()

    def step(
        self, model_output: Tensor, timestep: Tensor, sample: Tensor, settings: StepSettings = PLAIN_STEP
    ) -> Tensor:
        """x [1, N] with the token at ``timestep`` sampled from the logits [1, V]."""
        logits = model_output.float().cpu()
        with torch.device("cpu"):
            shares = self._shares(logits)
            token = torch.multinomial(shares, 1, generator=self.generator)
            vocabulary = self.schedule.vocabulary
            if vocabulary and int(token) >= vocabulary:
                token = torch.multinomial(self._shares(logits[:, :vocabulary]), 1, generator=self.generator)
        written = sample.cpu().long().clone()
        written[:, int(timestep)] = token[:, 0]
        return written

    def _shares(self, logits: Tensor) -> Tensor:
        """Logits [1, V] -> the probabilities [1, V] after temperature, top-k and top-p."""
        schedule = self.schedule
        logits = logits / schedule.temperature
        if schedule.top_k:
            least = logits.topk(min(schedule.top_k, logits.shape[-1])).values[:, -1:]
            logits = logits.masked_fill(logits < least, -torch.inf)
        if schedule.top_p < 1:
            ascending, order = logits.sort()
            dropped = ascending.softmax(dim=-1).cumsum(dim=-1) <= 1 - schedule.top_p
            dropped[:, -1] = False
            logits = logits.masked_fill(dropped.scatter(1, order, dropped), -torch.inf)
        return logits.softmax(dim=-1)
