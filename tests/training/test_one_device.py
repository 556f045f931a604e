"""A whole stage on a device without contents: prepared, learnt, drawn from, saved, read back, nothing left behind."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from bimo.core.recipe import Recipe, Stage
from bimo.data.loader import Pictures
from bimo.diffusion.system import System
from bimo.models.text_encoders.bert import Bert
from bimo.recipes.taiyi_sd import taiyi_zh
from bimo.training.adapters.control_stage import ControlAdapters
from bimo.training.adapters.lora_stage import Lora, TextualInversion
from bimo.training.distributed.processes import Processes
from bimo.training.objectives.denoise import Denoise
from bimo.training.objectives.distil import Distil
from bimo.training.objectives.draft import DRaFT
from bimo.training.objectives.dreambooth import Dreambooth
from bimo.training.objectives.online_rewards import OnlineRewards
from bimo.training.objectives.preferences import DiffusionDPO, RewardWeighted
from bimo.training.objectives.reconstruct import Contrast, Reconstruct
from bimo.training.objectives.rewards import ColourfulReward, CustomReward, Judges, Shown
from bimo.training.trainer import Trainer
from bimo.xiaomo.layered_objects import LayeredObjects
from bimo.xiaomo.recipe import xiaomo
from tests.support.drawing import draw
from tests.support.one_device import ASKED, ELSEWHERE, OneDevice, counted
from tests.support.tiny_checkpoints import bert_words

pytestmark = pytest.mark.slow

BASE = Stage(
    name="stage",
    objective=Denoise(),
    level="image",
    train=("image.denoiser.*",),
    steps=2,
    batch=4,
    accumulate=2,
    lr=1e-3,
    ema=0.9,
    caption_dropout=0.1,
    max_unknown=1.0,
)
LAYERS = ("image.denoiser.*.to_q", "image.denoiser.*.to_k")
#: Drawings without numbers all look alike: what they are worth is counted.
SEEN: list[int] = []


def rising(shown: Shown) -> Tensor:
    """Another score for every drawing."""
    SEEN.extend(range(len(shown.texts)))
    return torch.arange(len(shown.texts)) + float(len(SEEN))


STAGES: Mapping[str, Stage] = {
    "denoise": replace(BASE, train=("text.*", "image.denoiser.*"), validation=0.3, validate_every=1),
    "of two levels": replace(BASE, objective=Denoise(also=("expected",)), train=("expected.*", "image.denoiser.*")),
    "reconstruct": replace(BASE, objective=Reconstruct(level="image"), train=("image.space.*",)),
    "contrast": replace(
        BASE, objective=Contrast(level="image", heads=("kind",)).tiny(), level="", train=("text.*", "contrast.*")
    ),
    "lora": replace(BASE, train=(), adapter=Lora(targets=LAYERS, rank=2), validation=0.3, validate_every=1),
    "dora": replace(BASE, train=(), adapter=Lora(targets=LAYERS, rank=2, dora=True)),
    "lora beside": replace(BASE, train=(), adapter=Lora(targets=(*LAYERS, "text.*.query"), rank=2, merge=False)),
    "dreambooth": replace(
        BASE, objective=Dreambooth(subject="一个方块", class_noun=("方块", "红色")).tiny(), size=(128, 128)
    ),
    "a word": replace(
        BASE,
        objective=Dreambooth(subject="一个<方>", prior=0.0),
        train=(),
        adapter=TextualInversion(token="<方>", initial="方块", vectors=2),
    ),
    "reward": replace(BASE, objective=RewardWeighted()),
    "prefer": replace(BASE, objective=DiffusionDPO()),
    "rounds": replace(
        BASE, objective=OnlineRewards(reward=CustomReward(name="rising"), requests=2, draws=2, every=1, steps=2)
    ),
    "rounds of rewards": replace(
        BASE,
        objective=OnlineRewards(
            reward=CustomReward(name="rising"), learn=RewardWeighted(), requests=2, draws=2, every=2, steps=2
        ),
    ),
    "ascent": replace(BASE, objective=DRaFT(reward=ColourfulReward(), steps=2, anchor=0.1), caption_dropout=0.0),
    "things": replace(
        BASE, objective=LayeredObjects(), level="expected", train=("expected.*", "things.*"), optimiser="adafactor"
    ),
    "muon": replace(
        BASE, optimiser="muon", lr_schedule="cosine", warmup=1, lr_overrides=(("image.denoiser.*.to_q.*", 1e-4),)
    ),
}


def labelled(pictures: Pictures) -> Pictures:
    """With what `Things` tells things by."""
    pictures.labels = [
        {**row, "kind2": "25fb", "boxes": [0.5, 0.5, 0.4]} if number % 2 else row
        for number, row in enumerate(pictures.labels)
    ]
    return pictures


def elsewhere(recipe: Recipe, shards: Path, out: Path, teacher: System | None = None) -> System:
    """The system that a run leaves which took place elsewhere, from its first encoding to the file of its weights."""
    SEEN.clear()
    given: dict[str, Any] = {"teacher": teacher, "judges": Judges(own={"rising": rising})}
    with counted(), OneDevice():
        run = Trainer(recipe, labelled(Pictures(shards)), out, processes=Processes(device=ELSEWHERE), **given)
        run.everything()
        assert {p.device for p in run.system.parameters()} == {ELSEWHERE}
    return System.read(out)


@pytest.mark.parametrize("name", STAGES)
def test_a_whole_stage_takes_place_on_its_device(name: str, tiny_shards: Path, tmp_path: Path) -> None:
    stage = STAGES[name]
    recipe = replace(xiaomo.tiny(), stages=(stage,), prompts=("红色的方块",))
    made = elsewhere(recipe, tiny_shards, tmp_path / "run")
    assert (tmp_path / "run" / "state.pt").is_file()
    assert list((tmp_path / "run").glob("sheets/*.png")) or stage.level != "image"
    assert bool(list((tmp_path / "run").glob("*-1.safetensors"))) == (stage.adapter is not None)
    assert draw(made, "红", seed=1, steps=1)[0].image.size == (128, 128)


#: Stages whose steps ask their device for no number: neither draw, nor have words read by an encoder that learns, nor
#: an optimiser that asks for norms.
ASYNCHRONOUS = ("of two levels", "reconstruct", "lora", "dora", "dreambooth", "reward", "prefer", "muon")


@pytest.mark.parametrize("name", ASYNCHRONOUS)
def test_a_step_does_not_wait_for_its_device(
    name: str, tiny_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = replace(STAGES[name], log_every=3, steps=3)
    asked: list[int] = []
    plain = Trainer._step

    def step(self: Trainer, *given: Any) -> None:
        ASKED.clear()
        plain(self, *given)
        asked.append(len(ASKED))

    monkeypatch.setattr(Trainer, "_step", step)
    elsewhere(replace(xiaomo.tiny(), stages=(stage,), prompts=()), tiny_shards, tmp_path / "run")
    assert asked == [0] * 3


@pytest.mark.parametrize("network", ["controlnet", "t2i"])
def test_a_network_beside_a_unet_does(network: Any, tiny_shards: Path, tmp_path: Path) -> None:
    for seen in ("edges", "map"):
        name = "depth" if seen == "map" else "control"
        adapter = ControlAdapters(network=network, source=seen, name=name)  # type: ignore[arg-type]
        stage = replace(BASE, train=(), adapter=adapter, size=(128, 128))
        bert_words(tmp_path / seen / "words.0")
        elsewhere(replace(taiyi_zh.tiny(), stages=(stage,), prompts=()), tiny_shards, tmp_path / seen)
        assert list((tmp_path / seen / "control-1").glob("*.safetensors"))


def test_distilling_does(tiny_shards: Path, tmp_path: Path, teacher: System) -> None:
    teacher = copy.deepcopy(teacher)  # it is taken elsewhere
    part = Bert(words="lexicon", vocab=200, positions=32, types=1, length=24).tiny()
    stage = replace(
        BASE,
        objective=Distil(teacher=teacher.recipe.text_encoders[0]).tiny(),
        level="",
        train=("text.*",),
        caption_dropout=0.0,
    )
    stage = replace(stage, objective=replace(stage.objective, teacher=teacher.recipe.text_encoders[0]))
    elsewhere(Recipe(name="student", text_encoders=(part,), stages=(stage,)), tiny_shards, tmp_path / "run", teacher)
