"""The box for text on the object that a picture shows: a lantern's belly, a balloon, an apple.

The object is what differs in colour from the picture's rim, by Otsu's threshold (1979); the box is the largest one of
the text's shape inside it, by a distance transform.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import ndimage

from bimo.core.errors import RequestError
from bimo.inscription.drawn import otsu
from bimo.inscription.layout import Writing, characters_of, lines_of

if TYPE_CHECKING:
    from PIL import Image

#: The longer side, in pixels, of the copy in which the object is segmented.
SEGMENTED_SIDE = 256
#: The share of each side that is the picture's rim.
RIM = 0.04
#: Least and largest area of the object, as shares of the picture.
LEAST, MOST = 0.03, 0.85
#: Least distance of the object's colour from the rim's, of 255.
APART = 32.0
#: The share of the box that is left free at each edge: a thing is round.
FREE = 0.06


def box_on_thing(picture: Image.Image, text: str, writing: Writing) -> tuple[float, float, float, float]:
    """(left, top, width, height) as shares of the picture. Raises RequestError where no thing stands out."""
    inside = thing(picture)
    height, width = inside.shape
    best = max((_largest(inside, shape) for shape in _shapes(text, writing)), key=lambda box: box[0])
    _, left, top, across, down = best
    free = FREE * min(across, down)
    return (left + free) / width, (top + free) / height, (across - 2 * free) / width, (down - 2 * free) / height


def thing(picture: Image.Image) -> np.ndarray:
    """[H, W] bool, at most SEGMENTED_SIDE a side: the largest object that stands out from the rim, its holes filled.
    Raises RequestError where there is none.
    """
    small = picture.convert("RGB")
    small.thumbnail((SEGMENTED_SIDE, SEGMENTED_SIDE))
    pixels = np.asarray(small, np.float32)
    reach = max(1, round(RIM * min(pixels.shape[:2])))
    rim = np.ones(pixels.shape[:2], bool)
    rim[reach:-reach, reach:-reach] = False
    apart = np.linalg.norm(pixels - np.median(pixels[rim], axis=0), axis=-1)
    mask = ndimage.binary_opening(apart > max(APART, otsu(apart)), iterations=2)
    labelled: Any = ndimage.label(ndimage.binary_fill_holes(mask))
    labels, count = labelled
    if count:
        sizes = np.bincount(labels.ravel())[1:]
        if LEAST <= sizes.max() / labels.size <= MOST:
            return labels == 1 + int(sizes.argmax())
    raise RequestError(
        "no thing stands out in this picture for the text to be written on; leave inscribe_at out, or say where by "
        "inscribe_box"
    )


def _shapes(text: str, writing: Writing) -> list[tuple[int, int]]:
    """(columns, rows) of cells that a text may be set in."""
    lines = lines_of(text, writing)
    longest, count = max(len(line) for line in lines), len(characters_of(text))
    if writing is Writing.VERTICAL:
        return [(len(lines), longest)]
    shapes = [(longest, len(lines))]
    if len(lines) == 1:
        shapes += [(math.ceil(count / rows), rows) for rows in range(2, 4) if count > rows]
    return shapes


def _largest(inside: np.ndarray, shape: tuple[int, int]) -> tuple[float, float, float, float, float]:
    """The side of a cell in pixels, and (left, top, width, height) of the largest box of so many cells within a
    thing: as wide as ``columns`` cells where the picture is pressed together by as much it is a square.
    """
    columns, rows = shape
    height, width = inside.shape
    pressed_width, pressed_height = (
        max(1, width * rows // max(columns, rows)),
        max(1, height * columns // max(columns, rows)),
    )
    y = np.minimum((np.arange(pressed_height) + 0.5) * height / pressed_height, height - 1).astype(int)
    x = np.minimum((np.arange(pressed_width) + 0.5) * width / pressed_width, width - 1).astype(int)
    pressed = np.pad(inside[y[:, None], x], 1)
    distances: Any = ndimage.distance_transform_cdt(pressed, metric="chessboard")
    reach = distances[1:-1, 1:-1]
    # Of places alike the middle one: text stands in the middle of a lantern.
    middle = np.argwhere(reach == reach.max())
    row, column = middle[np.abs(middle - middle.mean(axis=0)).sum(axis=1).argmin()]
    half = float(reach.max()) - 0.5
    to_x, to_y = width / pressed_width, height / pressed_height
    box = ((column + 0.5 - half) * to_x, (row + 0.5 - half) * to_y, 2 * half * to_x, 2 * half * to_y)
    return (min(box[2] / columns, box[3] / rows), *box)
