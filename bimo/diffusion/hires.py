""" "Hires fix" as in AUTOMATIC1111: enlarges a picture and redraws it by image-to-image."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor
from torch.nn import functional

from bimo.core.errors import RequestError
from bimo.core.request import MAXIMUM_SIDE, Request
from bimo.diffusion.image_inputs import IMAGE, read_by_conditioners, to_image

if TYPE_CHECKING:
    from bimo.diffusion.system import System

#: The default strength of the second pass.
STRENGTH = 0.4
LATENT, NEAREST = "latent", "nearest"


def size_of(request: Request, unit: int) -> tuple[int, int]:
    """(width, height) of the second pass of a filled request, sides multiples of ``unit``; the request's own size
    without one.
    """
    width, height = request.size or (0, 0)
    if request.hires is None:
        return width, height
    return tuple(max(unit, round(side * request.hires / unit) * unit) for side in (width, height))  # type: ignore[return-value]


def steps_of(request: Request, steps: int) -> tuple[int, float]:
    """The steps of the second pass, if the first has ``steps``, and the fraction of them that is run."""
    return request.hires_steps or steps, STRENGTH if request.hires_strength is None else request.hires_strength


def check(system: System, request: Request, unit: int, enlarging: bool) -> None:
    """Raises RequestError if a second pass is impossible; ``enlarging`` says that the last level is an upscaler of a
    smaller one.
    """
    if request.hires is None:
        return
    size, last = size_of(request, unit), system.recipe.levels[-1].name
    if max(size) > MAXIMUM_SIDE:
        raise RequestError(
            "hires {scale:g} of {size} is {larger}; a side may have {most} pixels",
            scale=request.hires,
            size=request.size,
            larger=size,
            most=MAXIMUM_SIDE,
        )
    sizes = system.recipe.request.sizes
    if enlarging or IMAGE in read_by_conditioners(system, last) or (sizes and size not in sizes):
        raise RequestError(
            "{name} cannot draw over a larger picture of its own ({size}); leave hires out, or enlarge the picture "
            "afterwards",
            name=system.recipe.name,
            size=size,
        )


def second(request: Request, pixels: Tensor, size: tuple[int, int]) -> Request:
    """The request of the second pass, given the first one's ``pixels`` [3, H, W]."""
    from PIL import Image

    nearest = request.hires_upscaler == NEAREST
    way = Image.Resampling.NEAREST if nearest else Image.Resampling.LANCZOS
    steps, strength = steps_of(request, request.steps or 1)
    changes = {
        "image": to_image(pixels).resize(size, way),
        "size": size,
        "strength": strength,
        "steps": steps,
        "hires": None,
    }
    return request.model_copy(update=changes)


def larger(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    """x [1, C, h, w] interpolated to another size, as A1111's upscaler "Latent"."""
    return functional.interpolate(x, size=shape[1:], mode="bilinear", align_corners=False)
