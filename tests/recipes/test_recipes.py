"""Every recipe of the package: it is data that reads back equal, and at toy width it saves, draws and trains."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from bimo.apps.models import recipes
from bimo.core.part import dumps, loads
from bimo.core.recipe import Recipe
from bimo.diffusion.drive import draw
from bimo.diffusion.system import System
from bimo.parts.text.bert import BertTower
from bimo.parts.text.clip import ClipTower
from bimo.parts.text.llm import LanguageTower
from bimo.train.loop import train
from tests.conftest import KNOWN
from tests.parity.tiny_checkpoints import bert_words, clip_words
from tests.parity.tiny_flow_checkpoints import qwen_words as language_words

TEXT = "一只红苹果"
SIZE = (128, 128)


@pytest.fixture(scope="module", params=sorted(recipes()))
def recipe(request: pytest.FixtureRequest) -> Recipe:
    return recipes()[request.param]


@pytest.fixture(scope="module")
def system(recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> System:
    """The recipe at toy width, with made-up weights and words."""
    folder = tmp_path_factory.mktemp(recipe.name)
    torch.manual_seed(0)
    made = System(recipe.tiny()).eval()
    for index, tower in enumerate(made.towers):
        if give_words(tower, folder / f"words.{index}"):
            tower.load_words(folder / f"words.{index}")
        else:
            assert isinstance(tower, BertTower)
            tower.learn_words((TEXT, "a red cat"), KNOWN)
    return made


def give_words(tower: Any, folder: Path) -> bool:
    """Writes the words that a publisher gives with a tower; False for a tower that learns its own."""
    if isinstance(tower, BertTower) and tower.part.words == "lexicon":
        return False
    if isinstance(tower, BertTower):
        bert_words(folder)
    elif isinstance(tower, ClipTower):
        clip_words(folder)
    elif isinstance(tower, LanguageTower):
        language_words(folder)
    else:
        pytest.fail(f"this test has no words for a {type(tower).__name__}: write some here")
    return True


def test_it_reads_back_equal(recipe: Recipe) -> None:
    for wanted in (recipe, recipe.tiny()):
        assert loads(dumps(wanted)) == wanted


def test_saved_and_read_it_is_the_same_and_draws_the_same(system: System, tmp_path: Path) -> None:
    system.save(tmp_path / "saved")
    again = System.read(tmp_path / "saved")
    assert again.recipe == system.recipe
    before, after = system.state_dict(), again.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(value, after[name]) and value.dtype == after[name].dtype for name, value in before.items())
    request = {"text": TEXT, "size": SIZE, "seed": 1, "steps": 2}
    pictures = [draw(one, request)[0].image for one in (system, again)]
    assert pictures[0].size == SIZE
    assert pictures[0].tobytes() == pictures[1].tobytes()


def test_every_stage_trains(recipe: Recipe, system: System, tiny_shards: Path, tmp_path: Path) -> None:
    tiny = recipe.tiny()
    stages = tuple(replace(stage, steps=1) for stage in tiny.stages)
    for index, tower in enumerate(system.towers):
        give_words(tower, tmp_path / "run" / f"words.{index}")
    run = train(replace(tiny, stages=stages, prompts=()), tiny_shards, tmp_path / "run", threads=1)
    rows = [json.loads(line) for line in (run / "log.jsonl").read_text("utf-8").splitlines()]
    assert [(row["stage"], row["step"]) for row in rows] == [(stage.name, 1) for stage in recipe.stages]
    assert System.read(run).recipe.stages == stages
