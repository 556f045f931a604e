"""A picture as the rules see it: decoded once, upright, RGB, with what its file said of itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import Image


@dataclass
class Seen:
    """``image`` is upright RGB on white; ``size`` (width, height) is that of the upright original, in pixels, also
    where ``image`` was decoded smaller. ``format`` is Pillow's name of the file's format.
    """

    data: bytes
    image: Image.Image
    size: tuple[int, int]
    format: str
    animated: bool = False
    transparent: bool = False
    mode: str = "RGB"
    turned: bool = False
