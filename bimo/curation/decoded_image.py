"""Decodes a picture once for all rules: upright, RGB, with what its file's header says."""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bimo.core import colour
from bimo.core.errors import BimoError
from bimo.core.files import MAXIMUM_PICTURE_PIXELS, PICTURE_FORMATS
from bimo.curation.readers.formats import BEGINNING, CONVERTED, format_of
from bimo.curation.readers.rows import Unusable

if TYPE_CHECKING:
    from PIL import Image

#: Sides in pixels, (shorter, longer), below which a picture is not reduced; it is halved three times at most. JPEG can
#: be decoded at 1/2, 1/4 and 1/8 for less, and other formats are reduced in the same way, so that a measured number
#: does not depend on the file format. Rules measure on copies of at most 256 pixels; models get more.
RULE_SIDES, MODEL_SIDES = (160, 256), (512, 512)
MAXIMUM_REDUCTION = 8
ORIENTATION = 0x0112
EXIF_IN_PNG = (b"eXIf", b"Raw profile type exif", b"tiff:Orientation")
#: Formats that are copied into shards without re-encoding.
SHARD_FORMATS = ("JPEG", "PNG", "WEBP")


@dataclass
class DecodedImage:
    """``image`` is upright RGB in sRGB, on white; ``size`` (width, height) is that of the upright original, in pixels,
    also where ``image`` was decoded smaller. ``format`` is Pillow's name of the file's format, ``mode`` that of its
    pixels.

    ``animated`` pictures show their first frame. ``transparent`` says that some pixel is; ``turned`` that the EXIF
    asks for it; ``profile`` that there are ICC colours, and ``converted`` is the name of the profile where they are
    others than sRGB's.
    """

    data: bytes
    image: Image.Image
    size: tuple[int, int]
    format: str
    animated: bool = False
    transparent: bool = False
    mode: str = "RGB"
    turned: bool = False
    profile: bool = False
    converted: str = ""


def decode_image(data: bytes, least: tuple[int, int] = RULE_SIDES) -> DecodedImage:
    """Decodes a picture once, reduced to the size that rules measure at, or to other ``least`` sides.

    Raises Unusable: "empty", "not a picture", "not a format that is read", "too large" (by the header, before anything
    is decoded), "truncated", "damaged", "range unknown".
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns of huge and odd pictures; both are reported by their reason
        picture = _opened(data)
        try:
            decoded = _header(data, picture)
            factor = reduction(decoded.size, least)
            if decoded.format == "JPEG":
                picture.draft(None, (picture.width // factor, picture.height // factor))
            picture.load()
            turn = orientation(data, picture)  # 1 by now for TIFF, which Pillow turns itself
            image, decoded.transparent, decoded.converted = _opaque(picture)
        except (MemoryError, Unusable):
            raise
        except Exception as error:  # on damaged bytes Pillow's decoders raise all sorts
            raise _reason_of(error) from None
        if decoded.format != "JPEG" and factor > 1:
            image = image.reduce(factor)
        decoded.image = _turned(image, turn)
        if turn >= 5:
            decoded.size = (decoded.size[1], decoded.size[0])
        decoded.turned = decoded.turned or turn != 1
    return decoded


def is_copyable(picture: DecodedImage) -> bool:
    """Whether the bytes can be copied into a shard: JPEG, PNG or WEBP, RGB in sRGB, upright, not animated, opaque."""
    still = not (picture.turned or picture.animated or picture.transparent or picture.converted)
    return still and picture.format in SHARD_FORMATS and picture.mode == "RGB"


def shard_bytes(data: bytes) -> bytes:
    """The encoded picture for a shard: its own bytes where they are ``is_copyable``, else PNG from a decode at full
    resolution.

    Whether they are plain is read from the header alone. Raises Unusable as ``decode_image`` does.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        picture = _opened(data)
        try:
            decoded = _header(data, picture)
            decoded.transparent, decoded.converted = picture.has_transparency_data, colour.profile_of(picture)
            if is_copyable(decoded):
                return data
            picture.load()
            image = _turned(_opaque(picture)[0], orientation(data, picture))
        except (MemoryError, Unusable):
            raise
        except Exception as error:  # as above
            raise _reason_of(error) from None
    buffer = io.BytesIO()
    # A profile that remains is sRGB under another name.
    own = picture.info.get("icc_profile") if decoded.mode in ("RGB", "RGBA") and not decoded.converted else None
    image.save(buffer, "PNG", icc_profile=own)
    return buffer.getvalue()


def alpha_of(data: bytes) -> bytes:
    """The alpha channel of a picture that ``decode_image`` found transparent: upright, a grey PNG, white is opaque."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        picture = _opened(data)
        picture.load()
        alpha = _turned(colour.standard(picture)[0].convert("RGBA").getchannel("A"), orientation(data, picture))
    buffer = io.BytesIO()
    alpha.save(buffer, "PNG")
    return buffer.getvalue()


def reduction(size: tuple[int, int], least: tuple[int, int] = RULE_SIDES) -> int:
    """The factor that the sides of a picture are reduced by: 1, 2, 4 or 8."""
    factor = 1
    while (
        factor < MAXIMUM_REDUCTION and min(size) // (factor * 2) >= least[0] and max(size) // (factor * 2) >= least[1]
    ):
        factor *= 2
    return factor


def orientation(data: bytes, picture: Image.Image) -> int:
    """The EXIF orientation, 1 to 8; 1 where there is none or no valid one."""
    if picture.format == "PNG":
        # EXIF may be stored after the pixels here, and Pillow decodes them to find it.
        if not any(mark in data for mark in EXIF_IN_PNG):
            return 1
        picture.load()
    try:
        turn = picture.getexif().get(ORIENTATION, 1)
    except Exception:  # damaged EXIF does not make the picture unusable; the parser raises various exceptions
        return 1
    return turn if turn in range(1, 9) else 1


def _opened(data: bytes) -> Image.Image:
    """The picture with its header read and its pixels not decoded."""
    from PIL import Image, UnidentifiedImageError

    if not data:
        raise Unusable("empty")
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP" and len(data) < 8 + int.from_bytes(data[4:8], "little"):
        raise Unusable("truncated", f"{len(data)} bytes of {8 + int.from_bytes(data[4:8], 'little')}")
    known = format_of(data[:BEGINNING])
    if known in CONVERTED:
        raise Unusable("not a format that is read", f"{known}; convert it to JPEG or PNG")
    try:
        picture = Image.open(io.BytesIO(data), formats=PICTURE_FORMATS)
    except UnidentifiedImageError:
        raise Unusable("damaged" if known else "not a picture", f"begins with {data[:8].hex(' ')}") from None
    except Image.DecompressionBombError as error:
        raise Unusable("too large", str(error)) from None
    except MemoryError:
        raise
    except Exception as error:
        raise _reason_of(error) from None
    if picture.width * picture.height > MAXIMUM_PICTURE_PIXELS:
        raise Unusable("too large", f"{picture.width}x{picture.height} pixels; at most {MAXIMUM_PICTURE_PIXELS}")
    return picture


def _header(data: bytes, picture: Image.Image) -> DecodedImage:
    """The metadata of a picture. Several pictures in one JPEG, as phones write them, are format "MPO" in Pillow and
    JPEG here.
    """
    kind = "JPEG" if picture.format == "MPO" else str(picture.format)
    animated = kind != "JPEG" and bool(getattr(picture, "is_animated", False))
    profile = bool(picture.info.get("icc_profile"))
    turned = orientation(data, picture) != 1
    return DecodedImage(data, picture, picture.size, kind, animated, False, picture.mode, turned, profile)


def _opaque(picture: Image.Image) -> tuple[Image.Image, bool, str]:
    """(RGB on white, whether any pixel was transparent, the name of the ICC profile that it was converted from)."""
    try:
        return colour.opaque(picture)
    except BimoError as error:
        raise Unusable("range unknown", error.en) from None


def _turned(image: Image.Image, turn: int) -> Image.Image:
    """The picture rotated or mirrored by its EXIF orientation (Exif 2.32, tag 0x0112)."""
    from PIL.Image import Transpose

    turns = {2: "FLIP_LEFT_RIGHT", 3: "ROTATE_180", 4: "FLIP_TOP_BOTTOM", 5: "TRANSPOSE"}
    turns |= {6: "ROTATE_270", 7: "TRANSVERSE", 8: "ROTATE_90"}
    return image if turn == 1 else image.transpose(Transpose[turns[turn]])


def _reason_of(error: Exception) -> Unusable:
    """The reason for a decoder's exception."""
    message: Any = str(error) or type(error).__name__
    return Unusable("truncated" if "truncated" in message.lower() else "damaged", message)
