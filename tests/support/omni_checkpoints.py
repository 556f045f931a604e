"""A tiny random checkpoint of Z-Image-Omni, saved by the libraries' own classes, and diffusers' pipeline of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from transformers.models.siglip2.image_processing_pil_siglip2 import Siglip2ImageProcessorPil

from tests.support.flow_checkpoints import awake, flux_vae, in_memory, qwen3
from tests.support.flow_words import qwen_words

CLASSES: dict[str, Any] = {
    "text_encoder": transformers.Qwen3Model,
    "vae": diffusers.AutoencoderKL,
    "transformer": diffusers.ZImageTransformer2DModel,
    "scheduler": diffusers.FlowMatchEulerDiscreteScheduler,
    "siglip": transformers.Siglip2VisionModel,
}


def saved(folder: Path) -> Any:
    """Saves a pipeline of random weights in a folder and answers it as diffusers reads it back."""
    torch.manual_seed(7)
    sight: dict[str, Any] = {"hidden_size": 24, "intermediate_size": 16, "num_hidden_layers": 2}
    sight |= {"num_attention_heads": 2, "num_patches": 16}
    made: dict[str, Any] = {
        "text_encoder": awake(qwen3()),
        "vae": awake(flux_vae()),
        "transformer": awake(
            diffusers.ZImageTransformer2DModel(
                dim=16,
                n_layers=2,
                n_refiner_layers=1,
                n_heads=2,
                n_kv_heads=2,
                cap_feat_dim=16,
                siglip_feat_dim=24,
                axes_dims=[4, 2, 2],
                axes_lens=[1024, 64, 64],
            )
        ),
        "scheduler": diffusers.FlowMatchEulerDiscreteScheduler(shift=6.0),
        "siglip": awake(transformers.Siglip2VisionModel(transformers.Siglip2VisionConfig(**sight))),
        "tokenizer": qwen_words(folder.with_name("words")),
    }
    diffusers.ZImageOmniPipeline(**made, siglip_processor=None).save_pretrained(str(folder))  # type: ignore[arg-type]
    index = json.loads((folder / "model_index.json").read_text())
    index["siglip_processor"] = ["transformers", "Siglip2ImageProcessor"]
    (folder / "model_index.json").write_text(json.dumps(index))
    Siglip2ImageProcessorPil(max_num_patches=20).save_pretrained(str(folder / "siglip_processor"))
    return opened(folder)


def opened(folder: Path) -> Any:
    """The pipeline of a folder. Its autoencoder codes pictures in float32, as its weights are here: the pipeline has
    them in bfloat16 whatever those are.
    """
    made = {name: cls.from_pretrained(str(folder / name), local_files_only=True) for name, cls in CLASSES.items()}
    processor = Siglip2ImageProcessorPil.from_pretrained(str(folder / "siglip_processor"))
    words = transformers.Qwen2Tokenizer.from_pretrained(str(folder / "tokenizer"))
    pipeline = diffusers.ZImageOmniPipeline(**made, tokenizer=words, siglip_processor=processor)  # type: ignore[arg-type]
    pipeline.set_progress_bar_config(disable=True)
    return in_memory(pipeline)
