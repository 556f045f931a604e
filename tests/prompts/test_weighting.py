"""Emphasis is read from full-width and half-width marks alike; what is no emphasis stays as it was written."""

import pytest
from hypothesis import given
from hypothesis import strategies as some

from bimo.prompts.weighting import Emphasis, emphasis


@pytest.mark.parametrize(
    ("prompt", "text", "spans"),
    [
        ("一只(红色:1.5)的猫", "一只红色的猫", ((2, 4, 1.5),)),
        ("一只（红色：１．５）的猫", "一只红色的猫", ((2, 4, 1.5),)),
        ("a (red:0.5) cat", "a red cat", ((2, 5, 0.5),)),
        ("(大(红:2)花:1.5)", "大红花", ((0, 3, 1.5), (1, 2, 2.0))),
        ("（山（远山）水:1.2）", "山（远山）水", ((0, 6, 1.2),)),
        ("山水（宋代）画", "山水（宋代）画", ()),
        ("比例(16:9)，早上（8：30）", "比例(16:9)，早上（8：30）", ()),
        (r"\(红色:1.5\)", "(红色:1.5)", ()),
        ("红色:1.5)的猫", "红色:1.5)的猫", ()),
        ("(红色:1.0)的猫", "红色的猫", ()),
        ("(:1.5)猫", "猫", ()),
        ("𠮷(野家:2)🍎", "𠮷野家🍎", ((1, 3, 2.0),)),
        ("", "", ()),
    ],
)
def test_weights_and_plain_brackets(prompt: str, text: str, spans: tuple[tuple[int, int, float], ...]) -> None:
    found = emphasis(prompt)
    assert Emphasis(found.text, found.spans) == Emphasis(text, spans)


@pytest.mark.parametrize(
    "prose",
    [
        "时间(上午8:30)",
        "时间（上午 8：30）",
        "(a 16:9 photo)",
        "(比例 1:2)",
        "（比例1：2）",
        "会议(2024年:第3次)",
        "(see 3:16)",
        "(16:9)",
        "a (b) c:1.2)",
    ],
)
def test_prose_is_left_as_it_stands_without_a_word(prose: str) -> None:
    assert emphasis(prose) == Emphasis(prose)


@pytest.mark.parametrize(
    "prose", ["score (Team A:3)", "比分（甲队：３）", "(红:9)", "(红:-1)", "(红:2.01)", "(年份:1990)"]
)
def test_a_number_that_is_no_weight_is_prose_and_told(prose: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BIMO_LANGUAGE", "en")
    found = emphasis(prose)
    assert (found.text, found.spans) == (prose, ())
    (note,) = found.notes
    assert "no weight from 0 to 2" in note
    assert prose[prose.index("(" if "(" in prose else "（") :] in note
    # What the note says to type is read without a word.
    escaped = prose.replace("(", "\\(").replace("（", "\\（")
    assert emphasis(escaped) == Emphasis(prose)


@pytest.mark.parametrize(("prompt", "weight"), [("(Team A:2)", 2.0), ("（红：0）", 0.0), ("(red: 1)", 1.0)])
def test_a_whole_number_weighs_as_in_a1111_and_is_told(
    prompt: str, weight: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BIMO_LANGUAGE", "en")
    found = emphasis(prompt)
    assert [w for _, _, w in found.spans] == ([] if weight == 1 else [weight])
    assert f"a weight of {weight:g}" in found.notes[0]


@pytest.mark.parametrize(
    "prompt", ["(red:1.3)", "（红：０．５）", "(red:.5)", "(red:2.)", "( red : 1.1 )", "(red:+1.2)"]
)
def test_a_decimal_weighs_and_says_nothing(prompt: str) -> None:
    found = emphasis(prompt)
    assert len(found.spans) == 1
    assert not found.notes


@given(some.text(alphabet="红猫ab (（)）:：1.\\", max_size=30))
def test_spans_lie_in_the_text_whatever_is_written(prompt: str) -> None:
    found = emphasis(prompt)
    assert all(0 <= first < last <= len(found.text) for first, last, _ in found.spans)
    assert len(found.text) <= len(prompt)


@given(some.text(alphabet="红猫ab (（:：1.\\", max_size=30))
def test_without_a_closing_bracket_nothing_counts(prompt: str) -> None:
    assert emphasis(prompt).spans == ()
