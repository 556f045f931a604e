"""Rules on synthetic pictures, right and wrong."""

from __future__ import annotations

import numpy as np
import pytest

from bimo.evaluation.pixel_rules import centre, colour_of, foreground, in_place, pieces
from tests.support.synthetic_pictures import canvas

HUES = {"red": 0.0, "orange": 30.0, "green": 120.0, "blue": 240.0}


@pytest.mark.parametrize(
    ("rgb", "name"),
    [((220, 20, 20), "red"), ((20, 20, 220), "blue"), ((120, 60, 10), "brown"), ((240, 130, 20), "orange"),
     ((120, 120, 120), "grey"), ((20, 20, 20), "black"), ((200, 20, 200), "")],
)  # fmt: skip
def test_a_colour_is_the_nearest_hue_or_none(rgb: tuple[int, int, int], name: str) -> None:
    assert colour_of(canvas((64, 64, 40, rgb)), HUES) == name


@pytest.mark.parametrize("count", [0, 1, 2, 3, 4])
def test_pieces_are_counted(count: int) -> None:
    places = [(30, 30), (98, 30), (30, 98), (98, 98)][:count]
    image = canvas(*((x, y, 20, (200, 40, 40)) for x, y in places), (64, 64, 2, (0, 0, 0)))
    assert len(pieces(foreground(image))) == count


def test_a_crooked_piece_is_one_and_pieces_come_by_size() -> None:
    mask = np.zeros((40, 40), bool)
    mask[2:38, 2] = mask[37, 2:30] = mask[10:38, 29] = mask[10, 10:30] = mask[10:30, 10] = True
    mask[0, 35:40] = True
    found = pieces(mask)
    assert len(found) == 1
    assert found[0].sum() == mask.sum() - 5
    two = pieces(foreground(canvas((30, 64, 15, (0, 0, 0)), (90, 64, 25, (0, 0, 0)))))
    assert centre(two[0])[0] > 0.6 > 0.4 > centre(two[1])[0]


@pytest.mark.parametrize("place", ["left", "right", "top", "bottom", "top left", "bottom right"])
def test_places_are_told_apart(place: str) -> None:
    across = 30 if "left" in place else 98 if "right" in place else 64
    down = 30 if "top" in place else 98 if "bottom" in place else 64
    assert in_place(foreground(canvas((across, down, 20, (9, 9, 9)))), place)
    assert not in_place(foreground(canvas((128 - across, 128 - down, 20, (9, 9, 9)))), place)
    assert not in_place(foreground(canvas()), place)
