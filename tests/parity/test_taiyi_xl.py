"""Taiyi-XL's published folder is its recipe, and at full size it has as many parameters."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from bimo.core import module_weights
from bimo.diffusion.system import System
from bimo.models.layouts.diffusers_folder import recipe_of
from bimo.recipes.taiyi_xl import taiyi_xl


def published(folder: Path) -> Path:
    """The configs of Taiyi-XL's folder, without weights: Stable Diffusion XL's with more words and positions."""
    text = {
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
        "max_position_embeddings": 512,
        "model_type": "clip_text_model",
        "num_attention_heads": 12,
        "num_hidden_layers": 12,
        "pad_token_id": 1,
        "projection_dim": 768,
        "torch_dtype": "float32",
        "transformers_version": "4.30.2",
        "vocab_size": 57475,
    }
    larger = text | {
        "architectures": ["CLIPTextModelWithProjection"],
        "hidden_act": "gelu",
        "hidden_size": 1280,
        "intermediate_size": 5120,
        "num_attention_heads": 20,
        "num_hidden_layers": 32,
        "projection_dim": 1280,
    }
    unet = {
        "_class_name": "UNet2DConditionModel",
        "_diffusers_version": "0.21.2",
        "act_fn": "silu",
        "addition_embed_type": "text_time",
        "addition_embed_type_num_heads": 64,
        "addition_time_embed_dim": 256,
        "attention_head_dim": [5, 10, 20],
        "block_out_channels": [320, 640, 1280],
        "center_input_sample": False,
        "class_embed_type": None,
        "conv_in_kernel": 3,
        "cross_attention_dim": 2048,
        "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
        "downsample_padding": 1,
        "flip_sin_to_cos": True,
        "in_channels": 4,
        "layers_per_block": 2,
        "mid_block_type": "UNetMidBlock2DCrossAttn",
        "norm_num_groups": 32,
        "num_attention_heads": None,
        "out_channels": 4,
        "projection_class_embeddings_input_dim": 2816,
        "resnet_time_scale_shift": "default",
        "sample_size": 128,
        "transformer_layers_per_block": [1, 2, 10],
        "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
        "upcast_attention": None,
        "use_linear_projection": True,
    }
    vae = {
        "_class_name": "AutoencoderKL",
        "act_fn": "silu",
        "block_out_channels": [128, 256, 512, 512],
        "down_block_types": ["DownEncoderBlock2D"] * 4,
        "force_upcast": True,
        "in_channels": 3,
        "latent_channels": 4,
        "layers_per_block": 2,
        "norm_num_groups": 32,
        "out_channels": 3,
        "sample_size": 1024,
        "scaling_factor": 0.13025,
        "up_block_types": ["UpDecoderBlock2D"] * 4,
    }
    schedule = {
        "_class_name": "EulerDiscreteScheduler",
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "beta_start": 0.00085,
        "clip_sample": False,
        "interpolation_type": "linear",
        "num_train_timesteps": 1000,
        "prediction_type": "epsilon",
        "sample_max_value": 1.0,
        "set_alpha_to_one": False,
        "skip_prk_steps": True,
        "steps_offset": 1,
        "timestep_spacing": "leading",
        "trained_betas": None,
        "use_karras_sigmas": False,
    }
    index = {
        "_class_name": "StableDiffusionXLPipeline",
        "force_zeros_for_empty_prompt": True,
        "scheduler": ["diffusers", "EulerDiscreteScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "tokenizer_2": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    files = {
        "model_index.json": index,
        "text_encoder/config.json": text,
        "text_encoder_2/config.json": larger,
        "unet/config.json": unet,
        "vae/config.json": vae,
        "scheduler/scheduler_config.json": schedule,
        "tokenizer/tokenizer_config.json": {"model_max_length": 225},
        "tokenizer_2/tokenizer_config.json": {"model_max_length": 225},
    }
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(json.dumps(content))
    return folder


def test_published_folder_is_the_recipe(tmp_path: Path) -> None:
    found = recipe_of(published(tmp_path))
    assert (found.name, found.text_encoders, found.text_fusion) == (
        taiyi_xl.name,
        taiyi_xl.text_encoders,
        taiyi_xl.text_fusion,
    )
    own, named = found.levels[0], taiyi_xl.levels[0]
    assert (own.denoiser, own.space, own.conditioners) == (named.denoiser, named.space, named.conditioners)
    assert own.guidance.unconditional == named.guidance.unconditional
    assert found.request.size == taiyi_xl.request.size
    laws = [level.schedule.sampler("", 50) for level in (own, named)]  # type: ignore[attr-defined]
    assert torch.equal(laws[0].timesteps, laws[1].timesteps)
    assert torch.equal(laws[0].scheduler.sigmas, laws[1].scheduler.sigmas)


def test_full_size_has_as_many_parameters_as_published() -> None:
    def count(module: torch.nn.Module) -> int:
        return sum(p.numel() for p in module.parameters())

    more = (57475 - 49408) + (512 - 77)
    with module_weights.unfilled():
        system = System(taiyi_xl)
    level: Any = system.level("image")
    assert count(level.denoiser) == 2_567_463_684
    assert count(level.space) == 83_653_863
    assert count(system.text[0]) == 123_060_480 + more * 768
    assert count(system.text[1]) == 694_659_840 + more * 1280
