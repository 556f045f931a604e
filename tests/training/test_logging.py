"""What a run says of itself: the journal after a stop, the curves."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from bimo.core.recipe import Stage
from bimo.training import logging
from bimo.training.logging import Journal, counted, curves, smoothed
from bimo.training.objectives.denoise import Denoise


def journal(out: Path, stages: int = 2, steps: int = 5) -> Journal:
    made = Journal(out)
    for number in range(stages):
        stage = Stage(name=f"stage {number}", objective=Denoise(), train=("*",), batch=4)
        for step in range(1, steps + 1):
            made.add(stage, step, 1.0 / step, 1e-3, 0.1)
    made.flush()
    return made


def rows(out: Path) -> list[tuple[str, int]]:
    read = map(json.loads, (out / "log.jsonl").read_text("utf-8").splitlines())
    return [(row["stage"], row["step"]) for row in read]


def test_steps_after_the_saved_state_are_forgotten(tmp_path: Path) -> None:
    made = journal(tmp_path)
    made.cut(1, 2)
    assert rows(tmp_path) == [("stage 0", n) for n in range(1, 6)] + [("stage 1", 1), ("stage 1", 2)]
    made.cut(0, 3)
    assert rows(tmp_path) == [("stage 0", 1), ("stage 0", 2), ("stage 0", 3)]


def test_samples_are_steps_times_the_batch(tmp_path: Path) -> None:
    journal(tmp_path, 1, 3)
    last = json.loads((tmp_path / "log.jsonl").read_text("utf-8").splitlines()[-1])
    assert (last["samples"], last["loss"]) == (12, 0.333333)


def test_smoothing_keeps_a_constant_and_follows_a_fall() -> None:
    assert smoothed([2.0] * 5) == pytest.approx([2.0] * 5)
    falling = smoothed([1.0] * 50 + [0.0] * 200)
    assert falling[49] == pytest.approx(1.0)
    assert falling[-1] < 0.01


def test_what_takes_long_is_reported_without_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert list(counted("abc", "encoding")) == list("abc")
    assert capsys.readouterr().out.splitlines() == ["encoding 3/3"]
    monkeypatch.setattr(logging, "LINE_SECONDS", 0.0)
    assert list(counted("abc", "encoding")) == list("abc")
    assert capsys.readouterr().out.splitlines() == ["encoding 1/3", "encoding 2/3", "encoding 3/3"]


def test_curves_are_a_picture(tmp_path: Path) -> None:
    journal(tmp_path, 4, 60)
    with Image.open(curves(tmp_path, tmp_path / "curves.png")) as drawn:
        assert drawn.size == (1260, 500)
        colours = drawn.convert("RGB").getcolors(1 << 16) or []
    assert any(colour == (190, 40, 40) for _, colour in colours)
