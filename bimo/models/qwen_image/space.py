"""The latents of Qwen-Image: one frame of a causal autoencoder of films, diffusers' AutoencoderKLQwenImage."""

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


@dataclass(frozen=True, kw_only=True)
class QwenLatent(Part):
    """x is (z - mean) / deviation of the latent z of one frame, channel by channel; the defaults are the published
    ones.

    Each of ``frames`` halves the side (and, if True, the frames of a video, of which a picture has one). Pixels have
    ``pixel_channels``: RGB or RGBA.
    """

    channels: int = 16
    width: int = 96
    multiples: tuple[int, ...] = (1, 2, 4, 4)
    layers_per_block: int = 2
    frames: tuple[bool, ...] = (False, True, True)
    pixel_channels: int = 3
    mean: tuple[float, ...] = (
        *(-0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508),
        *(0.4134, -0.0715, 0.5517, -0.3632, -0.1922, -0.9497, 0.2503, -0.2921),
    )
    deviation: tuple[float, ...] = (
        *(2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743),
        *(3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253, 2.8251, 1.9160),
    )

    def build(self) -> QwenLatentSpace:
        """The module."""
        return QwenLatentSpace(self)

    def autoencoder(self) -> Any:
        """diffusers' autoencoder."""
        from diffusers import AutoencoderKLQwenImage

        return AutoencoderKLQwenImage(
            base_dim=self.width,
            z_dim=self.channels,
            dim_mult=list(self.multiples),
            num_res_blocks=self.layers_per_block,
            temperal_downsample=list(self.frames),
            input_channels=self.pixel_channels,
            latents_mean=list(self.mean),
            latents_std=list(self.deviation),
        )

    def tiny(self) -> Self:
        """Width 8, one layer a block; as many blocks, so that the factor stays."""
        return replace(self, width=8, multiples=(1,) * len(self.multiples), layers_per_block=1)


class QwenLatentSpace(Space):
    """Latents [B, channels, H / factor, W / factor] of pixels [B, 3, H, W], or where they have an opacity of [B, 4, H,
    W], of which [B, 3, H, W] are opaque. Published names are below ``model.``.
    """

    has_posterior = True

    def __init__(self, part: QwenLatent) -> None:
        super().__init__()
        self.part = part
        self.channels = part.channels
        self.factor = 2 ** len(part.frames)
        self.model: Any = part.autoencoder()

    def shape(self, size: tuple[int, int]) -> tuple[int, ...]:
        """(C, h, w) for (width, height) pixels."""
        return self.channels, size[1] // self.factor, size[0] // self.factor

    def tile(self, side: int) -> bool:
        """As in diffusers: neighbouring tiles overlap by a quarter."""
        stride = side * 3 // 4
        self.model.enable_tiling(side, side, stride, stride)
        return True

    def encode(self, pixels: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """[B, 3, H, W] in [-1, 1] -> [B, C, h, w]: the mean of the posterior, or a sample of it by ``generator``."""
        posterior = self._posterior(pixels)
        z = posterior.mode() if generator is None else posterior.sample(generator)
        return (z.squeeze(2) - self._of(self.part.mean, z)) / self._of(self.part.deviation, z)

    def posterior(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """[B, 3, H, W] in [-1, 1] -> mean and deviation of x, each [B, C, h, w]."""
        latents = self._posterior(pixels)
        mean, deviation = latents.mean.squeeze(2), latents.std.squeeze(2)
        scale = self._of(self.part.deviation, mean)
        return (mean - self._of(self.part.mean, mean)) / scale, deviation / scale

    def decode(self, x: Tensor) -> Tensor:
        """[B, C, h, w] -> [B, 3, H, W], or [B, 4, H, W]."""
        z = x * self._of(self.part.deviation, x) + self._of(self.part.mean, x)
        frames = run_in_own_dtype(self.model, lambda z: self.model.decode(z, return_dict=False)[0], z.unsqueeze(2))
        return frames.squeeze(2)

    def _posterior(self, pixels: Tensor) -> Any:
        if self.part.pixel_channels == 4 and pixels.shape[1] == 3:
            pixels = torch.cat([pixels, torch.ones_like(pixels[:, :1])], dim=1)
        return coded(self.model, pixels.unsqueeze(2))

    def _of(self, values: tuple[float, ...], like: Tensor) -> Tensor:
        return torch.tensor(values).view(1, -1, 1, 1).to(like)
