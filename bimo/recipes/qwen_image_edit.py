"""通义 Qwen-Image-Edit (arXiv:2508.02324): Qwen-Image for editing a picture by instructions, or drawing from
several. Qwen2.5-VL sees the picture, and its latents are concatenated with those being denoised.
"""

from dataclasses import replace

from bimo.core.recipe import Defaults, Published
from bimo.models.qwen_image.denoiser import QwenImage
from bimo.models.qwen_image.references import References
from bimo.models.text_encoders.prompt_templates import QWEN_IMAGE_EDIT
from bimo.models.text_encoders.qwen_vision import PICTURE, QwenVision
from bimo.recipes import stages
from bimo.recipes.qwen_image import qwen2_5_vl_7b, qwen_image

seeing = replace(qwen2_5_vl_7b, template=QWEN_IMAGE_EDIT, drop=64, length=1024, vision=QwenVision())

image = replace(qwen_image.levels[0], conditioners=(References(),))

fine_tune = replace(
    stages.fine_tune,
    note="Ours; how it was trained was not published. Of each picture maps/image has what it was before the edit, and "
    "its caption is the instruction.",
)

qwen_image_edit = replace(
    qwen_image,
    name="qwen-image-edit",
    title="通义 Qwen-Image-Edit",
    text_encoders=(seeing,),
    levels=(image,),
    stages=(fine_tune,),
    weights=Published(
        repo="Qwen/Qwen-Image-Edit",
        modelscope="Qwen/Qwen-Image-Edit",
        note="The numbers of its times are from third parties' copies of the config, the licence is as third parties "
        "tell it: not verified.",
    ),
    request=Defaults(size=(1024, 1024), multiple=16, negative=" "),
    note="It is given a picture: --image. Drawn at about 1024x1024 pixels in its shape.",
)

#: Pictures are seen at 384x384 pixels each and numbered in the prompt.
several = replace(seeing, vision=QwenVision(area=384 * 384, prompt=f"Picture {{}}: {PICTURE}"))

qwen_image_edit_2509 = replace(
    qwen_image_edit,
    name="qwen-image-edit-2509",
    title="通义 Qwen-Image-Edit-2509",
    text_encoders=(several,),
    levels=(replace(image, conditioners=(References(count=3),), steps=40),),
    weights=Published(
        repo="Qwen/Qwen-Image-Edit-2509",
        modelscope="Qwen/Qwen-Image-Edit-2509",
        note="40 steps, up to three pictures and the numbers of its times are from third parties' copies, the licence "
        "is as third parties tell it: not verified.",
    ),
    note="It is given one to three pictures, which the instruction may call by number (图 1, Picture 2): --image, more "
    "than once. Drawn at about 1024x1024 pixels in the shape of the first.",
)

qwen_image_edit_2511 = replace(
    qwen_image_edit_2509,
    name="qwen-image-edit-2511",
    title="通义 Qwen-Image-Edit-2511",
    levels=(replace(qwen_image_edit_2509.levels[0], denoiser=QwenImage(zero_cond_t=True)),),
    weights=Published(
        repo="Qwen/Qwen-Image-Edit-2511",
        modelscope="Qwen/Qwen-Image-Edit-2511",
        note="40 steps, up to three pictures, zero_cond_t and the numbers of its times are from third parties' copies, "
        "the licence is as third parties tell it: not verified.",
    ),
)
