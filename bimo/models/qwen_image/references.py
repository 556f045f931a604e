"""The pictures that Qwen-Image-Edit edits: encoded as x is, and passed to its text encoder (arXiv:2508.02324, 5.2)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Self

import torch
from torch import Tensor

from bimo.core.errors import RequestError
from bimo.core.request import Request
from bimo.core.tensors import Batch, Conditioning
from bimo.diffusion.conditioner import Conditioner, Drawing
from bimo.diffusion.image_inputs import IMAGE, layer_of, pixels_of, size_of_area, upright
from bimo.diffusion.system import System
from bimo.models.flow_tokens import PLACES, REFERENCE

if TYPE_CHECKING:
    from PIL import Image

#: Sides are rounded to multiples of this many pixels, so aspect ratios count as equal up to that difference.
UNIT = 32


@dataclass(frozen=True, kw_only=True)
class References(Conditioner):
    """The request's ``image``, which is edited, and up to ``count`` - 1 others, its ``condition_images`` "image-2",
    "image-3" ...; they are passed to the text encoder as well.

    A picture with the aspect ratio of the output is encoded at the output's size: then positions correspond, and
    unchanged parts are neither shifted nor zoomed. Others are encoded at about ``area`` pixels with their own aspect
    ratio, as diffusers' pipelines always do.

    Sides are rounded to multiples of ``unit``, with ``up`` upwards.

    In training the first ``learnt`` of them come with the data as maps of these names, cropped and resized as the
    picture is.
    """

    name: str = IMAGE
    level: str = "image"
    count: int = 1
    learnt: int = 1
    area: int = 1024 * 1024
    unit: int = UNIT
    up: bool = False
    always: ClassVar = True
    pixels: ClassVar = False
    smooth_maps: ClassVar = True

    def tiny(self) -> Self:
        """Of about 64 pixels a side."""
        return replace(self, area=64 * 64)

    @property
    def images(self) -> tuple[str, ...]:
        """The images of the request that it reads."""
        return (self.name, *(f"{self.name}-{place}" for place in range(2, self.count + 1)))

    @property
    def shown(self) -> tuple[str, ...]:
        """All of them."""
        return self.images

    @property
    def maps(self) -> tuple[str, ...]:
        """The maps that a batch must have."""
        return self.images[: self.learnt]

    def size_for(self, request: Request) -> tuple[int, int] | None:
        """The size of the picture to be edited, scaled to ``area`` pixels."""
        return (
            None if request.image is None else size_of_area(upright(request.image).size, self.area, self.unit, self.up)
        )

    def coded_size(self, image: Image.Image, drawn: tuple[int, int]) -> tuple[int, int]:
        """The (width, height) at which a picture is encoded, for an output of size ``drawn``."""
        own = upright(image).size
        width = math.sqrt(math.prod(drawn) * own[0] / own[1])
        alike = max(abs(width - drawn[0]), abs(width * own[1] / own[0] - drawn[1])) <= (
            self.unit if self.up else self.unit / 2
        )
        return drawn if alike else size_of_area(own, self.area, self.unit, self.up)

    def from_batch(self, system: System, batch: Batch) -> Conditioning:
        """Pictures [B, C, h, w], aligned with the training picture."""
        return self._coded(system, [batch.maps[name] for name in self.maps])

    def from_request(self, system: System, drawing: Drawing, shape: tuple[int, ...]) -> Conditioning:
        """Pictures [1, C, h', w']. Raises RequestError for tiled sampling, which would show the denoiser parts only."""
        request = drawing.request
        if request.tile_size is not None:
            raise RequestError(
                "{name} looks at whole pictures, and tile_size shows it a part at a time; leave it out",
                name=system.recipe.name,
            )
        named = {IMAGE: request.image, **request.condition_images}
        images = [image for name in self.images if (image := named.get(name)) is not None]
        drawn = request.size or (0, 0)
        return self.from_images(system, images, drawn)

    def from_images(self, system: System, images: Sequence[Image.Image], drawn: tuple[int, int]) -> Conditioning:
        """Pictures [1, C, h', w'] of those that a request has, where one of a size (width, height) is drawn."""
        return self._coded(system, [self.pixels_at(image, self.coded_size(image, drawn)) for image in images])

    def pixels_at(self, image: Image.Image, size: tuple[int, int]) -> Tensor:
        """[1, 3, H, W] in [-1, 1] of a picture at (width, height), as it is coded."""
        return pixels_of(image, size)

    def _coded(self, system: System, pixels: list[Tensor]) -> Conditioning:
        space = system.space(self.level)
        with torch.no_grad():
            coded = {f"{REFERENCE}{place}": space.encode(each) for place, each in enumerate(pixels, 1)}
        return Conditioning(pictures=coded)


@dataclass(frozen=True, kw_only=True)
class InlineReferences(References):
    """References that stand among the words, in the places that the text encoder has for them. None is needed: without
    any it is drawn from the words alone. With ``opacity`` they are coded with theirs.

    None comes with the data of training, unless ``learnt`` says how many.
    """

    learnt: int = 0
    opacity: bool = False

    @property
    def edits(self) -> tuple[str, ...]:
        """None: there is always something to draw."""
        return ()

    def pixels_at(self, image: Image.Image, size: tuple[int, int]) -> Tensor:
        """As they are coded, [1, 4, H, W] with their opacity."""
        return layer_of(image, size) if self.opacity else super().pixels_at(image, size)

    def _coded(self, system: System, pixels: list[Tensor]) -> Conditioning:
        coded = super()._coded(system, pixels)
        if not pixels:
            return coded
        places = torch.tensor([system.text_encoders[0].picture_places(len(pixels))])
        return replace(coded, scalars={PLACES: places.expand(len(pixels[0]), -1)})
