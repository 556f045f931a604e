"""Text in pictures beside the reader's own error on clean print."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from bimo.evaluation import suite_text
from bimo.evaluation.metrics.glyphs import Glyphs, glyphs
from bimo.evaluation.suite_drawings import Drawing
from bimo.evaluation.suite_measures import MeasuredPicture, numbers
from bimo.evaluation.suites.suite import Prompt


class Short:
    """A reader that loses the last character of each line of print."""

    identity = "short"

    def __init__(self, drawn: dict[str, tuple[str, ...]]) -> None:
        self.drawn = drawn

    def read(self, image: object, sha256: str) -> tuple[str, ...]:
        return self.drawn[sha256]

    def control(self, written: Sequence[str]) -> Glyphs:
        return glyphs(written, [part[:-1] for part in written])


@pytest.fixture
def pictures(monkeypatch: pytest.MonkeyPatch) -> list[MeasuredPicture]:
    monkeypatch.setattr(MeasuredPicture, "image", lambda self: None)
    texts = {"a": ("山高月小",), "b": ("水落石出",), "c": ("一" * 20,)}
    return [
        MeasuredPicture(Prompt(key, "g", "zh", key, written=text), Drawing(key, seed, "", f"{key}{seed}"), Path())
        for key, text in texts.items()
        for seed in (1, 2)
    ]


def test_the_reader_s_own_error_is_taken_off_prompt_by_prompt(pictures: list[MeasuredPicture]) -> None:
    drawn = {"a1": ("山高月",), "a2": ("山高",), "b1": ("水落石",), "b2": (), "c1": ("一" * 19,), "c2": ("一" * 19,)}
    controls = suite_text.measure_text(pictures, Short(drawn), lambda *told: None, "")  # type: ignore[arg-type]
    found = {number.measure: number for number in numbers(pictures, "text similarity") if not number.group}
    less = numbers(pictures, "text similarity" + suite_text.LESS)[0]
    clean = numbers(pictures, "text similarity" + suite_text.PRINT)[0]
    # By prompt: a (0 + 1/4) / 2, b (0 + 3/4) / 2, c 0.
    assert less.interval.value == pytest.approx((0.125 + 0.375 + 0) / 3)
    assert less.interval.value == pytest.approx(clean.interval.value - found["text similarity"].interval.value)
    assert less.interval.low == pytest.approx(0)
    assert less.interval.high == pytest.approx(0.375)
    assert less.interval.n == 3
    # Twenty characters are two lines of print, which are no sentence for another reason.
    assert {one.prompt.key for one in pictures if "text sentences" + suite_text.LESS in one.values} == {"a", "b"}
    measured, printed, difference = suite_text.oneig_numbers(pictures, controls, "zh")
    assert difference.interval.value == pytest.approx(printed.interval.value - measured.interval.value)
    assert printed.interval.value == pytest.approx(1 - 1 * 1 * (1 - 25 / 28) / 50)
    assert suite_text.oneig_numbers(pictures, controls, "en") == ()


def test_a_picture_as_good_as_print_has_no_error_left(pictures: list[MeasuredPicture]) -> None:
    drawn = {picture.drawing.sha256: (picture.prompt.written[0][:-1],) for picture in pictures}
    suite_text.measure_text(pictures, Short(drawn), lambda *told: None, "")  # type: ignore[arg-type]
    for name in ("text characters", "text similarity", "text whole"):
        interval = numbers(pictures, name + suite_text.LESS)[0].interval
        assert (interval.value, interval.low, interval.high) == (0, 0, 0)
