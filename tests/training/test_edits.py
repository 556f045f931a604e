"""Systems that edit learn from rows of (picture, instruction, picture after): the sample, its caption, maps/image."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from bimo.core.recipe import Recipe
from bimo.data.loader import Pictures
from bimo.hub.registry import recipes
from bimo.models.glm_image.conditioners import PicturesRead
from bimo.models.qwen_image.references import References
from tests.recipes.test_recipes import begun
from tests.support.edit_checkpoints import photo
from tests.support.steps import stepped
from tests.support.tiny_systems import tiny_system

#: Systems that edit, and whether they are told that they learn to.
EDITS = {
    "qwen-image-edit": False,
    "qwen-image-edit-2509": False,
    "qwen-image-edit-2511": False,
    "longcat-image-edit": False,
    "qwen-image-2.1": True,
    "z-image-omni": True,
    "glm-image": True,
}
STEPS = 4


def editing(name: str) -> Recipe:
    """The recipe whose last level learns from one picture."""
    recipe = recipes()[name]
    if not EDITS[name]:
        return recipe
    *before, last = recipe.levels
    conditioners = tuple(
        replace(each, learnt=1) if isinstance(each, (References, PicturesRead)) else each for each in last.conditioners
    )
    assert conditioners != last.conditioners
    return replace(recipe, levels=(*before, replace(last, conditioners=conditioners)))


def losses(recipe: Recipe, shards: Path, out: Path, steps: int) -> list[float]:
    """Of the same batch, noise and times again and again, of the first stage."""
    settings: dict[str, Any] = {"lr": 1e-3, "lr_schedule": "constant", "caption_dropout": 0.0}
    run = begun(recipe, tiny_system(recipe, out.with_name("words")), shards, out, **settings)
    run._words()
    stage = run.recipe.stages[0]
    learning = run._stage_trainer(stage, None)
    run._modes()
    found: list[float] = []
    for _ in range(steps):
        run.place.step = 0
        found.append(stepped(run, stage, learning))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("name", EDITS)
def test_an_edit_is_learnt_and_the_picture_before_it_read(tiny_shards: Path, tmp_path: Path, name: str) -> None:
    shards = tmp_path / "shards"
    shutil.copytree(tiny_shards, shards, ignore=shutil.ignore_patterns("maps"))
    before = shards / "maps" / "image"
    before.mkdir(parents=True)
    keys = Pictures(shards).keys
    for seed, key in enumerate(keys):
        photo(128, 128, seed).save(before / f"{key}.png")
    found = losses(editing(name), shards, tmp_path / "run", STEPS)
    assert all(torch.isfinite(torch.tensor(found)))
    assert found[-1] < found[0], found
    for key in keys:
        Image.new("RGB", (128, 128), "red").save(before / f"{key}.png")
    (other,) = losses(editing(name), shards, tmp_path / "other", 1)
    assert other != pytest.approx(found[0], rel=1e-6)
