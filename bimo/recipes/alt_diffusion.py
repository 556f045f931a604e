"""AltDiffusion (arXiv:2308.09991): Stable Diffusion with the multilingual text encoder of AltCLIP
(arXiv:2211.06679).
"""

from dataclasses import replace

from bimo.core.recipe import Defaults, Published, Recipe, Stage
from bimo.models.text_encoders.clip import ClipText
from bimo.models.text_encoders.xlm import XlmText
from bimo.recipes.stable_diffusion import sd_v1, sd_v2_base
from bimo.recipes.stages import train_denoiser
from bimo.training.objectives.denoise import Denoise
from bimo.training.objectives.distil import Distil
from bimo.training.objectives.dreambooth import Dreambooth

teach_words = Stage(
    name="teach the words",
    objective=Distil(teacher=ClipText(), student="first", at="last"),
    train=("text.*",),
    note="AltCLIP's first stage: sentences in two languages, the teacher OpenAI's ViT-L/14; rate and batch were not "
    "published. Its second, 2 M pairs by contrast with that model's pictures, stands between this and the painter.",
)

words_meet_painter = Stage(
    name="align the painter with the words",
    objective=Denoise(),
    level="image",
    train=("image.denoiser.model.*attn2.to_k.*", "image.denoiser.model.*attn2.to_v.*"),
    size=(512, 512),
    warmup=10000,
    note="WuDao and LAION's aesthetic pictures; from Stable Diffusion 1.4, of which the keys and values of the "
    "cross-attention alone learn. Steps and batch were not published; rate and warm-up are those of m18.",
)

adapt_painter = replace(
    train_denoiser,
    name="adapt the painter",
    steps=270_000,
    batch=3840,
    lr=1e-4,
    warmup=10_000,
    ema=0.9999,
    note="LAION-Aesthetics V1: 52 M pairs in English, 46 M in 18 languages; 7 days",
)

altdiffusion_m9 = Recipe(
    name="altdiffusion-m9",
    title="AltDiffusion-m9",
    paper="arXiv:2308.09991",
    licence="creativeml-openrail-m",
    languages=("en", "zh", "es", "fr", "ru", "ja", "ko", "ar", "it"),
    text_encoders=(XlmText(),),
    levels=(sd_v1,),
    stages=(teach_words, words_meet_painter),
    weights=Published(
        repo="BAAI/AltDiffusion-m9",
        note="Its words are AltCLIP-m9's, taught by OpenAI's ViT-L/14 on sentences in two tongues, then on pictures.",
    ),
    request=Defaults(size=(512, 512), guidance=7.5, steps=50, sampler="ddim"),
)

altdiffusion = replace(
    altdiffusion_m9,
    name="altdiffusion",
    title="AltDiffusion",
    paper="arXiv:2211.06679",
    languages=("zh", "en"),
    weights=Published(repo="BAAI/AltDiffusion", note="The first of them, of two languages; its shapes are m9's."),
)

altdiffusion_m18 = Recipe(
    name="altdiffusion-m18",
    title="AltDiffusion-m18",
    paper="arXiv:2308.09991",
    licence="see the repository, unverified",
    languages=(
        *("en", "zh", "ja", "th", "ko", "hi", "uk", "ar", "tr"),
        *("vi", "pl", "nl", "pt", "it", "es", "de", "fr", "ru"),
    ),
    text_encoders=(XlmText(project=1024, penultimate=True),),
    levels=(sd_v2_base,),
    stages=(
        replace(
            teach_words,
            objective=Distil(
                teacher=ClipText(width=1024, layers=24, heads=16, feed=4096, activation="gelu"),
                student="first",
                at="last",
            ),
            note="The teacher is OpenCLIP's ViT-H-14; rate and batch were not published.",
        ),
        replace(
            words_meet_painter,
            size=(256, 256),
            steps=330_000,
            batch=3072,
            lr=1e-4,
            warmup=10_000,
            ema=0.9999,
            note="LAION-5B: 2.32 B pairs in English, 1.8 B in 18 languages; 8 days on 64 x A100-40G; from Stable "
            "Diffusion 2.1-base.",
        ),
        adapt_painter,
        replace(
            adapt_painter,
            name="learn to do without words",
            steps=150_000,
            caption_dropout=0.1,
            note="the same pairs, 4 days; batch, rate and warm-up were given for the training as a whole",
        ),
    ),
    weights=Published(
        repo="BAAI/AltDiffusion-m18",
        note="Its words are AltCLIP-m18's, taught by OpenCLIP's ViT-H-14 of laion2b_s32b_b79k.",
    ),
    request=Defaults(size=(512, 512), guidance=7.5, steps=50, sampler="ddim"),
)

altdiffusion_m9_dreambooth = replace(
    altdiffusion_m9,
    name="altdiffusion-m9-dreambooth",
    title="AltDiffusion-m9：DreamBooth",
    stages=(
        Stage(
            name="learn a subject",
            objective=Dreambooth(subject="<鸣人>男孩", class_noun="男孩", count=10, prior=1.0),
            level="image",
            train=("image.denoiser.*",),
            size=(512, 512),
            batch=4,
            lr=5e-6,
            weight_decay=0.01,
            note="FlagAI's example: 10 epochs",
        ),
    ),
)
