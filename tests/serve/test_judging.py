"""Blind votes on the pictures of reports: nothing says whose a picture is, and votes are ratings and training pairs."""

import base64
import io
import re
from pathlib import Path

import pytest
from PIL import Image

from bimo.core.errors import RequestError
from bimo.curation.feedback import build_feedback
from bimo.serve.page.judging import Judging
from tests.support.suite_report import report


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A report of two models' pictures of three prompts."""
    prompts = tuple(f"第{number}句 <b>" for number in range(3))
    return report(tmp_path / "report", {"kolors": "#280000", "taiyi": "#c80000"}, prompts)


def test_votes_are_blind_and_become_ratings_and_pairs(folder: Path, tmp_path: Path) -> None:
    judging = Judging([folder], tmp_path / "judgements")
    assert judging.ratings("en") == "<p>no vote yet</p>"
    for _ in range(3):
        page = judging.show("tab", "me", "en")
        assert "kolors" not in page
        assert "taiyi" not in page
        assert "&lt;b&gt;" in page
        shown = [Image.open(io.BytesIO(base64.b64decode(data))) for data in re.findall(r"base64,([^\"]+)", page)]
        assert [image.info.get("parameters") for image in shown] == [None, None]
        # The lighter one is better: that of taiyi.
        lights = [image.convert("RGB").getpixel((3, 3))[0] for image in shown]  # type: ignore[index]
        judging.vote("tab", "me", "a" if lights[0] > lights[1] else "b")
    assert judging.show("tab", "me", "en") == ""
    table = judging.ratings("en")
    assert table.index("taiyi") < table.index("kolors")
    assert "100%" in table
    made = build_feedback(judging.table, tmp_path / "pairs")
    assert (made.pairs, made.ties) == (3, 0)
    # A server that starts again asks nothing twice of the same judge.
    again = Judging([folder], tmp_path / "judgements")
    assert (again.pairs.left_for("me"), again.pairs.left_for("you")) == (0, 3)


def test_a_vote_without_a_pair_is_refused_and_a_damaged_picture_left_out(folder: Path, tmp_path: Path) -> None:
    (folder / "taiyi" / "pictures" / "0-0.png").write_bytes(b"broken")
    judging = Judging([folder], tmp_path / "judgements")
    with pytest.raises(RequestError, match="no pair"):
        judging.vote("tab", "me", "a")
    for _ in range(2):
        assert judging.show("tab", "me", "zh")
        with pytest.raises(RequestError, match="a, b or tie"):
            judging.vote("tab", "me", "c")
        judging.vote("tab", "me", "tie")
    assert judging.show("tab", "me", "zh") == ""
    assert judging.show("tab", "you", "zh")
    judging.closed("tab")
    with pytest.raises(RequestError, match="no pair"):
        judging.vote("tab", "you", "a")
