"""Ovis-Image (arXiv:2511.22982): 7 B parameters, conditioned on a small Qwen3, made for rendering text."""

from dataclasses import replace

from bimo.core.recipe import Defaults, Guidance, Level, Published, Recipe
from bimo.diffusion.schedules.flow import Flow
from bimo.models.ovis_image.denoiser import OvisImage
from bimo.models.ovis_image.layout import DROP, TEMPLATE
from bimo.models.text_encoders.language_model import LanguageModel
from bimo.recipes.stages import fine_tune
from bimo.recipes.z_image import flux

ovis_image = Recipe(
    name="ovis-image",
    title="Ovis-Image 7B",
    paper="arXiv:2511.22982, unverified",
    licence="apache-2.0, unverified",
    text_encoders=(
        LanguageModel(
            width=2048,
            layers=28,
            heads=16,
            feed=6144,
            config={"rope_parameters": {"rope_theta": 1000000.0, "rope_type": "default"}},
            template=TEMPLATE,
            drop=DROP,
            length=256,
        ),
    ),
    levels=(
        Level(
            name="image",
            space=flux,
            denoiser=OvisImage(),
            schedule=Flow(dynamic="line", grid="even"),
            steps=50,
            guidance=Guidance(scale=5.0),
        ),
    ),
    stages=(
        replace(
            fine_tune,
            note="Ours; how it was trained was not read.",
        ),
    ),
    dtypes=("bf16",),
    weights=Published(
        repo="AIDC-AI/Ovis-Image-7B",
        note="The text encoder's sizes are Qwen3-1.7B's, taken for its width of 2048; Flow's numbers are its class's. "
        "Neither is verified; a folder's own configs say what it is.",
    ),
    request=Defaults(size=(1024, 1024), multiple=16),
)
