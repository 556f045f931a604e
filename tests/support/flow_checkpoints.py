"""Tiny random checkpoints of flow-matching transformers with language models, saved by the libraries' own classes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers

from tests.support.flow_words import VOCAB, gemma_words, glm_words, mistral_words, qwen_words
from tests.support.glm_checkpoints import glm_image

SIZES = {"vocab_size": VOCAB, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 3}
HEADS = {"num_attention_heads": 2, "num_key_value_heads": 1}
QUIET = {"pad_token_id": None, "bos_token_id": None, "eos_token_id": None}


def gemma2() -> Any:
    return transformers.Gemma2Model(transformers.Gemma2Config(**SIZES, **HEADS, head_dim=8, sliding_window=64))


def qwen3() -> Any:
    config = transformers.Qwen3Config(**SIZES, **HEADS, **QUIET, head_dim=8, rope_parameters=rope(1e6))
    return transformers.Qwen3Model(config)


def qwen2_5_vl() -> Any:
    text = {**SIZES, **HEADS, **QUIET, "rope_parameters": {**rope(1e6), "mrope_section": [2, 1, 1]}}
    vision = {"depth": 1, "hidden_size": 16, "num_heads": 2, "intermediate_size": 16, "out_hidden_size": 16}
    config = transformers.Qwen2_5_VLConfig(text_config=text, vision_config=vision, **QUIET)
    return transformers.Qwen2_5_VLForConditionalGeneration(config)


def mistral3(family: str = "mistral") -> Any:
    """Mistral 3 as ERNIE-Image's folder has it: its language model is called mistral there."""
    rotation = {**rope(1e6), "rope_type": "yarn", "factor": 16.0, "original_max_position_embeddings": 8}
    rotation |= {"beta_fast": 32.0, "beta_slow": 1.0, "mscale": 1.0, "mscale_all_dim": 1.0}
    rotation |= {"llama_4_scaling_beta": 0.1} if family == "ministral3" else {}
    text = {**SIZES, **HEADS, **QUIET, "model_type": family, "head_dim": 8, "sliding_window": None}
    text |= {"max_position_embeddings": 128, "rope_parameters": rotation}
    vision = {"model_type": "pixtral", "hidden_size": 16, "intermediate_size": 16, "head_dim": 8}
    vision |= {"num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 28}
    return transformers.Mistral3Model(transformers.Mistral3Config(text_config=text, vision_config=vision))


def glm() -> Any:
    own = {**QUIET, "eos_token_id": [0]}
    config = transformers.GlmConfig(**SIZES, **HEADS, **own, head_dim=8, max_position_embeddings=2048)
    return transformers.GlmModel(config)


def rope(theta: float) -> dict[str, Any]:
    return {"rope_type": "default", "rope_theta": theta}


def flux_vae(**settings: Any) -> Any:
    return diffusers.AutoencoderKL(
        **{
            "block_out_channels": (8, 8, 8, 8),
            "down_block_types": ("DownEncoderBlock2D",) * 4,
            "up_block_types": ("UpDecoderBlock2D",) * 4,
            "norm_num_groups": 4,
            "layers_per_block": 1,
            "latent_channels": 16,
            "scaling_factor": 0.3611,
            "shift_factor": 0.1159,
            "use_quant_conv": False,
            "use_post_quant_conv": False,
            **settings,
        }
    )


def z_image(folder: Path, **times: Any) -> Any:
    return diffusers.ZImagePipeline(
        tokenizer=qwen_words(folder.with_name("words")),
        text_encoder=qwen3(),
        vae=flux_vae(),
        transformer=awake(
            diffusers.ZImageTransformer2DModel(
                dim=16,
                n_layers=2,
                n_refiner_layers=1,
                n_heads=2,
                n_kv_heads=2,
                cap_feat_dim=16,
                axes_dims=[4, 2, 2],
                axes_lens=[1024, 64, 64],
            )
        ),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(**{"shift": 6.0, **times}),
    )


def qwen_image(folder: Path, **times: Any) -> Any:
    own = {"use_dynamic_shifting": True, "max_shift": 0.9, "max_image_seq_len": 8192, "shift_terminal": 0.02}
    return diffusers.QwenImagePipeline(
        tokenizer=qwen_words(folder.with_name("words")),
        text_encoder=qwen2_5_vl(),
        vae=diffusers.AutoencoderKLQwenImage(base_dim=8, dim_mult=[1, 1, 1, 1], num_res_blocks=1),
        transformer=awake(
            diffusers.QwenImageTransformer2DModel(
                num_layers=2,
                attention_head_dim=8,
                num_attention_heads=2,
                joint_attention_dim=16,
                axes_dims_rope=(4, 2, 2),
            )
        ),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(**{**own, **times}),
    )


def longcat_image(folder: Path, **times: Any) -> Any:
    return diffusers.LongCatImagePipeline(
        tokenizer=qwen_words(folder.with_name("words")),
        text_processor=None,
        text_encoder=qwen2_5_vl(),
        vae=flux_vae(),
        transformer=awake(
            diffusers.LongCatImageTransformer2DModel(
                num_layers=1,
                num_single_layers=1,
                attention_head_dim=8,
                num_attention_heads=2,
                joint_attention_dim=16,
                axes_dims_rope=[4, 2, 2],
            )
        ),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(**{"use_dynamic_shifting": True, **times}),
    )


def cogview4(folder: Path, **times: Any) -> Any:
    own = {"use_dynamic_shifting": True, "base_shift": 0.25, "max_shift": 0.75, "time_shift_type": "linear"}
    return diffusers.CogView4Pipeline(
        tokenizer=glm_words(folder.with_name("words")),
        text_encoder=glm(),
        vae=flux_vae(shift_factor=0.0, scaling_factor=1.0, mid_block_add_attention=False),
        transformer=awake(
            diffusers.CogView4Transformer2DModel(
                num_layers=2,
                attention_head_dim=8,
                num_attention_heads=2,
                text_embed_dim=16,
                time_embed_dim=16,
                condition_dim=8,
                sample_size=8,
            )
        ),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(**{**own, **times}),
    )


def lumina(folder: Path, **times: Any) -> Any:
    return diffusers.Lumina2Pipeline(
        tokenizer=gemma_words(folder.with_name("words")),
        text_encoder=gemma2(),
        vae=flux_vae(),
        transformer=awake(
            diffusers.Lumina2Transformer2DModel(
                sample_size=8,
                hidden_size=24,
                num_layers=2,
                num_refiner_layers=1,
                num_attention_heads=2,
                num_kv_heads=1,
                multiple_of=8,
                axes_dim_rope=(4, 4, 4),
                axes_lens=(300, 64, 64),
                cap_feat_dim=16,
            )
        ),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(**{"shift": 6.0, **times}),
    )


def ovis_image(folder: Path, **times: Any) -> Any:
    return diffusers.OvisImagePipeline(
        tokenizer=qwen_words(folder.with_name("words")),
        text_encoder=qwen3(),
        vae=flux_vae(),
        transformer=awake(
            diffusers.OvisImageTransformer2DModel(
                num_layers=1,
                num_single_layers=1,
                attention_head_dim=8,
                num_attention_heads=2,
                joint_attention_dim=16,
                axes_dims_rope=(4, 2, 2),
            )
        ),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(**{"use_dynamic_shifting": True, **times}),
    )


def ernie_image(folder: Path, **times: Any) -> Any:
    vae = diffusers.AutoencoderKLFlux2(
        block_out_channels=(8, 8, 8, 8), norm_num_groups=4, layers_per_block=1, latent_channels=32
    )
    generator = torch.Generator().manual_seed(5)
    vae.bn.running_mean.copy_(torch.randn(128, generator=generator) * 0.3)
    vae.bn.running_var.copy_(torch.rand(128, generator=generator) + 0.5)
    return diffusers.ErnieImagePipeline(
        tokenizer=mistral_words(folder.with_name("words")),
        text_encoder=mistral3(),
        vae=vae,
        transformer=awake(
            diffusers.ErnieImageTransformer2DModel(
                hidden_size=24,
                num_attention_heads=2,
                num_layers=2,
                ffn_hidden_size=32,
                text_in_dim=16,
                rope_axes_dim=(4, 4, 4),
            )
        ),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(**{"shift": 4.0, **times}),
    )


def byt5(width: int = 16) -> Any:
    config = transformers.T5Config(
        vocab_size=392, d_model=width, d_kv=8, d_ff=32, num_layers=2, num_heads=2, feed_forward_proj="gated-gelu"
    )
    return transformers.T5EncoderModel(config)


def hunyuan_transformer(**settings: Any) -> Any:
    sizes = {"num_attention_heads": 2, "attention_head_dim": 8, "num_layers": 1, "num_single_layers": 1}
    sizes |= {"num_refiner_layers": 1, "text_embed_dim": 16}
    return awake(diffusers.HunyuanImageTransformer2DModel(**sizes, **settings))


def hunyuan_distilled(folder: Path, **times: Any) -> Any:
    """It is told the scale of guidance, and where a step leads to."""
    whole = hunyuan_image(folder, **times)
    settings = {"guidance_embeds": True, "use_meanflow": True}
    whole.register_modules(
        guider=None,
        ocr_guider=None,
        transformer=hunyuan_transformer(text_embed_2_dim=16, rope_axes_dim=(4, 4), **settings),
    )
    return whole


def hunyuan_refiner(folder: Path, **times: Any) -> Any:
    return diffusers.HunyuanImageRefinerPipeline(
        tokenizer=qwen_words(folder.with_name("words")),
        text_encoder=qwen2_5_vl(),
        vae=diffusers.AutoencoderKLHunyuanImageRefiner(block_out_channels=(8, 8, 16, 32, 64), layers_per_block=1),
        transformer=hunyuan_transformer(
            in_channels=128, patch_size=(1, 1, 1), rope_axes_dim=(4, 2, 2), guidance_embeds=True
        ),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(**{"shift": 4.0, **times}),
    )


def hunyuan_image(folder: Path, **times: Any) -> Any:
    """Its guiders begin to project after the first step, and after the second where something is to be written."""
    words = transformers.ByT5Tokenizer()
    words.add_tokens(["<color-0>", "<zh-font-0>"], special_tokens=True)
    guiders = [
        diffusers.AdaptiveProjectedMixGuidance(
            guidance_scale=3.5,
            adaptive_projected_guidance_scale=6.0,
            adaptive_projected_guidance_rescale=4.0,
            eta=0.3,
            adaptive_projected_guidance_start_step=start,
        )
        for start in (0, 1)
    ]
    return diffusers.HunyuanImagePipeline(
        tokenizer=qwen_words(folder.with_name("words")),
        text_encoder=qwen2_5_vl(),
        tokenizer_2=words,
        text_encoder_2=awake(byt5()),
        vae=diffusers.AutoencoderKLHunyuanImage(
            in_channels=3,
            out_channels=3,
            latent_channels=64,
            block_out_channels=(32, 32, 32, 32, 32, 128),
            layers_per_block=1,
            spatial_compression_ratio=32,
            sample_size=64,
            scaling_factor=0.75289,
        ),
        transformer=hunyuan_transformer(text_embed_2_dim=16, rope_axes_dim=(4, 4)),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(**{"shift": 5.0, **times}),
        guider=guiders[0],
        ocr_guider=guiders[1],
    )


def awake(model: Any) -> Any:
    """The model with every parameter random: some begin at zero, or were never filled, and would prove nothing."""
    generator = torch.Generator().manual_seed(11)
    with torch.no_grad():
        for parameter in model.parameters():
            spread = 0.2 if parameter.ndim == 1 else 1.5 * parameter[0].numel() ** -0.5
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * spread)
            if parameter.ndim == 1:
                parameter.add_(0.5)
    return model


MADE = {
    "z_image": z_image,
    "qwen_image": qwen_image,
    "longcat_image": longcat_image,
    "cogview4": cogview4,
    "lumina": lumina,
    "ovis_image": ovis_image,
    "ernie_image": ernie_image,
    "glm_image": glm_image,
    "hunyuan_image": hunyuan_image,
    "hunyuan_distilled": hunyuan_distilled,
    "hunyuan_refiner": hunyuan_refiner,
}


def saved(folder: Path, kind: str, **times: Any) -> Any:
    """Saves a pipeline of random weights in a folder and answers it as diffusers reads it back."""
    torch.manual_seed(7)
    pipeline = MADE[kind](folder, **times)
    awake(pipeline.vae)
    awake(pipeline.text_encoder)
    pipeline.save_pretrained(str(folder))
    if kind == "longcat_image":
        # A reader of pictures that only rewriting needs; here it is never called.
        index = json.loads((folder / "model_index.json").read_text())
        (folder / "model_index.json").write_text(json.dumps({**index, "text_processor": [None, None]}))
    return opened(folder)


def opened(folder: Path) -> Any:
    cls = getattr(diffusers, json.loads((folder / "model_index.json").read_text())["_class_name"])
    extra = {"text_processor": None} if cls is diffusers.LongCatImagePipeline else {}
    pipeline = cls.from_pretrained(str(folder), local_files_only=True, **extra)
    pipeline.set_progress_bar_config(disable=True)
    return in_memory(pipeline)


def in_memory(pipeline: Any) -> Any:
    """A pipeline whose weights lie where torch puts tensors that it makes itself. Those that are mapped from a file
    begin anywhere, and on some processors the same product rounds otherwise there: what is compared to the bit must
    not depend on where weights stand in a file.
    """
    for module in pipeline.components.values():
        for tensor in (*module.parameters(), *module.buffers()) if isinstance(module, torch.nn.Module) else ():
            tensor.data = tensor.data.clone()
    return pipeline
