"""Contact sheets: pictures in rows with a line of text below each, as one PNG."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from bimo.core.files import write_whole


def chinese_font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """An installed font with Chinese glyphs, else Pillow's default."""
    for folder in ("/usr/share/fonts", "/Library/Fonts", "/System/Library/Fonts", "C:/Windows/Fonts"):
        for name in ("wqy", "NotoSansCJK", "NotoSansSC", "PingFang", "msyh", "simhei"):
            for found in sorted(Path(folder).rglob(f"*{name}*.tt[cf]")):
                return ImageFont.truetype(str(found), size)
    return ImageFont.load_default(size)


def sheet(
    images: Sequence[Image.Image], titles: Sequence[str], path: Path, columns: int = 10, right: Sequence[bool] = ()
) -> Path:
    """Writes pictures in rows with a title below each as a PNG; green or red frames mark ``right`` and wrong ones."""
    width = max((image.width for image in images), default=128)
    height = max((image.height for image in images), default=128)
    gap, line, count = 8, 20, max(1, len(images))
    columns = min(columns, count)
    size = (columns * (width + gap) + gap, -(-count // columns) * (height + line + gap) + gap)
    canvas = Image.new("RGB", size, (226, 226, 222))
    draw, font = ImageDraw.Draw(canvas), chinese_font(13)
    for number, (image, title) in enumerate(zip(images, titles, strict=True)):
        left, top = gap + number % columns * (width + gap), gap + number // columns * (height + line + gap)
        if right:
            colour = (40, 150, 70) if right[number] else (200, 50, 50)
            draw.rectangle((left - 3, top - 3, left + width + 2, top + height + 2), fill=colour)
        canvas.paste(image, (left, top))
        draw.text((left, top + height + 3), _fitted(title, font, width), fill=(20, 20, 20), font=font)
    buffer = io.BytesIO()
    canvas.save(buffer, "PNG")
    return write_whole(path, buffer.getvalue())


def _fitted(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    """A line shortened to a width in pixels, with an ellipsis."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(f"{text}…") > width:
        text = text[:-1]
    return f"{text}…"
