"""The latents of FLUX.2's autoencoder, diffusers' AutoencoderKLFlux2, in ERNIE-Image's form: 2x2 positions in one."""

# diffusers loads its classes lazily, which reads as private.
# pyright: reportPrivateImportUsage=false

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor
from torch.nn import functional

from bimo.core.part import Part
from bimo.diffusion.casting import run_in_own_dtype
from bimo.diffusion.space import Space
from bimo.models.spaces import coded

#: The patch size: positions of the latent that are one position of x, a side.
PATCH = 2


@dataclass(frozen=True, kw_only=True)
class Flux2Latent(Part):
    """An AutoencoderKLFlux2. x is (z - mean) / sqrt(variance + eps), channel by channel, of its latent z, whose 2x2
    positions are the channels of one; mean and variance are weights of a batch norm. The other fields are diffusers',
    the defaults the published model's. ``eps`` is that of ERNIE-Image's pipeline, not its config.
    """

    block_out_channels: tuple[int, ...] = (128, 256, 512, 512)
    layers_per_block: int = 2
    latent_channels: int = 32
    norm_num_groups: int = 32
    use_quant_conv: bool = True
    use_post_quant_conv: bool = True
    mid_block_add_attention: bool = True
    eps: float = 1e-5

    def build(self) -> Flux2LatentSpace:
        """The module."""
        return Flux2LatentSpace(self)

    def tiny(self) -> Self:
        """Width 8, one layer a block; as many blocks, so that the factor stays."""
        widths = (8,) * len(self.block_out_channels)
        return replace(self, block_out_channels=widths, layers_per_block=1, norm_num_groups=4)


class Flux2LatentSpace(Space):
    """Latents [B, 4 latent_channels, H / factor, W / factor] of pixels [B, 3, H, W]. Published names are below
    ``model.``.
    """

    has_posterior = True

    def __init__(self, part: Flux2Latent) -> None:
        super().__init__()
        from diffusers import AutoencoderKLFlux2

        self.part = part
        self.channels = PATCH**2 * part.latent_channels
        self.factor = PATCH * 2 ** (len(part.block_out_channels) - 1)
        self.model: Any = AutoencoderKLFlux2(
            down_block_types=("DownEncoderBlock2D",) * len(part.block_out_channels),
            up_block_types=("UpDecoderBlock2D",) * len(part.block_out_channels),
            block_out_channels=part.block_out_channels,
            layers_per_block=part.layers_per_block,
            latent_channels=part.latent_channels,
            norm_num_groups=part.norm_num_groups,
            use_quant_conv=part.use_quant_conv,
            use_post_quant_conv=part.use_post_quant_conv,
            mid_block_add_attention=part.mid_block_add_attention,
            patch_size=(PATCH, PATCH),
        )

    def shape(self, size: tuple[int, int]) -> tuple[int, ...]:
        """(C, h, w) for (width, height) pixels."""
        return self.channels, size[1] // self.factor, size[0] // self.factor

    def tile(self, side: int) -> bool:
        """As in diffusers: neighbouring tiles overlap by a quarter."""
        self.model.enable_tiling()
        self.model.tile_sample_min_size = side
        self.model.tile_latent_min_size = PATCH * side // self.factor
        return True

    def encode(self, pixels: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """[B, 3, H, W] in [-1, 1] -> [B, C, h, w]: the mean of the posterior, or a sample of it by ``generator``."""
        posterior = coded(self.model, pixels)
        z = posterior.mode() if generator is None else posterior.sample(generator)
        mean, deviation = self._statistics(z)
        return (functional.pixel_unshuffle(z, PATCH) - mean) / deviation

    def posterior(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """[B, 3, H, W] in [-1, 1] -> mean and standard deviation of x, each [B, C, h, w]."""
        posterior = coded(self.model, pixels)
        mean, deviation = self._statistics(posterior.mean)
        of_mean, of_deviation = (functional.pixel_unshuffle(z, PATCH) for z in (posterior.mean, posterior.std))
        return (of_mean - mean) / deviation, of_deviation / deviation

    def decode(self, x: Tensor) -> Tensor:
        """[B, C, h, w] -> [B, 3, H, W]."""
        mean, deviation = self._statistics(x)
        z = functional.pixel_shuffle(x * deviation + mean, PATCH)
        return run_in_own_dtype(self.model, lambda z: self.model.decode(z, return_dict=False)[0], z)

    def _statistics(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of each channel of x, [1, C, 1, 1]."""
        norm = self.model.bn
        mean, variance = (value.view(1, -1, 1, 1).to(like) for value in (norm.running_mean, norm.running_var))
        return mean, torch.sqrt(variance + self.part.eps)
