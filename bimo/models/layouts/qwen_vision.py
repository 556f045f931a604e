"""Reads the vision encoders of Qwen2.5-VL and Qwen3-VL in folders of diffusers: config, processor, names of tensors."""

from __future__ import annotations

import importlib
import json
import re
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, cast

from bimo.core.errors import RecipeError
from bimo.models.layouts.configs import NO_EFFECT_TEXT, Config, plain, read_json
from bimo.models.layouts.diffusers_folder import Folder, Reading
from bimo.models.layouts.language_model import text_name
from bimo.models.layouts.pipeline_form import QWEN3_PROCESSOR
from bimo.models.text_encoders.qwen3_vision import Qwen3Vision
from bimo.models.text_encoders.qwen_vision import PictureReader, QwenVision

PROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json")
#: transformers' config class and processor class of each vision encoder.
CONFIGS: dict[type[PictureReader], tuple[str, str]] = {
    QwenVision: ("qwen2_5_vl.configuration_qwen2_5_vl:Qwen2_5_VLVisionConfig", "Qwen2VLProcessor"),
    Qwen3Vision: ("qwen3_vl.configuration_qwen3_vl:Qwen3VLVisionConfig", QWEN3_PROCESSOR),
}
#: Fields of the part that are not in the vision encoder's config: preprocessing, and the prompt around pictures.
NOT_IN_CONFIG = {"min_pixels", "max_pixels", "area", "prompt", "between", "apart", "halved"}
#: Qwen's chat template, for messages of text, or of text and pictures.
CHAT = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'text' %}{{ part['text'] }}{% else %}<|vision_start|><|image_pad|><|vision_end|>{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
#: Duplicates of other fields in older configs, and fields for video.
NO_EFFECT = NO_EFFECT_TEXT | {"in_chans", "spatial_patch_size", "tokens_per_second", "model_type"}
#: Settings of image processors with their only supported value. Others concern batches, channel order or video.
SUPPORTED: dict[str, Any] = {
    "do_convert_rgb": True,
    "do_normalize": True,
    "do_rescale": True,
    "do_resize": True,
    "resample": 3,
    "rescale_factor": 1 / 255,
}


def vision(
    folder: Folder,
    area: int,
    prompt: str,
    component: str = "processor",
    kind: type[PictureReader] = QwenVision,
) -> Any:
    """The vision encoder of a folder with the preprocessing of its processor, the ``component``; ``area`` and
    ``prompt`` are the pipeline's. Raises RecipeError for unsupported settings.
    """
    where, processor = CONFIGS[kind]
    module, _, name = where.partition(":")
    defaults = getattr(importlib.import_module(f"transformers.models.{module}"), name)().to_dict()
    full_config = folder.config("text_encoder")
    config = Config(full_config.path, cast("dict[str, Any]", full_config.fields.get("vision_config") or {}))
    values = config.of(defaults, {field.name for field in fields(kind)} - NOT_IN_CONFIG, NO_EFFECT)
    folder.demand(component, "transformers", (processor,))
    path, settings = processor_settings(folder.path / component)
    sizes = {"patch_size": values["patch_size"], "merge_size": values["spatial_merge_size"]}
    sizes |= {"temporal_patch_size": values["temporal_patch_size"]}
    demand_supported(path, {**sizes, **settings}, sizes, kind)
    size = cast("dict[str, int]", settings.get("size") or {})
    least = settings.get("min_pixels") or size.get("shortest_edge")
    most = settings.get("max_pixels") or size.get("longest_edge")
    limits: dict[str, Any] = {name: value for name, value in (("min_pixels", least), ("max_pixels", most)) if value}
    return kind(**values, **limits, area=area, prompt=prompt)


def vision_language_name(name: str) -> str | None:
    """Our name of a tensor of Qwen2.5-VL in its text encoder; None for the language-model head."""
    vision = re.fullmatch(r"(?:model\.)?visual\.(.+)", name)
    if vision is not None:
        return f"visual.model.{vision[1]}"
    language = text_name(name)
    return None if language is None else f"model.{language}"


def with_vision(reading: Reading) -> Reading:
    """The reading with the weights of the text encoder's vision encoder as well."""
    fillings = tuple(
        replace(each, module="text.0", rename=vision_language_name) if each.component == "text_encoder" else each
        for each in reading.fillings
    )
    return replace(reading, fillings=fillings, configs=("processor",))


def demand_supported(
    path: Path, settings: Mapping[str, Any], sizes: Mapping[str, int], kind: type[PictureReader] = QwenVision
) -> None:
    """Raises RecipeError for settings of a processor, read from a path, that are not supported, or for other ``sizes``
    of patches.
    """
    for name, expected in {**supported_settings(kind), **sizes}.items():
        value = plain(settings.get(name) if name in sizes else settings.get(name, expected))
        if value != plain(expected):
            raise RecipeError(
                "{name} of {path} is {value!r}; supported is {expected}, and ignoring it would draw wrong",
                name=name,
                path=path,
                value=value,
                expected=repr(expected),
            )


def processor_settings(folder: Path) -> tuple[Path, dict[str, Any]]:
    """The file with the settings of a folder's image processor, and these: a file of their own, or since transformers 5
    part of the processor's config.
    """
    path = next((folder / name for name in PROCESSOR_FILES if (folder / name).is_file()), folder / PROCESSOR_FILES[0])
    settings = read_json(path)
    return path, cast("dict[str, Any]", settings.get("image_processor", settings))


def supported_settings(kind: type[PictureReader] = QwenVision) -> dict[str, Any]:
    """The settings of a kind's image processor with their only supported value."""
    return {**SUPPORTED, "image_mean": kind.mean, "image_std": kind.deviation}


def write_processor(folder: Path, part: PictureReader) -> list[str]:
    """Writes the image processor's config and the chat template next to an existing tokenizer; returns (library,
    class).
    """
    processor = CONFIGS[type(part)][1]
    sizes = {"patch_size": part.patch_size, "merge_size": part.spatial_merge_size}
    sizes |= {"temporal_patch_size": part.temporal_patch_size}
    sizes |= {"min_pixels": part.min_pixels, "max_pixels": part.max_pixels}
    limits = {"shortest_edge": part.min_pixels, "longest_edge": part.max_pixels}
    kinds = {"image_processor_type": "Qwen2VLImageProcessor", "processor_class": processor}
    text = json.dumps({**supported_settings(type(part)), **sizes, "size": limits, **kinds}, indent=2)
    (folder / PROCESSOR_FILES[0]).write_text(text, encoding="utf-8")
    (folder / "chat_template.jinja").write_text(CHAT, encoding="utf-8")
    return ["transformers", processor]
