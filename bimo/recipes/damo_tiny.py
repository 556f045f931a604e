"""ModelScope's small cascade (damo/cv_diffusion_text-to-image-synthesis_tiny): StructBERT, then 64, 256, 1024 pixels.

Widths are the defaults of the published code. The released configuration was not available; a folder's own
configuration takes precedence. This also applies to the noise schedules: that every level has the cosine schedule
follows from where published sampling starts, at 0.9946 of the timesteps, which only this schedule needs.
"""

from bimo.core.recipe import Defaults, Guidance, Level, Published, Recipe, Stage
from bimo.diffusion.schedules.ddpm import Ddpm
from bimo.models.cascade.conditioners import LowRes
from bimo.models.cascade.pixel_unet import PixelUnet
from bimo.models.spaces import Pixels
from bimo.models.text_encoders.bert import Bert
from bimo.training.objectives.denoise import Denoise

structbert = Bert(
    width=1024,
    layers=24,
    heads=16,
    feed=4096,
    length=64,
    masked=True,
    pool="first",
)

generator = Level(
    name="generator",
    space=Pixels(factor=16),
    denoiser=PixelUnet(text=1024, encoder_film=False),
    schedule=Ddpm(beta_schedule="squaredcos_cap_v2", variance="learned_range", percentile=0.995, begin=0.9946),
    sampler="dpm-singlestep",
    steps=20,
    guidance=Guidance(scale=5.0, unconditional="zeros", channels=3),
)

upsampler_256 = Level(
    name="upsampler_256",
    space=Pixels(factor=4),
    denoiser=PixelUnet(
        spatial=3,
        answer=3,
        width=256,
        multiples=(1, 2, 2, 3, 4),
        blocks=2,
        attend=(16,),
        text=1024,
        noise="low_res_noise",
        dropout=0.1,
    ),
    schedule=Ddpm(beta_schedule="squaredcos_cap_v2", percentile=0.995, begin=0.9946),
    conditioners=(LowRes(level="generator", clamp=False, noise=0.5, noise_name="low_res_noise"),),
    sampler="dpm-singlestep",
    steps=20,
    guidance=Guidance(scale=5.0, unconditional="masked"),
)

upsampler_1024 = Level(
    name="upsampler_1024",
    space=Pixels(),
    denoiser=PixelUnet(spatial=3, answer=3, width=192, multiples=(1, 1, 2, 2, 4, 4), blocks=2, attend=(), middle=False),
    schedule=Ddpm(beta_schedule="linear", beta_start=0.0001, beta_end=0.02, percentile=0.995),
    conditioners=(LowRes(level="upsampler_256", clamp=False),),
    sampler="dpm-singlestep",
    steps=10,
    guidance=Guidance(scale=1.0),
)

damo_tiny = Recipe(
    name="damo-tiny",
    title="达摩院 文生图 tiny",
    licence="apache-2.0",
    languages=("zh",),
    text_encoders=(structbert,),
    levels=(generator, upsampler_256, upsampler_1024),
    stages=(
        Stage(
            name="paint 64 pixels",
            objective=Denoise(variance=0.001),
            level="generator",
            train=("generator.denoiser.*",),
            size=(1024, 1024),
            caption_dropout=0.1,
            note="StructBERT stays as it was. LAION-400M and pictures of the web; no training code, rate or share of "
            "dropped captions was published.",
        ),
        Stage(
            name="enlarge to 256",
            objective=Denoise(),
            level="upsampler_256",
            train=("upsampler_256.denoiser.*",),
            size=(1024, 1024),
            caption_dropout=0.1,
            note="The time of the joined picture's noise is 0 in drawing; how noisy it was in training is unverified.",
        ),
        Stage(
            name="enlarge to 1024",
            objective=Denoise(crops=(256,)),
            level="upsampler_1024",
            train=("upsampler_1024.denoiser.*",),
            size=(1024, 1024),
        ),
    ),
    weights=Published(
        modelscope="damo/cv_diffusion_text-to-image-synthesis_tiny",
        note="The published fast sampler draws the last level with the network of the one before; its slow one does "
        "not, nor does this.",
    ),
    request=Defaults(size=(1024, 1024), multiple=128),
)
