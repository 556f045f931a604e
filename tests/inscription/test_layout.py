"""Where characters stand: five ways of writing, breaks, room, and the calm part of a picture."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from bimo.core.errors import RequestError
from bimo.inscription.layout import SMALLEST_CELL, Box, Writing, bounds, calm_cells, check_text, fit

ROOM = Box(0, 0, 400, 400)


def text_of(cells: tuple, writing: Writing) -> str:
    """As a reader reads it: rows downwards, or columns from the right."""
    order = (lambda c: (c.top, c.left)) if writing is Writing.HORIZONTAL else (lambda c: (-c.left, c.top))
    return "".join(cell.character for cell in sorted(cells, key=order))


@pytest.mark.parametrize("writing", [Writing.HORIZONTAL, Writing.VERTICAL, Writing.SEAL])
def test_characters_stand_in_reading_order_inside_their_room_and_apart(writing: Writing) -> None:
    cells = fit("飞流直下三千尺疑是银河落九天", ROOM, writing)
    assert text_of(cells, writing) == "飞流直下三千尺疑是银河落九天"
    left, top, right, bottom = bounds(cells)
    assert left >= 0
    assert top >= 0
    assert right <= 400
    assert bottom <= 400
    taken = np.zeros((400, 400), int)
    for cell in cells:
        taken[cell.top : cell.top + cell.side, cell.left : cell.left + cell.side] += 1
    assert taken.max() == 1


def test_a_verse_breaks_at_its_clauses_and_runs_from_the_right() -> None:
    cells = fit("床前明月光，疑是地上霜", ROOM, Writing.VERTICAL)
    columns = sorted({cell.left for cell in cells}, reverse=True)
    assert ["".join(c.character for c in cells if c.left == x) for x in columns] == ["床前明月光", "疑是地上霜"]


def test_a_couplet_has_its_first_line_on_the_right_edge() -> None:
    cells = fit("春风得意马蹄疾，一日看尽长安花", ROOM, Writing.COUPLET)
    assert {c.left for c in cells if c.character in "春风得意马蹄疾"} == {400 - cells[0].side}
    assert {c.left for c in cells if c.character in "一日看尽长安花"} == {0}


def test_vertical_writing_turns_its_quotation_marks() -> None:
    assert text_of(fit("「福」", ROOM, Writing.VERTICAL), Writing.VERTICAL) == "﹁福﹂"


@pytest.mark.parametrize(
    ("text", "writing", "what"),
    [
        ("字" * 400, Writing.HORIZONTAL, "400 characters"),
        ("一，二，三", Writing.COUPLET, "two lines"),
        ("字" * 900, Writing.SEAL, "900 characters"),
    ],
)
def test_text_that_does_not_fit_is_refused_with_what_would(text: str, writing: Writing, what: str) -> None:
    with pytest.raises(RequestError, match=what):
        fit(text, ROOM, writing)


@pytest.mark.parametrize(
    ("text", "what"), [("", "empty"), (" \n", "empty"), ("福\ud800", "D800"), ("a\u200db", "200D")]
)
def test_what_no_font_writes_is_no_text(text: str, what: str) -> None:
    with pytest.raises(RequestError, match=what):
        check_text(text)


def test_text_stands_where_the_picture_is_calm(paper: np.ndarray) -> None:
    picture = Image.fromarray(paper.astype(np.uint8))
    cells = calm_cells(picture, "小桥流水", Writing.HORIZONTAL)
    left, top, right, bottom = bounds(cells)
    assert bottom <= 150
    assert cells[0].side >= SMALLEST_CELL
    below = calm_cells(picture, "人家", Writing.HORIZONTAL, occupied=cells)
    assert all(c.top >= bottom or c.top + c.side <= top or c.left >= right or c.left + c.side <= left for c in below)
