"""Rates: warm-up and laws, shares by glob; several batches a step are one larger batch."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from bimo.core.errors import RecipeError
from bimo.core.recipe import Stage
from bimo.data.loader import Pictures
from bimo.recipes.xiaomo import xiaomo
from bimo.train.denoise import Denoise
from bimo.train.loop import Run
from bimo.train.optim import optimiser, rate

STAGE = Stage(name="s", objective=Denoise(), train=("*",), steps=110, warmup=10, lr=1e-3)


@pytest.mark.parametrize(
    ("law", "middle", "last"), [("constant", 1e-3, 1e-3), ("linear", 5.5e-4, 1.09e-4), ("cosine", 5.5e-4, 1.0022e-4)]
)
def test_laws_fall_to_their_floor(law: str, middle: float, last: float) -> None:
    stage = replace(STAGE, law=law, floor=1e-4)  # type: ignore[arg-type]
    assert rate(stage, 0) == pytest.approx(1e-4)
    assert rate(stage, 9) == pytest.approx(1e-3)
    assert rate(stage, 60) == pytest.approx(middle)
    assert rate(stage, 109) == pytest.approx(last, rel=1e-3)


def test_a_polynomial_has_its_power() -> None:
    stage = replace(STAGE, law="polynomial", power=2.0, floor=1e-7)
    assert rate(stage, 60) == pytest.approx(1e-7 + (1e-3 - 1e-7) * 0.25)
    assert rate(replace(stage, power=1.0), 60) == pytest.approx(1e-7 + (1e-3 - 1e-7) * 0.5)


def test_globs_have_rates_of_their_own() -> None:
    parameters = {"text.a": nn.Parameter(torch.zeros(2, 2)), "image.b": nn.Parameter(torch.zeros(2, 2)),
                  "image.c": nn.Parameter(torch.zeros(2))}  # fmt: skip
    stage = replace(STAGE, rates=(("image.*", 2e-3), ("text.*", 5e-4)), betas=(0.9, 0.98), eps=1e-6)
    made = optimiser(stage, parameters)
    shares = {id(p): group["share"] for group in made.param_groups for p in group["params"]}
    assert shares == {id(parameters["text.a"]): 0.5, id(parameters["image.b"]): 2, id(parameters["image.c"]): 2}
    decays = {
        group["weight_decay"] for group in made.param_groups if any(p is parameters["image.c"] for p in group["params"])
    }
    assert decays == {0.0}
    assert {(*group["betas"], group["eps"]) for group in made.param_groups} == {(0.9, 0.98, 1e-6)}
    with pytest.raises(RecipeError, match="matches no parameter"):
        optimiser(replace(stage, rates=(("join.*", 1e-4),)), parameters)


def test_batches_of_a_step_add_up_to_one(tiny_shards: Path, tmp_path: Path) -> None:
    tiny = xiaomo.tiny()
    stage = replace(tiny.stages[2], steps=1, drop_text=0.0, clip=0.0, lr=1e-2, ema=0.0)
    grads = []
    for batch, accumulate in ((8, 1), (4, 2)):
        one = replace(stage, batch=batch, accumulate=accumulate)
        run = Run(replace(tiny, stages=(one,), prompts=()), Pictures(tiny_shards), tmp_path / str(batch))
        run._words()
        learning = run._learning(one, None)
        first = learning.lessons.order.lots_of(0)
        rows = [lot for number in range(accumulate) for lot in learning.lessons.order.lots_of(number)]
        if batch == 4:
            assert first == rows[:4]
        # One caption a row, so that both choose the same.
        pictures = learning.lessons.pictures
        learning.lessons.pictures = pictures.of(pictures.lots, [captions[:1] for captions in pictures.captions])
        loss, _ = run._step(one, learning)
        grads.append((loss, {name: p.grad for name, p in learning.parameters.items() if p.grad is not None}))
    assert grads[0][0] == pytest.approx(grads[1][0], rel=1e-4)
    assert grads[0][1].keys() == grads[1][1].keys()
    for name, value in grads[0][1].items():
        assert torch.allclose(value, grads[1][1][name], atol=1e-5, rtol=1e-3), name
