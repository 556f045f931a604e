"""LongCat-Image-Edit: edits a picture by instructions; the language model sees the picture as well."""

from dataclasses import replace

from bimo.core.recipe import Guidance, Published
from bimo.models.longcat_image.denoiser import LongCatImage
from bimo.models.qwen_image.references import References
from bimo.models.text_encoders.prompt_templates import LONGCAT_EDIT
from bimo.models.text_encoders.qwen_vision import QwenVision
from bimo.recipes.longcat_image import longcat_image
from bimo.recipes.qwen_image import qwen2_5_vl_7b

fine_tune, *_, lora = longcat_image.stages
_pairs = "Of each picture maps/image has what it was before the edit, and its caption is the instruction."

seeing = replace(
    qwen2_5_vl_7b,
    template=LONGCAT_EDIT,
    drop=0,
    length=512,
    pad="full",
    characters=True,
    vision=QwenVision(halved=True),
)

longcat_image_edit = replace(
    longcat_image,
    name="longcat-image-edit",
    title="LongCat-Image-Edit 龙猫",
    text_encoders=(seeing,),
    levels=(
        replace(
            longcat_image.levels[0],
            denoiser=LongCatImage(origin=0),
            conditioners=(References(unit=16, up=True),),
            guidance=Guidance(scale=4.5),
        ),
    ),
    stages=(
        replace(fine_tune, note=f"The rate is ours, not verified. {_pairs}"),
        replace(lora, note=f"As LongCat-Image's, not verified. {_pairs}"),
    ),
    weights=Published(
        repo="meituan-longcat/LongCat-Image-Edit",
        note="Layers and numbers of its times are taken for LongCat-Image's: not verified.",
    ),
    note="It is given a picture: --image. Drawn at about 1024x1024 pixels in its shape.",
)
