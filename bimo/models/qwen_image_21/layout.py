"""Qwen-Image-2.1's folders: the whole of Qwen3-VL, a transformer of one stream and an autoencoder with opacity."""

# diffusers loads its classes lazily, which reads as private.
# pyright: reportPrivateImportUsage=false

from __future__ import annotations

from dataclasses import fields, replace

from bimo.core.errors import RecipeError
from bimo.core.messages import Message
from bimo.core.recipe import Defaults, Guidance, Level
from bimo.models.layouts.configs import defaults_of
from bimo.models.layouts.diffusers_folder import INDEX_FILE, Folder, Reading
from bimo.models.layouts.flow_folder import LEVEL, denoiser, flow_schedule, reading_with
from bimo.models.layouts.language_model import text_encoder
from bimo.models.layouts.pipeline_form import QWEN3, QWEN3_PROCESSOR, Form
from bimo.models.layouts.qwen_vision import vision, with_vision
from bimo.models.qwen_image.references import UNIT, InlineReferences
from bimo.models.qwen_image_21.denoiser import QwenImage21
from bimo.models.qwen_image_21.space import QwenLatent21
from bimo.models.text_encoders import prompt_templates
from bimo.models.text_encoders.qwen3_vision import Qwen3Vision

TRANSFORMER, VAE = "QwenImage21Transformer2DModel", "AutoencoderKLQwenImage21"
PROCESSOR = "processor"
FORMS = (Form("QwenImage21Pipeline", TRANSFORMER, (QWEN3,), references=2, tokenizers=()),)
#: As many pictures as its authors say it takes; diffusers' pipeline counts none.
MOST = 10


def reading(folder: Folder) -> Reading:
    """A folder of a QwenImage21Pipeline. Raises RecipeError for what cannot be drawn."""
    if (sigmas := folder.index.get("sample_sigmas")) is not None:
        raise RecipeError(
            "{name} of {path} is {value!r}; supported is {expected}, and ignoring it would draw wrong",
            name="sample_sigmas",
            path=folder.path / INDEX_FILE,
            value=sigmas,
            expected="None",
        )
    sight = vision(folder, area=1024 * 1024, prompt=prompt_templates.QWEN_IMAGE_21_PICTURE, kind=Qwen3Vision)
    encoder = replace(
        text_encoder(folder, (QWEN3,), "qwen3_vl", (QWEN3_PROCESSOR,), PROCESSOR),
        template=prompt_templates.QWEN_IMAGE_21,
        drop_text=prompt_templates.QWEN_IMAGE_21_SYSTEM,
        empty=" ",
        length=4096,
        normed=False,
        vision=replace(sight, between=" ", apart=True),
    )
    own = {field.name: field.name for field in fields(QwenImage21)}
    known = {"out_channels": folder.config("transformer").fields.get("in_channels", 64), "patch_size": 1}
    level = Level(
        name=LEVEL,
        space=_space(folder),
        denoiser=denoiser(folder, TRANSFORMER, QwenImage21, own, **known),
        schedule=flow_schedule(folder, patch=1),
        conditioners=(InlineReferences(count=MOST, opacity=True),),
        steps=40,
        guidance=Guidance(scale=1.0, only_with_negative=True),
    )
    why = Message("a QwenImage21Pipeline; pictures stand among the words, and what is drawn has an opacity")
    size = Defaults(size=(2048, 2048), multiple=UNIT)
    return replace(
        with_vision(reading_with(folder, "qwen-image-2.1", why, encoder, level, size)), tokenizers=(PROCESSOR,)
    )


def _space(folder: Folder) -> QwenLatent21:
    import diffusers

    folder.demand("vae", "diffusers", (VAE,))
    own = {
        "channels": "z_dim",
        "width": "base_dim",
        "decoder_width": "decoder_base_dim",
        "multiples": "dim_mult",
        "layers_per_block": "num_res_blocks",
        "frames": "temperal_downsample",
        "mean": "latents_mean",
        "deviation": "latents_std",
    }
    read = folder.config("vae").of(defaults_of(getattr(diffusers, VAE)), own.values(), ("dropout",))
    return QwenLatent21(**{name: read[field] for name, field in own.items()})
