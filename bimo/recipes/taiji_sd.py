"""太极-SD (Tencent, closed): a reconstruction of Stable Diffusion with two Chinese text encoders.

Published facts: CLIP was replaced by two encoders, Taiji-ImageCLIP and Hunyuan-Sandwich, whose embeddings the UNet
receives together; a pooled embedding is an additional input for long texts; the text encoders were trained first, to
preserve what Stable Diffusion had learned. How embeddings are combined, lengths and rates were not published; here both
are BERTs, concatenated by channel.
"""

from dataclasses import replace

from bimo.core.recipe import Defaults, Recipe
from bimo.models.stable_diffusion.unet import Unet
from bimo.models.text_encoders.bert import Bert
from bimo.models.text_encoders.fusion import Channels
from bimo.recipes.stable_diffusion import sd_v1
from bimo.recipes.stages import train_all, train_text

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
    levels=(replace(sd_v1, denoiser=Unet(text=(768, 1024), vector=1024)),),
    stages=(
        replace(
            train_text,
            name="align the words",
            caption_dropout=0.1,
            note="The painter is Stable Diffusion's and stays as it is; rates and data were not published.",
        ),
        replace(
            train_all,
            name="learn together",
            caption_dropout=0.1,
            note="Words and painter together; rates and data were not published.",
        ),
    ),
    request=Defaults(size=(512, 512), guidance=7.5, steps=50),
    note="There are no published weights.",
)
