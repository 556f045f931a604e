"""Glyphs that are wrong on purpose, by which a judge of strokes is itself judged: a dot gone, a stroke too many, a part
of another character.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum

import numpy as np
from scipy import ndimage

from bimo.inscription.fonts import Face
from bimo.inscription.setting import glyph
from bimo.inscription.strokes import distances, groups, largest_area

#: A change smaller than this many squares of the stroke's width is none that a reader would call wrong.
LEAST = 1.0
#: How often a change is looked for before a character is given up as one that cannot be changed so.
TRIALS = 40


class Corruption(StrEnum):
    """What was done to the character."""

    MISSING = "missing stroke"
    EXTRA = "extra stroke"
    SWAPPED = "swapped part"


def corrupted(
    face: Face, character: str, others: Sequence[str], side: int, kind: Corruption, chance: np.random.Generator
) -> np.ndarray | None:
    """[side, side] in 0..1: the character with that fault, or None where it cannot have it (一 has no part to swap)."""
    right = glyph(face, character, side)
    width = stroke_width(right)
    for _ in range(TRIALS):
        if kind is Corruption.MISSING:
            wrong = _without_a_piece(right, width, chance)
        elif kind is Corruption.EXTRA:
            wrong = _with_a_stroke(right, width, chance)
        else:
            other = glyph(face, others[int(chance.integers(len(others)))], side)
            wrong = _with_a_part(right, other, chance)
        if largest_area(np.abs(wrong - right) > 0.5) >= LEAST * width**2:
            return wrong
    return None


def stroke_width(drawn: np.ndarray) -> float:
    """The usual width of a glyph's strokes, in pixels: twice the median of its medial axis."""
    deep = distances(drawn > 0.5)
    ridge = (deep == ndimage.maximum_filter(deep, 3)) & (deep > 0)
    return max(1.0, 2 * float(np.median(deep[ridge])) - 0.5)


def _without_a_piece(right: np.ndarray, width: float, chance: np.random.Generator) -> np.ndarray:
    """A part of its own goes (a dot, 氵's drops) where there is a small one; else a stroke's end is cut off."""
    labels, count = groups(right > 0.1)
    areas = np.bincount(labels.ravel())[1:]
    small = [which + 1 for which in range(count) if areas[which] < 0.3 * areas.sum() and count > 1]
    if small and chance.random() < 0.7:
        return np.where(labels == small[int(chance.integers(len(small)))], 0, right).astype(np.float32)
    rows, columns = np.where(right > 0.5)
    which = int(chance.integers(len(rows)))
    y, x = np.ogrid[: right.shape[0], : right.shape[1]]
    near = np.hypot(y - rows[which], x - columns[which]) <= 1.3 * width
    return np.where(near, 0, right).astype(np.float32)


def _with_a_stroke(right: np.ndarray, width: float, chance: np.random.Generator) -> np.ndarray:
    from PIL import Image, ImageDraw

    rows, columns = np.where(right > 0.5)
    side = right.shape[0]
    image = Image.fromarray((right * 255).astype(np.uint8))
    x = chance.uniform(columns.min(), columns.max())
    y = chance.uniform(rows.min(), rows.max())
    length, angle = width * chance.uniform(1.5, 4), float(chance.choice([0, 0.5, 0.25, 0.75])) * np.pi
    end = np.clip([x + length * np.cos(angle), y + length * np.sin(angle)], 0, side - 1)
    ImageDraw.Draw(image).line([(x, y), (float(end[0]), float(end[1]))], fill=255, width=max(1, round(width)))
    return np.asarray(image, np.float32) / 255


def _with_a_part(right: np.ndarray, other: np.ndarray, chance: np.random.Generator) -> np.ndarray:
    """The left or right, upper or lower half is that of another character."""
    wrong, half = right.copy(), right.shape[0] // 2
    part = (slice(None), slice(half, None)) if chance.random() < 0.5 else (slice(half, None), slice(None))
    if chance.random() < 0.5:
        part = tuple(slice(None) if one == slice(None) else slice(None, half) for one in part)
    wrong[part] = other[part]
    return wrong
