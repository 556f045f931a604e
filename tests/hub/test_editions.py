"""Which bundled model draws a prompt when none is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from bimo.cli import main
from bimo.core.picture import read_metadata
from bimo.core.request import Request
from bimo.hub.editions import SECOND, edition_for, edition_for_all, models_that_know


@pytest.mark.parametrize(
    ("prompt", "second"),
    [
        ("小桥流水人家，水彩", True),
        ("小橋流水人家", True),
        ("举头望明月，低头思故乡。", True),
        ("孤舟蓑笠翁", True),
        ("宫保鸡丁", True),
        ("Mapo tofu", True),
        ("长城，油画", True),
        # Of which it knows more words, in commoner ones, too.
        ("樱花树下的小路", True),
        ("穿着宇航服的哈士奇", True),
        ("bamboo forest in the mist", True),
        ("香港维多利亚港", True),
        ("雪山下的湖泊", True),
        # What is put together from references.
        ("草地上的奶牛", True),
        ("a panda, watercolour", True),
        ("守株待兔", True),
        ("一只柯基", True),
        ("绿色的猫", True),
        ("一只猫", True),
        ("月亮", True),
        # What neither knows is refused by the default.
        ("区块链", False),
        # A name with the thing's own colour.
        ("红苹果", False),
        ("红灯笼上写着「福」", False),
        ("", False),
    ],
)
def test_a_scene_a_dish_or_a_verse_is_for_the_second(prompt: str, second: bool) -> None:
    assert (edition_for(prompt) == SECOND) is second


@pytest.mark.slow
def test_a_dish_is_drawn_by_the_one_that_learned_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    drawn = tmp_path / "dish.png"
    assert main.run(["draw", "宫保鸡丁", "--steps", "1", "-o", str(drawn)]) == 0
    assert read_metadata(drawn)["recipe"] == SECOND
    assert "xiaomo-2" in capsys.readouterr().err
    # Named, a model draws what it can, or says who could.
    assert main.run(["draw", "宫保鸡丁", "-m", "xiaomo", "--steps", "1", "-o", str(tmp_path / "none.png")]) != 0
    assert "-m xiaomo-2" in capsys.readouterr().err
    assert not (tmp_path / "none.png").exists()


def test_several_prompts_are_drawn_by_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "prompts.txt").write_text("红灯笼上写着“福”\n宫保鸡丁的碗，红苹果\n", "utf-8")
    words = ["draw", "--prompts", str(tmp_path / "prompts.txt"), "--steps", "1", "-o", str(tmp_path / "out"), "--json"]
    assert main.run(words) == 0
    assert json.loads(capsys.readouterr().out)["recipe"] == "xiaomo"


def test_who_knows_a_word_is_found_without_weights() -> None:
    assert list(models_that_know("宫保鸡丁", "xiaomo")) == ["xiaomo-2"]
    assert list(models_that_know("赛博朋克", "xiaomo")) == []
    assert list(models_that_know("红苹果", "xiaomo-2")) == ["xiaomo"]


@pytest.mark.parametrize(
    ("prompts", "edition"),
    [
        (("红苹果",), "xiaomo"),
        (("长城", "红苹果", "猫"), SECOND),  # it has a draft of the apple
        (("长城", "红灯笼上写着「福」"), "xiaomo"),
    ],
)
def test_the_edition_of_several_prompts(prompts: tuple[str, ...], edition: str) -> None:
    assert edition_for_all([Request(text=prompt) for prompt in prompts]) == edition


@pytest.mark.parametrize(
    "fields",
    [
        {"image": Image.new("RGB", (64, 64)), "strength": 0.5},
        {"draft": 0},
        {"seamless": "both"},
    ],
)
def test_what_has_no_draft_is_for_who_knows_more(fields: dict[str, Any]) -> None:
    assert edition_for_all([Request(text="一只猫")]) == SECOND
    assert edition_for_all([Request(text="一只猫", **fields)]) == "xiaomo"


def test_of_another_shape_an_effect_has_no_draft() -> None:
    shapes = [Request(text=text, size=(192, 128)) for text in ("一只猫", "雪地里的猫", "猫，水墨画", "(一只猫:1.2)")]
    assert [edition_for_all([one]) for one in shapes] == [SECOND, SECOND, "xiaomo", SECOND]
