"""Pipelines of diffusers by name: the family of their parts, or the task that is not supported."""

from __future__ import annotations

import re

from bimo.core.messages import Message

#: Text-to-image pipeline of a family -> the module that reads it, with ``reading(folder) -> Reading``.
FAMILIES = {
    "StableDiffusionPipeline": "bimo.models.stable_diffusion.layout",
    "AltDiffusionPipeline": "bimo.models.stable_diffusion.layout",
    "HunyuanDiTPipeline": "bimo.models.hunyuan_dit.layout",
    "StableDiffusionXLPipeline": "bimo.models.stable_diffusion.layout_xl",
    "KolorsPipeline": "bimo.models.kolors.layout",
    "ZImagePipeline": "bimo.models.z_image.layout",
    "ZImageOmniPipeline": "bimo.models.z_image.layout",
    "QwenImagePipeline": "bimo.models.qwen_image.layout",
    "QwenImageEditPipeline": "bimo.models.qwen_image.layout",
    "QwenImageEditPlusPipeline": "bimo.models.qwen_image.layout",
    "QwenImageLayeredPipeline": "bimo.models.qwen_image.layout",
    "QwenImage21Pipeline": "bimo.models.qwen_image_21.layout",
    "LongCatImagePipeline": "bimo.models.longcat_image.layout",
    "LongCatImageEditPipeline": "bimo.models.longcat_image.layout",
    "CogView4Pipeline": "bimo.models.cogview4.layout",
    "Lumina2Pipeline": "bimo.models.lumina.layout",
    "OvisImagePipeline": "bimo.models.ovis_image.layout",
    "ErnieImagePipeline": "bimo.models.ernie_image.layout",
    "GlmImagePipeline": "bimo.models.glm_image.layout",
    "HunyuanImagePipeline": "bimo.models.hunyuan_image.layout",
    "HunyuanImageRefinerPipeline": "bimo.models.hunyuan_image.layout",
}
#: Tasks in the names of pipelines, between the family and "Pipeline", that use the family's weights unchanged, with an
#: adapter or another way to sample.
TASKS = (
    *("Text2Img", "Img2Img", "Inpaint", "ControlNetUnion", "ControlNetXS", "ControlNet", "Adapter", "PAG", "SAG"),
    *("AttendAndExcite", "DiffEdit", "Panorama", "Paradigms", "ModelEditing", "Pix2PixZero", "KDiffusion"),
)
#: Such pipelines with irregular names.
NAMED = {
    "CycleDiffusionPipeline": "StableDiffusionPipeline",
    "LatentConsistencyModelPipeline": "StableDiffusionPipeline",
    "LatentConsistencyModelImg2ImgPipeline": "StableDiffusionPipeline",
    "SemanticStableDiffusionPipeline": "StableDiffusionPipeline",
    "StableDiffusionInpaintPipelineLegacy": "StableDiffusionPipeline",
    "StableDiffusionPipelineSafe": "StableDiffusionPipeline",
}
#: Tasks of pipelines whose denoisers were not trained for text-to-image, by a pattern in their names.
OTHER_TASKS = (
    (r"Onnx", Message("has its weights as programs of ONNX")),
    (r"InstructPix2Pix|Edit", Message("edits a given picture as it is told to")),
    (r"Upscale|Upscaling", Message("enlarges a given picture")),
    (r"Depth2Img", Message("draws by a map of depths")),
    (r"ImageVariation|[Uu]n[Cc][Ll][Ii][Pp]", Message("draws from a picture's embedding")),
    (r"GLIGEN", Message("puts things into given boxes")),
    (r"LDM3D", Message("draws depths beside colours")),
    (r"Control(?!Net)", Message("reads a control picture joined to the noise")),
    (r"Omni", Message("reads pictures beside the words")),
    (r"Video|AnimateDiff|2V", Message("draws films")),
)


def family_of(pipeline: str) -> str | None:
    """The pipeline of FAMILIES with the same parts; None if there is none."""
    if pipeline in FAMILIES:
        return pipeline
    if pipeline in NAMED:
        return NAMED[pipeline]
    for family in sorted(FAMILIES, key=len, reverse=True):
        stem = re.escape(family.removesuffix("Pipeline"))
        if re.fullmatch(rf"{stem}(?:{'|'.join(TASKS)})+Pipeline", pipeline):
            return family
    return None


def other_task(pipeline: str) -> Message | None:
    """The task of a pipeline that is not text-to-image; None if its name does not tell."""
    return next((task for pattern, task in OTHER_TASKS if re.search(pattern, pipeline)), None)
