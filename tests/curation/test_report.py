"""The page: what it shows of a run, that captions stay text, that pictures lie by their line or are said to be gone."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bimo.core.errors import DataError
from bimo.curation.dedup.duplicates import Duplicates
from bimo.curation.filters.caption_rules import Length, Normal
from bimo.curation.filters.image_rules import MinSide
from bimo.curation.phases.run import curate
from bimo.curation.report.example_images import SIDE, visible
from bimo.curation.report.histograms import drawable, figure, histogram
from bimo.curation.report.page import lines_of, page
from bimo.curation.steps import Curation, Tools

HOSTILE = "<script>alert(1)</script>&\u202e红烧肉"
ROWS = 24


class Tags(HTMLParser):
    """The tags of a page, what they carry, and whether they are closed in order."""

    VOID = ("meta", "img", "br", "rect", "path")

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def tags_of(text: str) -> list[tuple[str, dict[str, str | None]]]:
    parser = Tags()
    parser.feed(text)
    assert parser.open == []
    return parser.tags


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, dict[str, Any]]:
    """24 rows: sides of 40 to 63, a copy, one that is no picture, one with a hostile caption. Not to be written to."""
    source, out = (tmp_path_factory.mktemp("page") / name for name in ("source", "out"))
    source.mkdir()
    for number in range(ROWS):
        noise = np.random.default_rng(number).integers(0, 256, (40 + number, 300, 3), dtype=np.uint8)
        path = source / f"{number:02d}.jpg"
        Image.fromarray(noise).resize((300, 40 + number)).save(path, quality=95)
        path.with_suffix(".txt").write_text({15: "x", 9: HOSTILE}.get(number, f"第 {number} 张照片"), "utf-8")
    (source / "20.jpg").write_bytes((source / "22.jpg").read_bytes())
    (source / "05.jpg").write_bytes(b"<html><b>no</b>")
    steps = (MinSide(pixels=50), Normal(), Length(least=2), Duplicates(bits=4))
    listed = Curation(name="mine", title="<b>我的</b>", steps=steps)
    report = curate(source, out, listed, tools=Tools(_no_scorer))
    return source, out, report


def _no_scorer(name: str) -> Any:
    raise AssertionError(name)


def test_account_and_rules(run: tuple[Path, Path, dict[str, Any]]) -> None:
    _, out, report = run
    # 0 to 9 are too small, but 5 is none; 15 is too short; of 20 and 22 the first stays.
    assert [report["numbers"][name] for name in ("rows_in", "kept", "dropped", "failed")] == [24, 12, 11, 1]
    assert [rule["dropped"] for rule in report["rules"]] == [9, 0, 1, 1]
    text = (out / "report.html").read_text("utf-8")
    assert "读入 24 = 保留 12 + 丢弃 11 + 失败 1" in text
    assert '<bdi>不是图片</bdi> <small><bdi>not a picture</bdi></small></td><td class="n">1</td>' in text
    assert re.findall(r'%</td><td class="n">(\d+)</td>', text) == ["14", "14", "13", "12"]
    # What a caption rule took is told by the caption, what was found and what it was held against.
    assert "<td><bdi>x</bdi></td><td><bdi>1</bdi></td><td><bdi>2</bdi></td><td><code><bdi>15.jpg</bdi>" in text


def test_captions_are_text(run: tuple[Path, Path, dict[str, Any]]) -> None:
    source, out, _ = run
    text = page(out, source)
    assert "<script" not in text
    assert "<b>我的" not in text
    assert "\u202e" not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;&amp;⟨U+202E⟩红烧肉" in text
    tags = tags_of(text)
    assert {"script", "link", "iframe", "a"}.isdisjoint(tag for tag, _ in tags)
    for _, attributes in tags:
        assert not any(name.startswith("on") or name == "href" for name in attributes)
        assert (attributes.get("src") or "data:image/jpeg;base64,").startswith("data:image/jpeg;base64,")


def test_pictures_beside_the_line(run: tuple[Path, Path, dict[str, Any]]) -> None:
    source, out, _ = run
    text = page(out, source)
    below, above = re.findall(r'<div class="side[^>]*>.*?</div></div>', text)[:2]
    assert re.findall(r'<img alt="(\d+)"', below) == ["9", "8", "7", "6", "4"]
    assert re.findall(r'<img alt="(\d+)"', above) == ["10", "11", "12", "13", "14"]
    first = re.search(r'src="data:image/jpeg;base64,([^"]+)"', above)
    assert first is not None
    with Image.open(io.BytesIO(base64.b64decode(first[1]))) as small:
        assert small.size == (SIDE, round(50 * SIDE / 300))


def test_a_copy_is_beside_what_it_is_a_copy_of(run: tuple[Path, Path, dict[str, Any]]) -> None:
    source, out, _ = run
    (pair,) = re.findall(r'<div class="pair">.*?</div>', page(out, source))
    assert re.findall(r'<img alt="(\d+)"', pair) == ["20", "22"]


def test_pictures_that_are_gone_are_said_to_be(run: tuple[Path, Path, dict[str, Any]], tmp_path: Path) -> None:
    source, out, _ = run
    moved = tmp_path / "moved"
    shutil.copytree(source, moved)
    (moved / "09.jpg").unlink()
    (moved / "08.jpg").write_bytes(b"\xff\xd8\xff")
    text = page(out, moved)
    below = re.findall(r'<div class="side[^>]*>.*?</div></div>', text)[0]
    assert re.findall(r'<img alt="(\d+)"', below) == ["7", "6", "4"]
    assert "the picture can no longer be read: missing" in below
    assert below.count("the picture can no longer be read") == 2


def test_an_account_that_does_not_balance_is_reported(run: tuple[Path, Path, dict[str, Any]], tmp_path: Path) -> None:
    source, out, report = run
    copy = tmp_path / "out"
    shutil.copytree(out, copy)
    wrong = report | {"numbers": report["numbers"] | {"kept": 11}}
    (copy / "report.json").write_text(json.dumps(wrong), "utf-8")
    assert "读入 24 ≠ 保留 11 + 丢弃 11 + 失败 1" in page(copy, source)


def test_what_a_line_settled_on(run: tuple[Path, Path, dict[str, Any]], tmp_path: Path) -> None:
    source, out, report = run
    copy = tmp_path / "out"
    shutil.copytree(out, copy)
    first, *others = report["rules"]
    settings = {"false_accepts": 0.05, "line": 52.5, "rows": 14, "shuffled": 13, "area": 0.875}
    scores = report["scores"] | {"short_side_shuffled": report["scores"]["short_side"]}
    settled = report | {"rules": [first | {"settings": settings}, *others], "scores": scores}
    (copy / "report.json").write_text(json.dumps(settled), "utf-8")
    text = page(copy, source)
    assert "阈值定在 52.5：由 14 对图文和 13 对打乱的图文定出" in text
    assert "with probability 0.875" in text
    assert text.count('<path class="against"') == 1
    assert ">52.5</text>" in text


def test_without_a_report(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="report"):
        page(tmp_path, tmp_path)


def test_visible_text() -> None:
    assert visible("a\x00b\u200b") == "<bdi>a⟨U+0000⟩b⟨U+200B⟩</bdi>"
    assert visible("好" * 5, 3) == "<bdi>好好好… <small>(5)</small></bdi>"


def test_histogram() -> None:
    score = {"count": 4, "missing": 0, "least": 0.0, "most": 4.0, "mean": 2.0, "edges": [0.0, 1.0, 2.0, 4.0]}
    score |= {"counts": [3, 0, 1], "kept": [1, 0, 1]}
    drawn = histogram(score, [1.0, 9.0])
    bars = re.findall(r'<rect class="(\w+)" x="([\d.]+)" y="([\d.]+)" width="([\d.]+)" height="([\d.]+)"/>', drawn)
    assert bars == [
        ("all", "0.0", "18.0", "139.5", "120.0"),
        ("all", "280.0", "98.0", "279.5", "40.0"),
        ("kept", "0.0", "98.0", "139.5", "40.0"),
        ("kept", "280.0", "98.0", "279.5", "40.0"),
    ]
    # The second line is far beyond the numbers: it is marked at the edge.
    assert re.findall(r'<path class="line" d="M([\d.]+) ', drawn) == ["140.0", "560.0"]
    assert ">▶ 9<" in drawn
    tags_of(drawn)


def test_what_is_drawn() -> None:
    ends = {"count": 3, "missing": 0, "least": 1.0, "most": 2.0}
    assert drawable(ends)
    assert not drawable(ends | {"most": 1.0})
    assert not drawable(ends | {"count": 0})
    # A hash of 64 bits is no measure.
    assert not drawable(ends | {"most": 2.0**60})
    assert [figure(value) for value in (1234, 0.25, 300.0, 123456.7, "x")] == ["1,234", "0.25", "300", "123,457", "x"]


def test_lines_of_settings() -> None:
    rule = {"score": "common_colour", "settings": {"above": 0.8, "entropy": 2.0}}
    assert lines_of(rule, "common_colour", {}) == [0.8]
    assert lines_of(rule, "entropy", {}) == [2.0]
    assert lines_of(rule, "border", {}) == []
    # What was settled counts, not the share that was asked for.
    settled = {"score": "similarity", "settings": {"above": None, "top": 0.3, "line": 0.21}}
    assert lines_of(settled, "similarity", {}) == [0.21]
