"""Composer (arXiv:2302.09778), the paper on 通义万相: one network conditioned on any subset of a picture's aspects.

No code or weights were published. The paper gives eight conditions, how they enter the network, and sizes (2 B at 64
pixels, 1.1 B at 256, 300 M at 1024, a prior of 1 B), which the ones here approximate; the dropout rates of conditions
are recalled from the paper and unverified. Conditions are computed in `bimo.models.composer.conditioners`.
"""

from dataclasses import replace

from bimo.core.recipe import Branch, Recipe
from bimo.models.cascade.conditioners import LowRes, Semantics
from bimo.models.cascade.pixel_unet import PixelUnet
from bimo.models.cascade.prior import RootLength
from bimo.models.composer.conditioners import Intensity, Map, Palette, Sketch
from bimo.models.composer.denoiser import Composed
from bimo.models.stable_diffusion.conditioners import Masked
from bimo.models.text_encoders.clip import ClipText
from bimo.recipes.damo_cascade import decoder, prior, request, stages, upsampler256, upsampler1024
from bimo.training.objectives.denoise import Denoise

base = replace(
    decoder,
    name="base",
    denoiser=Composed(
        denoiser=PixelUnet(spatial=64, text=768, dropout=0.1),
        maps=(("sketch", 1), ("instances", 3), ("depth", 1), ("intensity", 1), ("masked", 4)),
        scalars=(("palette", 275), ("semantics", 768)),
    ),
    conditioners=(
        Sketch(),
        Map(name="instances", colours=True),
        Map(name="depth"),
        Intensity(),
        Masked(level="base", guided=True),
        Palette(),
        Semantics(level="prior"),
    ),
    guidance=replace(
        decoder.guidance,
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

upsampler256 = replace(
    upsampler256,
    denoiser=PixelUnet(spatial=3, answer=3, width=384, attend=(8,), embed=768, dropout=0.1),
    conditioners=(LowRes(level="base"),),
)

dream, paint, enlarge256, enlarge1024 = stages

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
        replace(dream, note=""),
        replace(
            paint,
            name="compose 64 pixels",
            level="base",
            train=("base.denoiser.*",),
            caption_dropout=0.5,
            condition_dropout=(("*", 0.5), ("intensity", 0.7)),
            joint_dropout=0.1,
            joint_keep=0.1,
            note="Every condition is left out by itself, half of the time, intensity 0.7, as it says most; all 0.1 and "
            "none 0.1 of the time. Depth and instances must come with the data.",
        ),
        replace(enlarge256, objective=Denoise(crops=(64,)), note=""),
        replace(enlarge1024, note=""),
    ),
    request=request,
    note="A picture is varied by its semantics, recoloured by another palette under its own sketch and semantics, and "
    "given the style of another by that one's semantics under its own sketch.",
)
