"""Long prompts in chunks: at BREAK, at commas near the end, and never within a word."""

from bimo.prompts.chunks import chunks, parts_between_breaks, without_breaks
from bimo.prompts.token_budget import Budget
from bimo.prompts.weighting import Emphasis, emphasis

LIMIT = 30


def budget(text: str) -> Budget:
    """A token a character."""
    return Budget(len(text), LIMIT, text[LIMIT:])


def test_a_break_begins_a_chunk_and_weights_stay_with_their_words() -> None:
    parts = parts_between_breaks(emphasis("（红：1.5）苹果 BREAK 绿(树:0.5)"))
    assert [(part.text, part.spans) for part in parts] == [("红苹果", ((0, 1, 1.5),)), ("绿树", ((1, 2, 0.5),))]
    joined = without_breaks(emphasis("（红：1.5）苹果 BREAK 绿(树:0.5)"))
    assert (joined.text, joined.spans) == ("红苹果，绿树", ((0, 1, 1.5), (5, 6, 0.5)))
    assert parts_between_breaks(Emphasis("BREAKFAST")) == (Emphasis("BREAKFAST"),)


def test_a_chunk_ends_at_the_last_comma_or_at_a_word() -> None:
    text = "a" * 15 + ", " + "b" * 20 + " end"
    assert [part.text for part in chunks(Emphasis(text), budget)] == ["a" * 15 + ",", "b" * 20 + " end"]
    words = "a" * 25 + " " + "b" * 20
    assert [part.text for part in chunks(Emphasis(words), budget)] == ["a" * 25, "b" * 20]
    han = "山" * 70
    assert [len(part.text) for part in chunks(Emphasis(han), budget)] == [30, 30, 10]
    unbroken = "a" * 70
    assert "".join(part.text for part in chunks(Emphasis(unbroken), budget)) == unbroken


def test_a_weight_across_a_cut_holds_on_both_sides() -> None:
    first, second = chunks(emphasis("(" + "山" * 40 + ":1.5)"), budget)
    assert first.spans == ((0, 30, 1.5),)
    assert second.spans == ((0, 10, 1.5),)
