"""Compares a character in a picture with its glyph, stroke by stroke.

Readers (OCR, vision models) read what was meant: of 40 characters blurred by four pixels they still read 38, and a
missing dot seldom disturbs them (TextPecker, arXiv:2602.20903, judges structure apart for this reason). Here the
picture is projected on the line from its paper to its ink; the medial axis of every stroke has to be ink, the medial
axis of every gap between strokes has to be paper, and no ink may lie where no stroke is near. All lengths are in widths
of that glyph's strokes, so that small and large characters are judged alike.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy import ndimage

#: The distance of ink from paper, in 1/255, below which nothing can be read.
FAINTEST = 40.0
#: What a lens, a resize or a printer softens is forgiven: the glyph is expected as sharp as a blur of this many stroke
#: widths (and at least SOFTEST pixels) leaves it.
SOFT, SOFTEST = 0.2, 0.6
#: A point of a stroke's axis is missing where less than half of the ink expected there is; a gap is closed where ink
#: has gone half of the way from what is expected there to full.
HALF = 0.5
#: Runs of missing or closed axis, and areas of ink beside the strokes, that are still forgiven; in stroke widths (and
#: their squares). A dot is about one wide and one and a half long.
MISSING, CLOSED, EXTRA = 0.8, 1.2, 0.35
#: How far beside a stroke's edge ink still belongs to it, in stroke widths.
BESIDE = 0.45
#: Strokes thinner than this many pixels are measured as if they had them: a single odd pixel is no fault.
THINNEST = 2.2
_EIGHT = np.ones((3, 3), bool)


@dataclass(frozen=True)
class Strokes:
    """What is wrong with a character: the longest run of stroke axis without ink (``missing``) and of gap axis without
    paper (``closed``), in stroke widths; the largest area of ink beside the strokes (``extra``), in squares of them;
    and the distance of ink from paper (``contrast``), in 1/255.
    """

    missing: float
    closed: float
    extra: float
    contrast: float

    @property
    def right(self) -> bool:
        """Whether no stroke is missing, no gap is closed and nothing is added."""
        return self.contrast >= FAINTEST and self.missing <= MISSING and self.closed <= CLOSED and self.extra <= EXTRA


@dataclass(frozen=True)
class _Axes:
    """What is compared of a reference glyph: a blurred copy, medial axes, the area far from strokes, their width."""

    soft: np.ndarray
    stroke_axis: np.ndarray
    gap_axis: np.ndarray
    edges: np.ndarray
    beside: np.ndarray
    width: float


def compare(crop: np.ndarray, reference: np.ndarray, neighbours: bool = False) -> Strokes:
    """``crop`` [S, S] or [S, S, 3] in 0..255 against the glyph ``reference`` [S, S] in 0..1 at the same place.

    With ``neighbours``, ink that reaches in from the left or right edge is another character's.

    Raises ValueError where the shapes differ or the reference has no stroke.
    """
    if crop.shape[:2] != reference.shape:
        raise ValueError(f"a crop of {crop.shape[:2]} against a glyph of {reference.shape}")
    axes = _axes(reference.tobytes(), reference.shape)
    ink, contrast = ink_of(crop, reference)
    missing = axes.stroke_axis & (ink < HALF * np.minimum(reference, axes.soft))
    closed = axes.gap_axis & (ink > axes.soft + HALF * (1 - axes.soft))
    if neighbours:
        ink = _without_strays(ink, reference)
    extra = (ink > axes.soft + HALF * (1 - axes.soft)) & ~axes.edges | axes.beside & (ink > HALF)
    return Strokes(
        missing=_longest(missing) / axes.width,
        closed=_longest(closed) / axes.width,
        extra=largest_area(extra) / axes.width**2,
        contrast=contrast,
    )


def ink_of(crop: np.ndarray, reference: np.ndarray) -> tuple[np.ndarray, float]:
    """[S, S] of 0 (paper) to 1 (ink), each pixel projected on the line between them; and their distance in 1/255.

    Paper is taken from beside the strokes and may change over the square as a picture's ground does: a plane is fitted
    to it. Ink is one colour, the median of the strokes' insides.
    """
    pixels = crop.astype(np.float32).reshape(*crop.shape[:2], -1)
    inside, outside = reference > 0.9, reference < 0.05
    # The axes of thin strokes may have no pixel that is all ink.
    inside = inside if inside.sum() >= 4 else reference >= reference.max() * 0.8
    if not outside.any():
        return np.zeros(crop.shape[:2], np.float32), 0.0
    paper = _plane(pixels, outside)
    ink = np.median(pixels[inside], axis=0)
    towards = ink - paper
    length = np.maximum((towards**2).sum(-1), 1e-6)
    share = ((pixels - paper) * towards).sum(-1) / length
    return np.clip(share, 0, 1), float(np.median(np.sqrt(length)[inside]))


def _plane(pixels: np.ndarray, where: np.ndarray) -> np.ndarray:
    """[S, S, C]: the plane through the pixels of ``where``, in which the odd ones count little (two rounds)."""
    height, width = where.shape
    y, x = np.mgrid[:height, :width].astype(np.float32) / max(height, width) - 0.5
    design = np.stack([np.ones_like(x), x, y], -1)
    rows, values = design[where], pixels[where]
    weights = np.ones(len(rows), np.float32)
    middle = np.median(values, axis=0)
    coefficients = np.concatenate([middle[None], np.zeros((2, len(middle)), np.float32)])
    for _ in range(3):
        off = np.abs(values - rows @ coefficients).max(-1)
        weights = 1 / (1 + (off / max(4.0, float(np.median(off)) * 2)) ** 4)
        weighted = rows * weights[:, None]
        coefficients = np.linalg.lstsq(weighted.T @ rows, weighted.T @ values, rcond=None)[0]
    return (design @ coefficients).astype(np.float32)


@lru_cache(maxsize=2048)
def _axes(content: bytes, shape: tuple[int, int]) -> _Axes:
    reference = np.frombuffer(content, np.float32).reshape(shape)
    strokes = reference > 0.5
    if not strokes.any():
        raise ValueError("the reference has no stroke")
    deep = distances(strokes)
    stroke_axis = _ridge(deep) & strokes
    width = max(THINNEST, 2 * float(np.median(deep[stroke_axis])) - 0.5)
    apart = distances(~strokes)
    rows, columns = np.where(strokes)
    around = np.zeros(shape, bool)
    around[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1] = True
    # Only gaps that strokes stand around; the open ground beside a character has an axis too, and it proves nothing.
    gap_axis = _ridge(apart) & around & (apart <= 1.5 * width) & (apart >= 1.0)
    beside = apart > max(1.0, BESIDE * width)
    soft = ndimage.gaussian_filter(reference, max(SOFTEST, SOFT * width))
    # Where a stroke's edge may lie a pixel further out than the reference has it.
    edges = reference > 0.25
    return _Axes(soft, stroke_axis, gap_axis, edges, beside, width)


def _without_strays(ink: np.ndarray, reference: np.ndarray) -> np.ndarray:
    labels, count = groups(ink > 0.3)
    own = set(np.unique(labels[reference > 0.5]).tolist())
    strays = set(np.unique(labels[:, [0, -1]]).tolist()) - own - {0}
    return np.where(np.isin(labels, list(strays)), 0, ink) if count and strays else ink


def distances(points: np.ndarray) -> np.ndarray:
    """[H, W]: how far each pixel of ``points`` is from the nearest that is none, in pixels."""
    return np.asarray(ndimage.distance_transform_edt(points), np.float32)


def groups(points: np.ndarray, structure: np.ndarray | None = None) -> tuple[np.ndarray, int]:
    """[H, W] of the number of each pixel's connected group, from 1 on, and how many groups there are."""
    labels = np.zeros(points.shape, np.int32)
    count = ndimage.label(points, structure, output=labels)
    return labels, int(np.asarray(count))


def largest_area(points: np.ndarray) -> float:
    """The area of the largest connected group of points, in pixels."""
    labels, count = groups(points)
    return float(np.bincount(labels.ravel())[1:].max()) if count else 0.0


def _ridge(distance: np.ndarray) -> np.ndarray:
    """Where a distance is largest across some direction: the medial axis, a pixel or two thick."""
    ridge = np.zeros(distance.shape, bool)
    padded = np.pad(distance, 1)
    height, width = distance.shape
    for dy, dx in ((0, 1), (1, 0), (1, 1), (1, -1)):
        before = padded[1 - dy : 1 - dy + height, 1 - dx : 1 - dx + width]
        after = padded[1 + dy : 1 + dy + height, 1 + dx : 1 + dx + width]
        ridge |= (distance >= before) & (distance >= after) & ((distance > before) | (distance > after))
    return ridge & (distance > 0)


def _longest(points: np.ndarray) -> float:
    """The longer side of the largest connected group of points, in pixels."""
    labels, count = groups(points, _EIGHT)
    if not count:
        return 0.0
    boxes = [box for box in ndimage.find_objects(labels) if box is not None]
    return float(max(max(part.stop - part.start for part in box) for box in boxes))
