"""What a system is asked: questions in Chinese and in English, each with what a right picture must show.

The everyday words of ``everyday_words.tsv`` were written by hand from the nouns that photo captions use (the categories
of COCO, arXiv:1405.0312, and what people draw most), not taken from the training words; each names every kind that a
person would accept.
"""

from __future__ import annotations

import csv
import io
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib import resources

from bimo.core.errors import DataError
from bimo.core.messages import Listed
from bimo.evaluation import figures
from bimo.xiaomo.artwork.canvas import Cast
from bimo.xiaomo.artwork.english import plural, with_article
from bimo.xiaomo.artwork.held_out import COLOURS as HELD_OUT_COLOURS
from bimo.xiaomo.artwork.held_out import PAIRS as HELD_OUT_PAIRS
from bimo.xiaomo.artwork.held_out import SCENES as HELD_OUT_SCENES
from bimo.xiaomo.artwork.held_out import held_out_composition, hexcode
from bimo.xiaomo.artwork.lexicon import COLOURS, COUNTS, DEFAULT_STYLE, PLACES, RELATIONS, SCENES, STYLES
from bimo.xiaomo.artwork.sprites import Kind
from bimo.xiaomo.artwork.words_table import name_of
from bimo.xiaomo.evaluation.truth import Artwork

#: How many of each are asked, in each language.
ASKED = {"seen": 250, "unseen": 200, "colour": 50, "count": 24, "pair": 24, "place": 16, "seeds": 48}
LANGUAGES = ("zh", "en")
SECOND_SEED = 1000
COLUMNS = ["emoji", "zh", "en"]

#: Words of things that no emoji shows and no caption names.
UNKNOWN_ZH = (
    "兵马俑", "洗衣机", "空调", "冰箱", "吸尘器", "电风扇", "榴莲", "山竹", "荔枝", "枇杷", "油条", "豆浆",
    "螺蛳粉", "臭豆腐", "太师椅", "屏风", "二胡", "琵琶", "古筝", "唢呐", "穿山甲", "藏羚羊", "朱鹮", "白鳍豚",
    "螳螂", "蜻蜓", "萤火虫", "挖掘机", "起重机", "收割机", "潜水艇", "航空母舰", "订书机", "计算尺", "缝纫机",
    "晾衣架", "马褂", "旗袍", "窑洞", "冬不拉",
)  # fmt: skip
UNKNOWN_EN = (
    "microwave", "toaster", "refrigerator", "dishwasher", "stapler", "oboe", "bagpipes", "aardvark", "platypus",
    "armadillo", "wombat", "dragonfly", "mantis", "firefly", "pelican", "toucan", "vulture", "hyena", "walrus",
    "porcupine", "excavator", "bulldozer", "forklift", "submarine", "hovercraft", "durian", "lychee", "rhubarb",
    "artichoke", "parsnip", "pomegranate", "wheelbarrow", "lawnmower", "chandelier", "typewriter", "gramophone",
    "sundial", "weathervane", "pagoda", "bassoon",
)  # fmt: skip

#: Drawn on one sheet as they come, nothing left out.
SHEET = (
    "红苹果，3D风格", "一只猫", "大熊猫", "生日蛋糕", "彩虹", "汽车", "机器人", "城堡", "玫瑰", "飞机", "长颈鹿",
    "公交车", "自行车", "雨伞", "西瓜", "a sunflower", "a penguin", "a guitar", "a slice of pizza", "a snowman",
    "向日葵，线条风格", "狐狸，扁平风格", "猫头鹰，剪影", "火箭，水墨画", "金鱼，水墨", "玫瑰，剪纸",
    "小桥流水人家，水彩", "山，国画", "荷花，青花瓷", "a robot, pixel art", "a lion, pencil sketch",
    "a rose, oil painting", "a cat, neon", "a house, watercolor painting", "a car, retro style", "蓝色的苹果",
    "紫色的大象", "绿色的猫", "a green car", "a pink elephant", "红色背景的香蕉", "草地上的奶牛", "雪地里的企鹅",
    "夜空下的城堡", "a camel in the desert", "三个草莓", "两只猫", "four stars", "猫和狗", "太阳和月亮",
    "猫在狗左边", "an apple above a banana", "戴皇冠的青蛙", "a cat with sunglasses", "吃西瓜的狗", "左上角的星星",
    "一只很小的老鼠", "吃过桥米线的猫", "穿着宇航服的哈士奇", "an astronaut riding a horse",
)  # fmt: skip
SEED_SHEET = (
    "一只猫", "红苹果，3D风格", "汽车", "a dragon", "火箭，水墨画", "a house, watercolor painting", "三个草莓",
    "猫和狗",
)  # fmt: skip


@dataclass(frozen=True)
class Question(figures.Question):
    """One prompt and what is right. ``kinds`` are the hexcodes accepted, the first the one meant; what a question says
    nothing about is None.
    """

    kinds: tuple[str, ...] = ()
    style: str | None = None
    colour: str | None = None
    count: int | None = None
    kind2: str | None = None
    relation: str | None = None
    place: str | None = None


def everyday() -> list[tuple[tuple[str, ...], str, str]]:
    """(hexcodes accepted, Chinese word, English word) of every row of the table. Raises DataError on a bad row."""
    text = resources.files("bimo.xiaomo.evaluation").joinpath("everyday_words.tsv").read_text("utf-8")
    rows = list(csv.reader(io.StringIO(text), delimiter="\t"))
    words: list[tuple[tuple[str, ...], str, str]] = []
    for number, row in enumerate(rows[1:], 2):
        if rows[0] != COLUMNS or len(row) != len(COLUMNS) or not all(row):
            raise DataError(
                "line {number} of the everyday words is {row}; expected three columns: {columns}. Mend it",
                number=number,
                row=row,
                columns=Listed(COLUMNS),
            )
        words.append((tuple(hexcode(emoji) for emoji in row[0].split()), row[1], row[2]))
    return words


def questions(
    artwork: Artwork,
    seen: frozenset[tuple[str, str]],
    withheld: Sequence[tuple[str, str]],
    single: frozenset[str],
    limit: int | None,
    seed: int,
) -> list[Question]:
    """Everything that is asked of a system, at most ``limit`` of each group and language.

    ``seen`` are the pairs of the training canvases, ``withheld`` those held out; ``single`` are the kinds whose own
    picture is one piece, which alone can be counted.
    """
    rng = random.Random(seed)
    sizes = {name: size if limit is None else min(size, limit) for name, size in ASKED.items()}
    kinds = {kind.hexcode: kind for kind in artwork.kinds}
    cast = Cast(artwork.kinds)
    asked = _pairs("seen", kinds, sorted(seen), sizes["seen"], rng)
    asked += _bare(kinds, limit, rng)
    asked += _pairs("unseen", kinds, withheld, sizes["unseen"], rng)
    asked += _coloured(cast, sizes["colour"], rng)
    asked += _counted([kind for kind in cast.counted if kind.hexcode in single], sizes["count"], rng)
    asked += _paired([kind for kind in cast.players if kind.hexcode in single], sizes["pair"], rng)
    asked += _placed(cast.players, sizes["place"], rng)
    asked += compositions(kinds, limit)
    return [replace(question, seed=seed) for question in asked]


def word_of(kind: Kind, chinese: bool) -> str:
    """The most usual word of a kind."""
    return (kind.zh_words if chinese else kind.en_words)[0]


def _both(group: str, key: str, zh: str, en: str, **right: object) -> list[Question]:
    """The same question in both languages."""
    settings: dict[str, object] = {"group": group, "key": key, **right}
    return [Question(**settings, language=lang, text=text) for lang, text in zip(LANGUAGES, (zh, en), strict=True)]  # type: ignore[arg-type]


def _pairs(
    group: str, kinds: dict[str, Kind], pairs: Sequence[tuple[str, str]], size: int, rng: random.Random
) -> list[Question]:
    """Name and style word, "苹果，水彩" and "apple, watercolour": styles as even as the pairs allow."""
    left: dict[str, list[str]] = {}
    for kind, style in pairs:
        if kind in kinds:
            left.setdefault(style, []).append(kind)
    for codes in left.values():
        rng.shuffle(codes)
    picked: list[tuple[str, str]] = []
    while len(picked) < size and any(left.values()):
        for style in [s for s in STYLES if left.get(s)]:
            picked.append((left[style].pop(), style))
    asked: list[Question] = []
    for code, style in picked[:size]:
        zh = f"{name_of(kinds[code], True)}，{STYLES[style].zh[0]}"
        en = f"{name_of(kinds[code], False)}, {STYLES[style].en[0]}"
        asked += _both(group, f"{code}:{style}", zh, en, kinds=(code,), style=style)
    return asked


def _bare(kinds: dict[str, Kind], limit: int | None, rng: random.Random) -> list[Question]:
    """Everyday words alone; the style is the default one, as none is asked for."""
    rows = [row for row in everyday() if row[0][0] in kinds]
    rows = rows if limit is None else rng.sample(rows, min(len(rows), limit))
    asked: list[Question] = []
    for codes, zh, en in rows:
        there = tuple(code for code in codes if code in kinds)
        asked += _both("bare", codes[0] + zh, zh, en, kinds=there, style=DEFAULT_STYLE)
    return asked


def _coloured(cast: Cast, size: int, rng: random.Random) -> list[Question]:
    """ "蓝色的苹果", "a blue apple": common things, each colour in turn; held-out compositions are asked elsewhere."""
    things = [kind for kind in cast.things if kind.aliases_zh and DEFAULT_STYLE in cast.drawn(kind)]
    rng.shuffle(things)
    colours = list(COLOURS)
    asked: list[Question] = []
    for number, kind in enumerate(things[:size]):
        colour = colours[number % len(colours)]
        if not held_out_composition(kind.hexcode, colour):
            asked += _colour_question("colour", kind, colour)
    return asked


def _colour_question(group: str, kind: Kind, colour: str) -> list[Question]:
    zh = f"{COLOURS[colour].zh[0]}的{word_of(kind, True)}"
    en = with_article(f"{COLOURS[colour].en[0]} {word_of(kind, False)}")
    return _both(group, f"{kind.hexcode}:{colour}", zh, en, kinds=(kind.hexcode,), colour=colour)


def _counted(things: Sequence[Kind], size: int, rng: random.Random) -> list[Question]:
    """ "三个草莓", "three strawberries"."""
    asked: list[Question] = []
    for number, kind in enumerate(rng.sample(list(things), min(len(things), size))):
        count = (2, 3, 4)[number % 3]
        zh = f"{COUNTS[count].zh[0]}{kind.classifier}{word_of(kind, True)}"
        en = f"{COUNTS[count].en[0]} {plural(word_of(kind, False))}"
        asked += _both("count", f"{kind.hexcode}:{count}", zh, en, kinds=(kind.hexcode,), count=count)
    return asked


def _pair_texts(first: Kind, second: Kind, relation: str) -> tuple[str, str]:
    words = RELATIONS[relation]
    one, two = word_of(first, True), word_of(second, True)
    zh = one + (words.zh[0].format(b=two) if "{b}" in words.zh[0] else f"{words.zh[0]}{two}")
    en = f"{with_article(word_of(first, False))} {words.en[0]} {with_article(word_of(second, False))}"
    return zh, en


def _paired(things: Sequence[Kind], size: int, rng: random.Random) -> list[Question]:
    """ "猫在狗左边", "a cat to the left of a dog"."""
    asked: list[Question] = []
    for number in range(size if len(things) > 1 else 0):
        first, second = rng.sample(list(things), 2)
        relation = list(RELATIONS)[number % len(RELATIONS)]
        if not held_out_composition(first.hexcode, second.hexcode):
            key = f"{first.hexcode}:{second.hexcode}:{relation}"
            right = {"kinds": (first.hexcode,), "kind2": second.hexcode, "relation": relation}
            asked += _both("pair", key, *_pair_texts(first, second, relation), **right)
    return asked


def _placed(things: Sequence[Kind], size: int, rng: random.Random) -> list[Question]:
    """ "左上角的星星", "a star in the top left corner"."""
    asked: list[Question] = []
    for number, kind in enumerate(rng.sample(list(things), min(len(things), size))):
        place = list(PLACES)[number % len(PLACES)]
        zh = f"{PLACES[place].zh[0]}的{word_of(kind, True)}"
        en = f"{with_article(word_of(kind, False))} {PLACES[place].en[0]}"
        asked += _both("place", f"{kind.hexcode}:{place}", zh, en, kinds=(kind.hexcode,), place=place)
    return asked


def compositions(kinds: dict[str, Kind], limit: int | None) -> list[Question]:
    """What was never composed in training: colours in both languages, pairs and scenes in Chinese."""
    things = [(kinds[hexcode(thing)], colour) for thing, colour in HELD_OUT_COLOURS if hexcode(thing) in kinds]
    coloured = [_colour_question("unseen colour", kind, colour) for kind, colour in things]
    asked = [question for both in coloured[:limit] for question in both]
    others: list[Question] = []
    for first, second in HELD_OUT_PAIRS:
        if hexcode(first) in kinds and hexcode(second) in kinds:
            one, two = kinds[hexcode(first)], kinds[hexcode(second)]
            text = _worn_or_eaten(one, two)
            others.append(Question("composition", f"{first}{second}", "zh", text, (one.hexcode,), kind2=two.hexcode))
    for thing, scene in HELD_OUT_SCENES:
        if hexcode(thing) in kinds:
            kind = kinds[hexcode(thing)]
            text = f"{SCENES[scene].zh[0]}的{word_of(kind, True)}"
            others.append(Question("composition", f"{thing}{scene}", "zh", text, (kind.hexcode,)))
    return asked + others[:limit]


def _worn_or_eaten(one: Kind, two: Kind) -> str:
    first, second = word_of(one, True).removesuffix("脸").removesuffix("头"), word_of(two, True)
    if two.emoji.replace("\ufe0f", "") in "🕶👑🎩":
        return f"戴{second}的{first}"
    if two.group == "food-drink" and one.group == "animals-nature":
        return f"吃{second}的{first}"
    return f"{first}和{second}"


def free(texts: Sequence[str], group: str, seed: int) -> list[Question]:
    """Prompts that are only looked at."""
    languages = ("zh" if any("\u4e00" <= c <= "\u9fff" for c in text) else "en" for text in texts)
    return [Question(group, text, language, text, seed=seed) for text, language in zip(texts, languages, strict=True)]
