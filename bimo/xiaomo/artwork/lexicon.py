"""Word tables for everything except the kinds: styles, colours, scenes, places, counts, relations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

RGB = tuple[int, int, int]


@dataclass(frozen=True)
class Words:
    """The Chinese and English words for one concept, the most common first."""

    zh: tuple[str, ...]
    en: tuple[str, ...]


@dataclass(frozen=True)
class Colour:
    """A declared colour: words, the RGB of the object, the RGB of a background, and the hue in degrees (None: grey)."""

    zh: tuple[str, ...]
    en: tuple[str, ...]
    rgb: RGB
    background: RGB
    hue: float | None


DRAWN: tuple[str, ...] = ("3d", "cartoon", "twemoji", "flat", "silhouette", "line", "retro")
COLOURED: tuple[str, ...] = ("3d", "cartoon", "twemoji", "flat")
#: Additional drawn styles of the second edition; each is in colour.
LATER: tuple[str, ...] = ("vector", "minimal", "outlined")
DEFAULT_STYLE = "3d"

STYLES: Mapping[str, Words] = {
    "3d": Words(
        ("3D风格", "3D", "立体", "3D渲染", "三维", "立体风格"), ("3d style", "3d render", "3d", "3d rendering")
    ),
    "cartoon": Words(("卡通", "卡通风格", "卡通画", "动画风格"), ("cartoon", "cartoon style", "animated style")),
    "twemoji": Words(("贴纸", "表情包", "贴纸风格", "贴图"), ("sticker", "sticker style", "emoji sticker")),
    "flat": Words(
        ("扁平", "扁平风", "扁平风格", "扁平插画"), ("flat", "flat style", "flat design", "flat illustration")
    ),
    "silhouette": Words(
        ("剪影", "黑白剪影", "剪影风格", "轮廓剪影"), ("silhouette", "black silhouette", "silhouette style")
    ),
    "line": Words(
        ("线条", "线稿", "简笔画", "线条风格", "线描"), ("line art", "line drawing", "outline drawing", "line style")
    ),
    "retro": Words(("复古", "复古风", "复古风格", "怀旧风格"), ("retro", "retro style", "vintage style")),
    "vector": Words(
        ("矢量插画", "矢量", "矢量风格", "矢量图"), ("vector illustration", "vector", "vector art", "vector style")
    ),
    "minimal": Words(
        ("极简风格", "极简", "简约", "简约风格"), ("minimalist", "minimal", "minimalist style", "minimal style")
    ),
    "outlined": Words(
        ("描边风格", "描边", "手账", "手账风格"), ("outlined cartoon", "outlined", "bold outline", "outlined style")
    ),
    "watercolour": Words(
        ("水彩", "水彩画", "水彩风格"), ("watercolour", "watercolor", "watercolor painting", "watercolor style")
    ),
    "ink": Words(
        ("水墨", "水墨画", "水墨风格", "国画", "中国画"), ("ink wash", "chinese ink painting", "ink painting")
    ),
    "sketch": Words(("素描", "铅笔画", "素描风格", "铅笔素描"), ("pencil sketch", "sketch", "pencil drawing")),
    "oil": Words(("油画", "油画风格"), ("oil painting", "oil painting style", "oil paint")),
    "pixel": Words(("像素", "像素画", "像素风", "像素风格"), ("pixel art", "pixel style", "8-bit")),
    "papercut": Words(("剪纸", "红色剪纸", "剪纸风格", "窗花"), ("paper cut", "paper-cut", "chinese paper cutting")),
    "neon": Words(("霓虹", "霓虹灯", "霓虹风格", "霓虹灯风格"), ("neon", "neon style", "neon lights", "neon sign")),
    "porcelain": Words(
        ("青花", "青花瓷", "青花瓷风格", "青花风格"), ("blue and white porcelain", "porcelain style", "blue porcelain")
    ),
}
EFFECTS: tuple[str, ...] = ("watercolour", "ink", "sketch", "oil", "pixel", "papercut", "neon", "porcelain")
#: Manners that the data lacks and drafts have (``manners``).
MORE_EFFECTS: Mapping[str, Words] = {
    "woodblock": Words(
        ("浮世绘", "浮世绘风格", "浮世绘风", "日本浮世绘", "木版画", "版画", "北斋风格", "葛饰北斋"),
        ("ukiyo-e", "ukiyo-e style", "japanese woodblock print", "woodblock print", "hokusai", "hokusai style"),
    ),
    "crayon": Words(
        ("蜡笔", "蜡笔画", "蜡笔风格", "蜡笔风", "油画棒", "儿童蜡笔画"),
        ("crayon", "crayon drawing", "wax crayon", "oil pastel"),
    ),
    "cyberpunk": Words(
        ("赛博朋克", "赛博朋克风", "赛博朋克风格", "赛博庞克", "赛博风", "机械朋克"),
        ("cyberpunk", "cyberpunk style", "synthwave"),
    ),
}

COLOURS: Mapping[str, Colour] = {
    "red": Colour(("红色", "红", "大红"), ("red",), (214, 36, 40), (236, 92, 88), 0),
    "orange": Colour(("橙色", "橙", "橘色"), ("orange",), (245, 132, 22), (250, 168, 92), 28),
    "yellow": Colour(("黄色", "黄", "金黄色"), ("yellow",), (246, 204, 30), (252, 226, 110), 48),
    "green": Colour(("绿色", "绿", "翠绿色"), ("green",), (48, 164, 68), (132, 206, 134), 130),
    "blue": Colour(("蓝色", "蓝", "天蓝色"), ("blue",), (36, 104, 222), (122, 178, 240), 218),
    "purple": Colour(("紫色", "紫", "紫罗兰色"), ("purple", "violet"), (132, 60, 190), (182, 142, 222), 274),
    "pink": Colour(("粉色", "粉红色", "粉", "粉红"), ("pink",), (248, 126, 176), (252, 192, 216), 335),
    "brown": Colour(("棕色", "褐色", "棕", "咖啡色"), ("brown",), (128, 78, 40), (180, 138, 104), 26),
    "black": Colour(("黑色", "黑"), ("black",), (44, 44, 48), (40, 40, 44), None),
    "grey": Colour(("灰色", "灰"), ("grey", "gray"), (142, 144, 148), (172, 174, 178), None),
}
#: The colours that things are dyed in: those of the data, and two that it lacks.
DYES: Mapping[str, Colour] = {
    **COLOURS,
    "white": Colour(("白色", "白", "雪白"), ("white",), (246, 246, 248), (250, 250, 250), None),
    "gold": Colour(("金色", "金", "金黄"), ("golden", "gold"), (226, 172, 44), (244, 214, 120), 42),
}

#: The words for each of these, in both languages.
DYE_NAMES: Mapping[str, str] = {word: name for name, colour in DYES.items() for word in (*colour.zh, *colour.en)}

SCENES: Mapping[str, Words] = {
    "grass": Words(("草地上", "草地", "草坪上", "草原上"), ("on the grass", "on grass", "in a meadow", "on the lawn")),
    "sea": Words(("海上", "大海上", "海里", "海面上"), ("in the sea", "on the sea", "on the ocean")),
    "snow": Words(("雪地里", "雪地上", "雪中", "雪里"), ("in the snow", "on the snow", "on snow")),
    "desert": Words(("沙漠里", "沙漠中", "沙漠上"), ("in the desert", "in a desert")),
    "night": Words(("夜空下", "夜空中", "星空下", "夜晚"), ("under the night sky", "at night", "under the stars")),
    "sunset": Words(("夕阳下", "落日下", "晚霞中", "黄昏下"), ("at sunset", "in the sunset", "at dusk")),
    "forest": Words(("森林里", "树林里", "森林中"), ("in the forest", "in a forest", "in the woods")),
    "city": Words(("城市里", "城市中", "街道上", "街上"), ("in the city", "in a city", "on the street")),
    "room": Words(("房间里", "屋子里", "室内", "房间中"), ("in a room", "in the room", "indoors")),
    "mountain": Words(
        ("山前", "山里", "山中", "群山前"), ("in the mountains", "in front of mountains", "by the mountains")
    ),
}

PLACES: Mapping[str, Words] = {
    "left": Words(("左边", "左侧", "画面左边"), ("on the left", "at the left")),
    "right": Words(("右边", "右侧", "画面右边"), ("on the right", "at the right")),
    "top": Words(("上面", "上方", "顶部"), ("at the top", "on the top")),
    "bottom": Words(("下面", "下方", "底部"), ("at the bottom", "on the bottom")),
    "top left": Words(("左上角",), ("in the top left corner", "in the upper left corner")),
    "top right": Words(("右上角",), ("in the top right corner", "in the upper right corner")),
    "bottom left": Words(("左下角",), ("in the bottom left corner", "in the lower left corner")),
    "bottom right": Words(("右下角",), ("in the bottom right corner", "in the lower right corner")),
}

SIZES: Mapping[str, Words] = {
    "small": Words(("很小的", "小小的", "非常小的"), ("tiny", "very small")),
    "large": Words(("很大的", "巨大的", "大大的"), ("huge", "very big")),
}

COUNTS: Mapping[int, Words] = {
    2: Words(("两", "2"), ("two", "2")),
    3: Words(("三", "3"), ("three", "3")),
    4: Words(("四", "4"), ("four", "4")),
}

RELATIONS: Mapping[str, Words] = {
    "and": Words(("和", "与", "跟"), ("and", "with")),
    "left": Words(("在{b}左边", "在{b}的左边", "在{b}左侧"), ("to the left of", "left of")),
    "right": Words(("在{b}右边", "在{b}的右边", "在{b}右侧"), ("to the right of", "right of")),
    "above": Words(("在{b}上面", "在{b}的上面", "在{b}上方"), ("above", "on top of")),
}


def word_groups() -> tuple[Words, ...]:
    """All word tables except the kinds', one `Words` for each entry."""
    colours = (Words(colour.zh, colour.en) for colour in COLOURS.values())
    tables = (STYLES, SCENES, PLACES, SIZES, COUNTS, RELATIONS)
    return (*(words for table in tables for words in table.values()), *colours)


def reserved_words() -> frozenset[str]:
    """Words for a style, colour, scene, place, size or count, lower case: they never mean a kind."""
    own = {word.lower() for words in word_groups() for word in (*words.zh, *words.en)}
    bare = {word.rstrip("的上下里中前") for word in own} | {word.removesuffix("色") for word in own}
    return frozenset(own | bare | {"大型", "小型", "大", "小", "夕阳", "天空", "夜空", "城市", "forest", "night"})
