"""A contact sheet holds every picture, says what each is, and frames what was right."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from bimo.data.sheets import sheet

COLOURS = ("red", "green", "blue")
TITLES = ("红苹果", "a very long prompt that will not fit below so small a picture", "")


def test_it_has_room_for_all(tmp_path: Path) -> None:
    pictures = [Image.new("RGB", (32, 32), name) for name in COLOURS]
    with Image.open(sheet(pictures, TITLES, tmp_path / "sheet.png", columns=2)) as drawn:
        assert drawn.size == (2 * 40 + 8, 2 * (32 + 20 + 8) + 8)
        assert [drawn.getpixel(at) for at in ((20, 20), (60, 20), (20, 80))] == [(255, 0, 0), (0, 128, 0), (0, 0, 255)]
        below = drawn.crop((48, 43, 80, 62)).getcolors(1 << 16) or []
        assert len(below) > 1
        beside = drawn.crop((80, 43, 88, 62)).getcolors(1 << 16) or []
        assert len(beside) == 1, "a title that is too long must be cut"


def test_what_was_right_is_framed_green(tmp_path: Path) -> None:
    pictures = [Image.new("RGB", (32, 32), "white")] * 2
    with Image.open(sheet(pictures, ("a", "b"), tmp_path / "sheet.png", right=(True, False))) as drawn:
        green, red = (drawn.getpixel((left, 20)) for left in (6, 46))
    assert green == (40, 150, 70)
    assert red == (200, 50, 50)
