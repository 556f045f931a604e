"""Rule-based measures on pixels: foreground, its connected components, their position and colour."""

from __future__ import annotations

import colorsys
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

LEAST_DIFFERENCE = 28 / 255  # least difference from the background colour, in the most different channel
LEAST_AREA = 0.012  # least area of a component, as a fraction of the picture
HUE_TOLERANCE = 22.0  # tolerance of a hue in degrees
GREY_BELOW = 0.14  # chroma below which a mean colour has no hue
BROWN_BELOW = 0.66  # value below which orange is brown
BLACK_BELOW = 0.38  # value below which grey is black
Mask = NDArray[np.bool_]


def foreground(image: Image.Image) -> Mask:
    """[H, W]: pixels that differ from the background colour, the median of the outermost two pixels on each side."""
    array = np.asarray(image.convert("RGB"), np.float32) / 255
    border = np.concatenate([array[:2].reshape(-1, 3), array[-2:].reshape(-1, 3), array[:, :2].reshape(-1, 3),
                             array[:, -2:].reshape(-1, 3)])  # fmt: skip
    return np.abs(array - np.median(border, 0)).max(-1) > LEAST_DIFFERENCE


def colour_of(image: Image.Image, hues: Mapping[str, float]) -> str:
    """The mean colour of the foreground as one of ``hues`` (degrees), "grey", "black", or "" for none.

    Foreground pixels are weighted by 0.05 plus their chroma, so that dark outlines and white highlights count little. A
    mean of little chroma is grey or black by its value; else the nearest hue counts, if at most 22 degrees away. Brown
    is a dark orange.
    """
    array = np.asarray(image.convert("RGB"), np.float32) / 255
    inside = array[foreground(image)]
    if not len(inside):
        return ""
    weight = 0.05 + inside.max(-1) - inside.min(-1)
    mean = (inside * weight[:, None]).sum(0) / weight.sum()
    value, chroma = float(mean.max()), float(mean.max() - mean.min())
    if chroma < GREY_BELOW:
        return "black" if value < BLACK_BELOW else "grey"
    hue = hue_of(mean)
    distances = {name: abs((hue - declared + 180) % 360 - 180) for name, declared in hues.items()}
    distances["brown"] = math.inf
    nearest = min(distances, key=lambda name: distances[name])
    if distances[nearest] > HUE_TOLERANCE:
        return ""
    return "brown" if nearest in ("orange", "red") and hue > 8 and hue < 60 and value < BROWN_BELOW else nearest


def hue_of(rgb: Sequence[float] | NDArray[np.float32]) -> float:
    """The hue in degrees of an RGB colour in 0..1."""
    return colorsys.rgb_to_hsv(*(float(part) for part in rgb))[0] * 360


def pieces(mask: Mask) -> list[Mask]:
    """The 8-connected components of a foreground with at least 1.2 % of the picture, largest first."""
    label = np.where(mask, np.arange(1, mask.size + 1).reshape(mask.shape), 0)
    while True:
        # Propagate the largest label to neighbours, and along whole runs, until nothing changes.
        padded = np.pad(label, 1)
        height, width = mask.shape
        shifted = [padded[y : y + height, x : x + width] for y in range(3) for x in range(3)]
        spread = np.where(mask, np.max(np.stack(shifted), 0), 0)
        spread = np.where(mask, _runs(_runs(spread, mask).T, mask.T).T, 0)
        if (spread == label).all():
            break
        label = spread
    values, counts = np.unique(label[mask], return_counts=True)
    large = [(count, value) for count, value in zip(counts, values, strict=True) if count >= LEAST_AREA * mask.size]
    return [label == value for _, value in sorted(large, reverse=True)]


def _runs(label: NDArray[np.int64], mask: Mask) -> NDArray[np.int64]:
    """Sets every horizontal run to its largest label."""
    # Any: pyright infers numpy's nested pad widths inconsistently.
    left: Any = ((0, 0), (1, 0))
    starts = mask & ~np.pad(mask, left)[:, :-1]
    run = np.cumsum(starts.ravel()) - 1
    inside = mask.ravel()
    if not inside.any():
        return label
    largest = np.zeros(run.max() + 1, label.dtype)
    np.maximum.at(largest, run[inside], label.ravel()[inside])
    return np.where(inside, largest[np.maximum(run, 0)], 0).reshape(label.shape)


def centre(mask: Mask) -> tuple[float, float]:
    """The centroid (x, y) of a mask as fractions of the picture; (0.5, 0.5) if the mask is empty."""
    rows, columns = np.nonzero(mask)
    if not rows.size:
        return 0.5, 0.5
    height, width = mask.shape
    return float((columns.mean() + 0.5) / width), float((rows.mean() + 0.5) / height)


def in_place(mask: Mask, place: str) -> bool:
    """Whether the foreground's centroid lies in the outer 40 % at the side that ``place`` names, such as "top left"."""
    across, down = centre(mask)
    within = {"left": across < 0.4, "right": across > 0.6, "top": down < 0.4, "bottom": down > 0.6}
    return bool(mask.any()) and all(within[word] for word in place.split())
