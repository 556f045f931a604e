"""Composer (arXiv:2302.09778), the paper on 通义万相: one network conditioned on any subset of a picture's aspects.

No code or weights were published. The paper gives eight conditions, how they enter the network, and sizes (2 B at 64
pixels, 1.1 B at 256, 300 M at 1024, a prior of 1 B), which the ones here approximate; the dropout rates of conditions
are recalled from the paper and unverified. Conditions are computed in `bimo.models.composer.conditioners`.
"""

from bimo.core.recipe import Branch, Defaults, Guidance, Level, Recipe, Stage
from bimo.diffusion.schedules.ddpm import Ddpm
from bimo.models.cascade.conditioners import LowRes, Semantics
from bimo.models.cascade.pixel_unet import PixelUnet
from bimo.models.cascade.prior import RootLength
from bimo.models.composer.conditioners import Intensity, Map, Palette, Sketch
from bimo.models.composer.denoiser import Composed
from bimo.models.spaces import Pixels
from bimo.models.stable_diffusion.conditioners import Masked
from bimo.models.text_encoders.clip import ClipText
from bimo.recipes.damo_cascade import prior, upsampler1024
from bimo.training.objectives.denoise import Denoise

base = Level(
    name="base",
    space=Pixels(factor=16),
    denoiser=Composed(
        denoiser=PixelUnet(spatial=64, text=768, dropout=0.1),
        maps=(("sketch", 1), ("instances", 3), ("depth", 1), ("intensity", 1), ("masked", 4)),
        scalars=(("palette", 275), ("semantics", 768)),
    ),
    schedule=Ddpm(beta_schedule="squaredcos_cap_v2", variance="learned_range", percentile=0.995, begin=0.9946),
    conditioners=(
        Sketch(),
        Map(name="instances", colours=True),
        Map(name="depth"),
        Intensity(),
        Masked(level="base", guided=True),
        Palette(),
        Semantics(level="prior"),
    ),
    sampler="dpm-singlestep",
    steps=50,
    guidance=Guidance(
        scale=7.0,
        channels=3,
        branches=(
            Branch(name="more-words", drop=("text",)),
            Branch(name="more-sketch", drop=("sketch",)),
            Branch(name="more-instances", drop=("instances",)),
            Branch(name="more-depth", drop=("depth",)),
            Branch(name="more-intensity", drop=("intensity",)),
            Branch(name="more-palette", drop=("palette",)),
            Branch(name="more-semantics", drop=("semantics",)),
        ),
    ),
)

upsampler256 = Level(
    name="upsampler256",
    space=Pixels(factor=4),
    denoiser=PixelUnet(spatial=3, answer=3, width=384, attend=(8,), embed=768, dropout=0.1),
    schedule=Ddpm(beta_schedule="squaredcos_cap_v2", percentile=0.995, begin=0.9946),
    conditioners=(LowRes(level="base"),),
    sampler="dpm-singlestep",
    steps=20,
    guidance=Guidance(scale=3.0),
)

composer = Recipe(
    name="composer",
    title="Composer（通义万相）",
    paper="arXiv:2302.09778",
    languages=("en", "zh"),
    source="published description",
    text_encoders=(ClipText(project=768),),
    text_fusion=RootLength(),
    levels=(prior, base, upsampler256, upsampler1024),
    stages=(
        Stage(
            name="dream the picture's embedding",
            objective=Denoise(),
            level="prior",
            train=("prior.denoiser.*",),
            size=(1024, 1024),
            caption_dropout=0.1,
        ),
        Stage(
            name="compose 64 pixels",
            objective=Denoise(variance=0.001),
            level="base",
            train=("base.denoiser.*",),
            size=(1024, 1024),
            caption_dropout=0.5,
            condition_dropout=(("*", 0.5), ("intensity", 0.7)),
            joint_dropout=0.1,
            joint_keep=0.1,
            note="Every condition is left out by itself, half of the time, intensity 0.7, as it says most; all 0.1 and "
            "none 0.1 of the time. Depth and instances must come with the data.",
        ),
        Stage(
            name="enlarge to 256",
            objective=Denoise(crops=(64,)),
            level="upsampler256",
            train=("upsampler256.denoiser.*",),
            size=(1024, 1024),
            caption_dropout=0.1,
        ),
        Stage(
            name="enlarge to 1024",
            objective=Denoise(crops=(256,)),
            level="upsampler1024",
            train=("upsampler1024.denoiser.*",),
            size=(1024, 1024),
            caption_dropout=0.1,
        ),
    ),
    request=Defaults(size=(1024, 1024), multiple=128),
    note="A picture is varied by its semantics, recoloured by another palette under its own sketch and semantics, and "
    "given the style of another by that one's semantics under its own sketch.",
)
