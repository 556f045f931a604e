"""丹青 (NetEase Fuxi, closed): a reconstruction.

Published facts: 0.8 B pairs filtered by relevance, sharpness and aesthetics; training with aspect buckets; people
select well-matched, beautiful pictures for training, and score generated ones, of which good ones become training data;
a higher guidance scale. Numbers are this project's, with the UNet of Stable Diffusion 1.
"""

from dataclasses import replace

from bimo.core.recipe import Defaults, Guidance, Recipe, Stage
from bimo.models.text_encoders.bert import Bert
from bimo.recipes.stable_diffusion import sd_v1
from bimo.training.objectives.denoise import Denoise
from bimo.training.objectives.preferences import RewardWeighted

image = replace(sd_v1, sampler="dpm++", steps=30, guidance=Guidance(scale=10.0))

shapes = ((512, 512), (448, 576), (576, 448), (384, 640), (640, 384))

danqing = Recipe(
    name="danqing",
    title="丹青",
    languages=("zh",),
    source="reconstruction",
    text_encoders=(Bert(masked=True, length=128),),
    levels=(image,),
    stages=(
        Stage(
            name="paint at every shape",
            objective=Denoise(),
            level="image",
            train=("text.*", "image.denoiser.*"),
            buckets=shapes,
            caption_dropout=0.1,
            note="0.8 B pairs behind filters of relevance, sharpness and beauty; their limits were not told.",
        ),
        Stage(
            name="learn from what people chose",
            objective=RewardWeighted(),
            level="image",
            train=("image.denoiser.*",),
            buckets=shapes,
            lr=1e-5,
            caption_dropout=0.1,
            note="Pairs that people found well matched and beautiful, and drawings of its own that they scored high: "
            "each weighs by its score. How they were weighed was not told; this is an analogy, unverified.",
        ),
    ),
    request=Defaults(size=(512, 512), guidance=10.0),
    note="Closed: no weights were published.",
)
