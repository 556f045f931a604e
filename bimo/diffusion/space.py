"""The base classes of spaces: pixels to the x of a level and back."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Protocol

import torch
from torch import Tensor, nn

from bimo.core.request import Request


class Decoder(Protocol):
    """Decodes x to pixels."""

    def decode(self, x: Tensor) -> Tensor:
        """[B, *shape] -> [B, 3, H, W]."""
        ...


class Space(nn.Module, ABC):
    """The space of a level's x. One position of x covers ``factor`` pixels of the picture a side; ``channels`` is C.

    A level that draws the picture at a quarter of its side (``shrink`` 4) has 4 times the factor.
    """

    channels: int
    factor: int
    shrink: int = 1
    #: Whether only the padding of the decoder's convolutions depends on positions: see ``Denoiser.shift_equivariant``.
    shift_equivariant: bool = False
    #: Whether x of a picture is sampled from a ``posterior``, so that training may sample it anew at each step.
    has_posterior: bool = False
    #: The names of the request's ``conditions`` on which the shape of x depends.
    conditions: tuple[str, ...] = ()

    @abstractmethod
    def shape(self, size: tuple[int, int]) -> tuple[int, ...]:
        """The shape of one x, without the batch, for a picture of (width, height) pixels: (C, h, w), or (D,)."""

    def shape_for(self, request: Request) -> tuple[int, ...]:
        """The shape of one x for a filled request. Raises RequestError for an impossible shape."""
        return self.shape(request.size or (0, 0))

    def pictures_of(self, request: Request) -> int:
        """How many pictures come of one of a filled request: more than one of a space of layers."""
        return 1

    @abstractmethod
    def encode(self, pixels: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """[B, 3, H, W] in [-1, 1] -> [B, *shape]; with ``generator`` a sample of the posterior, else its mean."""

    @abstractmethod
    def decode(self, x: Tensor) -> Tensor:
        """[B, *shape] -> [B, 3, H / shrink, W / shrink]; a space of layers: [B, layers, 4, H, W], the lowest first."""

    def tile(self, side: int) -> bool:
        """Enables tiled decoding, with blended seams, of pictures larger than ``side``; False if unsupported."""
        return False

    def posterior(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """[B, 3, H, W] in [-1, 1] -> mean and standard deviation of x, each [B, *shape]."""
        mean = self.encode(pixels)
        return mean, torch.zeros_like(mean)
