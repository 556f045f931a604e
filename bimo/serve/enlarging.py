"""Upscaling of pictures by resampling."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

from bimo.core.errors import RequestError

if TYPE_CHECKING:
    from PIL import Image

#: By AUTOMATIC1111's names.
UPSCALERS = ("None", "Lanczos", "Nearest")
#: The longest side of an upscaled picture.
MOST_ENLARGED = 4096


def enlarged(content: bytes, size: tuple[int, int], upscaler: str = "Lanczos", crop: bool = False) -> bytes:
    """Resizes a picture to (width, height) in pixels, as PNG; its text chunks, including labels, are kept. ``crop``
    fills the size with the centre, else the picture is stretched. Raises RequestError for too large a size.
    """
    from PIL import Image, ImageOps

    if max(size) > MOST_ENLARGED or min(size) < 1:
        raise RequestError(
            "{width}x{height} is too large; this server draws sides up to {side} and {pixels} pixels",
            width=size[0],
            height=size[1],
            side=MOST_ENLARGED,
            pixels=MOST_ENLARGED**2,
        )
    resampling = Image.Resampling.NEAREST if upscaler == "Nearest" else Image.Resampling.LANCZOS
    with Image.open(io.BytesIO(content)) as opened:
        texts = texts_of(opened)
        image = opened if opened.mode in ("L", "RGB", "RGBA") else opened.convert("RGB")
        resized = ImageOps.fit(image, size, resampling) if crop else image.resize(size, resampling)
    buffer = io.BytesIO()
    resized.save(buffer, "PNG", **texts)
    return buffer.getvalue()


def texts_of(image: Image.Image) -> dict[str, Any]:
    """Arguments for Pillow to save a PNG with the text chunks of an opened picture; XMP as the PNG chunk for it."""
    from PIL.PngImagePlugin import PngInfo

    from bimo.core.label import PNG_CHUNK

    info = PngInfo()
    for name, text in image.info.items():
        if isinstance(text, str) and name not in ("xmp", PNG_CHUNK):
            info.add_itxt(str(name), text)
    packet = image.info.get("xmp") or image.info.get(PNG_CHUNK)
    if packet:
        info.add_itxt(PNG_CHUNK, packet.decode("utf-8", "replace") if isinstance(packet, bytes) else packet)
    return {"pnginfo": info}
