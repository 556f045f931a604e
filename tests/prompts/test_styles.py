"""Styles: the words they add, in the prompt's language, and that xiaomo's data teaches every one of them."""

import pytest

from bimo.core.errors import RequestError
from bimo.prompts.styles import SAME, STYLES, style_named, styled
from bimo.xiaomo.artwork import lexicon


@pytest.mark.parametrize(
    ("text", "style", "expected"),
    [
        ("红苹果", "3d", "红苹果，3D风格"),
        ("红苹果。", "水墨", "红苹果，水墨画"),
        ("a red apple", "ink", "a red apple, chinese ink painting"),
        ("一只cat", "twemoji", "一只cat，贴纸风格"),
        ("𠮷野家", "line", "𠮷野家，线条风格"),
        ("红苹果，3D风格", "3d", "红苹果，3D风格"),
        ("A cat, PIXEL ART", "pixel", "A cat, PIXEL ART"),
        ("红苹果", None, "红苹果"),
        ("红苹果", "", "红苹果"),
    ],
)
def test_a_style_speaks_the_language_of_the_prompt(text: str, style: str | None, expected: str) -> None:
    assert styled(text, style) == expected


def test_unknown_style_is_told_with_the_nearest() -> None:
    with pytest.raises(RequestError) as caught:
        style_named("watercolr")
    assert "watercolour" in caught.value.en
    assert "watercolour" in caught.value.zh


def test_other_names_lead_somewhere() -> None:
    assert set(SAME.values()) <= set(STYLES)
    assert style_named("油画") is STYLES["oil"]


def test_xiaomo_learned_every_suffix() -> None:
    for name, style in STYLES.items():
        words = lexicon.STYLES[{"sticker": "twemoji"}.get(name, name)]
        taught = {word.lower() for group in (words.zh, words.en) for word in group}
        taught |= {"flat style", "silhouette style"}
        assert style.zh.lower() in taught, name
        assert style.en.lower() in taught, name


def test_every_style_of_xiaomo_is_offered() -> None:
    assert set(lexicon.STYLES) == {"twemoji" if name == "sticker" else name for name in STYLES}
