"""HunyuanImage-2.1's refiner: its latents, with a factor of 16, and the conditioner with the picture to be refined."""

# diffusers loads its classes lazily, which reads as private.
# pyright: reportPrivateImportUsage=false

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from bimo.core.part import Part
from bimo.core.tensors import Batch, Conditioning
from bimo.diffusion.casting import run_in_own_dtype
from bimo.diffusion.conditioner import Conditioner, Drawing
from bimo.diffusion.image_inputs import IMAGE
from bimo.diffusion.space import Space
from bimo.diffusion.system import System
from bimo.models.spaces import coded

#: A picture is encoded as two equal frames, concatenated along the channels.
FRAMES = 2


@dataclass(frozen=True, kw_only=True)
class HunyuanRefinerLatent(Part):
    """An AutoencoderKLHunyuanImageRefiner, a video autoencoder; x is scaling_factor z, twice along the channels. The
    fields are diffusers', the defaults the published model's.
    """

    block_out_channels: tuple[int, ...] = (128, 256, 512, 1024, 1024)
    layers_per_block: int = 2
    latent_channels: int = 32
    spatial_compression_ratio: int = 16
    temporal_compression_ratio: int = 4
    scaling_factor: float = 1.03682

    def build(self) -> HunyuanRefinerSpace:
        """The module."""
        return HunyuanRefinerSpace(self)

    def tiny(self) -> Self:
        """The narrowest that its shortcuts and the channels of its latent allow, one layer a block."""
        widths = [2 * self.latent_channels]
        while len(widths) < len(self.block_out_channels):
            widths.insert(0, max(8, widths[0] // 2))
        return replace(self, block_out_channels=tuple(widths), layers_per_block=1)


class HunyuanRefinerSpace(Space):
    """Latents [B, 2 latent_channels, H / factor, W / factor] of pixels [B, 3, H, W]. Published names are below
    ``model.``. It is never tiled: the tiles of diffusers' implementation do not match at their borders.
    """

    has_posterior = True

    def __init__(self, part: HunyuanRefinerLatent) -> None:
        super().__init__()
        from diffusers import AutoencoderKLHunyuanImageRefiner

        self.part = part
        self.channels = FRAMES * part.latent_channels
        self.factor = part.spatial_compression_ratio
        self.model: Any = AutoencoderKLHunyuanImageRefiner(
            latent_channels=part.latent_channels,
            block_out_channels=part.block_out_channels,
            layers_per_block=part.layers_per_block,
            spatial_compression_ratio=part.spatial_compression_ratio,
            temporal_compression_ratio=part.temporal_compression_ratio,
            scaling_factor=part.scaling_factor,
        )

    def shape(self, size: tuple[int, int]) -> tuple[int, ...]:
        """(C, h, w) for (width, height) pixels."""
        return self.channels, size[1] // self.factor, size[0] // self.factor

    def encode(self, pixels: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """[B, 3, H, W] in [-1, 1] -> [B, C, h, w]: the mean of the posterior, or a sample of it by ``generator``."""
        posterior = coded(self.model, pixels[:, :, None])
        return self._x(posterior.mode() if generator is None else posterior.sample(generator))

    def posterior(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """[B, 3, H, W] in [-1, 1] -> mean and deviation of x, each [B, C, h, w]."""
        posterior = coded(self.model, pixels[:, :, None])
        return self._x(posterior.mean), self._x(posterior.std)

    def decode(self, x: Tensor) -> Tensor:
        """[B, C, h, w] -> [B, 3, H, W], of the last frame."""
        z = x[:, -self.part.latent_channels :, None] / self.part.scaling_factor
        return run_in_own_dtype(self.model, lambda z: self.model.decode(z, return_dict=False)[0], z)[:, :, 0]

    def _x(self, z: Tensor) -> Tensor:
        """z [B, latent_channels, 1, h, w] -> x."""
        return torch.cat([z[:, :, 0]] * FRAMES, dim=1) * self.part.scaling_factor


@dataclass(frozen=True, kw_only=True)
class Refined(Conditioner):
    """The picture to be refined, encoded in the space of ``level``, mixed with noise by the fraction ``strength``, and
    concatenated to x. It is the result of the level ``earlier``, or without one the request's image.

    In training it is the earlier level's reconstruction of the picture; without an earlier level the data has it as the
    map of its name.
    """

    level: str = "image"
    earlier: str = ""
    strength: float = 0.25
    name: str = IMAGE
    always: ClassVar = True
    smooth_maps: ClassVar = True

    @property
    def images(self) -> tuple[str, ...]:
        """The request's image, where there is no earlier level."""
        return () if self.earlier else (self.name,)

    @property
    def edits(self) -> tuple[str, ...]:
        """The same."""
        return self.images

    @property
    def maps(self) -> tuple[str, ...]:
        """The same."""
        return self.images

    @property
    def earlier_level(self) -> str:
        """``earlier``."""
        return self.earlier

    def before_noise(self, system: System, drawing: Drawing) -> None:
        """Encodes the picture with a sample of its posterior, whose noise diffusers draws first; grey without a
        picture.
        """
        if self.earlier:
            pixels = system.space(self.earlier).decode(drawing.results[self.earlier]).clamp(-1, 1)
        else:
            width, height = drawing.request.size or (0, 0)
            image = drawing.pictures.get(self.name)
            pixels = torch.zeros(1, 3, height, width) if image is None else image
        drawing.kept[self.key] = system.space(self.level).encode(pixels, drawing.noise)

    def from_batch(self, system: System, batch: Batch) -> Conditioning:
        """Spatial [B, C, h, w]."""
        with torch.no_grad():
            if self.earlier:
                space = system.space(self.earlier)
                own = system.space(self.level).decode(batch.x) if batch.pixels is None else batch.pixels
                pixels = space.decode(space.encode(own)).clamp(-1, 1)
            else:
                pixels = batch.maps[self.name]
            x = system.space(self.level).encode(pixels)
        return Conditioning(spatial=torch.lerp(x, batch.normal(*x.shape[1:]), self.strength))

    def from_request(self, system: System, drawing: Drawing, shape: tuple[int, ...]) -> Conditioning:
        """Spatial [1, C, h, w]; its noise is drawn after that of x."""
        x = drawing.kept[self.key]
        noise = torch.randn(1, *shape, generator=drawing.noise)
        return Conditioning(spatial=self.strength * noise + (1 - self.strength) * x)
