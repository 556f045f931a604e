"""太乙 Diffusion XL 3.5B (arXiv:2401.14688): Stable Diffusion XL whose text encoders were extended by Chinese
characters.
"""

from dataclasses import replace

from bimo.core.recipe import Defaults, Guidance, Level, Published, Recipe, Stage
from bimo.diffusion.schedules.ddpm import Ddpm
from bimo.models.spaces import Latent
from bimo.models.stable_diffusion.conditioners import Sizes
from bimo.models.stable_diffusion.unet import CROSS_DOWN, CROSS_UP, PLAIN_DOWN, PLAIN_UP, Unet
from bimo.models.text_encoders.clip import ClipText
from bimo.models.text_encoders.fusion import Channels
from bimo.training.objectives.denoise import Denoise
from bimo.training.objectives.reconstruct import Contrast

#: The training sizes of Stable Diffusion XL with about 1024 x 1024 pixels (arXiv:2307.01952, appendix I).
SHAPES = (
    (1024, 1024),
    (896, 1152),
    (1152, 896),
    (832, 1216),
    (1216, 832),
    (768, 1344),
    (1344, 768),
    (640, 1536),
    (1536, 640),
)

sdxl_unet = Unet(
    size=128,
    down=(PLAIN_DOWN, CROSS_DOWN, CROSS_DOWN),
    up=(CROSS_UP, CROSS_UP, PLAIN_UP),
    block_channels=(320, 640, 1280),
    heads=(5, 10, 20),
    depth=(1, 2, 10),
    text=(768, 1280),
    vector=1280,
    ids=("size_ids", 6),
    linear=True,
)

sdxl_schedule = Ddpm(
    config={
        "_class_name": "EulerDiscreteScheduler",
        "beta_schedule": "scaled_linear",
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "num_train_timesteps": 1000,
        "prediction_type": "epsilon",
        "steps_offset": 1,
        "timestep_spacing": "leading",
        # Unused by this class, but inherited by samplers that are chosen by name.
        "clip_sample": False,
        "set_alpha_to_one": False,
        "skip_prk_steps": True,
    }
)

#: The second text encoder of Stable Diffusion XL, OpenCLIP's ViT-bigG-14.
openclip_bigg = ClipText(
    width=1280,
    layers=32,
    heads=20,
    feed=5120,
    activation="gelu",
    penultimate="raw",
    project=1280,
)

sdxl = Level(
    name="image",
    space=Latent(scaling=0.13025),
    denoiser=sdxl_unet,
    schedule=sdxl_schedule,
    conditioners=(Sizes(),),
    steps=50,
    guidance=Guidance(scale=7.0, unconditional="zeros_without_negative"),
)

taiyi_xl = Recipe(
    name="taiyi-xl",
    title="太乙 Diffusion XL 3.5B",
    paper="arXiv:2401.14688",
    licence="apache-2.0",
    languages=("zh", "en"),
    text_encoders=(
        ClipText(vocab=57475, positions=512, length=225, penultimate="raw"),
        replace(openclip_bigg, vocab=57475, positions=512, length=225, pool="largest"),
    ),
    text_fusion=Channels(),
    levels=(sdxl,),
    stages=(
        Stage(
            name="learn the words",
            objective=Contrast(level="image", project=1280, flat=False),
            level="image",
            train=("text.1.*", "contrast.*"),
            size=(512, 512),
            note="The second stage of the paper: CLIP with a larger vocabulary and 512 positions "
            "(bimo.models.text_encoders.extend) learns from pairs in both languages by contrast. Rate, batch and "
            "data were not published; here an image encoder over latents stands for CLIP's.",
        ),
        Stage(
            name="learn to draw",
            objective=Denoise(),
            level="image",
            train=("text.*", "image.denoiser.*"),
            buckets=SHAPES,
            lr=1e-6,
            batch=2,
            warmup=100,
            note="Stable Diffusion XL in many sizes and shapes, whose numbers come with the data; which text encoders "
            "learnt, rate and batch of the pre-training were not published. The rate, the batch and the warm-up are "
            "those of their fine-tuning code: AdaFactor, bfloat16, shapes in steps of 64 pixels around 1024 x 1024.",
        ),
    ),
    weights=Published(
        repo="IDEA-CCNL/Taiyi-Stable-Diffusion-XL-3.5B",
        note="Both text encoders read the words of added_tokens.json (8067, ids 49408 to 57474). Unverified: which "
        "state is pooled where Chinese characters have larger ids than the end mark; their code's library took the "
        "largest.",
    ),
    request=Defaults(
        size=(1024, 1024),
        guidance=7.0,
        steps=50,
        negative="广告, ，, ！, 。, ；, 资讯, 新闻, 水印",
    ),
)
