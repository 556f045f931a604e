"""A stage that learns a LoRA: it alone learns, resumes exactly, becomes a file, and is merged or left out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from bimo.core.errors import RecipeError
from bimo.core.recipe import Recipe, Stage
from bimo.diffusion.system import System
from bimo.models.adapters.lora_merging import adapt
from bimo.models.text_encoders.textual_inversion import teach
from bimo.recipes.taiyi_sd import taiyi_zh
from bimo.training.adapters.lora_stage import Lora, TextualInversion
from bimo.training.objectives.denoise import Denoise
from bimo.training.objectives.dreambooth import Dreambooth
from bimo.training.trainer import train
from bimo.xiaomo.recipe import xiaomo
from tests.support.drawing import draw
from tests.support.tiny_checkpoints import bert_words

TARGETS = ("image.denoiser.*.to_[qv]", "text.0.*.query")


def recipe(count: int = 1, **fields: Any) -> Recipe:
    adapter = Lora(**{"targets": TARGETS, "rank": 2, "alpha": 2.0, **fields})
    stage = Stage(name="lora", objective=Denoise(), level="image", train=(), adapter=adapter, steps=2, batch=4, lr=1e-2)
    stage = replace(stage, max_unknown=1.0)  # the words are made up
    stages = tuple(replace(stage, name=f"lora {number}", size=(64, 64)) for number in range(count))
    tiny = taiyi_zh.tiny()
    words = replace(tiny.text_encoders[0], vocab=80, positions=24, length=24)
    return replace(tiny, text_encoders=(words,), stages=stages)


def run(wanted: Recipe, shards: Path, out: Path) -> Path:
    bert_words(out / "words.0")
    return train(wanted, shards, out, threads=1)


def states(folder: Path) -> dict[str, torch.Tensor]:
    return System.read(folder).state_dict()


@pytest.mark.slow
def test_merged_or_beside_it_is_the_same(tiny_shards: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    before = System(recipe()).state_dict()
    merged = states(run(recipe(), tiny_shards, tmp_path / "merged"))
    moved = {name for name, value in merged.items() if not torch.equal(value, before[name])}
    assert moved
    assert all(name.endswith(("to_q.weight", "to_v.weight", "query.weight")) for name in moved)
    beside = System.read(run(recipe(merge=False), tiny_shards, tmp_path / "beside"))
    assert all(torch.equal(value, before[name]) for name, value in beside.state_dict().items())
    adapt(beside, tmp_path / "beside" / "lora-1.safetensors")
    assert all(torch.allclose(value, merged[name], atol=1e-6) for name, value in beside.state_dict().items())
    files = [tmp_path / name / "lora-1.safetensors" for name in ("merged", "beside")]
    assert files[0].read_bytes() == files[1].read_bytes()
    assert files[0].stat().st_size < (tmp_path / "merged" / "weights.safetensors").stat().st_size / 10


def test_stopped_it_goes_on_to_the_same_files(tiny_shards: Path, tmp_path: Path) -> None:
    stages = tuple(replace(stage, size=None) for stage in recipe(2, targets=("image.denoiser.*.to_q",)).stages)
    wanted = replace(xiaomo.tiny(), stages=stages, prompts=())
    whole = train(wanted, tiny_shards, tmp_path / "whole", threads=1)
    for _ in range(5):
        train(wanted, tiny_shards, tmp_path / "stopped", threads=1, stop_after=0.0)
    for name in ("lora-1.safetensors", "lora-2.safetensors", "weights.safetensors"):
        assert (tmp_path / "stopped" / name).read_bytes() == (whole / name).read_bytes()


@pytest.mark.slow
def test_dora_learns_lengths_and_directions(tiny_shards: Path, tmp_path: Path) -> None:
    wanted = recipe(dora=True, merge=False)
    out = run(wanted, tiny_shards, tmp_path / "run")
    written = load_file(out / "lora-1.safetensors")
    lengths = {name: value for name, value in written.items() if name.endswith("lora_magnitude_vector")}
    assert len(lengths) * 3 == len(written)
    torch.manual_seed(0)
    before = System(wanted).state_dict()
    beside = System.read(out)
    assert all(torch.equal(value, before[name]) for name, value in beside.state_dict().items())
    adapt(beside, out / "lora-1.safetensors")
    merged = states(run(recipe(dora=True), tiny_shards, tmp_path / "merged"))
    assert all(torch.allclose(value, merged[name], atol=1e-6) for name, value in beside.state_dict().items())
    # Lengths moved as well, each by itself.
    name = next(name for name in before if name.endswith("attn2.to_q.weight"))
    assert not torch.allclose(merged[name].norm(dim=1), before[name].norm(dim=1), atol=1e-4)


@pytest.mark.slow
def test_an_earlier_level_learns_one_too(tiny_shards: Path, tmp_path: Path) -> None:
    adapter = Lora(targets=("expected.denoiser.*", "image.denoiser.*.to_q"), rank=2, dora=True)
    (stage,) = recipe().stages
    stage = replace(stage, objective=Denoise(also=("expected",)), adapter=adapter, size=None)
    wanted = replace(xiaomo.tiny(), stages=(stage,), prompts=())
    whole = train(wanted, tiny_shards, tmp_path / "whole", threads=1)
    for _ in range(3):
        train(wanted, tiny_shards, tmp_path / "stopped", threads=1, stop_after=0.0)
    for file in ("lora-1.safetensors", "weights.safetensors"):
        assert (tmp_path / "stopped" / file).read_bytes() == (whole / file).read_bytes()
    layers = {name.partition(".lora_")[0] for name in load_file(whole / "lora-1.safetensors")}
    assert "expected.denoiser.enter" in layers
    assert any(name.startswith("transformer.") for name in layers)
    torch.manual_seed(0)
    system = System(wanted)
    before = {name: value.clone() for name, value in system.state_dict().items()}
    adapt(system, whole / "lora-1.safetensors")
    merged = states(whole)
    assert not torch.equal(merged["expected.denoiser.enter.weight"], before["expected.denoiser.enter.weight"])
    assert all(torch.allclose(value, merged[name], atol=1e-6) for name, value in system.state_dict().items())


def test_a_layer_that_no_file_can_name_is_refused(tiny_shards: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"image\.space"):
        run(recipe(targets=("image.space.*.conv1",)), tiny_shards, tmp_path / "run")


@pytest.mark.slow
def test_a_word_is_learnt_and_nothing_else(tiny_shards: Path, tmp_path: Path) -> None:
    """Of a lexicon, stopped and gone on with: the same file, and a system that is as it was until it is taught."""
    adapter = TextualInversion(token="<小红>", initial="红色方块", vectors=2)
    objective = Dreambooth(subject=("一个<小红>", "<小红>方块"), prior=0.0, denoise=Denoise(also=("expected",)))
    (stage,) = recipe().stages
    stage = replace(stage, objective=objective, adapter=adapter, size=None, steps=4, validation=0.2, validate_every=2)
    wanted = replace(xiaomo.tiny(), stages=(stage,), prompts=())
    whole = train(wanted, tiny_shards, tmp_path / "whole", threads=1)
    for _ in range(5):
        train(wanted, tiny_shards, tmp_path / "stopped", threads=1, stop_after=0.0)
    for file in ("tokens-1.safetensors", "best-1.safetensors", "weights.safetensors", "words.0/tokenizer.json"):
        assert (tmp_path / "stopped" / file).read_bytes() == (whole / file).read_bytes()
    torch.manual_seed(0)
    before = System(wanted).state_dict()
    system = System.read(whole)
    assert all(torch.equal(value, before[name]) for name, value in system.state_dict().items())
    request = {"text": "三个<小红>", "steps": 2, "seed": 1, "size": (128, 128)}
    plain = draw(system, request)[0]
    assert plain.warnings  # it does not know the word yet
    assert teach(system, whole / "tokens-1.safetensors") == ["<小红>"]
    taught = draw(system, request)[0]
    assert taught.image.tobytes() != plain.image.tobytes()
    assert not any("<小红>" in warning for warning in taught.warnings)


def test_a_lora_of_the_text_encoder_alone(tiny_shards: Path, tmp_path: Path) -> None:
    wanted = recipe(targets=("text.0.*.query", "text.0.*.value", "text.0.*.intermediate.dense"), merge=False)
    out = run(wanted, tiny_shards, tmp_path / "run")
    names = load_file(out / "lora-1.safetensors")
    assert all(name.startswith("text_encoder.") for name in names)
    system = System.read(out)
    request = {"text": "红色", "steps": 2, "seed": 1, "size": (64, 64)}
    plain = draw(system, request)[0].image.tobytes()
    adapt(system, out / "lora-1.safetensors")
    assert draw(system, request)[0].image.tobytes() != plain
