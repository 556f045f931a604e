"""Qwen2.5-VL's and Qwen3-VL's vision towers in a folder of diffusers: config, processor's config, tensors' names."""

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
#: What transformers calls the config of each tower, and what brings pictures to it.
CONFIGS: dict[type[PictureReader], tuple[str, str]] = {
    QwenVision: ("qwen2_5_vl.configuration_qwen2_5_vl:Qwen2_5_VLVisionConfig", "Qwen2VLProcessor"),
    Qwen3Vision: ("qwen3_vl.configuration_qwen3_vl:Qwen3VLVisionConfig", QWEN3_PROCESSOR),
}
#: The fields of a tower that are no field of its config.
BROUGHT = {"min_pixels", "max_pixels", "area", "prompt", "between", "apart", "halved"}
#: Qwen's chat: messages of text, or of texts and pictures.
CHAT = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'text' %}{{ part['text'] }}{% else %}<|vision_start|><|image_pad|><|vision_end|>{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
#: Fields that older configs have under another name, and of films, of which pictures are none.
NO_EFFECT = NO_EFFECT_TEXT | {"in_chans", "spatial_patch_size", "tokens_per_second", "model_type"}
#: What a processor may say, with the one value that is meant; what is not here is of batches, channels or films.
MEANT: dict[str, Any] = {
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
    """The vision tower of a folder, and how its processor, the ``component``, brings pictures to it; ``area`` and
    ``prompt`` are the pipeline's. Raises RecipeError for what would be seen otherwise.
    """
    where, processor = CONFIGS[kind]
    module, _, name = where.partition(":")
    defaults = getattr(importlib.import_module(f"transformers.models.{module}"), name)().to_dict()
    whole = folder.config("text_encoder")
    config = Config(whole.path, cast("dict[str, Any]", whole.fields.get("vision_config") or {}))
    own = {field.name for field in fields(kind)} - BROUGHT
    read = config.of(defaults, own, NO_EFFECT)
    folder.demand(component, "transformers", (processor,))
    path, said = processor_fields(folder.path / component)
    sizes = {"patch_size": read["patch_size"], "merge_size": read["spatial_merge_size"]}
    sizes |= {"temporal_patch_size": read["temporal_patch_size"]}
    demand_sizes(path, {**sizes, **said}, sizes, kind)
    size = cast("dict[str, int]", said.get("size") or {})
    least = said.get("min_pixels") or size.get("shortest_edge")
    most = said.get("max_pixels") or size.get("longest_edge")
    limits: dict[str, Any] = {name: value for name, value in (("min_pixels", least), ("max_pixels", most)) if value}
    return kind(**read, **limits, area=area, prompt=prompt)


def seeing_name(name: str) -> str | None:
    """Where a tensor of the whole of Qwen2.5-VL is in its text encoder; None for the head that speaks."""
    seen = re.fullmatch(r"(?:model\.)?visual\.(.+)", name)
    if seen is not None:
        return f"visual.model.{seen[1]}"
    spoken = text_name(name)
    return None if spoken is None else f"model.{spoken}"


def seeing_reading(found: Reading) -> Reading:
    """A reading whose text encoder has its vision tower as well."""
    fillings = tuple(
        replace(each, module="text.0", rename=seeing_name) if each.component == "text_encoder" else each
        for each in found.fillings
    )
    return replace(found, fillings=fillings, configs=("processor",))


def demand_sizes(
    path: Path, said: Mapping[str, Any], sizes: Mapping[str, int], kind: type[PictureReader] = QwenVision
) -> None:
    """Raises RecipeError where what a processor says, read from a path, is not what is meant of all of its kind, or not
    these ``sizes`` of patches.
    """
    for name, value in {**meant_of(kind), **sizes}.items():
        found = plain(said.get(name) if name in sizes else said.get(name, value))
        if found != plain(value):
            raise RecipeError(
                "{name} of {path} is {value!r}; supported is {expected}, and ignoring it would draw wrong",
                name=name,
                path=path,
                value=found,
                expected=repr(value),
            )


def processor_fields(folder: Path) -> tuple[Path, dict[str, Any]]:
    """What a processor says of pictures, and where: in a file of its own, or since transformers 5 within the
    processor's.
    """
    path = next((folder / name for name in PROCESSOR_FILES if (folder / name).is_file()), folder / PROCESSOR_FILES[0])
    said = read_json(path)
    return path, cast("dict[str, Any]", said.get("image_processor", said))


def meant_of(kind: type[PictureReader] = QwenVision) -> dict[str, Any]:
    """What a processor of a kind may say, with the one value that is meant."""
    return {**MEANT, "image_mean": kind.mean, "image_std": kind.deviation}


def write_processor(folder: Path, part: PictureReader) -> list[str]:
    """Writes what transformers' processor reads of pictures, beside the tokenizer that is there, and its chat's
    template; answers (library, class).
    """
    processor = CONFIGS[type(part)][1]
    sizes = {"patch_size": part.patch_size, "merge_size": part.spatial_merge_size}
    sizes |= {"temporal_patch_size": part.temporal_patch_size}
    sizes |= {"min_pixels": part.min_pixels, "max_pixels": part.max_pixels}
    limits = {"shortest_edge": part.min_pixels, "longest_edge": part.max_pixels}
    kinds = {"image_processor_type": "Qwen2VLImageProcessor", "processor_class": processor}
    text = json.dumps({**meant_of(type(part)), **sizes, "size": limits, **kinds}, indent=2)
    (folder / PROCESSOR_FILES[0]).write_text(text, encoding="utf-8")
    (folder / "chat_template.jinja").write_text(CHAT, encoding="utf-8")
    return ["transformers", processor]
