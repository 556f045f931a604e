"""PAI-Diffusion (arXiv:2309.05534): Stable Diffusion 1 with a CLIP text encoder over BERT's Chinese vocabulary.

There is a recipe for each domain and size; those of a size only differ in their weights.
"""

from dataclasses import replace

from bimo.core.recipe import Defaults, Published, Recipe, Stage
from bimo.models.text_encoders.clip import ClipText
from bimo.recipes.stable_diffusion import sd_v1, sd_v1_768
from bimo.recipes.stages import train_denoiser
from bimo.training.adapters.lora_stage import Lora
from bimo.training.objectives.denoise import Denoise

terms = (
    "使用前须接受阿里云《AIGC 模型开源特别条款》：https://terms.alicdn.com/legal-agreement/terms/common_platform_service/"
    "20230505180457947/20230505180457947.html",
    "Before use accept Alibaba Cloud's special terms for open AIGC models: https://terms.alicdn.com/legal-agreement/terms/"
    "common_platform_service/20230505180457947/20230505180457947.html",
)

finetune = replace(
    train_denoiser,
    name="adapt to other pictures",
    steps=15_000,
    accumulate=4,
    lr=1e-5,
    weight_decay=0.01,
    ema=0.9999,
    note="Their public code: constant rate, float16; autoencoder and words stay. The batch of "
    "a card is the user's. How the published weights were trained was not told: pairs of Wukong and others.",
)

pai_artist_large = Recipe(
    name="pai-diffusion-artist-large",
    title="PAI-Diffusion 艺术 512",
    paper="arXiv:2309.05534",
    licence="Alibaba Cloud's special terms for open AIGC models",
    languages=("zh",),
    text_encoders=(ClipText(vocab=21128, positions=32, length=32, words="pieces", long="pieces"),),
    levels=(sd_v1,),
    stages=(finetune,),
    weights=Published(
        repo="alibaba-pai/pai-diffusion-artist-large-zh",
        terms=terms,
        note="With it were published ControlNets for edges and depth (...-controlnet-canny, ...-controlnet-depth) and "
        "low-rank adapters for classical poems and 2.5D pictures, of rank 4.",
    ),
    request=Defaults(size=(512, 512), guidance=7.5, steps=50),
    note="Their own interface draws with dpm++, 20 steps and guidance 5; an adapter weighs 0.4 there.",
)

pai_artist_xlarge = replace(
    pai_artist_large,
    name="pai-diffusion-artist-xlarge",
    title="PAI-Diffusion 艺术 768",
    levels=(sd_v1_768,),
    stages=(replace(finetune, size=(768, 768)),),
    weights=Published(repo="alibaba-pai/pai-diffusion-artist-xlarge-zh", terms=terms),
    request=Defaults(size=(768, 768), guidance=7.5, steps=50),
)

pai_food_large = replace(
    pai_artist_large,
    name="pai-diffusion-food-large",
    title="PAI-Diffusion 美食 512",
    weights=Published(repo="alibaba-pai/pai-diffusion-food-large-zh", terms=terms),
)

pai_general_large = replace(
    pai_artist_large,
    name="pai-diffusion-general-large",
    title="PAI-Diffusion 通用 512",
    weights=Published(
        repo="alibaba-pai/pai-diffusion-general-large-zh",
        terms=terms,
        note="EasyNLP names its first latent diffusion so as well, which has another layout.",
    ),
)

pai_general_xlarge = replace(
    pai_artist_xlarge,
    name="pai-diffusion-general-xlarge",
    title="PAI-Diffusion 通用 768",
    weights=Published(
        repo="alibaba-pai/pai-diffusion-general-xlarge-zh", terms=terms, note="Also as one file, model.ckpt."
    ),
)

pai_artist_large_lora = replace(
    pai_artist_large,
    name="pai-diffusion-artist-large-lora",
    title="PAI-Diffusion 艺术 512：LoRA",
    stages=(
        Stage(
            name="learn a style beside the painter",
            objective=Denoise(),
            level="image",
            train=(),
            adapter=Lora(targets=("image.denoiser.model.*attn?.to_[qkv]", "image.denoiser.model.*attn?.to_out.0")),
            size=(512, 512),
            steps=15_000,
            lr=1e-4,
            lr_schedule="cosine",
            note="Their lora.py, rank 4; so were the published ones for poems and 2.5D pictures made. The batch of a "
            "card is the user's.",
        ),
    ),
)
