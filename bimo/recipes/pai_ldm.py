"""PAI's first latent diffusion (Rapid Diffusion, EasyNLP's latent_diffusion): 256 pixels, then ESRGAN's 1024.

Its text embedding is one vector: the projected and normalised state at [SEP] of a causal text encoder. The published
code divides by the norm over the second axis, which is the width of that vector.
"""

from dataclasses import replace

from bimo.core.recipe import Defaults, Guidance, Level, Published, Recipe
from bimo.diffusion.schedules.ddpm import Ddpm
from bimo.diffusion.schedules.single_step import SingleStepRegression
from bimo.models.cascade.conditioners import LowRes
from bimo.models.pai_diffusion.esrgan import Esrgan
from bimo.models.spaces import Latent, Pixels
from bimo.models.stable_diffusion.unet import Unet
from bimo.models.text_encoders.clip import ClipText
from bimo.recipes.stages import train_denoiser

image = Level(
    name="image",
    space=Latent(shrink=4),
    denoiser=Unet(size=32),
    schedule=Ddpm(),
    sampler="pndm",
    steps=20,
    guidance=Guidance(scale=5.0),
)

enlarge = Level(
    name="enlarge",
    space=Pixels(),
    denoiser=Esrgan(),
    schedule=SingleStepRegression(),
    conditioners=(LowRes(level="image", resize="none"),),
    steps=1,
    guidance=Guidance(scale=1.0),
)

pai_ldm = Recipe(
    name="pai-ldm",
    title="PAI 中文潜扩散（通用、时尚、艺术、古诗、动漫、宠物、美食）",
    licence="see the repository, unverified",
    languages=("zh",),
    source="published description",
    text_encoders=(
        ClipText(vocab=21128, positions=32, length=32, words="pieces", eps=1e-7, project=768, answer="end"),
    ),
    levels=(image, enlarge),
    stages=(
        replace(
            train_denoiser,
            name="adapt the painter",
            size=(1024, 1024),
            batch=16,
            lr=4e-5,
            note="Their fine-tuning: 3 epochs at 256 pixels (a quarter of the size here), words frozen. The first "
            "training took Wukong's 100 M pairs and, for the words, 16 M named things.",
        ),
    ),
    weights=Published(
        note="config.json, pytorch_model.bin, vocab.txt and RRDB_ESRGAN_x4.pth a domain: general, fashion, art, poem, "
        "anime, pet, food. Sizes and law of the painter are read from config.json; those here are Stable Diffusion's, "
        "unverified."
    ),
    request=Defaults(size=(1024, 1024)),
    note="Drawn with their averaged weights; stable-diffusion-general of the same code draws 512 pixels in 100 steps.",
)
