"""盘古 PanGu-Draw v3 (arXiv:2312.16486): two expert UNets of Stable Diffusion XL's architecture, fixed sizes, and
adjustable guidance for styles.
"""

from dataclasses import replace

from bimo.core.recipe import Branch, Defaults, Guidance, Level, Published, Recipe, Stage
from bimo.diffusion.schedules.ddpm import Ddpm
from bimo.models.pangu.conditioners import Bucket
from bimo.models.pangu.experts import Experts
from bimo.models.spaces import Latent
from bimo.models.text_encoders.clip import ClipText
from bimo.models.text_encoders.fusion import Channels
from bimo.recipes.taiyi_xl import openclip_bigg, sdxl_unet
from bimo.training.objectives.denoise import Denoise
from bimo.training.objectives.online_rewards import OnlineRewards
from bimo.training.objectives.preferences import DiffusionDPO
from bimo.training.objectives.rewards import ClipReward

BASE_SIZES = (
    (256, 1024),
    (256, 960),
    (320, 768),
    (384, 640),
    (448, 576),
    (512, 512),
    (576, 448),
    (640, 384),
    (768, 320),
    (960, 256),
    (1024, 256),
)
HIGH_SIZES = (
    (512, 2048),
    (512, 1920),
    (768, 1536),
    (864, 1536),
    (960, 1280),
    (1024, 1024),
    (1280, 960),
    (1536, 768),
    (1920, 512),
    (2048, 512),
)

pangu_law = Ddpm(
    config={
        "_class_name": "EulerDiscreteScheduler",
        "beta_schedule": "scaled_linear",
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "num_train_timesteps": 1000,
        "prediction_type": "epsilon",
        "timestep_spacing": "trailing",
    }
)

pangu_unet = replace(sdxl_unet, ids=("bucket", 1))

pangu_draw = Recipe(
    name="pangu-draw-v3",
    title="盘古 PanGu-Draw v3",
    paper="arXiv:2312.16486",
    licence="apache-2.0 (code; the weights' was not found)",
    languages=("zh", "en"),
    text_encoders=(
        ClipText(layers=11, words="pieces"),
        openclip_bigg,
    ),
    text_fusion=Channels(),
    levels=(
        Level(
            name="image",
            space=Latent(scaling=0.13025),
            denoiser=Experts(high=pangu_unet, low=pangu_unet, boundary=500.0),
            schedule=pangu_law,
            conditioners=(Bucket(sizes=BASE_SIZES),),
            steps=40,
            guidance=Guidance(
                scale=6.0,
                branches=(
                    Branch(name="aesthetic", prefix="義 ", scale=4.0),
                    Branch(name="anime", prefix="饅 "),
                    Branch(name="photography", prefix="霙 "),
                ),
            ),
        ),
    ),
    stages=(
        Stage(
            name="learn structure",
            objective=Denoise(times=(500.0, 1000.0)),
            level="image",
            train=("image.denoiser.high.*",),
            buckets=BASE_SIZES,
            caption_dropout=0.1,
            note="The noisy half alone, from many pictures that may be small: the captions matter most. Captions of "
            "pictures that classifiers took for beautiful, photographs or anime begin with 義, 霙 or 饅. Rate, batch "
            "and the share of dropped captions were not published.",
        ),
        Stage(
            name="learn texture",
            objective=Denoise(times=(0.0, 500.0)),
            level="image",
            train=("image.denoiser.low.*",),
            buckets=BASE_SIZES,
            caption_dropout=0.1,
            note="The clean half alone, from fewer pictures whose captions may be poor. Rate and batch were not "
            "published.",
        ),
    ),
    weights=Published(
        note="Two MindSpore checkpoints, pangu_high_timestamp-c6344411 and pangu_low_timestamp-127da122, of high and "
        "of low times, each with a whole UNet; one pair for both lists of sizes. They are read by the names of the "
        "modules in the authors' code. Unverified, as no published file was opened: those names in the files, and "
        "the eleven layers of the Chinese text encoder (its code ends in a norm, its rows are read off the file, here "
        "WuKong's 49408). Both text encoders have 77 tokens; the larger reads Chinese byte by byte. Their sampler's "
        "first noise is larger by a fifth of a percent.",
    ),
    request=Defaults(size=(512, 512), sizes=BASE_SIZES, guidance=6.0, steps=40),
    note="Figures of its paper's tables were not recovered.",
)

pangu_draw_rewarded = replace(
    pangu_draw,
    name="pangu-draw-v3-rewarded",
    title="盘古 PanGu-Draw v3：从奖励里学",
    stages=(
        Stage(
            name="learn from rewards",
            objective=OnlineRewards(
                reward=ClipReward(scorer="taiyi-clip"),
                learn=DiffusionDPO(worst=True, denoise=Denoise(times=(0.0, 500.0))),
                requests=64,
                draws=4,
                every=100,
            ),
            level="image",
            train=("image.denoiser.low.*",),
            size=(512, 512),
            steps=1000,
            batch=32,
            lr=1e-6,
            note="Told is learning from the feedback of models (RLAIF), no formula: to prefer the best of its own "
            "drawings to the worst by a Chinese CLIP, in the expert of texture, is an analogy, unverified.",
        ),
    ),
)

pangu_draw_high = replace(
    pangu_draw,
    name="pangu-draw-v3-high",
    title="盘古 PanGu-Draw v3 高分辨率",
    levels=(replace(pangu_draw.levels[0], conditioners=(Bucket(sizes=HIGH_SIZES),)),),
    stages=(
        replace(pangu_draw.stages[0], buckets=HIGH_SIZES),
        replace(pangu_draw.stages[1], buckets=HIGH_SIZES),
    ),
    request=Defaults(size=(1024, 1024), sizes=HIGH_SIZES, guidance=6.0, steps=40),
)
