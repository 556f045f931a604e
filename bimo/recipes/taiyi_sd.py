"""太乙 Stable Diffusion 1B (arXiv:2209.02970): Stable Diffusion 1.4 that reads Chinese, and one that reads both."""

from bimo.core.recipe import Defaults, Guide, Level, Published, Recipe, Stage
from bimo.diffusion.schedule import Ddpm
from bimo.parts.denoisers.unet import Unet
from bimo.parts.spaces import Latent
from bimo.parts.text.bert import Bert
from bimo.parts.text.clip import ClipText
from bimo.train.objectives import Denoise

sd_v1_4 = Level(
    name="image",
    space=Latent(),
    denoiser=Unet(),
    schedule=Ddpm(),
    sampler="pndm",
    steps=50,
    guide=Guide(scale=7.5),
)

taiyi_zh = Recipe(
    name="taiyi-sd-zh",
    title="太乙 Stable Diffusion 1B 中文",
    paper="arXiv:2209.02970",
    licence="creativeml-openrail-m",
    languages=("zh",),
    text=(Bert(),),
    levels=(sd_v1_4,),
    stages=(
        Stage(
            name="align the words",
            objective=Denoise(),
            level="image",
            train=("text.*",),
            size=(512, 512),
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
)

taiyi_en = Recipe(
    name="taiyi-sd-en",
    title="太乙 Stable Diffusion 1B 中英双语",
    paper="arXiv:2209.02970",
    licence="creativeml-openrail-m",
    languages=("zh", "en"),
    text=(ClipText(),),
    levels=(sd_v1_4,),
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
        note="All of it began as Stable Diffusion 1.4, with the tower and the byte-level vocabulary of that.",
    ),
    request=Defaults(size=(512, 512), guidance=10.0, steps=50),
)
