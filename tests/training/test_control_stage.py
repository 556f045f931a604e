"""A stage that learns to look at a picture: it begins at nothing, learns, goes on after a stop, and is drawn with."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image, ImageDraw
from safetensors.torch import load_file

from bimo.core.errors import RecipeError
from bimo.core.recipe import Recipe, Stage
from bimo.data.loader import Pictures
from bimo.diffusion.system import System
from bimo.models.adapters.attach import control
from bimo.recipes.taiyi_sd import taiyi_zh
from bimo.training.adapters.control_stage import ControlAdapters
from bimo.training.objectives.denoise import Denoise
from bimo.training.trainer import Trainer, train
from bimo.xiaomo.recipe import xiaomo
from tests.support.drawing import draw
from tests.support.steps import stepped
from tests.support.tiny_checkpoints import bert_words


def recipe(**fields: Any) -> Recipe:
    stage = Stage(name="look", objective=Denoise(), level="image", train=(), steps=3, batch=4, lr=3e-3)
    stage = replace(stage, adapter=ControlAdapters(**fields), size=(64, 64), max_unknown=1.0)
    tiny = taiyi_zh.tiny()
    words = replace(tiny.text_encoders[0], vocab=80, positions=24, length=24)
    return replace(tiny, text_encoders=(words,), stages=(stage,), prompts=())


def run(wanted: Recipe, shards: Path, out: Path, **fields: Any) -> Path:
    if not (out / "words.0").is_dir():
        bert_words(out / "words.0")
    return train(wanted, shards, out, threads=1, **fields)


def lines() -> Image.Image:
    picture = Image.new("RGB", (64, 64))
    ImageDraw.Draw(picture).ellipse((10, 12, 50, 44), outline="white", width=3)
    return picture


def begun(wanted: Recipe, shards: Path, out: Path) -> tuple[Trainer, Any]:
    bert_words(out / "words.0")
    made = Trainer(wanted, Pictures(shards), out)
    made._words()
    learning = made._stage_trainer(wanted.stages[0], None)
    made._modes()
    return made, learning


def _with(denoiser_input: Any, weight: torch.Tensor) -> Any:
    return replace(
        denoiser_input, conditioning=replace(denoiser_input.conditioning, scalars={"control.weight": weight})
    )


@pytest.mark.slow
@pytest.mark.parametrize("network", ["controlnet", "t2i"])
def test_it_learns_beside_a_denoiser_that_stays(tiny_shards: Path, tmp_path: Path, network: Any) -> None:
    wanted = recipe(network=network, source="outlines")
    made, learning = begun(wanted, tiny_shards, tmp_path / "run")
    inputs = learning.batches.inputs(0, torch.Generator().manual_seed(3))
    question = Denoise().question(inputs, "image")
    assert all(".beside." in name for name in learning.parameters)
    assert float(question.denoiser_input.conditioning.pictures["control"].max()) > 0.9
    with torch.no_grad():
        told = made.system.denoise(question.denoiser_input)
        weight = question.denoiser_input.conditioning.scalars["control.weight"]
        plain = made.system.denoise(_with(question.denoiser_input, torch.zeros_like(weight)))
    # Convolutions of zeros: to the bit nothing yet. A T2I-Adapter speaks at once.
    assert torch.equal(told, plain) == (network == "controlnet")
    before = {name: value.clone() for name, value in made.system.state_dict().items()}
    losses = []
    for _ in range(8):
        made.place.step = 0
        losses.append(stepped(made, wanted.stages[0], learning))
    assert losses[-1] < losses[0]
    moved = {name for name, value in made.system.state_dict().items() if not torch.equal(value, before[name])}
    assert moved
    assert all(".beside." in name for name in moved)


@pytest.mark.slow
@pytest.mark.parametrize("network", ["controlnet", "t2i"])
def test_stopped_it_goes_on_and_is_drawn_with(tiny_shards: Path, tmp_path: Path, network: Any) -> None:
    wanted = recipe(network=network)
    whole = run(wanted, tiny_shards, tmp_path / "whole")
    for _ in range(4):
        run(wanted, tiny_shards, tmp_path / "stopped", stop_after=0.0)
    name = "diffusion_pytorch_model.safetensors"
    assert (tmp_path / "stopped" / "control-1" / name).read_bytes() == (whole / "control-1" / name).read_bytes()
    torch.manual_seed(0)
    before = System(wanted).state_dict()
    system = System.read(whole)
    assert all(torch.equal(value, before[name]) for name, value in system.state_dict().items())
    controlled = control(system, whole / "control-1")
    written = load_file(whole / "control-1" / name)
    state = controlled.state_dict()
    assert all(torch.equal(state[f"image.denoiser.adapter.model.{key}"], value) for key, value in written.items())
    request = {"text": "红色", "steps": 2, "seed": 1, "size": (64, 64)}
    plain = draw(controlled, request)[0].image
    assert plain.tobytes() == draw(system, request)[0].image.tobytes()
    seen = draw(controlled, request | {"condition_images": {"control": lines()}, "conditions": {"control": [4.0]}})[
        0
    ].image
    assert seen.tobytes() != plain.tobytes()


def test_a_map_of_the_data_is_what_it_sees(tiny_shards: Path, tmp_path: Path) -> None:
    import shutil

    shards = shutil.copytree(tiny_shards, tmp_path / "shards")
    pictures = Pictures(shards)
    (shards / "maps" / "height").mkdir(parents=True)
    for number, key in enumerate(pictures.keys):
        Image.new("RGB", pictures.sizes[number], (number * 9, 0, 0)).save(shards / "maps" / "height" / f"{key}.png")
    _, learning = begun(recipe(name="height", source="map"), shards, tmp_path / "run")
    inputs = learning.batches.inputs(0, torch.Generator().manual_seed(3))
    conditioning = Denoise().question(inputs, "image").denoiser_input.conditioning
    rows = [row for (row,) in learning.batches.order.groups_of(0)]
    assert conditioning.pictures["height"][:, 0, 0, 0].tolist() == pytest.approx([row * 9 / 255 for row in rows])


def test_a_denoiser_without_such_a_network_is_refused(tiny_shards: Path, tmp_path: Path) -> None:
    stage = replace(recipe().stages[0], size=None)
    with pytest.raises(RecipeError, match="PixArt"):
        train(replace(xiaomo.tiny(), stages=(stage,), prompts=()), tiny_shards, tmp_path / "run", threads=1)
