"""Layers of things are told apart by the labels of the data: which words are whose, and where each stands."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import permutations
from pathlib import Path

import pytest
import torch

from bimo.core.errors import RecipeError, TrainingError
from bimo.core.recipe import Recipe, Stage
from bimo.data.shards import shard_name, write_index, write_shard
from bimo.diffusion.system import System
from bimo.training.trainer import train
from bimo.xiaomo.artwork.sprites import FILL
from bimo.xiaomo.layered_objects import LayeredObjects, places
from bimo.xiaomo.recipe import xiaomo
from tests.conftest import _picture

WORDS = ("红苹果", "猫", "水墨画", "流水", "小桥", "人家")
BOXES = [[0.26, 0.5, 0.45], [0.74, 0.5, 0.45]]


def recipe(steps: int) -> Recipe:
    made = xiaomo.tiny()
    stage = Stage(
        name="things",
        level="expected",
        objective=LayeredObjects(weight=1.0),
        train=("text.*", "expected.*", "things.*"),
        steps=steps,
        batch=16,
        lr=1e-2,
    )
    return replace(made, stages=(stage,))


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every two of six words side by side, in either order, and each word alone."""
    folder = tmp_path_factory.mktemp("data") / "pairs"
    folder.mkdir()
    rows = []
    for number, (one, two) in enumerate([*permutations(WORDS, 2), *((word, None) for word in WORDS)]):
        text = f"{one} {two}" if two else one
        labels = {"kind": one, "kind2": two, "boxes": BOXES if two else None}
        record = {"captions": [{"text": text, "lang": "zh"}], "labels": labels, "pose": [0, 1.0, 0.0, 0.0, 0.0]}
        rows.append((f"{number:04d}", _picture(number), record))
    write_index(folder, [write_shard(folder / shard_name(0), rows, "pairs")])
    (folder / "words.txt").write_text("\n".join(WORDS), "utf-8")
    return folder


@pytest.mark.slow
def test_each_layer_reads_its_own_word_and_stands_at_its_place(pairs: Path, tmp_path: Path) -> None:
    system = System.read(train(recipe(150), pairs, tmp_path / "run", threads=1)).eval()
    denoiser = system.level("expected").denoiser
    right = 0
    with torch.inference_mode():
        for one, two in permutations(WORDS, 2):
            conditioning = system.condition(system.encode([f"{one} {two}"]))
            read_layers = denoiser.read_layers(conditioning)
            assert (read_layers.presence > 0).all()
            assert torch.allclose(read_layers.placements[0], places(torch.tensor(BOXES)), atol=0.1)
            tokens = conditioning.streams[0].tokens
            share = denoiser.layers.picked(tokens, read_layers.pooled[:, -tokens.shape[-1] :]).exp()[0]
            # The first token is the beginning of the text.
            right += int(share[1].argmax() == 0 and share[2].argmax() == 1)
        alone = denoiser.read_layers(system.condition(system.encode(WORDS)))
    assert (alone.presence < 0).all()
    assert right >= 27


def test_places_are_those_of_the_boxes() -> None:
    found = places(torch.tensor([[0.26, 0.5, 0.42], [0.5, 0.75, 0.84]]), 0.84)
    torch.testing.assert_close(found, torch.tensor([[0.5, -0.48, 0.0], [1.0, 0.0, 0.5]]))


def test_a_thing_at_rest_is_as_long_as_the_artwork_draws_it() -> None:
    told = [stage.objective.rest for stage in xiaomo.stages if isinstance(stage.objective, LayeredObjects)]
    assert told == [FILL, FILL]


def test_what_is_missing_is_named(pairs: Path, tiny_shards: Path, tmp_path: Path) -> None:
    flat = replace(recipe(1).levels[0].denoiser, things=0)
    levels = (replace(recipe(1).levels[0], denoiser=flat), *recipe(1).levels[1:])
    with pytest.raises(RecipeError, match="things=2"):
        train(replace(recipe(1), levels=levels), pairs, tmp_path / "flat", threads=1)
    for names, error, said in ((("breed", "tail"), TrainingError, "breed"), (("kind",), RecipeError, "1 names")):
        other = replace(recipe(1).stages[0], objective=LayeredObjects(names=names))
        with pytest.raises(error, match=said):
            train(replace(recipe(1), stages=(other,)), tiny_shards, tmp_path / names[0], threads=1)


def test_data_without_two_things_teaches_that_none_is_seen(tiny_shards: Path, tmp_path: Path) -> None:
    run = train(recipe(2), tiny_shards, tmp_path / "run", threads=1)
    losses = [json.loads(line)["loss"] for line in (run / "log.jsonl").read_text("utf-8").splitlines()]
    assert all(0 < loss < 100 for loss in losses)
