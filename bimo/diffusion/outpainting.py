"""Outpainting: a picture on a larger canvas whose border is drawn, and the seam between original and drawn pixels."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

from bimo.core.errors import RequestError
from bimo.core.request import MAXIMUM_SIDE, Border, Request
from bimo.diffusion.image_inputs import IMAGE, MASK, check_mask, mask_of, pixels_of, upright

if TYPE_CHECKING:
    from PIL import Image

#: The default width of the transition in pixels, for a request with a border.
FEATHER = 16
#: The least weight of original pixels from which a difference is extrapolated.
TOO_FAR = 1e-4


def canvas_size(image: Image.Image, border: Border, unit: int) -> tuple[int, int]:
    """(width, height) to draw a picture with a border at, rounded up to multiples of ``unit``. Raises RequestError if
    that is too large.
    """
    width, height = size_with_border(image, border)
    if max(width, height) > MAXIMUM_SIDE:
        raise RequestError(
            "the picture and its border have {width}x{height} pixels; a side may have {most}",
            width=width,
            height=height,
            most=MAXIMUM_SIDE,
        )
    return -(-width // unit) * unit, -(-height // unit) * unit


def size_with_border(image: Image.Image, border: Border) -> tuple[int, int]:
    """(width, height) of a picture with its border."""
    width, height = upright(image).size
    left, top, right, bottom = border
    return left + width + right, top + height + bottom


def on_canvas(request: Request) -> dict[str, Tensor]:
    """The image [1, 3, H, W] of a filled request on its canvas, with its edge replicated over the border, and the mask
    [1, 1, H, W] of what is drawn: the border, and the padding of the canvas on the right and below.
    """
    assert request.outpaint is not None
    assert request.image is not None
    assert request.size is not None
    left, top, _, _ = request.outpaint
    picture = pixels_of(request.image, upright(request.image).size)
    right = request.size[0] - left - picture.shape[-1]
    bottom = request.size[1] - top - picture.shape[-2]
    mask = functional.pad(torch.zeros_like(picture[:, :1]), (left, right, top, bottom), value=1.0)
    return {IMAGE: functional.pad(picture, (left, right, top, bottom), mode="replicate"), MASK: mask}


def read(request: Request) -> dict[str, Tensor]:
    """The pictures of a filled request at its size, by name: "image", "mask" and those that conditioners read."""
    size = request.size or (0, 0)
    pictures = {name: pixels_of(image, size) for name, image in request.condition_images.items()}
    if request.outpaint is not None:
        return pictures | on_canvas(request)
    if request.image is not None:
        pictures[IMAGE] = pixels_of(request.image, size)
    if request.mask is not None and request.image is not None:
        check_mask(request.mask, request.image)
        pictures[MASK] = mask_of(request.mask, size)
    return pictures


def composite(drawn: Tensor, pictures: Mapping[str, Tensor], request: Request) -> Tensor:
    """Restores the original pixels outside the mask of [1, 3, H, W], after matching the seam over ``feather`` pixels,
    and crops to the picture with its border. Drawn pixels [1, 4, H, W] with transparency become opaque there.
    """
    mask, original = pictures[MASK], pictures[IMAGE]
    if drawn.shape[1] > original.shape[1]:
        original = torch.cat([original, torch.ones_like(original[:, :1])], dim=1)
    if request.feather:
        drawn = match_seam(drawn, original, mask, request.feather)
    result = torch.where(mask > 0.5, drawn, original)
    if request.outpaint is None or request.image is None:
        return result
    width, height = size_with_border(request.image, request.outpaint)
    return result[..., :height, :width]


def match_seam(drawn: Tensor, original: Tensor, mask: Tensor, feather: int) -> Tensor:
    """Adjusts the brightness of the drawn picture [1, 3, H, W] near the seam to that of the original, fading out over
    ``feather`` pixels: the difference outside the mask is extrapolated by normalized convolution (Knutsson and Westin,
    1993). Original pixels are unchanged.
    """
    unmasked = 1 - mask
    share = blurred(unmasked, feather / 2)
    difference = blurred((original - drawn) * unmasked, feather / 2) / share.clamp(min=TOO_FAR)
    # At a straight seam half of the kernel covers original pixels.
    return drawn + mask * (2 * share).clamp(max=1) * difference


def blurred(values: Tensor, deviation: float) -> Tensor:
    """[1, C, H, W] smoothed by a Gaussian with this standard deviation in pixels, edges replicated."""
    reach = max(1, math.ceil(3 * deviation))
    places = torch.arange(-reach, reach + 1, dtype=values.dtype)
    kernel = torch.exp(-0.5 * (places / deviation) ** 2)
    kernel = (kernel / kernel.sum()).to(values.device)
    for axis in (2, 3):
        pad = (0, 0, reach, reach) if axis == 2 else (reach, reach, 0, 0)
        shape = (1, 1, -1, 1) if axis == 2 else (1, 1, 1, -1)
        channels = values.shape[1]
        padded = functional.pad(values, pad, mode="replicate")
        values = functional.conv2d(padded, kernel.view(shape).expand(channels, 1, *shape[2:]), groups=channels)
    return values
