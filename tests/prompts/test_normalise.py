"""The normal form: what becomes the same, what stays, and that it settles."""

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bimo.prompts.normalise import normal, normal_each


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("红苹果，３Ｄ风格", "红苹果,3d风格"),
        ("紅蘋果", "红苹果"),
        ("紅蘋果、綠葉。", "红苹果,绿叶."),
        ("“福”「福」『福』", '"福""福""福"'),
        ("  A  Red\u3000 Apple\n", "a red apple"),
        ("《山水》——【畫】", "<山水>--[画]"),
        ("zero\u200bwidth", "zerowidth"),
        ("❤\ufe0f", "❤"),
        ("", ""),
        (" \t\n", ""),
        ("a\x00b\x1bc", "a b c"),
    ],
)
def test_one_word_has_one_spelling(written: str, expected: str) -> None:
    assert normal(written) == expected


@pytest.mark.parametrize("kept", ["𠮷野家", "😀", "👨\u200d👩\u200d👧", "𠀋𪚥", "🈶"])
def test_characters_above_the_basic_plane_stay(kept: str) -> None:
    assert normal(kept) == kept


def test_traditional_is_read_by_phrase() -> None:
    assert normal("皇后的頭髮在乾隆以後") == "皇后的头发在乾隆以后"


def test_bytes_that_are_no_text_do_not_break_it() -> None:
    assert normal("红\udce8") == "红\ufffd"


@pytest.mark.slow
@settings(max_examples=300)
@given(st.text() | st.text(st.characters(min_codepoint=0x3000, max_codepoint=0x9FFF)))
@example("\u0130\u03a3 \ufb03")
@example("\uff9e\u304b")
def test_normalising_is_idempotent(text: str) -> None:
    once = normal(text)
    assert normal(once) == once


@given(st.lists(st.text(max_size=5)))
@example(["ＡＢ ", "", "\ue000", "臺灣", "●\u0300"])
@example(["漢", "\u3099か", "🍎\ufe0f", " "])
def test_many_words_at_once_are_as_one_by_one(words: list[str]) -> None:
    assert normal_each(words) == list(map(normal, words))


@given(st.text())
def test_above_the_basic_plane_nothing_is_lost_or_moved(text: str) -> None:
    # Some rare characters of the basic plane have their simplified form above it.
    found = iter(normal(text))
    assert all(c in found for c in text if c > "\uffff")


def test_normalising_every_character_is_idempotent() -> None:
    every = [chr(c) for c in (*range(0xD800), *range(0xE000, 0x30000))]
    settled = [normal(c) for c in every]
    # What is left as it is has settled.
    assert [c for c, s in zip(every, settled, strict=True) if s != c and normal(s) != s] == []
