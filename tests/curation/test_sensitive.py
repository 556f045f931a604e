"""Sensitive words: as words and not as characters, through folding and marks, masked in place; lists that are none."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bimo.core.errors import DataError
from bimo.curation.filters.segmentation import cut, folded, is_word
from bimo.curation.filters.sensitive import Search, Sensitive
from bimo.curation.steps import CaptionStep, Verdict
from bimo.prompts.normalise import normal
from tests.support.checkout import REAL_DATA


@pytest.fixture(scope="module")
def listed(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("lists") / "words.txt"
    path.write_text("# a remark\n\n干\n网络\n招聘\n口交\n臺獨\n六合彩\n六合彩票\nLY\nＱＱ\n", encoding="utf-8")
    return str(path)


def test_is_a_caption_step(listed: str) -> None:
    assert isinstance(Sensitive(words=listed), CaptionStep)


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("这里的网络很慢", "网络"),
        ("這裡的網絡很慢", "网络"),
        ("公司正在招聘厨师", "招聘"),
        ("臺獨", "台独"),
        ("今晚六合彩开奖", "六合彩"),
        ("六合彩票点", "六合彩票"),
        ("六*合*彩", "六合彩"),
        ("六 合 彩", "六合彩"),
        ("六.合.彩", "六合彩"),
        ("六__合--彩", "六合彩"),
        ("加ｑｑ聊", "qq"),
        ("QQ号", "qq"),
        ("LY, please", "ly"),
    ],
)
def test_what_is_there_is_found(listed: str, text: str, word: str) -> None:
    assert Sensitive(words=listed).caption(text) == Verdict(word, "words.txt")


@pytest.mark.parametrize(
    "text",
    [
        "一盒饼干和一间干净的房间",
        "众口交传",
        "乾隆白菜",
        "a family of lilies",
        "QQQ",
        "六个盒子合上。彩色的",
        "十六合。彩旗飘",  # a stop between two of the three alone
        "六###合###彩",
        "",
    ],
)
def test_what_only_has_the_same_characters_stays(listed: str, text: str) -> None:
    assert Sensitive(words=listed).caption(text) == text


def test_masks_stand_where_the_word_stood(listed: str) -> None:
    step = Sensitive(words=listed, mode="mask")
    assert step.caption("Ａ　網絡，六 合 彩！ＱＱ") == "Ａ　**，* * *！**"
    assert step.caption("饼干") == "饼干"


def test_a_list_must_be_there_be_text_and_have_words(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.txt"):
        Sensitive(words=str(tmp_path / "none.txt")).caption("猫")
    (tmp_path / "bytes.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match=r"bytes\.txt"):
        Sensitive(words=str(tmp_path / "bytes.txt")).caption("猫")
    (tmp_path / "empty.txt").write_text("# nothing\n\n", encoding="utf-8")
    with pytest.raises(DataError, match="holds no words"):
        Sensitive(words=str(tmp_path / "empty.txt")).caption("猫")


def test_a_changed_list_is_read_again(tmp_path: Path) -> None:
    import os

    path = tmp_path / "words.txt"
    path.write_text("网络\n", encoding="utf-8")
    assert Sensitive(words=str(path)).caption("网络") == Verdict("网络", "words.txt")
    path.write_text("招聘\n", encoding="utf-8")
    os.utime(path, (1, 1))
    assert Sensitive(words=str(path)).caption("网络") == "网络"


@pytest.mark.parametrize(
    ("run", "words"),
    [
        ("吃饼干", ["吃", "饼干"]),
        ("看到货财", ["看到", "货", "财"]),
        ("研究生命起源", ["研究", "生命", "起源"]),
        ("", []),
        ("龘靐", ["龘", "靐"]),
    ],
)
def test_cut(run: str, words: list[str]) -> None:
    assert cut(run) == words


def test_words_end_where_the_characters_end() -> None:
    text = "3d网络,网络电视"
    assert is_word(text, 2, 4)
    assert is_word(text, 5, 7) == ("网络" in cut("网络电视"))
    assert not is_word("饼干", 1, 2)


@given(st.text(alphabet="红臺乾隆Ａ１　 ㎏\u200b\ufb01,。", max_size=12))
def test_folding_knows_where_each_character_comes_from(text: str) -> None:
    found, places = folded(text)
    assert len(found) == len(places)
    assert places == sorted(places)
    assert all(0 <= place < len(text) for place in places)


@given(
    st.lists(st.text(alphabet="甲乙丙", min_size=3, max_size=5), min_size=1, max_size=6),
    st.text("甲乙丙丁", max_size=14),
)
def test_long_words_are_found_if_and_only_if_they_are_there(words: list[str], text: str) -> None:
    found = next(Search(sorted(set(words))).hits(text), None)
    assert (found is not None) == any(word in text for word in words)
    if found is not None:
        assert text[found[0] : found[1]] == found[2]


@example("六网络合彩")
@given(
    st.lists(st.sampled_from(["网络", "干", "饼干", "六", "合", "*", "彩", "QQ", " ", "ly", "猫"]), max_size=8).map(
        "".join
    )
)
def test_masking_twice_is_masking_once(listed: str, text: str) -> None:
    step = Sensitive(words=listed, mode="mask")
    once = step.caption(text)
    assert isinstance(once, str)
    assert len(once) == len(text)
    assert step.caption(once) == once


@pytest.mark.skipif(not REAL_DATA.is_dir(), reason="needs the real lists and captions")
def test_few_captions_that_people_wrote_hold_a_word_that_many_hold_as_characters() -> None:
    words = REAL_DATA / "lexicons/LDNOOBW_zh.txt"
    step = Sensitive(words=str(words))
    lines = (REAL_DATA / "captions/coco-cn_ext.icap2020.txt").read_text(encoding="utf-8").splitlines()
    captions = [line.split("\t", 1)[1] for line in lines]
    plain = {folded(word.strip())[0] for word in words.read_text(encoding="utf-8").splitlines()} - {""}
    assert sum(any(word in text for word in plain) for text in map(normal, captions)) == 173
    assert sum(isinstance(step.caption(caption), Verdict) for caption in captions) == 6
