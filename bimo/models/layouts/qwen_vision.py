"""The vision tower of Qwen2.5-VL in a folder of diffusers: its config, its processor's, and its tensors' names."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from bimo.core.errors import RecipeError
from bimo.models.layouts.configs import NO_EFFECT_TEXT, Config, plain, read_json
from bimo.models.layouts.diffusers_folder import Folder, Reading
from bimo.models.layouts.language_model import text_name
from bimo.models.spaces import CLIP_DEVIATION, CLIP_MEAN
from bimo.models.text_encoders.qwen_vision import QwenVision

PROCESSOR = "Qwen2VLProcessor"
PROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json")
OWN = (
    *("depth", "hidden_size", "intermediate_size", "num_heads", "out_hidden_size", "patch_size"),
    *("spatial_merge_size", "temporal_patch_size", "window_size", "fullatt_block_indexes"),
)
#: Fields that older configs have under another name, and of films, of which pictures are none.
NO_EFFECT = NO_EFFECT_TEXT | {"in_chans", "spatial_patch_size", "tokens_per_second", "model_type"}
#: What a processor may say, with the one value that is meant; what is not here is of batches, channels or films.
MEANT: dict[str, Any] = {
    "do_convert_rgb": True,
    "do_normalize": True,
    "do_rescale": True,
    "do_resize": True,
    "image_mean": CLIP_MEAN,
    "image_std": CLIP_DEVIATION,
    "resample": 3,
    "rescale_factor": 1 / 255,
}


def vision(folder: Folder, area: int, prompt: str, component: str = "processor") -> QwenVision:
    """The vision tower of a folder, and how its processor, the ``component``, brings pictures to it; ``area`` and
    ``prompt`` are the pipeline's. Raises RecipeError for what would be seen otherwise.
    """
    from transformers.models.qwen2_5_vl.configuration_qwen2_5_vl import Qwen2_5_VLVisionConfig

    whole = folder.config("text_encoder")
    config = Config(whole.path, cast("dict[str, Any]", whole.fields.get("vision_config") or {}))
    read = config.of(Qwen2_5_VLVisionConfig().to_dict(), OWN, NO_EFFECT)
    folder.demand(component, "transformers", (PROCESSOR,))
    path, fields = processor_fields(folder.path / component)
    sizes = {"patch_size": read["patch_size"], "merge_size": read["spatial_merge_size"]}
    sizes |= {"temporal_patch_size": read["temporal_patch_size"]}
    demand_sizes(path, {**sizes, **fields}, sizes)
    size = cast("dict[str, int]", fields.get("size") or {})
    least = fields.get("min_pixels") or size.get("shortest_edge")
    most = fields.get("max_pixels") or size.get("longest_edge")
    limits: dict[str, Any] = {name: value for name, value in (("min_pixels", least), ("max_pixels", most)) if value}
    return QwenVision(**read, **limits, area=area, prompt=prompt)


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


def demand_sizes(path: Path, fields: Mapping[str, Any], sizes: Mapping[str, int]) -> None:
    """Raises RecipeError where the fields of a processor, read from a path, are not what is meant of all of its kind,
    or not these ``sizes`` of patches.
    """
    for name, value in {**MEANT, **sizes}.items():
        found = plain(fields.get(name) if name in sizes else fields.get(name, value))
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
    fields = read_json(path)
    return path, cast("dict[str, Any]", fields.get("image_processor", fields))


def write_processor(folder: Path, part: QwenVision) -> list[str]:
    """Writes what transformers' Qwen2VLProcessor reads of pictures, beside the tokenizer that is there; answers
    (library, class).
    """
    sizes = {"patch_size": part.patch_size, "merge_size": part.spatial_merge_size}
    sizes |= {"temporal_patch_size": part.temporal_patch_size}
    sizes |= {"min_pixels": part.min_pixels, "max_pixels": part.max_pixels}
    limits = {"shortest_edge": part.min_pixels, "longest_edge": part.max_pixels}
    kinds = {"image_processor_type": "Qwen2VLImageProcessor", "processor_class": PROCESSOR}
    text = json.dumps({**MEANT, **sizes, "size": limits, **kinds}, indent=2)
    (folder / PROCESSOR_FILES[0]).write_text(text, encoding="utf-8")
    return ["transformers", PROCESSOR]
