"""Rules over captions: what is mended, what goes and why, what stays, and that doing it twice changes nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bimo.core.errors import DataError
from bimo.curation.filters.caption_rules import (
    Adverts,
    HanShare,
    Language,
    Length,
    Meaningless,
    Normal,
    Repetition,
    TokenLength,
    language_of,
    units,
)
from bimo.curation.steps import CaptionStep, Verdict
from tests.support.checkout import REAL_DATA

STEPS = (*(Normal(), Meaningless(), Adverts(), Adverts(tails="trim"), Length(), HanShare(), Language(), Repetition()),)
CAPTIONS = REAL_DATA / "captions" / "coco-cn_ext.icap2020.txt"
#: Captions of the demonstration set that Taiyi's authors published (Fengshenbang-LM, Apache-2.0): the web as it is.
OF_THE_WEB = (
    "牛津高阶英汉双解词典 (第6版)(内容一致,印次、封面或原价不同,统一售价,随机发货",
    "照相机显示走和做购物的愉快的人民 股票视频",
    "用与巧克力蛋糕的正确的新月形面包和在灰色木背景的一个桔子,其次洒与桃红色 图库摄影",
    "可燃气体油管 库存图片",
    "彩绘百合花图片",
    "直升机战争VR图4",
)


@pytest.mark.parametrize("step", STEPS, ids=lambda step: type(step).__name__)
def test_is_a_caption_step(step: CaptionStep) -> None:
    assert isinstance(step, CaptionStep)
    assert all(step.says)


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("ＡＢＣ１２３　红烧肉", "ABC123 红烧肉"),
        ("他说：“好！”（真的？）", "他说：“好！”（真的？）"),
        ("臺灣 風景", "臺灣 風景"),
        (" 一\t只\r\n 猫 ", "一 只 猫"),
        ("a\u200bb\u202ec\ufeffd\u2066e\u00ad", "abcde"),
        ("tom &amp; jerry&nbsp;<br/>hi <b class='x'>there</b>", "tom & jerry hi there"),
        ("&amp;lt;", "<"),
        ("3 < 5 > 2 <手机号> <人名>先生", "3 < 5 > 2 <手机号> <人名>先生"),
        ("家庭\U0001f468\u200d\U0001f469\u200d\U0001f467", "家庭\U0001f468\u200d\U0001f469\u200d\U0001f467"),
        ("猫\u200d咪\ue000\ud800", "猫咪"),
        ("a" + "\u0301" * 3 + "b" + "\u0336" * 50, "\u00e1\u0301\u0301b" + "\u0336" * 8),
        ("ｶﾞｰﾄﾞ ⼈ e\u0301", "ガード 人 é"),
    ],
)
def test_normal(text: str, normal: str) -> None:
    assert Normal().caption(text) == normal


@pytest.mark.parametrize("text", ["", " \t\u3000", "\u200b\u202e", "<br/>", "\x00"])
def test_nothing_that_can_be_seen_goes(text: str) -> None:
    assert Normal().caption(text) == Verdict(0, 1)


@pytest.mark.parametrize(
    ("kind", "texts"),
    [
        (
            "bare word",
            "图片|照片 2|IMG_1234.jpg|DSC0001|微信图片_20200101120000.png|QQ截图20200101|mmexport1593333.jpg",
        ),
        (
            "bare word",
            "Image|Untitled|无标题|IMG-20200101-WA0003|P1010001|第3张|圖 3-2|ａｌｔ　ｔｅｘｔ|展开全文|如下图所示",
        ),
        ("bare word", "图片 图片 图片|no image|Click to enlarge|屏幕截图 2023-01-01 111213"),
        ("no words", "123|!!!|……|\U0001f600\U0001f600|2020-01-01 12:00:00|"),
        ("date", "2020年1月1日|２０２０年１２月|3月5日 12时30分"),
        ("id", "deadbeef01|13800138000|123e4567-e89b-12d3-a456-426614174000|v2-8f3a9b1c2d4e5f_r.jpg"),
        ("address", "https://a.cn/b.jpg?x=1|www.x.com|u=123,456&fm=26&gp=0.jpg|640?wx_fmt=png"),
        ("file name", "beach-sunset.jpg|猫.PNG"),
        ("garbled", "锟斤拷锟斤拷|一只\ufffd\ufffd"),
    ],
)
def test_meaningless(kind: str, texts: str) -> None:
    for text in texts.split("|"):
        found = Meaningless().caption(text)
        assert isinstance(found, Verdict), text
        assert found.threshold == kind, text


@pytest.mark.parametrize(
    "text",
    [
        "猫",
        "月",
        "日月",
        "picnic",
        "封面女郎",
        "图书馆",
        "iphone15promax",
        "a man",
        "cafe",
        "deadbeef",
        "2024春节",
        "图1：猫",
    ],
)
def test_short_is_not_meaningless(text: str) -> None:
    assert Meaningless().caption(text) == text


def test_a_chinese_name_loses_its_extension() -> None:
    assert Meaningless().caption("红烧肉.jpg") == "红烧肉"
    assert Meaningless().caption("红烧肉 成品.JPG.png ") == "红烧肉 成品"


@pytest.mark.parametrize(
    ("kind", "words", "text"),
    [
        ("price", "统一售价", OF_THE_WEB[0]),
        ("stock", "股票视频", OF_THE_WEB[1]),
        ("stock", "图库摄影", OF_THE_WEB[2]),
        ("stock", "库存图片", OF_THE_WEB[3]),
        ("stock", "图片大全", "可爱猫咪图片大全"),
        ("stock", "royalty-free", "A cat, Royalty-Free vector"),
        ("stock", "shutterstock", "猫_Shutterstock"),
        ("price", "包邮", "纯棉T恤 包郵"),
        ("price", "¥9", "陶瓷杯 ￥９.9"),
        ("offer", "随机发货", "颜色随机发货"),
        ("contact", "加微信", "想要的加微信"),
        ("contact", "vx:a", "红裙子 ＶＸ：abc123"),
        ("click", "点击查看", "点击查看更多好图"),
        ("click", "展开全文", "一只猫...展开全文"),
        ("click", "如下图所示", "步骤如下圖所示"),
    ],
)
def test_adverts(kind: str, words: str, text: str) -> None:
    assert Adverts().caption(text) == Verdict(words, kind)


@pytest.mark.parametrize(
    "text",
    [
        "他拍下了日落",
        "地下单车停放处",
        "点赞的手势",
        "扫码支付的顾客",
        "一张3折页",
        "挂着售价牌的小狗",
        *OF_THE_WEB[4:],
    ],
)
def test_what_only_looks_like_an_advert_stays(text: str) -> None:
    assert Adverts().caption(text) == text


def test_endings_of_stock_sites_can_be_cut_off() -> None:
    step = Adverts(tails="trim")
    assert step.caption(OF_THE_WEB[3]) == "可燃气体油管"
    assert step.caption("蓝天白云草原 - 免版税图片 | 图库摄影") == "蓝天白云草原"
    assert step.caption("猫 图库摄影") == Verdict("图库摄影", "stock")  # too little would stay
    assert step.caption("图库摄影师在工作") == Verdict("图库摄影", "stock")


def test_units_and_length() -> None:
    assert units("一只cat，don't run 3D打印 No.5 ガ 한글") == [
        *("一", "只", "cat", "don't", "run", "3D", "打", "印", "No.5", "ガ", "한", "글")
    ]
    assert Length(least=3, most=3).caption("一只cat！！") == "一只cat！！"
    assert Length(least=4).caption("一只cat") == Verdict(3, 4)
    assert Length(least=1, most=2).caption("一只cat") == Verdict(3, 2)
    assert Length(least=1).caption("。。。") == Verdict(0, 1)


def test_share_of_han() -> None:
    assert HanShare(above=0.5).caption("红苹果ABC 123！") == "红苹果ABC 123！"
    assert HanShare(above=0.5).caption("红苹果ABCD") == Verdict(0.4286, 0.5)
    assert HanShare(above=0.1).caption("123") == Verdict(0.0, 0.1)


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("一只猫 is on the sofa", "en"),
        ("一只黑猫 on sofa", "zh"),
        ("東京の桜が咲く", "ja"),
        ("서울의 봄 春", "ko"),
        ("красный кот", "ru"),
        ("123 ！？", "?"),
        ("ไทย", "?"),
    ],
)
def test_language_by_script(text: str, language: str) -> None:
    assert language_of(text) == language
    assert Language(among=(language,)).caption(text) == text
    assert Language(among=("xx", "yy")).caption(text) == Verdict(language, "xx yy")


def test_repetition() -> None:
    # 12 units, 10 runs of three, 3 different ones.
    assert Repetition(above=0.4).caption("红烧肉红烧肉红烧肉红烧肉") == Verdict(0.7, 0.4)
    assert Repetition(above=0.7).caption("红烧肉红烧肉红烧肉红烧肉") == "红烧肉红烧肉红烧肉红烧肉"
    assert Repetition().caption("好好学习，天天向上，好好学习") == "好好学习，天天向上，好好学习"
    assert Repetition().caption("哈哈哈哈哈哈哈") == "哈哈哈哈哈哈哈"
    assert Repetition().caption("哈哈哈哈哈哈哈哈") == Verdict(0.8333, 0.4)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    words = {"[UNK]": 0, "[CLS]": 1, "[SEP]": 2, "红": 3, "苹": 4, "果": 5}
    made = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    made.enable_truncation(4)
    folder = tmp_path_factory.mktemp("encoder")
    (folder / "tokenizer").mkdir()
    made.save(str(folder / "tokenizer" / "tokenizer.json"))
    return folder


def test_token_length_counts_marks_and_is_not_cut(tokenizer: Path) -> None:
    assert TokenLength(tokenizer=str(tokenizer), most=5).caption("红苹果") == "红苹果"
    assert TokenLength(tokenizer=str(tokenizer), most=4).caption("红苹果") == Verdict(5, 4)
    assert TokenLength(tokenizer=str(tokenizer), most=9).caption("红苹果红苹果红苹") == Verdict(10, 9)


def test_token_length_reads_a_vocabulary_of_bert(tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\n红\n苹\n果\n", encoding="utf-8")
    assert TokenLength(tokenizer=str(tmp_path), most=3).caption("红苹果") == Verdict(5, 3)


def test_no_tokenizer_is_said(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"tokenizer\.json"):
        TokenLength(tokenizer=str(tmp_path)).caption("红苹果")


@pytest.mark.parametrize(
    "text",
    [
        *("<" * 100_000, " " * 100_000 + "x", "?=" * 50_000, "1.1." * 50_000, "&amp;" * 99_999, "1" * 200_000),
        "a" + "\u0301\u0323" * 50_000,
    ],
    ids=["tags", "blanks", "addresses", "numbers", "escapes", "digits", "marks"],
)
def test_megabytes_of_marks_come_to_an_end(text: str) -> None:
    seen = Normal().caption(text)
    for step in STEPS if isinstance(seen, str) else ():
        assert isinstance(step.caption(str(seen)), str | Verdict)


@pytest.mark.slow
@given(st.text(max_size=60))
def test_normal_twice_is_normal_once(text: str) -> None:
    once = Normal().caption(text)
    assert once == Verdict(0, 1) or (isinstance(once, str) and Normal().caption(once) == once)


PIECES = st.sampled_from(
    (*OF_THE_WEB, "图片", "红烧肉", ".jpg", " ", "IMG_1", "图库摄影", " - ", "３Ｄ", "&lt;", "\u200d", "a")
)


@given(st.lists(PIECES, max_size=6).map("".join))
def test_steps_are_idempotent(text: str) -> None:
    for step in STEPS:
        once = step.caption(text)
        if isinstance(once, str):
            assert step.caption(once) == once, type(step).__name__


@pytest.mark.skipif(not CAPTIONS.is_file(), reason="needs the real captions")
def test_captions_that_people_wrote_stay() -> None:
    for line in CAPTIONS.read_text(encoding="utf-8").splitlines():
        text = line.split("\t", 1)[1].strip()
        for step in (Meaningless(), Adverts(), Repetition(), Language(), HanShare(), Length()):
            assert step.caption(text) == text
