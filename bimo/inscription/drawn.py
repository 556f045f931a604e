"""Text that the model drew from the prompt: located by OCR, then compared with the glyphs of several faces, since its
typeface is unknown. A character that resembles none of them counts as wrong and is set anew, even if it was right.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import signal

from bimo.inscription import reading
from bimo.inscription.fonts import Face
from bimo.inscription.layout import Cell
from bimo.inscription.setting import glyph
from bimo.inscription.strokes import Strokes, compare

#: Families a drawn character is held against, one face of each.
FAMILIES = 6
#: How much smaller and larger than the reader's box a glyph may be, and how far it is looked for around it.
SMALLER, LARGER, AROUND = 0.84, 1.24, 0.3
#: Pixels around a glyph's own box that are judged with it.
EDGE = 2
#: What is missing of a glyph that no face draws, in stroke widths: all of it.
MISSED = 99.0


def find_text(picture: np.ndarray, text: str) -> tuple[Cell, ...] | None:
    """The squares of the characters of ``text`` where the picture [H, W, 3] shows that text, or None."""
    boxes = reading.find(picture, text)
    if boxes is None:
        return None
    cells: list[Cell] = []
    for character, (left, top, right, bottom) in zip(text, boxes, strict=True):
        # A line's box is higher than its characters, and a square as high would hold some of the neighbours.
        side = round(1.06 * min(right - left, bottom - top))
        cells.append(Cell(character, (left + right - side) // 2, (top + bottom - side) // 2, side))
    return tuple(cells)


def judged(picture: np.ndarray, cell: Cell, faces: Sequence[Face]) -> Strokes:
    """The strokes of one character of a picture [H, W, 3] in 0..255 as the nearest of the faces has them, set where it
    fits best around the cell.
    """
    reach = round(AROUND * cell.side)
    crop = _cut(picture, cell.left - reach, cell.top - reach, cell.side + 2 * reach)
    ink = _ink(crop)
    families = {face.family: face for face in reversed(faces)}.values()
    having = [face for face in list(families)[::-1] if face.has(cell.character)][:FAMILIES]
    nearest = max((_fitted(ink, face, cell) for face in having), key=lambda fit: fit.likeness)
    # Size and place were found to whole pixels: what fits best by its strokes may lie beside.
    trials = [
        _compared(crop, glyph(nearest.face, cell.character, side), nearest.top + dy, nearest.left + dx)
        for side in range(nearest.side - 1, nearest.side + 2)
        for dy in (-1, 0, 1)
        for dx in (-1, 0, 1)
    ]
    return min(trials, key=lambda one: (not one.right, one.missing + one.closed + one.extra))


@dataclass(frozen=True)
class _Fit:
    """A face's glyph of ``side`` pixels, where its correlation with the ink (``likeness``) is largest."""

    likeness: float
    face: Face
    side: int
    top: int
    left: int


def _fitted(ink: np.ndarray, face: Face, cell: Cell) -> _Fit:
    best = _Fit(-1.0, face, cell.side, 0, 0)
    around = ink - ink.mean()
    for side in range(round(cell.side * SMALLER), min(round(cell.side * LARGER), len(ink)) + 1):
        trial = glyph(face, cell.character, side)
        pattern = trial - trial.mean()
        norm = float((pattern**2).sum())
        if not norm:
            continue
        fits = signal.fftconvolve(around, pattern[::-1, ::-1], mode="valid")
        # Divided by the norm of the pattern and of what lies below it: the correlation coefficient.
        below = signal.fftconvolve(around**2, np.ones_like(pattern), mode="valid")
        fits = fits / np.sqrt(np.maximum(below, 1e-3) * norm)
        if float(fits.max()) > best.likeness:
            row, column = np.unravel_index(int(fits.argmax()), fits.shape)
            best = _Fit(float(fits.max()), face, side, int(row), int(column))
    return best


def _compared(crop: np.ndarray, reference: np.ndarray, row: int, column: int) -> Strokes:
    """The strokes of a glyph set at a place of the crop, up to the glyph's own box: beyond it the neighbours begin."""
    rows, columns = np.where(reference > 0.1)
    if not len(rows):
        return Strokes(MISSED, 0, 0, 0)
    top, left = max(0, int(rows.min()) - EDGE), max(0, int(columns.min()) - EDGE)
    own = reference[top : rows.max() + 1 + EDGE, left : columns.max() + 1 + EDGE]
    y, x = np.arange(own.shape[0]) + row + top, np.arange(own.shape[1]) + column + left
    here = crop[np.clip(y, 0, len(crop) - 1)[:, None], np.clip(x, 0, len(crop) - 1)]
    return compare(here, np.ascontiguousarray(own), neighbours=True)


def _cut(picture: np.ndarray, left: int, top: int, side: int) -> np.ndarray:
    """[side, side, 3]; edges of the picture repeated where the square reaches beyond them."""
    height, width = picture.shape[:2]
    rows = np.clip(np.arange(top, top + side), 0, height - 1)
    columns = np.clip(np.arange(left, left + side), 0, width - 1)
    return picture[rows[:, None], columns]


def _ink(crop: np.ndarray) -> np.ndarray:
    """[S, S] of 0 (paper) to 1 (ink), the two parted by lightness as Otsu (1979) does; the edge is paper mostly."""
    light = crop.astype(np.float32).mean(-1)
    edge = np.concatenate([light[0], light[-1], light[:, 0], light[:, -1]])
    parted = light < otsu(light)
    if np.median(edge) < otsu(light):
        parted = ~parted
    if not parted.any() or parted.all():
        return np.zeros_like(light)
    ink, paper = float(np.median(light[parted])), float(np.median(light[~parted]))
    return np.clip((light - paper) / (ink - paper if ink != paper else 1.0), 0, 1)


def otsu(light: np.ndarray) -> float:
    """The lightness that parts two groups with the least spread within them."""
    counts, edges = np.histogram(light, 64)
    middles = (edges[1:] + edges[:-1]) / 2
    below = counts.cumsum()
    above = below[-1] - below
    sums = (counts * middles).cumsum()
    lower, upper = sums / np.maximum(below, 1), (sums[-1] - sums) / np.maximum(above, 1)
    return float(edges[1:][int(np.argmax(below * above * (lower - upper) ** 2))])
