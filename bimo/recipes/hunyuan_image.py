"""混元图像 HunyuanImage-2.1 (Tencent, September 2025): 17 B parameters, 2K at once, and a reader of what is written."""

from dataclasses import replace

from bimo.core.recipe import Defaults, Guidance, Level, ProjectedGuidance, Published, Recipe, Stage
from bimo.diffusion.schedules.flow import Flow
from bimo.models.hunyuan_image.denoiser import HunyuanImage
from bimo.models.hunyuan_image.space import HunyuanImageLatent
from bimo.models.text_encoders.prompt_templates import HUNYUAN_IMAGE
from bimo.models.text_encoders.t5 import T5
from bimo.recipes.hunyuan_dit import terms
from bimo.recipes.qwen_image import qwen2_5_vl_7b
from bimo.training.objectives.denoise import Denoise

#: ByT5-small with Glyph-SDXL-v2's tokens of colours and fonts, of which a prompt has none.
glyph_byt5 = T5(
    width=1472,
    layers=12,
    heads=6,
    head=64,
    feed=3584,
    vocab=1510,
    length=128,
    words="bytes",
    quoted=True,
)

hunyuan_image_2_1 = Recipe(
    name="hunyuan-image-2.1",
    title="混元图像 HunyuanImage-2.1",
    licence="tencent-hunyuan-community",
    text_encoders=(replace(qwen2_5_vl_7b, template=HUNYUAN_IMAGE, length=1000, state=-3), glyph_byt5),
    levels=(
        Level(
            name="image",
            space=HunyuanImageLatent(),
            denoiser=HunyuanImage(),
            schedule=Flow(shift=5.0, patch=1, grid="even"),
            steps=50,
            # Of 50 steps a prompt with something to be written comes to no 76th: it is guided by the plain sum.
            guidance=Guidance(scale=3.5, projected=ProjectedGuidance(start=10, start_written=75)),
        ),
    ),
    stages=(
        Stage(
            name="fine-tune",
            objective=Denoise(),
            level="image",
            train=("image.denoiser.*",),
            size=(2048, 2048),
            lr=1e-5,
            caption_dropout=0.1,
            note="Ours; rates were not published.",
        ),
    ),
    dtypes=("bf16",),
    weights=Published(
        repo="hunyuanvideo-community/HunyuanImage-2.1-Diffusers",
        terms=terms,
        note="Guidance and times are those of the authors' own code. That the terms are HunyuanDiT's is not verified.",
    ),
    request=Defaults(size=(2048, 2048), multiple=32),
    note="Other sizes it learned: 2304x1792, 2560x1536 and these upright. Its refiner, a second model, its distilled "
    "form of 8 steps and the model that rewrites prompts are not read.",
)
