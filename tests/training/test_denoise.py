"""The denoising error: its weights, the range of an expert, a learnt variance, crops."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from diffusers.training_utils import compute_density_for_timestep_sampling, compute_loss_weighting_for_sd3
from torch import Tensor
from torch.nn import functional

from bimo.core.errors import RecipeError
from bimo.core.recipe import Level, Recipe, Stage
from bimo.core.tensors import Batch, Conditioning, DenoiserInput
from bimo.diffusion.conditioning import merge_conditioning
from bimo.diffusion.schedules.ddpm import Ddpm
from bimo.diffusion.schedules.flow import Flow
from bimo.diffusion.schedules.single_step import SingleStepRegression
from bimo.training.objectives.denoise import Denoise, Question
from bimo.training.objectives.error_weights import huber_c, signal_to_noise, squared_or_huber
from bimo.training.objectives.flow_times import FlowTimes, drawn_shift
from bimo.training.objectives.noise import multires_noise
from bimo.training.train_inputs import TrainInputs, Vocabulary


@dataclass
class Seen:
    """A hint that keeps what it was shown."""

    batch: Batch | None = None

    def learned(self, system: Any, batch: Batch) -> Conditioning:
        self.batch = batch
        return Conditioning()


class Fake:
    """As much of a system as an objective asks of one, with a function as its denoiser."""

    def __init__(self, schedule: Any, answer: Callable[[DenoiserInput], Tensor]) -> None:
        self.schedule, self.answer = schedule, answer
        self.hints = (Seen(),)
        self.recipe = Level(name="image", space="image", denoiser=Ddpm(), schedule=schedule)
        self.asks: list[DenoiserInput] = []

    def level(self, name: str) -> Fake:
        return self

    def conditions_of(self, system: Any, batch: Batch) -> list[Conditioning]:
        return [conditioner.learned(system, batch) for conditioner in self.hints]

    def condition(self, encodings: Any, conditioners: Any) -> Conditioning:
        return merge_conditioning(Conditioning(), conditioners)

    def denoise(self, denoiser_input: DenoiserInput) -> Tensor:
        self.asks.append(denoiser_input)
        return self.answer(denoiser_input)


def train_inputs(system: Fake, x: Tensor, pixels: Tensor | None = None) -> TrainInputs:
    generator = torch.Generator().manual_seed(1)
    batch = Batch(x, (), {}, torch.zeros(len(x), dtype=torch.bool), generator, pixels)
    stage = Stage(name="s", objective=Denoise(), train=("*",), level="image")
    return TrainInputs(system, stage, None, [], Vocabulary(), generator, batch=batch)  # type: ignore[arg-type]


def zeros(denoiser_input: DenoiserInput) -> Tensor:
    return torch.zeros_like(denoiser_input.x)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_min_snr_weights_are_equal_for_every_prediction_type(prediction: Any) -> None:
    # Of whatever is predicted the error of x is the error times a factor: weighted they must be equal.
    schedule = Ddpm(prediction=prediction)
    torch.manual_seed(0)
    x, noise, off = torch.randn(3, 6, 2, 4, 4)
    t = torch.tensor([0.0, 3.0, 100.0, 500.0, 900.0, 999.0])
    objective = Denoise(snr=5.0)
    answer = schedule.target(x, noise, t) + off
    system = Fake(schedule, lambda denoiser_input: answer)
    question = replace_question(objective, system, x, noise, t)
    found = objective.errors(question, answer)
    clean = schedule.clean(answer, schedule.add_noise(x, noise, t), t)
    a = schedule.signal()[t.long()]
    expected = (clean - x).square().flatten(1).mean(1) * (a / (1 - a)).clamp(max=5.0)
    assert torch.allclose(found, expected, rtol=2e-3)


def replace_question(objective: Denoise, system: Fake, x: Tensor, noise: Tensor, t: Tensor) -> Any:
    question = objective.question(train_inputs(system, x), "image")
    return replace(
        question,
        noise=noise,
        denoiser_input=DenoiserInput("image", system.schedule.add_noise(x, noise, t), t, Conditioning()),
    )


@pytest.mark.parametrize("asked", [{"snr": 5.0}, {"debiased": True}, {"loss_type": "huber"}])
def test_a_loss_weight_needs_a_schedule_that_defines_it(asked: dict[str, Any]) -> None:
    with pytest.raises(RecipeError, match="not for SingleStepRegression"):
        Denoise(**asked).check(SingleStepRegression())


@pytest.mark.parametrize("schedule", [Ddpm(prediction=p) for p in ("epsilon", "sample", "v_prediction")] + [Flow()])
@pytest.mark.parametrize("asked", [{"snr": 5.0}, {"debiased": True}])
def test_a_loss_weight_is_on_the_error_of_x_for_every_prediction_type(schedule: Any, asked: dict[str, Any]) -> None:
    """An answer that is off by as much of x has the error of x times min(snr, gamma), or times sqrt(snr)."""
    torch.manual_seed(0)
    x, noise, off = torch.randn(5, 2, 4, 4), torch.randn(5, 2, 4, 4), torch.randn(5, 2, 4, 4)
    t = torch.tensor([5.0, 100.0, 400.0, 700.0, 990.0])
    noised = schedule.add_noise(x, noise, t)
    snr = signal_to_noise(schedule, t)
    wrong = x + off
    # The answer that means ``wrong`` at x_t.
    if isinstance(schedule, Flow):
        other = (noised - wrong) / (t / 1000)[:, None, None, None]
    else:
        a = schedule.signal()[t.long()][:, None, None, None]
        as_noise = (noised - a.sqrt() * wrong) / (1 - a).sqrt()
        other = {
            "epsilon": as_noise,
            "sample": wrong,
            "v_prediction": a.sqrt() * as_noise - (1 - a).sqrt() * wrong,
        }[schedule.prediction]
    objective = Denoise(**asked)
    question = Question(schedule, DenoiserInput("image", noised, t, Conditioning()), x, noise)
    wanted = snr.clamp(max=5.0) if asked.get("snr") else snr / snr.clamp(max=1000.0).sqrt()
    torch.testing.assert_close(
        objective.errors(question, other), wanted * off.square().flatten(1).mean(1), rtol=2e-3, atol=1e-5
    )


def test_huber_is_square_near_and_straight_far() -> None:
    near, far, c = torch.full((1, 1), 1e-3), torch.full((1, 1), 100.0), torch.tensor([0.1])
    assert squared_or_huber(near, "huber", c).item() == pytest.approx(
        1e-6, rel=5e-3
    )  # a difference of float32 numbers 0.1
    assert squared_or_huber(near, "smooth_l1", c).item() == pytest.approx(1e-5, rel=5e-3)
    assert squared_or_huber(far, "huber", c).item() == pytest.approx(2 * 0.1 * (100 - 0.1), rel=1e-4)
    assert squared_or_huber(far, "smooth_l1", c).item() == pytest.approx(2 * (100 - 0.1), rel=1e-4)


def test_huber_delta_depends_on_the_timestep() -> None:
    t = torch.tensor([0.0, 500.0, 999.0])
    schedule = Ddpm()
    assert huber_c(schedule, t, 0.1, "constant").tolist() == pytest.approx([0.1] * 3)
    assert huber_c(schedule, t, 0.1, "exponential").tolist() == pytest.approx([1.0, 0.1**0.5, 0.1**0.999])
    by_ratio = huber_c(schedule, t, 0.1, "snr")
    sigma = ((1 - schedule.signal()) / schedule.signal()).sqrt()[t.long()]
    assert by_ratio.tolist() == pytest.approx((0.9 / (1 + sigma) ** 2 + 0.1).tolist(), rel=1e-4)


@pytest.mark.parametrize("weight", ["none", "sigma_sqrt", "cosmap"])
def test_weights_of_a_flow_are_those_of_diffusers(weight: Any) -> None:
    s = torch.tensor([0.05, 0.3, 0.9])
    theirs = compute_loss_weighting_for_sd3(weight, s)
    torch.testing.assert_close(FlowTimes(weight=weight).weights(Flow(), s * 1000), theirs)


@pytest.mark.parametrize("density", ["logit_normal", "mode", "uniform"])
def test_times_of_a_flow_are_those_of_diffusers(density: Any) -> None:
    scheme = "none" if density == "uniform" else density
    times = FlowTimes(density=density, mean=0.2, std=0.8, scale=1.1)
    ours = times.timesteps(Flow(), (4, 8, 8), 64, torch.Generator().manual_seed(3)) / 1000
    theirs = compute_density_for_timestep_sampling(
        scheme, 64, logit_mean=0.2, logit_std=0.8, mode_scale=1.1, generator=torch.Generator().manual_seed(3)
    )
    torch.testing.assert_close(ours, theirs)


def test_times_are_moved_as_drawing_moves_them() -> None:
    even = Flow(dynamic="line", config={})
    for schedule, shape in ((Flow(shift=3.0), (4, 8, 8)), (even, (16, 128, 128))):
        a = drawn_shift(schedule, shape)
        times = FlowTimes(density="uniform", shift=0.0)
        s = torch.rand(8, generator=torch.Generator().manual_seed(1))
        moved = times.timesteps(schedule, shape, 8, torch.Generator().manual_seed(1)) / 1000
        torch.testing.assert_close(moved, a * s / (1 + (a - 1) * s))
    assert drawn_shift(even, (16, 128, 128)) == pytest.approx(math.exp(1.15))  # of 4096 patches: max_shift
    with pytest.raises(RecipeError, match="times of a Flow"):
        Denoise(flow=FlowTimes()).check(Ddpm())


def test_a_mask_leaves_the_error_of_what_it_shows() -> None:
    system = Fake(Flow(), lambda denoiser_input: torch.zeros_like(denoiser_input.x))
    inputs = train_inputs(system, torch.zeros(2, 1, 4, 4))
    left = torch.full((2, 3, 32, 32), -1.0)
    left[..., :16] = 1.0
    batch = replace(inputs.batch, maps={"mask": left})  # type: ignore[type-var]
    noise = Denoise(mask="mask").question(replace(inputs, batch=batch), "image").noise
    for outside, weights in ((0.0, (1.0, 0.0)), (0.25, (1.0, 0.25))):
        batch.generator.manual_seed(1)
        loss = Denoise(mask="mask", outside=outside).loss(replace(inputs, batch=batch))
        batch.generator.manual_seed(1)
        noise = Denoise().question(replace(inputs, batch=batch), "image").noise.square()
        halves = noise[..., :2].mean(), noise[..., 2:].mean()
        wanted = sum(w * half for w, half in zip(weights, halves, strict=True)) / sum(weights)
        assert loss.item() == pytest.approx(wanted.item(), rel=1e-5)


def test_noise_of_many_sizes_has_a_deviation_of_one_and_is_smoother() -> None:
    generator = torch.Generator().manual_seed(0)
    plain = torch.randn(2, 4, 32, 32, generator=generator)
    made = multires_noise(plain, 5, 0.6, generator)
    assert made.std() == pytest.approx(1.0)
    means = [noise.unflatten(2, (4, 8)).unflatten(4, (4, 8)).mean((3, 5)).std() for noise in (plain, made)]
    assert means[1] > 2 * means[0]


def test_input_perturbation_changes_the_input_and_not_the_target() -> None:
    questions = []
    for perturbation in (0.0, 0.5):
        system = Fake(Flow(), zeros)
        inputs = train_inputs(system, torch.zeros(64, 1, 4, 4))
        questions.append(Denoise(perturbation=perturbation).question(inputs, "image"))
    plain, other = questions
    assert torch.equal(plain.noise, other.noise)
    added = (other.denoiser_input.x - plain.denoiser_input.x) / (plain.denoiser_input.t / 1000)[:, None, None, None]
    assert added.std().item() == pytest.approx(0.5, rel=0.1)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"snr": 5.0, "debiased": True}, "two weights"),
        ({"perturbation": -0.1}, "perturbation"),
        ({"multires": 99}, "multires"),
        ({"huber_c": 0.0}, "huber_c"),
        ({"outside": 2.0}, "outside"),
    ],
)
def test_invalid_values_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        Denoise(**fields)


def test_the_default_loss_is_the_mean_squared_error() -> None:
    system = Fake(Flow(), zeros)
    x = torch.randn(5, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    loss = Denoise().loss(train_inputs(system, x))
    denoiser_input = system.asks[0]
    noise = (denoiser_input.x - x * (1 - denoiser_input.t / 1000)[:, None, None, None]) / (denoiser_input.t / 1000)[
        :, None, None, None
    ]
    assert torch.allclose(loss, functional.mse_loss(torch.zeros_like(x), noise - x), rtol=1e-3)


@pytest.mark.parametrize("times", [(500.0, 1000.0), (0.0, 500.0)])
@pytest.mark.parametrize("schedule", [Ddpm(), Flow()], ids=["ddpm", "flow"])
def test_a_range_of_times_limits_the_sampled_timesteps(schedule: Any, times: tuple[float, float]) -> None:
    system = Fake(schedule, zeros)
    Denoise(times=times).loss(train_inputs(system, torch.zeros(64, 1, 2, 2)))
    t = system.asks[0].t
    assert t.min() >= times[0]
    assert t.max() < times[1]
    assert t.unique().numel() > 30


def test_an_empty_range_of_times_is_refused() -> None:
    with pytest.raises(RecipeError, match="times"):
        Denoise(times=(2000.0, 3000.0)).loss(train_inputs(Fake(Ddpm(), zeros), torch.zeros(2, 1, 2, 2)))


def test_a_learnt_variance_has_its_term_and_no_hold_of_the_mean() -> None:
    schedule = Ddpm(variance="learned_range")
    parameter = torch.randn(4, 4, 4, 4, generator=torch.Generator().manual_seed(0)).requires_grad_()
    x = torch.rand(4, 2, 4, 4, generator=torch.Generator().manual_seed(2)) * 2 - 1

    def gradient(weight: float) -> Tensor:
        parameter.grad = None
        Denoise(variance=weight).loss(train_inputs(Fake(schedule, lambda denoiser_input: parameter), x)).backward()
        assert parameter.grad is not None
        return parameter.grad

    without, with_it = gradient(0.0), gradient(0.001)
    assert torch.equal(without[:, :2], with_it[:, :2])
    assert not without[:, 2:].any()
    assert with_it[:, 2:].abs().min() > 0


def test_of_a_fixed_variance_the_second_half_learns_nothing() -> None:
    parameter = torch.randn(4, 4, 4, 4).requires_grad_()
    Denoise().loss(train_inputs(Fake(Ddpm(), lambda denoiser_input: parameter), torch.zeros(4, 2, 4, 4))).backward()
    assert parameter.grad is not None
    assert not parameter.grad[:, 2:].any()


def test_crops_cut_x_and_its_pixels_at_one_place() -> None:
    system = Fake(Flow(), zeros)
    x = torch.arange(16.0).reshape(1, 1, 4, 4).expand(2, 1, 4, 4).contiguous()
    pixels = x.repeat_interleave(8, 2).repeat_interleave(8, 3).expand(2, 3, 32, 32)
    sides = set()
    for seed in range(12):
        one = train_inputs(system, x, pixels)
        one.generator.manual_seed(seed)
        Denoise(crops=(2, 3)).loss(one)
        seen = system.hints[0].batch
        assert seen is not None
        assert seen.pixels is not None
        sides.add(seen.x.shape[2])
        assert seen.x.shape[2] == seen.x.shape[3] == system.asks[-1].x.shape[2]
        assert torch.equal(seen.pixels[:, :1, ::8, ::8], seen.x)
    assert sides == {2, 3}
    with pytest.raises(RecipeError, match="crops"):
        Denoise(crops=(5,)).loss(train_inputs(system, x))


def test_rows_of_a_group_have_one_time_and_noise() -> None:
    system = Fake(Flow(), zeros)
    question = Denoise().question(train_inputs(system, torch.zeros(6, 1, 2, 2)), "image", group=2)
    assert torch.equal(question.denoiser_input.t[0::2], question.denoiser_input.t[1::2])
    assert torch.equal(question.noise[0::2], question.noise[1::2])
    assert question.denoiser_input.t.unique().numel() == 3


def test_offset_noise_moves_whole_channels() -> None:
    plain, moved = (
        Denoise(offset=offset).question(train_inputs(Fake(Flow(), zeros), torch.zeros(2000, 3, 4, 4)), "image").noise
        for offset in (0.0, 0.5)
    )
    # The variance of a channel's mean is that of the mean of 16 numbers, and besides it the offset's.
    assert plain.mean((2, 3)).var() == pytest.approx(1 / 16, rel=0.1)
    assert moved.mean((2, 3)).var() == pytest.approx(1 / 16 + 0.25, rel=0.1)
    assert (moved - plain).std((2, 3)).max() < 1e-6
    question = Denoise(offset=0.5).question(train_inputs(Fake(Ddpm(), zeros), torch.zeros(4, 3, 4, 4)), "image")
    assert torch.equal(Ddpm().target(question.x, question.noise, question.denoiser_input.t), question.noise)


def test_recipes_name_their_levels() -> None:
    level = Level(name="image", space="image", denoiser=Ddpm(), schedule=Ddpm())
    with pytest.raises(RecipeError):
        Recipe(name="r", levels=(level,), stages=(Stage(name="s", objective=Denoise(), train=("*",), level="imago"),))
