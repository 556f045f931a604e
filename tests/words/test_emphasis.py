"""Emphasis is read from full-width and half-width marks alike; what is no emphasis stays as it was written."""

import pytest
from hypothesis import given
from hypothesis import strategies as some

from bimo.core.errors import RequestError
from bimo.words.emphasis import Emphasis, emphasis


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
def test_what_counts_and_what_is_text(prompt: str, text: str, spans: tuple[tuple[int, int, float], ...]) -> None:
    assert emphasis(prompt) == Emphasis(text, spans)


@pytest.mark.parametrize("weight", ["9", "-1", "4.01"])
def test_a_weight_that_is_none_is_told(weight: str) -> None:
    with pytest.raises(RequestError, match=r"expected 0\.0 to 4\.0"):
        emphasis(f"(红:{weight})")


@given(some.text(alphabet="红猫ab (（)）:：1.\\", max_size=30))
def test_spans_lie_in_the_text_whatever_is_written(prompt: str) -> None:
    try:
        found = emphasis(prompt)
    except RequestError:
        return
    assert all(0 <= first < last <= len(found.text) for first, last, _ in found.spans)
    assert len(found.text) <= len(prompt)


@given(some.text(alphabet="红猫ab (（:：1.\\", max_size=30))
def test_without_a_closing_bracket_nothing_counts(prompt: str) -> None:
    assert emphasis(prompt).spans == ()
