"""悟空画画 WuKong-HuaHua (minddiffusion): Stable Diffusion 1 with a Chinese CLIP (Wukong, arXiv:2202.06767)."""

from dataclasses import replace

from bimo.core.recipe import Defaults, Published, Recipe, Stage
from bimo.models.text_encoders.clip import ClipText
from bimo.recipes.stable_diffusion import sd_v1, sd_v1_768
from bimo.recipes.stages import train_denoiser
from bimo.training.adapters.lora_stage import Lora
from bimo.training.objectives.denoise import Denoise
from bimo.training.objectives.dreambooth import Dreambooth
from bimo.training.objectives.online_rewards import OnlineRewards
from bimo.training.objectives.rewards import AestheticReward, ClipReward, WeightedRewards

wukong = Recipe(
    name="wukong-huahua",
    title="悟空画画 1.0",
    paper="arXiv:2202.06767",
    licence="see the repository, unverified",
    languages=("zh",),
    text_encoders=(ClipText(words="pieces", eps=1e-7),),
    levels=(sd_v1,),
    stages=(
        replace(
            train_denoiser,
            name="adapt the painter",
            note="About 25 M pairs of Wukong, kept by how well words and picture fit, by watermarks and by beauty "
            "(thresholds not published). The words are those of a Chinese CLIP trained first; their code freezes them.",
        ),
    ),
    weights=Published(
        note="wukong-huahua-ms.ckpt, a checkpoint of MindSpore, from download.mindspore.cn; its table has 49408 rows, "
        "of which the vocabulary of 21128 words reads the first."
    ),
    request=Defaults(size=(512, 512), guidance=7.5, steps=50),
    note="dpm++ with 15 steps is their quicker way. A prompt in their habit is a description, then 绘画 or a style.",
)

wukong_finetune = replace(
    wukong,
    name="wukong-huahua-finetune",
    title="悟空画画 1.0：微调",
    stages=(
        replace(
            train_denoiser,
            name="adapt to other pictures",
            batch=3,
            lr=1e-5,
            weight_decay=0.01,
            warmup=1000,
            lr_schedule="cosine",
            floor=1e-7,
            betas=(0.9, 0.98),
            note="Their train_config.json: 20 epochs; pictures with a side under 256 are left out. The config says "
            "decay 0.01, the code passes 1e-6.",
        ),
    ),
)

wukong_dreambooth = replace(
    wukong,
    name="wukong-huahua-dreambooth",
    title="悟空画画 1.0：DreamBooth",
    stages=(
        Stage(
            name="learn a subject",
            objective=Dreambooth(subject="α猫", class_noun="猫", count=200, prior=0.5),
            level="image",
            train=("image.denoiser.*",),
            size=(512, 512),
            lr=1e-6,
            note="3 to 5 pictures, each 100 times, 5 epochs; 25 to 35 minutes. α is the identifier.",
        ),
    ),
)

wukong_lora = replace(
    wukong,
    name="wukong-huahua-lora",
    title="悟空画画 1.0：LoRA",
    stages=(
        Stage(
            name="learn a style beside the painter",
            objective=Denoise(),
            level="image",
            train=(),
            adapter=Lora(targets=("image.denoiser.model.*attn?.to_[qkv]", "image.denoiser.model.*attn?.to_out.0")),
            size=(512, 512),
            lr=1e-4,
            lr_schedule="cosine",
            floor=1e-6,
            note="Rank 4, alpha 4: 0.07 % of the parameters, 3.1 MB; 14 GB of memory where all takes 27.8, 21 minutes "
            "an epoch where all takes 112. Which layers they chose is unverified.",
        ),
    ),
)

wukong_2 = replace(
    wukong,
    name="wukong-huahua-2",
    title="悟空画画 2.0",
    source="published description",
    levels=(sd_v1_768,),
    stages=(
        replace(wukong.stages[0], size=(768, 768), note="Its data were not published."),
        Stage(
            name="learn from rewards",
            objective=OnlineRewards(
                reward=WeightedRewards(
                    parts=(
                        (1.0, ClipReward(scorer="taiyi-clip")),
                        (0.1, AestheticReward(scorer="openai/clip-vit-large-patch14", head="aesthetic.safetensors")),
                    )
                ),
                requests=64,
                draws=4,
                every=100,
            ),
            level="image",
            train=("image.denoiser.*",),
            size=(768, 768),
            steps=1000,
            batch=32,
            lr=1e-6,
            note="Told is reinforcement learning from the feedback of models of quality and art (RLAIF), no formula: "
            "to prefer the best of its own drawings to the worst by a Chinese CLIP and a head of beauty is an analogy; "
            "weights, rate and steps are guesses; all unverified. The head is a file of the user's: "
            "--set stages.1.objective.reward.parts.1.1.head=FILE.",
        ),
    ),
    weights=Published(),
    request=Defaults(size=(768, 768), guidance=7.5, steps=25, sampler="dpm++-2m-sde"),
    note="768 pixels and a multistep sampler of stochastic equations with 20 to 30 steps are all that was told; its "
    "weights and code were not. dpm++-2m-sde is the nearest of known samplers, unverified.",
)
