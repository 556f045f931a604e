"""From a wish to stages: each number by its rule, the file that says so, and what fits into memory."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from bimo.core.errors import RecipeError, RequestError
from bimo.core.module_weights import unfilled
from bimo.core.recipe import Recipe, Stage
from bimo.core.tensors import Conditioning, DenoiserInput, TextEncoding
from bimo.diffusion.system import System
from bimo.hub import registry
from bimo.recipes.lumina_image import lumina_image
from bimo.recipes.taiyi_sd import taiyi_zh
from bimo.training.adapters.control_stage import ControlAdapters
from bimo.training.adapters.lora_stage import Lora, TextualInversion
from bimo.training.finetune import memory
from bimo.training.finetune.footprint import Activations, Footprint, FrozenCounts, footprint, footprint_of
from bimo.training.finetune.planning import Pictured, planned, used
from bimo.training.finetune.recipe_file import NAME, source
from bimo.training.finetune.wish import Wish
from bimo.training.objectives.denoise import Denoise
from bimo.training.objectives.dreambooth import Dreambooth
from bimo.training.optimizers import freeze
from bimo.xiaomo.recipe import xiaomo
from tests.support.tiny_checkpoints import bert_words

LARGE, SMALL = [800_000_000], [9_000_000, 14_000_000]
TWENTY = Pictured(20, ((640, 480),) * 8 + ((480, 640),) * 8 + ((512, 512),) * 4, ("红灯笼",))


@pytest.fixture(autouse=True)
def english(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BIMO_LANGUAGE", "en")


def wish(**given: Any) -> Wish:
    return Wish(model="m", **given)


@pytest.mark.parametrize(
    ("count", "rank", "steps"),
    [(5, 8, 250), (20, 16, 500), (300, 16, 7500), (5000, 32, 10_000), (100_000, 64, 125_000)],
)
def test_rank_and_steps_by_the_number_of_pictures(count: int, rank: int, steps: int) -> None:
    (stage,) = planned(wish(), taiyi_zh, replace(TWENTY, count=count), LARGE).stages
    assert isinstance(stage.adapter, Lora)
    assert (stage.adapter.rank, stage.adapter.alpha, stage.steps, stage.batch, stage.lr) == (rank, rank, steps, 4, 1e-4)
    assert stage.buckets == ((448, 576), (512, 512), (576, 448))


def test_what_is_asked_counts_and_is_said() -> None:
    plan = planned(wish(rank=4, steps=7, lr=1e-3, batch=2, size=(256, 256)), taiyi_zh, TWENTY, LARGE)
    (stage,) = plan.stages
    assert isinstance(stage.adapter, Lora)
    assert (stage.adapter.rank, stage.steps, stage.lr, stage.batch, stage.size) == (4, 7, 1e-3, 2, (256, 256))
    assert {what for what, _, why in plan.choices if str(why) == "as asked"} == {"rank", "steps", "lr", "batch", "size"}


def test_a_small_model_of_two_levels() -> None:
    first, painter = planned(wish(), xiaomo, TWENTY, SMALL).stages
    assert (first.level, painter.level) == ("expected", "image")
    assert isinstance(first.adapter, Lora)
    assert first.adapter.targets == ("expected.denoiser.*", "text.*.model.*")
    assert (first.steps, painter.steps, first.lr, painter.lr, first.batch) == (250, 75, 2e-3, 1e-3, 16)
    assert (first.caption_dropout, painter.caption_dropout) == (0.0, 0.1)


def test_every_way_makes_its_own_stage() -> None:
    (subject,) = planned(wish(prompt="一只<我的>猫", nouns=("猫",)), taiyi_zh, TWENTY, LARGE).stages
    assert subject.objective == Dreambooth(subject="一只<我的>猫", class_noun=("猫",), count=200)
    assert subject.batch == 8  # half of them of the class
    (word,) = planned(wish(way="embedding", word="<鸭>", nouns=("鸭",)), taiyi_zh, TWENTY, LARGE).stages
    assert word.adapter == TextualInversion(token="<鸭>", initial="鸭", vectors=4)
    assert isinstance(word.objective, Dreambooth)
    assert "一张<鸭>的照片" in word.objective.subject
    assert not word.objective.prior
    (seen,) = planned(wish(way="controlnet", control="canny"), taiyi_zh, TWENTY, LARGE).stages
    assert seen.adapter == ControlAdapters(name="canny", source="edges", level="image")
    (depth,) = planned(wish(way="controlnet", control="depth"), taiyi_zh, TWENTY, LARGE).stages
    assert depth.adapter == ControlAdapters(name="depth", source="map", level="image")
    (whole,) = planned(wish(way="full"), taiyi_zh, TWENTY, LARGE).stages
    assert (whole.train, whole.adapter, whole.lr) == (("image.denoiser.*",), None, 1e-5)
    (kept,) = planned(wish(nouns=("猫",)), taiyi_zh, TWENTY, LARGE).stages
    assert isinstance(kept.objective, Dreambooth)
    assert not kept.objective.subject


def test_what_cannot_be_learnt_is_said() -> None:
    with pytest.raises(RecipeError, match=r"sides are multiples of 8, as 496x496"):
        planned(wish(size=(500, 500)), taiyi_zh, TWENTY, LARGE)
    with pytest.raises(RecipeError, match="does not draw"):
        planned(wish(), Recipe(name="clip"), TWENTY, [0])


def test_no_bucket_has_fewer_pictures_than_a_batch() -> None:
    sizes = ((640, 480),) * 9 + ((1200, 400),) * 2 + ((512, 512),) * 5
    choices = ((384, 640), (448, 576), (512, 512), (576, 448), (640, 384))
    assert used(sizes, choices, 4) == ((512, 512), (576, 448))
    assert used(sizes, choices, 2) == ((512, 512), (576, 448), (640, 384))
    assert used(sizes[:1], choices, 4) == ((576, 448),)


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"prompt": "一只<我的>猫", "nouns": ("猫", "狗")},
        {"way": "embedding", "word": '<"鸭">', "nouns": ("鸭",)},
        {"way": "controlnet", "control": "canny"},
        {"way": "full", "precision": "bf16"},
    ],
)
def test_the_file_is_the_plan(given: dict[str, Any], tmp_path: Path) -> None:
    plan = planned(wish(**given), taiyi_zh, TWENTY, LARGE)
    text = source("taiyi-sd-zh", plan.stages, plan.prompts, "LoRA.", "bimo train ...")
    (tmp_path / "recipe.py").write_text(text, encoding="utf-8")
    found = registry.recipe(f"{tmp_path / 'recipe.py'}:{NAME}")
    assert found == replace(taiyi_zh, stages=plan.stages, prompts=plan.prompts)
    assert "steps=" in text
    assert "lr=" in text
    assert max(map(len, text.splitlines())) <= 120


def tiny(tmp_path: Path) -> System:
    torch.manual_seed(0)
    system = System(taiyi_zh.tiny()).eval()
    words = tmp_path / "words"
    bert_words(words)
    system.text_encoders[0].load_tokenizer(words)
    return system


def stage(**given: Any) -> Stage:
    base: dict[str, Any] = {"name": "lora", "objective": Denoise(), "level": "image", "train": (), "size": (64, 64)}
    return Stage(**(base | {"adapter": Lora(targets=("image.denoiser.*.to_q",), rank=2), "batch": 4} | given))


def test_activations_are_those_that_a_step_keeps(tmp_path: Path) -> None:
    """Counted without contents, they are the bytes that autograd saves of the same step with contents."""
    system, one = tiny(tmp_path), stage()
    held = footprint(system, one, (64, 64), "一只红色苹果")
    assert held.activations is not None
    encodings = tuple(encoder.encode(["一只红色苹果"]) for encoder in system.text_encoders)
    adapter = one.adapter
    assert isinstance(adapter, Lora)
    names = adapter.put(system)
    freeze(dict(system.named_parameters()), names)
    seen: dict[int, int] = {p.untyped_storage().data_ptr(): 0 for p in system.parameters()}
    kept: list[torch.Tensor] = []

    def keep(value: torch.Tensor) -> torch.Tensor:
        kept.append(value)
        seen.setdefault(value.untyped_storage().data_ptr(), value.untyped_storage().nbytes())
        return value

    x = torch.zeros(1, *system.space("image").shape((64, 64)))  # type: ignore[operator]
    conditioning = system.condition(tuple(replace(e, tokens=e.tokens.detach()) for e in encodings))
    system.level("image").denoiser.train()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value):
        system.denoise(DenoiserInput("image", x, torch.zeros(1), conditioning)).sum()
    assert sum(seen.values()) == pytest.approx(held.activations.whole, rel=0.02)
    assert 0 < held.activations.checkpointed < held.activations.whole
    assert held.learning == 16 * sum(p.numel() for n, p in system.named_parameters() if ".lora." in n)


def test_pictures_are_encoded_by_the_batch_but_no_more_than_a_step_has(tmp_path: Path) -> None:
    """Encoding takes 200 bytes a picture of 256 x 256: what is added is that of a batch of the cache."""

    def encoding(batch: int, size: tuple[int, int] = (256, 256), *buckets: tuple[int, int]) -> float:
        held = Footprint(1000, 0, Activations(0, 0), 200 * size[0] * size[1] // 256**2, size)
        return held.total(stage(batch=batch, buckets=buckets)) / 1.1 - 1000

    assert [encoding(count) for count in (1, 2, 4, 16)] == pytest.approx([200, 400, 800, 800], abs=1)
    assert [encoding(4, (side, side)) for side in (512, 1024)] == pytest.approx([800, 3200], abs=1)
    # One of 384 x 384, but two of its bucket: 512 x 256 is half of the most.
    assert encoding(4, (384, 384)) == pytest.approx(200 * 1.5**2, abs=1)
    assert encoding(4, (384, 384), (512, 256)) == pytest.approx(800, abs=1)
    # As a sample is decoded, one picture, which takes twice as much, where frozen weights are held otherwise.
    held = Footprint(0, 0, Activations(0, 0), 200, (256, 256))
    assert [held.total(stage(batch=count, frozen="int8")) for count in (1, 4)] == [440, 880]


def test_on_a_card_frozen_weights_are_narrowed_then_rounded_then_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = FrozenCounts(text=4000, text_rest=500, matrices=10_000, rest=1000, spaces=500, largest=100, learning=5)
    held = Footprint(4 * 16_000, 160, Activations(40_000, 4000), 100, (64, 64), checkpoints=True, frozen=counts)
    monkeypatch.setattr(memory, "footprint", lambda *given: held)
    monkeypatch.setattr(memory, "available", lambda kind: True)
    system, wanted = tiny(tmp_path), stage(batch=1, precision="bf16")
    ((*ways,),) = memory.fitted(system, (wanted,), "", None, card=True).ways
    assert [memory.flags(way).removeprefix("batch=1 accumulate=1").strip() for way, _ in ways] == [
        "",
        "frozen=bf16 offload=parts",
        "gradient_checkpointing",
        "gradient_checkpointing frozen=bf16 offload=parts",
        "gradient_checkpointing frozen=int8 offload=parts",
        "gradient_checkpointing frozen=nf4 offload=parts",
        "gradient_checkpointing frozen=bf16 offload=groups",
        "gradient_checkpointing frozen=nf4 offload=groups",
    ]
    totals = [total for _, total in ways]
    # Weights, what learns, activations in bfloat16, and each weight as autocast has made it.
    assert totals[0] == int((64_000 + 160 + 20_000 + 20_000) * 1.1)
    # Matrices of 2 bytes, all else of 4, one made whole; the text encoders are away.
    assert totals[1] == int((20_000 + 4000 + 800 + 2000 + 160 + 20_000) * 1.1)
    assert totals[3] == int((20_000 + 4000 + 800 + 2000 + 160 + 2000) * 1.1)
    assert totals[4] == int((10_200 + 4000 + 800 + 2000 + 160 + 2000) * 1.1)
    # Without the denoiser's matrices words take most: there they are read.
    assert totals[6] == int((8000 + 2000 + 2000 + 100) * 1.1)
    for number in range(1, 6):
        (chosen,) = memory.fitted(system, (wanted,), "", totals[number], card=True).stages
        assert chosen == next(way for way, total in ways if total <= totals[number])
    with pytest.raises(RequestError, match="of memory at the least"):
        memory.fitted(system, (wanted,), "", min(totals) - 1, card=True)
    # A stage that says how it keeps them is left so.
    ((*own,),) = memory.fitted(system, (replace(wanted, frozen="int8"),), "", None, card=True).ways
    assert {way.frozen for way, _ in own} == {"int8"}


def test_a_module_that_asks_how_long_texts_are_is_counted() -> None:
    recipe = lumina_image.tiny()
    tokens = torch.zeros(1, 12, 16)
    conditioning = Conditioning((TextEncoding(tokens, torch.ones(1, 12, dtype=torch.bool)),))
    level = recipe.levels[0].name
    learns = stage(level=level, adapter=Lora(targets=(f"{level}.denoiser.*.to_q",), rank=2, alpha=2.0))
    held = footprint_of(recipe, learns, (64, 64), conditioning)
    assert held.activations is not None
    counted = held.frozen
    whole = counted.text + counted.text_rest + counted.matrices + counted.kernels + counted.rest + counted.spaces
    with unfilled():
        assert whole == sum(parameter.numel() for parameter in System(recipe).parameters())
    assert held.weights == 4 * whole


def test_what_does_not_fit_is_done_in_parts_or_refused_with_what_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a picture 4 bytes a pixel are kept, a quarter of them where blocks are worked out twice."""

    def held(system: System, wanted: Stage, size: tuple[int, int], caption: str) -> Footprint:
        kept = 4 * size[0] * size[1]
        return Footprint(100_000, 20_000, Activations(kept, kept // 4), 0, size, checkpoints=True)

    monkeypatch.setattr(memory, "footprint", held)
    system, wanted = tiny(tmp_path), stage(size=(512, 512), batch=16)
    kept = 4 * 512 * 512

    def ways(free: int | None) -> tuple[int, int, bool]:
        (made,) = memory.fitted(system, (wanted,), "", free).stages
        return made.batch, made.accumulate, made.gradient_checkpointing

    def bytes_of(count: float) -> int:
        return int((120_000 + count * kept) * 1.1)

    assert ways(None) == ways(bytes_of(16)) == (16, 1, False)
    assert ways(bytes_of(16) - 1) == ways(bytes_of(8)) == (8, 2, False)
    assert ways(bytes_of(1)) == (1, 16, False)
    assert ways(bytes_of(1) - 1) == ways(bytes_of(0.5)) == (2, 8, True)
    assert ways(bytes_of(0.25)) == (1, 16, True)
    with pytest.raises(RequestError, match=r"what fits: --size 384x384$"):
        ways(bytes_of(0.25) - 1)
    with pytest.raises(RequestError, match="no size fits"):
        ways(100_000)
