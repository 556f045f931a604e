"""A folder that diffusers saved draws in bimo as in diffusers' own pipeline, within 1/255 a channel."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import diffusers
import numpy
import pytest
import torch
from transformers import BertModel

from bimo.core.part import dumps, loads
from bimo.diffusion.system import System
from bimo.models.layouts.diffusers_folder import read_folder, recipe_of
from tests.support.comparison import compare
from tests.support.drawing import alike, draw
from tests.support.tiny_checkpoints import checkpoint, read_by_diffusers

pytestmark = pytest.mark.usefixtures("one_thread")

SCHEDULE = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
SCHEDULERS: dict[str, Any] = {
    "pndm": lambda: diffusers.PNDMScheduler(**SCHEDULE, skip_prk_steps=True, steps_offset=1),
    "ddim": lambda: diffusers.DDIMScheduler(**SCHEDULE, clip_sample=False, set_alpha_to_one=False, steps_offset=1),
    "euler": lambda: diffusers.EulerDiscreteScheduler(**SCHEDULE, steps_offset=1),
    "dpm++": lambda: diffusers.DPMSolverMultistepScheduler(**SCHEDULE, steps_offset=1),
}
#: What nothing is said of: latents are never clipped.
UNCLIPPED = {"ddim": {"clip_sample": False}, "pndm": {"skip_prk_steps": True}}
CASES = [
    ("bert", "pndm", {"text": "一只红苹果"}),
    ("bert", "ddim", {"text": "一只红苹果，山水画", "negative": "小桥"}),
    ("bert", "euler", {"text": "小桥流水人家", "negative": "红"}),
    ("bert", "dpm++", {"text": "reds 苹果", "guidance": 1.0}),
    ("clip", "pndm", {"text": "a red cat", "negative": "apple", "size": (80, 48)}),
    ("clip", "ddim", {"text": "红苹果", "count": 2}),
    ("clip", "euler", {"text": "red", "guidance": 1.0, "negative": "cat"}),
    ("clip", "dpm++", {"text": "a very long prompt that is longer than the tower reads, and then some more 苹果"}),
]


def by_diffusers(pipeline: diffusers.StableDiffusionPipeline, request: dict[str, Any]) -> list[numpy.ndarray]:
    """The pictures of diffusers' own pipeline for a request of bimo."""
    count = request.get("count", 1)
    width, height = request.get("size", (64, 64))
    drawn: Any = pipeline(
        request["text"],
        negative_prompt=request.get("negative"),
        width=width,
        height=height,
        num_inference_steps=request["steps"],
        guidance_scale=request["guidance"],
        num_images_per_prompt=count,
        generator=[torch.Generator().manual_seed(request["seed"] + i) for i in range(count)],
    )
    return [numpy.asarray(image) for image in drawn.images]


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Folder by tower and scheduler, saved when first asked for."""
    made: dict[tuple[str, str], Path] = {}

    def place(kind: Any, scheduler: str) -> Path:
        if (kind, scheduler) not in made:
            made[kind, scheduler] = tmp_path_factory.mktemp(f"{kind}-{scheduler}") / "saved"
            checkpoint(made[kind, scheduler], kind, SCHEDULERS[scheduler]())
        return made[kind, scheduler]

    return place


@pytest.mark.parametrize(("kind", "scheduler", "request_"), CASES)
def test_draws_as_diffusers(places: Any, kind: str, scheduler: str, request_: dict[str, Any]) -> None:
    folder = places(kind, scheduler)
    request = {"seed": 3, "steps": 6, "guidance": 7.5, "size": (64, 64), **request_}
    compare(draw(read_folder(folder), request), by_diffusers(read_by_diffusers(folder), request))


def test_two_drawn_together_are_as_two_of_diffusers(places: Any) -> None:
    folder = places("clip", "pndm")
    request = {"text": "red cat", "seed": 5, "steps": 5, "guidance": 7.5, "size": (64, 64), "count": 2}
    compare(draw(read_folder(folder), request, batch=2), by_diffusers(read_by_diffusers(folder), request))


@pytest.mark.parametrize("name", SCHEDULERS)
def test_named_samplers_are_those_of_diffusers(places: Any, name: str) -> None:
    folder = places("bert", "pndm")
    pipeline = read_by_diffusers(folder)
    # What the folder's scheduler says holds for the named one too: PNDM's leading times.
    pipeline.scheduler = type(SCHEDULERS[name]()).from_config(pipeline.scheduler.config, **UNCLIPPED.get(name, {}))
    assert pipeline.scheduler.config.timestep_spacing == "leading"
    request = {"text": "一只红苹果", "seed": 9, "steps": 4, "guidance": 5.0, "size": (64, 64)}
    compare(draw(read_folder(folder), {**request, "sampler": name}), by_diffusers(pipeline, request))


def test_v_prediction_and_stable_diffusion_2_fields(tmp_path: Path) -> None:
    scheduler = diffusers.DDIMScheduler(
        **SCHEDULE, clip_sample=False, set_alpha_to_one=False, steps_offset=1, prediction_type="v_prediction"
    )
    settings = {"attention_head_dim": (2, 4), "use_linear_projection": True, "upcast_attention": True}
    pipeline = checkpoint(tmp_path / "saved", "clip", scheduler, **settings)
    system = read_folder(tmp_path / "saved")
    assert system.recipe.levels[0].schedule.prediction == "v_prediction"  # type: ignore[attr-defined]
    assert system.recipe.levels[0].denoiser.heads == (2, 4)  # type: ignore[attr-defined]
    request = {"text": "a red cat", "seed": 1, "steps": 5, "guidance": 7.5}
    compare(draw(system, request), by_diffusers(pipeline, request))


def test_size_of_the_folder_is_the_default(places: Any) -> None:
    folder = places("bert", "pndm")
    picture = draw(read_folder(folder), "苹果", seed=1, steps=1)[0]
    assert picture.image.size == (64, 64)


def test_outdated_scheduler_is_mended_as_in_diffusers(places: Any, tmp_path: Path) -> None:
    import json
    import shutil

    folder = tmp_path / "old"
    shutil.copytree(places("bert", "ddim"), folder)
    path = folder / "scheduler" / "scheduler_config.json"
    schedule = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "num_train_timesteps": 1000}
    path.write_text(json.dumps({"_class_name": "DDIMScheduler", "_diffusers_version": "0.2.2", **schedule}))
    request = {"text": "一只红苹果", "seed": 3, "steps": 6, "guidance": 7.5}
    with pytest.warns(FutureWarning):
        pipeline = diffusers.StableDiffusionPipeline.from_pretrained(str(folder), local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    compare(draw(read_folder(folder), request), by_diffusers(pipeline, request))


def test_files_of_old_days_draw_the_same(places: Any, tmp_path: Path) -> None:
    """vocab.txt alone, pickled weights, positions among them, old names of the autoencoder's attention."""
    import shutil

    from safetensors.torch import load_file

    new, old = places("bert", "pndm"), tmp_path / "old"
    shutil.copytree(new, old)
    words = old / "tokenizer"
    (words / "tokenizer.json").unlink(missing_ok=True)
    shutil.copy(new.with_name("saved-words") / "vocab.txt", words / "vocab.txt")
    extra = {"embeddings.position_ids": torch.arange(24)[None]}
    former = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    for name, stem, binary in (
        ("text_encoder", "model", "pytorch_model"),
        ("unet", "diffusion_pytorch_model", "diffusion_pytorch_model"),
        ("vae", "diffusion_pytorch_model", "diffusion_pytorch_model"),
    ):
        state = load_file(old / name / f"{stem}.safetensors")
        if name == "vae":
            for today, once in former.items():
                state = {key.replace(f"attentions.0.{today}.", f"attentions.0.{once}."): v for key, v in state.items()}
            assert any(".query." in key for key in state)
        torch.save(state | (extra if name == "text_encoder" else {}), old / name / f"{binary}.bin")
        (old / name / f"{stem}.safetensors").unlink()
    request = {"text": "一只红苹果，reds", "seed": 3, "steps": 3, "guidance": 7.5}
    one, other = read_folder(new), read_folder(old)
    assert one.weights_hash != other.weights_hash
    alike(one, other, request)


@pytest.mark.parametrize("kind", ["bert", "clip"])
def test_saved_by_bimo_it_draws_the_same(places: Any, tmp_path: Path, kind: str) -> None:
    system = read_folder(places(kind, "pndm"))
    assert loads(dumps(system.recipe)) == system.recipe
    system.save(tmp_path)
    again = System.read(tmp_path)
    request = {"text": "red 苹果", "seed": 3, "steps": 2, "negative": "小桥"}
    alike(system, again, request)


def test_pipeline_gives_bert_no_mask_and_pads_to_its_length(places: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What bimo's Bert tower takes for granted of diffusers' pipeline."""
    pipeline = read_by_diffusers(places("bert", "pndm"))
    seen: list[tuple[tuple[int, ...], Any]] = []
    own = BertModel.forward

    def forward(self: Any, ids: Any = None, *args: Any, attention_mask: Any = None, **rest: Any) -> Any:
        seen.append((tuple(ids.shape), attention_mask))
        return own(self, ids, *args, attention_mask=attention_mask, **rest)

    monkeypatch.setattr(BertModel, "forward", forward)
    pipeline("苹果", num_inference_steps=1)
    assert seen == [((1, 24), None), ((1, 24), None)]
    assert recipe_of(places("bert", "pndm")).text_encoders[0].length == 24  # type: ignore[attr-defined]


def test_same_tokens_as_transformers(places: Any) -> None:
    texts = [
        "",
        "a red cat",
        "红苹果 红",
        "  two   blanks\n",
        "Ünïcode ｆｕｌｌ",
        "😀" * 9,
        "redcat's 123",
        "[SEP] <|endoftext|> x",
    ]
    for kind in ("bert", "clip"):
        folder = places(kind, "pndm")
        tower: Any = read_folder(folder).text_encoders[0]
        words: Any = read_by_diffusers(folder).tokenizer
        limit = words.model_max_length
        expected = words(texts, padding="max_length", max_length=limit, truncation=True, return_tensors="pt").input_ids
        assert torch.equal(tower.ids(texts)[0], expected)


def test_clip_counts_the_lost_characters(places: Any) -> None:
    tower: Any = read_folder(places("clip", "pndm")).text_encoders[0]
    assert tower.budget("red cat").lost == ""
    # 14 tokens fit: 红 takes two of this vocabulary, 苹 and 果 three each, so 14 = 红红红红红红红.
    assert tower.budget("红" * 7).lost == ""
    budget = tower.budget("红" * 7 + "苹果")
    assert (budget.lost, budget.limit) == ("苹果", 16)
    assert budget.warnings()
    # A character that is read in part is lost.
    assert tower.budget("a" + "红" * 7).lost == "红"


def test_penultimate_layer_is_a_text_encoder_of_one_layer_less(places: Any) -> None:
    """As Stable Diffusion 2's folders have it: 23 layers and the last of them, for 24 and the last but one."""
    from dataclasses import replace

    tower: Any = read_folder(places("clip", "pndm")).text_encoders[0]
    tower.part = replace(tower.part, penultimate=True)
    with torch.inference_mode():
        found = tower.encode(["a red cat"]).tokens
        del tower.model.encoder.layers[-1]
        assert torch.equal(found, tower.model(tower.ids(["a red cat"])[0]).last_hidden_state)
