"""The collection of poems: whole, by their poets, of characters that can be written."""

from __future__ import annotations

import re

import pytest

from bimo.prompts.poems import find_verse, poems
from bimo.prompts.quoted_text import quoted


def test_every_poem_is_characters_and_marks() -> None:
    """An editor's brackets would be drawn and inscribed."""
    odd = [poem for poem in poems() if re.search(r"[^\u3400-\u9fff\U00020000-\U0003ffff，。？！；、：]", poem.text)]
    assert odd == []
    assert len(poems()) == 801
    assert not [poem for poem in poems() if quoted(poem.text)]


@pytest.mark.parametrize(
    ("asked", "poem", "last"),
    [
        ("少小离家老大回", "贺知章《回乡偶书 其一》", "笑问客从何处来"),
        ("春江潮水连海平", "张若虚《春江花月夜》", "落月摇情满江树"),
        ("暗香浮动月黄昏", "林逋《山园小梅》", "不须檀板共金尊"),
        ("咬定青山不放松", "郑燮《竹石》", "任尔东西南北风"),
        ("以观沧海", "曹操《观沧海》", "歌以咏志"),
    ],
)
def test_a_poem_is_whole_and_its_poets(asked: str, poem: str, last: str) -> None:
    answer = find_verse(asked).poem
    assert str(answer) == poem
    assert answer.sentences[-1].endswith(f"{last}。")
