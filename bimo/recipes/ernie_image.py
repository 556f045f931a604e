"""文心 ERNIE-Image (Baidu, April 2026): 8 B parameters in a single stream, conditioned on Ministral 3 3B; base
and Turbo.
"""

from dataclasses import replace

from bimo.core.recipe import Defaults, Guidance, Level, Published, Recipe
from bimo.diffusion.schedules.flow import Flow
from bimo.models.ernie_image.denoiser import ErnieImage
from bimo.models.ernie_image.space import Flux2Latent
from bimo.models.text_encoders.language_model import LanguageModel
from bimo.recipes import stages

#: The language model of Ministral 3 3B without its vision encoder, the output of its second-to-last layer.
ministral3_3b = LanguageModel(
    family="mistral",
    width=3072,
    layers=26,
    heads=32,
    key_heads=8,
    head=128,
    feed=9216,
    vocab=131072,
    positions=262144,
    config={
        "rms_norm_eps": 1e-5,
        "sliding_window": None,
        "rope_parameters": {
            "rope_type": "yarn",
            "rope_theta": 1000000.0,
            "factor": 16.0,
            "original_max_position_embeddings": 16384,
            "beta_fast": 32.0,
            "beta_slow": 1.0,
            "mscale": 1.0,
            "mscale_all_dim": 1.0,
        },
    },
    length=2048,
    state=-2,
)

image = Level(
    name="image",
    space=Flux2Latent(),
    denoiser=ErnieImage(),
    schedule=Flow(shift=4.0, patch=1, grid="even"),
    steps=50,
    guidance=Guidance(scale=4.0),
)

fine_tune = replace(
    stages.fine_tune,
    ema=0.9999,
    note="Ours; how it was trained was not published.",
)

ernie_image = Recipe(
    name="ernie-image",
    title="文心 ERNIE-Image",
    licence="apache-2.0",
    text_encoders=(ministral3_3b,),
    levels=(image,),
    stages=(fine_tune,),
    dtypes=("bf16",),
    weights=Published(
        repo="baidu/ERNIE-Image",
        note="Sizes and times are of copies of its configs; the scale of the text encoder's rotation is Ministral 3's, "
        "not verified.",
    ),
    request=Defaults(size=(1024, 1024), multiple=16),
    note="Its pipeline rewrites prompts by a language model of its own before it draws; here prompts stay as they are. "
    "Other sizes it learned: 1264x848, 1376x768, 1200x896 and these upright.",
)

ernie_image_turbo = replace(
    ernie_image,
    name="ernie-image-turbo",
    title="文心 ERNIE-Image Turbo",
    levels=(replace(image, steps=8, guidance=Guidance(scale=1.0)),),
    stages=(
        replace(
            fine_tune,
            caption_dropout=0.0,
            ema=0.0,
            note="Undoes its distillation: train ernie-image and draw with what it learned here.",
        ),
    ),
    weights=Published(
        repo="baidu/ERNIE-Image-Turbo",
        note="Distilled by DMD and reinforcement learning: 8 steps without guidance. Its times are taken to be the "
        "base's, not verified; a folder's own configs say what it is.",
    ),
)
