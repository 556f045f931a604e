"""Noise laws: what a denoiser may answer leads back to x and the noise, and samplers are diffusers' own."""

from __future__ import annotations

import math
from typing import Any

import diffusers
import numpy
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from bimo.core.errors import RecipeError, RequestError
from bimo.diffusion.sampler_names import FLOW_SAMPLERS, SAMPLERS
from bimo.diffusion.samplers import DiffusersSampler
from bimo.diffusion.schedules.ddpm import Ddpm
from bimo.diffusion.schedules.flow import Flow
from bimo.diffusion.schedules.single_step import SingleStepRegression
from bimo.recipes.hunyuan_dit import noise as hunyuan_noise
from bimo.recipes.kolors import kolors_schedule
from bimo.recipes.stable_diffusion import sd_v1
from bimo.recipes.taiyi_xl import sdxl

SEEDS = st.integers(0, 2**32 - 1)
BETAS = st.sampled_from(["linear", "scaled_linear", "squaredcos_cap_v2"])


def pair(seed: int) -> tuple[Tensor, Tensor]:
    """Clean x and noise, [3, 2, 4, 4] of float64."""
    generator = torch.Generator().manual_seed(seed)
    x, noise = torch.randn(2, 3, 2, 4, 4, generator=generator, dtype=torch.float64)
    return x, noise


def back(schedule: Ddpm, noised: Tensor, answer: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """x and noise of x_t and the answer of any kind (arXiv:2202.00512, appendix D)."""
    a = schedule.signal().double()[t][:, None, None, None]
    signal, noise_share = a.sqrt(), (1 - a).sqrt()
    if schedule.prediction == "epsilon":
        return (noised - noise_share * answer) / signal, answer
    if schedule.prediction == "sample":
        return answer, (noised - signal * answer) / noise_share
    return signal * noised - noise_share * answer, noise_share * noised + signal * answer


@settings(max_examples=60)
@given(
    seed=SEEDS,
    prediction=st.sampled_from(["epsilon", "sample", "v_prediction"]),
    betas=BETAS,
    times=st.lists(st.integers(0, 990), min_size=3, max_size=3),
)
def test_every_ddpm_prediction_type_recovers_x(seed: int, prediction: Any, betas: Any, times: list[int]) -> None:
    schedule = Ddpm(prediction=prediction, beta_schedule=betas)
    x, noise = pair(seed)
    t = torch.tensor(times)
    noised = schedule.add_noise(x, noise, t.double())
    found_x, found_noise = back(schedule, noised, schedule.target(x, noise, t.double()), t)
    assert torch.allclose(found_x, x, atol=1e-6)
    assert torch.allclose(found_noise, noise, atol=1e-6)
    # The law keeps the variance.
    a = schedule.signal()[t]
    assert torch.allclose(a.sqrt() ** 2 + (1 - a).sqrt() ** 2, torch.ones(3))


@settings(max_examples=60)
@given(seed=SEEDS, times=st.lists(st.floats(0, 1000), min_size=3, max_size=3))
def test_flow_predictions_recover_x(seed: int, times: list[float]) -> None:
    schedule = Flow()
    x, noise = pair(seed)
    t = torch.tensor(times, dtype=torch.float64)
    s = (t / 1000)[:, None, None, None]
    noised, velocity = schedule.add_noise(x, noise, t), schedule.target(x, noise, t)
    assert torch.allclose(noised - s * velocity, x, atol=1e-9)
    assert torch.allclose(noised + (1 - s) * velocity, noise, atol=1e-9)


@pytest.mark.parametrize("prediction", ["epsilon", "sample", "v_prediction"])
def test_ddpm_is_that_of_diffusers(prediction: Any) -> None:
    schedule = Ddpm(prediction=prediction)
    x, noise = (value.float() for value in pair(0))
    t = torch.tensor([0, 500, 999])
    own = diffusers.DDPMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)
    assert torch.allclose(schedule.add_noise(x, noise, t.float()), own.add_noise(x, noise, t), atol=1e-6)
    if prediction == "v_prediction":
        assert torch.allclose(schedule.target(x, noise, t.float()), own.get_velocity(x, noise, t), atol=1e-6)


def perfect(schedule: Any, x: Tensor, noised: Tensor, t: Tensor) -> Tensor:
    """What a denoiser that knows x answers to x_t."""
    if isinstance(schedule, Flow):
        return (noised - x) / (t / schedule.last)
    a = schedule.signal()[int(t)]
    noise = (noised - a.sqrt() * x) / (1 - a).sqrt()
    return schedule.target(x, noise, t.reshape(1).float())


@settings(max_examples=20)
@given(seed=SEEDS, steps=st.integers(5, 30))
def test_drawing_with_a_perfect_denoiser_finds_x(seed: int, steps: int) -> None:
    x = torch.randn(1, 2, 4, 4, generator=torch.Generator().manual_seed(seed))
    noise = torch.randn(1, 2, 4, 4, generator=torch.Generator().manual_seed(seed + 1))
    for schedule, name in ((Ddpm(), "ddim"), (Ddpm(prediction="v_prediction"), "ddim"), (Flow(), "euler")):
        sampler = schedule.sampler(name, steps)
        noised = noise * sampler.init_noise_sigma
        for t in sampler.timesteps:
            answer = perfect(schedule, x, sampler.scale_model_input(noised, t), t)
            noised = sampler.step(answer, t, noised)
        # DDIM ends at the first step of the law, which keeps a little noise.
        assert (noised - x).abs().max() < (1e-3 if isinstance(schedule, Flow) else 0.25)


#: Of numpy 1 in diffusers, and of times that it gives torchsde in fewer bits.
FOREIGN = pytest.mark.filterwarnings("ignore:__array_wrap__:DeprecationWarning", "ignore:Should have ta:UserWarning")


@FOREIGN
@pytest.mark.parametrize("name", SAMPLERS)
def test_every_named_sampler_steps(name: str) -> None:
    sampler = Ddpm().sampler(name, 4)
    x = torch.randn(1, 2, 4, 4, generator=torch.Generator().manual_seed(0)) * sampler.init_noise_sigma
    for t in sampler.timesteps:
        x = sampler.step(torch.zeros_like(x), t, sampler.scale_model_input(x, t))
    assert x.isfinite().all()


@pytest.mark.parametrize("name", FLOW_SAMPLERS)
def test_every_flow_sampler_steps(name: str) -> None:
    sampler = Flow(shift=2.0).sampler(name, 3)
    x = torch.ones(1, 2, 4, 4)
    for t in sampler.timesteps:
        x = sampler.step(torch.zeros_like(x), t, sampler.scale_model_input(x, t))
    # Consistency models take noise anew at every step.
    assert torch.equal(x, torch.ones_like(x)) == (name != "lcm")


@pytest.mark.parametrize("schedule", [Ddpm(), Flow()])
def test_unknown_sampler_is_reported(schedule: Any) -> None:
    with pytest.raises(RequestError) as raised:
        schedule.sampler("eulr", 4)
    assert "did you mean euler" in raised.value.en


@pytest.mark.parametrize("schedule", [Ddpm(), Flow(logit_mean=0.5, logit_std=2.0)])
def test_training_times_come_from_the_generator(schedule: Any) -> None:
    one, two = (schedule.timesteps(64, torch.Generator().manual_seed(5)) for _ in range(2))
    assert torch.equal(one, two)
    assert one.shape == (64,)
    assert 0 <= float(one.min()) <= float(one.max()) <= 1000
    assert math.isfinite(float(one.sum()))


def test_single_step_regression_takes_one_step() -> None:
    schedule = SingleStepRegression()
    x, noise = pair(1)
    t = schedule.timesteps(3, torch.Generator())
    assert torch.equal(schedule.add_noise(x, noise, t), torch.zeros_like(x))
    assert torch.equal(schedule.target(x, noise, t), x)
    sampler = schedule.sampler("anything", 50)
    assert len(sampler.timesteps) == 1
    assert torch.equal(sampler.step(x, t[0], noise), x)


@pytest.mark.parametrize("name", ["qwen_image", "cogview4", "static"])
def test_dynamic_times_are_those_of_the_pipelines(name: str) -> None:
    """mu and the times as written in the pipelines of diffusers, for an x of 32 x 48 places."""
    steps, length = 7, 16 * 24
    even = numpy.linspace(1.0, 1 / steps, steps)
    if name == "static":
        schedule, own, given = Flow(shift=3.0, grid="even"), {"shift": 3.0}, {"sigmas": even}
    elif name == "qwen_image":
        schedule = Flow(dynamic="line", max_shift=0.9, max_length=8192, grid="even", terminal=0.02)
        own = {"use_dynamic_shifting": True, "max_shift": 0.9, "max_image_seq_len": 8192, "shift_terminal": 0.02}
        given = {"sigmas": even, "mu": 0.5 + (length - 256) * (0.9 - 0.5) / (8192 - 256)}
    else:
        schedule = Flow(dynamic="root", base_shift=0.25, max_shift=0.75, curve="linear", grid="whole")
        own = {"use_dynamic_shifting": True, "time_shift_type": "linear"}
        whole = numpy.linspace(1000, 1.0, steps).astype(int).astype(numpy.float32)
        given = {"timesteps": whole, "sigmas": whole / 1000, "mu": (length / 256) ** 0.5 * 0.75 + 0.25}
    expected = diffusers.FlowMatchEulerDiscreteScheduler(**own)
    expected.set_timesteps(**given)
    found: Any = schedule.sampler("euler", steps, (16, 32, 48))
    assert torch.allclose(found.timesteps, expected.timesteps, rtol=1e-5)
    assert torch.allclose(found.scheduler.sigmas, expected.sigmas, atol=1e-6)
    if name == "qwen_image":
        assert float(found.scheduler.sigmas[-2]) == pytest.approx(0.02, abs=1e-6)
        bigger: Any = schedule.sampler("euler", steps, (16, 64, 48))
        assert float(bigger.scheduler.sigmas[3]) > float(found.scheduler.sigmas[3])


def test_timesteps_that_heun_cannot_use_are_refused() -> None:
    with pytest.raises(RequestError) as raised:
        Flow(dynamic="line").sampler("heun", 4, (16, 8, 8))
    assert raised.value.en.endswith("there is euler, lcm")
    assert "Heun" not in Flow(dynamic="line").names()
    assert "Heun" in Flow().names()


def test_rescaled_betas_are_those_of_the_paper_and_of_diffusers() -> None:
    from diffusers.schedulers.scheduling_ddpm import rescale_zero_terminal_snr

    plain, schedule = Ddpm(prediction="v_prediction"), Ddpm(prediction="v_prediction", zero_terminal=True)
    # Algorithm 1 of arXiv:2305.08891, on the roots of the cumulative products.
    root = plain.signal().double().sqrt()
    moved = (root - root[-1]) * root[0] / (root[0] - root[-1])
    assert torch.allclose(schedule.signal().double(), moved.square(), atol=1e-6)
    assert schedule.signal()[-1] == 0
    before = torch.cat([torch.ones(1), plain.signal()[:-1]])
    betas = rescale_zero_terminal_snr(1 - plain.signal() / before)
    assert torch.allclose(schedule.signal(), torch.cumprod(1 - betas, 0), atol=1e-4)
    x, noise, last = torch.randn(1, 2, 4, 4), torch.randn(1, 2, 4, 4), torch.tensor([999.0])
    assert torch.equal(schedule.add_noise(x, noise, last), noise)
    assert torch.equal(schedule.target(x, noise, last), -x)


@pytest.mark.parametrize("name", ["ddim", "ddpm", "euler", "dpm++", "unipc"])
def test_drawing_by_rescaled_betas_begins_with_noise_alone(name: str) -> None:
    sampler: Any = Ddpm(prediction="v_prediction", zero_terminal=True).sampler(name, 4)
    assert float(sampler.timesteps[0]) == 999
    assert float(sampler.scheduler.alphas_cumprod[-1]) < 1e-6


@pytest.mark.parametrize("name", ["pndm", "heun", "dpm-singlestep"])
def test_samplers_that_cannot_go_by_rescaled_betas_say_so(name: str) -> None:
    with pytest.raises(RequestError, match="zero_terminal"):
        Ddpm(prediction="v_prediction", zero_terminal=True).sampler(name, 4)


def test_zero_terminal_snr_refuses_noise_prediction() -> None:
    with pytest.raises(RecipeError, match="v_prediction"):
        Ddpm(zero_terminal=True)


SAID: dict[str, Any] = {
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "num_train_timesteps": 1000,
    "clip_sample": False,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "trained_betas": None,
}
XL_SAID = {**SAID, "interpolation_type": "linear", "timestep_spacing": "leading", "use_karras_sigmas": False}
#: What publishers' folders say of their scheduler: Stable Diffusion 1, XL and Kolors; HunyuanDiT's as its code does.
PUBLISHED: dict[str, tuple[Any, str, dict[str, Any]]] = {
    "sd": (sd_v1.schedule, "PNDMScheduler", SAID),
    "xl": (sdxl.schedule, "EulerDiscreteScheduler", XL_SAID),
    "kolors": (kolors_schedule, "EulerDiscreteScheduler", {**XL_SAID, "beta_end": 0.014, "num_train_timesteps": 1100}),
    "hunyuan": (
        hunyuan_noise,
        "DDPMScheduler",
        {n: v for n, v in SAID.items() if n not in ("set_alpha_to_one", "skip_prk_steps")}
        | {"beta_end": 0.018, "prediction_type": "v_prediction"},
    ),
}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("name", PUBLISHED)
def test_samplers_of_a_recipe_are_those_of_its_publishers_folder(name: str) -> None:
    """Its own, and every one by name, as diffusers' ``from_config`` makes it of what the folder says."""
    schedule, cls, said = PUBLISHED[name]
    own = getattr(diffusers, cls).from_config(said)
    # Runge-Kutta's steps are left out where nothing is said of them; diffusers itself sets the other one.
    free = {"skip_prk_steps", "lower_order_final", "_use_default_values"}
    tried = 0
    for key, sampler in SAMPLERS.items():
        other: Any = getattr(diffusers, sampler.cls)
        try:
            expected, found = other.from_config(own.config, **sampler.fixed), schedule.sampler(key, 4)
        except ImportError:  # a solver that needs a library which is not here
            continue
        known = set(other._get_init_keys(other)) & set(expected.config) - free
        assert isinstance(found, DiffusersSampler)
        made: Any = found.scheduler
        assert {n: made.config[n] for n in known} == {n: expected.config[n] for n in known}, key
        tried += 1
    assert tried > 15
