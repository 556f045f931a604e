"""The base class of conditioners: anything besides text that conditions a level."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from bimo.core.part import Part
from bimo.core.request import Request
from bimo.core.tensors import Batch, Conditioning, TextEncoding

if TYPE_CHECKING:
    from PIL import Image

    from bimo.diffusion.system import System

#: Separates the seed of conditioners' random numbers from that of the noise.
CONDITIONER_SEED = 0x5EED


@dataclass
class Drawing:
    """The state of one picture while it is drawn, as conditioners may read it."""

    #: The request, filled in.
    request: Request
    #: Seeded for this picture, independent of its noise.
    generator: torch.Generator
    #: The encodings of the prompt.
    encodings: tuple[TextEncoding, ...]
    #: The generator of the noise, after the level's first noise was drawn: for what diffusers draws from it after that.
    noise: torch.Generator
    #: The generator of the variation noise (subseed), if any.
    variation: torch.Generator | None = field(default=None, kw_only=True)
    #: The last level's x of the request's image, [1, C, h, w], if it is known without encoding the image.
    latent: Tensor | None = field(default=None, kw_only=True)
    #: The images of the request as [1, 3, H, W] at its size, by name; "mask" is [1, 1, H, W], 1 where it is repainted.
    pictures: Mapping[str, Tensor] = field(default_factory=dict[str, Tensor])
    #: The x of earlier levels, by their names.
    results: dict[str, Tensor] = field(default_factory=dict[str, Tensor])
    #: Tensors that conditioners computed in ``before_noise``, by their keys.
    kept: dict[str, Tensor] = field(default_factory=dict[str, Tensor])
    #: Whether its last level was ended before its last step.
    stopped: bool = False


@dataclass(frozen=True)
class Draft:
    """A draft of a picture by program: ``make`` draws it, at the request's size; ``whole`` if it shows every word of
    the prompt but those ``left_out``, those that the model never learned, too; ``verbatim`` if it shows it as it was
    written, whatever commoner words the model reads in place of some.
    """

    make: Callable[[Drawing], Image.Image]
    whole: bool
    left_out: tuple[str, ...] = ()
    verbatim: bool = False


@dataclass(frozen=True, kw_only=True)
class Conditioner(Part, ABC):
    """Anything besides text that conditions a level: computed from the batch in training, from the request in drawing.

    ``name`` is its key in requests and in the dropout settings of a stage.
    """

    #: The images of the request that it reads ("image", "mask", others); None for the one with its own name.
    reads: ClassVar[tuple[str, ...] | None] = None
    #: Whether the unconditional branch gets it too, so that training never drops it.
    always: ClassVar[bool] = False
    #: Whether it reads the pixels of a batch in training; they are decoded only if a conditioner does.
    pixels: ClassVar[bool] = True
    #: Whether its maps are photographs and resized like the picture; maps of labels use the nearest pixel.
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
        """The labels that the data must have."""
        return ()

    @property
    def maps(self) -> tuple[str, ...]:
        """The maps that the data must have."""
        return ()

    @property
    def shown(self) -> tuple[str, ...]:
        """The images of the request that text encoders see with the prompt; in training, those of the maps."""
        return ()

    @property
    def edits(self) -> tuple[str, ...]:
        """The images of the request of which it needs at least one: without any there is nothing to edit."""
        return self.shown

    def size_for(self, request: Request) -> tuple[int, int] | None:
        """The default (width, height) for a request with pictures and no size; None for no default."""
        return None

    def of_seed(self, seed: int) -> Tensor | None:
        """The default that it derives from a picture's seed, [1, N]; None if it derives none."""
        return None

    def places(self, request: Request, index: int) -> Mapping[str, Sequence[Sequence[float]]]:
        """The layout that it imposes: name of an element -> boxes (left, top, right, bottom) as fractions of the
        picture.
        """
        return {}

    def draft(self, system: System, request: Request) -> Draft | None:
        """A draft of the picture that a request asks for, by program, which the last level starts from as it starts
        from the image of image-to-image; None where there is none.
        """
        return None

    def drafted_words(self) -> frozenset[str]:
        """Words that its drafts show whether the model learned them or not."""
        return frozenset()

    def resting(self, request: Request, step: int, steps: int) -> tuple[str, ...]:
        """The scalars of its conditioning that are 0 at this step, for conditioners that apply to a range of steps."""
        return ()

    def before_noise(self, system: System, drawing: Drawing) -> None:
        """Called before the level's initial noise is drawn, for random numbers that diffusers draws before it."""
        return

    @abstractmethod
    def from_batch(self, system: System, batch: Batch) -> Conditioning:
        """The conditioning of a training batch, B rows."""

    @abstractmethod
    def from_request(self, system: System, drawing: Drawing, shape: tuple[int, ...]) -> Conditioning:
        """The conditioning of the picture being drawn, 1 row; ``shape`` is that of x without the batch."""

    def unconditional(self, value: Conditioning) -> Conditioning:
        """The conditioning of the unconditional branch: the same, unless a conditioner overrides it."""
        return value
