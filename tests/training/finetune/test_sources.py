"""What is learnt from: sources with weights, kohya's folders, captions where there are none, each in its account."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from bimo.core.errors import DataError
from bimo.data.loader import Pictures
from bimo.training.finetune.captions import Captions, caption_in_name
from bimo.training.finetune.sources import Source, as_data, prepared, sources


@pytest.fixture(autouse=True)
def english(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BIMO_LANGUAGE", "en")


def photo(path: Path, colour: tuple[int, int, int] = (200, 30, 30), caption: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (64, 48), colour).save(path)
    if caption:
        path.with_suffix(".txt").write_text(caption, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("红苹果", "红苹果"),
        ("red_apple-03", "red apple"),
        ("猫 (2)", "猫"),
        ("my cat_12", "my cat"),
        ("红苹果_09.png", "红苹果"),
        ("IMG_2041.jpeg", ""),
        ("St. Paul's", "St. Paul's"),
        ("IMG_2041", ""),
        ("微信图片_20240501123456", ""),
        ("DSC00017", ""),
        ("0007", ""),
        ("a3f09c21bb7e", ""),
        ("9b2c1d4e-aaaa-bbbb-cccc-1234567890ab", ""),
        ("photo (3)", ""),
        ("Screenshot 2024-05-01", ""),
    ],
)
def test_what_a_name_tells(name: str, said: str) -> None:
    assert caption_in_name(name) == said


def test_captions_come_from_the_nearest_that_says_something(tmp_path: Path) -> None:
    photo(tmp_path / "in" / "IMG_1.png", caption="一只猫")
    photo(tmp_path / "in" / "红苹果_2.png", (1, 2, 3))
    photo(tmp_path / "in" / "狗" / "IMG_3.png", (4, 5, 6))
    photo(tmp_path / "in" / "IMG_4.png", (7, 8, 9))
    captions = Captions(word="东西")
    said: list[str] = []
    data = prepared(sources([str(tmp_path / "in")]), tmp_path / "out", captions, said.append)
    assert sorted(text for texts in Pictures(*data.folders).captions for text in texts) == [
        "一只猫",
        "东西",
        "狗",
        "红苹果",
    ]
    assert captions.origins == {"captions beside": 1, "file name": 1, "folder name": 1, "class word": 1}
    assert said[0] == "4 pictures, all usable"
    origins = ("the class word", "their files' names", "their folders' names")
    assert sorted(captions.account("")) == [f"captions of 1 pictures are {origin}" for origin in origins]
    assert list(captions.account("<猫>")) == ["captions of 1 pictures are not learnt: each is called '<猫>'"]


def test_without_anything_to_say_nothing_is_begun(tmp_path: Path) -> None:
    for number in range(3):
        photo(tmp_path / "in" / f"IMG_{number}.png", (number, 0, 0), "一只猫" if number == 0 else "")
    with pytest.raises(DataError, match=r"2 of 3 pictures in .*IMG_1.png, IMG_2.png\).*--class WORD.*--captioner"):
        prepared(sources([str(tmp_path / "in")]), tmp_path / "out", Captions())
    assert not (tmp_path / "out").exists()


def test_what_cannot_be_read_is_counted_and_named(tmp_path: Path) -> None:
    for number in range(5):
        photo(tmp_path / "in" / f"{number}.png", (number, 0, 0), "一只猫")
    for name in ("1.png", "3.png"):
        (tmp_path / "in" / name).write_bytes(b"\x89PNG\r\n\x1a\n broken")
    (tmp_path / "in" / "lost.txt").write_text("no picture of this name", encoding="utf-8")
    said: list[str] = []
    prepared(sources([str(tmp_path / "in")]), tmp_path / "out", Captions(), said.append)
    assert said[0].startswith("2 of 5 pictures cannot be used and are left out: 1.png (")
    assert "3.png (" in said[0]
    assert any("captions without a picture of their name" in line and "lost.txt" in line for line in said)


def test_weights_and_folders_of_kohya(tmp_path: Path) -> None:
    photo(tmp_path / "train" / "10_一只 猫" / "a.png")
    photo(tmp_path / "train" / "2_狗" / "b.png", (1, 2, 3), "一只狗")
    photo(tmp_path / "more" / "红苹果.png", (4, 5, 6))
    texts = [f"{tmp_path / 'train'}*2", str(tmp_path / "more")]
    found = sources(texts)
    assert found == [
        Source(tmp_path / "train" / "10_一只 猫", 20, "一只 猫"),
        Source(tmp_path / "train" / "2_狗", 4, "狗"),
        Source(tmp_path / "more", 1, ""),
    ]
    data = prepared(found, tmp_path / "out", Captions())
    pictures = Pictures(*data.folders, repeats=data.repeats)
    assert list(pictures.groups) == [(0,)] * 20 + [(1,)] * 4 + [(2,)]
    assert list(pictures.captions) == [("一只 猫",), ("一只狗",), ("红苹果",)]
    assert pictures.digest != Pictures(*data.folders).digest
    assert Pictures(*data.folders, repeats=(1, 1, 1)).digest == Pictures(*data.folders).digest


def test_the_word_of_a_kohya_folder_comes_before_names_of_files(tmp_path: Path) -> None:
    photo(tmp_path / "train" / "10_汤" / "红苹果.png")
    photo(tmp_path / "train" / "10_汤" / "b.png", (1, 2, 3), "一碗汤")
    photo(tmp_path / "train" / "3_img" / "青苹果.png", (4, 5, 6))
    photo(tmp_path / "train" / "3_img" / "IMG_2.png", (7, 8, 9))
    captions = Captions(word="苹果")
    data = prepared(sources([str(tmp_path / "train")]), tmp_path / "out", captions)
    assert list(Pictures(*data.folders).captions) == [("一碗汤",), ("汤",), ("苹果",), ("青苹果",)]
    assert captions.origins == {"captions beside": 1, "folder name": 1, "file name": 1, "class word": 1}


def test_a_folder_of_kohya_that_is_named_itself_counts_so(tmp_path: Path) -> None:
    photo(tmp_path / "train" / "10_一只_猫" / "a.png")
    assert sources([f"{tmp_path / 'train' / '10_一只_猫'}*2"]) == [
        Source(tmp_path / "train" / "10_一只_猫", 20, "一只 猫")
    ]


def test_a_year_is_no_number_of_repeats(tmp_path: Path) -> None:
    photo(tmp_path / "in" / "2024_旅行" / "a.png")
    assert sources([str(tmp_path / "in")]) == [Source(tmp_path / "in")]


@pytest.mark.parametrize(
    ("text", "said"),
    [("in*0", "whole number from 1 on"), ("in*1.5", "whole number"), ("nowhere", "there is no folder nowhere")],
)
def test_what_is_no_source_is_said(text: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    photo(tmp_path / "in" / "a.png")
    with pytest.raises(DataError, match=said):
        sources([text])


def test_folders_with_and_without_repeats_are_not_guessed_at(tmp_path: Path) -> None:
    photo(tmp_path / "in" / "10_cat" / "a.png")
    photo(tmp_path / "in" / "dogs" / "b.png")
    with pytest.raises(DataError, match=r"10_cat.*dogs"):
        sources([str(tmp_path / "in")])


def test_data_stays_where_it_lies_and_one_process_writes(
    tmp_path: Path, tiny_shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photo(tmp_path / "in" / "a.png", caption="一只猫")
    data = as_data([f"{tiny_shards}*2", str(tmp_path / "in")], tmp_path / "run")
    assert data.folders == (tiny_shards, tmp_path / "run" / "data" / "2")
    assert data.repeats == (2, 1)
    assert len(Pictures(*data.folders, repeats=data.repeats).groups) == 33
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(DataError, match="bimo data folder"):
        as_data([str(tmp_path / "in")], tmp_path / "run")
