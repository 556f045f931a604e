"""A request's image, mask and condition images as tensors at its size, and the drawn tensor as an image."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy
import torch
from torch import Tensor

from bimo.core import colour
from bimo.core.errors import RequestError
from bimo.core.messages import say
from bimo.core.request import MAXIMUM_SIDE

if TYPE_CHECKING:
    from PIL import Image

    from bimo.core.request import Request
    from bimo.diffusion.system import System

IMAGE, MASK = "image", "mask"
#: Less than one level of eight bits, for pixels in [-1, 1].
FLAT = 1 / 255


def size_for(image: Image.Image, area: int, unit: int, sizes: tuple[tuple[int, int], ...]) -> tuple[int, int]:
    """The default (width, height) for a picture: its own aspect ratio, at most ``area`` pixels, sides multiples of
    ``unit``; for a system with fixed ``sizes``, the one with the nearest aspect ratio.
    """
    width, height = upright(image).size
    if sizes:
        return min(sizes, key=lambda size: abs(math.log(size[0] / size[1]) - math.log(width / height)))
    scale = min(1.0, math.sqrt(area / (width * height)))
    sides = (min(int(side * scale), MAXIMUM_SIDE) for side in (width, height))
    return tuple(max(unit, side // unit * unit) for side in sides)  # type: ignore[return-value]


def size_of_area(shape: tuple[int, int], area: int, unit: int = 32, up: bool = False) -> tuple[int, int]:
    """(width, height) of about ``area`` pixels with the aspect ratio of ``shape``, sides rounded (``up``) to multiples
    of ``unit``: how diffusers' editing pipelines resize pictures to the training size.
    """
    width = math.sqrt(area * (shape[0] / shape[1]))
    sides = (width, width / (shape[0] / shape[1]))
    whole = (math.ceil(side / unit) if up else round(side / unit) for side in sides)
    return tuple(min(MAXIMUM_SIDE, max(unit, side * unit)) for side in whole)  # type: ignore[return-value]


def upright(image: Image.Image) -> Image.Image:
    """The picture rotated by its EXIF orientation."""
    from PIL import ImageOps

    return ImageOps.exif_transpose(image)


def opaque(image: Image.Image, ground: str = "white") -> Image.Image:
    """The picture upright, in RGB and converted to sRGB by its profile, on white or another background if it is
    transparent. Raises RequestError for floating-point pictures, whose white point is unknown.
    """
    return colour.opaque(upright(image), ground)[0]


def middle(image: Image.Image, size: tuple[int, int], times: int = 16) -> Image.Image:
    """Crops a picture around its centre before it is resized to cover ``size`` (width, height): the enlarged picture is
    at most ``times`` that size, since one that is a pixel wide would fill the memory. Pictures of usual aspect ratios
    are unchanged.
    """
    scale = max(size[0] / image.width, size[1] / image.height)
    full = image.size
    crop = tuple(min(side, math.ceil(times * most / scale)) for side, most in zip(full, size, strict=True))
    if crop == full:
        return image
    left, top = ((side - part) // 2 for side, part in zip(full, crop, strict=True))
    return image.crop((left, top, left + crop[0], top + crop[1]))


def pixels_of(image: Image.Image, size: tuple[int, int]) -> Tensor:
    """[1, 3, H, W] in [-1, 1] at (width, height), resized as diffusers does."""
    from PIL import Image

    resized = opaque(image).resize(size, resample=Image.Resampling.LANCZOS)
    values = torch.tensor(numpy.array(resized).astype(numpy.float32) / 255.0)
    return 2.0 * values.permute(2, 0, 1)[None] - 1.0


def mask_of(image: Image.Image, size: tuple[int, int]) -> Tensor:
    """[1, 1, H, W] of 0 (unchanged) and 1 (repainted): at least half white is repainted; transparent pixels are
    unchanged, as diffusers reads an empty layer.
    """
    from PIL import Image

    resized = opaque(image, "black").resize(size, resample=Image.Resampling.LANCZOS).convert("L")
    values = torch.tensor(numpy.array(resized).astype(numpy.float32) / 255.0)
    return (values >= 0.5).float()[None, None]


def check_mask(mask: Image.Image, image: Image.Image) -> None:
    """Raises RequestError for a mask that is not of the image's shape, give or take a pixel of rounding: it would be
    drawn out, and lie elsewhere than it was painted.
    """
    own, given = upright(mask).size, upright(image).size
    scale = max(own[0] / given[0], own[1] / given[1])
    if any(abs(side - scale * whole) > 1 + scale for side, whole in zip(own, given, strict=True)):
        raise RequestError(
            "the mask has {width}x{height} pixels and the image {width_2}x{height_2}, which is another shape; paint "
            "the mask over the image, at its size or any scale of it",
            width=own[0],
            height=own[1],
            width_2=given[0],
            height_2=given[1],
        )


def layer_of(image: Image.Image, size: tuple[int, int]) -> Tensor:
    """[1, 4, H, W] in [-1, 1] at (width, height): a picture with its transparency, resized as diffusers does."""
    from PIL import Image

    resized = colour.standard(upright(image))[0].convert("RGBA").resize(size, resample=Image.Resampling.LANCZOS)
    values = torch.tensor(numpy.array(resized).astype(numpy.float32) / 255.0)
    return 2.0 * values.permute(2, 0, 1)[None] - 1.0


def composited(layers: Sequence[Image.Image]) -> Image.Image:
    """Alpha-composites layers, the lowest first; transparent where all of them are."""
    from PIL import Image

    whole = layers[0].copy()
    for layer in layers[1:]:
        whole = Image.alpha_composite(whole, layer)
    return whole


def warnings_of(pixels: Tensor) -> tuple[str, ...]:
    """Warnings about a failed picture [3, H, W], or layers [layers, 4, H, W]: values that are not finite, or a single
    colour.
    """
    pixels = pixels.flatten(0, -3)
    if not bool(pixels.isfinite().all()):
        return (
            say(
                "this model computed values that are no numbers (half precision most often), black in the "
                "picture; draw again with --dtype fp32"
            ),
        )
    if float((pixels.amax(dim=(1, 2)) - pixels.amin(dim=(1, 2))).max()) < FLAT:
        return (
            say(
                "the picture is of one colour: untrained weights most often, or a text encoder and a denoiser that "
                "do not belong together; no filter of bimo's blackens pictures"
            ),
        )
    return ()


def to_image(pixels: Tensor) -> Image.Image:
    """[3, H, W] in [-1, 1] -> a PIL image, rounded as diffusers does; [4, H, W] -> one with transparency."""
    from PIL import Image

    bytes_ = (pixels / 2 + 0.5).nan_to_num(0.0, 1.0, 0.0).clamp(0, 1).mul(255).round().to(torch.uint8)
    return Image.fromarray(bytes_.permute(1, 2, 0).contiguous().cpu().numpy())


def shown_to_text_encoders(system: System, request: Request) -> tuple[Image.Image, ...]:
    """The pictures of a request that text encoders read with the prompt, in the order of their conditioners."""
    every = [each for level in system.recipe.levels for each in system.level(level.name).conditioners]
    named = {IMAGE: request.image, **request.condition_images}
    names = dict.fromkeys(name for each in every for name in each.shown)
    return tuple(image for name in names if (image := named.get(name)) is not None)


def read_by_conditioners(system: System, level: str) -> set[str]:
    """The names of the request's pictures that the conditioners of a level read."""
    return {name for each in system.level(level).conditioners for name in each.images}
