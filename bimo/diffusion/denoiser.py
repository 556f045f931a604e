"""What every denoiser does: x at a time, with its conditioning, to what the schedule has it predict."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from torch import Tensor, nn

from bimo.core.tensors import Conditioning, DenoiserInput

#: The scalar [R, 1] of a conditioning that is the time which a step leads to; 0 is that of the picture.
NEXT = "next_time"


class Denoiser(nn.Module, ABC):
    """The network of a level."""

    #: What a side of x must be a multiple of.
    multiple: int = 1

    @property
    def shift_equivariant(self) -> bool:
        """Whether all that knows places is convolutions, so that with circular ones opposite edges are neighbours."""
        return False

    @property
    def reads_next(self) -> bool:
        """Whether it is told the time that its answer leads to as well: the scalar NEXT, where there is one."""
        return False

    @property
    def network(self) -> nn.Module:
        """The network as it was published, whose names its weights have: itself, or what it holds as ``model``."""
        return self

    @abstractmethod
    def forward(self, x: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        """x [R, *shape], t [R] and conditioning of R rows -> [R, *shape], or twice the channels: with a variance."""


class PublishedDenoiser(Denoiser):
    """A denoiser around a published network, which is its ``model``."""

    model: Any

    @property
    def network(self) -> nn.Module:
        """The published network."""
        return self.model


class ShortcutDenoiser(PublishedDenoiser):
    """A denoiser that can leave out what ``Shortcuts`` names; others are never asked to."""

    @abstractmethod
    def shortened(self, x: Tensor, t: Tensor, conditioning: Conditioning, ask: DenoiserInput) -> Tensor:
        """As ``forward``, with the shortcuts of an ask; x, t and conditioning have the denoiser's own dtype."""


class DenoiserWrapper(Denoiser):
    """A denoiser that adds something to another, which is its ``denoiser``."""

    denoiser: Denoiser

    @property
    def shift_equivariant(self) -> bool:
        """As the one within."""
        return self.denoiser.shift_equivariant

    @property
    def reads_next(self) -> bool:
        """As the one within."""
        return self.denoiser.reads_next

    @property
    def network(self) -> nn.Module:
        """The published network within."""
        return self.denoiser.network
