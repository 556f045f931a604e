"""AUTOMATIC1111's syntax: its own documented examples, the same in full width, and what is text."""

import pytest
from hypothesis import given
from hypothesis import strategies as some

from bimo.core.lora_weight import LoraWeight
from bimo.prompts.a1111 import LoraTag, composed, lora_tags, schedule


def turns(first: str, second: str) -> list[tuple[int, str]]:
    return [(step, first if step % 2 else second) for step in range(1, 11)]


#: The examples of AUTOMATIC1111's get_learned_conditioning_prompt_schedules, at ten steps.
DOCUMENTED = [
    ("test", [(10, "test")]),
    ("a [b:3]", [(3, "a "), (10, "a b")]),
    ("a [b: 3]", [(3, "a "), (10, "a b")]),
    ("a [[[b]]:2]", [(2, "a "), (10, "a [[b]]")]),
    ("[(a:2):3]", [(3, ""), (10, "(a:2)")]),
    ("a [b : c : 1] d", [(1, "a b  d"), (10, "a  c  d")]),
    ("a[b:[c:d:2]:1]e", [(1, "abe"), (2, "ace"), (10, "ade")]),
    ("a [unbalanced", [(10, "a [unbalanced")]),
    ("a [b:.5] c", [(5, "a  c"), (10, "a b c")]),
    ("a [{b|d{:.5] c", [(5, "a  c"), (10, "a {b|d{ c")]),
    ("((a][:b:c [d:3]", [(3, "((a][:b:c "), (10, "((a][:b:c d")]),
    ("[a|(b:1.1)]", turns("a", "(b:1.1)")),
    ("[fe|]male", turns("female", "male")),
    ("[fe|||]male", [(step, "female" if step % 4 == 1 else "male") for step in range(1, 11)]),
]


@pytest.mark.parametrize(("prompt", "expected"), DOCUMENTED)
def test_documented_examples(prompt: str, expected: list[tuple[int, str]]) -> None:
    assert schedule(prompt, 10) == expected


def test_the_documented_landscape() -> None:
    prompt = (
        "fantasy landscape with a [mountain:lake:0.25] and [an oak:a christmas tree:0.75][ in foreground::0.6]"
        "[ in background:0.25] [shoddy:masterful:0.5]"
    )
    found = schedule(prompt, 100)
    assert [end for end, _ in found] == [25, 50, 60, 75, 100]
    assert found[0][1] == "fantasy landscape with a mountain and an oak in foreground shoddy"
    assert found[2][1] == "fantasy landscape with a lake and an oak in foreground in background masterful"
    assert found[-1][1] == "fantasy landscape with a lake and a christmas tree in background masterful"


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("一只［猫：狗：０．５］", [(5, "一只猫"), (10, "一只狗")]),
        ("［山｜水］", turns("山", "水")),
        ("写着「[山|水]」的匾", [(10, "写着「[山|水]」的匾")]),
        (r"\[a|b\]", [(10, r"\[a|b\]")]),
        ("【第一章：3】", [(10, "【第一章：3】")]),
        ("比例[16:9:宽]", [(10, "比例[16:9:宽]")]),
    ],
)
def test_both_widths_and_text(prompt: str, expected: list[tuple[int, str]]) -> None:
    assert schedule(prompt, 10) == expected


@given(some.text(alphabet="ab[](（：:|1.\\“”", max_size=40), some.integers(1, 12))
def test_any_text_has_a_schedule(prompt: str, steps: int) -> None:
    found = schedule(prompt, steps)
    ends = [end for end, _ in found]
    assert ends == sorted(set(ends))
    assert ends[-1] == steps
    assert "[" in prompt or found == [(steps, prompt)]


def test_many_open_brackets_end_soon() -> None:
    assert schedule("[" * 20_000, 10) == [(10, "[" * 20_000)]


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("a cat", [("a cat", 1.0)]),
        ("a cat AND a dog", [("a cat", 1.0), ("a dog", 1.0)]),
        ("a cat :1.2 AND a dog AND a penguin :2.2", [("a cat", 1.2), ("a dog", 1.0), ("a penguin", 2.2)]),
        ("猫：０．５AND狗", [("猫", 0.5), ("狗", 1.0)]),
        ("BAND ANDES", [("BAND ANDES", 1.0)]),
        ("a sign “SALT AND PEPPER”", [("a sign “SALT AND PEPPER”", 1.0)]),
        ("a AND b :-0.5", [("a", 1.0), ("b", -0.5)]),
    ],
)
def test_and_joins_prompts(prompt: str, expected: list[tuple[str, float]]) -> None:
    assert composed(prompt) == expected


@pytest.mark.parametrize(
    ("prompt", "text", "tags"),
    [
        ("红苹果<lora:ink:0.8>", "红苹果", (LoraTag("ink", LoraWeight(0.8)),)),
        ("＜lora：水墨：０．５＞红苹果", "红苹果", (LoraTag("水墨", LoraWeight(0.5)),)),
        ("a <lora:x> b", "a  b", (LoraTag("x"),)),
        ("“<lora:x:1>”", "“<lora:x:1>”", ()),
        ("a<lora:x:0.5>b<lora:y>", "ab", (LoraTag("x", LoraWeight(0.5)), LoraTag("y"))),
        ("<lora:x:-1:0.5>a", "a", (LoraTag("x", LoraWeight(-1.0)),)),
        ("a<lora:x:0.8@0.2-0.6>", "a", (LoraTag("x", LoraWeight(0.8, 0.2, 0.6)),)),
        ("a<lora:x:0.8＠０.2－0.6>", "a", (LoraTag("x", LoraWeight(0.8, 0.2, 0.6)),)),
        ("a<lora:x:0.8@0.6-0.2>", "a<lora:x:0.8@0.6-0.2>", ()),
        ("<lora:x:strong> a", "<lora:x:strong> a", ()),
        ("<lora:x:nan> a", "<lora:x:nan> a", ()),
        ("<lora:x:inf> a", "<lora:x:inf> a", ()),
        ("a < b > c", "a < b > c", ()),
    ],
)
def test_adapters_in_a_prompt(prompt: str, text: str, tags: tuple[LoraTag, ...]) -> None:
    assert lora_tags(prompt) == (text, tags)
