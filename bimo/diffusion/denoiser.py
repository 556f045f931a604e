"""The base classes of denoisers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from bimo.core.tensors import Conditioning, DenoiserInput, StepState

#: The scalar [R, 1] of a conditioning with the timestep after the step; 0 is the clean picture.
NEXT = "next_time"


class Denoiser(nn.Module, ABC):
    """The network of a level."""

    #: A side of x must be a multiple of this.
    multiple: int = 1

    #: Whether its answer goes by x; else it works out all of it from the conditioning, in one step.
    reads_x: bool = True

    @property
    def shift_equivariant(self) -> bool:
        """Whether only the padding of convolutions depends on positions, so that circular padding makes pictures
        seamless.
        """
        return False

    def roll(self, conditioning: Conditioning, shift: tuple[int, int], sides: tuple[int, int]) -> Conditioning:
        """The conditioning of an x [R, C, *sides] that was rolled by (rows, columns): maps and pictures that lie on x
        are rolled with it, tokens and pictures of another shape are not.
        """

        def rolled(value: Tensor) -> Tensor:
            times = value.shape[-1] // sides[1]
            if value.ndim != 4 or value.shape[-2:] != (times * sides[0], times * sides[1]):
                return value
            return torch.roll(value, (times * shift[0], times * shift[1]), (-2, -1))

        pictures = {name: rolled(value) for name, value in conditioning.pictures.items()}
        spatial = None if conditioning.spatial is None else rolled(conditioning.spatial)
        return replace(conditioning, spatial=spatial, pictures=pictures)

    @property
    def reads_next(self) -> bool:
        """Whether it is conditioned on the next timestep, the scalar NEXT."""
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
    """A denoiser that keeps state of a drawing between steps, such as a KV cache, which only saves time."""

    @abstractmethod
    def with_states(self, x: Tensor, t: Tensor, conditioning: Conditioning, states: Sequence[StepState]) -> Tensor:
        """As ``forward``, with the state of each drawing; each of ``states`` belongs to R / len(states) rows."""


class DenoiserWrapper(Denoiser):
    """A denoiser that adds something to another, its ``denoiser``."""

    denoiser: Denoiser

    @property
    def shift_equivariant(self) -> bool:
        """That of the wrapped denoiser."""
        return self.denoiser.shift_equivariant

    def roll(self, conditioning: Conditioning, shift: tuple[int, int], sides: tuple[int, int]) -> Conditioning:
        """As for the wrapped denoiser."""
        return self.denoiser.roll(conditioning, shift, sides)

    @property
    def reads_next(self) -> bool:
        """That of the wrapped denoiser."""
        return self.denoiser.reads_next

    @property
    def network(self) -> nn.Module:
        """The published network of the wrapped denoiser."""
        return self.denoiser.network
