"""A large x seen by the denoiser in windows that overlap, their answers blended (MultiDiffusion, arXiv:2302.08113, with
the Gaussian weights of Mixture of Diffusers, arXiv:2302.02412).
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from bimo.core.request import Request
from bimo.core.tensors import Conditioning, DenoiserInput

#: The variance of a window's weights, its side being 1: as its authors have it.
VARIANCE = 0.01
#: The share of a window's side that lies on the next one where a request does not say.
OVERLAP = 0.25
#: Of places at the rim of the picture, which lie in one window alone, whatever they weigh.
LEAST = 1e-6


@dataclass(frozen=True)
class Window:
    """Places of x: ``height`` rows from ``top``, ``width`` columns from ``left``."""

    top: int
    left: int
    height: int
    width: int

    def cut(self, values: Tensor, times: int = 1) -> Tensor:
        """These places of [..., h, w], or of what has ``times`` as many a side."""
        top, left, height, width = (times * each for each in (self.top, self.left, self.height, self.width))
        return values[..., top : top + height, left : left + width]

    def weights(self) -> Tensor:
        """[height, width], most in the middle."""
        rows, columns = (_weights(side) for side in (self.height, self.width))
        return rows[:, None] * columns[None]


def _weights(side: int) -> Tensor:
    places = (torch.arange(side, dtype=torch.float32) + 0.5) / side - 0.5
    return torch.exp(-0.5 * places.square() / VARIANCE).clamp(min=LEAST)


def windows(request: Request, shape: tuple[int, ...], factor: int, multiple: int) -> list[Window]:
    """The windows that x of a shape (C, h, w) is seen in, ``factor`` pixels a place: one where it is not larger than
    ``tile_size``. Their sides are multiples of ``multiple`` places.
    """
    if request.tile_size is None or len(shape) != 3:
        return []
    side = max(multiple, request.tile_size // factor // multiple * multiple)
    asked = OVERLAP * side if request.tile_overlap is None else request.tile_overlap / factor
    stride = max(multiple, int(side - asked) // multiple * multiple)
    rows, columns = (_begins(length, side, stride) for length in shape[1:])
    found = [Window(top, left, min(side, shape[1]), min(side, shape[2])) for top in rows for left in columns]
    return found if len(found) > 1 else []


def _begins(length: int, side: int, stride: int) -> list[int]:
    if length <= side:
        return [0]
    return [*range(0, length - side, stride), length - side]


def answered(ask: DenoiserInput, through: Sequence[Window]) -> Generator[DenoiserInput, Tensor, Tensor]:
    """What the denoiser answers to x [R, C, h, w], asked whole, or window by window where there are some."""
    if not through:
        return (yield ask)
    total: Tensor | None = None
    weight = torch.zeros(ask.x.shape[-2:])
    for window in through:
        own = window.weights().to(ask.x)
        output = yield replace(ask, x=window.cut(ask.x), conditioning=_seen(ask, window))
        if total is None:
            total = output.new_zeros(*output.shape[:2], *ask.x.shape[-2:])
        window.cut(total).add_(own * output)
        window.cut(weight).add_(own)
    assert total is not None
    return total / weight


def _seen(ask: DenoiserInput, window: Window) -> Conditioning:
    """The conditioning of a window: of maps and pictures what lies in it; tokens of pictures [R, L, D] are of no
    place.
    """
    whole = ask.conditioning
    pictures = {
        name: window.cut(value, value.shape[-1] // ask.x.shape[-1]) if value.ndim == 4 else value
        for name, value in whole.pictures.items()
    }
    spatial = None if whole.spatial is None else window.cut(whole.spatial)
    return replace(whole, spatial=spatial, pictures=pictures)
