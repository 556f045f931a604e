"""Tokens written one after another: an autoregressive level, whose steps are its tokens."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from bimo.core.errors import RecipeError, TrainingError
from bimo.diffusion.sampler_names import SamplerOptions
from bimo.diffusion.samplers import PLAIN_STEP, Sampler, StepSettings
from bimo.diffusion.schedules.schedule import PLAIN, Schedule

#: The codes of a tiny codebook.
TINY = 32


@dataclass(frozen=True, kw_only=True)
class NextToken(Schedule):
    """x are the ids of tokens, [B, N]; at t, a place in them, the denoiser answers the logits [B, V] of the token
    there, by those before it. As transformers' ``generate`` has them: logits are divided by ``temperature``, the
    ``top_k`` likeliest are kept (0: all), and of these the fewest that make up ``top_p`` (arXiv:1904.09751).

    Of V only the first ``vocabulary`` are tokens of a picture (0: all): another that is drawn, such as the one that
    ends a picture, is drawn again among these.
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
        """As few tokens of pictures as a tiny codebook has."""
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
        """A step for each of the N tokens of ``shape``, whatever was requested."""
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
    """Draws each token by a generator of its own, seeded by that of the noise, and on the processor, where x is: the
    same tokens on every device. As diffusers' pipelines seed torch's own generator before they call ``generate``, by
    the same numbers.
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
        """x [1, N] with the token at ``timestep`` drawn from the logits [1, V]."""
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
        """Logits [1, V] -> the shares [1, V] that tokens are drawn by."""
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
