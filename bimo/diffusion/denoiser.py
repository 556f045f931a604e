"""The base classes of denoisers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from bimo.core.tensors import Conditioning, DenoiserInput, StepState

#: The scalar [R, 1] of a conditioning that is the time which a step leads to; 0 is that of the picture.
NEXT = "next_time"


class Denoiser(nn.Module, ABC):
    """The network of a level."""

    #: A side of x must be a multiple of this.
    multiple: int = 1

    @property
    def shift_equivariant(self) -> bool:
        """Whether convolutions alone know positions, so that circular padding makes opposite edges neighbours."""
        return False

    @property
    def reads_next(self) -> bool:
        """Whether it is told the time that its answer leads to as well: the scalar NEXT, where there is one."""
        return False

    @property
    def network(self) -> nn.Module:
        """The published network, with the published parameter names: the module itself, or its ``model``."""
        return self

    @abstractmethod
    def forward(self, x: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        """x [R, *shape], t [R] and conditioning of R rows -> the prediction [R, *shape], or twice the channels with a
        variance.
        """


class PublishedDenoiser(Denoiser):
    """A denoiser around a published network, its ``model``."""

    model: Any

    @property
    def network(self) -> nn.Module:
        """The published network."""
        return self.model


class ShortcutDenoiser(PublishedDenoiser):
    """A denoiser that supports ``Shortcuts``, parts of the computation that can be skipped."""

    @abstractmethod
    def shortened(self, x: Tensor, t: Tensor, conditioning: Conditioning, denoiser_input: DenoiserInput) -> Tensor:
        """As ``forward``, with the shortcuts of the input; x, t and conditioning have the denoiser's own dtype."""


class StatefulDenoiser(PublishedDenoiser):
    """A denoiser that keeps something of a drawing from step to step, without which it answers the same, later."""

    @abstractmethod
    def with_states(self, x: Tensor, t: Tensor, conditioning: Conditioning, states: Sequence[StepState]) -> Tensor:
        """As ``forward``, with what was kept of each drawing: R / len(states) rows belong to each of ``states``."""


class DenoiserWrapper(Denoiser):
    """A denoiser that adds something to another, its ``denoiser``."""

    denoiser: Denoiser

    @property
    def shift_equivariant(self) -> bool:
        """That of the wrapped denoiser."""
        return self.denoiser.shift_equivariant

    @property
    def reads_next(self) -> bool:
        """As the one within."""
        return self.denoiser.reads_next

    @property
    def network(self) -> nn.Module:
        """The published network of the wrapped denoiser."""
        return self.denoiser.network
