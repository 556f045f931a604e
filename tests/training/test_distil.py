"""A student learns what a frozen teacher says; the decoder writes the other language."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional

from bimo.core.errors import TrainingError
from bimo.core.recipe import Recipe, Stage
from bimo.data.loader import Pictures
from bimo.diffusion.system import System
from bimo.models.text_encoders.bert import Bert
from bimo.training.objectives.distil import Distil, state
from bimo.training.trainer import Trainer, train
from tests.training.conftest import TEACHER

STUDENT = Bert(
    width=16, layers=1, heads=2, feed=32, vocab=200, positions=32, types=1, length=24, masked=True, pooler=False,
    words="lexicon", dropout=0.0,
)  # fmt: skip


def recipe(train: tuple[str, ...] = ("text.*",), **fields: Any) -> Recipe:
    stage = Stage(
        name="distil", objective=Distil(teacher=TEACHER, **fields).tiny(), train=train, steps=60, batch=8, lr=3e-3
    )
    return Recipe(name="student", text_encoders=(STUDENT,), stages=(stage,))


def losses(run: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (run / "log.jsonl").read_text("utf-8").splitlines()]


def test_the_student_learns_and_the_teacher_stays(teacher: System, tiny_shards: Path, tmp_path: Path) -> None:
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    run = train(recipe(), tiny_shards, tmp_path / "run", threads=1, teacher=teacher)
    found = losses(run)
    assert sum(found[-5:]) < 0.5 * sum(found[:5])
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())


def test_the_loss_is_what_it_says(teacher: System, tiny_shards: Path, tmp_path: Path) -> None:
    wanted = recipe(squared=2.0, absolute=3.0, cosine=0.5, languages=("zh",))
    run = Trainer(wanted, Pictures(tiny_shards), tmp_path / "run", teacher=teacher)
    run._words()
    learning = run._stage_trainer(wanted.stages[0], None)
    inputs = learning.batches.inputs(0, torch.Generator().manual_seed(1))
    zh = [row["zh"][0] for row in inputs.captions]
    en = [row["en"][0] for row in inputs.captions]
    found = run.system.text_encoders[0].encode(zh).tokens[:, 0]
    ends = [len(teacher.text[0].tokenizer.encode(text).ids) - 1 for text in en]
    ends = [min(end, TEACHER.length - 1) for end in ends]
    there = teacher.text_encoders[0].encode(en).tokens[range(len(en)), ends]
    expected = (
        2 * ((found - there) ** 2).mean()
        + 3 * (found - there).abs().mean()
        + 0.5 * (1 - functional.cosine_similarity(found, there)).mean()
    )
    assert torch.allclose(learning.objective.loss(inputs), expected, atol=1e-6)


@pytest.mark.slow
def test_the_decoder_learns_to_write_the_other_language(teacher: System, tiny_shards: Path, tmp_path: Path) -> None:
    wanted = recipe(("text.*", "distil.*"), squared=0.0, decoder=1.0, languages=("zh",))
    run = train(wanted, tiny_shards, tmp_path / "run", threads=1, teacher=teacher)
    found = losses(run)
    assert sum(found[-5:]) < 0.5 * sum(found[:5])


def test_without_a_teacher_or_with_another_it_says_so(teacher: System, tiny_shards: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="--teacher"):
        train(recipe(), tiny_shards, tmp_path / "none", threads=1)
    other = replace(recipe().stages[0], objective=Distil(teacher=replace(TEACHER, feed=48)))
    with pytest.raises(TrainingError, match="feed=48"):
        train(replace(recipe(), stages=(other,)), tiny_shards, tmp_path / "other", threads=1, teacher=teacher)


def test_pictures_without_both_languages_are_left_out(tiny_shards: Path) -> None:
    pictures = Pictures(tiny_shards)
    pictures.languages = [*pictures.languages[:3], ("en", "en"), *pictures.languages[4:]]
    kept = Distil(teacher=TEACHER).pictures(None, pictures, tiny_shards)  # type: ignore[arg-type]
    assert (3,) not in kept.groups
    assert len(kept.groups) == len(pictures) - 1


def test_the_last_state_is_that_of_the_end_mark(teacher: System) -> None:
    tower = teacher.text_encoders[0]
    texts = ["a cat", "red"]
    whole = tower.encode(texts).tokens
    ids = teacher.text[0].ids(texts)[0]
    end = int(ids[0, -1])
    places = [(row == end).nonzero()[0, 0] for row in ids]
    assert torch.equal(state(tower, texts, "last"), whole[[0, 1], places])
