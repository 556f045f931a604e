"""Pictures of simple shapes."""

from __future__ import annotations

from PIL import Image, ImageDraw


def canvas(*circles: tuple[int, int, int, tuple[int, int, int]]) -> Image.Image:
    """White 128 x 128 with filled circles (across, down, radius, colour)."""
    image = Image.new("RGB", (128, 128), (255, 255, 255))
    pen = ImageDraw.Draw(image)
    for across, down, radius, colour in circles:
        pen.ellipse((across - radius, down - radius, across + radius, down + radius), fill=colour)
    return image
