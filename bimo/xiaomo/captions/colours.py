"""Words for the colours of things: those of the dyes, shades that count as one of them, and many colours at once."""

from __future__ import annotations

import re
from collections.abc import Mapping

from bimo.xiaomo.artwork.lexicon import DYE_NAMES

#: The "colour" of what has many.
MANY = "many"
_SHADES: Mapping[str, str] = {
    "red": "大红色 鲜红色 鲜红 火红色 火红 深红色 深红 枣红色 枣红 酒红色 酒红 暗红色 朱红色 朱红 绯红 crimson scarlet",
    "orange": "橘红色 橘红 橘黄色 橘黄 橙红色 橙红 橙黄色",
    "yellow": "浅黄色 浅黄 淡黄色 淡黄 嫩黄 鹅黄色 鹅黄 明黄色 米黄色 柠檬黄",
    "green": "浅绿色 浅绿 淡绿色 嫩绿色 嫩绿 深绿色 深绿 墨绿色 墨绿 草绿色 草绿 碧绿 青色 青绿色 薄荷绿 emerald",
    "blue": "浅蓝色 浅蓝 淡蓝色 淡蓝 深蓝色 深蓝 湛蓝 湖蓝色 湖蓝 宝蓝色 宝蓝 海蓝色 海蓝 蔚蓝 sky-blue navy",
    "purple": "浅紫色 浅紫 淡紫色 淡紫 深紫色 深紫 蓝紫色 蓝紫 紫红色 紫红 lavender-coloured",
    "pink": "玫红色 玫红 玫瑰红 桃红色 桃红 浅粉色 浅粉 粉嫩 粉白",
    "brown": "深棕色 浅棕色 棕褐色 巧克力色",
    "black": "乌黑 漆黑 黑漆漆",
    "grey": "银色 银白色 银灰色 浅灰色 深灰色 silver",
    "white": "洁白 纯白 雪白色 乳白色 米白色",
    "gold": "金灿灿 金闪闪",
}  # fmt: skip
#: Words for colours -> the dye, those of the lexicon first.
COLOUR_NAMES: Mapping[str, str] = {
    **{word: dye for dye, words in _SHADES.items() for word in words.split()},
    **DYE_NAMES,
}
#: A colour before what has it.
A_COLOUR = re.compile(
    rf"(?P<colour>{'|'.join(sorted(COLOUR_NAMES, key=len, reverse=True))})(?:的|\s+|(?=[\u4e00-\u9fff]))"
)
#: Many colours before what has them.
MANY_COLOURS = re.compile(
    r"(?:五彩(?:缤纷|斑斓)?|七彩|彩虹色?|多彩|彩色|五颜六色|花花绿绿|色彩斑斓)的?|(?:colou?rful|rainbow(?:-colou?red)?|multi-?colou?red)\s+"
)
