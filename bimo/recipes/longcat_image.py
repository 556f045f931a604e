"""LongCat-Image (arXiv:2512.07584): 6 B parameters; text in quotation marks is tokenized character by character."""

from dataclasses import replace

from bimo.core.recipe import Defaults, Guidance, Level, Published, Recipe, Stage
from bimo.diffusion.schedules.flow import Flow
from bimo.models.longcat_image.denoiser import LongCatImage
from bimo.models.text_encoders.prompt_templates import LONGCAT_IMAGE
from bimo.recipes.qwen_image import qwen2_5_vl_7b
from bimo.recipes.stages import fine_tune
from bimo.recipes.z_image import flux
from bimo.training.adapters.lora_stage import Lora
from bimo.training.objectives.denoise import Denoise
from bimo.training.objectives.preferences import DiffusionDPO

longcat_image = Recipe(
    name="longcat-image",
    title="LongCat-Image 龙猫",
    paper="arXiv:2512.07584",
    licence="apache-2.0",
    text_encoders=(replace(qwen2_5_vl_7b, template=LONGCAT_IMAGE, drop=0, length=512, pad="full", characters=True),),
    levels=(
        Level(
            name="image",
            space=flux,
            denoiser=LongCatImage(),
            schedule=Flow(dynamic="line", grid="even"),
            steps=50,
            guidance=Guidance(scale=4.5, norm="patch"),
        ),
    ),
    stages=(
        replace(
            fine_tune,
            note="From the published Dev checkpoint; this rate is ours, not verified.",
        ),
        Stage(
            name="prefer",
            objective=DiffusionDPO(beta=2000.0),
            level="image",
            train=("image.denoiser.*",),
            size=(1024, 1024),
            lr=5e-6,
            note="DPO with beta 2000 at 5e-6, as published. What beta multiplies there, a sum or a mean of squares, "
            "and whether it holds the number of steps, is not verified.",
        ),
        Stage(
            name="lora",
            objective=Denoise(),
            level="image",
            train=(),
            adapter=Lora(targets=("image.denoiser.*.to_[qkv]", "image.denoiser.*.to_out.0"), rank=32, alpha=32.0),
            size=(1024, 1024),
            lr=1e-4,
            note="Rank 32 at 1e-4, as published; which layers, and alpha, are ours.",
        ),
    ),
    dtypes=("bf16",),
    weights=Published(
        repo="meituan-longcat/LongCat-Image",
        note="10 layers of two streams and 20 of one are a third party's copy of the config (the class's defaults, 19 "
        "and 38, would be 12 B); Flow's numbers are the class's. Neither is verified.",
    ),
    request=Defaults(size=(1024, 1024), multiple=16),
    note="Its pipeline rewrites prompts by the same language model before it draws; here prompts stay as they are.",
)
