"""What every conditioner does: something besides the texts that conditions a level."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from bimo.core.part import Part
from bimo.core.request import Request
from bimo.core.tensors import Batch, Conditioning, TextEncoding

if TYPE_CHECKING:
    from bimo.diffusion.system import System

#: What the seed of conditioners' own numbers differs by from that of the noise.
APART = 0x5EED


@dataclass
class Drawing:
    """What a conditioner may look at while a picture is drawn."""

    #: The request, filled in.
    request: Request
    #: Seeded for this picture, apart from its noise.
    generator: torch.Generator
    #: The encodings of the prompt.
    encodings: tuple[TextEncoding, ...]
    #: The generator of the noise, the level's first noise already taken: for what diffusers draws from it after that.
    noise: torch.Generator
    #: The generator of the noise that a seed is varied by, where it is.
    variation: torch.Generator | None = field(default=None, kw_only=True)
    #: The last level's x of the request's image, [1, C, h, w], where that is known better than by coding the image.
    latent: Tensor | None = field(default=None, kw_only=True)
    #: The images of the request as [1, 3, H, W] at its size, by name; "mask" is [1, 1, H, W], 1 where it is painted.
    pictures: Mapping[str, Tensor] = field(default_factory=dict[str, Tensor])
    #: The x of earlier levels, by their names.
    results: dict[str, Tensor] = field(default_factory=dict[str, Tensor])
    #: What conditioners made before the level's first noise, by their keys.
    kept: dict[str, Tensor] = field(default_factory=dict[str, Tensor])


@dataclass(frozen=True, kw_only=True)
class Conditioner(Part, ABC):
    """Something besides the texts that conditions a level: read from the batch in training, from the request in
    drawing.

    ``name`` is what a request calls it and what a stage drops it by.
    """

    #: The images of the request that it reads ("image", "mask", others); None for the one of its own name.
    reads: ClassVar[tuple[str, ...] | None] = None
    #: Whether the unconditional branch gets it as well, so that training never drops it.
    always: ClassVar[bool] = False
    #: Whether it reads a batch's pixels in training; where none does they are not decoded.
    pixels: ClassVar[bool] = True
    #: Whether its maps are photographs, which are resized as the picture is; of labels the nearest pixel is taken.
    smooth_maps: ClassVar[bool] = False

    name: str = ""

    @property
    def key(self) -> str:
        """Its name, or that of the level whose result it is."""
        return self.name or self.earlier_level

    @property
    def images(self) -> tuple[str, ...]:
        """The images of the request that it reads."""
        return (self.name,) if self.reads is None and self.name else self.reads or ()

    @property
    def droppable(self) -> bool:
        """Whether the unconditional branch goes without it."""
        return not self.always

    @property
    def earlier_level(self) -> str:
        """The level whose result it reads, "" for none."""
        return ""

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels that the data must have for it."""
        return ()

    @property
    def maps(self) -> tuple[str, ...]:
        """The maps that the data must have for it."""
        return ()

    @property
    def shown(self) -> tuple[str, ...]:
        """The images of the request that text encoders look at beside the prompt, those of the maps in training."""
        return ()

    @property
    def edits(self) -> tuple[str, ...]:
        """The images of the request without any of which there is nothing that it works on."""
        return self.shown

    def size_for(self, request: Request) -> tuple[int, int] | None:
        """(width, height) that a request with its pictures is drawn at where it says no size; None leaves that open."""
        return None

    def of_seed(self, seed: int) -> Tensor | None:
        """What it takes from a picture's seed where the request leaves it open, [1, N]; None for nothing."""
        return None

    def places(self, request: Request, index: int) -> Mapping[str, Sequence[Sequence[float]]]:
        """Where it tells a picture's elements to stand: name -> boxes (left, top, right, bottom), as shares of it."""
        return {}

    def resting(self, request: Request, step: int, steps: int) -> tuple[str, ...]:
        """The scalars of its conditioning that are 0 at a step of so many: of what counts in a part of the steps."""
        return ()

    def before_noise(self, system: System, drawing: Drawing) -> None:
        """Called before the level's first noise is drawn: for what diffusers draws of the same generator before it."""
        return

    @abstractmethod
    def from_batch(self, system: System, batch: Batch) -> Conditioning:
        """That of a training batch, B rows."""

    @abstractmethod
    def from_request(self, system: System, drawing: Drawing, shape: tuple[int, ...]) -> Conditioning:
        """That of the picture being drawn, 1 row; ``shape`` is that of x without its batch."""

    def unconditional(self, value: Conditioning) -> Conditioning:
        """What the unconditional branch of guidance gets in its place: the same, unless a conditioner overrides it."""
        return value
