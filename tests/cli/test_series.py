"""Lists, wildcards and sheets on the command line: each picture by its own record, nothing drawn twice."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from bimo.cli import main, series
from bimo.core.errors import RequestError
from bimo.core.picture import read_metadata
from bimo.prompts.wildcards import Wildcards


@pytest.fixture(autouse=True)
def english(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BIMO_LANGUAGE", "en")


def drawn(*arguments: str) -> None:
    assert main.run(["draw", *arguments, "--steps", "1"]) == 0


@pytest.mark.slow
def test_resume_skips_existing_pictures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prompt = "{红|绿}__水果__"
    drawn(prompt, "-n", "2", "--resume", "-o", str(tmp_path))
    before = {file: file.stat().st_mtime_ns for file in tmp_path.glob("*.png")}
    drawn(prompt, "-n", "3", "--resume", "-o", str(tmp_path))
    after = {file: file.stat().st_mtime_ns for file in tmp_path.glob("*.png")}
    assert len(before) == 2
    assert len(after) == 3
    assert before.items() <= after.items()
    texts = {read_metadata(file)["request"]["text"]: read_metadata(file)["request"]["seed"] for file in after}
    assert {Wildcards().chosen(prompt, seed) for seed in texts.values()} == set(texts)
    capsys.readouterr()
    drawn(prompt, "-n", "3", "--resume", "-o", str(tmp_path))
    assert "all 3" in capsys.readouterr().err
    # A picture of a record is drawn again by itself.
    file = next(iter(after))
    assert main.run(["draw", "--again", str(file), "--json", "-o", str(tmp_path / "again.png")]) == 0
    assert json.loads(capsys.readouterr().out)["identical"]


def test_a_table_has_fields_of_its_own(tmp_path: Path) -> None:
    table = tmp_path / "p.csv"
    table.write_text("提示词,种子,size\n红苹果,5,\n一只猫,,64x64\n", encoding="utf-8")
    drawn("--prompts", str(table), "--seed", "9", "-o", str(tmp_path))
    first, second = (read_metadata(tmp_path / f"{name}.png")["request"] for name in ("红苹果", "一只猫"))
    assert (first["seed"], first["size"]) == (5, [256, 256])
    assert (second["seed"], second["size"]) == (9, [64, 64])


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("p.csv", "text,stepz\na,3\n", r"row 1.*stepz.*steps"),
        ("p.csv", "text,steps\na,3\nb,many\n", r"row 2.*steps"),
        ("p.csv", "text\na,b\n", r"row 1.*columns"),
        ("p.jsonl", '{"text": "a"}\n[1]\n', "line 2"),
        ("p.jsonl", '{"image": "a.png"}\n', "image"),
        ("p.txt", "# none\n", "no prompt"),
        ("p.xlsx", "a", "expected .txt"),
    ],
)
def test_a_row_that_cannot_be_drawn_is_named(tmp_path: Path, name: str, text: str, said: str) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(RequestError, match=said):
        series.rows(tmp_path / name)


def test_a_sheet_has_a_cell_for_every_value(tmp_path: Path) -> None:
    sheet = tmp_path / "sheet.png"
    drawn("a cat", "--x", "seed=1,2,3", "--y", "cat=cat,dog", "--size", "64", "-o", str(sheet))
    assert [file.name for file in tmp_path.glob("*.png")] == ["sheet.png"]
    with Image.open(sheet) as image:
        record = json.loads(image.info["bimo-sheet"])
        assert image.width > 3 * 64
        assert image.height > 2 * 64
    requests = [one["request"] for one in record["pictures"]]
    assert [(one["text"], one["seed"]) for one in requests] == [
        (f"a {animal}", seed) for animal in ("cat", "dog") for seed in (1, 2, 3)
    ]


@pytest.mark.parametrize(
    ("axis", "said"), [("steps", "FIELD=value"), ("stepz=1", "steps"), ("seed=" + "1," * 2000 + "1", "at most")]
)
def test_invalid_axes_are_refused(axis: str, said: str) -> None:
    with pytest.raises(RequestError, match=said):
        list(series.cells({"text": "a"}, [series.Axis.of("--x", axis, "a cat")]))


def test_an_explanation_is_a_table_or_a_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["draw", "（红：1.5）苹果，写着“福”", "--explain"]) == 0
    shown = capsys.readouterr().out
    assert "红苹果:1.5" in shown
    assert "“福”" in shown
    page = tmp_path / "page.html"
    assert main.run(["draw", "（红：1.5）苹果<lora:x:1>", "--explain", "-o", str(page)]) != 0
    assert main.run(["draw", "（红：1.5）苹果<b>", "--explain", "-o", str(page)]) == 0
    text = page.read_text(encoding="utf-8")
    assert '<span class="weighed"' in text
    assert "<b>" not in text
    assert not list(tmp_path.glob("*.png"))
