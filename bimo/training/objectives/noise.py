"""Offset and multi-resolution noise for training, generated on the CPU for all rows."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def offset_noise(noise: Tensor, offset: float, generator: torch.Generator) -> Tensor:
    """Noise [B, C, ...] with ``offset`` times one further random number added to each channel."""
    per_channel = (*noise.shape[:2], *[1] * (noise.ndim - 2))
    return noise + offset * torch.randn(per_channel, generator=generator)


def multires_noise(noise: Tensor, levels: int, discount: float, generator: torch.Generator) -> Tensor:
    """Pyramid noise: noise [B, C, h, w] with upsampled noise of ``levels`` smaller sizes added, each ``discount`` times
    as strong as the one before, rescaled to unit standard deviation.
    """
    height, width = noise.shape[2:]
    for level in range(levels):
        smaller = (2 + 2 * float(torch.rand(1, generator=generator, device=generator.device))) ** (level + 1)
        size = max(1, int(height / smaller)), max(1, int(width / smaller))
        small = torch.randn((*noise.shape[:2], *size), generator=generator)
        grown = nn.functional.interpolate(small, size=(height, width), mode="bilinear", align_corners=False)
        noise = noise + grown * discount ** (level + 1)
        if min(size) == 1:
            break
    return noise / noise.std()
