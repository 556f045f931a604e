"""Writes GLM-Image's prior as transformers reads it: what sees, what writes, and their processor."""

# transformers loads its classes lazily, which reads as private, and leaves parts of its interface untyped.
# pyright: reportPrivateImportUsage=false, reportUnknownMemberType=false

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import torch

from bimo.core import checkpoint_io
from bimo.diffusion.schedules.next_token import NextToken
from bimo.diffusion.system import System
from bimo.models.glm_image.conditioners import space_of, words_of
from bimo.models.glm_image.prior import GlmImagePriorDenoiser
from bimo.models.layouts.pipeline_form import GLM_IMAGE_WORDS
from bimo.models.layouts.qwen_vision import PROCESSOR_FILES, supported_settings
from bimo.models.layouts.weight_files import STEMS

#: The components of the prior, and its class; the level that it is.
PRIOR, PROCESSOR, WHOLE = "vision_language_encoder", "processor", "GlmImageForConditionalGeneration"
PRIOR_LEVEL = "prior"
#: What the tokens that the prior is told by are called in its tokenizer's settings.
MARKS = {"grid_start": "grid_bos_token", "grid_end": "grid_eos_token", "image_start": "bos_token"}
#: How tokens are drawn where a generation config does not say.
GENERATION = {"temperature": 1.0, "top_k": 50, "top_p": 1.0}
#: What stands for one token of a picture before the processor writes as many as it has.
IMAGE_TOKEN = "<|image|>"
SETTINGS_FILE, TEMPLATE_FILE = "tokenizer_config.json", "chat_template.jinja"
#: A prompt as it stands, behind its pictures between the marks of one.
TEMPLATE = (
    "{{% for message in messages %}}{{% for item in message['content'] %}}{{% if item['type'] == 'image' %}}"
    "{start}{image}{end}{{% else %}}{{{{ item['text'] }}}}{{% endif %}}{{% endfor %}}{{% endfor %}}"
)


def write_prior(system: System, folder: Path, dtype: torch.dtype | None) -> dict[str, list[str]]:
    """Writes the prior's weights and configs, and its processor beside the tokenizer that is there; answers (library,
    class) by component.
    """
    import transformers

    space, level = space_of(system, PRIOR_LEVEL), system.level(PRIOR_LEVEL)
    prior, words = cast(GlmImagePriorDenoiser, level.denoiser), words_of(system)
    image = words.tokenizer.token_to_id(IMAGE_TOKEN)
    config = transformers.GlmImageConfig(
        text_config=prior.model.config.to_dict(),
        vision_config=space.visual.config.to_dict(),
        vq_config=space.vqmodel.config.to_dict(),
        image_start_token_id=prior.part.image_start,
        image_end_token_id=prior.part.image_end,
        **({} if image is None else {"image_token_id": image}),
    )
    inner = {"visual": space.visual, "vqmodel": space.vqmodel, "language_model": prior.model}
    state = {f"model.{name}.{key}": v for name, module in inner.items() for key, v in module.state_dict().items()}
    state["lm_head.weight"] = prior.lm_head.weight
    own = folder / PRIOR
    own.mkdir(parents=True)
    _write(own / "config.json", json.loads(config.to_json_string(use_diff=False)) | {"architectures": [WHOLE]})
    checkpoint_io.write(own / f"{STEMS[0]}.safetensors", state, dtype)
    schedule = cast(NextToken, level.schedule)
    drawn = {name: getattr(schedule, name) for name in GENERATION}
    _write(own / "generation_config.json", {"do_sample": True, "eos_token_id": prior.part.image_end, **drawn})
    _write_processor(system, folder / PROCESSOR)
    return {PRIOR: ["transformers", WHOLE], PROCESSOR: ["transformers", GLM_IMAGE_WORDS]}


def _write_processor(system: System, folder: Path) -> None:
    part, words = space_of(system, PRIOR_LEVEL).part, words_of(system)
    end = cast(GlmImagePriorDenoiser, system.level(PRIOR_LEVEL).denoiser).part.image_end
    marks = {theirs: getattr(words.part, name) for name, theirs in MARKS.items()} | {"image_token": IMAGE_TOKEN}
    path = folder / SETTINGS_FILE
    _write(path, json.loads(path.read_text(encoding="utf-8")) | marks | {"processor_class": GLM_IMAGE_WORDS})
    template = TEMPLATE.format(
        start=words.part.image_start, image=IMAGE_TOKEN, end=words.tokenizer.id_to_token(end) or ""
    )
    (folder / TEMPLATE_FILE).write_text(template, encoding="utf-8")
    limits = {"shortest_edge": part.min_pixels, "longest_edge": part.max_pixels}
    sizes: dict[str, Any] = {"patch_size": part.patch_size, "merge_size": 1, "temporal_patch_size": 1, "size": limits}
    kinds = {"image_processor_type": "GlmImageImageProcessor", "processor_class": GLM_IMAGE_WORDS}
    _write(folder / PROCESSOR_FILES[0], {**supported_settings(), **sizes, **kinds})


def _write(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False), encoding="utf-8")
