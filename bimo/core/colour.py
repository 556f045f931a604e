"""Colours as a file means them: eight bits a channel, in sRGB by the picture's own ICC profile. One way of reading for
drawing, curation and training.
"""

from __future__ import annotations

import io
from functools import lru_cache
from typing import TYPE_CHECKING, Any, cast

from bimo.core.errors import RequestError

if TYPE_CHECKING:
    from PIL import Image

#: The modes of Pillow that a profile's colour space describes; Pillow's own pixels of palettes are looked up before.
MODES = {"RGB": ("RGB", "RGBA"), "GRAY": ("L", "LA"), "CMYK": ("CMYK",), "Lab": ("LAB",)}
#: A profile that moves no colour of a lattice by more than this is sRGB under another name: there are dozens.
SAME = 3
LATTICE = (0, 32, 64, 96, 128, 160, 192, 224, 255)
MAXIMUM_NAME = 60


def standard(picture: Image.Image) -> tuple[Image.Image, str]:
    """A loaded picture in L, LA, RGB or RGBA of eight bits in sRGB, transparency as it was, and the name of the profile
    that it was converted by, empty where it had none or sRGB's.

    Grey of 16 bits is scaled by 65535. Whole numbers of 32 bits are scaled by the range that they lie in: 0 to 255,
    0 to 65535, else from the least to the most. Fractions reach from 0 to 1; raises RequestError for others, whose
    white nobody knows. CMYK without a profile is taken for its plain complement, as Pillow does.
    """
    profile = picture.info.get("icc_profile")
    if picture.mode == "F" or picture.mode.startswith("I"):
        picture = _eight_bits(picture)
    elif picture.mode in ("La", "RGBa"):
        picture = picture.convert({"La": "LA", "RGBa": "RGBA"}[picture.mode])
    elif picture.mode in ("P", "PA") or (picture.mode in ("L", "RGB") and "transparency" in picture.info):
        picture = picture.convert("RGBA" if picture.has_transparency_data else "RGB")
    elif picture.mode == "1":
        picture = picture.convert("L")
    if profile:
        converted = _by_profile(picture, profile)
        if converted is not None:
            return converted
    if picture.mode in ("L", "LA", "RGB", "RGBA"):
        return picture, ""
    if picture.mode == "LAB":
        return _applied(picture, _lab()), "Lab"
    return picture.convert("RGB"), ""


def opaque(picture: Image.Image, ground: str = "white") -> tuple[Image.Image, bool, str]:
    """A loaded picture as RGB in sRGB, on white or another ground where it is transparent; whether any of that shows;
    and the name of the profile that it was converted by. Raises RequestError as ``standard``.
    """
    from PIL import Image

    picture, profile = standard(picture)
    if picture.mode not in ("LA", "RGBA"):
        return (picture if picture.mode == "RGB" else picture.convert("RGB")), False, profile
    clear = picture.convert("RGBA")
    if clear.getchannel("A").getextrema()[0] == 255:
        return clear.convert("RGB"), False, profile
    canvas = Image.new("RGBA", clear.size, ground)
    canvas.alpha_composite(clear)
    return canvas.convert("RGB"), True, profile


def profile_of(picture: Image.Image) -> str:
    """The name of the profile that ``standard`` would convert a picture by, told without its pixels."""
    profile = picture.info.get("icc_profile")
    if picture.mode == "LAB" and not profile:
        return "Lab"
    if not profile:
        return ""
    mode = {"P": "RGB", "PA": "RGB", "1": "L", "La": "LA", "RGBa": "RGBA"}.get(picture.mode, picture.mode)
    found = _transform(profile, "L" if mode == "F" or mode.startswith("I") else mode)
    return "" if found is None else found[1]


def _by_profile(picture: Image.Image, profile: bytes) -> tuple[Image.Image, str] | None:
    """The picture converted, and the name of its profile; None where nothing is to be done."""
    found = _transform(profile, picture.mode)
    if found is None and picture.mode == "RGBA" and (grey := _transform(profile, "LA")) is not None:
        # Pillow gives grey of 16 bits with transparency in four channels.
        red, green, blue, alpha = picture.split()
        if red.tobytes() == green.tobytes() == blue.tobytes():
            from PIL import Image

            merged = Image.merge("LA", (red, alpha))
            merged.info = picture.info
            return _applied(merged, grey[0]), grey[1]
    return None if found is None else (_applied(picture, found[0]), found[1])


def _applied(picture: Image.Image, transform: Any) -> Image.Image:
    from PIL import ImageCms

    alpha = picture.getchannel("A") if picture.mode in ("LA", "RGBA") else None
    if picture.mode == "LA":
        picture = picture.getchannel("L")
    elif picture.mode == "RGBA":
        picture = picture.convert("RGB")
    if picture.mode == "L" and transform.input_mode == "RGB":  # a profile of RGB beside grey pixels
        picture = picture.convert("RGB")
    made = cast("Image.Image", ImageCms.applyTransform(picture, transform))
    if alpha is not None:
        made.putalpha(alpha)
    # A converted picture must not be converted again.
    made.info = {name: value for name, value in picture.info.items() if name != "icc_profile"}
    return made


@lru_cache(maxsize=64)
def _transform(profile: bytes, mode: str) -> tuple[Any, str] | None:
    """What converts pixels of a mode from a profile to sRGB, and its name; None for sRGB itself and for a profile that
    is damaged or of another kind of pixels, which says nothing.
    """
    from PIL import ImageCms

    try:
        own: Any = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        about = own.profile
        space = about.xcolor_space.strip()
        if mode in ("L", "LA") and space == "RGB":
            mode = "RGB"  # grey pixels, in the colours of a scanner or a camera
        if mode not in MODES.get(space, ()):
            return None
        mode = {"LA": "L", "RGBA": "RGB"}.get(mode, mode)
        transform: Any = ImageCms.buildTransform(
            own,
            _made("sRGB"),
            mode,
            "RGB",
            ImageCms.Intent.RELATIVE_COLORIMETRIC,
            ImageCms.Flags.BLACKPOINTCOMPENSATION | ImageCms.Flags.NOCACHE,
        )
        if mode in ("L", "RGB") and _is_standard(transform, mode):
            return None
        name = " ".join(str(about.profile_description or "").split())
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError, AttributeError):
        return None
    name = "".join(c for c in name if c.isprintable())[:MAXIMUM_NAME]
    return transform, name or f"{space} ICC"


def _is_standard(transform: Any, mode: str) -> bool:
    """Whether a profile moves no colour of a lattice: it is sRGB, or its grey."""
    import numpy as np
    from PIL import Image, ImageCms

    levels = np.array(LATTICE, np.uint8)
    if mode == "L":
        given = levels[None]
        wanted = np.repeat(given[..., None], 3, axis=-1)
    else:
        given = wanted = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), axis=-1).reshape(1, -1, 3)
    found = np.asarray(ImageCms.applyTransform(Image.fromarray(given), transform))
    return int(np.abs(found.astype(int) - wanted.astype(int)).max()) <= SAME


@lru_cache(maxsize=1)
def _lab() -> Any:
    from PIL import ImageCms

    return ImageCms.buildTransform(_made("LAB"), _made("sRGB"), "LAB", "RGB")


def _made(space: str) -> Any:
    from PIL import ImageCms

    return cast(Any, ImageCms).createProfile(space)


def _eight_bits(picture: Image.Image) -> Image.Image:
    """Grey of 16 or 32 bits as one of 8."""
    import numpy as np
    from PIL import Image

    values = np.asarray(picture).astype(np.float64)
    if np.isnan(values).all():
        raise RequestError("not one pixel of this picture is a number (all are NaN); write it again")
    values = np.nan_to_num(values, posinf=np.inf, neginf=-np.inf)
    least, most = float(values.min()), float(values.max())
    if picture.mode == "F":
        if least < 0 or most > 1:
            raise RequestError(
                "the pixels of this picture are fractions from {least:g} to {most:g}, and nothing says which is "
                "white; scale them to 0 to 1, or save it with 8 or 16 bits",
                least=least,
                most=most,
            )
        low, high = 0.0, 1.0
    elif picture.mode != "I":  # I;16 in its byte orders
        low, high = 0.0, 65535.0
    elif least >= 0 and most <= 65535:
        low, high = 0.0, 255.0 if most <= 255 else 65535.0
    else:
        low, high = least, most
    made = Image.fromarray(np.rint((values - low) * 255 / (high - low)).astype(np.uint8))
    made.info = dict(picture.info)
    return made
