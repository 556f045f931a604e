"""Where x lives: the latents of a variational autoencoder (arXiv:2112.10752), diffusers' AutoencoderKL."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Self, cast

import torch
from torch import Tensor, nn

from bimo.core.part import Part


@dataclass(frozen=True, kw_only=True)
class Latent(Part):
    """An AutoencoderKL. x is (z - shift) * scaling of its latent z; the defaults are those of Stable Diffusion 1.

    ``channels`` are the latent's; each of ``block_channels`` after the first halves the side. ``quant`` and
    ``post_quant`` are the 1x1 convolutions around z, ``attention`` that of the middle block: Flux's has no such
    convolutions, CogView4's none of the three.
    """

    channels: int = 4
    block_channels: tuple[int, ...] = (128, 256, 512, 512)
    layers_per_block: int = 2
    groups: int = 32
    scaling: float = 0.18215
    shift: float = 0.0
    quant: bool = True
    post_quant: bool = True
    attention: bool = True

    def build(self) -> LatentSpace:
        """The module."""
        return LatentSpace(self)

    def tiny(self) -> Self:
        """Width 8, one layer a block; as many blocks, so that the factor stays."""
        return replace(self, block_channels=(8,) * len(self.block_channels), layers_per_block=1, groups=4)


class LatentSpace(nn.Module):
    """Latents [B, channels, H / factor, W / factor] of pixels [B, 3, H, W]. Published names are below ``model.``."""

    def __init__(self, part: Latent) -> None:
        super().__init__()
        from diffusers import AutoencoderKL

        self.part = part
        self.channels = part.channels
        self.factor = 2 ** (len(part.block_channels) - 1)
        self.model = AutoencoderKL(
            down_block_types=cast(Any, ("DownEncoderBlock2D",) * len(part.block_channels)),
            up_block_types=cast(Any, ("UpDecoderBlock2D",) * len(part.block_channels)),
            block_out_channels=cast(Any, part.block_channels),
            layers_per_block=part.layers_per_block,
            latent_channels=part.channels,
            norm_num_groups=part.groups,
            scaling_factor=part.scaling,
            shift_factor=part.shift or None,
            use_quant_conv=part.quant,
            use_post_quant_conv=part.post_quant,
            mid_block_add_attention=part.attention,
        )

    def shape(self, size: tuple[int, int]) -> tuple[int, ...]:
        """(C, h, w) for (width, height) pixels."""
        return self.channels, size[1] // self.factor, size[0] // self.factor

    def encode(self, pixels: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """[B, 3, H, W] in [-1, 1] -> [B, C, h, w]: the mean of the posterior, or a sample of it by ``generator``."""
        posterior = cast(Any, self.model.encode(cast(Any, pixels))).latent_dist
        z = posterior.mode() if generator is None else posterior.sample(generator)
        return (z - self.part.shift) * self.part.scaling

    def decode(self, x: Tensor) -> Tensor:
        """[B, C, h, w] -> [B, 3, H, W]."""
        z = x / self.part.scaling
        return cast(Any, self.model.decode(cast(Any, z + self.part.shift if self.part.shift else z))).sample
