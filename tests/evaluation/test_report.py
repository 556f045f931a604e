"""A report survives writing and reading; the page holds its pictures."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from PIL import Image

from bimo.core.errors import DataError
from bimo.core.messages import Message, speaking
from bimo.data.sheets import sheet
from bimo.evaluation.figures import Figure
from bimo.evaluation.intervals import Interval
from bimo.evaluation.report import Labels, Report, markdown, read_report, rows, verdict_class

LABELS = Labels(
    {"unseen": Message("Counts"), "seeds": Message("Two seeds")},
    {"kind and style": Message("kind and style right")},
    {"nearest picture": Message("nearest training picture")},
)


def report(folder: Path) -> Report:
    sheet(
        [Image.new("RGB", (32, 32), (200, 0, 0))] * 3,
        ["红苹果", "一句长得放不下的话一句长得放不下的话", "c"],
        folder / "sheet.png",
        2,
    )
    better = Figure("unseen", "kind and style", "zh", "share", Interval(0.9, 0.85, 0.94, 200),
                    {"nearest picture": Interval(0.1, 0.05, 0.2, 200), "first level": None},
                    Interval(0.95, 0.9, 0.97, 200))  # fmt: skip
    spread = Figure("seeds", "pixels, two seeds", "zh", "mean", Interval(math.nan, math.nan, math.nan, 0))
    return Report(
        kind="evaluation",
        recipe="小 <b>",
        weights="0123456789abcdef",
        when="2026-11-22 06:00 UTC",
        protocol={"steps": 20, "share": math.nan},
        figures=[better.as_dict(), spread.as_dict()],
        tables={"a | b": [["style", "n"], ["3d", "4"]]},
        pictures={"sheet": "sheet.png"},
        notes=["读法"],
    )


def test_report_round_trip(tmp_path: Path) -> None:
    written = report(tmp_path)
    written.write(tmp_path, LABELS)
    read = read_report(tmp_path / "report.json")
    assert read.figures[0] == written.figures[0]
    assert read.numbers["unseen.zh.kind and style"] == 0.9
    assert read.figures[1]["model"]["value"] is None
    read.write(tmp_path, LABELS)
    assert read_report(tmp_path / "report.json") == read
    assert "NaN" not in (tmp_path / "report.json").read_text("utf-8")


def test_page_is_whole_and_escaped(tmp_path: Path) -> None:
    report(tmp_path).write(tmp_path, LABELS)
    text = (tmp_path / "report.html").read_text("utf-8")
    assert "小 &lt;b&gt;" in text
    assert "data:image/png;base64," in text
    assert '<tr class="above">' in text


@pytest.mark.parametrize(
    ("language", "group", "measure", "verdict"),
    [
        ("zh", "数量", "种类和风格都对", "高于最近的训练图"),
        ("en", "Counts", "kind and style right", "above the nearest training picture"),
    ],
)
def test_a_report_is_in_one_language(tmp_path: Path, language: str, group: str, measure: str, verdict: str) -> None:
    with speaking(language):
        report(tmp_path).write(tmp_path, LABELS)
    for name in ("report.html", "report.md"):
        text = (tmp_path / name).read_text("utf-8")
        assert group in text
        assert measure in text
        assert verdict in text
    assert ("model" in text) == (language == "en")


def test_a_figure_is_above_only_if_it_is_above_all_baselines() -> None:
    assert verdict_class({"verdicts": {"a": "above", "b": "above"}}) == "above"
    assert verdict_class({"verdicts": {"a": "above", "b": "not apart"}}) == ""
    assert verdict_class({"verdicts": {"a": "above", "b": "below"}}) == "below"
    assert verdict_class({"verdicts": {}}) == ""


def test_tables_have_a_column_for_each_baseline(tmp_path: Path) -> None:
    table = rows(report(tmp_path), LABELS, "unseen")
    assert [len(row) for row in table] == [8, 8]
    assert table[1][3:6] == ["90.0 % [85.0, 94.0]", "10.0 % [5.0, 20.0]", "–"]
    assert table[1][7] == "95.0 % [90.0, 97.0]"
    assert "| 90.0 % [85.0, 94.0] |" in markdown(report(tmp_path), LABELS)


def test_a_damaged_report_says_so(tmp_path: Path) -> None:
    (tmp_path / "report.json").write_text(json.dumps({"kind": "x"}))
    with pytest.raises(DataError, match=r"report\.json"):
        read_report(tmp_path / "report.json")
