"""Personal data: what is found, what only looks like it, check digits, and that a mask is not masked again."""

from __future__ import annotations

import re
from datetime import date

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bimo.curation.filters.pii import TAGS, Pii, check_of, passes_luhn, private
from bimo.curation.steps import CaptionStep, Verdict
from tests.support.checkout import REAL_DATA

#: Made up, with the right check digits; 4111... and 6222... are the card schemes' published test numbers and the like.
IDENTITY = "11010519491231002X"


def test_is_a_caption_step() -> None:
    assert isinstance(Pii(), CaptionStep)
    assert all(Pii.says)


@pytest.mark.parametrize(
    ("kind", "text", "masked"),
    [
        ("mobile", "电话13812345678。", "电话<手机号>。"),
        ("mobile", "联系１３８１２３４５６７８", "联系<手机号>"),
        ("mobile", "+86 138 1234 5678", "<手机号>"),
        ("mobile", "8613812345678", "<手机号>"),
        ("mobile", "199-1234-5678", "<手机号>"),
        ("landline", "010-88886666转123", "<电话号码>"),
        ("landline", "（0571）87654321", "<电话号码>"),
        ("landline", "服务400-810-8888", "服务<电话号码>"),
        ("landline", "电话：88886666", "电话：<电话号码>"),
        ("identity", f"身份证{IDENTITY}号", "身份证<身份证号>号"),
        ("identity", "110105 19491231 002x", "<身份证号>"),
        ("email", "写信给li.ming＠qq．com吧", "写信给<邮箱>吧"),
        ("plate", "停着京A12345的车", "停着<车牌号>的车"),
        ("plate", "粤B·D12345和沪AF1234X", "<车牌号>和沪AF1234X"),
        ("plate", "沪A12345D 粤Z1234港", "<车牌号> <车牌号>"),
        ("card", "卡 6222 0212 3456 7890 128", "卡 <银行卡号>"),
        ("card", "4111-1111-1111-1111", "<银行卡号>"),
        ("card", "卡号：3530111333300000", "卡号：<银行卡号>"),
        ("name", "王老师和欧阳修先生", "<人名>老师和<人名>先生"),
        ("name", "李小明同学在画画", "<人名>同学在画画"),
        ("name", "和王强医生合影", "和<人名>医生合影"),
        ("name", "姓名：张三丰，联系人: 李四", "姓名：<人名>，联系人: <人名>"),
        ("name", "姓名：约翰·史密斯", "姓名：<人名>"),
    ],
)
def test_found_and_masked(kind: str, text: str, masked: str) -> None:
    assert Pii().caption(text) == masked
    assert Pii(do="drop").caption(text) == Verdict(kind, "none")


@pytest.mark.parametrize(
    "text",
    [
        "订单号13812345678",
        "138123456789",
        "1.13812345678",
        "IMG_13812345678.jpg",
        "12012345678",
        "ISBN 978-7-111-12345-6",
        "1920x1080 3840×2160",
        "2024-01-15 12:30:45",
        "20240115123045",
        "2024年1月15日，气温-5到10度",
        "1949123100",
        "11010519491231002X".replace("X", "1"),
        "110105194913310024",
        "4111111111111112",
        "订单6222021234567890128",
        "1234 5678 9012 3452",
        "0.571-87654321",
        "@某人 看这个",
        "猫@家",
        "川A级景区 豫ABCDE 京A123",
        "新款A12345678",
        "王老吉 李子 白菜 高粱 黄瓜 马铃薯 宫保鸡丁 夫妻肺片 麻婆豆腐 东坡肉",
        "白衣女士和金发小姐，高个子先生，年轻的女士，黄衣小姐",
        "高中老师 小学老师 任课老师 音乐老师 体育老师 女同学 全体同学 许多同学 安全主任",
        "胡同学习 马路上的先生 国王先生 时尚女士 向老师问好",
        "姓名：未知 联系人：见下文",
    ],
)
def test_what_only_looks_like_it_stays(text: str) -> None:
    assert private(text) == []
    assert Pii().caption(text) == text


def test_kinds_can_be_chosen() -> None:
    text = "王老师 13812345678"
    assert Pii(kinds=("name",)).caption(text) == "<人名>老师 13812345678"
    assert Pii(kinds=("email",), do="drop").caption(text) == text


def test_a_verdict_does_not_repeat_what_was_found() -> None:
    found = Pii(do="drop").caption(f"王老师 13812345678 {IDENTITY}")
    assert found == Verdict("identity mobile name", "none")


@given(st.from_regex(r"[1-9][0-9]{16}", fullmatch=True))
def test_the_check_character_is_the_one_of_mod_11_2(digits: str) -> None:
    # ISO 7064: the whole number, its last character worth 1 and the others powers of 2, leaves 1 when divided by 11.
    check = check_of(digits)
    values = [int(digit) for digit in digits] + [10 if check == "X" else int(check)]
    assert sum(value * 2 ** (17 - place) for place, value in enumerate(values)) % 11 == 1


@given(st.from_regex(r"[0-9]{15}", fullmatch=True))
def test_one_last_digit_in_ten_fits(digits: str) -> None:
    assert sum(passes_luhn(digits + last) for last in "0123456789") == 1


@given(
    st.sampled_from(["110105", "440301", "650102"]),
    st.dates(min_value=date(1900, 1, 1), max_value=date(2049, 12, 31)),
    st.integers(0, 999),
    st.sampled_from("0123456789X"),
)
def test_an_identity_number_is_found_if_and_only_if_it_checks(region: str, born: object, order: int, last: str) -> None:
    digits = f"{region}{re.sub('-', '', str(born))}{order:03d}"
    assert (private(f"号{digits}{last}。") == [(1, 19, "identity")]) == (last == check_of(digits))


PIECES = [
    "13812345678",
    IDENTITY,
    "王",
    "老师",
    "李小明",
    "先生",
    "a@b.cn",
    "京A12345",
    "姓名：",
    "，",
    " ",
    "电话：",
    "88886666",
]


@example("电话：88886666a@b.cn")
@given(st.lists(st.sampled_from(PIECES), max_size=7).map("".join))
def test_masks_are_not_masked_again(text: str) -> None:
    once = Pii().caption(text)
    assert isinstance(once, str)
    assert Pii().caption(once) == once


def test_many_hits_come_to_an_end() -> None:
    assert Pii().caption("京A12345 " * 20_000) == "<车牌号> " * 20_000


def test_every_kind_has_a_tag() -> None:
    assert set(TAGS) == set(Pii().kinds)


@pytest.mark.skipif(not REAL_DATA.is_dir(), reason="needs the real captions")
def test_captions_dishes_and_poems_hold_nothing_private() -> None:
    lines = (REAL_DATA / "captions/coco-cn_ext.icap2020.txt").read_text(encoding="utf-8").splitlines()
    texts = [line.split("\t", 1)[1] for line in lines]
    texts += (REAL_DATA / "texts/howtocook_dish_names.txt").read_text(encoding="utf-8").splitlines()
    assert [text for text in texts if private(text)] == []
