"""Tiny random checkpoints of Qwen-Image-Edit, saved by the libraries' own classes, and diffusers' pipelines of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import diffusers
import numpy
import torch
import transformers
from diffusers.pipelines.longcat_image import pipeline_longcat_image_edit
from diffusers.pipelines.qwenimage import (
    pipeline_qwenimage_edit,
    pipeline_qwenimage_edit_plus,
    pipeline_qwenimage_layered,
)
from diffusers.pipelines.qwenimage21 import pipeline_qwenimage21
from PIL import Image
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from bimo.diffusion.system import System
from bimo.models.layouts.diffusers_folder import read_folder
from tests.support.flow_checkpoints import HEADS, QUIET, SIZES, awake, flux_vae, in_memory, qwen_words, rope

PAD = "<|image_pad|>"
#: The pixels of pictures here, in place of 1024 x 1024 (and 384 x 384): of both the same share.
AREA = 64 * 64
PIPELINES = {
    "edit": "QwenImageEditPipeline",
    "edit-plus": "QwenImageEditPlusPipeline",
    "layered": "QwenImageLayeredPipeline",
}


class Processor:
    """What transformers' Qwen2VLProcessor does with texts and pictures; its own class wants torchvision for films."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.image_processor = Qwen2VLImageProcessorPil()
        self.types: torch.Tensor | None = None

    def __call__(self, text: list[str], images: Any, padding: bool, return_tensors: str) -> Any:
        given: dict[str, Any] = {}
        if images is not None:
            given = dict(self.image_processor(images=images, return_tensors="pt"))
            counts = iter((given["image_grid_thw"].prod(-1) // 4).tolist() * len(text))
            text = ["".join(p if p != PAD else PAD * next(counts) for p in split(one)) for one in text]
        words = self.tokenizer(text, padding=padding, return_tensors=return_tensors)
        self.types = (words["input_ids"] == self.tokenizer.convert_tokens_to_ids(PAD)).int()
        return transformers.BatchFeature({**words, **given})


class Processor21:
    """What transformers' Qwen3VLProcessor does with texts, pictures and a system's message."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.image_processor = qwen3_pictures()

    def __call__(
        self, text: list[str], padding: bool, padding_side: str, return_tensors: str, images: Any = None
    ) -> Any:
        given: dict[str, Any] = {}
        if images is not None:
            given = dict(self.image_processor(images=images, return_tensors="pt"))
            counts = iter((given["image_grid_thw"].prod(-1) // 4).tolist())
            text = ["".join(p if p != PAD else PAD * next(counts) for p in split(one)) for one in text]
        words = self.tokenizer(text, padding=padding, padding_side=padding_side, return_tensors=return_tensors)
        types = (words["input_ids"] == self.tokenizer.convert_tokens_to_ids(PAD)).int()
        return transformers.BatchFeature({**words, **given, "mm_token_type_ids": types})

    def apply_chat_template(self, messages: Any, tokenize: bool, return_dict: bool) -> list[list[int]]:
        assert tokenize
        assert not return_dict
        (said,) = (f"<|im_start|>{one['role']}\n{one['content'][0]['text']}<|im_end|>\n" for one in messages)
        return [self.tokenizer(said)["input_ids"]]


def qwen3_pictures() -> Any:
    """Qwen3-VL's processor of pictures, for small ones as well."""
    half = [0.5, 0.5, 0.5]
    return Qwen2VLImageProcessorPil(
        patch_size=16, image_mean=half, image_std=half, min_pixels=32 * 32, max_pixels=16777216
    )


def saved_21(folder: Path) -> Any:
    """As ``saved``, of a QwenImage21Pipeline."""
    torch.manual_seed(7)
    tokenizer = qwen_words(folder.with_name("words"))
    pad = tokenizer.convert_tokens_to_ids(PAD)
    rotation = {**rope(5e6), "mrope_section": [2, 1, 1], "mrope_interleaved": True}
    text: dict[str, Any] = {**SIZES, **HEADS, **QUIET, "head_dim": 8, "rope_parameters": rotation}
    sight: dict[str, Any] = {"depth": 3, "hidden_size": 16, "num_heads": 2, "intermediate_size": 16}
    sight |= {"out_hidden_size": 16, "num_position_embeddings": 16, "deepstack_visual_indexes": [0, 2]}
    quiet: dict[str, Any] = QUIET
    config = transformers.Qwen3VLConfig(text_config=text, vision_config=sight, image_token_id=pad, **quiet)
    times = {"use_dynamic_shifting": True, "max_shift": 0.9, "max_image_seq_len": 8192, "shift_terminal": 0.02}
    sizes = {"num_layers": 2, "attention_head_dim": 8, "num_attention_heads": 2, "context_in_dim": 16}
    pipeline = diffusers.QwenImage21Pipeline(
        processor=Processor21(tokenizer),  # type: ignore[arg-type]
        text_encoder=awake(transformers.Qwen3VLForConditionalGeneration(config)),
        vae=awake(
            diffusers.AutoencoderKLQwenImage21(
                base_dim=8, decoder_base_dim=12, dim_mult=[1, 1, 1, 1, 1], num_res_blocks=1
            )
        ),
        transformer=awake(diffusers.QwenImage21Transformer2DModel(**sizes, axes_dims_rope=(4, 2, 2))),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(**times),
    )
    pipeline.register_modules(processor=None)
    pipeline.save_pretrained(str(folder))
    save_processor(folder, "processor", "Qwen3VLProcessor", qwen3_pictures())
    return opened_21(folder)


def opened_21(folder: Path) -> Any:
    """The pipeline of a folder."""
    classes = {
        "text_encoder": transformers.Qwen3VLForConditionalGeneration,
        "vae": diffusers.AutoencoderKLQwenImage21,
        "transformer": diffusers.QwenImage21Transformer2DModel,
        "scheduler": diffusers.FlowMatchEulerDiscreteScheduler,
    }
    made: dict[str, Any] = {
        name: cls.from_pretrained(str(folder / name), local_files_only=True) for name, cls in classes.items()
    }
    tokenizer = transformers.Qwen2Tokenizer.from_pretrained(str(folder / "processor"))
    pipeline = diffusers.QwenImage21Pipeline(**made, processor=Processor21(tokenizer))  # type: ignore[arg-type]
    pipeline.set_progress_bar_config(disable=True)
    return in_memory(pipeline)


def split(text: str) -> list[str]:
    parts = text.split(PAD)
    return [piece for part in parts[:-1] for piece in (part, PAD)] + parts[-1:]


def saved_longcat(folder: Path) -> Any:
    """As ``saved``, of a LongCatImageEditPipeline."""
    torch.manual_seed(7)
    tokenizer = qwen_words(folder.with_name("words"))
    made = {
        "tokenizer": tokenizer,
        "text_encoder": awake(seeing(tokenizer)),
        "vae": awake(flux_vae()),
        "transformer": awake(
            diffusers.LongCatImageTransformer2DModel(
                num_layers=1,
                num_single_layers=1,
                attention_head_dim=8,
                num_attention_heads=2,
                joint_attention_dim=16,
                axes_dims_rope=[4, 2, 2],
            )
        ),
        "scheduler": diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
    }
    pipeline = diffusers.LongCatImageEditPipeline(**made, text_processor=Processor(tokenizer))
    pipeline.register_modules(text_processor=None)
    pipeline.save_pretrained(str(folder))
    save_processor(folder, "text_processor")
    return opened_longcat(folder)


def opened_longcat(folder: Path) -> Any:
    """The pipeline of a folder, told as ``opened`` tells it which tokens are pictures'."""
    tokenizer = transformers.Qwen2Tokenizer.from_pretrained(str(folder / "tokenizer"))
    classes = {
        "text_encoder": transformers.Qwen2_5_VLForConditionalGeneration,
        "vae": diffusers.AutoencoderKL,
        "transformer": diffusers.LongCatImageTransformer2DModel,
        "scheduler": diffusers.FlowMatchEulerDiscreteScheduler,
    }
    made = {name: cls.from_pretrained(str(folder / name), local_files_only=True) for name, cls in classes.items()}
    pipeline = diffusers.LongCatImageEditPipeline(**made, tokenizer=tokenizer, text_processor=Processor(tokenizer))
    pipeline.set_progress_bar_config(disable=True)
    own, pad = pipeline.text_encoder.forward, pipeline.tokenizer.convert_tokens_to_ids(PAD)
    pipeline.text_encoder.forward = lambda **given: own(**given, mm_token_type_ids=(given["input_ids"] == pad).int())
    return in_memory(pipeline)


def seeing(tokenizer: Any, **vision: Any) -> Any:
    """The whole of Qwen2.5-VL, tiny and random."""
    text = {**SIZES, **HEADS, **QUIET, "rope_parameters": {**rope(1e6), "mrope_section": [2, 1, 1]}}
    sight = {"depth": 2, "hidden_size": 16, "num_heads": 2, "intermediate_size": 16, "out_hidden_size": 16}
    sight |= {"fullatt_block_indexes": [1], "window_size": 56, **vision}
    pad = tokenizer.convert_tokens_to_ids(PAD)
    quiet: dict[str, Any] = QUIET
    config = transformers.Qwen2_5_VLConfig(text_config=text, vision_config=sight, image_token_id=pad, **quiet)
    return transformers.Qwen2_5_VLForConditionalGeneration(config)


def saved(folder: Path, kind: str, newer: bool = False, **vision: Any) -> Any:
    """Saves a pipeline of random weights in a folder and answers it as diffusers reads it back."""
    torch.manual_seed(7)
    tokenizer = qwen_words(folder.with_name("words"))
    times = {"use_dynamic_shifting": True, "max_shift": 0.9, "max_image_seq_len": 8192, "shift_terminal": 0.02}
    made = {
        "tokenizer": tokenizer,
        "text_encoder": awake(seeing(tokenizer, **vision)),
        "vae": awake(
            diffusers.AutoencoderKLQwenImage(
                base_dim=8, dim_mult=[1, 1, 1, 1], num_res_blocks=1, input_channels=4 if kind == "layered" else 3
            )
        ),
        "transformer": awake(
            diffusers.QwenImageTransformer2DModel(
                num_layers=2,
                attention_head_dim=8,
                num_attention_heads=2,
                joint_attention_dim=16,
                axes_dims_rope=(4, 2, 2),
                zero_cond_t=newer,
                use_additional_t_cond=kind == "layered",
                use_layer3d_rope=kind == "layered",
            )
        ),
        "scheduler": diffusers.FlowMatchEulerDiscreteScheduler(**times),
    }
    getattr(diffusers, PIPELINES[kind])(**made, processor=None).save_pretrained(str(folder))
    save_processor(folder, "processor")
    return opened(folder)


def save_processor(folder: Path, name: str, cls: str = "Qwen2VLProcessor", pictures: Any = None) -> None:
    """Adds a processor, by name in the index, to a pipeline that was saved without one."""
    index = json.loads((folder / "model_index.json").read_text())
    index[name] = ["transformers", cls]
    (folder / "model_index.json").write_text(json.dumps(index))
    qwen_words(folder / name)
    (pictures or Qwen2VLImageProcessorPil()).save_pretrained(str(folder / name))


def opened(folder: Path) -> Any:
    """The pipeline of a folder. It tells its text encoder which tokens are pictures', as those who wrote it meant: by
    itself it does not since transformers 5, and then pictures have the positions of text.
    """
    cls = getattr(diffusers, json.loads((folder / "model_index.json").read_text())["_class_name"])
    pipeline = cls.from_pretrained(str(folder), local_files_only=True, processor=None)
    pipeline.set_progress_bar_config(disable=True)
    processor = Processor(pipeline.tokenizer)
    pipeline.register_modules(processor=processor)
    own = pipeline.text_encoder.forward
    pipeline.text_encoder.forward = lambda **given: own(**given, mm_token_type_ids=processor.types)
    return in_memory(pipeline)


def small(system: System) -> System:
    """A system that was read, for pictures of AREA pixels."""
    level = system.level("image")
    level.conditioners = tuple(each.tiny() for each in level.conditioners)
    visual: Any = system.text_encoders[0].visual  # type: ignore[attr-defined]
    object.__setattr__(visual.part, "area", AREA)
    return system


def read(folder: Path) -> System:
    """The system of a folder, for pictures of AREA pixels."""
    return small(read_folder(folder))


def of_area(monkeypatch: Any) -> None:
    """Has diffusers' pipelines bring pictures to AREA pixels."""
    modules = (pipeline_qwenimage_edit, pipeline_qwenimage_edit_plus, pipeline_qwenimage_layered)
    for module in (*modules, pipeline_longcat_image_edit, pipeline_qwenimage21):
        own = module.calculate_dimensions
        monkeypatch.setattr(module, "calculate_dimensions", lambda area, ratio, own=own: own(AREA, ratio))


def photo(width: int = 90, height: int = 70, seed: int = 0) -> Image.Image:
    """A picture with places that look different."""
    across, down = numpy.meshgrid(numpy.linspace(0, 255, width), numpy.linspace(0, 255, height))
    waves = 127 + 127 * numpy.sin(across / (9 + seed) + down / 17)
    return Image.fromarray(numpy.stack([across, down, waves], axis=2).astype(numpy.uint8))
