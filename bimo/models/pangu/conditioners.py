"""The conditioner of PanGu-Draw's size buckets."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar, Self

import torch

from bimo.core.errors import RequestError
from bimo.core.recipe import TINY
from bimo.core.tensors import Batch, Conditioning
from bimo.diffusion.conditioner import Conditioner, Drawing
from bimo.diffusion.system import System


@dataclass(frozen=True, kw_only=True)
class Bucket(Conditioner):
    """The size bucket of a picture, (width, height) in pixels: the denoiser only gets its index in the list (PanGu-Draw
    v3), so that no other size can be drawn.

    In training it comes with the data, else from x, of which a position is ``factor`` pixels; other sizes count as the
    bucket with the nearest aspect ratio.
    """

    sizes: tuple[tuple[int, int], ...]
    name: str = "bucket"
    factor: int = 8
    reads: ClassVar = ()
    always: ClassVar = True
    pixels: ClassVar = False

    def tiny(self) -> Self:
        """A quarter of every side, as ``Defaults`` has them at toy width."""
        return replace(self, sizes=tuple((width // TINY, height // TINY) for width, height in self.sizes))

    def from_batch(self, system: System, batch: Batch) -> Conditioning:
        """Scalars [B, 1]."""
        if self.name in batch.scalars:
            return Conditioning(scalars={self.name: batch.scalars[self.name]})
        height, width = batch.x.shape[2:]
        near = min(self.sizes, key=lambda size: abs(math.log(size[0] / size[1]) - math.log(width / height)))
        size = (width * self.factor, height * self.factor)
        place = self.sizes.index(size if size in self.sizes else near)
        return Conditioning(scalars={self.name: torch.full((batch.x.shape[0], 1), float(place))})

    def from_request(self, system: System, drawing: Drawing, shape: tuple[int, ...]) -> Conditioning:
        """Scalars [1, 1]. Raises RequestError for a size that is not in the list."""
        size = drawing.request.size or (0, 0)
        if size not in self.sizes:
            listed = ", ".join(f"{width}x{height}" for width, height in self.sizes)
            raise RequestError("no size {size}; there is {listed}", size=size, listed=listed)
        return Conditioning(scalars={self.name: torch.tensor([[float(self.sizes.index(size))]])})
