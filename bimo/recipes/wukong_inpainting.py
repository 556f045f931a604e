"""悟空画画 WuKong-HuaHua's inpainting model (minddiffusion): Stable Diffusion 1 with nine input channels and a
Chinese CLIP.
"""

from dataclasses import replace

from bimo.core.recipe import Defaults, Published, Recipe
from bimo.models.stable_diffusion.conditioners import Masked
from bimo.models.stable_diffusion.unet import Unet
from bimo.models.text_encoders.clip import ClipText
from bimo.recipes.stable_diffusion import sd_v1
from bimo.recipes.stages import train_denoiser

wukong_inpainting = Recipe(
    name="wukong-huahua-inpainting",
    title="悟空画画 补画",
    paper="arXiv:2202.06767",
    licence="see the repository, unverified",
    languages=("zh",),
    text_encoders=(ClipText(words="pieces", eps=1e-7),),
    levels=(replace(sd_v1, denoiser=Unet(spatial=5), conditioners=(Masked(level="image"),), steps=30),),
    stages=(
        replace(
            train_denoiser,
            name="learn to fill",
            note="How it was trained was not published: this is Stable Diffusion's way, random masks and the words "
            "frozen, as in their fine-tuning code.",
        ),
    ),
    weights=Published(
        note="A checkpoint of MindSpore whose UNet reads the latents, the mask and the latents of what the mask leaves."
    ),
    request=Defaults(size=(512, 512), guidance=7.5, steps=30, strength=0.75),
)
