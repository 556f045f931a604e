"""Euler's method of a flow against diffusers' FlowMatchEulerDiscreteScheduler, to the bit."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from bimo.diffusion.schedules.flow import Flow


@pytest.mark.parametrize("shift", [1.0, 3.0])
@pytest.mark.parametrize("steps", [1, 2, 12, 50, 1000])
def test_the_same_times_and_steps(steps: int, shift: float) -> None:
    theirs: Any = FlowMatchEulerDiscreteScheduler(shift=shift)
    theirs.set_timesteps(steps)
    ours: Any = Flow(shift=shift).sampler("euler", steps)
    assert torch.equal(ours.sigmas, theirs.sigmas)
    assert torch.equal(ours.timesteps, theirs.timesteps)
    generator = torch.Generator().manual_seed(4)
    x = y = torch.randn(1, 4, 6, 6, generator=generator)
    for t in theirs.timesteps[:20]:
        answer = torch.randn(x.shape, generator=generator)
        x = theirs.step(answer, t, x).prev_sample
        y = ours.step(answer, t, y)
        assert torch.equal(x, y)


def test_a_drawing_may_begin_in_the_middle() -> None:
    ours: Any = Flow().sampler("", 8)
    theirs: Any = FlowMatchEulerDiscreteScheduler()
    theirs.set_timesteps(8)
    theirs.set_begin_index(5)
    x, answer = torch.zeros(1, 1, 2, 2), torch.ones(1, 1, 2, 2)
    t = ours.timesteps[5]
    noise = torch.randn(1, 1, 2, 2, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(ours.add_noise(answer, noise, t[None]), theirs.scale_noise(answer, t[None], noise))
    assert torch.equal(ours.step(answer, t, x), theirs.step(answer, t, x).prev_sample)
