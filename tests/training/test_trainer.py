"""Training stage by stage: what learns moves, what is frozen does not, and a stopped run goes on exactly."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch

from bimo.core.errors import TrainingError
from bimo.core.recipe import Recipe
from bimo.data.loader import Pictures
from bimo.diffusion.system import System
from bimo.training.seeds import mixed
from bimo.training.trainer import Trainer, train
from bimo.xiaomo.first_level import Expected
from bimo.xiaomo.recipe import xiaomo
from tests.support.checkout import ROOT
from tests.support.drawing import draw

pytestmark = pytest.mark.slow

#: Of a stage: after the first it is in the middle, after the second at its end.
STEPS = 2


def recipe(steps: int = STEPS, **fields: Any) -> Recipe:
    tiny = xiaomo.tiny()
    stages = tuple(replace(stage, steps=steps, batch=4) for stage in tiny.stages)
    return replace(tiny, stages=stages, prompts=("红色的方块",), **fields)


def losses(run: Path) -> list[tuple[str, int, float]]:
    rows = map(json.loads, (run / "log.jsonl").read_text("utf-8").splitlines())
    return [(row["stage"], row["step"], row["loss"]) for row in rows]


@pytest.fixture(scope="module")
def whole(tiny_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing stopped."""
    return train(recipe(), tiny_shards, tmp_path_factory.mktemp("runs") / "whole", threads=1)


def test_a_finished_run_draws(whole: Path) -> None:
    picture = draw(System.read(whole), "红色的方块", seed=1, steps=2)[0]
    assert picture.image.size == (128, 128)
    assert (whole / "sheets").is_dir()


def test_every_stage_is_logged_step_by_step(whole: Path) -> None:
    expected = [(stage.name, step + 1) for stage in xiaomo.stages for step in range(STEPS)]
    assert [(name, step) for name, step, _ in losses(whole)] == expected


#: The losses of each stage's three steps when the loop was first written down: rows, noise, times, captions, rates.
FIRST_LOSSES = (
    *((2.0745347, 1.9072101, 2.0839705), (1.8304582, 1.8239388, 1.7298439), (0.1514383, 0.1496224, 0.1558626)),
    *((0.1517535, 0.1557179, 0.1454646), (0.8137662, 0.8930594, 0.8966438), (1.0894685, 0.8799146, 1.1862671)),
    *((1.9420946, 2.0109000, 1.9492464), (0.1464533, 0.1362082, 0.1506387), (1.2338486, 1.0004743, 0.6338397)),
)


def test_the_same_recipe_gives_the_losses_it_always_gave(tiny_shards: Path, tmp_path: Path) -> None:
    # Whoever goes on with a run of months ago must not find other rows or noise in it.
    # The recipe as it was: without layers, and without the stages that came later.
    made = recipe(len(FIRST_LOSSES[0]))
    expected = replace(made.levels[0], denoiser=replace(cast(Expected, made.levels[0].denoiser), things=0))
    before = replace(made, levels=(expected, made.levels[1]), stages=made.stages[: len(FIRST_LOSSES)], prompts=())
    found = [loss for _, _, loss in losses(train(before, tiny_shards, tmp_path / "run", threads=1))]
    assert found == pytest.approx([loss for stage in FIRST_LOSSES for loss in stage], rel=2e-3)


def test_stopped_at_every_save_it_goes_on_to_the_same_weights(whole: Path, tiny_shards: Path, tmp_path: Path) -> None:
    run = tmp_path / "stopped"
    for _ in range(STEPS * len(xiaomo.stages) + 1):
        train(recipe(), tiny_shards, run, threads=1, stop_after=0.0)
        if (run / "weights.safetensors").is_file():
            break
    assert (run / "weights.safetensors").read_bytes() == (whole / "weights.safetensors").read_bytes()
    assert losses(run) == losses(whole)


def test_killed_at_any_moment_it_goes_on_to_the_same_weights() -> None:
    """The first kill of the proof, which has ten and three times the steps: while the state is written."""
    proof = ROOT / "bench" / "resume.py"
    command = [sys.executable, proof, "--kills", "1", "--steps", "8"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "killed 1 times of 1" in done.stdout
    assert done.stdout.count("    0 differ") == 3


@pytest.mark.parametrize("number", range(len(xiaomo.stages)))
def test_only_what_a_stage_names_moves(number: int, tiny_shards: Path, tmp_path: Path) -> None:
    tiny = recipe(steps=1)
    stage = tiny.stages[number]
    run = Trainer(replace(tiny, stages=(stage,), prompts=()), Pictures(tiny_shards), tmp_path / "run", 0, None)
    run._words()
    before = {name: value.clone() for name, value in run.system.state_dict().items()}
    run.everything()
    heads = {glob.removesuffix(".*") for glob in stage.train}
    moved = {name for name, value in run.system.state_dict().items() if not torch.equal(value, before[name])}
    assert moved
    assert all(any(f"{name}.".startswith(f"{head}.") for head in heads) for name in moved)


def test_an_overfitted_batch_is_learnt(tiny_shards: Path, tmp_path: Path) -> None:
    tiny = recipe()
    stages = tuple(replace(s, steps=80, batch=16, lr=3e-3, ema=0.0) for s in (tiny.stages[0], tiny.stages[2]))
    run = train(replace(tiny, stages=stages, prompts=()), tiny_shards, tmp_path / "run", threads=1)
    for stage in stages:
        values = [loss for name, _, loss in losses(run) if name == stage.name]
        assert sum(values[-10:]) < 0.5 * sum(values[:10])


def test_another_recipe_in_the_same_folder_is_refused(whole: Path, tiny_shards: Path) -> None:
    with pytest.raises(TrainingError, match=r"another recipe|另一个配方"):
        train(recipe(steps=7), tiny_shards, whole, threads=1)


def test_another_seed_is_another_run_and_no_run_goes_on_with_it(whole: Path, tiny_shards: Path, tmp_path: Path) -> None:
    wanted = recipe()
    other = train(wanted, tiny_shards, tmp_path / "run", threads=1, seed=1)
    assert {loss for *_, loss in losses(other)}.isdisjoint(loss for *_, loss in losses(whole))
    for run, seed in ((whole, 1), (other, 0)):
        with pytest.raises(TrainingError, match=r"with seed|种子"):
            train(wanted, tiny_shards, run, threads=1, seed=seed)


def test_a_loss_that_is_no_number_stops_with_the_batch_saved(tiny_shards: Path, tmp_path: Path) -> None:
    tiny = recipe(steps=60)
    stages = (replace(tiny.stages[0], lr=1e30, max_grad_norm=0.0, warmup=0),)
    with pytest.raises(TrainingError, match="broken-batch"):
        train(replace(tiny, stages=stages), tiny_shards, tmp_path / "run", threads=1)
    assert (tmp_path / "run" / "broken-batch.pt").is_file()


def test_seeds_of_steps_differ() -> None:
    seeds = {mixed(0, stage, step) for stage in range(3) for step in range(100)}
    assert len(seeds) == 300
