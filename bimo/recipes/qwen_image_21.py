"""通义 Qwen-Image-2.1 (2026-09): 7 B parameters in a single stream, conditioned on Qwen3-VL-8B; it draws and
edits, with transparency. The numbers are those of its README (QwenLM/Qwen-Image-2.1) and of diffusers' classes.
"""

from dataclasses import replace

from bimo.core.recipe import Defaults, Guidance, Level, Published, Recipe
from bimo.diffusion.schedules.flow import Flow
from bimo.models.qwen_image.references import UNIT, InlineReferences
from bimo.models.qwen_image_21.denoiser import QwenImage21
from bimo.models.qwen_image_21.space import QwenLatent21
from bimo.models.text_encoders.language_model import LanguageModel
from bimo.models.text_encoders.prompt_templates import QWEN_IMAGE_21, QWEN_IMAGE_21_PICTURE, QWEN_IMAGE_21_SYSTEM
from bimo.models.text_encoders.qwen3_vision import Qwen3Vision
from bimo.recipes.stages import fine_tune

#: Qwen3-VL-8B before its final norm. Its tokens of pictures are dropped, as the pictures' latents take their places.
qwen3_vl_8b = LanguageModel(
    family="qwen3_vl",
    width=4096,
    layers=36,
    heads=32,
    key_heads=8,
    head=128,
    feed=12288,
    vocab=151936,
    positions=262144,
    config={
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 5000000,
            "mrope_section": (24, 20, 20),
            "mrope_interleaved": True,
        },
    },
    template=QWEN_IMAGE_21,
    drop_text=QWEN_IMAGE_21_SYSTEM,
    empty=" ",
    length=4096,
    normed=False,
    vision=Qwen3Vision(prompt=QWEN_IMAGE_21_PICTURE, between=" ", apart=True),
)

qwen_image_21 = Recipe(
    name="qwen-image-2.1",
    title="通义 Qwen-Image-2.1",
    licence="qwen-research",
    text_encoders=(qwen3_vl_8b,),
    levels=(
        Level(
            name="image",
            space=QwenLatent21(),
            denoiser=QwenImage21(),
            schedule=Flow(dynamic="line", max_shift=0.9, max_length=8192, patch=1, terminal=0.02, grid="even"),
            conditioners=(InlineReferences(count=10, opacity=True),),
            steps=40,
            guidance=Guidance(scale=1.0, only_with_negative=True),
        ),
    ),
    stages=(
        replace(
            fine_tune,
            note="Ours; how it was trained was not published. From words alone; with --set "
            "levels.image.conditioners.image.learnt=1 maps/image has what a picture was before the edit, and its "
            "caption is the instruction.",
        ),
    ),
    dtypes=("bf16",),
    weights=Published(
        repo="Qwen/Qwen-Image-2.1",
        modelscope="Qwen/Qwen-Image-2.1",
        terms=(
            "Qwen Research License：只许用于非商业的研究和评估，商用要另向通义实验室取得许可",
            "Qwen Research License: for research and evaluation that is not commercial; commercial use needs a licence "
            "of its own from Tongyi Lab",
        ),
        note="The numbers of its times and the sizes of Qwen3-VL-8B are from third parties' copies of the configs, the "
        "licence is as third parties tell it: not verified.",
    ),
    request=Defaults(size=(2048, 2048), multiple=UNIT),
    note="It draws from words, or edits and joins up to ten pictures: --image, more than once, about 1024x1024 pixels "
    "in the shape of the first. Guided with a negative prompt and --guidance 4 or so alone. Longer sides it learned: "
    "2400x1792, 2528x1696, 2752x1536 and these upright. Transparent where the prompt says so: This is an RGBA image "
    "with transparency. ... The image has alpha channel and the background is transparent.",
)
