"""Qwen-Image's folders: Qwen2.5-VL's language model, a transformer of two streams and a film's autoencoder; those of
Qwen-Image-Edit have its vision tower as well.
"""

# diffusers loads its classes lazily, which reads as private.
# pyright: reportPrivateImportUsage=false

from __future__ import annotations

from dataclasses import replace

from bimo.core.part import Part
from bimo.core.recipe import Defaults, Guidance, Level
from bimo.models.layouts.configs import defaults_of
from bimo.models.layouts.diffusers_folder import Folder, Reading
from bimo.models.layouts.flow_folder import LEVEL, STEPS, denoiser, flow_schedule, reading_with
from bimo.models.layouts.language_model import text_encoder
from bimo.models.layouts.pipeline_form import QWEN, Form
from bimo.models.layouts.qwen_vision import seeing_name, vision
from bimo.models.qwen_image.denoiser import QwenImage
from bimo.models.qwen_image.references import References
from bimo.models.qwen_image.space import QwenLatent
from bimo.models.text_encoders import prompt_templates
from bimo.models.text_encoders.language_model import LanguageModel
from bimo.models.text_encoders.qwen_vision import PICTURE

TRANSFORMER = "QwenImageTransformer2DModel"
EDIT, EDIT_PLUS = "QwenImageEditPipeline", "QwenImageEditPlusPipeline"
FORMS = (
    Form("QwenImagePipeline", TRANSFORMER, (QWEN,)),
    Form(EDIT, TRANSFORMER, (QWEN,), references=1),
    Form(EDIT_PLUS, TRANSFORMER, (QWEN,), references=2),
)
#: How many pictures Qwen-Image-Edit-2509 and -2511 are said to be good with; diffusers' pipeline counts none.
SEVERAL = 3


def reading(folder: Folder) -> Reading:
    """A folder of a QwenImagePipeline, or of one that edits pictures. Raises RecipeError for what cannot be drawn."""
    if folder.pipeline in (EDIT, EDIT_PLUS):
        return _editing(folder)
    encoder = replace(_language_model(folder), template=prompt_templates.QWEN_IMAGE, drop=34, length=512)
    why = ("QwenImagePipeline；有反向提示词时才引导", "a QwenImagePipeline; guided where there is a negative prompt")
    size = Defaults(size=(1328, 1328), multiple=16, negative=" ")
    return reading_with(folder, "qwen-image", why, encoder, _level(folder), size)


def _editing(folder: Folder) -> Reading:
    """What differs of a system that edits pictures: it looks at them, and its transformer has them beside x."""
    several = folder.pipeline == EDIT_PLUS
    area = 384 * 384 if several else 1024 * 1024
    encoder = replace(
        _language_model(folder),
        template=prompt_templates.QWEN_IMAGE_EDIT,
        drop=64,
        length=1024,
        vision=vision(folder, area=area, prompt=f"Picture {{}}: {PICTURE}" if several else PICTURE),
    )
    level = _level(folder, (References(count=SEVERAL if several else 1),))
    newer = level.denoiser.zero_cond_t  # type: ignore[attr-defined]
    name = "qwen-image-edit" if not several else "qwen-image-edit-2511" if newer else "qwen-image-edit-2509"
    if several:
        level = replace(level, steps=40)
    why = (
        f"{folder.pipeline}；参考图不带噪声的时间：{'有' if newer else '没有'} zero_cond_t",
        f"a {folder.pipeline}; its transformer is {'' if newer else 'not '}told that pictures have no noise",
    )
    found = reading_with(folder, name, why, encoder, level, Defaults(size=(1024, 1024), multiple=16, negative=" "))
    fillings = tuple(
        replace(each, module="text.0", rename=seeing_name) if each.component == "text_encoder" else each
        for each in found.fillings
    )
    return replace(found, fillings=fillings, configs=("processor",))


def _language_model(folder: Folder) -> LanguageModel:
    return text_encoder(folder, (QWEN,), "qwen2_5_vl")


def _level(folder: Folder, conditioners: tuple[Part, ...] = ()) -> Level:
    own = {
        "channels": "out_channels",
        "layers": "num_layers",
        "head": "attention_head_dim",
        "heads": "num_attention_heads",
        "text": "joint_attention_dim",
        "axes": "axes_dims_rope",
        "zero_cond_t": "zero_cond_t",
    }
    fields = folder.config("transformer").fields
    # The published config still has a pooled width that its class no longer reads.
    known = {"pooled_projection_dim": fields.get("pooled_projection_dim"), "in_channels": 4 * fields["out_channels"]}
    return Level(
        name=LEVEL,
        space=_qwen_space(folder),
        denoiser=denoiser(folder, TRANSFORMER, QwenImage, own, **known),
        schedule=flow_schedule(folder),
        conditioners=conditioners,
        steps=STEPS,
        guidance=Guidance(scale=4.0, norm="patch", lengthen=True, only_with_negative=True),
    )


def _qwen_space(folder: Folder) -> QwenLatent:
    from diffusers import AutoencoderKLQwenImage

    folder.demand("vae", "diffusers", ("AutoencoderKLQwenImage",))
    own = {
        "channels": "z_dim",
        "width": "base_dim",
        "multiples": "dim_mult",
        "layers_per_block": "num_res_blocks",
        "frames": "temperal_downsample",
        "mean": "latents_mean",
        "deviation": "latents_std",
    }
    read = folder.config("vae").of(defaults_of(AutoencoderKLQwenImage), own.values(), ("dropout",))
    return QwenLatent(**{name: read[field] for name, field in own.items()})
