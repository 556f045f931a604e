"""Progress goes to standard error: bars on a terminal, else a line a minute and one at the end of each part."""

import pytest

from bimo.evaluation.progress import ProgressLines


def test_without_a_terminal_a_line_a_minute_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    now = [0.0]
    with ProgressLines(clock=lambda: now[0]) as lines:
        for done in range(1, 11):
            lines.update("drawing", done, 10)
            lines.update(f"judge, loss {10 - done}", done, 20)
            now[0] += 25
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.splitlines() == [
        "drawing: 4 / 10",
        "judge, loss 6: 4 / 20",
        "drawing: 7 / 10",
        "judge, loss 3: 7 / 20",
        "drawing: 10 / 10",
        "judge, loss 0: 10 / 20",
    ]


def test_a_terminal_gets_bars(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    monkeypatch.setenv("TERM", "xterm")
    with ProgressLines() as lines:
        lines.update("drawing", 1, 2)
    said = capsys.readouterr()
    assert said.out == ""
    assert "\r" in said.err  # a bar is drawn over itself
    assert "1/2" in said.err
