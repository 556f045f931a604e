"""Lumina-Image 2.0 (arXiv:2503.21758): 2.6 B parameters in a single stream, conditioned on Gemma-2-2B."""

from dataclasses import replace

from bimo.core.recipe import Defaults, Guidance, Level, Published, Recipe
from bimo.diffusion.schedules.flow import Flow
from bimo.models.lumina.denoiser import Lumina2
from bimo.models.text_encoders.language_model import LanguageModel
from bimo.models.text_encoders.prompt_templates import LUMINA_PREFIX
from bimo.recipes.stages import fine_tune
from bimo.recipes.z_image import flux

lumina_image = Recipe(
    name="lumina-image-2",
    title="Lumina-Image 2.0",
    paper="arXiv:2503.21758",
    licence="apache-2.0",
    text_encoders=(
        LanguageModel(
            family="gemma2",
            width=2304,
            layers=26,
            heads=8,
            key_heads=4,
            head=256,
            feed=9216,
            vocab=256000,
            positions=8192,
            length=256,
            state=-2,
        ),
    ),
    levels=(
        Level(
            name="image",
            space=flux,
            denoiser=Lumina2(),
            schedule=Flow(shift=6.0, grid="even"),
            steps=50,
            guidance=Guidance(scale=4.0, norm="row", lengthen=True, until=0.25),
        ),
    ),
    stages=(
        replace(
            fine_tune,
            note="Ours; rates were not looked up.",
        ),
    ),
    dtypes=("bf16",),
    weights=Published(
        repo="Alpha-VLLM/Lumina-Image-2.0",
        note="shift 6 of its times is recalled, not verified. It writes hardly any Chinese: .136 on OneIG's text.",
    ),
    request=Defaults(size=(1024, 1024), multiple=16, prefix=LUMINA_PREFIX),
)
