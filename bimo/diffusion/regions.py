"""Regional prompts: each applies where its box or colour is (Latent Couple; section 4 of MultiDiffusion,
arXiv:2302.08113; the share of the main prompt there is the base ratio of Regional Prompter).
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy
import torch
from torch import Tensor
from torch.nn import functional

from bimo.core.errors import RequestError
from bimo.core.request import Request
from bimo.core.tensors import Conditioning, DenoiserInput
from bimo.diffusion.image_inputs import opaque
from bimo.diffusion.windows import Window

if TYPE_CHECKING:
    from PIL import Image

#: The default share of the main prompt within regions.
BASE_RATIO = 0.2
#: The side in pixels at which boxes and colours are rasterised before averaging.
DRAWN = 512
#: The largest difference from a region's colour in each channel, of 255: brushes have soft edges.
NEAR = 24


def painted(request: Request) -> list[Tensor]:
    """The coverage of each region, [DRAWN, DRAWN] in 0 to 1. Raises RequestError for a colour that the map does not
    have.
    """
    maps: list[Tensor] = []
    for region in request.regions:
        if region.box is not None:
            maps.append(_boxed(region.box))
            continue
        assert region.colour is not None
        map_ = _coloured(request.region_map, region.colour)
        if not bool(map_.any()):
            raise RequestError("the map of regions has no {colour}; paint a part of it so", colour=region.colour)
        maps.append(map_)
    return maps


def _boxed(box: tuple[float, float, float, float]) -> Tensor:
    left, top, width, height = (round(DRAWN * side) for side in box)
    map_ = torch.zeros(DRAWN, DRAWN, device="cpu")
    map_[top : max(top + height, top + 1), left : max(left + width, left + 1)] = 1
    return map_


def _coloured(image: Image.Image | None, colour: str) -> Tensor:
    from PIL import Image as Images

    assert image is not None
    pixels = numpy.asarray(opaque(image).resize((DRAWN, DRAWN), Images.Resampling.NEAREST)).astype(int)
    wanted = [int(colour[at : at + 2], 16) for at in (1, 3, 5)]
    near = numpy.abs(pixels - numpy.array(wanted)) <= NEAR
    return torch.tensor(near.all(axis=-1), dtype=torch.float32, device="cpu")


def shares(request: Request, shape: tuple[int, ...]) -> list[Tensor]:
    """The weights of the main prompt and of each region at each position of x (C, h, w), [1, 1, h, w] each; they sum to
    1.
    """
    maps = [functional.adaptive_avg_pool2d(map_[None, None], (shape[1], shape[2])) for map_ in painted(request)]
    maps = [region.weight * map_ for region, map_ in zip(request.regions, maps, strict=True)]
    total = torch.stack(maps).sum(dim=0)
    base = BASE_RATIO if request.base_ratio is None else request.base_ratio
    covered = (1 - base) * total.clamp(max=1)
    return [1 - covered, *(map_ / total.clamp(min=1e-6) * covered for map_ in maps)]


def compose_regions(
    inputs: DenoiserInput, request: Request, rows: Sequence[Conditioning]
) -> Generator[DenoiserInput, Tensor, Tensor]:
    """The output [1, C, h, w] of a single-step level for regions: that of the main prompt, with the output of each
    region's prompt pasted into it at the largest size with the picture's aspect ratio that fits into the region.

    Masking does not work here: a regression predicts the whole picture, and an object would be cut at the region's
    edge.
    """
    output = yield inputs
    height, width = inputs.x.shape[-2:]
    for region, map_, conditioning in zip(request.regions, painted(request), rows, strict=True):
        own = functional.adaptive_avg_pool2d(map_[None, None], (height, width))
        window = _fitted(own[0, 0], height, width)
        part = yield replace(
            inputs, x=torch.zeros_like(window.cut(inputs.x[:1])), t=inputs.t[:1], conditioning=conditioning
        )
        soft = region.weight * window.cut(own).to(part) * _faded(window).to(part)
        window.cut(output).add_(soft.clamp(max=1) * (part - window.cut(output)))
    return output


def _fitted(map_: Tensor, height: int, width: int) -> Window:
    """The window with the picture's aspect ratio that fits into the bounding box of a region."""
    rows, columns = (torch.nonzero(map_.amax(dim=axis) >= 0.5).flatten() for axis in (1, 0))
    if not len(rows) or not len(columns):
        rows, columns = (torch.nonzero(map_.amax(dim=axis) > 0).flatten() for axis in (1, 0))
    top, bottom, left, right = int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1
    scale = min((bottom - top) / height, (right - left) / width)
    high, wide = max(1, round(scale * height)), max(1, round(scale * width))
    return Window((top + bottom - high) // 2, (left + right - wide) // 2, high, wide)


def _faded(window: Window) -> Tensor:
    """[height, width]: smaller at the border, so that the edge of a background does not show in the picture."""
    inner = torch.ones(1, 1, window.height, window.width)
    return functional.avg_pool2d(functional.pad(inner, (1, 1, 1, 1)), 3, 1)[0, 0]
