"""The noise that a batch is made of: offset and multi-resolution noise, drawn on the processor for all rows."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def offset_noise(noise: Tensor, offset: float, generator: torch.Generator) -> Tensor:
    """Noise [B, C, ...] with ``offset`` times one more random number added to each whole channel."""
    whole = (*noise.shape[:2], *[1] * (noise.ndim - 2))
    return noise + offset * torch.randn(whole, generator=generator)


def multires_noise(noise: Tensor, levels: int, discount: float, generator: torch.Generator) -> Tensor:
    """Noise [B, C, h, w] with noise of ``levels`` smaller sizes added, each enlarged, ``discount`` times as strong as
    the one before, then brought back to a deviation of 1: pyramid noise, as trainers have it.
    """
    height, width = noise.shape[2:]
    for level in range(levels):
        smaller = (2 + 2 * float(torch.rand(1, generator=generator))) ** (level + 1)
        size = max(1, int(height / smaller)), max(1, int(width / smaller))
        small = torch.randn((*noise.shape[:2], *size), generator=generator)
        grown = nn.functional.interpolate(small, size=(height, width), mode="bilinear", align_corners=False)
        noise = noise + grown * discount ** (level + 1)
        if min(size) == 1:
            break
    return noise / noise.std()
