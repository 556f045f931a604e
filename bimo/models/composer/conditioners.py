"""Conditioners computed from a picture: palette, sketch, intensity, and maps that come with the data.

Composer (arXiv:2302.09778, section 2.1) names them; its code for them was not published, so that they are this
package's own unless a docstring says otherwise. Maps are in [0, 1].
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar, Self

import torch
from torch import Tensor
from torch.nn import functional

from bimo.core.errors import TrainingError
from bimo.core.tensors import Batch, Conditioning
from bimo.diffusion.conditioner import Conditioner, Drawing
from bimo.diffusion.system import System
from bimo.models.cascade.conditioners import nothing, pixels_of

#: Red, green, blue -> lightness as video weighs them (BT.601).
GREY = (0.299, 0.587, 0.114)
#: sRGB's linear light -> XYZ over that of the white point D65 (IEC 61966-2-1).
XYZ = ((0.433953, 0.376219, 0.189828), (0.212671, 0.715160, 0.072169), (0.017758, 0.109477, 0.872766))
#: The side to which a picture is resized before its colours are counted.
COUNTED = 64
#: The chroma that counts as full saturation: few sRGB colours exceed it.
FULL_CHROMA = 100.0


@dataclass(frozen=True, kw_only=True)
class Palette(Conditioner):
    """The colours of a picture: a histogram over CIELab's hue, chroma and lightness, as scalars of hue x chroma x
    lightness numbers whose mean is 1. A colour is split between the two nearest bins of each axis, so that the
    histogram is continuous; hues are circular. In drawing it is that of the request's picture of this name.
    """

    name: str = "palette"
    hue: int = 11
    chroma: int = 5
    lightness: int = 5

    def tiny(self) -> Self:
        """Sixteen bins."""
        return replace(self, hue=4, chroma=2, lightness=2)

    def from_batch(self, system: System, batch: Batch) -> Conditioning:
        """Scalars [B, bins]. Raises TrainingError if the batch has no pixels."""
        return Conditioning(scalars={self.name: self.counted(pixels_of(batch))})

    def from_request(self, system: System, drawing: Drawing, shape: tuple[int, ...]) -> Conditioning:
        """Scalars [1, bins], zeros without a picture."""
        picture = drawing.pictures.get(self.name)
        if picture is None:
            return Conditioning(scalars={self.name: torch.zeros(1, self.hue * self.chroma * self.lightness)})
        return Conditioning(scalars={self.name: self.counted(picture)})

    def unconditional(self, value: Conditioning) -> Conditioning:
        """Zeros."""
        return nothing(value)

    def counted(self, pixels: Tensor) -> Tensor:
        """[B, 3, H, W] in [-1, 1] -> [B, hue x chroma x lightness]."""
        small = _resized(pixels, (min(COUNTED, pixels.shape[2]), min(COUNTED, pixels.shape[3])))
        light, a, b = lab(small).flatten(2).unbind(1)
        turn = torch.atan2(b, a) / (2 * math.pi) % 1
        shares = (
            _shares(turn * self.hue, self.hue, around=True),
            _shares((a**2 + b**2).sqrt() / FULL_CHROMA * (self.chroma - 1), self.chroma),
            _shares(light / 100 * (self.lightness - 1), self.lightness),
        )
        counts = torch.einsum("bnh,bnc,bnl->bhcl", *shares).flatten(1)
        return counts * (counts.shape[1] / light.shape[1])


def lab(pixels: Tensor) -> Tensor:
    """sRGB [B, 3, h, w] in [-1, 1] -> CIELab [B, 3, h, w]: lightness 0 to 100, a and b about -100 to 100 (D65)."""
    value = (pixels / 2 + 0.5).clamp(0, 1)
    linear = torch.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
    xyz = torch.einsum("ij,bjhw->bihw", torch.tensor(XYZ, dtype=linear.dtype), linear)
    edge = 6 / 29
    x, y, z = torch.where(xyz > edge**3, xyz.clamp(min=1e-12) ** (1 / 3), xyz / (3 * edge**2) + 4 / 29).unbind(1)
    return torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], dim=1)


def _shares(at: Tensor, count: int, around: bool = False) -> Tensor:
    """Positions [B, N] on an axis of bins -> the share of each bin, [B, N, count], which sum to 1."""
    bins = torch.arange(count)
    if not around:
        return (1 - (at.clamp(0, count - 1)[..., None] - bins).abs()).clamp(min=0)
    apart = (at[..., None] - bins).abs()
    return (1 - torch.minimum(apart, count - apart)).clamp(min=0)


@dataclass(frozen=True, kw_only=True)
class Sketch(Conditioner):
    """The edges of a picture, [B, 1, h, w]: the gradient of its lightness (Sobel), 1 at the largest.

    In drawing they are those of the request's picture of this name; if ``found`` is false it is itself a drawing of
    dark lines on a light background.
    """

    name: str = "sketch"
    found: bool = True

    def from_batch(self, system: System, batch: Batch) -> Conditioning:
        """Spatial [B, 1, h, w]. Raises TrainingError if the batch has no pixels."""
        return Conditioning(spatial=_resized(outlines(pixels_of(batch)), batch.x.shape[-2:]))

    def from_request(self, system: System, drawing: Drawing, shape: tuple[int, ...]) -> Conditioning:
        """Spatial [1, 1, h, w], zeros without a picture."""
        picture = drawing.pictures.get(self.name)
        if picture is None:
            return Conditioning(spatial=torch.zeros(1, 1, *shape[-2:]))
        return Conditioning(spatial=_resized(outlines(picture) if self.found else 1 - grey(picture), shape[-2:]))

    def unconditional(self, value: Conditioning) -> Conditioning:
        """Zeros."""
        return nothing(value)


@dataclass(frozen=True, kw_only=True)
class Intensity(Conditioner):
    """The picture without its colours, [B, 1, h, w]; in drawing that of the request's picture of this name."""

    name: str = "intensity"

    def from_batch(self, system: System, batch: Batch) -> Conditioning:
        """Spatial [B, 1, h, w]. Raises TrainingError if the batch has no pixels."""
        return Conditioning(spatial=_resized(grey(pixels_of(batch)), batch.x.shape[-2:]))

    def from_request(self, system: System, drawing: Drawing, shape: tuple[int, ...]) -> Conditioning:
        """Spatial [1, 1, h, w], zeros without a picture."""
        picture = drawing.pictures.get(self.name)
        map_ = torch.zeros(1, 1, *shape[-2:]) if picture is None else _resized(grey(picture), shape[-2:])
        return Conditioning(spatial=map_)

    def unconditional(self, value: Conditioning) -> Conditioning:
        """Zeros."""
        return nothing(value)


@dataclass(frozen=True, kw_only=True)
class Map(Conditioner):
    """A map that cannot be computed from a picture here and comes with the data: depth, instances, a skeleton, hands.

    In training it is the data's, in drawing the request's picture of this name. Maps have one channel, such as depth,
    unless ``colours`` are flat labels: those are never mixed by resizing.
    """

    name: str = "depth"
    colours: bool = False
    pixels: ClassVar = False

    @property
    def maps(self) -> tuple[str, ...]:
        """The maps that a batch must have."""
        return (self.name,)

    def from_batch(self, system: System, batch: Batch) -> Conditioning:
        """Spatial [B, 1 or 3, h, w]. Raises TrainingError if the data has no such map."""
        map_ = batch.maps.get(self.name)
        if map_ is None:
            raise TrainingError(
                "the training data has no {name!r} maps; every picture needs its own, nothing else stands in",
                name=self.name,
            )
        return Conditioning(spatial=self._map(map_, batch.x.shape[-2:]))

    def from_request(self, system: System, drawing: Drawing, shape: tuple[int, ...]) -> Conditioning:
        """Spatial [1, 1 or 3, h, w], zeros without a map."""
        picture = drawing.pictures.get(self.name)
        if picture is None:
            return Conditioning(spatial=torch.zeros(1, 3 if self.colours else 1, *shape[-2:]))
        return Conditioning(spatial=self._map(picture, shape[-2:]))

    def unconditional(self, value: Conditioning) -> Conditioning:
        """Zeros."""
        return nothing(value)

    def _map(self, pixels: Tensor, size: tuple[int, ...]) -> Tensor:
        """[B, 3, H, W] in [-1, 1] -> [B, 1 or 3, h, w] in [0, 1]."""
        if self.colours:
            return functional.interpolate(pixels / 2 + 0.5, size=tuple(size), mode="nearest")
        return _resized(grey(pixels), size)


def grey(pixels: Tensor) -> Tensor:
    """[B, 3, H, W] in [-1, 1] -> [B, 1, H, W] in [0, 1]."""
    return torch.einsum("c,bchw->bhw", torch.tensor(GREY, dtype=pixels.dtype), pixels / 2 + 0.5)[:, None]


def outlines(pixels: Tensor) -> Tensor:
    """[B, 3, H, W] in [-1, 1] -> [B, 1, H, W] in [0, 1]: Sobel's gradient of the grey picture, over its largest."""
    across = torch.tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]]) / 8
    kernels = torch.stack([across, across.T])[:, None].to(pixels)
    slopes = functional.conv2d(functional.pad(grey(pixels), (1, 1, 1, 1), mode="replicate"), kernels)
    steep = slopes.square().sum(dim=1, keepdim=True).sqrt()
    return steep / steep.amax(dim=(2, 3), keepdim=True).clamp(min=1e-3)


def _resized(map_: Tensor, size: tuple[int, ...]) -> Tensor:
    """[B, C, H, W] -> [B, C, h, w], each position the mean of those it covers."""
    return functional.interpolate(map_, size=tuple(size), mode="area")
