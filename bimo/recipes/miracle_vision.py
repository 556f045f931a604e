"""MiracleVision (Meitu, closed): a reconstruction.

Published is only that an aesthetic model selects data and guides training; no report was found. Here the aesthetic
score of each picture is a condition, which can be set when drawing. Numbers are this project's, with the UNet of Stable
Diffusion 1.
"""

from dataclasses import replace

from bimo.core.recipe import Defaults, Recipe
from bimo.models.cascade.conditioners import Score
from bimo.models.composer.denoiser import Composed
from bimo.models.stable_diffusion.unet import Unet
from bimo.models.text_encoders.bert import Bert
from bimo.recipes.stable_diffusion import sd_v1
from bimo.recipes.stages import train_all

image = replace(
    sd_v1,
    denoiser=Composed(denoiser=Unet(), scalars=(("score", 1),), tokens=1, time=False),
    conditioners=(Score(),),
    sampler="dpm++",
    steps=30,
)

miracle_vision = Recipe(
    name="miracle-vision",
    title="MiracleVision（美图奇想）",
    languages=("zh",),
    source="reconstruction",
    text_encoders=(Bert(masked=True, length=128),),
    levels=(image,),
    stages=(
        replace(
            train_all,
            name="paint, told how good it is",
            caption_dropout=0.1,
            note="The data's label score, from 0 to 1, is told with every picture; pictures of low scores may be left "
            "out before.",
        ),
    ),
    request=Defaults(size=(512, 512)),
    note="Closed: no weights were published. conditions score=0.5 asks for less than the best.",
)
