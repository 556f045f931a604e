"""混元 HunyuanDiT (arXiv:2405.08748): a bilingual CLIP and mT5 side by side, a transformer with long skips.

Sides of pictures may be any multiples of 16. The training sizes are 1024x1024, 1280x1280, 1024x768, 1152x864, 1280x960,
1280x768 and their transposes; diffusers' pipeline changes every request to one of these, this package does not.
"""

from dataclasses import replace

from bimo.core.recipe import Defaults, Dtype, Guidance, Level, Published, Recipe
from bimo.diffusion.schedules.ddpm import Ddpm
from bimo.models.adapters.control_conditioner import Control
from bimo.models.adapters.controlnet import Controlled, HunyuanControlNet
from bimo.models.hunyuan_dit.denoiser import Hunyuan
from bimo.models.spaces import Latent
from bimo.models.text_encoders.bert import Bert
from bimo.models.text_encoders.t5 import T5
from bimo.recipes.stages import train_denoiser

words = (
    Bert(width=1024, layers=24, heads=16, feed=4096, vocab=47020, length=77, masked=True, pooler=False),
    T5(),
)

terms = (
    "腾讯混元社区许可：欧盟境内不许使用；月活跃用户超过一亿要另行取得许可；不得用产出改进别的大语言模型",
    "Tencent Hunyuan Community License: no use in the European Union; above 100 million monthly users a licence of its "
    "own; outputs may not improve other large language models",
)

#: The authors' sampler settings (hydit/constants.py), with the beta_end of version 1.2's training.
noise = Ddpm(
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
    schedule=noise,
    steps=50,
    guidance=Guidance(scale=5.0, channels=4),
    space_dtypes=FIXED,
)

v1_1 = replace(
    v1_2,
    denoiser=Hunyuan(meta=True),
    schedule=replace(noise, beta_end=0.03, config={**noise.config, "beta_end": 0.03}),
)

v1_2_controlled = replace(
    v1_2,
    denoiser=Controlled(denoiser=Hunyuan(), adapter=HunyuanControlNet(hunyuan=Hunyuan())),
    conditioners=(Control(coded=True),),
)

negative = "错误的眼睛，糟糕的人脸，毁容，糟糕的艺术，变形，多余的肢体，模糊的颜色，模糊，重复，病态，残缺，"

fine_tune = replace(
    train_denoiser,
    name="fine-tune the whole",
    size=(1024, 1024),
    batch=1,
    lr=1e-4,
    weight_decay=0.0,
    note="the authors' script for one's own data, from the distilled weights: no caption dropped, flipped at random, "
    "half precision, on a card of 20 GB and more. Their LoRA has rank 128 and alpha 128 over the projections of both "
    "attentions, 2,000 steps of 2 pictures. How the whole was first trained was not published beyond the paper's "
    "words. The second half of the answer, the variance, is not taught here.",
)

hunyuan_dit_1_2 = Recipe(
    name="hunyuan-dit-1.2",
    title="混元 DiT 1.2",
    paper="arXiv:2405.08748",
    licence="tencent-hunyuan-community",
    languages=("zh", "en"),
    text_encoders=words,
    levels=(v1_2,),
    stages=(fine_tune,),
    dtypes=("fp16",),
    weights=Published(
        repo="Tencent-Hunyuan/HunyuanDiT-v1.2-Diffusers",
        terms=terms,
        note="beta ends at 0.018 where this version learnt; the authors' own code draws with 0.02 unless told",
    ),
    request=Defaults(size=(1024, 1024), multiple=16, guidance=5.0, steps=50, negative=negative),
)

hunyuan_dit_1_1 = replace(
    hunyuan_dit_1_2,
    name="hunyuan-dit-1.1",
    title="混元 DiT 1.1",
    levels=(v1_1,),
    stages=(
        replace(
            fine_tune,
            caption_dropout=0.44,
            note="the authors' script for this version drops the captions of 0.44 for each text encoder",
        ),
    ),
    weights=Published(
        repo="Tencent-Hunyuan/HunyuanDiT-v1.1-Diffusers",
        terms=terms,
        note="the repository's name follows that of 1.2 and was not seen written by the authors",
    ),
)

hunyuan_dit_1_2_distilled = replace(
    hunyuan_dit_1_2,
    name="hunyuan-dit-1.2-distilled",
    title="混元 DiT 1.2 蒸馏",
    levels=(replace(v1_2, steps=25),),
    stages=(replace(fine_tune, note="the authors' script for one's own data begins with these weights"),),
    weights=Published(
        repo="Tencent-Hunyuan/HunyuanDiT-v1.2-Diffusers-Distilled",
        terms=terms,
        note="half the steps for the same pictures; how it was distilled was not published",
    ),
    request=replace(hunyuan_dit_1_2.request, steps=25),
)

hunyuan_dit_1_2_control = replace(
    hunyuan_dit_1_2,
    name="hunyuan-dit-1.2-control",
    title="混元 DiT 1.2，照着线条画",
    source="published description",
    levels=(v1_2_controlled,),
    stages=(
        replace(
            fine_tune,
            name="control",
            train=("image.denoiser.adapter.*",),
            caption_dropout=0.44,
            note="the authors' script: beside the distilled weights, gradients of two steps together, 100 epochs, of "
            "edges, depths or poses. Here the edges are Sobel's, not Canny's.",
        ),
    ),
    weights=Published(
        terms=terms,
        note="published beside 1.2 for edges (canny), depths and poses, as Tencent-Hunyuan/HYDiT-ControlNet-v1.2; any "
        "of them is put beside a loaded 1.2 by bimo.models.adapters.attach.control",
    ),
)
