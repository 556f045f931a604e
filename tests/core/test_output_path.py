"""Where pictures go: a slash at the end makes a folder."""

from pathlib import Path

import pytest

from bimo.core.errors import RequestError
from bimo.core.output_path import OutputPath


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


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "cat.png").write_bytes(b"")
    with pytest.raises(RequestError, match=r"cat\.png"):
        OutputPath(f"{tmp_path}/cat.png/", "猫").check()
