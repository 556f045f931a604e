"""通义 Qwen-Image (arXiv:2508.02324): 20 B parameters in two streams, conditioned on Qwen2.5-VL-7B."""

from dataclasses import replace

from bimo.core.recipe import Defaults, Guidance, Level, Published, Recipe
from bimo.diffusion.schedules.flow import Flow
from bimo.models.qwen_image.denoiser import QwenImage
from bimo.models.qwen_image.space import QwenLatent
from bimo.models.text_encoders.language_model import LanguageModel
from bimo.models.text_encoders.prompt_templates import QWEN_IMAGE
from bimo.recipes.stages import fine_tune

#: The language model of Qwen2.5-VL-7B without its vision encoder.
qwen2_5_vl_7b = LanguageModel(
    family="qwen2_5_vl",
    width=3584,
    layers=28,
    heads=28,
    key_heads=4,
    head=128,
    feed=18944,
    vocab=152064,
    positions=128000,
    config={
        "rms_norm_eps": 1e-6,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1000000.0, "mrope_section": (16, 24, 24)},
    },
    template=QWEN_IMAGE,
    drop=34,
    length=512,
)

qwen_image = Recipe(
    name="qwen-image",
    title="通义 Qwen-Image",
    paper="arXiv:2508.02324",
    licence="apache-2.0",
    text_encoders=(qwen2_5_vl_7b,),
    levels=(
        Level(
            name="image",
            space=QwenLatent(),
            denoiser=QwenImage(),
            schedule=Flow(dynamic="line", max_shift=0.9, max_length=8192, terminal=0.02, grid="even"),
            steps=50,
            guidance=Guidance(scale=4.0, norm="patch", lengthen=True, only_with_negative=True),
        ),
    ),
    stages=(
        replace(
            fine_tune,
            size=(1328, 1328),
            note="Ours; rates were not published. Theirs: 55 % nature, 27 % design, 13 % people, 5 % made-up text "
            "(pure, composed, in templates); then DPO, then GRPO.",
        ),
    ),
    dtypes=("bf16",),
    weights=Published(
        repo="Qwen/Qwen-Image",
        modelscope="Qwen/Qwen-Image",
        note="The numbers of its times are from third parties' copies of the config.",
    ),
    # The pipeline only applies guidance with a negative prompt; its default is a blank.
    request=Defaults(
        size=(1328, 1328),
        multiple=16,
        negative=" ",
    ),
    note="Other sizes it learned: 1664x928, 1472x1104, 1584x1056 and these upright.",
)

qwen_image_2512 = replace(
    qwen_image,
    name="qwen-image-2512",
    title="通义 Qwen-Image-2512",
    weights=Published(
        repo="Qwen/Qwen-Image-2512",
        modelscope="Qwen/Qwen-Image-2512",
        note="Qwen-Image's sizes; its folder says nothing by which it could be told from that. Its times are taken to "
        "be Qwen-Image's, not verified; a folder's own configs say what they are.",
    ),
    # The publisher's negative prompt.
    request=Defaults(
        size=(1328, 1328),
        multiple=16,
        negative="低分辨率，低画质，肢体畸形，手指畸形，画面过饱和，蜡像感，人脸无细节，过度光滑，画面具有AI感。构图混乱。"
        "文字模糊，扭曲。",
    ),
)
