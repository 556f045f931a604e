"""A picture on a larger canvas whose border is drawn, and the seam between what is given and what is drawn."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

from bimo.core.errors import RequestError
from bimo.core.request import MAXIMUM_SIDE, Border, Request
from bimo.diffusion.image_inputs import IMAGE, MASK, mask_of, pixels_of, upright

if TYPE_CHECKING:
    from PIL import Image

#: Pixels over which what is drawn goes over into the given picture, where a request with a border says none.
FEATHER = 16
#: Shares of the given picture that are no basis for what lies beside them.
TOO_FAR = 1e-4


def canvas_size(image: Image.Image, border: Border, unit: int) -> tuple[int, int]:
    """(width, height) that a picture with a border is drawn at: the next multiples of ``unit``. Raises RequestError for
    one that is too large.
    """
    width, height = whole_size(image, border)
    if max(width, height) > MAXIMUM_SIDE:
        raise RequestError(
            "the picture and its border have {width}x{height} pixels; a side may have {most}",
            width=width,
            height=height,
            most=MAXIMUM_SIDE,
        )
    return -(-width // unit) * unit, -(-height // unit) * unit


def whole_size(image: Image.Image, border: Border) -> tuple[int, int]:
    """(width, height) of a picture with its border."""
    width, height = upright(image).size
    left, top, right, bottom = border
    return left + width + right, top + height + bottom


def on_canvas(request: Request) -> dict[str, Tensor]:
    """The image [1, 3, H, W] of a filled request on its canvas, its edge drawn out over the border, and the mask
    [1, 1, H, W] of what is to be painted: the border, and what the canvas has beyond it on the right and below.
    """
    assert request.outpaint is not None
    assert request.image is not None
    assert request.size is not None
    left, top, _, _ = request.outpaint
    given = pixels_of(request.image, upright(request.image).size)
    right = request.size[0] - left - given.shape[-1]
    bottom = request.size[1] - top - given.shape[-2]
    mask = functional.pad(torch.zeros_like(given[:, :1]), (left, right, top, bottom), value=1.0)
    return {IMAGE: functional.pad(given, (left, right, top, bottom), mode="replicate"), MASK: mask}


def read(request: Request) -> dict[str, Tensor]:
    """The pictures of a filled request at its size, by name: "image", "mask" and those that conditioners read."""
    size = request.size or (0, 0)
    found = {name: pixels_of(image, size) for name, image in request.condition_images.items()}
    if request.outpaint is not None:
        return found | on_canvas(request)
    if request.image is not None:
        found[IMAGE] = pixels_of(request.image, size)
    if request.mask is not None:
        found[MASK] = mask_of(request.mask, size)
    return found


def merged(drawn: Tensor, pictures: Mapping[str, Tensor], request: Request) -> Tensor:
    """[1, 3, H, W] drawn -> the same with every pixel outside the mask as it was given, the seam made even over
    ``feather`` pixels, and cut to the picture with its border.
    """
    mask, given = pictures[MASK], pictures[IMAGE]
    if request.feather:
        drawn = evened(drawn, given, mask, request.feather)
    whole = torch.where(mask > 0.5, drawn, given)
    if request.outpaint is None or request.image is None:
        return whole
    width, height = whole_size(request.image, request.outpaint)
    return whole[..., :height, :width]


def evened(drawn: Tensor, given: Tensor, mask: Tensor, feather: int) -> Tensor:
    """What is drawn [1, 3, H, W], near the seam by as much lighter or darker as the given picture is there, fading out
    over ``feather`` pixels: the difference beyond the mask, carried on by normalized convolution (Knutsson and Westin,
    1993). The given picture is not touched.
    """
    kept = 1 - mask
    share = blurred(kept, feather / 2)
    difference = blurred((given - drawn) * kept, feather / 2) / share.clamp(min=TOO_FAR)
    # Beside a straight seam half of what the kernel sees is given.
    return drawn + mask * (2 * share).clamp(max=1) * difference


def blurred(values: Tensor, deviation: float) -> Tensor:
    """[1, C, H, W] smoothed by a Gaussian of so many pixels, edges repeated."""
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
