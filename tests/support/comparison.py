"""Comparison of pictures with those of a library."""

from __future__ import annotations

import numpy

from bimo.core.picture import Picture


def compare(pictures: list[Picture], expected: list[numpy.ndarray]) -> None:
    """Asserts that pictures differ from the expected ones [H, W, 3] by at most 1 of 255, and are not flat."""
    assert len(pictures) == len(expected)
    for picture, array in zip(pictures, expected, strict=True):
        found = numpy.asarray(picture.image).astype(int)
        assert found.shape == array.shape
        assert numpy.abs(found - array).max() <= 1
        assert array.std() > 5  # a flat picture would prove nothing
