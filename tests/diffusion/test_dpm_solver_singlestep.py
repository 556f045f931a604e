"""The cascades' sampler: its times, its order, its clipping, against formulas."""

from __future__ import annotations

from typing import Any

import numpy
import pytest
import torch
from torch import Tensor

from bimo.core.errors import RequestError
from bimo.diffusion.dpm_solver_singlestep import threshold
from bimo.diffusion.samplers import StepSettings
from bimo.diffusion.schedules.ddpm import Ddpm

SCHEDULE = Ddpm(beta_schedule="squaredcos_cap_v2", begin=0.9946)


@pytest.mark.parametrize(
    ("steps", "orders"), [(1, [1]), (2, [2]), (3, [2, 1]), (10, [3, 3, 3, 1]), (20, [3] * 6 + [2]), (6, [3, 2, 1])]
)
def test_orders_spend_the_steps(steps: int, orders: list[int]) -> None:
    sampler: Any = SCHEDULE.sampler("dpm-singlestep", steps)
    assert sampler.orders == orders
    assert len(sampler.timesteps) == steps


def test_times_are_even_in_log_snr_within_each_interval() -> None:
    sampler = SCHEDULE.sampler("dpm-singlestep", 20)
    times = sampler.timesteps.double().numpy()
    a = numpy.log(SCHEDULE.signal().double().numpy())
    found = numpy.interp(times, numpy.arange(1000), a)
    lambdas = 0.5 * (found - numpy.log1p(-numpy.exp(found)))
    assert times[0] == pytest.approx(993.6)
    gaps = numpy.diff(lambdas)
    # Six intervals of three steps and one of two, all as long.
    assert gaps[:17] == pytest.approx(numpy.full(17, gaps[0]), rel=1e-3)
    assert gaps[18] == pytest.approx(1.5 * gaps[0], rel=1e-3)
    assert (
        SCHEDULE.sampler("dpm-singlestep", 20).timesteps[0] < Ddpm().sampler("dpm-singlestep", 20).timesteps[0] == 999
    )


def drawn(steps: int, spread: float, x: Tensor) -> Tensor:
    """x at the end, by the best denoiser for pictures that are normal with a variance of spread."""
    sampler = SCHEDULE.sampler("dpm-singlestep", steps)
    a_all = SCHEDULE.signal().double().log().numpy()
    for t in sampler.timesteps:
        a = float(numpy.exp(numpy.interp(float(t), numpy.arange(1000), a_all)))
        x = sampler.step((1 - a) ** 0.5 / (a * spread + 1 - a) * x, t, x)
    return x


def test_the_solver_is_of_third_order() -> None:
    # A normal law has a straight way from noise to picture: x scales with its deviation (arXiv:2011.13456).
    spread = 0.25
    a_all = SCHEDULE.signal().double()
    start = float(numpy.interp(993.6, numpy.arange(1000), a_all.log().numpy()))
    begin, end = float(numpy.exp(start)), float(a_all[0])
    wanted = ((end * spread + 1 - end) / (begin * spread + 1 - begin)) ** 0.5
    x = torch.ones(1, 1, dtype=torch.float64)
    errors = [abs(float(drawn(steps, spread, x)) - wanted) for steps in (16, 31, 61)]
    assert errors[2] < 1e-4
    assert errors[0] / errors[1] > 4
    assert errors[1] / errors[2] > 4


def test_the_first_step_by_hand() -> None:
    sampler: Any = SCHEDULE.sampler("dpm-singlestep", 1)
    x = torch.randn(1, 2, 3, generator=torch.Generator().manual_seed(0)).double()
    noise = torch.randn(1, 2, 3, generator=torch.Generator().manual_seed(1)).double()
    a = numpy.exp(numpy.interp(993.6, numpy.arange(1000), SCHEDULE.signal().double().log().numpy()))
    end = float(SCHEDULE.signal()[0])
    clean = (x - (1 - a) ** 0.5 * noise) / a**0.5
    wanted = end**0.5 * clean + (1 - end) ** 0.5 * noise
    assert torch.allclose(sampler.step(noise, sampler.timesteps[0], x), wanted, rtol=1e-4)


@pytest.mark.parametrize("prediction", ["sample", "v_prediction", "epsilon"])
def test_every_prediction_type_gives_the_same_step(prediction: Any) -> None:
    a = numpy.exp(numpy.interp(993.6, numpy.arange(1000), SCHEDULE.signal().double().log().numpy()))
    x, noise = torch.randn(2, 1, 3, generator=torch.Generator().manual_seed(0)).double()
    clean = (x - (1 - a) ** 0.5 * noise) / a**0.5
    answer = {"sample": clean, "epsilon": noise, "v_prediction": a**0.5 * noise - (1 - a) ** 0.5 * clean}
    steps = []
    for kind in ("epsilon", prediction):
        sampler = Ddpm(beta_schedule="squaredcos_cap_v2", begin=0.9946, prediction=kind).sampler("dpm-singlestep", 2)
        steps.append(sampler.step(answer[kind], sampler.timesteps[0], x))
    assert torch.allclose(*steps, rtol=1e-3)


def test_clipping_at_a_percentile() -> None:
    x = torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    x[0] *= 0.1
    x[1] *= 30
    found = threshold(x, 0.995)
    for row, before in zip(found, x, strict=True):
        limit = max(1.0, float(numpy.quantile(numpy.abs(before.numpy()), 0.995)))
        assert torch.allclose(row, before.clamp(-limit, limit) / limit, atol=1e-5)
    assert torch.equal(found[0], x[0])
    assert float(found[1].abs().max()) == pytest.approx(1.0)


def test_a_clipped_schedule_clips_whatever_samples_it() -> None:
    schedule = Ddpm(percentile=0.995)
    x = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    for name in ("dpm-singlestep", "ddim", "dpm++"):
        sampler = schedule.sampler(name, 4)
        settings = StepSettings(torch.Generator(), clipped=True)
        y = x
        for t in sampler.timesteps:
            y = sampler.step(-9 * y, t, y, settings)
        assert float(y.abs().max()) < 3, name
    with pytest.raises(RequestError, match="cannot clip"):
        schedule.sampler("euler", 4)


def test_only_a_sampler_that_needs_the_variance_is_told_of_it() -> None:
    schedule = Ddpm(variance="learned_range")
    assert schedule.sampler("ddpm", 4).reads_all
    assert not schedule.sampler("ddim", 4).reads_all
