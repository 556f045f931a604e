"""Dreambooth draws its class once and learns both halves; scores weigh; of two the better gains."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional

from bimo.core.errors import DataError, RecipeError
from bimo.core.picture import read_metadata
from bimo.core.recipe import Recipe, Stage
from bimo.data.loader import Pictures
from bimo.data.shards import read, shard_name, write_index, write_shard
from bimo.diffusion.system import System
from bimo.training.objectives.denoise import Denoise
from bimo.training.objectives.dreambooth import Dreambooth
from bimo.training.objectives.preferences import DiffusionDPO, RewardWeighted
from bimo.training.trainer import Trainer, train
from bimo.xiaomo.recipe import xiaomo
from tests.support.steps import stepped

GLOB = "image.denoiser.*"


def recipe(objective: Any, **fields: Any) -> Recipe:
    """xiaomo without its first level, which wants to know how things stand."""
    tiny = xiaomo.tiny()
    denoiser = replace(tiny.levels[1].denoiser.denoiser, spatial=0, scalars=())
    level = replace(tiny.levels[1], denoiser=denoiser, conditioners=())
    stage = Stage(name="s", objective=objective, level="image", train=(GLOB,), steps=2, batch=4, lr=1e-3)
    # What a subject is called is no word of the data.
    stage = replace(stage, max_unknown=1.0, **fields)
    return replace(tiny, levels=(level,), stages=(stage,), prompts=())


@pytest.fixture(scope="module")
def scored(tiny_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The squares, each two of a colour a pair; the further right the better; the last without a score."""
    folder = tmp_path_factory.mktemp("scored")
    rows = []
    for number, (key, png, row) in enumerate(read(tiny_shards)):
        labels = {"pair": f"{number % 4}-{number // 8}", "score": number / 10} if number < 15 else {}
        rows.append((key, png, row | {"labels": labels}))
    write_index(folder, [write_shard(folder / shard_name(0), rows, "scored")])
    return folder


def begun(objective: Any, folder: Path, out: Path) -> tuple[Trainer, Any]:
    wanted = recipe(objective)
    run = Trainer(wanted, Pictures(folder), out)
    run._words()
    learning = run._stage_trainer(wanted.stages[0], None)
    run._modes()
    return run, learning


def test_reward_weighted_losses_follow_the_scores(scored: Path, tmp_path: Path) -> None:
    run, learning = begun(RewardWeighted(temperature=0.2), scored, tmp_path / "run")
    assert len(learning.batches.pictures.groups) == 15
    inputs = learning.batches.inputs(0, torch.Generator().manual_seed(3))
    found = learning.objective.loss(inputs)
    again = learning.batches.inputs(0, torch.Generator().manual_seed(3))
    question = Denoise().question(again, "image")
    errors = Denoise().errors(question, run.system.denoise(question.denoiser_input))
    weights = torch.tensor([row["score"] / 0.2 for row in inputs.labels]).exp()
    assert torch.allclose(found, (weights / weights.sum() * errors).sum(), rtol=1e-5)
    assert weights.max() > 2 * weights.min()


def test_without_scores_it_says_so(tiny_shards: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="stars"):
        begun(RewardWeighted(score="stars"), tiny_shards, tmp_path / "reward")
    with pytest.raises(DataError, match="stars"):
        begun(DiffusionDPO(score="stars"), tiny_shards, tmp_path / "prefer")


def test_dpo_raises_the_preferred_sample(scored: Path, tmp_path: Path) -> None:
    run, learning = begun(DiffusionDPO(beta=50.0), scored, tmp_path / "run")
    groups, labels = learning.batches.pictures.groups, learning.batches.pictures.labels
    assert groups
    for better, worse in groups:
        assert labels[better]["pair"] == labels[worse]["pair"]
        assert labels[better]["score"] > labels[worse]["score"]
    inputs = learning.batches.inputs(0, torch.Generator().manual_seed(3))
    assert inputs.texts[0::2] == inputs.texts[1::2]
    # As it is before the stage nobody has gained: the loss is that of a coin.
    first = float(learning.objective.loss(inputs).detach())
    assert first == pytest.approx(float(-functional.logsigmoid(torch.zeros(()))), rel=1e-5)
    reference = {name: value.clone() for name, value in learning.extra.state_dict().items()}
    losses = []
    for _ in range(6):
        run.place.step = 0
        losses.append(stepped(run, run.recipe.stages[0], learning))
    assert losses[-1] < losses[0]
    assert all(torch.equal(value, reference[name]) for name, value in learning.extra.state_dict().items())


def test_stopped_what_it_began_from_is_kept(scored: Path, tmp_path: Path) -> None:
    wanted = recipe(DiffusionDPO(beta=50.0), steps=3)
    whole = train(wanted, scored, tmp_path / "whole", threads=1)
    for _ in range(4):
        train(wanted, scored, tmp_path / "stopped", threads=1, stop_after=0.0)
    assert (tmp_path / "stopped" / "weights.safetensors").read_bytes() == (whole / "weights.safetensors").read_bytes()


def test_dreambooth_draws_its_class_and_goes_on(
    tiny_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    objective = Dreambooth(subject="一只<小红>方块", class_noun="方块", count=3, prior=0.5, steps=1, size=(128, 128))
    wanted = recipe(objective)
    whole = train(wanted, tiny_shards, tmp_path / "whole", threads=1)
    drawn = whole / "stage-1" / "class"
    assert len(list(drawn.glob("*.png"))) == 3
    # A stop while drawing: what is there stays, what is not is drawn again alike.
    run = tmp_path / "stopped"
    (run / "stage-1" / "class").mkdir(parents=True)
    (run / "stage-1" / "class" / "00000.png").write_bytes((drawn / "00000.png").read_bytes())
    train(wanted, tiny_shards, run, threads=1, stop_after=0.0)
    monkeypatch.setattr("bimo.engine.engine.Engine.draw", None)  # nothing is drawn twice
    train(wanted, tiny_shards, run, threads=1)
    assert (run / "weights.safetensors").read_bytes() == (whole / "weights.safetensors").read_bytes()
    assert [json.loads(row)["step"] for row in (run / "log.jsonl").read_text("utf-8").splitlines()] == [1, 2]


def test_dreambooth_halves_are_the_subject_and_its_class(tiny_shards: Path, tmp_path: Path) -> None:
    objective = Dreambooth(subject="一只<小红>方块", class_noun="方块", count=3, prior=0.5, steps=1, size=(128, 128))
    run, learning = begun(objective, tiny_shards, tmp_path / "run")
    inputs = learning.batches.inputs(0, torch.Generator().manual_seed(3))
    assert list(inputs.texts) == ["一只<小红>方块", "方块"] * 2
    found = objective.loss(inputs)
    again = learning.batches.inputs(0, torch.Generator().manual_seed(3))
    question = Denoise().question(again, "image")
    errors = Denoise().errors(question, run.system.denoise(question.denoiser_input))
    assert torch.allclose(found, (errors[0] + errors[2]) / 2 + 0.5 * (errors[1] + errors[3]) / 2)
    alone = replace(objective, prior=0.0).pictures(run.system, Pictures(tiny_shards), tmp_path / "none")
    assert len(alone) == 16
    assert not (tmp_path / "none").exists()


def test_dreambooth_repeats_pictures_as_often_as_their_folder_says(tiny_shards: Path, tmp_path: Path) -> None:
    objective = Dreambooth(subject="一只<小红>方块", class_noun="方块", count=3, steps=1, size=(128, 128))
    run, _ = begun(objective, tiny_shards, tmp_path / "run")
    twice = Pictures(tiny_shards, repeats=(2,))
    found = objective.pictures(run.system, twice, tmp_path / "run" / "stage-1")
    rows = len(twice)
    assert [group[0] for group in found.groups] == [row for row in range(rows) for _ in range(2)]
    assert [group[1] - rows for group in found.groups] == [number % 3 for number in range(2 * rows)]


def test_dreambooth_of_several_subjects_keeps_several_classes(tiny_shards: Path, tmp_path: Path) -> None:
    objective = Dreambooth(class_noun=("方块", "苹果"), count=3, steps=1, size=(128, 128))
    run, learning = begun(objective, tiny_shards, tmp_path / "run")
    own = {caption for row in Pictures(tiny_shards).captions for caption in row}
    seen = [learning.batches.inputs(number, torch.Generator().manual_seed(number)).texts for number in range(4)]
    assert {text for texts in seen for text in texts[0::2]} <= own
    assert {text for texts in seen for text in texts[1::2]} == {"方块", "苹果"}
    request = read_metadata(tmp_path / "run" / "stage-1" / "class" / "00001.png")["request"]
    assert (request["text"], request["seed"]) == ("苹果", 1)
    with pytest.raises(RecipeError, match="class_noun"):
        replace(objective, class_noun=()).pictures(run.system, Pictures(tiny_shards), tmp_path / "none")


def test_dreambooth_of_the_denoiser_alone_learns(tiny_shards: Path, tmp_path: Path) -> None:
    """The mode that is said to be the usual one: the text tower stays as it was, the whole denoiser moves."""
    objective = Dreambooth(subject=("一只<小红>方块", "<小红>方块的照片"), prior=0.0)
    wanted = recipe(objective, steps=2)
    wanted = replace(wanted, stages=(replace(wanted.stages[0], train=("image.denoiser.*",)),))
    torch.manual_seed(0)
    before = System(wanted).state_dict()
    after = System.read(train(wanted, tiny_shards, tmp_path / "run", threads=1)).state_dict()
    still = {name for name, value in after.items() if torch.equal(value, before[name])}
    assert {name for name in still if name.startswith("text.")} == {n for n in before if n.startswith("text.")}
    moved = {name for name in before if name.startswith("image.denoiser.")} - still
    assert len(moved) > 0.9 * sum(name.startswith("image.denoiser.") for name in before)


@pytest.mark.slow
def test_dreambooth_knows_how_its_class_stands(tiny_shards: Path, tmp_path: Path) -> None:
    objective = Dreambooth(subject="一只<小红>方块", class_noun="方块", count=2, prior=0.5, steps=1, size=(128, 128))
    tiny = xiaomo.tiny()
    stage = Stage(name="s", objective=objective, level="image", train=(GLOB,), steps=1, batch=4, lr=1e-3)
    stage = replace(stage, max_unknown=1.0)
    run = train(replace(tiny, stages=(stage,)), tiny_shards, tmp_path / "run", threads=1)
    drawn = run / "stage-1" / "class"
    rows = [row for _, _, row in read(drawn)]
    asked = [read_metadata(drawn / f"{seed:05d}.png")["request"]["conditions"]["pose"] for seed in range(2)]
    assert [row["pose"] for row in rows] == asked
    assert asked[0] != asked[1]
    assert sorted(Pictures(tiny_shards, drawn).poses[16:].tolist()) == sorted(torch.tensor(asked).tolist())
