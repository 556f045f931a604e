"""小墨 (xiaomo): the small bundled model, trained by this project on openly licensed emoji artwork, on two CPU cores.

Its stages are those of Taiyi-SD (arXiv:2209.02970): contrast of text and pictures, then alignment of text encoder and
denoiser, then joint training.
"""

from dataclasses import replace

from bimo.core.recipe import Defaults, Guidance, Level, Published, Recipe, Stage
from bimo.diffusion.schedules.flow import Flow
from bimo.diffusion.schedules.single_step import SingleStepRegression
from bimo.models.pixart.denoiser import PixArt
from bimo.models.text_encoders.bert import Bert
from bimo.training.objectives.denoise import Denoise
from bimo.training.objectives.reconstruct import Contrast, Reconstruct
from bimo.xiaomo.autoencoder import Compact
from bimo.xiaomo.conditioners import Earlier, Pose
from bimo.xiaomo.first_level import Expected, Refine
from bimo.xiaomo.layered_objects import LayeredObjects

#: All parameters of the first level but those of the layers' masks.
LAYER_PARAMETERS = (
    "expected.denoiser.query",
    "expected.denoiser.keys.*",
    "expected.denoiser.enter.*",
    "expected.denoiser.blocks.*",
    "expected.denoiser.leave.*",
    "expected.denoiser.up.*",
    "expected.denoiser.mix.*",
    "expected.denoiser.layers.norm.*",
    "expected.denoiser.layers.pick.*",
    "expected.denoiser.layers.place.*",
    "expected.denoiser.layers.kind",
    "things.*",
)

words = Bert(
    width=192,
    layers=3,
    heads=6,
    feed=768,
    vocab=12000,
    positions=32,
    types=1,
    length=32,
    masked=True,
    pooler=False,
    pool="mean",
    project=256,
    words="lexicon",
    dropout=0.0,
)

expected = Level(
    name="expected",
    space="image",
    denoiser=Expected(text=192, vector=256, maps=48, moved=36, pose="pose", things=2),
    schedule=SingleStepRegression(),
    conditioners=(Pose(),),
    steps=1,
    guidance=Guidance(scale=1.0),
)

image = Level(
    name="image",
    space=Compact(),
    denoiser=Refine(
        denoiser=PixArt(
            channels=8, spatial=8, size=16, width=320, heads=5, layers=8, text=192, vector=256, scalars=(("pose", 5),)
        )
    ),
    schedule=Flow(),
    conditioners=(Earlier(level="expected"), Pose()),
    sampler="euler",
    steps=12,
    guidance=Guidance(scale=2.0),
)

autoencoder = Stage(
    name="autoencoder",
    objective=Reconstruct(level="image"),
    train=("image.space.*",),
    steps=1800,
    batch=32,
    lr=2e-3,
    warmup=100,
    lr_schedule="cosine",
    ema=0.998,
)

contrast = Stage(
    name="contrast",
    objective=Contrast(
        level="image",
        heads=("kind", "style", "effect", "colour", "background", "scene", "count", "kind2", "place", "size"),
    ),
    train=("text.*", "contrast.*"),
    steps=600,
    batch=256,
    lr=1e-3,
    warmup=100,
    lr_schedule="cosine",
)

expect = Stage(
    name="expected picture",
    level="expected",
    objective=Denoise(),
    train=("text.*", "expected.*"),
    steps=2500,
    batch=128,
    lr=1e-3,
    warmup=100,
    lr_schedule="cosine",
    ema=0.999,
)

align = Stage(
    name="align the painter",
    level="image",
    objective=Denoise(),
    train=("image.denoiser.*",),
    steps=937,
    batch=32,
    lr=8e-4,
    warmup=50,
    caption_dropout=0.1,
    ema=0.995,
)

align_faster = replace(align, batch=64, lr=6e-4, warmup=20, optimiser="muon", precision="bf16", ema=0.998)

xiaomo = Recipe(
    name="xiaomo",
    title="小墨",
    licence="CC-BY-4.0",
    source="own",
    text_encoders=(words,),
    levels=(expected, image),
    stages=(
        autoencoder,
        contrast,
        expect,
        replace(
            expect,
            name="expected picture, smaller batches",
            steps=4928,
            batch=64,
            warmup=50,
            note="the bundled weights took it in two pieces: 1,328 steps, then 3,600 from a fresh optimiser",
        ),
        align,
        Stage(
            name="adapt the whole",
            level="image",
            objective=Denoise(also=("expected",)),
            train=("text.*", "expected.*", "image.denoiser.*"),
            steps=120,
            batch=32,
            lr=4e-4,
            warmup=10,
            lr_schedule="linear",
            caption_dropout=0.1,
            ema=0.98,
        ),
        replace(
            autoencoder,
            name="sharpen the decoder",
            train=("image.space.decoder.*",),
            steps=700,
            lr=1e-3,
            warmup=50,
            ema=0.995,
        ),
        replace(expect, name="expected picture, longer", steps=12000, batch=64),
        replace(align, name="align the painter, longer", steps=1306, lr=6e-4, ema=0.998),
        replace(expect, name="expected picture, at length", steps=10000, batch=64),
        replace(align, name="align the painter, at length", steps=1100, lr=6e-4, warmup=30, lr_schedule="cosine"),
        replace(
            align_faster,
            name="align the painter, by Muon",
            steps=709,
            warmup=30,
            note="the bundled weights learnt up to here from the first 60,000 canvases",
        ),
        replace(
            expect,
            name="expected picture, more pairs",
            steps=6000,
            warmup=50,
            precision="bf16",
            note="the bundled weights read the pooled text before, folded here into the mean of the words with no "
            "change of any answer; their layers were begun anew after the next two stages",
        ),
        replace(align_faster, name="align the painter with it", steps=400, warmup=10, lr_schedule="cosine", ema=0.995),
        replace(align_faster, name="align the painter, in earnest", steps=2000),
        replace(
            expect,
            name="expected picture, things apart",
            objective=LayeredObjects(rest=0.84, weight=0.3),
            train=LAYER_PARAMETERS,
            steps=1500,
            warmup=50,
            lr_schedule="constant",
            precision="bf16",
            ema=0.99,
            note="what there is of a layer stays in sight, so that it is drawn rather than hidden",
        ),
        replace(
            expect,
            name="expected picture, things seen",
            objective=LayeredObjects(rest=0.84, weight=0.1),
            train=("expected.*", "things.*"),
            steps=3000,
            warmup=50,
            precision="bf16",
        ),
        replace(align_faster, name="align the painter, to the end", steps=1500, lr_schedule="cosine"),
    ),
    weights=Published(bundle="xiaomo"),
    request=Defaults(size=(128, 128)),
    prompts=(
        "红苹果",
        "一只猫",
        "大熊猫",
        "生日蛋糕，3D风格",
        "彩虹",
        "小汽车",
        "机器人",
        "城堡",
        "向日葵，线条风格",
        "狐狸，扁平风格",
        "猫头鹰，剪影",
        "火箭，水墨画",
        "小桥流水人家，水彩",
        "金鱼，水墨",
        "玫瑰，剪纸",
        "a robot, pixel art",
        "蓝色的苹果",
        "紫色的大象",
        "a green car",
        "红色背景的香蕉",
        "草地上的奶牛",
        "雪地里的企鹅",
        "夜空下的城堡",
        "三个草莓",
        "猫和狗",
        "太阳和月亮",
        "戴皇冠的青蛙",
        "a cat with sunglasses",
        "a slice of pizza",
        "吃西瓜的狗",
        "吃过桥米线的猫",
        "穿着宇航服的哈士奇",
    ),
)
