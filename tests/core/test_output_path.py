"""Where pictures go: folders by a slash, names of prompts, nothing replaced that was not named."""

import os
import re
from pathlib import Path

import pytest

from bimo.core.errors import RequestError
from bimo.core.output_path import OutputPath, name_of


def test_a_slash_makes_the_folder(tmp_path: Path) -> None:
    path = OutputPath(f"{tmp_path}/new/deep/", "猫")
    path.check()
    assert not (tmp_path / "new").exists()  # nothing is made before a picture is
    assert [path.write(b"1"), path.write(b"2")] == [
        tmp_path / "new" / "deep" / "猫.png",
        tmp_path / "new" / "deep" / "猫-2.png",
    ]
    again = OutputPath(f"{tmp_path}/new/deep", "猫")  # a folder by now
    assert again.write(b"3").name == "猫-3.png"
    assert OutputPath(f"{tmp_path}/cat", "猫").write(b"4") == tmp_path / "cat.png"


def test_a_file_as_a_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "cat.png").write_bytes(b"")
    with pytest.raises(RequestError, match=r"cat\.png"):
        OutputPath(f"{tmp_path}/cat.png/", "猫").check()


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("猫", "猫"),
        ("a/b\\c:d*?", "a b c d"),
        ("  ..hidden..  ", "hidden"),
        ("-rf ~", "rf"),
        ("line\nbreak\u2028here\x00", "line break here"),
        ("", "bimo"),
        ("???", "bimo"),
        ("con", "con_"),
        ("LPT1.old", "LPT1_.old"),
        ("constant", "constant"),
        ("e\u0301", "é"),
    ],
)
def test_names_of_prompts(text: str, name: str) -> None:
    assert name_of(text) == name


def test_a_long_prompt_is_cut_between_characters() -> None:
    name = name_of("猫" * 200)
    assert set(name) == {"猫"}
    assert len(name.encode()) == (255 - len("-99999.png")) // 3 * 3
    assert name_of("👩\u200d🍳" * 40, 30) == "👩\u200d🍳👩"  # no joiner is left at the cut


def test_only_a_named_file_is_replaced(tmp_path: Path) -> None:
    named = tmp_path / "cat.png"
    named.write_bytes(b"old")
    path = OutputPath(named, "猫")
    assert path.write(b"1") == named
    assert path.write(b"2") == tmp_path / "cat-2.png"  # the second picture of a command replaces nothing
    assert named.read_bytes() == b"1"
    assert sorted(each.name for each in tmp_path.iterdir()) == ["cat-2.png", "cat.png"]  # and no part is left


def test_a_file_system_without_links_is_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(source: object, target: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(os, "link", refused)
    path = OutputPath(tmp_path, "猫")
    assert [path.write(b"1").name, path.write(b"2").name] == ["猫.png", "猫-2.png"]
    assert [(tmp_path / name).read_bytes() for name in ("猫.png", "猫-2.png")] == [b"1", b"2"]


@pytest.mark.parametrize("name", ["cat.jpg", "cat.webp", "cat.PNG.gif"])
def test_other_formats_are_refused_with_the_name_to_use(tmp_path: Path, name: str) -> None:
    with pytest.raises(RequestError, match=re.escape(str((tmp_path / name).with_suffix(".png")))):
        OutputPath(tmp_path / name, "猫").check()


def test_a_name_that_is_too_long_is_refused_before_anything_is_drawn(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="cannot write"):
        OutputPath(tmp_path / ("x" * 300 + ".png"), "猫").check()
    with pytest.raises(RequestError, match="cannot write"):
        OutputPath(f"{tmp_path}/a\0b.png", "猫").check()
    assert list(tmp_path.iterdir()) == []


def test_a_stream_is_written_to_and_never_replaced(tmp_path: Path) -> None:
    path = OutputPath("/dev/null", "猫")
    path.check()
    assert path.stream
    assert path.write(b"1") == Path("/dev/null")
    assert not Path("/dev/null").is_file()
