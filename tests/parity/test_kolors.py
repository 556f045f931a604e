"""Kolors' folders draw as in diffusers' own pipeline, its tower and tokenizer answer as theirs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import diffusers
import numpy
import pytest
import torch
from PIL import Image

from bimo.core import module_weights
from bimo.core.errors import RecipeError, WeightsError
from bimo.core.part import dumps, loads
from bimo.diffusion.image_inputs import mask_of, pixels_of
from bimo.diffusion.system import System
from bimo.models.layouts.diffusers_folder import read_folder, recipe_of
from bimo.models.text_encoders.chatglm import ChatGlm, ChatGlmTextEncoder
from bimo.recipes.kolors import kolors, kolors_inpainting
from tests.parity.test_image_inputs import hole, photo, unpasted
from tests.parity.test_stable_diffusion import by_diffusers
from tests.parity.test_stable_diffusion_xl import XL
from tests.support.comparison import compare
from tests.support.drawing import alike, draw
from tests.support.kolors_checkpoints import (
    PIECES,
    chatglm,
    glm_words,
    model_file,
    module_of_diffusers,
    opened,
    pieces_by_hand,
    random,
    save,
    tokenizers_of_diffusers,
)
from tests.support.tiny_checkpoints import unet, vae

pytestmark = pytest.mark.usefixtures("one_thread")

TEXTS = ["", "一只红苹果", "a red cat", "red  苹果，山水画 😀 zebra", "红" * 300]
VOCAB = len(PIECES) + 9 + 3


def scheduler() -> Any:
    return diffusers.EulerDiscreteScheduler(
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.014,
        num_train_timesteps=1100,
        steps_offset=1,
        timestep_spacing="leading",
    )


def kolors_unet(**settings: Any) -> Any:
    torch.manual_seed(3)
    told = {"encoder_hid_dim": 16, "encoder_hid_dim_type": "text_proj"}
    return unet(24, projection_class_embeddings_input_dim=16 + 6 * 8, **XL, **told, **settings).eval()


@pytest.fixture(scope="module")
def words() -> Any:
    with tokenizers_of_diffusers() as made:
        yield made


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("kolors") / "saved"
    torch.manual_seed(4)
    save(place, random(chatglm(VOCAB)), kolors_unet(), vae().eval(), scheduler())
    return place


@pytest.fixture(scope="module")
def pipeline(folder: Path, words: Any) -> Any:
    return opened(folder, words)


@pytest.fixture(scope="module")
def system(folder: Path) -> System:
    return read_folder(folder)


def test_tokens_padding_and_places_are_those_of_diffusers(system: System, pipeline: Any) -> None:
    tower: Any = system.text_encoders[0]
    told = pipeline.tokenizer(TEXTS, padding="max_length", max_length=256, truncation=True, return_tensors="pt")
    ids, mask = tower.ids(TEXTS)
    assert torch.equal(ids, told["input_ids"])
    assert torch.equal(mask.long(), told["attention_mask"])
    assert torch.equal((mask.cumsum(1) - 1).clamp(min=0), told["position_ids"])


def test_text_encoder_answers_as_that_of_diffusers(system: System, pipeline: Any) -> None:
    for text in TEXTS:
        with torch.inference_mode():
            tokens, _, pooled, _ = pipeline.encode_prompt(text, do_classifier_free_guidance=False)
            found = system.encode([text])[0]
        assert torch.allclose(found.tokens, tokens, atol=1e-4)
        assert found.pooled is not None
        assert torch.allclose(found.pooled, pooled, atol=1e-4)
        assert found.mask is None


@pytest.mark.parametrize(
    "request_",
    [
        {"text": "一只红苹果"},
        {"text": "a red cat", "negative": "苹果", "size": (80, 48)},
        {"text": "红", "guidance": 1.0},
        {"text": "山水画", "count": 2},
    ],
)
def test_draws_as_diffusers(system: System, pipeline: Any, request_: dict[str, Any]) -> None:
    request = {"seed": 3, "steps": 4, "guidance": 5.0, "size": (64, 64), **request_}
    compare(draw(system, request), by_diffusers(pipeline, request))


def test_begins_from_a_picture_as_diffusers(system: System, pipeline: Any) -> None:
    other = module_of_diffusers("pipeline_kolors_img2img").KolorsImg2ImgPipeline(**pipeline.components)
    other.set_progress_bar_config(disable=True)
    drawn = other(
        "红",
        image=photo().resize((64, 64), Image.Resampling.LANCZOS),
        strength=0.6,
        num_inference_steps=5,
        guidance_scale=5.0,
        generator=torch.Generator().manual_seed(4),
    )
    request = {"text": "红", "seed": 4, "steps": 5, "size": (64, 64), "image": photo(), "strength": 0.6}
    compare(draw(system, request | {"guidance": 5.0}), [numpy.asarray(i) for i in drawn.images])


def test_paints_in_a_mask_as_computed_step_by_step(pipeline: Any, tmp_path: Path) -> None:
    """The nine channels of Kolors-Inpainting, for which diffusers has no pipeline: x, mask, what the mask leaves."""
    nine = kolors_unet(in_channels=9, out_channels=4)
    save(tmp_path / "nine", pipeline.text_encoder, nine, pipeline.vae, scheduler(), "KolorsInpaintPipeline")
    system = unpasted(read_folder(tmp_path / "nine"))
    assert system.recipe.name == "kolors-inpainting"
    request = {"text": "红", "seed": 4, "steps": 4, "size": (64, 64), "image": photo(), "mask": hole(), "guidance": 6.0}
    with torch.inference_mode():
        tokens, null, pooled, null_pooled = pipeline.encode_prompt("红", negative_prompt="")
        generator = torch.Generator().manual_seed(4)
        schedule = scheduler()
        schedule.set_timesteps(4)
        x = torch.randn(1, 4, 8, 8, generator=generator) * schedule.init_noise_sigma
        mask = mask_of(hole(), (64, 64))
        left = pixels_of(photo(), (64, 64)) * (mask < 0.5)
        coded = pipeline.vae.encode(left).latent_dist.sample(generator) * pipeline.vae.config.scaling_factor
        beside = torch.cat([mask[:, :, ::8, ::8], coded], dim=1)
        added = {
            "text_embeds": torch.cat([null_pooled, pooled]),
            "time_ids": torch.tensor([[64.0, 64, 0, 0, 64, 64]] * 2),
        }
        for t in schedule.timesteps:
            told = torch.cat([schedule.scale_model_input(x, t), beside], dim=1)
            answer = nine(torch.cat([told] * 2), t, torch.cat([null, tokens]), added_cond_kwargs=added).sample
            x = schedule.step(answer[:1] + 6.0 * (answer[1:] - answer[:1]), t, x, generator=generator).prev_sample
        pixels = pipeline.vae.decode(x / pipeline.vae.config.scaling_factor).sample
    expected = (pixels[0] / 2 + 0.5).clamp(0, 1).permute(1, 2, 0).mul(255).round().to(torch.uint8).numpy()
    compare(draw(system, request), [expected])


def test_saved_by_bimo_it_draws_the_same(system: System, tmp_path: Path) -> None:
    assert loads(dumps(system.recipe)) == system.recipe
    system.save(tmp_path)
    request = {"text": "red 苹果", "seed": 3, "steps": 2, "size": (64, 64)}
    alike(system, System.read(tmp_path), request)


@pytest.mark.parametrize("text", [*TEXTS[:4], " 前后 有空格 ", "redred苹果苹", "a\tb\nc"])
def test_pieces_are_joined_as_sentencepiece_does(tmp_path: Path, text: str) -> None:
    tower = tiny_tower(tmp_path)
    assert tower.tokenizer.encode(text).tokens == pieces_by_hand(text)


def tiny_tower(folder: Path) -> ChatGlmTextEncoder:
    glm_words(folder)
    tower = ChatGlm(vocab=VOCAB, length=8).tiny().build()
    tower.load_tokenizer(folder)
    return tower


def test_budget_counts_what_is_lost(tmp_path: Path) -> None:
    tower = tiny_tower(tmp_path)
    assert tower.budget("红苹果").lost == ""
    budget = tower.budget("红红红红红红果画")
    assert (budget.limit, budget.lost) == (8, "红果画")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not of byte pairs"),
        (model_file()[:100], "truncated"),
        (model_file(algorithm=1), "model_type 1"),
        (b"\xff" * 9, "cannot read"),
        (None, "tokenizer.model"),
        (model_file(pieces=PIECES + [(f"w{i}", -99.0, 1) for i in range(9)]), "do not belong together"),
    ],
)
def test_bad_words_say_what_is_wrong(tmp_path: Path, content: bytes | None, message: str) -> None:
    if content is not None:
        (tmp_path / "tokenizer.model").write_bytes(content)
    with pytest.raises(WeightsError) as raised:
        ChatGlm(vocab=VOCAB).tiny().build().load_tokenizer(tmp_path)
    assert message in raised.value.en


@pytest.mark.parametrize(
    ("file", "changes", "message"),
    [
        ("text_encoder/config.json", {"add_qkv_bias": False}, "add_qkv_bias"),
        ("text_encoder/config.json", {"swirl": 2}, "swirl"),
        ("unet/config.json", {"encoder_hid_dim": 40}, "words 40"),
        ("model_index.json", {"tokenizer": ["tokenizer", "MyTokenizer"]}, "never run"),
    ],
)
def test_what_does_not_belong_together_is_refused(
    folder: Path, tmp_path: Path, file: str, changes: dict[str, Any], message: str
) -> None:
    shutil.copytree(folder, tmp_path / "bad", ignore=shutil.ignore_patterns("*.safetensors"))
    path = tmp_path / "bad" / file
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(RecipeError) as raised:
        recipe_of(tmp_path / "bad")
    assert message in raised.value.en


@pytest.mark.slow
def test_full_size_has_as_many_parameters_as_published() -> None:
    def count(module: Any) -> int:
        return sum(p.numel() for p in module.parameters())

    with module_weights.unfilled():
        system = System(kolors)
        level: Any = system.level("image")
        inpainting: Any = System(replace_text(kolors_inpainting)).level("image")
        theirs = chatglm(
            num_layers=28, hidden_size=4096, ffn_hidden_size=13696, kv_channels=128, num_attention_heads=32
        )
    assert count(system.text) == count(theirs) == 6_243_584_000
    assert count(level.denoiser) == 2_579_458_820
    assert count(inpainting.denoiser) == 2_579_458_820 + 5 * 320 * 9
    assert count(level.space) == 83_653_863


def replace_text(recipe: Any) -> Any:
    """The recipe at full size with a toy tower, whose meta parameters would take a second to make."""
    from dataclasses import replace

    return replace(recipe, text_encoders=(ChatGlm().tiny(),))
