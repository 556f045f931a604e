"""Rates: warm-up and laws, shares by glob; several batches a step are one larger batch."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch
import torch.utils.checkpoint
from torch import nn

from bimo.core import checkpoint_io
from bimo.core.errors import RecipeError, TrainingError
from bimo.core.files import write_whole
from bimo.core.part import dumps
from bimo.core.recipe import Recipe, Stage
from bimo.data.loader import Pictures
from bimo.recipes.taiyi_sd import taiyi_zh
from bimo.training.lr_schedules import rate
from bimo.training.objectives.denoise import Denoise
from bimo.training.optimizers import optimiser
from bimo.training.run_state import read_state
from bimo.training.snapshots import averaged
from bimo.training.trainer import StageTrainer, Trainer, train
from bimo.xiaomo.recipe import xiaomo
from tests.support.steps import stepped
from tests.support.tiny_checkpoints import bert_words

STAGE = Stage(name="s", objective=Denoise(), train=("*",), steps=110, warmup=10, lr=1e-3)


@pytest.mark.parametrize(
    ("schedule", "middle", "last"),
    [("constant", 1e-3, 1e-3), ("linear", 5.5e-4, 1.09e-4), ("cosine", 5.5e-4, 1.0022e-4)],
)
def test_lr_schedules_decay_to_their_floor(schedule: str, middle: float, last: float) -> None:
    stage = replace(STAGE, lr_schedule=schedule, floor=1e-4)  # type: ignore[arg-type]
    assert rate(stage, 0) == pytest.approx(1e-4)
    assert rate(stage, 9) == pytest.approx(1e-3)
    assert rate(stage, 60) == pytest.approx(middle)
    assert rate(stage, 109) == pytest.approx(last, rel=1e-3)


def test_a_polynomial_has_its_power() -> None:
    stage = replace(STAGE, lr_schedule="polynomial", power=2.0, floor=1e-7)
    assert rate(stage, 60) == pytest.approx(1e-7 + (1e-3 - 1e-7) * 0.25)
    assert rate(replace(stage, power=1.0), 60) == pytest.approx(1e-7 + (1e-3 - 1e-7) * 0.5)


def test_globs_have_rates_of_their_own() -> None:
    parameters = {"text.a": nn.Parameter(torch.zeros(2, 2)), "image.b": nn.Parameter(torch.zeros(2, 2)),
                  "image.c": nn.Parameter(torch.zeros(2))}  # fmt: skip
    stage = replace(STAGE, lr_overrides=(("image.*", 2e-3), ("text.*", 5e-4)), betas=(0.9, 0.98), eps=1e-6)
    made = optimiser(stage, parameters)
    shares = {id(p): group["share"] for group in made.param_groups for p in group["params"]}
    assert shares == {id(parameters["text.a"]): 0.5, id(parameters["image.b"]): 2, id(parameters["image.c"]): 2}
    decays = {
        group["weight_decay"] for group in made.param_groups if any(p is parameters["image.c"] for p in group["params"])
    }
    assert decays == {0.0}
    assert {(*group["betas"], group["eps"]) for group in made.param_groups} == {(0.9, 0.98, 1e-6)}
    with pytest.raises(RecipeError, match="matches no parameter"):
        optimiser(replace(stage, lr_overrides=(("join.*", 1e-4),)), parameters)


def test_batches_of_a_step_add_up_to_one(tiny_shards: Path, tmp_path: Path) -> None:
    tiny = xiaomo.tiny()
    stage = replace(tiny.stages[2], steps=1, caption_dropout=0.0, max_grad_norm=0.0, lr=1e-2, ema=0.0)
    grads = []
    for batch, accumulate in ((8, 1), (4, 2)):
        one = replace(stage, batch=batch, accumulate=accumulate)
        run = Trainer(replace(tiny, stages=(one,), prompts=()), Pictures(tiny_shards), tmp_path / str(batch))
        run._words()
        learning = run._stage_trainer(one, None)
        first = learning.batches.order.groups_of(0)
        rows = [group for number in range(accumulate) for group in learning.batches.order.groups_of(number)]
        if batch == 4:
            assert first == rows[:4]
        # One caption a row, so that both choose the same.
        pictures = learning.batches.pictures
        learning.batches.pictures = pictures.of(pictures.groups, [captions[:1] for captions in pictures.captions])
        loss = stepped(run, one, learning)
        grads.append((loss, {name: p.grad for name, p in learning.parameters.items() if p.grad is not None}))
    assert grads[0][0] == pytest.approx(grads[1][0], rel=1e-4)
    assert grads[0][1].keys() == grads[1][1].keys()
    for name, value in grads[0][1].items():
        assert torch.allclose(value, grads[1][1][name], atol=1e-5, rtol=1e-3), name


def begun(
    shards: Path, out: Path, recipe: Recipe = xiaomo, number: int = 2, **fields: Any
) -> tuple[Trainer, StageTrainer]:
    """A run of one stage of a recipe at toy width, ready for its first step."""
    torch.set_num_threads(1)
    tiny = recipe.tiny()
    stage = replace(tiny.stages[number], **{"batch": 4, "max_grad_norm": 0.0, "ema": 0.0, "max_unknown": 1.0, **fields})
    words = tuple(replace(cast(Any, part), vocab=80, positions=24, length=24) for part in tiny.text_encoders)
    text = words if recipe is taiyi_zh else tiny.text_encoders
    run = Trainer(replace(tiny, text_encoders=text, stages=(stage,), prompts=()), Pictures(shards), out)
    if recipe is taiyi_zh:
        bert_words(out / "words.0")
    run._words()
    learning = run._stage_trainer(stage, None)
    run._modes()
    return run, learning


@pytest.mark.slow
def test_adafactor_learns_and_keeps_less(tiny_shards: Path, tmp_path: Path) -> None:
    kept = {}
    for name in ("adamw", "adafactor"):
        run, learning = begun(tiny_shards, tmp_path / name, optimiser=name, lr=1e-2)
        stage = run.recipe.stages[0]
        losses = []
        for _ in range(20):
            run.place.step = 0
            losses.append(stepped(run, stage, learning))
        assert losses[-1] < losses[0]
        state = learning.optimiser.state_dict()["state"].values()
        kept[name] = sum(v.numel() for row in state for v in row.values() if isinstance(v, torch.Tensor))
    assert kept["adafactor"] < 0.5 * kept["adamw"]


def test_the_step_of_a_matrix_is_orthogonal_and_of_the_size_of_adamws() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Embedding(5, 16), nn.Linear(16, 48), nn.Conv1d(1, 2, 3))
    parameters = dict(module.named_parameters())
    parameters["embeddings.weight"] = parameters.pop("0.weight")
    stage = replace(xiaomo.stages[0], optimiser="muon", lr=0.01, weight_decay=0.0, lr_overrides=(("1.*", 0.02),))
    made = optimiser(stage, parameters)
    copies = {name: nn.Parameter(p.detach().clone()) for name, p in parameters.items()}
    alone = optimiser(replace(stage, optimiser="adamw"), copies)
    assert sorted(g["share"] for g in made.param_groups) == sorted([*(g["share"] for g in alone.param_groups)])
    before = {name: p.detach().clone() for name, p in parameters.items()}
    gradient = {name: torch.randn_like(p) for name, p in parameters.items()}
    for each in (made, alone):
        for group in each.param_groups:
            group["lr"] = stage.lr * group["share"]
    by_size = {p.shape: name for name, p in parameters.items()}
    for each in (made, alone):
        for group in each.param_groups:
            for p in group["params"]:
                p.grad = gradient[by_size[p.shape]].clone()
        each.step()
    steps = {name: p.detach() - before[name] for name, p in parameters.items()}
    values = torch.linalg.svdvals(steps["1.weight"])
    assert values.max() < 2 * values.min()
    assert steps["1.weight"].square().mean().sqrt() == pytest.approx(0.2 * 0.02, rel=0.25)
    for group in alone.param_groups:
        for p in group["params"]:
            name = by_size[p.shape]
            if name != "1.weight":
                torch.testing.assert_close(p.detach() - before[name], steps[name])


def test_a_kernel_is_the_matrix_of_its_rows() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 1))
    stage = replace(xiaomo.stages[0], optimiser="muon", lr=0.01, optimiser_args={"convolutions": True, "momentum": 0.9})
    flat = {name: nn.Parameter(p.detach().clone().flatten(1)) for name, p in module.named_parameters() if p.ndim == 4}
    expected = torch.optim.Muon(
        [{"params": [p], "weight_decay": stage.weight_decay} for p in flat.values()],
        lr=0.01, momentum=0.9, adjust_lr_fn="match_rms_adamw",
    )  # fmt: skip
    made = optimiser(stage, dict(module.named_parameters()))
    for _ in range(3):  # the momentum is kept
        for name, parameter in module.named_parameters():
            parameter.grad = torch.randn_like(parameter)
            if name in flat:
                flat[name].grad = parameter.grad.flatten(1)
        made.step()
        expected.step()
    for name, parameter in flat.items():
        torch.testing.assert_close(module.get_parameter(name).flatten(1), parameter, rtol=0, atol=0)
    # Without a matrix there would be AdamW alone, whatever optimiser_args say.
    nothing: dict[str, Any] = {}
    for settings in (nothing, {"momentum": 0.9}):
        with pytest.raises(RecipeError, match="adamw"):
            optimiser(replace(stage, optimiser_args=settings), dict(module.named_parameters()))
    with pytest.raises(RecipeError, match="kernels"):
        optimiser(
            replace(stage, optimiser_args={"kernels": True}),
            dict(module.named_parameters()) | {"2.weight": nn.Parameter(torch.ones(2, 2))},
        )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "options"), [("adafactor", {}), ("muon", {}), ("muon", {"convolutions": True})], ids=str
)
def test_another_optimiser_goes_on_exactly(
    name: Any, options: dict[str, Any], tiny_shards: Path, tmp_path: Path
) -> None:
    tiny = xiaomo.tiny()
    stage = replace(tiny.stages[2], steps=4, batch=4, optimiser=name, optimiser_args=options)
    wanted = replace(tiny, stages=(stage,), prompts=())
    whole = train(wanted, tiny_shards, tmp_path / "whole", threads=1)
    for _ in range(5):
        train(wanted, tiny_shards, tmp_path / "run", threads=1, stop_after=0.0)
    assert (tmp_path / "run" / "weights.safetensors").read_bytes() == (whole / "weights.safetensors").read_bytes()


def test_bf16_is_for_products_alone(tiny_shards: Path, tmp_path: Path) -> None:
    losses, seen = {}, set()
    for precision in ("fp32", "bf16"):
        run, learning = begun(tiny_shards, tmp_path / precision, precision=precision)
        linear = next(m for m in run.system.text.modules() if isinstance(m, nn.Linear))
        linear.register_forward_hook(lambda module, given, answer: seen.add(answer.dtype))
        losses[precision] = stepped(run, run.recipe.stages[0], learning)
        for parameter in learning.parameters.values():
            assert parameter.dtype == torch.float32
            assert parameter.grad is None or parameter.grad.dtype == torch.float32
        state = learning.optimiser.state_dict()["state"].values()
        assert {v.dtype for row in state for v in row.values()} == {torch.float32}
    assert seen == {torch.float32, torch.bfloat16}
    assert losses["bf16"] == pytest.approx(losses["fp32"], rel=0.05)
    assert losses["bf16"] != losses["fp32"]


def test_what_is_encoded_once_is_so_in_whole_numbers(tiny_shards: Path, tmp_path: Path) -> None:
    found = []
    for precision in ("fp32", "bf16"):
        run, learning = begun(
            tiny_shards, tmp_path / precision, number=4, precision=precision, caption_dropout=0.0, steps=9
        )
        run._step(run.recipe.stages[0], learning)
        batch = learning.batches.inputs(0, torch.Generator().manual_seed(0)).batch
        assert batch is not None
        found.append((batch.x, batch.encodings[0].tokens))
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)


def test_fp16_is_refused_on_a_processor(tiny_shards: Path, tmp_path: Path) -> None:
    run, learning = begun(tiny_shards, tmp_path, precision="fp16")
    with pytest.raises(TrainingError, match="bf16"):
        run._step(run.recipe.stages[0], learning)


def test_checkpointed_gradients_are_the_same(
    tiny_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grads, calls = [], Counter()
    checkpoint = torch.utils.checkpoint.checkpoint
    for on in (False, True):

        def counting(*args: Any, on: bool = on, **settings: Any) -> Any:
            calls[on] += 1
            return checkpoint(*args, **settings)

        monkeypatch.setattr(torch.utils.checkpoint, "checkpoint", counting)
        run, learning = begun(tiny_shards, tmp_path / str(on), taiyi_zh, -1, gradient_checkpointing=on, lr=0.0)
        run._step(run.recipe.stages[0], learning)
        grads.append({name: p.grad for name, p in learning.parameters.items()})
    assert not calls[False]
    assert calls[True] > 4
    for name, value in grads[0].items():
        assert (value is None) == (grads[1][name] is None), name
        assert value is None or torch.allclose(value, grads[1][name], atol=1e-6), name


def test_what_cannot_be_checkpointed_says_so(tiny_shards: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="gradient_checkpointing"):
        begun(tiny_shards, tmp_path, number=4, gradient_checkpointing=True)


def painter(**fields: Any) -> Recipe:
    """The bundled model's painter alone, words frozen."""
    tiny = xiaomo.tiny()
    stage = replace(
        tiny.stages[4], batch=4, steps=12, ema=0.9, max_unknown=1.0, precision="bf16_weights", warmup=0, **fields
    )
    return replace(tiny, stages=(stage,), prompts=())


def run_of(recipe: Recipe, shards: Path, out: Path) -> tuple[Trainer, StageTrainer]:
    torch.set_num_threads(1)
    run = Trainer(recipe, Pictures(shards), out)
    run._words()
    learning = run._stage_trainer(recipe.stages[0], read_state(run.out))
    run._modes()
    return run, learning


def test_weights_in_bfloat16_learn_by_a_float32_copy(tiny_shards: Path, tmp_path: Path) -> None:
    run, learning = run_of(painter(lr=1e-5), tiny_shards, tmp_path)
    name = "image.denoiser.denoiser.model.proj_out.weight"
    working = dict(run.system.named_parameters())
    assert working[name].dtype == torch.bfloat16
    assert all(p.dtype == torch.float32 for n, p in working.items() if not n.startswith("image.denoiser."))
    before = {n: p.detach().clone() for n, p in learning.parameters.items()}
    for _ in range(3):
        run._step(run.recipe.stages[0], learning)
    moved = (learning.parameters[name].detach() - before[name]).abs()
    # Less than bfloat16 could add to the weights, and all of it kept.
    assert 0 < float(moved.max()) < 1e-4
    assert torch.equal(working[name], learning.parameters[name].bfloat16())
    live = {n: p.detach().clone() for n, p in learning.parameters.items()}
    averages = {n: v.clone() for n, v in learning.average.values.items()}
    with averaged(run.system, learning):
        assert torch.equal(working[name], averages[name].bfloat16())
        assert torch.equal(learning.system_state()[name], averages[name])
    assert all(torch.equal(learning.parameters[n], v) for n, v in live.items())
    assert all(torch.equal(learning.average.values[n], v) for n, v in averages.items())
    run._left(run.recipe.stages[0], learning)
    assert dict(run.system.named_parameters())[name].dtype == torch.float32
    assert torch.equal(run.system.state_dict()[name], averages[name])


@pytest.mark.slow
def test_a_float32_copy_goes_on_to_the_bit(tiny_shards: Path, tmp_path: Path) -> None:
    recipe = painter()
    whole_run = train(recipe, tiny_shards, tmp_path / "whole", threads=1)
    run, learning = run_of(recipe, tiny_shards, tmp_path / "parts")
    for _ in range(5):
        run._step(recipe.stages[0], learning)
    run._save(learning.state() | {"stage": dumps(recipe.stages[0])}, learning)
    write_whole(tmp_path / "parts" / "recipe.json", dumps(recipe).encode())
    parts = train(recipe, tiny_shards, tmp_path / "parts", threads=1)
    states = [checkpoint_io.read(folder / "weights.safetensors") for folder in (whole_run, parts)]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert states[0]["image.denoiser.denoiser.model.proj_out.weight"].dtype == torch.float32


def test_a_denoiser_that_learns_in_part_has_no_copy(tiny_shards: Path, tmp_path: Path) -> None:
    recipe = painter(train=("image.denoiser.denoiser.model.proj_out.*",))
    with pytest.raises(TrainingError, match="bf16_weights"):
        run_of(recipe, tiny_shards, tmp_path)
