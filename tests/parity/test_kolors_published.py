"""Kolors' published folder is its recipe: the configs of Kolors-diffusers, without weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from bimo.core.recipe import Recipe
from bimo.models.layouts.diffusers_folder import recipe_of
from bimo.recipes.kolors import kolors, kolors_inpainting
from tests.parity.test_taiyi_xl import published as stable_diffusion_xl


def published(folder: Path, channels: int) -> Path:
    """Stable Diffusion XL's configs, but for the tower and what reads it."""
    stable_diffusion_xl(folder)
    glm = {
        "_name_or_path": "THUDM/chatglm3-6b-base",
        "add_bias_linear": False,
        "add_qkv_bias": True,
        "apply_query_key_layer_scaling": True,
        "apply_residual_connection_post_layernorm": False,
        "architectures": ["ChatGLMModel"],
        "attention_dropout": 0.0,
        "attention_softmax_in_fp32": True,
        "auto_map": {"AutoModel": "modeling_chatglm.ChatGLMForConditionalGeneration"},
        "bias_dropout_fusion": True,
        "classifier_dropout": None,
        "eos_token_id": 2,
        "ffn_hidden_size": 13696,
        "fp32_residual_connection": False,
        "hidden_dropout": 0.0,
        "hidden_size": 4096,
        "kv_channels": 128,
        "layernorm_epsilon": 1e-05,
        "model_type": "chatglm",
        "multi_query_attention": True,
        "multi_query_group_num": 2,
        "num_attention_heads": 32,
        "num_layers": 28,
        "original_rope": True,
        "pad_token_id": 0,
        "padded_vocab_size": 65024,
        "post_layer_norm": True,
        "pre_seq_len": None,
        "prefix_projection": False,
        "quantization_bit": 0,
        "rmsnorm": True,
        "seq_length": 32768,
        "tie_word_embeddings": False,
        "torch_dtype": "float16",
        "transformers_version": "4.42.4",
        "use_cache": True,
        "vocab_size": 65024,
    }
    unet = {
        "encoder_hid_dim": 4096,
        "encoder_hid_dim_type": "text_proj",
        "projection_class_embeddings_input_dim": 5632,
        "in_channels": channels,
    }
    schedule = {"beta_end": 0.014, "num_train_timesteps": 1100}
    index = {
        "_class_name": "KolorsPipeline" if channels == 4 else "KolorsInpaintPipeline",
        "force_zeros_for_empty_prompt": False,
        "scheduler": ["diffusers", "EulerDiscreteScheduler"],
        "text_encoder": ["kolors", "ChatGLMModel"],
        "tokenizer": ["kolors", "ChatGLMTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    (folder / "text_encoder/config.json").write_text(json.dumps(glm))
    (folder / "model_index.json").write_text(json.dumps(index))
    for name, changes in (("unet/config.json", unet), ("scheduler/scheduler_config.json", schedule)):
        found = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps(found | changes))
    return folder


@pytest.mark.parametrize(("channels", "recipe"), [(4, kolors), (9, kolors_inpainting)])
def test_published_folder_is_the_recipe(tmp_path: Path, channels: int, recipe: Recipe) -> None:
    found = recipe_of(published(tmp_path, channels))
    assert (found.name, found.text_encoders) == (recipe.name, recipe.text_encoders)
    own, named = found.levels[0], recipe.levels[0]
    assert (own.denoiser, own.space, own.conditioners) == (named.denoiser, named.space, named.conditioners)
    assert own.guidance.unconditional == named.guidance.unconditional == "empty"
    laws: list[Any] = [level.schedule.sampler("", 50) for level in (own, named)]  # type: ignore[attr-defined]
    assert torch.equal(laws[0].timesteps, laws[1].timesteps)
    assert torch.equal(laws[0].scheduler.sigmas, laws[1].scheduler.sigmas)
    assert float(laws[0].timesteps[0]) == 1079
