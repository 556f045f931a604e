"""What is said of a picture changes one field of its request; what is not understood changes nothing and is said."""

import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as some

from bimo.core.errors import RequestError
from bimo.prompts.edits import edited

BASE: dict[str, Any] = {"text": "一只猫，绿色背景", "size": (128, 128), "steps": 12, "seed": 7, "count": 1}


@pytest.mark.parametrize(
    ("sentence", "changed"),
    [
        ("把猫换成狗", {"text": "一只狗，绿色背景"}),
        ("请将猫改成一只老虎。", {"text": "一只老虎，绿色背景"}),
        ("replace 猫 with 狗", {"text": "一只狗，绿色背景"}),
        ("背景改成蓝色", {"text": "一只猫，蓝色背景"}),
        ("把背景换成雪山", {"text": "一只猫，雪山背景"}),
        ("大一点", {"size": (192, 192)}),
        ("再小一点", {"size": (64, 64)}),
        ("larger", {"size": (192, 192)}),
        ("再来一张", {"seed": 8, "count": 1}),
        ("再来三张", {"seed": 8, "count": 3}),
        ("two more", {"seed": 8, "count": 2}),
        ("another one", {"seed": 8, "count": 1}),
        ("加上帽子", {"text": "一只猫，绿色背景，帽子"}),
        ("add a hat", {"text": "一只猫，绿色背景，a hat"}),
        ("去掉背景", {"text": "一只猫", "negative": "背景"}),
        ("改成水墨风格", {"style": "ink"}),
        ("in watercolour style", {"style": "watercolour"}),
        ("步数改成20", {"steps": 20}),
        ("seed 42", {"seed": 42}),
        ("精细一点", {"steps": 18}),
    ],
)
def test_one_sentence_changes_one_thing(sentence: str, changed: dict[str, Any]) -> None:
    edit = edited(sentence, BASE)
    assert edit.fields == BASE | changed
    assert edit.summary


def test_the_first_sentence_is_the_prompt_and_draw_begins_anew() -> None:
    assert edited("大一点的猫", {}).fields == {"text": "大一点的猫"}
    assert edited("画一只鸟", BASE | {"style": "ink", "negative": "x"}).fields == {
        "text": "一只鸟",
        "size": (128, 128),
        "steps": 12,
        "seed": 7,
    }
    assert edited("make the background blue", {"text": "a cat, green background"}).fields["text"] == (
        "a cat, blue background"
    )


@pytest.mark.parametrize(("sentence", "said"), [("把鸟换成狗", "鸟"), ("胡说八道", "胡说八道"), ("  ", "nothing|没有")])
def test_what_is_not_understood_is_said(sentence: str, said: str) -> None:
    with pytest.raises(RequestError, match=said):
        edited(sentence, BASE)


@given(some.text(alphabet="把猫换成狗背景改大一点再来张加上去掉 a.画", max_size=16))
def test_any_sentence_is_an_edit_or_an_error(sentence: str) -> None:
    with contextlib.suppress(RequestError):
        assert edited(sentence, BASE).fields["text"]
