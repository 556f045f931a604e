"""SkyPaint (github.com/SkyWorkAIGC/SkyPaint-AI-Diffusion): Stable Diffusion 1.5 with a bilingual text encoder."""

from dataclasses import replace

from bimo.core.recipe import Defaults, Published, Recipe, Stage
from bimo.models.text_encoders.clip import ClipText
from bimo.recipes.stable_diffusion import sd_v1
from bimo.recipes.stages import train_denoiser
from bimo.training.objectives.distil import Distil

skypaint = Recipe(
    name="skypaint",
    title="天工巧绘 SkyPaint",
    licence="see the repository, unverified",
    text_encoders=(ClipText(vocab=105879, words="pieces"),),
    levels=(sd_v1,),
    stages=(
        Stage(
            name="teach the words",
            objective=Distil(
                teacher=ClipText(),
                student="last",
                at="last",
                squared=1.0,
                absolute=1.0,
                cosine=1.0,
                decoder=1.0,
            ),
            train=("text.*", "distil.*"),
            note="SkyCLIP: OpenAI's text encoder teaches one of its size, by sentences alone (translations, UN, parts "
            "of LAION and Wukong, AI-Challenger, classical poems, phrases of prompt books), in both languages; a "
            "second task writes Chinese. Weights of the losses, rate and batch were not published.",
        ),
        replace(
            train_denoiser,
            name="adapt the painter",
            note="Filtered LAION, every caption after 'sai-v1 art'; 50 h on 16 x A100. Steps, rate, batch and "
            "thresholds were not published.",
        ),
    ),
    weights=Published(
        repo="SkyWork/SkyPaint",
        note="Its words, SkyCLIP, learnt from OpenAI's text encoder on sentences in two languages.",
    ),
    request=Defaults(size=(512, 512), prefix="sai-v1 art, ", guidance=7.5, steps=50),
)
