"""Named styles: suffixes that are appended to a prompt, in the prompt's own language."""

from __future__ import annotations

import re
from dataclasses import dataclass

from bimo.core.errors import RequestError
from bimo.core.messages import Listed, Message
from bimo.core.part import meant, nearest


@dataclass(frozen=True)
class Style:
    """One style: ``label_zh`` and ``label_en`` are its display names, ``zh`` and ``en`` its suffixes for prompts."""

    label_zh: str
    label_en: str
    zh: str
    en: str


#: By the names that requests use. Every suffix is a phrase that xiaomo was trained on and published models know.
STYLES: dict[str, Style] = {
    "3d": Style("3D", "3D", "3D风格", "3d style"),
    "cartoon": Style("卡通", "Cartoon", "卡通风格", "cartoon style"),
    "sticker": Style("贴纸", "Sticker", "贴纸风格", "sticker style"),
    "flat": Style("扁平", "Flat", "扁平风格", "flat style"),
    "silhouette": Style("剪影", "Silhouette", "剪影风格", "silhouette style"),
    "line": Style("线条", "Line art", "线条风格", "line art"),
    "retro": Style("复古", "Retro", "复古风格", "retro style"),
    "vector": Style("矢量", "Vector", "矢量插画", "vector illustration"),
    "minimal": Style("极简", "Minimal", "极简风格", "minimalist"),
    "outlined": Style("描边", "Outlined", "描边风格", "outlined cartoon"),
    "watercolour": Style("水彩", "Watercolour", "水彩画", "watercolor painting"),
    "ink": Style("水墨", "Ink wash", "水墨画", "chinese ink painting"),
    "sketch": Style("素描", "Sketch", "素描", "pencil sketch"),
    "oil": Style("油画", "Oil painting", "油画", "oil painting"),
    "pixel": Style("像素", "Pixel art", "像素画", "pixel art"),
    "papercut": Style("剪纸", "Paper cut", "剪纸", "paper cut"),
    "neon": Style("霓虹", "Neon", "霓虹灯风格", "neon lights"),
    "porcelain": Style("青花", "Porcelain", "青花瓷风格", "blue and white porcelain"),
}
#: Aliases.
SAME = {"twemoji": "sticker", "watercolor": "watercolour"} | {s.label_zh: name for name, s in STYLES.items()}
_HAN = re.compile("[\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]")


def style_named(name: str) -> Style:
    """Looks up a style by its English or Chinese name. Raises RequestError with the nearest names."""
    key = name.strip().lower()
    style = STYLES.get(SAME.get(key, SAME.get(name.strip(), key)))
    if style is None:
        near = meant(key, [*STYLES, *SAME])
        if _HAN.search(key) or not nearest(key, [*STYLES, *SAME]):
            near = Message("; there is {every}", every=Listed(STYLES))
        raise RequestError("there is no style {name!r}{near}", name=name, near=near)
    return style


def styled(text: str, style: str | None) -> str:
    """Appends a style's suffix to a text, in Chinese if the text has Han characters, unless it contains it already.

    Raises RequestError for an unknown style. None or "" leaves the text unchanged.
    """
    if not style:
        return text
    chosen_style = style_named(style)
    suffix, comma = (chosen_style.zh, "，") if _HAN.search(text) else (chosen_style.en, ", ")
    if suffix.lower() in text.lower():
        return text
    return text.rstrip(" ,，.。、") + comma + suffix
