"""What stands in quotation marks."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as some

from bimo.prompts.quoted_text import PAIRS, quoted


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("一张写着「福」的红纸", ("福",)),
        ("封面是《论语》，扉页写“学而时习之”", ("论语", "学而时习之")),
        ("他说“看「春」字”。", ("看春字",)),
        ('a sign "OPEN" beside "24 h"', ("OPEN", "24 h")),
        ("it's a cat's toy", ()),
        ("没有合上「福", ()),
        ("没有合上「福，后面『寿』", ("寿",)),
        ("「」『 』", ()),
        ("﹁竖排﹂與﹃內﹄", ("竖排", "內")),
        ("", ()),
    ],
)
def test_quoted(text: str, wanted: tuple[str, ...]) -> None:
    assert quoted(text) == wanted


@given(some.text(alphabet="甲乙，a " + "".join(PAIRS) + "".join(PAIRS.values()) + '"'))
def test_nothing_but_what_is_there_without_marks(text: str) -> None:
    marks = {*PAIRS, *PAIRS.values(), '"'}
    for found in quoted(text):
        assert found
        assert not marks & set(found)
        assert found in "".join(character for character in text if character not in marks)
