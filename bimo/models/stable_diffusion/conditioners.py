"""The conditioners of Stable Diffusion's UNets besides text: masked picture, sizes, guidance scale."""

# torch leaves parts of its interface untyped.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from bimo.core.errors import RequestError
from bimo.core.tensors import Batch, Conditioning
from bimo.diffusion.conditioner import Conditioner, Drawing
from bimo.diffusion.system import System
from bimo.models.stable_diffusion.unet import SCALE


@dataclass(frozen=True, kw_only=True)
class Masked(Conditioner):
    """The inputs of inpainting models (arXiv:2112.10752): the mask (1: repainted) and the latents of the picture with
    grey in its place, concatenated to x in that order.

    In training every picture gets a random mask: with probability ``whole`` all of it, else a few rectangles and a
    stroke. In drawing it is the request's, all of the picture without one. ``level`` names the level whose space
    encodes the picture. With ``guided`` the unconditional branch gets zeros.
    """

    level: str = "image"
    whole: float = 0.25
    name: str = "masked"
    guided: bool = False
    reads: ClassVar = ("mask",)

    @property
    def droppable(self) -> bool:
        """Whether the unconditional branch goes without it."""
        return self.guided

    def from_batch(self, system: System, batch: Batch) -> Conditioning:
        """Spatial [B, 1 + C, h, w]."""
        space: Any = system.space(self.level)
        mask = batch.own(random_masks(batch.total_rows, batch.x.shape[2:], self.whole, batch.generator))
        with torch.no_grad():
            # The pixels of a batch with x alone are decoded from x.
            pixels = space.decode(batch.x) if batch.pixels is None else batch.pixels
            shown = nn.functional.interpolate(mask, size=pixels.shape[2:]) < 0.5
            if space.has_posterior:
                mean, deviation = space.posterior(pixels * shown)
                coded = mean + deviation * batch.normal(*mean.shape[1:])
            else:
                coded = space.encode(pixels * shown)
            return Conditioning(spatial=torch.cat([mask, coded], dim=1))

    def from_request(self, system: System, drawing: Drawing, shape: tuple[int, ...]) -> Conditioning:
        """Spatial [1, 1 + C, h, w]; the masked picture is encoded with random numbers of the noise generator, as in
        diffusers.
        """
        space: Any = system.space(self.level)
        width, height = drawing.request.size or (0, 0)
        mask = drawing.pictures.get("mask", torch.ones(1, 1, height, width))
        image = drawing.pictures.get("image", torch.zeros(1, 3, height, width))
        coded = space.encode(image * (mask < 0.5), drawing.noise)
        return Conditioning(spatial=torch.cat([nn.functional.interpolate(mask, size=shape[1:]), coded], dim=1))

    def unconditional(self, value: Conditioning) -> Conditioning:
        """The same, or zeros."""
        if not self.guided:
            return value
        assert value.spatial is not None
        return replace(value, spatial=torch.zeros_like(value.spatial))


def random_masks(count: int, size: tuple[int, ...], whole: float, generator: torch.Generator) -> Tensor:
    """Random masks [B, 1, h, w] for inpainting: everything with probability ``whole``, else one to three rectangles and
    a stroke of random width.
    """
    h, w = size
    rows, columns = torch.arange(h)[:, None] / h, torch.arange(w)[None] / w
    masks = torch.zeros(count, 1, h, w)
    for mask in masks[:, 0]:
        draws: list[float] = torch.rand(20, generator=generator).tolist()
        if draws[0] < whole:
            mask.fill_(1.0)
            continue
        for at in range(1, 2 + int(draws[1] * 3)):
            top, left, tall, wide = draws[4 * at - 2 : 4 * at + 2]
            tall, wide = 0.1 + 0.5 * tall, 0.1 + 0.5 * wide
            inside = (rows >= top - tall / 2) & (rows < top + tall / 2)
            mask[inside & (columns >= left - wide / 2) & (columns < left + wide / 2)] = 1.0
        y, x, down, right, thick = draws[15:]
        down, right = down - y, right - x
        along = ((rows - y) * down + (columns - x) * right) / max(down**2 + right**2, 1e-6)
        along = along.clamp(0, 1)
        far = (rows - y - along * down) ** 2 + (columns - x - along * right) ** 2
        mask[far < (0.02 + 0.08 * thick) ** 2] = 1.0
    return masks


@dataclass(frozen=True, kw_only=True)
class Sizes(Conditioner):
    """Size conditioning in pixels: original height and width, top and left of the crop, target height and width
    (arXiv:2307.01952, section 2.2).

    In training they come with the data, else the picture is taken as uncropped; ``factor`` pixels are a position of x.
    In drawing they are the request's ``conditions["size_ids"]``, else those of an uncropped picture of the requested
    size.
    """

    name: str = "size_ids"
    factor: int = 8
    reads: ClassVar = ()
    always: ClassVar = True
    pixels: ClassVar = False

    def from_batch(self, system: System, batch: Batch) -> Conditioning:
        """Scalars [B, 6]."""
        if self.name in batch.scalars:
            return Conditioning(scalars={self.name: batch.scalars[self.name]})
        height, width = (side * self.factor for side in batch.x.shape[2:])
        return Conditioning(scalars={self.name: _whole(width, height).expand(batch.x.shape[0], -1)})

    def from_request(self, system: System, drawing: Drawing, shape: tuple[int, ...]) -> Conditioning:
        """Scalars [1, 6]. Raises RequestError for anything but six finite numbers."""
        value = drawing.request.conditions.get(self.name)
        if value is None:
            return Conditioning(scalars={self.name: _whole(*(drawing.request.size or (0, 0)))})
        if len(value) != 6 or not all(math.isfinite(v) for v in value):
            raise RequestError(
                "{name} are 6 numbers (height and width before, top and left of the crop, height and width now), "
                "got {given}",
                name=self.name,
                given=value,
            )
        return Conditioning(scalars={self.name: torch.tensor([value])})


def _whole(width: int, height: int) -> Tensor:
    return torch.tensor([[height, width, 0, 0, height, width]], dtype=torch.float32)


@dataclass(frozen=True, kw_only=True)
class GuidanceScale(Conditioner):
    """The guidance scale as an input, for denoisers with distilled guidance (consistency models, arXiv:2310.04378).

    In drawing it is the request's. In training it is ``scale``: others would need the outputs of a guided teacher.
    """

    name: str = SCALE
    scale: float = 8.5
    reads: ClassVar = ()
    always: ClassVar = True
    pixels: ClassVar = False

    def from_batch(self, system: System, batch: Batch) -> Conditioning:
        """Scalars [B, 1]."""
        return Conditioning(scalars={self.name: torch.full((batch.x.shape[0], 1), self.scale)})

    def from_request(self, system: System, drawing: Drawing, shape: tuple[int, ...]) -> Conditioning:
        """Scalars [1, 1]."""
        scale = self.scale if drawing.request.guidance is None else drawing.request.guidance
        return Conditioning(scalars={self.name: torch.tensor([[scale]])})
