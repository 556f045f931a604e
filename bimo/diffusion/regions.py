"""Prompts for parts of a picture: each counts where its box or colour is (Latent Couple; section 4 of MultiDiffusion,
arXiv:2302.08113; the share that the whole prompt keeps there is Regional Prompter's base ratio).
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

#: What the whole prompt counts within regions where a request does not say.
BASE_RATIO = 0.2
#: Pixels a side that boxes and colours are drawn at before they are averaged to places.
DRAWN = 512
#: Of 255, how far each of red, green and blue may be from a region's colour: brushes blur their edges.
NEAR = 24


def painted(request: Request) -> list[Tensor]:
    """How much of each place is each region's, [DRAWN, DRAWN] in 0 to 1. Raises RequestError for a colour that the map
    does not have.
    """
    found: list[Tensor] = []
    for region in request.regions:
        if region.box is not None:
            found.append(_boxed(region.box))
            continue
        assert region.colour is not None
        map_ = _coloured(request.region_map, region.colour)
        if not bool(map_.any()):
            raise RequestError("the map of regions has no {colour}; paint a part of it so", colour=region.colour)
        found.append(map_)
    return found


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
    """How much the whole prompt and each region's count at each place of x (C, h, w), [1, 1, h, w] each, 1 together."""
    maps = [functional.adaptive_avg_pool2d(map_[None, None], (shape[1], shape[2])) for map_ in painted(request)]
    maps = [region.weight * map_ for region, map_ in zip(request.regions, maps, strict=True)]
    total = torch.stack(maps).sum(dim=0)
    base = BASE_RATIO if request.base_ratio is None else request.base_ratio
    covered = (1 - base) * total.clamp(max=1)
    return [1 - covered, *(map_ / total.clamp(min=1e-6) * covered for map_ in maps)]


def placed(
    ask: DenoiserInput, request: Request, rows: Sequence[Conditioning]
) -> Generator[DenoiserInput, Tensor, Tensor]:
    """The answer [1, C, h, w] of a level that works out its whole x in one step: of the whole prompt, and upon it each
    region's own, asked at the largest size of the picture's shape that fits into the middle of its place.

    A regression answers with a whole picture whatever is masked later: a thing would be cut at its region's edge.
    """
    answer = yield ask
    height, width = ask.x.shape[-2:]
    for region, map_, conditioning in zip(request.regions, painted(request), rows, strict=True):
        own = functional.adaptive_avg_pool2d(map_[None, None], (height, width))
        window = _fitted(own[0, 0], height, width)
        part = yield replace(ask, x=torch.zeros_like(window.cut(ask.x[:1])), t=ask.t[:1], conditioning=conditioning)
        soft = region.weight * window.cut(own).to(part) * _faded(window).to(part)
        window.cut(answer).add_(soft.clamp(max=1) * (part - window.cut(answer)))
    return answer


def _fitted(map_: Tensor, height: int, width: int) -> Window:
    """The window of the picture's shape that fits into the box about a region."""
    rows, columns = (torch.nonzero(map_.amax(dim=axis) >= 0.5).flatten() for axis in (1, 0))
    if not len(rows) or not len(columns):
        rows, columns = (torch.nonzero(map_.amax(dim=axis) > 0).flatten() for axis in (1, 0))
    top, bottom, left, right = int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1
    scale = min((bottom - top) / height, (right - left) / width)
    high, wide = max(1, round(scale * height)), max(1, round(scale * width))
    return Window((top + bottom - high) // 2, (left + right - wide) // 2, high, wide)


def _faded(window: Window) -> Tensor:
    """[height, width]: less at the outermost places, so that no edge of a background stands in the picture."""
    inner = torch.ones(1, 1, window.height, window.width)
    return functional.avg_pool2d(functional.pad(inner, (1, 1, 1, 1)), 3, 1)[0, 0]
