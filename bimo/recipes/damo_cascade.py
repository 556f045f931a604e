"""通义's first cascade (damo/cv_diffusion_text-to-image-synthesis), 5 B weights: prior, then 64, 256, 1024 pixels.

It was published with two text encoders, CLIP's and XGLM's, of which a request chose one; here they are two systems.
Widths are the defaults of the published code, CLIP's those of ViT-L/14, whose embeddings have the width 768 that the
other parts expect. The released configuration was not available; a folder's own configuration takes precedence. The
prior predicts noise, as the published fast sampler supports nothing else.
"""

from dataclasses import replace

from bimo.core.recipe import Defaults, Guidance, Level, Published, Recipe, Stage
from bimo.diffusion.schedules.ddpm import Ddpm
from bimo.models.cascade.conditioners import LowRes, Semantics
from bimo.models.cascade.pixel_unet import PixelUnet
from bimo.models.cascade.prior import Prior, RootLength
from bimo.models.spaces import ClipImage, Pixels
from bimo.models.text_encoders.clip import ClipText
from bimo.models.text_encoders.xglm import XglmText
from bimo.training.objectives.denoise import Denoise

prior = Level(
    name="prior",
    space=ClipImage(),
    denoiser=Prior(),
    schedule=Ddpm(beta_schedule="squaredcos_cap_v2", begin=0.9946),
    sampler="dpm-singlestep",
    steps=100,
    guidance=Guidance(scale=3.0),
)

decoder = Level(
    name="decoder",
    space=Pixels(factor=16),
    denoiser=PixelUnet(embed=768, reads="semantics", dropout=0.1),
    schedule=Ddpm(beta_schedule="squaredcos_cap_v2", variance="learned_range", percentile=0.995, begin=0.9946),
    conditioners=(Semantics(level="prior"),),
    sampler="dpm-singlestep",
    steps=50,
    guidance=Guidance(scale=7.0, channels=3),
)

upsampler256 = Level(
    name="upsampler256",
    space=Pixels(factor=4),
    denoiser=PixelUnet(spatial=3, answer=3, width=320, attend=(8,), embed=768, dropout=0.1),
    schedule=Ddpm(beta_schedule="squaredcos_cap_v2", percentile=0.995, begin=0.9946),
    conditioners=(LowRes(level="decoder"),),
    sampler="dpm-singlestep",
    steps=20,
    guidance=Guidance(scale=3.0),
)

upsampler1024 = Level(
    name="upsampler1024",
    space=Pixels(),
    denoiser=PixelUnet(
        spatial=3,
        answer=3,
        width=192,
        multiples=(1, 1, 2, 2, 4, 4),
        blocks=2,
        attend=(),
        middle=False,
        embed=768,
        tokens=0,
    ),
    schedule=Ddpm(beta_schedule="linear", beta_start=0.0001, beta_end=0.02, percentile=0.995),
    conditioners=(LowRes(level="upsampler256"),),
    sampler="dpm-singlestep",
    steps=20,
    guidance=Guidance(scale=3.0),
)

stages = (
    Stage(
        name="dream the picture's embedding",
        objective=Denoise(),
        level="prior",
        train=("prior.denoiser.*",),
        size=(1024, 1024),
        caption_dropout=0.1,
        note="LAION-5B, ImageNet, FFHQ, AFHQ and WikiArt behind filters of beauty, watermarks and duplicates, their "
        "limits unpublished; every network by itself. No training code, rate or share of dropped captions.",
    ),
    Stage(
        name="paint 64 pixels",
        objective=Denoise(variance=0.001),
        level="decoder",
        train=("decoder.denoiser.*",),
        size=(1024, 1024),
        condition_dropout=(("semantics", 0.1),),
    ),
    Stage(
        name="enlarge to 256",
        objective=Denoise(crops=(64, 128, 256)),
        level="upsampler256",
        train=("upsampler256.denoiser.*",),
        size=(1024, 1024),
        caption_dropout=0.1,
        note="Random crops of 64, 128 and 256 pixels.",
    ),
    Stage(
        name="enlarge to 1024",
        objective=Denoise(crops=(256,)),
        level="upsampler1024",
        train=("upsampler1024.denoiser.*",),
        size=(1024, 1024),
        caption_dropout=0.1,
        note="Random crops of 256 pixels.",
    ),
)

request = Defaults(size=(1024, 1024), multiple=128)

damo_cascade = Recipe(
    name="damo-cascade",
    title="通义 文生图 5B（CLIP）",
    licence="apache-2.0",
    languages=("en",),
    text_encoders=(ClipText(project=768),),
    text_fusion=RootLength(),
    levels=(prior, decoder, upsampler256, upsampler1024),
    stages=stages,
    weights=Published(modelscope="damo/cv_diffusion_text-to-image-synthesis"),
    request=request,
)

damo_cascade_xglm = replace(
    damo_cascade,
    name="damo-cascade-xglm",
    title="通义 文生图 5B（XGLM）",
    languages=("zh", "en"),
    text_encoders=(XglmText(),),
)
