"""Words that are written wrongly, and those that are not."""

from __future__ import annotations

from importlib import resources

import pytest

from bimo.hub.editions import SECOND, text_encoder_of
from bimo.prompts.paraphrases import paraphrased, put_right
from bimo.prompts.spelling import respelt


@pytest.mark.parametrize(
    ("text", "pairs"),
    [
        # the same sound, in names of any length
        ("草没", (("草没", "草莓"),)),
        ("一只兔字", (("兔字", "兔子"),)),
        ("红烧狮子投", (("红烧狮子投", "红烧狮子头"),)),
        ("画蛇天足，水墨画", (("画蛇天足", "画蛇添足"),)),
        # nearly the same sound
        ("长劲鹿", (("长劲鹿", "长颈鹿"),)),
        ("大熊描", (("大熊描", "大熊猫"),)),
        # alike on paper: characters that are written for each other
        ("自行东", (("自行东", "自行车"),)),
        ("一朵向日蔡", (("向日蔡", "向日葵"),)),
        ("一个西爪", (("西爪", "西瓜"),)),
        ("小免子", (("小免子", "小兔子"),)),
        ("一名土兵", (("土兵", "士兵"),)),
        ("大雁答", (("大雁答", "大雁塔"),)),
        ("乌鸦和乌龟", ()),
        ("午餐", ()),
        ("晴天", ()),
        # a verse, of known words, but that it is another
        ("独钓寒江血", (("独钓寒江血", "独钓寒江雪"),)),
        # English: a letter too few, too many, another, two exchanged, another spelling of a sound
        ("a butterfy", (("butterfy", "butterfly"),)),
        ("an astronaunt", (("astronaunt", "astronaut"),)),
        ("chinese dargon", (("dargon", "dragon"),)),
        ("an elefant and an appel", (("elefant", "elephant"), ("appel", "apple"))),
        # every word is known
        ("小桥流水人家", ()),
        ("独钓寒江雪", ()),
        ("一只红色的苹果", ()),
        ("a red apple on the grass", ()),
        # words that there are, though the model never learned them
        ("家具", ()),
        ("柜子", ()),
        ("老式的台子", ()),
        ("a stork with a frown", ()),
        ("starry night", ()),
        # names, and a word behind another
        ("a photo of the Beatles in Los Angeles", ()),
        ("弹吉他的男人", ()),
        # and no words at all, across the bounds of others
        ("桌上放着一个香肠", ()),
        ("几个外国大兵正在认真地玩手机", ()),
    ],
)
def test_what_a_text_is_read_as(text: str, pairs: tuple[tuple[str, str], ...]) -> None:
    encoder = text_encoder_of(SECOND)
    assert respelt(text, encoder.budget, encoder.known) == pairs


def test_quotations_and_syntax_stay_as_they_are() -> None:
    encoder = text_encoder_of(SECOND)
    text = "草没，写着「草没」<lora:草没:0.8>"
    assert put_right(text, encoder.budget, encoder.known)[0] == "草莓，写着「草没」<lora:草没:0.8>"


def test_it_is_said_and_then_said_in_commoner_words() -> None:
    encoder = text_encoder_of(SECOND)
    read = paraphrased("兵马佣", encoder.budget, encoder.known)
    assert read.respelt == (("兵马佣", "兵马俑"),)
    assert read.text == "石像"
    assert ["兵马佣 → 兵马俑" in note for note in read.notes()] == [True, False]
    assert not paraphrased("兵马佣", encoder.budget).respelt


def test_the_licences_of_the_words_come_with_them() -> None:
    text = resources.files("bimo.prompts").joinpath("real_words.LICENSE").read_text("utf-8")
    assert all(holder in text for holder in ("Sun Junyi", "Kevin Atkinson"))
