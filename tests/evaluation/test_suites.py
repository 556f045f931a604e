"""Prompt suites: our own by its structure, published ones by rows of their formats, bad rows counted."""

import json
import re
from collections import Counter
from pathlib import Path

import opencc
import pytest

from bimo.core.errors import DataError, RequestError
from bimo.evaluation.suites.readers import FORMATS, open_suite
from bimo.evaluation.suites.suite import Suite, family_of, own
from bimo.prompts.poems import poems

SIZES = {
    "dishes": 28, "idiom_story": 18, "idiom_meant": 18, "verses": 24, "terms": 24, "festivals": 16, "dress": 14,
    "landmarks": 18, "brush": 16, "counts": 22, "colours": 18, "negation": 14, "relations": 18, "invariance": 20,
    "mixed": 12, "inscriptions": 20,
}  # fmt: skip
HAN = re.compile("[\u3400-\u9fff]")


@pytest.fixture(scope="module")
def chinese() -> Suite:
    return own()


def test_there_are_three_hundred_for_chinese(chinese: Suite) -> None:
    mine = [prompt for prompt in chinese.prompts if prompt.language == "zh"]
    assert len(mine) == 300
    assert Counter(prompt.group for prompt in mine) == SIZES
    assert all(HAN.search(prompt.text) for prompt in mine)


def test_each_has_an_english_but_spellings(chinese: Suite) -> None:
    zh = {prompt.key for prompt in chinese.prompts if prompt.language == "zh" and not prompt.variant_of}
    en = [prompt for prompt in chinese.prompts if prompt.language == "en"]
    assert {prompt.pair for prompt in en} == zh
    # Text that must stand in the picture stays Chinese.
    assert not [p.key for p in en if HAN.search(re.sub("“[^”]*”", "", p.text))]


def test_no_prompt_stands_twice(chinese: Suite) -> None:
    assert len({prompt.text for prompt in chinese.prompts}) == len(chinese.prompts)
    assert len({prompt.key for prompt in chinese.prompts}) == len(chinese.prompts)


def test_every_prompt_says_what_is_seen_in_both_languages_and_where_it_is_from(chinese: Suite) -> None:
    for prompt in chinese.prompts:
        assert prompt.source, prompt.key
        assert any(check.seen for check in prompt.checks), prompt.key
        for check in prompt.checks:
            assert HAN.search(check.zh), (prompt.key, check)
            assert check.en, (prompt.key, check)
            assert not HAN.search(check.en), (prompt.key, check)
            assert not re.search(r"[。？！.?!]$", check.zh + check.en), (prompt.key, check)
        phrases = [check.zh for check in prompt.checks]
        assert len(set(phrases)) == len(phrases), prompt.key
    least = Counter(p.group for p in chinese.prompts if p.language == "zh" and any(not c.seen for c in p.checks))
    assert all(least[group] for group in SIZES)


def test_spellings_say_the_same(chinese: Suite) -> None:
    by_key = {prompt.key: prompt for prompt in chinese.prompts}
    simplified, marks = opencc.OpenCC("t2s"), re.compile(r"[\W_]")
    spellings = [prompt for prompt in chinese.prompts if prompt.variant_of]
    assert len(spellings) == 15
    for prompt in spellings:
        base = by_key[prompt.variant_of]
        assert prompt.checks == base.checks
        assert prompt.text != base.text
        narrow = prompt.text.translate({wide: wide - 0xFEE0 for wide in range(0xFF01, 0xFF5F)})
        assert marks.sub("", simplified.convert(narrow)) == marks.sub("", base.text), prompt.key


def test_what_must_be_written_stands_in_the_prompt(chinese: Suite) -> None:
    written = [prompt for prompt in chinese.prompts if prompt.written]
    assert {prompt.group for prompt in written} == {"inscriptions"}
    for prompt in written:
        assert all(f"“{part}”" in prompt.text for part in prompt.written), prompt.key


def test_verses_stand_in_the_poems_that_they_name(chinese: Suite) -> None:
    """For those that the collections of the package have."""
    plain = re.compile(r"[\W_]+")
    known = {plain.sub("", poem.text): poem for poem in poems()}
    found = 0
    for prompt in chinese.prompts:
        if prompt.group == "verses" and prompt.language == "zh":
            author = prompt.source.partition("《")[0]
            mine = [poem for text, poem in known.items() if plain.sub("", prompt.text) in text]
            found += bool(mine)
            assert not mine or author in {poem.author for poem in mine}, (prompt.text, mine)
    assert found >= 18


def test_a_check_is_asked_in_the_language_that_there_is(chinese: Suite) -> None:
    ants = next(check for p in chinese.prompts if p.key == "dishes.02" for check in p.checks if not check.seen)
    assert ants.question_in("zh") == "这张图里能看到真的蚂蚁吗？"
    assert (ants.question_in("en"), ants.expected("en")) == ("Can you see real ants in this picture?", "no")


def test_a_limit_keeps_spellings_and_languages_together(chinese: Suite) -> None:
    few = chinese.only(limit=2)
    families = {(prompt.group, family_of(prompt)) for prompt in few.prompts}
    assert Counter(group for group, _ in families) == dict.fromkeys(SIZES, 2)
    assert sum(prompt.group == "invariance" for prompt in few.prompts) == 10  # 2 x (4 spellings and the English)
    assert few.digest != chinese.digest


ROWS: dict[str, tuple[str, str]] = {
    "coco-cn": ("COCO_val2014_000000217153#0\t一个男人和一个女人穿着军装玩手机。\n", "COCO_val2014_000000217153"),
    "aic-icc": (json.dumps([{"url": "", "image_id": "8f00.jpg", "caption": ["两个人在跑步", "有人"]}]), "8f00.jpg"),
    "flickr30k-cna": ("1007129816.jpg#0\t戴帽子的男人\n", "1007129816.jpg"),
    "muge": (json.dumps({"query_id": 8426, "query_text": "松紧腰长裤", "item_ids": [42967]}), "42967"),
    "unigenbench-zh": (
        "index,prompt_zh,sub_dims_zh\n0,水墨画里的两只熊猫,"
        + '"{""考点"": [""风格"", ""属性-数量""], ""考点对应描述"": [""水墨画"", ""两只熊猫""]}"\n',
        "",
    ),
    "longtext-zh": (json.dumps({"category": "sign", "prompt": "招牌“面馆”", "text": ["面馆"]}), ""),
    "oneig-zh": ("category,id,prompt_cn,class\nText_Rendering,000,招牌上写着“面馆”,\n", ""),
    "wegenbench": (
        json.dumps({"id": "CN_796", "prompt": "木牌“万圣节快乐”", "text": ["万圣节快乐"], "type": "节日"}),
        "",
    ),
    "parti": ("Prompt\tCategory\tChallenge\tNote\nbond\tAbstract\tBasic\tnote\n", ""),
    "geneval": (
        json.dumps({"tag": "colors", "prompt": "a red dog", "include": [{"class": "dog", "count": 1, "color": "red"}]}),
        "",
    ),
    "geneval2": (
        json.dumps({"prompt": "two toys", "atom_count": 2, "vqa_list": [["How many toys are in the image?", "two"]]}),
        "",
    ),
    "cvtg-2k": (
        json.dumps(
            {
                "data_list": [
                    {
                        "index": 7,
                        "prompt": "A stall's sign that says 'Fresh Tea' and a cup that says 'It's hot!'.",
                        "carrier_list": ["sign", "cup"],
                        "sentence_list": ["sign that says 'Fresh Tea'", "a cup that says 'It's hot!'"],
                    }
                ]
            }
        ),
        "",
    ),
    "qwen-image-bench": (json.dumps([{"id": 3, "prompt_zh": "红苹果", "prompt_en": "a red apple"}]), ""),
}


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_is_read(name: str, tmp_path: Path) -> None:
    content, image = ROWS[name]
    (tmp_path / "file").write_text(content, encoding="utf-8")
    suite = open_suite(f"{name}:{tmp_path / 'file'}")
    assert (suite.name, suite.prompts[0].image, dict(suite.unusable)) == (name, image, {})


def test_published_rows_keep_what_is_asked_of_them(tmp_path: Path) -> None:
    def read(name: str) -> Suite:
        (tmp_path / name).write_text(ROWS[name][0], encoding="utf-8")
        return open_suite(f"{name}:{tmp_path / name}")

    assert [check.zh for check in read("unigenbench-zh").prompts[0].checks] == ["“水墨画”", "“两只熊猫”"]
    assert read("oneig-zh").prompts[0].written == ("面馆",)
    assert read("wegenbench").prompts[0].written == ("万圣节快乐",)
    sign = read("cvtg-2k").prompts[0]
    assert (sign.key, sign.group, sign.written) == ("7", "2 regions", ("Fresh Tea", "It's hot!"))
    assert read("geneval").prompts[0].checks[0].en == "exactly 1 red dog"
    counted = read("geneval2").prompts[0].checks[0]
    assert (counted.question_in("zh"), counted.expected("zh")) == ("How many toys are in the image?", "two")
    assert [(p.language, p.pair) for p in read("qwen-image-bench").prompts] == [("zh", "3"), ("en", "3")]


def test_oneig_s_list_of_texts_is_read_as_well(tmp_path: Path) -> None:
    rows = ",id,prompt_cn,text_content\n0,049,标题是樱花之恋,['樱花之恋']\n1,050,空白,[\n"
    (tmp_path / "text_content_zh.csv").write_text(rows, encoding="utf-8")
    suite = open_suite(f"oneig-zh:{tmp_path / 'text_content_zh.csv'}")
    assert [(p.key, p.group, p.written) for p in suite.prompts] == [
        ("Text_Rendering-049", "Text_Rendering", ("樱花之恋",))
    ]
    assert suite.unusable == {"row of another format": 1}


def test_wegenbench_s_ids_are_names_and_its_english_wants_chinese(tmp_path: Path) -> None:
    rows = [
        {"id": "cn_ip_000.png", "prompt": "小和尚拜佛", "style": "", "type": "IP"},
        {"id": "EN_9", "prompt": "A wooden sign with “面馆” on it", "text": ["面馆"], "type": "x"},
    ]
    (tmp_path / "rows").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    suite = open_suite(f"wegenbench:{tmp_path / 'rows'}")
    assert [(p.key, p.language) for p in suite.prompts] == [("cn_ip_000", "zh"), ("EN_9", "en")]


def test_bad_rows_and_duplicates_are_counted(tmp_path: Path) -> None:
    row = json.loads(ROWS["longtext-zh"][0])
    lines = [json.dumps(row), json.dumps(row), "{", json.dumps({"prompt": ""}), json.dumps({"prompt": "x"}), "[]"]
    (tmp_path / "rows.jsonl").write_text("\n".join(lines), encoding="utf-8")
    suite = open_suite(f"longtext-zh:{tmp_path / 'rows.jsonl'}")
    assert len(suite.prompts) == 1
    assert suite.unusable == {"line is no JSON": 1, "no text": 1, "duplicate prompt": 1, "row of another format": 2}


def test_a_file_of_prompts_is_a_suite(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("# 我的\n红苹果\n\n绿苹果\n红苹果\n", encoding="utf-8")
    suite = open_suite(str(tmp_path / "mine.txt"))
    assert [prompt.text for prompt in suite.prompts] == ["红苹果", "绿苹果"]
    assert suite.unusable == {"duplicate prompt": 1}
    (tmp_path / "mine.csv").write_text("prompt,written\n招牌“茶”,茶\n", encoding="utf-8")
    assert open_suite(str(tmp_path / "mine.csv")).prompts[0].written == ("茶",)


def test_a_suite_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="longtext-zh:FILE"):
        open_suite("longtext-zh")
    with pytest.raises(RequestError, match="chinese"):
        open_suite("chines")
    with pytest.raises(RequestError, match="unigenbench-zh"):
        open_suite("unigenbench:x.csv")
    (tmp_path / "empty.txt").write_text("\n", encoding="utf-8")
    with pytest.raises(DataError, match="holds no row at all"):
        open_suite(str(tmp_path / "empty.txt"))
    (tmp_path / "wrong.jsonl").write_text('{"prompt": ""}\n[]\n', encoding="utf-8")
    with pytest.raises(DataError, match=r"holds no prompt \(2 rows are none: no text 1, row of another format 1\)"):
        open_suite(f"longtext-zh:{tmp_path / 'wrong.jsonl'}")
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="UTF-8"):
        open_suite(str(tmp_path / "binary.txt"))
    with pytest.raises(DataError, match="no group 'dish'"):
        own().only(groups=("dish",))
