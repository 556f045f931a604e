"""Text in a picture from end to end: set, judged, repaired, certified; the rest of the picture as it was."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

import bimo
from bimo.core.errors import RequestError
from bimo.core.picture import METADATA_KEY, Picture
from bimo.core.request import Request
from bimo.engine.engine import Engine
from bimo.inscription.certificate import Method, Verdict
from bimo.inscription.fonts import Face
from bimo.inscription.inscribe import Inscription, inscribe
from bimo.inscription.layout import Writing
from bimo.inscription.strokes import Strokes


@pytest.fixture
def engine(tiny_folder: Path) -> Engine:
    return bimo.load(tiny_folder)


def of(pixels: np.ndarray) -> Picture:
    return Picture(
        Image.fromarray(pixels.astype(np.uint8)), Request(text="红灯笼", seed=1, steps=2), "xiaomo", "0" * 64
    )


def test_laid_in_text_is_right_and_nothing_else_changes(
    engine: Engine, faces: tuple[Face, ...], paper: np.ndarray
) -> None:
    drawn = inscribe(engine, of(paper), [Inscription("小桥流水", method=Method.COMPOSED)])
    (certificate,) = drawn.certificates
    assert certificate["right"]
    assert certificate["methods"] == {"drawn": 0, "conditioned": 0, "composed": 4}
    assert [one["read_as"] for one in certificate["characters"]] == list("小桥流水")
    assert certificate["fonts"][0]["sha256"] == faces[0].sha256()
    changed = (np.asarray(drawn.image) != paper.astype(np.uint8)).any(-1)
    for one in certificate["characters"]:
        left, top, right, bottom = one["box"]
        assert changed[top:bottom, left:right].any()
        changed[top - 8 : bottom + 8, left - 8 : right + 8] = False
    assert not changed.any()
    assert any("laid into the picture" in str(warning) for warning in drawn.warnings)


def _record(path: Path) -> dict[str, Any]:
    with Image.open(path) as image:
        return json.loads(image.info[METADATA_KEY])


@pytest.mark.parametrize(
    ("text", "writing"),
    [
        ("白日依山尽，黄河入海流", Writing.VERTICAL),
        ("春风得意马蹄疾，一日看尽长安花", Writing.COUPLET),
        ("笔墨之印", Writing.SEAL),
    ],
)
def test_every_way_of_writing_is_certified(
    engine: Engine, faces: tuple[Face, ...], paper: np.ndarray, text: str, writing: Writing
) -> None:
    drawn = inscribe(engine, of(paper), [Inscription(text, writing, method=Method.COMPOSED)])
    wrong = [one["character"] for one in drawn.certificates[0]["characters"] if one["verdict"] != "right"]
    assert len(wrong) <= 1, wrong
    assert np.asarray(drawn.image).shape[0] >= 256
    assert drawn.certificates[0]["writing"] == writing.value


@pytest.mark.slow
def test_text_that_the_model_wrote_itself_stays_as_it_is(
    engine: Engine, faces: tuple[Face, ...], paper: np.ndarray
) -> None:
    image = Image.fromarray(paper.astype(np.uint8))
    font = ImageFont.truetype(str(faces[0].path), 48, index=faces[0].index)
    ImageDraw.Draw(image).text((24, 40), "小桥流水", fill=(30, 24, 24), font=font)
    drawn = inscribe(engine, of(np.asarray(image)), [Inscription("小桥流水")])
    assert drawn.certificates[0]["methods"] == {"drawn": 4, "conditioned": 0, "composed": 0}
    assert drawn.image.tobytes() == image.tobytes()


@pytest.mark.slow
def test_one_wrong_character_is_repaired_and_the_others_stay(
    engine: Engine, faces: tuple[Face, ...], paper: np.ndarray
) -> None:
    image = Image.fromarray(paper.astype(np.uint8))
    font = ImageFont.truetype(str(faces[0].path), 48, index=faces[0].index)
    ImageDraw.Draw(image).text((24, 40), "小桥流氷", fill=(30, 24, 24), font=font)
    drawn = inscribe(engine, of(np.asarray(image)), [Inscription("小桥流水")])
    methods = [one["method"] for one in drawn.certificates[0]["characters"]]
    assert methods[:3] == ["drawn"] * 3
    assert methods[3] != "drawn"
    left = drawn.certificates[0]["characters"][3]["box"][0] - 8
    before, after = np.asarray(image), np.asarray(drawn.image)
    assert (before[:, :left] == after[:, :left]).all()
    assert (before[:, left:] != after[:, left:]).any()


def test_the_model_draws_over_the_glyphs_and_what_it_spoils_is_laid_in(
    engine: Engine, faces: tuple[Face, ...], paper: np.ndarray
) -> None:
    # A network of made-up weights spoils every stroke: all trials are refused, and the last resort is taken and said.
    drawn = inscribe(engine, of(paper), [Inscription("福", method=Method.CONDITIONED)])
    assert drawn.certificates[0]["right"]
    assert drawn.certificates[0]["methods"]["conditioned"] + drawn.certificates[0]["methods"]["composed"] == 1


def test_quotation_marks_ask_for_their_text_and_the_record_draws_it_again(
    engine: Engine, faces: tuple[Face, ...], tmp_path: Path
) -> None:
    (picture,) = bimo.draw(engine, "红灯笼上写着「福」", seed=2, steps=2, inscribe_method="composed")
    path = picture.save(tmp_path / "a.png")
    record = _record(path)
    assert record["certificates"][0]["text"] == "福"
    assert record["request"]["inscribe_method"] == "composed"
    again = bimo.draw(engine, record["request"])[0]
    assert again.png() == path.read_bytes()
    assert not bimo.draw(engine, "红灯笼上写着「福」", seed=2, steps=2, inscribe=())[0].certificates


def test_an_engine_alone_says_that_it_writes_nothing(engine: Engine) -> None:
    with pytest.raises(RequestError, match=r"bimo\.draw"):
        engine.draw("红灯笼", inscribe=("福",), steps=2)


@pytest.mark.parametrize(
    ("settings", "what"),
    [
        ({"inscribe": ("",)}, "empty"),
        ({"inscribe": ("\U0003fffe",)}, "3FFFE"),
        ({"inscribe": ("福",), "inscribe_box": (0.5, 0.5, 0.6, 0.2)}, "box"),
        ({"inscribe": ("福",), "font": "No Such Family"}, "No Such Family"),
        ({"inscribe": ("字" * 5000,)}, "5000 characters"),
        ({"inscribe": ("福",), "writing": "diagonal"}, "writing"),
    ],
)
def test_what_cannot_be_written_is_said(
    engine: Engine, faces: tuple[Face, ...], settings: dict[str, Any], what: str
) -> None:
    with pytest.raises(RequestError, match=what):
        bimo.draw(engine, "红灯笼", seed=1, steps=2, **settings)


def test_quoted_text_that_cannot_be_written_is_a_warning(engine: Engine, faces: tuple[Face, ...]) -> None:
    (picture,) = bimo.draw(engine, "红灯笼上写着「\U0003fffe」", seed=1, steps=2)
    assert any("quotation marks" in str(warning) for warning in picture.warnings)


def test_strokes_decide_and_a_reader_that_knows_the_glyph_has_to_agree() -> None:
    from bimo.inscription.certificate import verdict_of

    right, wrong = Strokes(0, 0, 0, 200), Strokes(0, 0, 3, 200)
    assert verdict_of(right, "福", "福", "福") is Verdict.RIGHT
    assert verdict_of(wrong, "福", "福", "福") is Verdict.WRONG
    assert verdict_of(right, "富", "福", "福") is Verdict.WRONG
    assert verdict_of(right, "龍", "龘", "龍") is Verdict.RIGHT  # the reader does not know it, clean or drawn
