"""Folders in diffusers' layout: what is read from their configs, and that a bad one gives one error that says why."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import PNDMScheduler
from safetensors.torch import load_file, save_file

from bimo.core import module_weights
from bimo.core.errors import BimoError, RecipeError, WeightsError
from bimo.core.recipe import Recipe
from bimo.diffusion.system import System
from bimo.models.layouts.diffusers_folder import read_folder, recipe_of
from bimo.recipes.taiyi_sd import taiyi_en, taiyi_zh
from tests.support.tiny_checkpoints import checkpoint

UNET = "diffusion_pytorch_model"


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    places: dict[str, Path] = {}
    for kind in ("bert", "clip"):
        places[kind] = tmp_path_factory.mktemp(kind) / "saved"
        scheduler = PNDMScheduler(beta_schedule="scaled_linear", skip_prk_steps=True, steps_offset=1)
        checkpoint(places[kind], kind, scheduler)  # type: ignore[arg-type]
    return places


class RunsCode:
    def __reduce__(self) -> Any:
        return os.mkdir, ("it-ran",)


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def code_for_weights(folder: Path) -> None:
    (folder / f"unet/{UNET}.safetensors").unlink()
    (folder / f"unet/{UNET}.bin").write_bytes(pickle.dumps({"conv_in.weight": RunsCode()}, protocol=2))


def code_in_an_archive(folder: Path) -> None:
    (folder / "text_encoder/model.safetensors").unlink()
    torch.save({"embeddings": RunsCode()}, folder / "text_encoder/pytorch_model.bin")


def reshaped(folder: Path) -> None:
    path = folder / f"vae/{UNET}.safetensors"
    state = load_file(path)
    name = "decoder.conv_out.bias"
    save_file(state | {name: torch.zeros(5)}, path)


def dropped(folder: Path) -> None:
    path = folder / "text_encoder/model.safetensors"
    state = load_file(path)
    name = next(n for n in state if n.endswith("encoder.layer.0.attention.self.query.weight"))
    state["surplus"] = state.pop(name)
    save_file(state, path)


BAD: dict[str, tuple[Callable[[Path], Any], type[BimoError], str]] = {
    "no folder": (lambda f: shutil.rmtree(f), WeightsError, "model_index.json"),
    "index is not JSON": (lambda f: (f / "model_index.json").write_text("{"), WeightsError, "not JSON"),
    "index is a list": (lambda f: (f / "model_index.json").write_text("[]"), WeightsError, "JSON object"),
    "truncated": (lambda f: truncate(f / f"unet/{UNET}.safetensors"), WeightsError, "cannot read"),
    "empty file": (lambda f: (f / f"vae/{UNET}.safetensors").write_bytes(b""), WeightsError, "cannot read"),
    "runs code": (code_for_weights, WeightsError, "would run code"),
    "archive runs code": (code_in_an_archive, WeightsError, "would run code"),
    "no weights": (
        lambda f: (f / f"unet/{UNET}.safetensors").unlink(),
        WeightsError,
        f"expected model.safetensors / {UNET}.safetensors",
    ),
    "no tokenizer": (lambda f: shutil.rmtree(f / "tokenizer"), WeightsError, "tokenizer"),
    "no config": (lambda f: (f / "vae/config.json").unlink(), WeightsError, "vae/config.json"),
    "wrong shape": (reshaped, WeightsError, "decoder.conv_out.bias (5,)≠(3,)"),
    "missing and unexpected": (dropped, WeightsError, "missing 1: encoder.layer.0.attention.self.query.weight"),
    "smaller than its words": (
        lambda f: edit(f / "text_encoder/config.json", vocab_size=7),
        WeightsError,
        "misshapen",
    ),
    "unknown pipeline": (
        lambda f: edit(f / "model_index.json", _class_name="StableDiffusionPipelin"),
        RecipeError,
        "did you mean StableDiffusionPipeline",
    ),
    "unsupported pipeline": (
        lambda f: edit(f / "model_index.json", _class_name="KandinskyPipeline"),
        RecipeError,
        "KandinskyPipeline",
    ),
    "code of its own": (
        lambda f: edit(f / "model_index.json", tokenizer=["tokenizer", "MyTokenizer"]),
        RecipeError,
        "never run",
    ),
    "tokenizer of another tower": (
        lambda f: edit(f / "model_index.json", tokenizer=["transformers", "CLIPTokenizer"]),
        RecipeError,
        "BertTokenizer",
    ),
    "field not carried": (
        lambda f: edit(f / "unet/config.json", class_embed_type="timestep"),
        RecipeError,
        "class_embed_type of",
    ),
    "field unheard of": (lambda f: edit(f / "unet/config.json", swirl=2), RecipeError, "swirl of"),
    "mask": (
        lambda f: edit(f / "text_encoder/config.json", use_attention_mask=True),
        RecipeError,
        "use_attention_mask",
    ),
    "norm of another size": (
        lambda f: edit(f / "text_encoder/config.json", layer_norm_eps=1e-5),
        RecipeError,
        "layer_norm_eps",
    ),
    "inpainting": (lambda f: edit(f / "unet/config.json", in_channels=9), WeightsError, "conv_in.weight"),
    "channels of nothing known": (lambda f: edit(f / "unet/config.json", in_channels=7), RecipeError, "inpainting"),
    "wrong type": (lambda f: edit(f / "unet/config.json", cross_attention_dim="wide"), RecipeError, "Unet.text"),
    "blocks that do not fit": (
        lambda f: edit(f / "unet/config.json", block_out_channels=[8, 16, 16]),
        RecipeError,
        "do not go together",
    ),
    "means of latents": (lambda f: edit(f / "vae/config.json", latents_mean=[1.0]), RecipeError, "latents_mean"),
    "no such scheduler": (
        lambda f: edit(f / "scheduler/scheduler_config.json", _class_name="os"),
        RecipeError,
        "no scheduler os",
    ),
    "law without betas": (
        lambda f: edit(f / "scheduler/scheduler_config.json", _class_name="FlowMatchEulerDiscreteScheduler"),
        RecipeError,
        "FlowMatchEulerDiscreteScheduler of",
    ),
    "betas of its own": (
        lambda f: edit(f / "scheduler/scheduler_config.json", trained_betas=[0.1, 0.2]),
        RecipeError,
        "PNDMScheduler of",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", BAD)
def test_bad_folder_says_what_is_wrong(
    good: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    spoil, error, output = BAD[case]
    folder = tmp_path / "bad"
    shutil.copytree(good["bert"], folder)
    spoil(folder)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error) as raised:
        read_folder(folder)
    assert output in raised.value.en
    assert raised.value.zh != raised.value.en
    assert not (tmp_path / "it-ran").exists()


@pytest.mark.parametrize("spoil", ["nothing", "half", "more words"])
def test_bad_words_of_clip(good: dict[str, Path], tmp_path: Path, spoil: str) -> None:
    folder = tmp_path / "bad"
    shutil.copytree(good["clip"], folder)
    for path in (folder / "tokenizer").glob("*"):
        if spoil == "nothing" and path.suffix in {".json", ".txt"}:
            path.unlink()
        if spoil == "half":
            truncate(path)
    if spoil == "more words":
        path = folder / "text_encoder/model.safetensors"
        state = load_file(path)
        name = next(n for n in state if n.endswith("token_embedding.weight"))
        save_file(state | {name: state[name][:300].clone()}, path)
        edit(folder / "text_encoder/config.json", vocab_size=300)
    with pytest.raises(WeightsError):
        read_folder(folder)


def test_recipe_says_why(good: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BIMO_LANGUAGE", "en")
    assert "BertModel" in recipe_of(good["bert"]).note
    assert "CLIPTextModel" in recipe_of(good["clip"]).note


def test_hash_depends_on_the_weights_alone(good: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(good["clip"], tmp_path / "elsewhere")
    one, other = read_folder(good["clip"]), read_folder(tmp_path / "elsewhere")
    assert one.weights_hash == other.weights_hash
    assert len(one.weights_hash) == 64
    assert all(p.dtype == torch.float32 and p.device.type == "cpu" for p in one.parameters())
    assert not one.training


def published(folder: Path, kind: str) -> Path:
    """The configs of Taiyi-SD as published, without weights: in the words of the libraries of that year."""
    bert = {
        "architectures": ["BertModel"],
        "attention_probs_dropout_prob": 0.1,
        "classifier_dropout": None,
        "directionality": "bidi",
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.1,
        "hidden_size": 768,
        "initializer_range": 0.02,
        "intermediate_size": 3072,
        "layer_norm_eps": 1e-12,
        "max_position_embeddings": 512,
        "model_type": "bert",
        "num_attention_heads": 12,
        "num_hidden_layers": 12,
        "output_past": True,
        "pad_token_id": 0,
        "pooler_fc_size": 768,
        "pooler_num_attention_heads": 12,
        "pooler_num_fc_layers": 3,
        "pooler_size_per_head": 128,
        "pooler_type": "first_token_transform",
        "position_embedding_type": "absolute",
        "torch_dtype": "float32",
        "transformers_version": "4.22.1",
        "type_vocab_size": 2,
        "use_cache": True,
        "vocab_size": 21128,
    }
    clip = {
        "_name_or_path": "IDEA-CCNL/Taiyi-Stable-Diffusion-1B-Chinese-EN-v0.1",
        "architectures": ["CLIPTextModel"],
        "attention_dropout": 0.0,
        "bos_token_id": 0,
        "dropout": 0.0,
        "eos_token_id": 2,
        "hidden_act": "quick_gelu",
        "hidden_size": 768,
        "initializer_factor": 1.0,
        "initializer_range": 0.02,
        "intermediate_size": 3072,
        "layer_norm_eps": 1e-05,
        "max_position_embeddings": 77,
        "model_type": "clip_text_model",
        "num_attention_heads": 12,
        "num_hidden_layers": 12,
        "pad_token_id": 1,
        "torch_dtype": "float32",
        "transformers_version": "4.22.1",
        "vocab_size": 49408,
    }
    unet = {
        "_class_name": "UNet2DConditionModel",
        "_diffusers_version": "0.4.0",
        "act_fn": "silu",
        "attention_head_dim": 8,
        "block_out_channels": [320, 640, 1280, 1280],
        "center_input_sample": False,
        "cross_attention_dim": 768,
        "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
        "downsample_padding": 1,
        "flip_sin_to_cos": True,
        "freq_shift": 0,
        "in_channels": 4,
        "layers_per_block": 2,
        "mid_block_scale_factor": 1,
        "norm_eps": 1e-05,
        "norm_num_groups": 32,
        "out_channels": 4,
        "sample_size": 32,
        "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
    }
    vae = {
        "_class_name": "AutoencoderKL",
        "_diffusers_version": "0.4.0",
        "act_fn": "silu",
        "block_out_channels": [128, 256, 512, 512],
        "down_block_types": ["DownEncoderBlock2D"] * 4,
        "in_channels": 3,
        "latent_channels": 4,
        "layers_per_block": 2,
        "norm_num_groups": 32,
        "out_channels": 3,
        "sample_size": 512,
        "up_block_types": ["UpDecoderBlock2D"] * 4,
    }
    schedule = {
        "_class_name": "PNDMScheduler",
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "beta_start": 0.00085,
        "num_train_timesteps": 1000,
        "skip_prk_steps": True,
    }
    names = ("BertModel", "BertTokenizer", 512) if kind == "bert" else ("CLIPTextModel", "CLIPTokenizer", 77)
    index = {
        "_class_name": "StableDiffusionPipeline",
        "_diffusers_version": "0.4.0",
        "feature_extractor": ["transformers", "CLIPFeatureExtractor"],
        "safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"],
        "scheduler": ["diffusers", "PNDMScheduler"],
        "text_encoder": ["transformers", names[0]],
        "tokenizer": ["transformers", names[1]],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    files: dict[str, Any] = {
        "model_index.json": index,
        "text_encoder/config.json": bert if kind == "bert" else clip,
        "unet/config.json": unet,
        "vae/config.json": vae,
        "scheduler/scheduler_config.json": schedule,
        "tokenizer/tokenizer_config.json": {"model_max_length": names[2], "do_lower_case": True},
    }
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(json.dumps(content))
    return folder


@pytest.mark.parametrize(("kind", "recipe"), [("bert", taiyi_zh), ("clip", taiyi_en)])
def test_published_folder_is_the_recipe(
    tmp_path: Path, kind: str, recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BIMO_LANGUAGE", "en")
    found = recipe_of(published(tmp_path, kind))
    assert (found.name, found.text_encoders, found.languages) == (recipe.name, recipe.text_encoders, recipe.languages)
    assert found.levels[0].denoiser == recipe.levels[0].denoiser
    assert found.levels[0].space == recipe.levels[0].space
    assert found.request.size == recipe.request.size == (512, 512)
    own = found.levels[0].schedule.sampler("", 20)  # type: ignore[attr-defined]
    named = recipe.levels[0].schedule.sampler(recipe.levels[0].sampler, 20)  # type: ignore[attr-defined]
    assert torch.equal(own.timesteps, named.timesteps)
    fields = {name: value for name, value in named.scheduler.config.items() if not name.startswith("_")}
    assert {name: own.scheduler.config[name] for name in fields} == fields
    assert "safety_checker" in found.note


@pytest.mark.parametrize(("recipe", "text"), [(taiyi_zh, 102_267_648), (taiyi_en, 123_060_480)])
def test_full_size_has_as_many_parameters_as_published(recipe: Recipe, text: int) -> None:
    def count(module: torch.nn.Module) -> int:
        return sum(p.numel() for p in module.parameters())

    with module_weights.unfilled():
        system = System(recipe)
    level: Any = system.level("image")
    assert all(p.is_meta for p in system.parameters())
    assert count(level.denoiser) == 859_520_964
    assert count(level.space) == 83_653_863
    assert count(system.text) == text


def test_stages_learn_what_was_published() -> None:
    assert [stage.train for stage in taiyi_zh.stages] == [("text.*",)]
    assert [stage.train for stage in taiyi_en.stages] == [("text.*",), ("text.*", "image.denoiser.*")]


@pytest.mark.parametrize("name", ["FlowPipeline", "ConfigsPipeline", "Pipeline", "../../evilPipeline", "OvisImage", 7])
def test_a_pipeline_of_no_reader_is_reported(tmp_path: Path, name: Any) -> None:
    """Some of these are names of files here that are no readers of that pipeline."""
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": name}))
    with pytest.raises(RecipeError, match="not supported"):
        recipe_of(tmp_path)
