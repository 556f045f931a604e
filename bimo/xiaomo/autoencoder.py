"""A small convolutional autoencoder, f8 or f16, whose latents have unit variance; for artwork at little cost.

Space-to-depth by 4 before the first convolution follows the patch stem of arXiv:2201.03545; noise on the latents in
training replaces a KL term, as in arXiv:2410.13720 (appendix) and others.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self, cast

import torch
from torch import Tensor, nn

from bimo.core.part import Part
from bimo.diffusion.casting import run_in_own_dtype
from bimo.diffusion.space import Space

UNSHUFFLE = 4


@dataclass(frozen=True, kw_only=True)
class Compact(Part):
    """An autoencoder with ``channels`` latent channels: ``fine`` wide at a quarter of the side, ``coarse`` at an eighth
    and, unless ``deep`` is 0, ``deep`` at a sixteenth. At latent resolution the decoder is ``decoder`` wide.
    """

    channels: int = 8
    fine: int = 64
    coarse: int = 128
    decoder: int = 160
    blocks: int = 2
    noise: float = 0.08
    deep: int = 0

    def build(self) -> CompactSpace:
        """The module."""
        return CompactSpace(self)

    def tiny(self) -> Self:
        """Width 8, one block."""
        return replace(self, fine=8, coarse=8, decoder=8, blocks=1, deep=8 if self.deep else 0)


class Residual(nn.Module):
    """x + conv(silu(conv(silu(x)))); the second convolution is zero-initialised."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        nn.init.zeros_(self.second.weight)
        nn.init.zeros_(cast(Tensor, self.second.bias))

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, h, w] -> the same shape."""
        act = nn.functional.silu
        return x + self.second(act(self.first(act(x))))


def _narrowed(part: Compact) -> list[nn.Module]:
    """Downsamples from an eighth of the side to a sixteenth, for deep encoders."""
    if not part.deep:
        return []
    return [nn.Conv2d(part.coarse, part.deep, 2, stride=2), *(Residual(part.deep) for _ in range(part.blocks))]


def _widened(part: Compact) -> list[nn.Module]:
    """Upsamples from a sixteenth of the side to an eighth, for deep decoders."""
    if not part.deep:
        return []
    wide = nn.Conv2d(part.decoder, part.coarse * 4, 1)
    return [wide, nn.PixelShuffle(2), *(Residual(part.coarse) for _ in range(part.blocks))]


class CompactSpace(Space):
    """Latents [B, channels, H / f, W / f] of pixels [B, 3, H, W], with unit variance of each channel over the data; f,
    the ``factor``, is 8, or 16 for a deep one.
    """

    shift_equivariant = True

    def __init__(self, part: Compact) -> None:
        super().__init__()
        self.channels = part.channels
        self.factor = 16 if part.deep else 8
        self.noise = part.noise
        pixels = 3 * UNSHUFFLE**2
        self.encoder = nn.Sequential(
            nn.PixelUnshuffle(UNSHUFFLE),
            nn.Conv2d(pixels, part.fine, 3, padding=1),
            *(Residual(part.fine) for _ in range(part.blocks)),
            nn.Conv2d(part.fine, part.coarse, 2, stride=2),
            *(Residual(part.coarse) for _ in range(part.blocks)),
            *_narrowed(part),
            nn.Conv2d(part.deep or part.coarse, part.channels, 3, padding=1),
        )
        self.normal = nn.BatchNorm2d(part.channels, momentum=0.02, affine=False)
        self.decoder = nn.Sequential(
            nn.Conv2d(part.channels, part.decoder, 3, padding=1),
            *(Residual(part.decoder) for _ in range(part.blocks + 1)),
            *_widened(part),
            nn.Conv2d(part.coarse if part.deep else part.decoder, part.fine * 4, 1),
            nn.PixelShuffle(2),
            *(Residual(part.fine) for _ in range(part.blocks)),
            nn.Conv2d(part.fine, pixels, 3, padding=1),
            nn.PixelShuffle(UNSHUFFLE),
        )

    def shape(self, size: tuple[int, int]) -> tuple[int, ...]:
        """(C, h, w) for (width, height) pixels."""
        return self.channels, size[1] // self.factor, size[0] // self.factor

    def encode(self, pixels: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """[B, 3, H, W] in [-1, 1] -> [B, C, h, w]; deterministic, ``generator`` is not used."""
        contiguous = pixels.contiguous(memory_format=torch.channels_last)
        return self.normal(run_in_own_dtype(self.encoder, self.encoder, contiguous))

    def decode(self, x: Tensor) -> Tensor:
        """[B, C, h, w] -> [B, 3, H, W]."""
        x = x.contiguous(memory_format=torch.channels_last)
        return run_in_own_dtype(self.decoder, self.decoder, x).contiguous()

    def reconstruct(self, pixels: Tensor, noise: Tensor) -> Tensor:
        """Encodes pixels, mixes noise [B, C, h, w] into the latents and decodes them, for training."""
        return self.decode(self.encode(pixels) + self.noise * noise)
