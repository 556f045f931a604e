"""太极-SD (Tencent, closed): a reconstruction of Stable Diffusion with two Chinese text encoders.

Published facts: CLIP was replaced by two encoders, Taiji-ImageCLIP and Hunyuan-Sandwich, whose embeddings the UNet
receives together; a pooled embedding is an additional input for long texts; the text encoders were trained first, to
preserve what Stable Diffusion had learned. How embeddings are combined, lengths and rates were not published; here both
are BERTs, concatenated by channel.
"""

from bimo.core.recipe import Defaults, Guidance, Level, Recipe, Stage
from bimo.diffusion.schedules.ddpm import Ddpm
from bimo.models.spaces import Latent
from bimo.models.stable_diffusion.unet import Unet
from bimo.models.text_encoders.bert import Bert
from bimo.models.text_encoders.fusion import Channels
from bimo.training.objectives.denoise import Denoise

taiji_sd = Recipe(
    name="taiji-sd",
    title="太极-SD（重建）",
    licence="none: nothing was published",
    languages=("zh",),
    source="reconstruction",
    text_encoders=(
        Bert(width=768, layers=12, heads=12, feed=3072, length=128),
        Bert(width=1024, layers=24, heads=16, feed=4096, length=128, pool="mean", masked=True, padding="shown"),
    ),
    text_fusion=Channels(),
    levels=(
        Level(
            name="image",
            space=Latent(),
            denoiser=Unet(text=(768, 1024), vector=1024),
            schedule=Ddpm(),
            sampler="pndm",
            steps=50,
            guidance=Guidance(scale=7.5),
        ),
    ),
    stages=(
        Stage(
            name="align the words",
            objective=Denoise(),
            level="image",
            train=("text.*",),
            size=(512, 512),
            caption_dropout=0.1,
            note="The painter is Stable Diffusion's and stays as it is; rates and data were not published.",
        ),
        Stage(
            name="learn together",
            objective=Denoise(),
            level="image",
            train=("text.*", "image.denoiser.*"),
            size=(512, 512),
            caption_dropout=0.1,
            note="Words and painter together; rates and data were not published.",
        ),
    ),
    request=Defaults(size=(512, 512), guidance=7.5, steps=50),
    note="There are no published weights.",
)
