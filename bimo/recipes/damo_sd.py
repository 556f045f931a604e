"""达摩院中文 Stable Diffusion (modelscope): Stable Diffusion 2.1 with the text encoder of Chinese-CLIP
(arXiv:2211.01335).
"""

from dataclasses import replace

from bimo.core.recipe import Defaults, Published, Recipe
from bimo.models.text_encoders.bert import Bert
from bimo.recipes.stable_diffusion import sd_v2_base
from bimo.recipes.stages import train_denoiser

damo_sd_zh = Recipe(
    name="damo-sd-zh",
    title="达摩院中文 Stable Diffusion",
    paper="arXiv:2211.01335",
    licence="see the repository, unverified",
    languages=("zh",),
    text_encoders=(
        Bert(
            width=1024,
            layers=24,
            heads=16,
            feed=4096,
            length=52,
            masked=True,
            padding="shown",
            pooler=False,
        ),
    ),
    levels=(sd_v2_base,),
    stages=(
        replace(
            train_denoiser,
            name="adapt the painter",
            steps=350_000,
            note="About 400 M pairs: LAION-400M, CC12M and Open Images translated, and the web's; kept by beauty and "
            "by how well the words fit (thresholds not published); 64 x A100. The words stay Chinese-CLIP ViT-H's.",
        ),
    ),
    weights=Published(
        modelscope="damo/multi-modal_chinese_stable_diffusion_v1.0",
        note="Whether it answers the noise at 512 pixels or v at 768 is in its folder, which is followed; here stands "
        "Stable Diffusion 2.1-base, unverified.",
    ),
    request=Defaults(size=(512, 512), guidance=7.5, steps=50),
)
