"""Emoji are one each however they are put together, and are called what Unicode calls them."""

import csv
from importlib import resources

import pytest

from bimo.prompts.emoji import COLUMNS, bare, in_words, is_emoji, names, sequences

ASTRONAUT, FAMILY, KEYCAP, FLAG = "👩‍🚀", "👨‍👩‍👧", "1️⃣", "🇨🇳"


def test_the_table_is_what_it_says() -> None:
    text = resources.files("bimo.prompts").joinpath("emoji.tsv").read_text("utf-8").splitlines()
    head, *rows = csv.reader(text, delimiter="\t")
    assert head == COLUMNS
    assert len(rows) > 1500
    assert all(is_emoji(emoji) and emoji == bare(emoji) and zh and en for emoji, zh, en in rows)
    assert len({emoji for emoji, *_ in rows}) == len(rows)
    assert "UNICODE LICENSE V3" in resources.files("bimo.prompts").joinpath("emoji.LICENSE").read_text("utf-8")


@pytest.mark.parametrize(
    ("emoji", "zh", "en"),
    [
        ("🐱", "猫", "cat"),
        ("🐈", "猫", "cat"),
        ("🐵", "猴子", "monkey"),
        (ASTRONAUT, "女宇航员", "woman astronaut"),
        ("👩🏽‍🚀", "女宇航员", "woman astronaut"),
        ("❤️", "红心", "red heart"),
        ("❤", "红心", "red heart"),
        (FLAG, "旗 中国", "flag China"),
        ("🌚", "微笑的朔月", "new moon face"),
    ],
)
def test_names(emoji: str, zh: str, en: str) -> None:
    assert names(emoji, chinese=True)[0] == zh
    assert names(emoji, chinese=False)[0] == en


def test_each_is_found_whole() -> None:
    text = f"一只🐱和{ASTRONAUT}、{FAMILY}{FLAG}{KEYCAP}"
    assert [text[a:b] for a, b in sequences(text)] == ["🐱", ASTRONAUT, FAMILY, FLAG, KEYCAP]
    assert sequences("1 # * a 猫 ，。？！") == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("一只🐱", "一只猫"),
        ("红色🐱", "红色猫"),
        ("🐱🐶", "猫 狗 "),
        ("a 🐱", "a  cat "),
        (ASTRONAUT, "宇航员"),
        ("🙈", "🙈"),
        ("猫", "猫"),
    ],
)
def test_emoji_in_words_that_are_known(text: str, words: str) -> None:
    assert in_words(text, {"猫", "狗", "cat", "宇航员"}.__contains__) == words
