"""Tiled denoising of a large x in overlapping windows whose outputs are blended (MultiDiffusion, arXiv:2302.08113, with
the Gaussian weights of Mixture of Diffusers, arXiv:2302.02412).
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from bimo.core.request import Request
from bimo.core.tensors import Conditioning, DenoiserInput

#: The variance of a window's weights relative to its side, as in Mixture of Diffusers.
VARIANCE = 0.01
#: The default overlap of windows, as a fraction of the side.
OVERLAP = 0.25
#: The smallest weight, which positions at the border of the picture need: a single window covers them.
LEAST = 1e-6


@dataclass(frozen=True)
class Window:
    """A window of x: ``height`` rows from ``top``, ``width`` columns from ``left``."""

    top: int
    left: int
    height: int
    width: int

    def cut(self, values: Tensor, times: int = 1) -> Tensor:
        """The window of [..., h, w], or of a tensor with ``times`` as many positions a side."""
        top, left, height, width = (times * each for each in (self.top, self.left, self.height, self.width))
        return values[..., top : top + height, left : left + width]

    def weights(self) -> Tensor:
        """The blending weights [height, width], largest in the middle."""
        rows, columns = (_weights(side) for side in (self.height, self.width))
        return rows[:, None] * columns[None]


def _weights(side: int) -> Tensor:
    places = (torch.arange(side, dtype=torch.float32) + 0.5) / side - 0.5
    return torch.exp(-0.5 * places.square() / VARIANCE).clamp(min=LEAST)


def windows(request: Request, shape: tuple[int, ...], factor: int, multiple: int) -> list[Window]:
    """The windows of x with shape (C, h, w), where a position is ``factor`` pixels; none if x is not larger than
    ``tile_size``. Their sides are multiples of ``multiple`` positions.
    """
    if request.tile_size is None or len(shape) != 3:
        return []
    side = max(multiple, request.tile_size // factor // multiple * multiple)
    overlap = OVERLAP * side if request.tile_overlap is None else request.tile_overlap / factor
    stride = max(multiple, int(side - overlap) // multiple * multiple)
    rows, columns = (_starts(length, side, stride) for length in shape[1:])
    tiles = [Window(top, left, min(side, shape[1]), min(side, shape[2])) for top in rows for left in columns]
    return tiles if len(tiles) > 1 else []


def _starts(length: int, side: int, stride: int) -> list[int]:
    if length <= side:
        return [0]
    return [*range(0, length - side, stride), length - side]


def predict_in_windows(inputs: DenoiserInput, windows_: Sequence[Window]) -> Generator[DenoiserInput, Tensor, Tensor]:
    """The denoiser's output for x [R, C, h, w], computed at once, or window by window if there are windows."""
    if not windows_:
        return (yield inputs)
    total: Tensor | None = None
    weight = torch.zeros(inputs.x.shape[-2:])
    for window in windows_:
        own = window.weights().to(inputs.x)
        output = yield replace(inputs, x=window.cut(inputs.x), conditioning=_window_conditioning(inputs, window))
        if total is None:
            total = output.new_zeros(*output.shape[:2], *inputs.x.shape[-2:])
        window.cut(total).add_(own * output)
        window.cut(weight).add_(own)
    assert total is not None
    return total / weight


def _window_conditioning(inputs: DenoiserInput, window: Window) -> Conditioning:
    """The conditioning of a window: maps and pictures are cropped; tokens of pictures [R, L, D] are unchanged."""
    conditioning = inputs.conditioning
    pictures = {
        name: window.cut(value, value.shape[-1] // inputs.x.shape[-1]) if value.ndim == 4 else value
        for name, value in conditioning.pictures.items()
    }
    spatial = None if conditioning.spatial is None else window.cut(conditioning.spatial)
    return replace(conditioning, spatial=spatial, pictures=pictures)
