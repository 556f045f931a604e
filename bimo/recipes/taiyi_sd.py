"""太乙 Stable Diffusion 1B (arXiv:2209.02970): Stable Diffusion 1.4 with Chinese, and with bilingual text encoders."""

from dataclasses import replace

from bimo.core.recipe import Defaults, Published, Recipe, Stage
from bimo.models.text_encoders.bert import Bert
from bimo.models.text_encoders.clip import ClipText
from bimo.recipes.stable_diffusion import sd_v1
from bimo.recipes.stages import train_all, train_text
from bimo.training.objectives.denoise import Denoise
from bimo.training.objectives.dreambooth import Dreambooth

taiyi_zh = Recipe(
    name="taiyi-sd-zh",
    title="太乙 Stable Diffusion 1B 中文",
    paper="arXiv:2209.02970",
    licence="creativeml-openrail-m",
    languages=("zh",),
    text_encoders=(Bert(),),
    levels=(sd_v1,),
    stages=(
        replace(
            train_text,
            name="align the words",
            weight_decay=0.1,
            note="20 M pairs of Wukong and Zero whose CLIP score is above 0.2, 1 epoch, about 100 h on 32 x A100; "
            "rate and batch were not published. Their fine-tuning code has 1e-4, decay 0.1, no dropped captions.",
        ),
    ),
    weights=Published(
        repo="IDEA-CCNL/Taiyi-Stable-Diffusion-1B-Chinese-v0.1",
        note="The words began as Taiyi-CLIP-RoBERTa-102M-ViT-L-Chinese; the rest is Stable Diffusion 1.4, as it was.",
    ),
    request=Defaults(size=(512, 512), guidance=7.5, steps=50),
    note="Their handbook: 512 x 512 alone, a word for the medium (插画, 油画, 水彩 ...), no Chinese punctuation, and "
    "against watermarks the negative prompt 广告, ，, ！, 。, ；, 资讯, 新闻, 水印.",
)

taiyi_en = Recipe(
    name="taiyi-sd-en",
    title="太乙 Stable Diffusion 1B 中英双语",
    paper="arXiv:2209.02970",
    licence="creativeml-openrail-m",
    languages=("zh", "en"),
    text_encoders=(ClipText(),),
    levels=(sd_v1,),
    stages=(
        Stage(
            name="align the words",
            objective=Denoise(),
            level="image",
            train=("text.*",),
            size=(512, 512),
            weight_decay=0.1,
            note="80 h on 8 x A100; the pairs of taiyi-sd-zh; rate and batch were not published",
        ),
        Stage(
            name="adapt the whole",
            objective=Denoise(),
            level="image",
            train=("text.*", "image.denoiser.*"),
            size=(512, 512),
            weight_decay=0.1,
            note="100 h on 8 x A100; rate and batch were not published",
        ),
    ),
    weights=Published(
        repo="IDEA-CCNL/Taiyi-Stable-Diffusion-1B-Chinese-EN-v0.1",
        note="All of it began as Stable Diffusion 1.4, with the text encoder and the byte-level vocabulary of that.",
    ),
    request=Defaults(size=(512, 512), guidance=10.0, steps=50),
    note="Its vocabulary is of bytes: a Chinese character takes more than two tokens of the 77, so about 32 are read.",
)

taiyi_anime = replace(
    taiyi_zh,
    name="taiyi-sd-anime",
    title="太乙 Stable Diffusion 1B 动漫中文",
    stages=(
        replace(
            train_all,
            name="adapt to pictures of anime",
            note="From taiyi-sd-zh; what learnt, on which pictures and at which rate was not published.",
        ),
    ),
    weights=Published(
        repo="IDEA-CCNL/Taiyi-Stable-Diffusion-1B-Anime-Chinese-v0.1", note="Its weights are kept as bfloat16."
    ),
    note="",
)

taiyi_zh_finetune = replace(
    taiyi_zh,
    name="taiyi-sd-zh-finetune",
    title="太乙 Stable Diffusion 1B 中文：微调",
    stages=(
        replace(
            train_all,
            name="adapt to other pictures",
            batch=1,
            lr=1e-4,
            weight_decay=0.1,
            lr_schedule="polynomial",
            floor=1e-7,
            betas=(0.9, 0.999),
            note="Their public code: 10 epochs of batch 1 a card, warm-up 1 % of the steps, no dropped captions, no "
            "averaged weights. It padded captions to the longest of a batch; here, as in drawing, to 512: a text "
            "encoder that learns with its padding in sight must see as much of it when it draws. "
            "Either of the two may be frozen.",
        ),
    ),
)

taiyi_zh_dreambooth = replace(
    taiyi_zh,
    name="taiyi-sd-zh-dreambooth",
    title="太乙 Stable Diffusion 1B 中文：DreamBooth",
    stages=(
        Stage(
            name="learn a subject",
            objective=Dreambooth(subject="[小黄鸭]", class_noun="小黄鸭", count=200, prior=1.0),
            level="image",
            train=("text.*", "image.denoiser.*"),
            size=(512, 512),
            steps=1200,
            batch=2,
            lr=1e-6,
            warmup=100,
            note="Their train_with_prior.sh has 200 epochs; steps, rate and warm-up are those of train.sh, which goes "
            "without the kind's pictures (prior 0, subject 小黄鸭, batch 1). Faces want a smaller rate and 800 to 1200 "
            "steps. Their code cuts prompts at 64 tokens and learns nothing where the words are frozen; this does.",
        ),
    ),
)
