"""Tokens drawn one after another, beside transformers' own processors of logits."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers.generation.logits_process import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from bimo.core.errors import RecipeError
from bimo.diffusion.schedules.next_token import NextToken


def drawn(schedule: NextToken, logits: torch.Tensor, seed: int) -> list[int]:
    """The tokens for logits [N, V]."""
    sampler = schedule.sampler("", 1, (len(logits),))
    sampler.seed_noise(seed)
    x = torch.zeros(1, len(logits))
    for t, row in zip(sampler.timesteps, logits, strict=True):
        x = sampler.step(row[None], t, sampler.scale_model_input(x, t))
    return x[0].tolist()


@pytest.mark.parametrize(
    "settings",
    [
        {"top_k": 0},
        {"temperature": 0.9, "top_p": 0.75},
        {"temperature": 2.0, "top_k": 5},
        {"top_k": 7, "top_p": 0.5},
        {"top_k": 500},
    ],
    ids=str,
)
def test_tokens_are_those_of_generate(settings: dict[str, Any]) -> None:
    logits = torch.randn(200, 40, generator=torch.Generator().manual_seed(1)) * 3
    schedule = NextToken(**settings)
    warpers: list[Any] = [TemperatureLogitsWarper(schedule.temperature)]
    warpers += [TopKLogitsWarper(schedule.top_k)] if schedule.top_k else []
    warpers += [TopPLogitsWarper(schedule.top_p)] if schedule.top_p < 1 else []
    torch.manual_seed(5)
    expected: list[int] = []
    for row in logits:
        scores = row[None]
        for warper in warpers:
            scores = warper(None, scores)
        expected.append(int(torch.multinomial(scores.softmax(dim=-1), 1)))
    assert drawn(schedule, logits, 5) == expected
    assert drawn(schedule, logits, 6) != expected


def test_the_likeliest_alone_is_greedy() -> None:
    logits = torch.randn(50, 40, generator=torch.Generator().manual_seed(2))
    assert drawn(NextToken(top_k=1), logits, 1) == logits.argmax(dim=1).tolist()


def test_a_token_of_no_picture_is_drawn_again_among_those_that_are() -> None:
    logits = torch.zeros(60, 12)
    logits[:, 8:] = 2.0
    every, within = drawn(NextToken(), logits, 3), drawn(NextToken(vocabulary=8), logits, 3)
    assert max(every) >= 8
    assert max(within) < 8
    assert len(set(within)) > 4
    first = next(place for place, token in enumerate(every) if token >= 8)
    assert within[:first] == every[:first]


def test_a_step_for_each_token() -> None:
    assert NextToken().steps_for(20, (7,)) == 7
    assert len(NextToken().sampler("", 20, (7,)).timesteps) == 7


@pytest.mark.parametrize("wrong", [{"temperature": 0.0}, {"top_k": -1}, {"top_p": 0.0}, {"top_p": 1.5}])
def test_what_draws_nothing_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(RecipeError, match="expected a temperature above 0"):
        NextToken(**wrong)
