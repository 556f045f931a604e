"""PAI's first latent diffusion (EasyNLP): pictures of 256 pixels from one embedding of Wukong's words, enlarged four
times by ESRGAN.

The published code divides what it reads by its length along "dim 1", which is that of the embedding: only the state at
the end mark is left by then. Sizes of the painter stand in the model's own config, which was not seen: those here are
Stable Diffusion 1's, as are the betas.
"""

from bimo.core.recipe import Defaults, Guide, Level, Published, Recipe, Stage
from bimo.diffusion.schedule import Ddpm, Mean
from bimo.parts.denoisers.esrgan import Esrgan
from bimo.parts.denoisers.unet import Unet
from bimo.parts.hints.cascade import LowRes
from bimo.parts.spaces import Latent, Pixels
from bimo.parts.text.clip import ClipText
from bimo.train.denoise import Denoise

image = Level(
    name="image",
    space=Latent(shrink=4),
    denoiser=Unet(size=32),
    schedule=Ddpm(),
    sampler="pndm",
    steps=20,
    guide=Guide(scale=5.0),
)

enlarge = Level(
    name="enlarge",
    space=Pixels(),
    denoiser=Esrgan(),
    schedule=Mean(),
    hints=(LowRes(level="image", resize="none"),),
    steps=1,
    guide=Guide(scale=1.0),
)

pai_ldm = Recipe(
    name="pai-ldm",
    title="PAI 潜在扩散（EasyNLP，旧版）",
    languages=("zh",),
    source="published description",
    text=(ClipText(vocab=21128, positions=32, length=32, eps=1e-7, words="pieces", project=768, answer="end"),),
    levels=(image, enlarge),
    stages=(
        Stage(
            name="paint small pictures",
            objective=Denoise(),
            level="image",
            train=("image.denoiser.*",),
            size=(1024, 1024),
            batch=16,
            lr=4e-5,
            note="Words and autoencoder stay; 3 epochs. ESRGAN's RRDB_ESRGAN_x4.pth lies beside the weights as it was.",
        ),
    ),
    weights=Published(note="Models by EasyNLP's own names: chinese-ldm of general, fashion, art, poem, anime, food."),
    request=Defaults(size=(1024, 1024)),
)
