"""The latents of HunyuanImage-2.1, with a factor of 32: diffusers' AutoencoderKLHunyuanImage."""

# diffusers loads its classes lazily, which reads as private.
# pyright: reportPrivateImportUsage=false

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor

from bimo.core.part import Part
from bimo.diffusion.casting import run_in_own_dtype
from bimo.diffusion.space import Space
from bimo.models.spaces import coded

#: The groups of its norms, which are not in the config.
GROUPS = 32
#: The side of pictures that its autoencoder was trained on, used for tiles only.
SIDE = 384


@dataclass(frozen=True, kw_only=True)
class HunyuanImageLatent(Part):
    """An AutoencoderKLHunyuanImage; x is scaling_factor z. The fields are diffusers', the defaults the published
    model's.
    """

    block_out_channels: tuple[int, ...] = (128, 256, 512, 512, 1024, 1024)
    layers_per_block: int = 2
    latent_channels: int = 64
    spatial_compression_ratio: int = 32
    scaling_factor: float = 0.75289

    def build(self) -> HunyuanImageLatentSpace:
        """The module."""
        return HunyuanImageLatentSpace(self)

    def tiny(self) -> Self:
        """The narrowest widths that its norms and latent channels allow, one layer in each block."""
        widths = (*(GROUPS,) * (len(self.block_out_channels) - 1), 2 * self.latent_channels)
        return replace(self, block_out_channels=widths, layers_per_block=1)


class HunyuanImageLatentSpace(Space):
    """Latents [B, latent_channels, H / factor, W / factor] of pixels [B, 3, H, W]. Published names are below
    ``model.``.
    """

    has_posterior = True

    def __init__(self, part: HunyuanImageLatent) -> None:
        super().__init__()
        from diffusers import AutoencoderKLHunyuanImage

        self.part = part
        self.channels = part.latent_channels
        self.factor = part.spatial_compression_ratio
        self.model: Any = AutoencoderKLHunyuanImage(
            in_channels=3,
            out_channels=3,
            latent_channels=part.latent_channels,
            block_out_channels=part.block_out_channels,
            layers_per_block=part.layers_per_block,
            spatial_compression_ratio=part.spatial_compression_ratio,
            sample_size=SIDE,
            scaling_factor=part.scaling_factor,
        )

    def shape(self, size: tuple[int, int]) -> tuple[int, ...]:
        """(C, h, w) for (width, height) pixels."""
        return self.channels, size[1] // self.factor, size[0] // self.factor

    def tile(self, side: int) -> bool:
        """As in diffusers: neighbouring tiles overlap by a quarter."""
        self.model.enable_tiling(side)
        return True

    def encode(self, pixels: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """[B, 3, H, W] in [-1, 1] -> [B, C, h, w]: the mean of the posterior, or a sample of it by ``generator``."""
        posterior = coded(self.model, pixels)
        z = posterior.mode() if generator is None else posterior.sample(generator)
        return z * self.part.scaling_factor

    def posterior(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """[B, 3, H, W] in [-1, 1] -> mean and standard deviation of x, each [B, C, h, w]."""
        posterior = coded(self.model, pixels)
        return posterior.mean * self.part.scaling_factor, posterior.std * self.part.scaling_factor

    def decode(self, x: Tensor) -> Tensor:
        """[B, C, h, w] -> [B, 3, H, W]."""
        z = x / self.part.scaling_factor
        return run_in_own_dtype(self.model, lambda z: self.model.decode(z, return_dict=False)[0], z)
