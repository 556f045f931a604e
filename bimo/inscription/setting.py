"""Glyphs as masks: each character of a face drawn in its square, centred by its ink, 1 where there is a stroke."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np

from bimo.inscription.fonts import Face
from bimo.inscription.layout import GLYPH_SHARE, Cell

#: Marks keep the corner of the square that their font gives them; all else is centred by its ink.
_IN_A_CORNER = frozenset("，。、；：！？,.;:!?·…—“”‘’")


def glyph(face: Face, character: str, side: int) -> np.ndarray:
    """[side, side] float32 from 0 (paper) to 1 (stroke): the character in its square."""
    return _glyph(face.path, face.index, character, side)


@lru_cache(maxsize=4096)
def _glyph(path: Path, index: int, character: str, side: int) -> np.ndarray:
    from PIL import Image, ImageDraw

    font = _font(path, index, max(1, round(side * GLYPH_SHARE)))
    square = Image.new("L", (side, side))
    left, top, right, bottom = font.getbbox(character)
    if character in _IN_A_CORNER:
        ascent, descent = font.getmetrics()
        place = ((side - font.getlength(character)) / 2, (side - ascent - descent) / 2)
    else:
        place = ((side - right - left) / 2, (side - bottom - top) / 2)
    # Whole pixels: at a fraction Pillow cuts off what hinting puts into the row above.
    ImageDraw.Draw(square).text((round(place[0]), round(place[1])), character, fill=255, font=font)
    return np.asarray(square, np.float32) / 255


@lru_cache(maxsize=64)
def _font(path: Path, index: int, size: int):
    from PIL import ImageFont

    return ImageFont.truetype(str(path), size, index=index)


def mask_of(cells: Sequence[Cell], faces: Mapping[str, Face], size: tuple[int, int]) -> np.ndarray:
    """[H, W] float32 of the whole text in a picture of ``size`` (width, height): 1 where there is a stroke."""
    width, height = size
    whole = np.zeros((height, width), np.float32)
    for cell in cells:
        left, top, right, bottom = cell.box
        part = whole[max(0, top) : bottom, max(0, left) : right]
        drawn = glyph(faces[cell.character], cell.character, cell.side)
        np.maximum(part, drawn[max(0, -top) :, max(0, -left) :][: part.shape[0], : part.shape[1]], out=part)
    return whole
