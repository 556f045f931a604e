"""Qwen-Image-Layered: decomposes a picture into a requested number of layers with transparency."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Self

import torch
from torch import Tensor

from bimo.core.errors import RequestError
from bimo.core.request import Request
from bimo.core.tensors import Batch, Conditioning
from bimo.diffusion.conditioner import Conditioner, Drawing
from bimo.diffusion.image_inputs import IMAGE, layer_of, size_of_area, upright
from bimo.diffusion.system import System
from bimo.models.cascade.conditioners import pixels_of
from bimo.models.flow_tokens import REFERENCE
from bimo.models.qwen_image.space import QwenLatent, QwenLatentSpace

#: The name of the number of layers among a request's ``conditions``.
LAYERS = "layers"
#: An erroneous number, such as one of pixels, would exhaust the memory.
MOST = 20
#: Sides are rounded to multiples of this many pixels, as in diffusers' pipeline.
UNIT = 32


@dataclass(frozen=True, kw_only=True)
class QwenLayeredLatent(QwenLatent):
    """Latents of pictures with transparency, of several layers: x has those of the whole picture and of each layer,
    concatenated along the channels. ``layers`` is their default number.
    """

    pixel_channels: int = 4
    layers: int = 4

    def build(self) -> QwenLayeredSpace:
        """The module."""
        return QwenLayeredSpace(self)


class QwenLayeredSpace(QwenLatentSpace):
    """Latents [B, (1 + layers) channels, H / factor, W / factor] of layers [B, layers, 4, H, W]. Published names are
    below ``model.``.
    """

    conditions = (LAYERS,)

    def __init__(self, part: QwenLayeredLatent) -> None:
        super().__init__(part)
        self.layers = part.layers

    def shape(self, size: tuple[int, int]) -> tuple[int, ...]:
        """(C, h, w) for (width, height) pixels and the usual number of layers."""
        return (1 + self.layers) * self.channels, *super().shape(size)[1:]

    def shape_for(self, request: Request) -> tuple[int, ...]:
        """The space for the requested number of layers. Raises RequestError for an invalid number."""
        asked = request.conditions.get(LAYERS, [self.layers])
        if len(asked) != 1 or asked[0] != int(asked[0]) or not 1 <= asked[0] <= MOST:
            raise RequestError(
                "{name} is one whole number from 1 to {most}, got {given}", name=LAYERS, most=MOST, given=asked
            )
        return (1 + int(asked[0])) * self.channels, *super().shape(request.size or (0, 0))[1:]

    def pictures_of(self, request: Request) -> int:
        """The whole, and its layers."""
        return self.shape_for(request)[0] // self.channels

    def decode(self, x: Tensor) -> Tensor:
        """[B, C, h, w] -> the layers [B, layers, 4, H, W], the lowest first; the whole picture is left."""
        _, *layers = torch.split(x, self.channels, dim=1)
        return torch.stack([super(QwenLayeredSpace, self).decode(one) for one in layers], dim=1)


@dataclass(frozen=True, kw_only=True)
class LayeredPicture(Conditioner):
    """The picture to be decomposed, the request's ``image`` with its transparency, encoded at the size of the layers:
    by default about ``area`` pixels with its aspect ratio.

    In training it is the sample, whose ``learnt`` layers come with the data: the maps "layer-1", the lowest, and
    "layer-1-alpha", white where it is opaque, and so on.
    """

    name: str = IMAGE
    level: str = "image"
    area: int = 640 * 640
    learnt: int = 2
    always: ClassVar = True
    smooth_maps: ClassVar = True

    def tiny(self) -> Self:
        """Of some 64 pixels a side."""
        return replace(self, area=64 * 64)

    @property
    def maps(self) -> tuple[str, ...]:
        """The maps of the layers that are learnt."""
        return tuple(f"layer-{n}{what}" for n in range(1, self.learnt + 1) for what in ("", "-alpha"))

    @property
    def edits(self) -> tuple[str, ...]:
        """The same picture."""
        return self.images

    def size_for(self, request: Request) -> tuple[int, int] | None:
        """That of the picture, at ``area`` pixels."""
        return None if request.image is None else size_of_area(upright(request.image).size, self.area, UNIT)

    def before_noise(self, system: System, drawing: Drawing) -> None:
        """Raises RequestError for settings of a request that layers do not support."""
        request = drawing.request
        asked = {
            "mask": request.mask,
            "outpaint": request.outpaint,
            "hires": request.hires,
            "tile_size": request.tile_size,
            "regions": request.regions or None,
        }
        for name, value in asked.items():
            if value is not None:
                raise RequestError(
                    "{name} is for one picture, and {recipe} draws layers; leave it out",
                    name=name,
                    recipe=system.recipe.name,
                )

    def from_batch(self, system: System, batch: Batch) -> Conditioning:
        """The picture [B, C, h, w], opaque."""
        with torch.no_grad():
            return Conditioning(pictures={f"{REFERENCE}1": system.space(self.level).encode(pixels_of(batch))})

    def layers_of(self, system: System, batch: Batch) -> Tensor:
        """x of a batch with its layers, [B, (1 + learnt) C, h, w]."""
        maps = [batch.maps[name] for name in self.maps]
        layers = [torch.cat([colour, alpha[:, :1]], dim=1) for colour, alpha in zip(maps[::2], maps[1::2], strict=True)]
        with torch.no_grad():
            return torch.cat([system.space(self.level).encode(each) for each in (pixels_of(batch), *layers)], dim=1)

    def from_request(self, system: System, drawing: Drawing, shape: tuple[int, ...]) -> Conditioning:
        """The picture [1, C, h, w]; white where there is none."""
        width, height = drawing.request.size or (0, 0)
        image = drawing.request.image
        pixels = torch.ones(1, 4, height, width) if image is None else layer_of(image, (width, height))
        return Conditioning(pictures={f"{REFERENCE}1": system.space(self.level).encode(pixels)})
