"""太极-Imagen (Tencent, closed): a reconstruction of a cascade whose last level is a latent diffusion.

Published facts: a Chinese text encoder of its own, first frozen, then trained with the UNet; levels of 64, 256 and 1024
pixels, of which the upscaler is a latent diffusion; a base model of 300 M, later 1.3 B parameters. All other numbers
are this project's: the encoder has the sizes of BERT-large, and cross-attention as in Imagen (arXiv:2205.11487).
"""

from bimo.core.recipe import Defaults, Guidance, Level, Recipe, Stage
from bimo.diffusion.schedules.ddpm import Ddpm
from bimo.models.cascade.conditioners import LowRes
from bimo.models.spaces import Latent, Pixels
from bimo.models.stable_diffusion.unet import CROSS_DOWN, CROSS_UP, PLAIN_DOWN, PLAIN_UP, Unet
from bimo.models.text_encoders.bert import Bert
from bimo.training.objectives.denoise import Denoise

words = Bert(width=1024, layers=24, heads=16, feed=4096, length=128, masked=True)

base = Level(
    name="base",
    space=Pixels(factor=16),
    denoiser=Unet(
        channels=3,
        size=64,
        down=(PLAIN_DOWN, CROSS_DOWN, CROSS_DOWN, CROSS_DOWN),
        up=(CROSS_UP, CROSS_UP, CROSS_UP, PLAIN_UP),
        block_channels=(384, 768, 1152, 1600),
        heads=16,
        text=1024,
    ),
    schedule=Ddpm(beta_schedule="squaredcos_cap_v2", percentile=0.995),
    sampler="ddim",
    steps=50,
    guidance=Guidance(scale=7.5),
)

enlarge = Level(
    name="enlarge",
    space=Pixels(factor=4),
    denoiser=Unet(
        channels=3,
        spatial=3,
        size=256,
        down=(PLAIN_DOWN, PLAIN_DOWN, PLAIN_DOWN, CROSS_DOWN),
        up=(CROSS_UP, PLAIN_UP, PLAIN_UP, PLAIN_UP),
        block_channels=(128, 256, 512, 1024),
        text=1024,
    ),
    schedule=Ddpm(beta_schedule="squaredcos_cap_v2", percentile=0.995),
    conditioners=(LowRes(level="base", noise=0.3),),
    sampler="ddim",
    steps=30,
    guidance=Guidance(scale=3.0),
)

refine = Level(
    name="refine",
    space=Latent(),
    denoiser=Unet(spatial=3, text=1024),
    schedule=Ddpm(),
    conditioners=(LowRes(level="enlarge", noise=0.1),),
    sampler="ddim",
    steps=30,
    guidance=Guidance(scale=3.0),
)

taiji_imagen = Recipe(
    name="taiji-imagen",
    title="太极-Imagen",
    languages=("zh",),
    source="reconstruction",
    text_encoders=(words,),
    levels=(base, enlarge, refine),
    stages=(
        Stage(
            name="paint 64 pixels",
            objective=Denoise(),
            level="base",
            train=("base.denoiser.*",),
            size=(1024, 1024),
            caption_dropout=0.1,
            note="The text encoder frozen; two weeks on 32 x A100 for 1.3 B weights.",
        ),
        Stage(
            name="words learn with the painter",
            objective=Denoise(),
            level="base",
            train=("text.*", "base.denoiser.*"),
            size=(1024, 1024),
            lr=1e-5,
            caption_dropout=0.1,
            note="The text encoder opened, end to end, for fine meanings; its rate was not told.",
        ),
        Stage(
            name="enlarge to 256",
            objective=Denoise(crops=(64,)),
            level="enlarge",
            train=("enlarge.denoiser.*",),
            size=(1024, 1024),
            caption_dropout=0.1,
        ),
        Stage(
            name="refine to 1024",
            objective=Denoise(),
            level="refine",
            train=("refine.denoiser.*",),
            size=(1024, 1024),
            caption_dropout=0.1,
        ),
    ),
    request=Defaults(size=(1024, 1024), multiple=128),
    note="Closed: no weights were published. The shape is as told, the numbers are not.",
)
