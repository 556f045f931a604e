"""Z-Image's folders: Qwen3 and a transformer of one stream; those of Z-Image-Omni have SigLIP 2 as well."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, cast

import torch

from bimo.core import checkpoint_io
from bimo.core.errors import RecipeError
from bimo.core.messages import Message
from bimo.core.recipe import Defaults, Guidance, Level
from bimo.diffusion.schedules.flow import Flow
from bimo.diffusion.system import System
from bimo.models.layouts.configs import NO_EFFECT_TEXT, plain, read_json
from bimo.models.layouts.diffusers_folder import Filling, Folder, Reading
from bimo.models.layouts.flow_folder import LEVEL, STEPS, denoiser, flow_schedule, flux_space, reading_with
from bimo.models.layouts.language_model import text_encoder
from bimo.models.layouts.pipeline_form import Form
from bimo.models.layouts.weight_files import STEMS
from bimo.models.text_encoders import prompt_templates
from bimo.models.text_encoders.language_model import LanguageModel
from bimo.models.text_encoders.prompt_tokens import PromptPieces
from bimo.models.z_image.denoiser import ZImage
from bimo.models.z_image.omni import ZImageOmni
from bimo.models.z_image.siglip import SeenLatent, SeenLatentSpace, SeenReferences, Siglip2Vision

TRANSFORMER, OMNI = "ZImageTransformer2DModel", "ZImageOmniPipeline"
SEEING, PROCESSOR = "siglip", "siglip_processor"
PROCESSORS = ("Siglip2ImageProcessor", "Siglip2ImageProcessorFast", "Siglip2ImageProcessorPil")
PROCESSOR_FILE = "preprocessor_config.json"
#: What the processor may say, with the one value that is meant.
MEANT: dict[str, Any] = {
    "do_normalize": True,
    "do_rescale": True,
    "do_resize": True,
    "image_mean": (0.5, 0.5, 0.5),
    "image_std": (0.5, 0.5, 0.5),
    "resample": 2,
    "rescale_factor": 1 / 255,
}
#: How many pictures; diffusers' pipeline counts none.
MOST = 4


def reading(folder: Folder) -> Reading:
    """A folder of a ZImagePipeline. Raises RecipeError for unsupported ones."""
    encoder = replace(
        text_encoder(folder, ("Qwen3Model", "Qwen3ForCausalLM"), "qwen3"),
        template=prompt_templates.QWEN3_CHAT,
        length=512,
        state=-2,
    )
    own = {
        "channels": "in_channels",
        "width": "dim",
        "layers": "n_layers",
        "refiners": "n_refiner_layers",
        "heads": "n_heads",
        "key_heads": "n_kv_heads",
        "text": "cap_feat_dim",
        "eps": "norm_eps",
        "normed": "qk_norm",
        "theta": "rope_theta",
        "scale": "t_scale",
        "axes": "axes_dims",
        "lengths": "axes_lens",
    }
    # A field of the published config that no class of diffusers reads.
    extra = {"nheads": folder.config("transformer").fields.get("nheads")}
    omni = folder.pipeline == OMNI
    if omni:
        own["siglip"] = "siglip_feat_dim"
    model = denoiser(folder, TRANSFORMER, ZImageOmni if omni else ZImage, own, **extra)
    schedule = flow_schedule(folder)
    if omni:
        return _omni(folder, encoder, model, schedule)
    # The two published models differ in their weights and in this number.
    turbo = not schedule.dynamic and schedule.shift == 3.0
    name, guidance, steps = ("z-image-turbo", 0.0, 9) if turbo else ("z-image", 5.0, STEPS)
    level = Level(
        name=LEVEL,
        space=flux_space(folder),
        denoiser=model,
        schedule=schedule,
        steps=steps,
        guidance=Guidance(scale=guidance, baseline_scale=0.0),
    )
    why = Message(
        "a ZImagePipeline; shift of its times is {shift:g}: {kind}",
        shift=schedule.shift,
        kind=Message("distilled, Turbo") if turbo else Message("the base"),
    )
    return reading_with(folder, name, why, encoder, level, Defaults(size=(1024, 1024), multiple=16))


def _omni(folder: Folder, encoder: LanguageModel, model: ZImageOmni, schedule: Flow) -> Reading:
    """What differs of the system with reference pictures: it reads in pieces around them, and SigLIP 2 sees them."""
    sight = _siglip(folder)
    if model.siglip != sight.hidden_size:
        raise RecipeError(
            "{name} of {path} is {value!r}; supported is {expected}, and ignoring it would draw wrong",
            name="siglip_feat_dim",
            path=folder.config("transformer").path,
            value=model.siglip,
            expected=repr(sight.hidden_size),
        )
    space = SeenLatent(**vars(flux_space(folder)), siglip=sight)
    level = Level(
        name=LEVEL,
        space=space,
        denoiser=model,
        schedule=schedule,
        conditioners=(SeenReferences(count=MOST),),
        steps=STEPS,
        guidance=Guidance(scale=5.0, baseline_scale=0.0),
    )
    why = Message("a ZImageOmniPipeline: it reads pictures beside the words")
    first, between, template, last = prompt_templates.Z_IMAGE_OMNI
    pieces = PromptPieces(first=first, between=between, template=template, last=last)
    size = Defaults(size=(1024, 1024), multiple=16)
    found = reading_with(folder, "z-image-omni", why, replace(encoder, pieces=pieces), level, size)
    more = Filling(SEEING, "image.space.siglip.model", _siglip_name)
    return replace(found, fillings=(*found.fillings, more), configs=(PROCESSOR,))


def _siglip_name(name: str) -> str:
    return name.removeprefix("vision_model.")


def _siglip(folder: Folder) -> Siglip2Vision:
    """The image encoder, and up to how many patches its processor brings to it. Raises RecipeError."""
    from transformers import Siglip2VisionConfig

    folder.demand(SEEING, "transformers", ("Siglip2VisionModel",))
    folder.demand(PROCESSOR, "transformers", PROCESSORS)
    own = {each.name for each in fields(Siglip2Vision)} - {"max_num_patches"}
    # transformers 5.6 has no default for this one: there is a head where none is named.
    defaults = {"vision_use_head": True, **Siglip2VisionConfig().to_dict()}
    read = folder.config(SEEING).of(defaults, own, NO_EFFECT_TEXT)
    path = folder.path / PROCESSOR / PROCESSOR_FILE
    said = read_json(path)
    for name, value in {**MEANT, "patch_size": read["patch_size"]}.items():
        if plain(said.get(name, value)) != plain(value):
            raise RecipeError(
                "{name} of {path} is {value!r}; supported is {expected}, and ignoring it would draw wrong",
                name=name,
                path=path,
                value=said[name],
                expected=repr(value),
            )
    return Siglip2Vision(**read, max_num_patches=said.get("max_num_patches", 256))


def write_siglip(system: System, folder: Path, dtype: torch.dtype | None) -> dict[str, list[str]]:
    """Writes the image encoder and its processor as transformers reads them; answers library and class of each."""
    siglip = cast(SeenLatentSpace, system.space(LEVEL)).siglip
    model, part = siglip.model, siglip.part
    (folder / PROCESSOR).mkdir(parents=True)
    (folder / SEEING).mkdir()
    config = json.loads(model.config.to_json_string(use_diff=False)) | {"architectures": ["Siglip2VisionModel"]}
    (folder / SEEING / "config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")
    checkpoint_io.write(folder / SEEING / f"{STEMS[0]}.safetensors", model.state_dict(), dtype)
    settings = {**MEANT, "patch_size": part.patch_size, "max_num_patches": part.max_num_patches}
    text = json.dumps({**settings, "image_processor_type": PROCESSORS[0]}, indent=2)
    (folder / PROCESSOR / PROCESSOR_FILE).write_text(text, encoding="utf-8")
    return {SEEING: ["transformers", "Siglip2VisionModel"], PROCESSOR: ["transformers", PROCESSORS[0]]}


FORMS = (
    Form("ZImagePipeline", TRANSFORMER, ("Qwen3Model",)),
    Form(OMNI, TRANSFORMER, ("Qwen3Model",), references=2, processor="", beside=write_siglip),
)
