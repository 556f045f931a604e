"""Wildcards and alternatives are chosen by the seed alone, from lists in both languages and of one's own."""

from pathlib import Path

import pytest

from bimo.core.errors import RequestError
from bimo.prompts.wildcards import Wildcards, bundled, has_wildcards


def test_every_bundled_list_is_in_both_languages() -> None:
    every = list(bundled().values())
    assert len(every) >= 30
    for zh, en in zip(every[::2], every[1::2], strict=True):
        assert len(zh) == len(en) == len(set(zh)) == len(set(en))


def test_the_seed_chooses_and_nothing_else() -> None:
    lists = Wildcards()
    prompt = "__季节__的{猫|狗|｛白｜黑｝兔}"
    found = [lists.chosen(prompt, seed) for seed in range(200)]
    assert found == [lists.chosen(prompt, seed) for seed in range(200)]
    assert {text[:2] for text in found} == set(bundled()["季节"])
    assert {text[3:] for text in found} == {"猫", "狗", "白兔", "黑兔"}


@pytest.mark.parametrize("prompt", ["一只猫", "写着“{福|寿}”的匾", "snake_case __ __", "{一只猫}", "a __ b"])
def test_what_leaves_nothing_to_choose(prompt: str) -> None:
    assert not has_wildcards(prompt)
    assert Wildcards().chosen(prompt, 1) == prompt


def test_lists_of_ones_own_come_first_and_may_name_lists(tmp_path: Path) -> None:
    (tmp_path / "季节.txt").write_text("# 一年\n梅雨季\n", encoding="utf-8")
    (tmp_path / "动物").mkdir()
    (tmp_path / "动物" / "水里.txt").write_text("一条__颜色__的鱼\n", encoding="utf-8")
    lists = Wildcards(tmp_path)
    assert lists.chosen("__季节__", 3) == "梅雨季"
    assert lists.chosen("__动物/水里__", 3).removeprefix("一条").removesuffix("的鱼") in bundled()["颜色"]


def test_invalid_wildcards_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("__b__")
    (tmp_path / "b.txt").write_text("__a__")
    (tmp_path / "空.txt").write_text("#\n")
    lists = Wildcards(tmp_path)
    for prompt, said in (
        ("__a__", "no end|没完"),
        ("__季街__", "季节"),
        ("__空__", "empty|空"),
        ("__../a__", "__../a__"),
    ):
        with pytest.raises(RequestError, match=said):
            lists.chosen(prompt, 1)
    with pytest.raises(RequestError, match="--wildcards"):
        Wildcards(tmp_path / "none")
