"""太乙 CLIP (arXiv:2209.02970): Chinese text encoders for the image encoders of OpenAI's and OpenCLIP's CLIP. They
score pictures and do not draw.

Text and image encoders are published in two repositories; in one folder they are text_encoder and vision_encoder. The
published text encoders are BertForSequenceClassification whose classifier is the projection: pooler, then linear layer.
That for ViT-H is a BertModel: its pooler is as wide as the image embedding.
"""

from dataclasses import replace

from bimo.core.recipe import Published, Recipe, Stage
from bimo.models.clip.vision import ClipVision
from bimo.models.text_encoders.bert import Bert
from bimo.training.objectives.clip_contrastive import ClipContrastive

roberta_base = Bert(length=77, pool="first", project=768)
roberta_base_b32 = Bert(length=77, pool="first", project=512)
roberta_large = Bert(width=1024, layers=24, heads=16, feed=4096, length=77, pool="first", project=768)
roberta_large_h14 = Bert(width=1024, layers=24, heads=16, feed=4096, length=77, pool="first")

vit_l14 = ClipVision()
vit_b32 = ClipVision(patch=32, width=768, layers=12, heads=12, feed=3072, project=512)
vit_h14 = ClipVision(width=1280, layers=32, heads=16, feed=5120, project=1024, activation="gelu")

words_meet_pictures = Stage(
    name="words meet locked pictures",
    objective=ClipContrastive(),
    train=("text.*", "vision.logit_scale"),
    size=(224, 224),
    note="123 M pairs of Wukong and Zero, 24 epochs, 6 days on 32 x A100; the image encoder stays as it was published. "
    "Rate and batch were not published.",
)

taiyi_clip = Recipe(
    name="taiyi-clip",
    title="太乙 CLIP 102M ViT-L",
    paper="arXiv:2209.02970",
    licence="apache-2.0",
    languages=("zh",),
    text_encoders=(roberta_base,),
    vision=vit_l14,
    stages=(words_meet_pictures,),
    weights=Published(
        repo="IDEA-CCNL/Taiyi-CLIP-RoBERTa-102M-ViT-L-Chinese",
        vision="openai/clip-vit-large-patch14",
    ),
)

taiyi_clip_b32 = replace(
    taiyi_clip,
    name="taiyi-clip-b32",
    title="太乙 CLIP 102M ViT-B/32",
    text_encoders=(roberta_base_b32,),
    vision=vit_b32,
    weights=Published(
        repo="IDEA-CCNL/Taiyi-CLIP-Roberta-102M-Chinese",
        vision="openai/clip-vit-base-patch32",
    ),
)

taiyi_clip_large = replace(
    taiyi_clip,
    name="taiyi-clip-large",
    title="太乙 CLIP 326M ViT-L",
    text_encoders=(roberta_large,),
    vision=vit_l14,
    weights=Published(
        repo="IDEA-CCNL/Taiyi-CLIP-Roberta-large-326M-Chinese",
        vision="openai/clip-vit-large-patch14",
    ),
)

taiyi_clip_huge = replace(
    taiyi_clip,
    name="taiyi-clip-huge",
    title="太乙 CLIP 326M ViT-H",
    text_encoders=(roberta_large_h14,),
    vision=vit_h14,
    stages=(replace(words_meet_pictures, note="The same pairs and epochs, 8 days on 32 x A100."),),
    weights=Published(
        repo="IDEA-CCNL/Taiyi-CLIP-RoBERTa-326M-ViT-H-Chinese",
        vision="laion/CLIP-ViT-H-14-laion2B-s32B-b79K",
        note="The image encoder is OpenCLIP's ViT-H-14 of laion2b_s32b_b79k; its layout on the hub is unverified.",
    ),
)
