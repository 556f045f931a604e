"""造相 Z-Image (arXiv:2511.22699): 6 B parameters in a single stream, conditioned on Qwen3-4B; base and distilled
Turbo.
"""

from dataclasses import replace

from bimo.core.recipe import Defaults, Guidance, Level, Published, Recipe
from bimo.diffusion.schedules.flow import Flow
from bimo.models.spaces import Latent
from bimo.models.text_encoders.language_model import LanguageModel
from bimo.models.text_encoders.prompt_templates import QWEN3_CHAT
from bimo.models.z_image.denoiser import ZImage
from bimo.recipes import stages

#: Qwen3-4B, the output of its second-to-last layer; padding is dropped.
qwen3_4b = LanguageModel(
    config={"rope_parameters": {"rope_theta": 1000000.0, "rope_type": "default"}},
    template=QWEN3_CHAT,
    length=512,
    state=-2,
)
#: The autoencoder of Flux.
flux = Latent(channels=16, scaling=0.3611, shift=0.1159, quant=False, post_quant=False)

image = Level(
    name="image",
    space=flux,
    denoiser=ZImage(),
    schedule=Flow(shift=6.0, grid="even"),
    steps=50,
    guidance=Guidance(scale=5.0, baseline_scale=0.0),
)

fine_tune = replace(
    stages.fine_tune,
    ema=0.9999,
    note="Ours; the authors' data, rates and batches were not published, only 314 K hours of H800 in all.",
)

z_image = Recipe(
    name="z-image",
    title="造相 Z-Image",
    paper="arXiv:2511.22699",
    licence="apache-2.0",
    text_encoders=(qwen3_4b,),
    levels=(image,),
    stages=(fine_tune,),
    dtypes=("bf16",),
    weights=Published(
        repo="Tongyi-MAI/Z-Image",
        modelscope="Tongyi-MAI/Z-Image",
        note="shift 6 of its times is from third parties' copies of the config, not verified.",
    ),
    request=Defaults(size=(1024, 1024), multiple=16),
)

z_image_turbo = replace(
    z_image,
    name="z-image-turbo",
    title="造相 Z-Image Turbo",
    levels=(
        replace(
            image,
            schedule=Flow(shift=3.0, grid="even"),
            steps=9,
            guidance=Guidance(scale=0.0, baseline_scale=0.0),
        ),
    ),
    stages=(
        replace(
            fine_tune,
            caption_dropout=0.0,
            ema=0.0,
            note="Undoes its distillation: pictures of 9 steps blur. Train z-image and draw with what it learned here.",
        ),
    ),
    weights=Published(
        repo="Tongyi-MAI/Z-Image-Turbo",
        modelscope="Tongyi-MAI/Z-Image-Turbo",
        note="Distilled by Decoupled-DMD and DMDR: 9 steps, the last of which asks nothing new, without guidance.",
    ),
)
