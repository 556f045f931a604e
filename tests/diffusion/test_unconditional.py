"""The null branch without words: what it is told in drawing, and dropped captions in training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from bimo.core.recipe import Defaults, Guidance, Level, Recipe, Stage
from bimo.core.tensors import Batch, Conditioning, TextEncoding
from bimo.diffusion.conditioning import zero_text
from bimo.diffusion.preparation import prepare
from bimo.diffusion.sampling import sample
from bimo.diffusion.schedules.ddpm import Ddpm
from bimo.diffusion.system import System
from bimo.models.cascade.pixel_unet import PixelUnet
from bimo.models.spaces import Pixels
from bimo.models.text_encoders.bert import Bert
from bimo.training.objectives.denoise import Denoise
from bimo.training.train_inputs import TrainInputs, Vocabulary
from tests.support.tiny_checkpoints import bert_words


def built(folder: Path, null: Any) -> System:
    level = Level(
        name="image",
        space=Pixels(factor=8),
        denoiser=PixelUnet(text=16, answer=3),
        schedule=Ddpm(),
        sampler="ddim",
        steps=8,
        guidance=Guidance(scale=3.0, unconditional=null),
    )
    words = Bert(length=24, masked=True, pool="first")
    recipe = Recipe(name="silent", text_encoders=(words,), levels=(level,), request=Defaults(size=(64, 64)))
    torch.manual_seed(0)
    system = System(recipe.tiny()).eval()
    bert_words(folder)
    system.text_encoders[0].load_tokenizer(folder)
    return system


def test_zero_text_zeroes_the_chosen_rows() -> None:
    mask = torch.tensor([[True, True, False]] * 2)
    words = TextEncoding(torch.ones(2, 3, 4), mask, torch.ones(2, 5))
    conditioning = Conditioning((words,), torch.ones(2, 5), torch.ones(2, 1, 2, 2), {"score": torch.ones(2, 1)})
    rows = torch.tensor([False, True])
    for hidden in (False, True):
        found = zero_text(conditioning, rows, hidden)
        stream = found.streams[0]
        assert stream.tokens.sum(dim=(1, 2)).tolist() == [12, 0]
        assert found.vector is not None
        assert found.vector.sum(1).tolist() == [5, 0]
        assert stream.mask is not None
        assert stream.mask.sum(1).tolist() == [2, 0 if hidden else 2]
        # What is not words stays.
        assert found.spatial is conditioning.spatial
        assert found.scalars is conditioning.scalars


@pytest.mark.parametrize(("null", "seen"), [("zeros", 7), ("masked", 0), ("empty", 2)])
def test_the_null_branch_sees_as_many_zeros_as_there_are_words(tmp_path: Path, null: str, seen: int) -> None:
    system = built(tmp_path / "words", null)
    with torch.inference_mode():
        denoiser_input = next(sample(system, prepare(system, {"text": "一只红苹果", "seed": 1})))
    stream = denoiser_input.conditioning.streams[0]
    assert stream.mask is not None
    assert stream.mask.sum(1).tolist() == [seen, 7]
    assert bool(stream.tokens[0].any()) == (null == "empty")
    assert denoiser_input.conditioning.vector is not None
    assert bool(denoiser_input.conditioning.vector[0].any()) == (null == "empty")


@pytest.mark.parametrize(("null", "count"), [("zeros", 1), ("masked", 1), ("empty", 0), ("zeros_without_negative", 0)])
def test_a_negative_prompt_that_changes_nothing_is_reported(tmp_path: Path, null: str, count: int) -> None:
    system = built(tmp_path / "words", null)
    assert len(prepare(system, {"text": "一只红苹果", "negative": "红"}).warnings) == count
    assert not prepare(system, {"text": "一只红苹果"}).warnings


@pytest.mark.parametrize("null", ["zeros", "masked", "empty"])
def test_a_dropped_caption_equals_the_unconditional_branch(tmp_path: Path, null: str) -> None:
    system = built(tmp_path / "words", null)
    dropped = torch.tensor([False, True])
    encodings = system.encode(["一只红苹果", ""])
    batch = Batch(torch.zeros(2, 3, 8, 8), encodings, {}, dropped, torch.Generator().manual_seed(0))
    objective = Denoise()
    stage = Stage(name="paint", objective=objective, level="image", train=("image.*",))
    inputs = TrainInputs(system, stage, None, [{}, {}], Vocabulary({}), batch.generator, batch=batch)
    stream = objective.question(inputs, "image").denoiser_input.conditioning.streams[0]
    assert stream.mask is not None
    assert bool(stream.tokens[0].any())
    assert bool(stream.tokens[1].any()) == (null == "empty")
    assert bool(stream.mask[1].any()) == (null != "masked")
