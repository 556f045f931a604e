"""Pictures in requests: base64, data URLs, form files. Their size is checked by their header, then they are decoded."""

from __future__ import annotations

import base64
import binascii
import io
import re
from typing import Any

from bimo.core.errors import RequestError
from bimo.core.files import PICTURE_FORMATS
from bimo.core.messages import Message

_DATA_URL = re.compile(r"data:[\w.+/;=-]{0,100},")
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
#: The most pixels of a picture in a request.
MOST_PIXELS = 1 << 24


def decoded(text: Any, name: str | Message) -> bytes:
    """Decodes a picture in base64, with or without ``data:image/png;base64,``. Raises RequestError for anything else,
    including URLs, which are never fetched, and for too many pixels.
    """
    if not isinstance(text, str):
        raise RequestError("{name} is a {kind}; expected a picture in base64", name=name, kind=type(text).__name__)
    if _URL.match(text):
        raise RequestError(
            "{name} is an address, and this server fetches none; send the picture itself, in base64", name=name
        )
    body = text[match.end() :] if (match := _DATA_URL.match(text)) else text
    try:
        content = base64.b64decode("".join(body.split()), validate=True)
    except (binascii.Error, ValueError):
        raise RequestError("{name} is no base64; send a picture's bytes as base64", name=name) from None
    return bounded(content, name)


def bounded(content: bytes, name: str | Message) -> bytes:
    """Returns the bytes if they are a complete picture of an allowed size, which is checked before decoding. Raises
    RequestError.
    """
    from PIL import Image, UnidentifiedImageError

    if not content:
        raise RequestError("{name} is empty; expected a picture", name=name)
    try:
        with Image.open(io.BytesIO(content), formats=PICTURE_FORMATS) as image:
            width, height = image.size
            if 0 < width * height <= MOST_PIXELS:
                image.load()  # detects truncated and damaged files before a job is queued
    except UnidentifiedImageError:
        formats = ", ".join(PICTURE_FORMATS)
        raise RequestError(
            "{name} is not a picture; one of {formats} is expected", name=name, formats=formats
        ) from None
    except Exception as error:  # for damaged files Pillow's decoders raise exceptions of many types
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise RequestError("{name} is not a picture that can be read ({error})", name=name, error=first) from None
    if not 0 < width * height <= MOST_PIXELS:
        raise RequestError(
            "{name} has {width}x{height} pixels; at most {most} are read",
            name=name,
            width=width,
            height=height,
            most=MOST_PIXELS,
        )
    return content


def painted_where_transparent(mask: bytes, image: bytes, only: bool = False) -> bytes | None:
    """Converts a mask of OpenAI's API, transparent where to paint, to a Request's, white where to paint. An opaque mask
    is taken as it is; with ``only`` None is returned for it. Raises RequestError if the sizes differ.
    """
    from PIL import Image

    with Image.open(io.BytesIO(mask)) as opened, Image.open(io.BytesIO(image)) as base:
        if opened.size != base.size:
            raise RequestError(
                "the mask has {width}x{height} pixels and the image {width_2}x{height_2}; they must be alike",
                width=opened.width,
                height=opened.height,
                width_2=base.width,
                height_2=base.height,
            )
        alpha = opened.convert("RGBA").getchannel("A")
        if alpha.getextrema() == (255, 255):
            return None if only else mask
        buffer = io.BytesIO()
        alpha.point([255] * 128 + [0] * 128).save(buffer, "PNG")
        return buffer.getvalue()
