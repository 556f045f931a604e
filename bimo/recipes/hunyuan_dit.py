"""混元 HunyuanDiT (arXiv:2405.08748): a bilingual CLIP and mT5 side by side, a transformer with long skips.

A picture may have any sides that are multiples of 16; the sizes it learnt are 1024x1024, 1280x1280, 1024x768, 1152x864,
1280x960, 1280x768 and their transposes, to which diffusers' pipeline moves every request and this package none.
"""

from dataclasses import replace

from bimo.core.recipe import Defaults, Dtype, Guidance, Level, Published, Recipe, Stage
from bimo.diffusion.schedules import Ddpm
from bimo.models.adapters.control_conditioner import Control
from bimo.models.adapters.controlnet import Controlled, HunyuanControlNet
from bimo.models.hunyuan_dit.denoiser import Hunyuan
from bimo.models.spaces import Latent
from bimo.models.text_encoders.bert import Bert
from bimo.models.text_encoders.t5 import T5
from bimo.training.objectives.denoise import Denoise

words = (
    Bert(width=1024, layers=24, heads=16, feed=4096, vocab=47020, length=77, masked=True, pooler=False),
    T5(),
)

terms = (
    "腾讯混元社区许可：欧盟境内不许使用；月活跃用户超过一亿要另行取得许可；不得用产出改进别的大语言模型",
    "Tencent Hunyuan Community License: no use in the European Union; above 100 million monthly users a licence of its "
    "own; outputs may not improve other large language models",
)

#: The authors' sampler settings (hydit/constants.py), with the end of beta that version 1.2 learnt with.
hunyuan_law = Ddpm(
    beta_end=0.018,
    prediction="v_prediction",
    config={
        "_class_name": "DDPMScheduler",
        "beta_schedule": "scaled_linear",
        "beta_start": 0.00085,
        "beta_end": 0.018,
        "num_train_timesteps": 1000,
        "prediction_type": "v_prediction",
        "clip_sample": False,
        "steps_offset": 1,
    },
)
#: Its autoencoder is sdxl-vae-fp16-fix.
FIXED: tuple[Dtype, ...] = ("fp16", "bf16")

v1_2 = Level(
    name="image",
    space=Latent(scaling=0.13025),
    denoiser=Hunyuan(),
    schedule=hunyuan_law,
    steps=50,
    guidance=Guidance(scale=5.0, channels=4),
    space_dtypes=FIXED,
)

v1_1 = Level(
    name="image",
    space=Latent(scaling=0.13025),
    denoiser=Hunyuan(meta=True),
    schedule=replace(hunyuan_law, beta_end=0.03, config={**hunyuan_law.config, "beta_end": 0.03}),
    steps=50,
    guidance=Guidance(scale=5.0, channels=4),
    space_dtypes=FIXED,
)

v1_2_distilled = Level(
    name="image",
    space=Latent(scaling=0.13025),
    denoiser=Hunyuan(),
    schedule=hunyuan_law,
    steps=25,
    guidance=Guidance(scale=5.0, channels=4),
    space_dtypes=FIXED,
)

v1_2_controlled = Level(
    name="image",
    space=Latent(scaling=0.13025),
    denoiser=Controlled(denoiser=Hunyuan(), adapter=HunyuanControlNet(hunyuan=Hunyuan())),
    schedule=hunyuan_law,
    conditioners=(Control(coded=True),),
    steps=50,
    guidance=Guidance(scale=5.0, channels=4),
    space_dtypes=FIXED,
)

negative = "错误的眼睛，糟糕的人脸，毁容，糟糕的艺术，变形，多余的肢体，模糊的颜色，模糊，重复，病态，残缺，"

hunyuan_dit_1_2 = Recipe(
    name="hunyuan-dit-1.2",
    title="混元 DiT 1.2",
    paper="arXiv:2405.08748",
    licence="tencent-hunyuan-community",
    languages=("zh", "en"),
    text_encoders=words,
    levels=(v1_2,),
    stages=(
        Stage(
            name="fine-tune the whole",
            objective=Denoise(),
            level="image",
            train=("image.denoiser.*",),
            size=(1024, 1024),
            batch=1,
            lr=1e-4,
            weight_decay=0.0,
            note="the authors' script for one's own data, from the distilled weights: no caption dropped, flipped at "
            "random, half precision, on a card of 20 GB and more. Their LoRA has rank 128 and alpha 128 over the "
            "projections of both attentions, 2,000 steps of 2 pictures. How the whole was first trained was not "
            "published beyond the paper's words. The second half of the answer, the variance, is not taught here.",
        ),
    ),
    dtypes=("fp16",),
    weights=Published(
        repo="Tencent-Hunyuan/HunyuanDiT-v1.2-Diffusers",
        terms=terms,
        note="beta ends at 0.018 where this version learnt; the authors' own code draws with 0.02 unless told",
    ),
    request=Defaults(size=(1024, 1024), multiple=16, guidance=5.0, steps=50, negative=negative),
)

hunyuan_dit_1_1 = Recipe(
    name="hunyuan-dit-1.1",
    title="混元 DiT 1.1",
    paper="arXiv:2405.08748",
    licence="tencent-hunyuan-community",
    languages=("zh", "en"),
    text_encoders=words,
    levels=(v1_1,),
    stages=(
        Stage(
            name="fine-tune the whole",
            objective=Denoise(),
            level="image",
            train=("image.denoiser.*",),
            size=(1024, 1024),
            batch=1,
            lr=1e-4,
            weight_decay=0.0,
            caption_dropout=0.44,
            note="the authors' script for this version drops the captions of 0.44 for each tower",
        ),
    ),
    dtypes=("fp16",),
    weights=Published(
        repo="Tencent-Hunyuan/HunyuanDiT-v1.1-Diffusers",
        terms=terms,
        note="the repository's name follows that of 1.2 and was not seen written by the authors",
    ),
    request=Defaults(size=(1024, 1024), multiple=16, guidance=5.0, steps=50, negative=negative),
)

hunyuan_dit_1_2_distilled = Recipe(
    name="hunyuan-dit-1.2-distilled",
    title="混元 DiT 1.2 蒸馏",
    paper="arXiv:2405.08748",
    licence="tencent-hunyuan-community",
    languages=("zh", "en"),
    text_encoders=words,
    levels=(v1_2_distilled,),
    stages=(
        Stage(
            name="fine-tune the whole",
            objective=Denoise(),
            level="image",
            train=("image.denoiser.*",),
            size=(1024, 1024),
            batch=1,
            lr=1e-4,
            weight_decay=0.0,
            note="the authors' script for one's own data begins with these weights",
        ),
    ),
    dtypes=("fp16",),
    weights=Published(
        repo="Tencent-Hunyuan/HunyuanDiT-v1.2-Diffusers-Distilled",
        terms=terms,
        note="half the steps for the same pictures; how it was distilled was not published",
    ),
    request=Defaults(size=(1024, 1024), multiple=16, guidance=5.0, steps=25, negative=negative),
)

hunyuan_dit_1_2_control = Recipe(
    name="hunyuan-dit-1.2-control",
    title="混元 DiT 1.2，照着线条画",
    paper="arXiv:2405.08748",
    licence="tencent-hunyuan-community",
    languages=("zh", "en"),
    source="published description",
    text_encoders=words,
    levels=(v1_2_controlled,),
    stages=(
        Stage(
            name="control",
            objective=Denoise(),
            level="image",
            train=("image.denoiser.adapter.*",),
            size=(1024, 1024),
            batch=1,
            lr=1e-4,
            weight_decay=0.0,
            caption_dropout=0.44,
            note="the authors' script: beside the distilled weights, gradients of two steps together, 100 epochs, of "
            "edges, depths or poses. Here the edges are Sobel's, not Canny's.",
        ),
    ),
    dtypes=("fp16",),
    weights=Published(
        terms=terms,
        note="published beside 1.2 for edges (canny), depths and poses, as Tencent-Hunyuan/HYDiT-ControlNet-v1.2; any "
        "of them is put beside a loaded 1.2 by bimo.models.adapters.attach.control",
    ),
    request=Defaults(size=(1024, 1024), multiple=16, guidance=5.0, steps=50, negative=negative),
)
