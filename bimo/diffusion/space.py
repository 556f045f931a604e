"""What every space does: pixels to the x of a level and back."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Protocol

import torch
from torch import Tensor, nn

from bimo.core.request import Request


class Decoder(Protocol):
    """What makes pixels of x."""

    def decode(self, x: Tensor) -> Tensor:
        """[B, *shape] -> [B, 3, H, W]."""
        ...


class Space(nn.Module, ABC):
    """Where a level's x lives. ``factor`` pixels of the picture a side are one position of x; ``channels`` is C.

    The picture is that of the request: a level that draws it at a quarter of its side (``shrink`` 4) has 4 times the
    factor.
    """

    channels: int
    factor: int
    shrink: int = 1
    #: Whether the decoder knows places by convolutions alone: see ``Denoiser.shift_equivariant``.
    shift_equivariant: bool = False
    #: Whether x of a picture is one of many (``posterior``), of which training may draw another at each step.
    has_posterior: bool = False

    @abstractmethod
    def shape(self, size: tuple[int, int]) -> tuple[int, ...]:
        """The shape of one x, without the batch, for a picture of (width, height) pixels: (C, h, w), or (D,)."""

    def shape_for(self, request: Request) -> tuple[int, ...]:
        """The shape of one x for a filled request. Raises RequestError for what it cannot be."""
        return self.shape(request.size or (0, 0))

    @abstractmethod
    def encode(self, pixels: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """[B, 3, H, W] in [-1, 1] -> [B, *shape]; with ``generator`` a sample of the posterior, else its mean."""

    @abstractmethod
    def decode(self, x: Tensor) -> Tensor:
        """[B, *shape] -> [B, 3, H / shrink, W / shrink]; a space of layers: [B, layers, 4, H, W], the lowest first."""

    def tile(self, side: int) -> bool:
        """Has pictures larger than ``side`` decoded tile by tile, blended at the seams; False where it knows none."""
        return False

    def posterior(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """[B, 3, H, W] in [-1, 1] -> mean and standard deviation of x, each [B, *shape]."""
        mean = self.encode(pixels)
        return mean, torch.zeros_like(mean)
