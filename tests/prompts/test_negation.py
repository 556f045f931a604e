"""What a sentence denies is found, and nothing else."""

import pytest

from bimo.prompts.negation import Negation, negation


@pytest.mark.parametrize(
    ("prompt", "text", "things"),
    [
        ("不要猫", "", ("猫",)),
        ("没有猫的房间", "房间", ("猫",)),
        ("红苹果，不要叶子", "红苹果", ("叶子",)),
        ("红苹果，不要叶子，3D风格", "红苹果，3D风格", ("叶子",)),
        ("别画狗，画猫", "画猫", ("狗",)),
        ("一个没有轮子的汽车", "一个汽车", ("轮子",)),
        ("公园里不要有人和狗", "公园里", ("人，狗",)),
        ("猫，不要🐶", "猫", ("🐶",)),
        ("a room without cats", "a room", ("cats",)),
        ("an apple, no leaves", "an apple", ("leaves",)),
        ("No apples", "", ("apples",)),
        ("a tree without any leaves on a hill", "a tree on a hill", ("leaves",)),
        ("a dog without a collar, watercolour", "a dog, watercolour", ("collar",)),
        ("a plate with no apples and oranges", "a plate", ("apples, oranges",)),
        ("a cat, not a dog", "a cat", ("dog",)),
        ("a photo, but not any people, at night", "a photo, at night", ("people",)),
        ("a cat and no dog, no bird", "a cat", ("dog", "bird")),
    ],
)
def test_negated_words_are_found(prompt: str, text: str, things: tuple[str, ...]) -> None:
    found = negation(prompt)
    assert (found.text, found.things) == (text, things)
    assert len(found.phrases) == len(things)
    assert negation(found.text).things == ()


DENIES_NOTHING = "红苹果/有没有猫/别墅/写着“不要停”的牌子/a no smoking sign/hear-no-evil monkey/noodles/a snowman/"
DENIES_NOTHING += "《没有人知道》/no/没有//an anode/to be or not to be/not a cat/特别画风"


@pytest.mark.parametrize("prompt", DENIES_NOTHING.split("/"))
def test_what_denies_nothing_stays_to_the_letter(prompt: str) -> None:
    assert negation(prompt) == Negation(prompt)
