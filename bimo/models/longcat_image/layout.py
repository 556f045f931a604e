"""LongCat-Image's folders: Qwen2.5-VL's language model and a transformer of two streams, then one."""

from __future__ import annotations

from dataclasses import replace

from bimo.core.messages import Message
from bimo.core.recipe import Defaults, Guidance, Level
from bimo.models.layouts.diffusers_folder import Folder, Reading
from bimo.models.layouts.flow_folder import LEVEL, STEPS, denoiser, flow_schedule, flux_space, reading_with
from bimo.models.layouts.language_model import text_encoder
from bimo.models.layouts.pipeline_form import QWEN, Form
from bimo.models.layouts.qwen_vision import vision, with_vision
from bimo.models.longcat_image.denoiser import LongCatImage
from bimo.models.qwen_image.references import References
from bimo.models.text_encoders import prompt_templates
from bimo.models.text_encoders.qwen_vision import PICTURE

WANTING = Message(
    ": its pipeline rewrites prompts with the whole of Qwen2.5-VL and a processor of pictures, of which only the "
    "language model is loaded"
)
TRANSFORMER, EDIT = "LongCatImageTransformer2DModel", "LongCatImageEditPipeline"
#: What the edit's pipeline calls the processor of its pictures.
PROCESSOR = "text_processor"
FORMS = (
    Form("LongCatImagePipeline", TRANSFORMER, (QWEN,), unsupported=WANTING),
    Form(EDIT, TRANSFORMER, (QWEN,), references=1, processor=PROCESSOR),
)


def reading(folder: Folder) -> Reading:
    """A folder of a LongCatImagePipeline or a LongCatImageEditPipeline. Raises RecipeError for what cannot be drawn."""
    encoder = replace(
        text_encoder(folder, ("Qwen2_5_VLForConditionalGeneration",), "qwen2_5_vl"),
        template=prompt_templates.LONGCAT_IMAGE,
        length=512,
        pad="full",
        characters=True,
    )
    own = {
        "layers": "num_layers",
        "singles": "num_single_layers",
        "head": "attention_head_dim",
        "heads": "num_attention_heads",
        "text": "joint_attention_dim",
        "axes": "axes_dims_rope",
    }
    # No vector enters this transformer, whatever its config says of one's width.
    known = {"pooled_projection_dim": folder.config("transformer").fields.get("pooled_projection_dim")}
    model = denoiser(folder, TRANSFORMER, LongCatImage, own, **known)
    level = Level(
        name=LEVEL,
        space=flux_space(folder),
        denoiser=model,
        schedule=flow_schedule(folder),
        steps=STEPS,
        guidance=Guidance(scale=4.5, norm="patch"),
    )
    size = Defaults(size=(1024, 1024), multiple=16)
    if folder.pipeline == EDIT:
        seeing = replace(
            encoder,
            template=prompt_templates.LONGCAT_EDIT,
            vision=replace(vision(folder, area=1024 * 1024, prompt=PICTURE, component=PROCESSOR), halved=True),
        )
        level = replace(
            level,
            denoiser=replace(model, origin=0),
            conditioners=(References(unit=16, up=True),),
            guidance=Guidance(scale=4.5),
        )
        why = Message("a LongCatImageEditPipeline: it edits a picture as it is told")
        found = with_vision(reading_with(folder, "longcat-image-edit", why, seeing, level, size))
        return replace(found, configs=(PROCESSOR,))
    why = Message("a LongCatImagePipeline; prompts are not rewritten")
    return reading_with(folder, "longcat-image", why, encoder, level, size)
