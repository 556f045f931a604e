"""Augmented variants of a picture, mirrored or with other colours; deterministic."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from bimo.core.stage_data import Augmentation

if TYPE_CHECKING:
    from PIL import Image


def is_flipped(augment: Augmentation, variant: int) -> bool:
    """Whether the ``variant``-th picture, the first being the picture itself, is mirrored."""
    return augment.flip and variant % 2 == 1


def varied(picture: Image.Image, augment: Augmentation, content: str, variant: int) -> Image.Image:
    """The ``variant``-th variant of an RGB picture, seeded by ``content``, the hash of its bytes."""
    from PIL import Image, ImageEnhance

    if not variant:
        return picture
    if is_flipped(augment, variant):
        picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if not augment.colours:
        return picture
    digest = hashlib.sha256(f"{content} {variant}".encode()).digest()
    drawn = [int.from_bytes(digest[4 * at : 4 * at + 4], "big") / 2**31 - 1 for at in range(4)]  # -1 to 1
    kinds = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)
    strengths = (augment.brightness, augment.contrast, augment.saturation)
    for kind, strength, share in zip(kinds, strengths, drawn, strict=False):
        if strength:
            picture = kind(picture).enhance(1 + strength * share)
    if augment.hue:
        wheel: npt.NDArray[np.uint8] = np.array(picture.convert("HSV"))
        wheel[..., 0] += np.uint8(round(256 * augment.hue * drawn[3]) % 256)
        picture = Image.fromarray(wheel, "HSV").convert("RGB")
    return picture
