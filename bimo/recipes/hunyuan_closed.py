"""腾讯混元, the closed model before HunyuanDiT: a reconstruction.

Published facts: detailed understanding of Chinese and English; maps of skeletons and hands as conditions; merging of
models. Numbers are this project's: the UNet of Stable Diffusion 1 with XLM-RoBERTa.
"""

from dataclasses import replace

from bimo.core.recipe import Branch, Defaults, Recipe
from bimo.models.composer.conditioners import Map
from bimo.models.composer.denoiser import Composed
from bimo.models.stable_diffusion.unet import Unet
from bimo.models.text_encoders.xlm import XlmText
from bimo.recipes.stable_diffusion import sd_v1
from bimo.recipes.stages import train_all, train_denoiser

image = replace(
    sd_v1,
    denoiser=Composed(denoiser=Unet(spatial=16), maps=(("skeleton", 3), ("hands", 3)), width=16, text=768, time=False),
    conditioners=(
        Map(name="skeleton", colours=True),
        Map(name="hands", colours=True),
    ),
    sampler="ddim",
    guidance=replace(
        sd_v1.guidance,
        branches=(Branch(name="more-skeleton", drop=("skeleton",)), Branch(name="more-hands", drop=("hands",))),
    ),
)

hunyuan_closed = Recipe(
    name="hunyuan-closed",
    title="腾讯混元（2023，闭源）",
    languages=("zh", "en"),
    source="reconstruction",
    text_encoders=(XlmText(),),
    levels=(image,),
    stages=(
        replace(
            train_denoiser,
            name="paint words and bodies",
            caption_dropout=0.1,
            condition_dropout=(("*", 0.5),),
            note="Skeletons and hands come with the data as maps; each is left out half of the time.",
        ),
        replace(
            train_all,
            name="words learn with the painter",
            lr=1e-5,
            caption_dropout=0.1,
            condition_dropout=(("*", 0.5),),
        ),
    ),
    request=Defaults(size=(512, 512)),
    note="Closed: no weights were published. Claimed: portraits preferred 30 % more, scenery 25 %, by merged models.",
)
