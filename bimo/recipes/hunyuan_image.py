"""混元图像 HunyuanImage-2.1 (Tencent, September 2025): 17 B parameters, native 2K, and a second text encoder for text
to render; its variant distilled to 8 steps, and its refiner.
"""

from dataclasses import replace
from typing import cast

from bimo.core.recipe import Defaults, Guidance, Level, ProjectedGuidance, Published, Recipe
from bimo.diffusion.schedules.flow import Flow
from bimo.models.hunyuan_image.denoiser import HunyuanImage
from bimo.models.hunyuan_image.refiner import HunyuanRefinerLatent, Refined
from bimo.models.hunyuan_image.space import HunyuanImageLatent
from bimo.models.stable_diffusion.conditioners import GuidanceScale
from bimo.models.text_encoders.prompt_templates import HUNYUAN_IMAGE, HUNYUAN_REFINER
from bimo.models.text_encoders.t5 import T5
from bimo.recipes.hunyuan_dit import terms
from bimo.recipes.qwen_image import qwen2_5_vl_7b
from bimo.recipes.stages import fine_tune

#: ByT5-small with Glyph-SDXL-v2's tokens of colours and fonts, which prompts do not use.
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
            # With 50 steps a prompt with text to render never reaches step 75: it has plain guidance throughout.
            guidance=Guidance(scale=3.5, projected=ProjectedGuidance(start=10, start_written=75)),
        ),
    ),
    stages=(
        replace(
            fine_tune,
            size=(2048, 2048),
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
    note="Other sizes it learned: 2304x1792, 2560x1536 and these upright. The model that rewrites prompts is not read.",
)

hunyuan_image_2_1_distilled = replace(
    hunyuan_image_2_1,
    name="hunyuan-image-2.1-distilled",
    title="混元图像 HunyuanImage-2.1 蒸馏",
    levels=(
        replace(
            hunyuan_image_2_1.levels[0],
            denoiser=HunyuanImage(guidance_embeds=True, use_meanflow=True),
            schedule=Flow(shift=4.0, patch=1, grid="even"),
            conditioners=(GuidanceScale(scale=3.25),),
            steps=8,
            guidance=Guidance(scale=3.25, until=0.0),
        ),
    ),
    stages=(
        replace(
            hunyuan_image_2_1.stages[0],
            caption_dropout=0.0,
            note="Ours. Told that a step leads nowhere, a MeanFlow is a plain flow: its mean velocities over longer "
            "steps are not learnt anew, keep the rate low.",
        ),
    ),
    weights=Published(
        repo="hunyuanvideo-community/HunyuanImage-2.1-Distilled-Diffusers",
        terms=terms,
        note="Steps and shift are those of the authors' own code; the address and that the terms are HunyuanDiT's are "
        "not verified.",
    ),
    note="8 steps, each told where it leads to (MeanFlow, arXiv:2505.13447) and the scale of guidance, which is in the "
    "weights: a negative prompt changes nothing.",
)

hunyuan_image_2_1_refiner = replace(
    hunyuan_image_2_1,
    name="hunyuan-image-2.1-refiner",
    title="混元图像 HunyuanImage-2.1 精修",
    text_encoders=(replace(qwen2_5_vl_7b, template=HUNYUAN_REFINER, drop=36, length=256, state=-3),),
    levels=(
        Level(
            name="image",
            space=HunyuanRefinerLatent(),
            denoiser=HunyuanImage(
                in_channels=128,
                num_attention_heads=26,
                patch_size=(1, 1, 1),
                guidance_embeds=True,
                text_embed_2_dim=None,
                rope_axes_dim=(16, 56, 56),
            ),
            schedule=Flow(shift=4.0, patch=1, grid="even"),
            conditioners=(Refined(), GuidanceScale(scale=3.25)),
            steps=4,
            guidance=Guidance(scale=3.25, until=0.0),
        ),
    ),
    stages=(
        replace(
            hunyuan_image_2_1.stages[0],
            caption_dropout=0.0,
            note="Ours; how it was trained was not published. Of each picture maps/image has what it was before it was "
            "refined.",
        ),
    ),
    weights=Published(
        repo="hunyuanvideo-community/HunyuanImage-2.1-Refiner-Diffusers",
        terms=terms,
        note="Steps are those of diffusers' pipeline; the shift of its times and that the terms are HunyuanDiT's are "
        "not verified.",
    ),
    request=Defaults(size=(2048, 2048), multiple=16),
    note="It is given a picture, of HunyuanImage-2.1 or any other, and its prompt: --image. Drawn in its shape, at "
    "2048x2048 pixels or fewer.",
)

_base, _refiner = hunyuan_image_2_1.levels[0], hunyuan_image_2_1_refiner.levels[0]

hunyuan_image_2_1_refined = replace(
    hunyuan_image_2_1,
    name="hunyuan-image-2.1-refined",
    title="混元图像 HunyuanImage-2.1，画好再精修",
    text_encoders=(
        hunyuan_image_2_1.text_encoders[0],
        replace(qwen2_5_vl_7b, template=HUNYUAN_REFINER, drop=36, length=256, state=-3, shares=0),
        glyph_byt5,
    ),
    levels=(
        replace(_base, denoiser=HunyuanImage(texts=(0, 2))),
        replace(
            _refiner,
            name="refine",
            denoiser=replace(cast(HunyuanImage, _refiner.denoiser), texts=(1,)),
            conditioners=(Refined(level="refine", earlier="image"), GuidanceScale(scale=3.25)),
        ),
    ),
    stages=(
        hunyuan_image_2_1.stages[0],
        replace(
            hunyuan_image_2_1_refiner.stages[0],
            name="fine-tune the refiner",
            level="refine",
            train=("refine.denoiser.*",),
            note="Ours; how it was trained was not published. It learns from what the base's autoencoder makes of a "
            "picture to make the picture.",
        ),
    ),
    weights=replace(
        hunyuan_image_2_1.weights,
        refiner=hunyuan_image_2_1_refiner.weights.repo,
        note="Both repositories are said to have the same Qwen2.5-VL, of which the base's is read: not verified.",
    ),
    note="The base draws, the refiner goes over it; both read with one Qwen2.5-VL. Steps and guidance of a request are "
    "the refiner's, the base keeps its own.",
)
