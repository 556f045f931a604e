"""妙笔 MiaoBi beta 0.9 (github.com/ShineChen1024/MiaoBi): Stable Diffusion 1.5 with a Chinese text encoder."""

from dataclasses import replace

from bimo.core.recipe import Defaults, Published, Recipe
from bimo.models.text_encoders.clip import ClipText
from bimo.recipes.stable_diffusion import sd_v1
from bimo.recipes.stages import train_all

miaobi = Recipe(
    name="miaobi",
    title="妙笔 beta 0.9",
    licence="apache-2.0",
    languages=("zh",),
    text_encoders=(ClipText(words="pieces", marks=(49406, 49407)),),
    levels=(sd_v1,),
    stages=(
        replace(
            train_all,
            name="adapt the whole",
            note="LAION-5B's Chinese part cleaned, Midjourney's prompts translated, some 100,000 captions of their "
            "own; 8 x RTX 4090. What learnt, at which rate and for how long was not published: all is a guess.",
        ),
    ),
    weights=Published(
        repo="ShineChen1024/MiaoBi/miaobi_beta0.9",
        note="Its tokenizer is code; what that does is rebuilt, the code is not run.",
    ),
    request=Defaults(size=(512, 512), guidance=7.5, steps=50),
    note="Stable Diffusion 1.5's ControlNets and adapters fit.",
)
