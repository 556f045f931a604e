"""Qwen-Image's folders: Qwen2.5-VL's language model, a transformer of two streams and a film's autoencoder; those of
Qwen-Image-Edit have its vision tower as well.
"""

# diffusers loads its classes lazily, which reads as private.
# pyright: reportPrivateImportUsage=false

from __future__ import annotations

from dataclasses import replace
from typing import cast

from bimo.core.errors import RecipeError
from bimo.core.messages import Message
from bimo.core.part import Part
from bimo.core.recipe import Defaults, Guidance, Level
from bimo.diffusion.schedules.flow import Flow
from bimo.models.layouts.configs import defaults_of
from bimo.models.layouts.diffusers_folder import Folder, Reading
from bimo.models.layouts.flow_folder import LEVEL, STEPS, denoiser, flow_schedule, reading_with
from bimo.models.layouts.language_model import text_encoder
from bimo.models.layouts.pipeline_form import QWEN, Form
from bimo.models.layouts.qwen_vision import vision, with_vision
from bimo.models.qwen_image.denoiser import QwenImage
from bimo.models.qwen_image.layered import UNIT, LayeredPicture, QwenLayeredLatent
from bimo.models.qwen_image.references import References
from bimo.models.qwen_image.space import QwenLatent
from bimo.models.text_encoders import prompt_templates
from bimo.models.text_encoders.language_model import LanguageModel
from bimo.models.text_encoders.qwen_vision import PICTURE

TRANSFORMER = "QwenImageTransformer2DModel"
EDIT, EDIT_PLUS, LAYERED = "QwenImageEditPipeline", "QwenImageEditPlusPipeline", "QwenImageLayeredPipeline"
FORMS = (
    Form("QwenImagePipeline", TRANSFORMER, (QWEN,)),
    Form(EDIT, TRANSFORMER, (QWEN,), references=1),
    Form(EDIT_PLUS, TRANSFORMER, (QWEN,), references=2),
    Form(LAYERED, TRANSFORMER, (QWEN,), layered=True),
)
#: How many pictures Qwen-Image-Edit-2509 and -2511 are said to be good with; diffusers' pipeline counts none.
SEVERAL = 3


def reading(folder: Folder) -> Reading:
    """A folder of a QwenImagePipeline, or of one that edits pictures or takes them apart. Raises RecipeError for what
    cannot be drawn.
    """
    if folder.pipeline in (EDIT, EDIT_PLUS):
        return _editing(folder)
    if folder.pipeline == LAYERED:
        return _layered(folder)
    encoder = replace(_language_model(folder), template=prompt_templates.QWEN_IMAGE, drop=34, length=512)
    why = Message("a QwenImagePipeline; guided where there is a negative prompt")
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
        Message("a {pipeline}; its transformer is told that pictures have no noise", pipeline=folder.pipeline)
        if newer
        else Message("a {pipeline}; its transformer is not told that pictures have no noise", pipeline=folder.pipeline)
    )
    found = reading_with(folder, name, why, encoder, level, Defaults(size=(1024, 1024), multiple=16, negative=" "))
    return with_vision(found)


def _layered(folder: Folder) -> Reading:
    """What differs of the system that draws layers. Its vision tower only writes prompts, in diffusers' pipeline; it is
    kept so that the folder can be written again.
    """
    encoder = replace(
        _language_model(folder),
        template=prompt_templates.QWEN_IMAGE,
        drop=34,
        length=512,
        vision=vision(folder, area=640 * 640, prompt=PICTURE),
    )
    level = _level(folder, (LayeredPicture(),), layered=True)
    if not cast(QwenImage, level.denoiser).layered:
        raise RecipeError(
            "{name} of {path} is {value!r}; supported is {expected}, and ignoring it would draw wrong",
            name="use_layer3d_rope",
            path=folder.config("transformer").path,
            value=False,
            expected="True",
        )
    schedule = cast(Flow, level.schedule)
    # The pipeline works out its shift by a rule of its own, whatever the scheduler's config says.
    moved = replace(schedule, base_length=256, base_shift=0.0, max_shift=1.0) if schedule.dynamic else schedule
    level = replace(level, schedule=moved, guidance=Guidance(scale=4.0, only_with_negative=True))
    why = Message("a QwenImageLayeredPipeline: it takes pictures apart into layers")
    size = Defaults(size=(640, 640), multiple=UNIT, negative=" ")
    return with_vision(reading_with(folder, "qwen-image-layered", why, encoder, level, size))


def _language_model(folder: Folder) -> LanguageModel:
    return text_encoder(folder, (QWEN,), "qwen2_5_vl")


def _level(folder: Folder, conditioners: tuple[Part, ...] = (), layered: bool = False) -> Level:
    own = {
        "channels": "out_channels",
        "layers": "num_layers",
        "head": "attention_head_dim",
        "heads": "num_attention_heads",
        "text": "joint_attention_dim",
        "axes": "axes_dims_rope",
        "zero_cond_t": "zero_cond_t",
    }
    if layered:
        own["layered"] = "use_layer3d_rope"
    fields = folder.config("transformer").fields
    # The published config still has a pooled width that its class no longer reads.
    known = {"pooled_projection_dim": fields.get("pooled_projection_dim"), "in_channels": 4 * fields["out_channels"]}
    if layered:
        known["use_additional_t_cond"] = True
    return Level(
        name=LEVEL,
        space=_qwen_space(folder, layered),
        denoiser=denoiser(folder, TRANSFORMER, QwenImage, own, **known),
        schedule=flow_schedule(folder, dynamic="root") if layered else flow_schedule(folder),
        conditioners=conditioners,
        steps=STEPS,
        guidance=Guidance(scale=4.0, norm="patch", lengthen=True, only_with_negative=True),
    )


def _qwen_space(folder: Folder, layered: bool) -> QwenLatent:
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
    defaults = defaults_of(AutoencoderKLQwenImage) | ({"input_channels": 4} if layered else {})
    read = folder.config("vae").of(defaults, own.values(), ("dropout",))
    return (QwenLayeredLatent if layered else QwenLatent)(**{name: read[field] for name, field in own.items()})
