"""Text in pictures: areas and signs counted exactly on made-up readings, and the reader itself on drawn letters."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from bimo.curation.filters import ocr
from bimo.curation.filters.ocr import Reading, TextArea, Watermark, area, read, signs
from bimo.curation.steps import ModelStep, Pair, Scorer, Tools, Verdict


def no_scorer(name: str) -> Scorer:
    raise AssertionError(name)


TOOLS = Tools(scorer=no_scorer)
LEVEL = [[0.25, 0.25], [0.75, 0.25], [0.75, 0.5], [0.25, 0.5]]


def reading(*texts: str, boxes: list[list[list[float]]] | None = None) -> Reading:
    return Reading(np.array([LEVEL] * len(texts) if boxes is None else boxes).reshape(-1, 4, 2), texts, (400, 200))


@pytest.mark.parametrize("step", [TextArea(), Watermark()], ids=["TextArea", "Watermark"])
def test_is_a_model_step_that_names_what_it_reads_with(step: ModelStep) -> None:
    assert isinstance(step, ModelStep)
    assert " rapidocr 3." in step.measuring(TOOLS)


def test_area_counts_overlap_once() -> None:
    assert area(reading()) == 0.0
    assert area(reading("a")) == pytest.approx(0.125, abs=0.005)
    assert area(reading("a", "a")) == area(reading("a"))
    half = [[0.0, 0.0], [1.0, 0.0], [1.0, 0.5], [0.0, 0.5]]
    assert area(reading(boxes=[half, LEVEL])) == pytest.approx(0.5, abs=0.005)


@pytest.mark.parametrize(
    ("texts", "weight"),
    [
        ((), 0.0),
        (("红烧肉", "家的味道"), 0.0),
        (("视觉中国",), 0.9),
        (("ＷＷＷ．zhms．cn",), 0.9),
        (("shutterstock",), 0.9),
        (("© 2020 Li",), 0.9),
        (("公众号：美食",), 0.7),
        (("QQ:123456",), 0.7),
        (("13812345678",), 0.7),
        (("@下厨房",), 0.7),
        (("下厨房", "下厨房", "下厨房"), 0.7),
        (("下厨房", "下厨房"), 0.0),
        (("88", "88", "88"), 0.0),
        (("www.x.cn", "电话 0571"), 0.97),
        (("common", "welcome", "comic"), 0.0),
    ],
)
def test_signs_add_up(texts: tuple[str, ...], weight: float) -> None:
    assert signs(reading(*texts)) == weight


def test_long_text_across_the_picture_is_a_sign() -> None:
    # In pixels of 400 x 200: a band from (40, 180) to (340, 30), 30 wide; 26.6 degrees.
    across = np.array([[40, 150], [340, 0], [353, 27], [53, 177]]) / (400, 200)
    upright = np.array([[40, 20], [70, 20], [70, 180], [40, 180]]) / (400, 200)
    assert signs(reading("样子", boxes=[across.tolist()])) == 0.5
    assert signs(reading("样子", boxes=[upright.tolist()])) == 0.0


def test_verdicts_come_from_stored_numbers() -> None:
    assert TextArea(below=0.2).judge({"text_area": 0.2}) is None
    assert TextArea(below=0.2).judge({"text_area": 0.21}) == Verdict(0.21, 0.2)
    assert Watermark().judge({"watermark": 0.5}) is None
    assert Watermark().judge({"watermark": 0.9}) == Verdict(0.9, 0.6)


def test_drawn_letters_are_found_read_and_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = Image.new("RGB", (320, 160), "white")
    written = plain.copy()
    ImageDraw.Draw(written).text((20, 60), "www.tupian.com", "black", ImageFont.load_default(36))
    pairs = [Pair(0, written, ("a",)), Pair(1, plain, ("b",))]
    marks = Watermark().open(TOOLS)(pairs)
    assert [scores["watermark"] for scores in marks] == [0.9, 0.0]
    assert "tupian" in str(marks[0]["text_read"])
    monkeypatch.setattr(ocr, "_reader", lambda: None)  # all that is asked from here on is held
    areas = [scores["text_area"] for scores in TextArea().open(TOOLS)(pairs)]
    assert areas[1] == 0.0
    # The letters are about 270 x 36 of 320 x 160 pixels.
    assert areas[0] == pytest.approx(0.2, abs=0.08)
    assert "".join(read(written).texts) == marks[0]["text_read"]


def test_only_what_is_surely_read_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    box = [[0, 0], [64, 0], [64, 32], [0, 32]]
    texts, scores = ("O", "福", "福", "CAD", "红烧肉"), (0.99, 0.9, 0.5, 0.7, 0.8)
    found = SimpleNamespace(boxes=np.array([box] * 5), txts=texts, scores=scores)
    monkeypatch.setattr(ocr, "_reader", lambda: lambda *_, **__: found)
    reading = read(Image.new("RGB", (64, 64), "teal"))
    assert reading.texts == ("福", "红烧肉")
    assert reading.boxes.tolist() == [[[0, 0], [1, 0], [1, 0.5], [0, 0.5]]] * 2
    empty = SimpleNamespace(boxes=None, txts=None, scores=None)
    monkeypatch.setattr(ocr, "_reader", lambda: lambda *_, **__: empty)
    assert area(read(Image.new("RGB", (64, 64), "olive"))) == 0.0
