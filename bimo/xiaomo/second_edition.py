"""小墨's second edition: scenes, verses, dishes and objects at 256 x 256. Its second level is at an early stage.

Trained by `bimo train xiaomo-2` from the first edition's text encoder and first level (`carry_over`):
docs/en/xiaomo.md.
"""

from dataclasses import replace

from bimo.core.recipe import Defaults, Published, Recipe, Stage
from bimo.training.objectives.adversarial import Adversarial
from bimo.training.objectives.denoise import Denoise
from bimo.training.objectives.reconstruct import Contrast, Reconstruct
from bimo.xiaomo import recipe as first
from bimo.xiaomo.autoencoder import Compact
from bimo.xiaomo.conditioners import Earlier, Pose
from bimo.xiaomo.first_level import Expected, Refine
from bimo.xiaomo.hourglass import Hourglass
from bimo.xiaomo.layout_condition import LayoutBoxes
from bimo.xiaomo.style_operator import DefaultLook, Restyled

#: The elements in most scenes and verses, and the vessels on most tables; all others share one map.
ELEMENTS = (
    *("mountain", "sun", "moon", "stars", "cloud", "mist", "rain", "snow", "water", "river", "stream", "spring"),
    *("waterfall", "waves", "rock", "cliff", "peak", "hill", "southern hills", "bank", "path", "grass", "meadow"),
    *("desert", "boat", "sail", "dragon boat", "bridge", "houses", "cottage", "pavilion", "pagoda", "temple"),
    *("temple hall", "palace", "terrace", "gate", "city gate", "tower", "great wall", "beacon tower", "fence"),
    *("skyscrapers", "lantern", "sky lantern", "river lantern", "firework", "tree", "bare tree", "pine", "willow"),
    *("bamboo", "maple", "ginkgo", "osmanthus", "peach blossom", "plum blossom", "flowers", "lotus", "lotus leaf"),
    *("orchid", "chrysanthemum", "reeds", "vine", "person", "poet", "scholar", "monk", "child", "fisherman", "rider"),
    *("traveller", "farmer", "herd boy", "horse", "ox", "camel", "sheep", "crow", "crane", "geese", "egret"),
    *("swallow", "bird", "carp", "rabbit", "table", "wine", "mooncake", "moon window", "smoke", "seal"),
    *("圆盘", "青花盘", "长盘", "大碗", "青花碗", "深碗", "砂锅", "蒸笼", "铁锅", "steam", "chopsticks", "small dish"),
)
CHANNELS = 16
MAPS = len(ELEMENTS) + 2

words = replace(first.words, vocab=18000, positions=40, length=40)

layout = LayoutBoxes(elements=ELEMENTS)
pose = Pose(scenes_at_rest=True)

expected = replace(
    first.expected,
    denoiser=Restyled(
        content=Expected(
            channels=CHANNELS, text=192, vector=256, maps=64, moved=36, pose="pose", things=2, spatial=MAPS
        )
    ),
    conditioners=(layout, pose),
)

image = replace(
    first.image,
    space=Compact(channels=CHANNELS, deep=256, decoder=320),
    denoiser=Refine(
        denoiser=Hourglass(
            channels=CHANNELS,
            spatial=CHANNELS + MAPS,
            width=128,
            inner=256,
            deep=3,
            heads=4,
            text=192,
            vector=256,
            scalars=(("pose", 5),),
        )
    ),
    conditioners=(Earlier(level="expected"), layout, pose),
)

autoencoder = replace(
    first.autoencoder,
    objective=Reconstruct(level="image", crop=128, scales=(2, 4), chroma=1.0),
    steps=14000,
    batch=16,
    precision="bf16",
)

#: The encoder is frozen, so that latents stay the same.
sharpen = replace(
    autoencoder,
    name="sharpen the decoder",
    objective=Adversarial(level="image", crop=128, scales=(2, 4), chroma=1.0),
    train=("image.space.decoder.*", "adversarial.*"),
    steps=5000,
    lr=5e-4,
    warmup=50,
    lr_overrides=(("adversarial.*", 2e-4),),
    betas=(0.5, 0.9),
)

contrast = replace(
    first.contrast,
    objective=Contrast(
        level="image",
        flat=False,
        heads=(
            *("kind", "style", "effect", "colour", "background", "scene", "count", "kind2", "place", "size"),
            *("subject", "season", "light", "weather", "vessel"),
        ),
        sets=("named", "elements"),
        weight=4.0,
    ),
    steps=600,
    lr=4e-4,
)

expect = Stage(
    name="expected picture",
    level="expected",
    objective=DefaultLook(rest=0.84, weight=0.1, looks=("3d", "illustration")),
    train=("text.*", "expected.*", "things.*"),
    steps=2800,
    batch=64,
    lr=8e-4,
    warmup=100,
    lr_schedule="cosine",
    precision="bf16",
    ema=0.999,
)

align = replace(
    expect,
    name="align the painter",
    level="image",
    objective=Denoise(),
    train=("image.denoiser.*",),
    steps=6305,
    batch=32,
    lr=8e-4,
    caption_dropout=0.1,
    ema=0.999,
)

align_further = replace(align, name="align the painter, in larger batches", steps=1447, batch=64, lr=1e-3, ema=0.9995)

align_faster = replace(
    align,
    name="align the painter, by Muon",
    steps=2550,
    batch=96,
    lr=1e-3,
    warmup=30,
    ema=0.998,
    optimiser="muon",
    optimiser_args={"convolutions": True},
)

xiaomo_2 = Recipe(
    name="xiaomo-2",
    title="小墨，第二版",
    licence="CC-BY-4.0",
    source="own",
    text_encoders=(words,),
    levels=(expected, image),
    stages=(
        autoencoder,
        sharpen,
        contrast,
        expect,
        align,
        align_further,
        align_faster,
    ),
    weights=Published(bundle="xiaomo-2"),
    request=Defaults(size=(256, 256), draft=0.25),
    prompts=(
        "小桥流水人家，水彩",
        "小桥流水人家，梵高星空风格",
        "举头望明月，低头思故乡",
        "孤舟蓑笠翁，独钓寒江雪",
        "枯藤老树昏鸦",
        "荷塘月色，工笔",
        "长城，油画",
        "竹林，水墨画",
        "梅花，剪纸",
        "故宫雪景，国画",
        "黄山云海，青绿山水",
        "西湖，青花",
        "宫保鸡丁",
        "鱼香肉丝",
        "红烧狮子头",
        "牛肉面",
        "小笼包",
        "红苹果",
        "一只猫",
        "大熊猫",
        "狐狸，扁平风格",
        "玫瑰，剪纸",
        "蓝色的苹果",
        "三个草莓",
        "猫和狗",
        "戴皇冠的青蛙",
        "吃过桥米线的猫",
        "穿着宇航服的哈士奇",
        "守株待兔",
        "a stone bridge over a stream, watercolor",
        "a robot, pixel art",
        "Mapo tofu",
    ),
    note="an early painter: things, dishes and the mood of a scene; bridges, houses and people are not readable yet",
)
