"""Optimisers by name: of the library every one goes on to the bit or is refused; rates are diffusers'."""

from __future__ import annotations

import io
import warnings
from dataclasses import replace
from typing import Any

import pytest
import pytorch_optimizer
import torch
from diffusers.optimization import get_scheduler
from torch import nn

from bimo.core.errors import RecipeError
from bimo.core.recipe import Stage
from bimo.training.lr_schedules import rate
from bimo.training.objectives.denoise import Denoise
from bimo.training.optimizer_classes import BY_PARAMETER, EIGHT_BIT, UNUSABLE, check_optimiser, optimizer_class
from bimo.training.optimizers import optimiser

STAGE = Stage(name="s", objective=Denoise(), train=("*",), lr=1e-3, steps=40, warmup=4)
LIBRARY = sorted(pytorch_optimizer.get_supported_optimizers())
#: They find their rate, from a very small one on: some steps move nothing.
SLOW = ("adafactor", "dadapt", "magma", "prodigy", "radam", "sara", "schedulefreeradam")


def module() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.Conv2d(1, 4, 3), nn.LayerNorm(8))


def learn(made: torch.optim.Optimizer, learning: nn.Module, steps: range) -> None:
    for step in steps:
        generator = torch.Generator().manual_seed(step)
        for parameter in learning.parameters():
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        torch.manual_seed(step)
        made.step()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", [name for name in LIBRARY if name not in UNUSABLE])
def test_every_library_optimizer_resumes_exactly(name: str) -> None:
    whole, stage = module(), replace(STAGE, optimiser=name)
    made = optimiser(stage, dict(whole.named_parameters()))
    before = [parameter.detach().clone() for parameter in whole.parameters()]
    learn(made, whole, range(3))
    file = io.BytesIO()
    torch.save((whole.state_dict(), made.state_dict()), file)
    learn(made, whole, range(3, 6))
    for parameter, old in zip(whole.parameters(), before, strict=True):
        assert parameter.isfinite().all()
        assert name.startswith(SLOW) or not torch.equal(parameter, old)
    file.seek(0)
    weights, state = torch.load(file, weights_only=True)
    stopped = module()
    stopped.load_state_dict(weights)
    again = optimiser(stage, dict(stopped.named_parameters()))
    again.load_state_dict(state)
    learn(again, stopped, range(3, 6))
    for name_, parameter in stopped.named_parameters():
        assert torch.equal(parameter, whole.get_parameter(name_)), name_


@pytest.mark.parametrize("name", UNUSABLE)
def test_what_cannot_be_used_is_refused(name: str) -> None:
    assert name in LIBRARY
    with pytest.raises(RecipeError, match="is not used here"):
        check_optimiser(replace(STAGE, optimiser=name))


@pytest.mark.parametrize("name", ["AdamWScheduleFree", "Prodigy", "DAdaptation", "Lion", "torch.optim:NAdam"])
def test_names_of_trainers_and_classes_of_ones_own(name: str) -> None:
    check_optimiser(replace(STAGE, optimiser=name))
    learning = module()
    learn(optimiser(replace(STAGE, optimiser=name), dict(learning.named_parameters())), learning, range(2))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"optimiser": "lyon"}, "nearest are lion"),
        ({"optimiser": "torch.optim:Adamant"}, "subclass of torch.optim.Optimizer"),
        ({"optimiser": "json:loads"}, "subclass of torch.optim.Optimizer"),
        ({"optimiser": "lion", "betas": (0.5, 0.9)}, "optimiser_args"),
        ({"optimiser": "prodigy", "lr_overrides": (("*", 0.5),)}, "one rate"),
        ({"optimiser": "schedulefreeadamw", "ema": 0.99}, "let ema be 0"),
    ],
)
def test_settings_that_would_do_nothing_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        check_optimiser(replace(STAGE, **fields))


def test_arguments_reach_the_class_and_wrong_ones_are_named() -> None:
    parameters = dict(module().named_parameters())
    made = optimiser(replace(STAGE, optimiser="lion", optimiser_args={"betas": (0.8, 0.9)}), parameters)
    assert {group["betas"] for group in made.param_groups} == {(0.8, 0.9)}
    assert optimiser(replace(STAGE, optimiser_args={"amsgrad": True}), parameters).param_groups[0]["amsgrad"]
    for name in ("adamw", "adafactor", "muon"):
        with pytest.raises(RecipeError, match="optimiser_args"):
            optimiser(replace(STAGE, optimiser=name, optimiser_args={"momenta": 1}), parameters)


@pytest.mark.skipif(torch.cuda.is_available(), reason="where there is CUDA they are used")
@pytest.mark.parametrize("name", EIGHT_BIT)
def test_eight_bits_are_for_cuda(name: str) -> None:
    with pytest.raises(RecipeError, match="on CUDA alone"):
        optimizer_class(replace(STAGE, optimiser=name))


@pytest.mark.parametrize("name", [name for name in BY_PARAMETER if name not in EIGHT_BIT])
def test_a_step_in_the_backward_pass_is_the_same_step(name: str) -> None:
    """For those that may take it: one optimiser a parameter is one for all, to the bit."""
    learnt: list[list[torch.Tensor]] = []
    for fused in (False, True):
        learning = module()
        stage = replace(STAGE, optimiser=name, fused_backward=fused, max_grad_norm=0.0)
        made = optimiser(stage, dict(learning.named_parameters()))
        learn(made, learning, range(3))
        learnt.append([parameter.detach() for parameter in learning.parameters()])
    assert all(torch.equal(one, other) for one, other in zip(*learnt, strict=True))


@pytest.mark.parametrize(
    ("schedule", "told", "options"),
    [
        ("constant_with_warmup", {"lr_schedule": "constant"}, {}),
        ("linear", {"lr_schedule": "linear"}, {}),
        ("cosine", {"lr_schedule": "cosine"}, {}),
        ("cosine_with_restarts", {"lr_schedule": "cosine_with_restarts", "lr_cycles": 3}, {"num_cycles": 3}),
        ("polynomial", {"lr_schedule": "polynomial", "power": 2.0, "floor": 1e-7}, {"power": 2.0}),
        (
            "piecewise_constant",
            {"lr_schedule": "piecewise_constant", "lr_pieces": ((10, 1.0), (20, 0.1), (21, 0.01)), "warmup": 0},
            {"step_rules": "1:10,0.1:20,0.01"},
        ),
    ],
)
def test_rates_are_those_of_diffusers(schedule: str, told: dict[str, Any], options: dict[str, Any]) -> None:
    stage = replace(STAGE, **told)
    theirs = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=stage.lr)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        steps = {} if schedule == "piecewise_constant" else {"num_warmup_steps": stage.warmup}
        scheduler = get_scheduler(schedule, theirs, num_training_steps=stage.steps, **steps, **options)
        for step in range(stage.steps):
            # They begin to warm up from 0, which is no step at all.
            if step >= stage.warmup:
                assert rate(stage, step) == pytest.approx(scheduler.get_last_lr()[0], rel=1e-9, abs=1e-15), step
            scheduler.step()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"lr_cycles": 0}, "lr_cycles"),
        ({"lr_cycles": 2}, "cosine_with_restarts"),
        ({"lr_schedule": "piecewise_constant"}, "lr_pieces"),
        ({"lr_pieces": ((5, 1.0),)}, "lr_pieces"),
        ({"lr_schedule": "piecewise_constant", "lr_pieces": ((5, 1.0), (3, 0.1))}, "rising"),
        ({"fused_backward": True}, "max_grad_norm=0"),
        ({"fused_backward": True, "max_grad_norm": 0.0, "accumulate": 2}, "accumulate=1"),
    ],
)
def test_invalid_values_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        replace(STAGE, **fields)
