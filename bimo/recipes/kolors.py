"""可图 Kolors (Kwai, 2024): the UNet of Stable Diffusion XL conditioned on ChatGLM3, and its inpainting variant."""

from dataclasses import replace

from bimo.core.recipe import Defaults, Guidance, Published, Recipe, Stage
from bimo.models.stable_diffusion.conditioners import Masked, Sizes
from bimo.models.text_encoders.chatglm import ChatGlm
from bimo.recipes.stages import train_denoiser
from bimo.recipes.taiyi_xl import SHAPES, sdxl, sdxl_schedule, sdxl_unet
from bimo.training.objectives.denoise import Denoise

#: 1100 timesteps, so that the last one is noisier than that of Stable Diffusion XL.
kolors_schedule = replace(
    sdxl_schedule,
    beta_end=0.014,
    count=1100,
    config={**sdxl_schedule.config, "beta_end": 0.014, "num_train_timesteps": 1100},
)

terms = (
    "可图权重用自己的许可：月活不足三亿的可登记商用；不得用它画的图去改进别的模型。",
    "Kolors' weights have a licence of their own: commercial use by registration below 300 M monthly users; "
    "what they draw must not be used to improve another model.",
)

kolors_unet = replace(sdxl_unet, text=2048, bridge=4096, vector=4096)

kolors = Recipe(
    name="kolors",
    title="可图 Kolors",
    paper="Kolors: Effective Training of Diffusion Model for Photorealistic Text-to-Image Synthesis (Kwai, 2024)",
    licence="kolors",
    languages=("zh", "en"),
    text_encoders=(ChatGlm(),),
    levels=(replace(sdxl, denoiser=kolors_unet, schedule=kolors_schedule, guidance=Guidance(scale=5.0)),),
    stages=(
        replace(
            train_denoiser,
            name="learn concepts",
            caption_dropout=0.1,
            note="Billions of pairs, half with the caption they came with, half described anew by a language model "
            "that sees; pages of the 50 k most frequent Chinese words for glyphs. Size, rate, batch and the share of "
            "dropped captions were not published; those here are a guess.",
        ),
        Stage(
            name="learn beauty",
            objective=Denoise(),
            level="image",
            train=("image.denoiser.*",),
            buckets=SHAPES,
            caption_dropout=0.1,
            note="A few million pictures of high aesthetic quality at 1024 x 1024, in many shapes; with the noisier "
            "law of 1100 steps. Rate and batch were not published.",
        ),
    ),
    weights=Published(
        repo="Kwai-Kolors/Kolors-diffusers",
        terms=terms,
        note="The law (0.014, 1100 steps) is known from two independent programs, not from the publisher's file. "
        "ControlNets (canny, depth, pose) and an IP-Adapter-Plus on CLIP ViT-L/14 at 336 pixels were published for "
        "it; they attach to this UNet as to Stable Diffusion XL's.",
    ),
    request=Defaults(size=(1024, 1024), guidance=5.0, steps=50),
)

kolors_inpainting = replace(
    kolors,
    name="kolors-inpainting",
    title="可图 Kolors 补画",
    levels=(
        replace(
            kolors.levels[0],
            denoiser=replace(kolors_unet, spatial=5),
            conditioners=(Masked(level="image"), Sizes()),
            steps=25,
            guidance=Guidance(scale=6.0),
        ),
    ),
    stages=(
        replace(
            train_denoiser,
            name="learn to fill",
            size=(1024, 1024),
            caption_dropout=0.1,
            note="From Kolors' weights, the five further channels begun at nothing. Their masks were random strokes, "
            "rectangles, segments and dilated segments; here strokes and rectangles. Rate and batch: not published.",
        ),
    ),
    weights=Published(
        repo="Kwai-Kolors/Kolors-Inpainting",
        terms=terms,
    ),
    request=Defaults(size=(1024, 1024), guidance=6.0, steps=25, strength=0.999),
)
