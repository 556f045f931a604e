"""`bimo info` and the label of `bimo draw`."""

import json
from pathlib import Path

import pytest
from PIL import Image

from bimo.cli.main import run


def test_a_labelled_picture_is_read_back(tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "a.png"
    command = ["draw", "红苹果", "-m", str(tiny_folder), "--steps", "1", "-o", str(file)]
    assert run([*command, "--label", "CN", "--producer", "某公司"]) == 0
    capsys.readouterr()
    assert run(["info", str(file), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["label"]["ContentProducer"] == "某公司"
    assert found["visible_label"]
    assert found["record"]["request"]["text"] == "红苹果"
    assert run(["info", str(file)]) == 0
    assert "某公司" in capsys.readouterr().out


@pytest.mark.parametrize(
    "options", [["--label", "CN"], ["--producer", "x"], ["--label", "EU", "--producer", "x"]], ids=str
)
def test_half_a_label_is_refused(options: list[str], tiny_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["draw", "红苹果", "-m", str(tiny_folder), *options]) == 2
    assert "label" in capsys.readouterr().err


def test_files_that_say_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "a.jpg"
    Image.new("RGB", (64, 64)).save(file)
    assert run(["info", str(file)]) == 0
    assert run(["info", str(tmp_path / "none.png")]) == 2
    (tmp_path / "text.png").write_text("x")
    assert run(["info", str(tmp_path / "text.png")]) == 2
    assert "Traceback" not in capsys.readouterr().err
