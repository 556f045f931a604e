"""通义 Qwen-Image-Layered: Qwen-Image for decomposing a picture into layers with transparency."""

from dataclasses import replace

from bimo.core.recipe import Defaults, Guidance, Published
from bimo.diffusion.schedules.flow import Flow
from bimo.models.qwen_image.denoiser import QwenImage
from bimo.models.qwen_image.layered import UNIT, LayeredPicture, QwenLayeredLatent
from bimo.models.text_encoders.qwen_vision import PICTURE, QwenVision
from bimo.recipes.qwen_image import qwen2_5_vl_7b, qwen_image
from bimo.training.objectives.denoise_layers import DenoiseLayers

qwen_image_layered = replace(
    qwen_image,
    name="qwen-image-layered",
    title="通义 Qwen-Image-Layered",
    paper="",
    text_encoders=(replace(qwen2_5_vl_7b, vision=QwenVision(area=640 * 640, prompt=PICTURE)),),
    levels=(
        replace(
            qwen_image.levels[0],
            space=QwenLayeredLatent(),
            denoiser=QwenImage(layered=True),
            schedule=Flow(
                dynamic="root",
                base_length=256,
                base_shift=0.0,
                max_shift=1.0,
                max_length=8192,
                terminal=0.02,
                grid="even",
            ),
            conditioners=(LayeredPicture(),),
            guidance=Guidance(scale=4.0, only_with_negative=True),
        ),
    ),
    stages=(
        replace(
            qwen_image.stages[0],
            objective=DenoiseLayers(),
            size=(640, 640),
            note="Ours; how it was trained was not published. Of each picture maps/layer-1 and layer-2 have its "
            "layers, the lowest first, maps/layer-1-alpha and layer-2-alpha where they are opaque.",
        ),
    ),
    weights=Published(
        repo="Qwen/Qwen-Image-Layered",
        modelscope="Qwen/Qwen-Image-Layered",
        note="Address, licence, the means of its latents and the end of its times are Qwen-Image's: not verified.",
    ),
    request=Defaults(size=(640, 640), multiple=UNIT, negative=" "),
    note="It is given a picture and words that say what is in it: --image. It draws 4 layers, of another number with "
    "conditions layers=N; drawn at about 640x640 pixels in its shape, 1024x1024 where the size says so.",
)
