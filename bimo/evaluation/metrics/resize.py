"""Four ways to resize pictures to Inception's 299 x 299; results with different ones are not comparable.

``pytorch-fid`` interpolates as torch does, ``torch-fidelity`` as TensorFlow 1 did (no half-pixel centres),
``clean-fid`` by Pillow's antialiased bicubic (arXiv:2104.11222), ``torchmetrics`` by torch's antialiased bilinear.
"""

# pyright: reportUnknownMemberType=false

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from bimo.evaluation.metrics.inception import SIDE


class Resize(StrEnum):
    """The library whose resize is used."""

    pytorch_fid = "pytorch-fid"
    torch_fidelity = "torch-fidelity"
    clean_fid = "clean-fid"
    torchmetrics = "torchmetrics"


def prepared(image: Image.Image, resize: Resize, side: int = SIDE) -> Tensor:
    """A picture as Inception's input, float32 [3, side, side]."""
    pixels = np.asarray(image.convert("RGB"))
    return _RESIZES[resize](torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].float(), side)[0]


def shorter_side(image: Image.Image, side: int) -> Image.Image:
    """Resizes the shorter side to ``side`` pixels (bilinear) and crops the centre."""
    scale = side / min(image.size)
    width, height = max(side, round(image.width * scale)), max(side, round(image.height * scale))
    image = image.resize((width, height), Image.Resampling.BILINEAR)
    left, top = (width - side) // 2, (height - side) // 2
    return image.crop((left, top, left + side, top + side))


def _pytorch_fid(x: Tensor, side: int) -> Tensor:
    return 2 * functional.interpolate(x / 255, (side, side), mode="bilinear", align_corners=False) - 1


def _torchmetrics(x: Tensor, side: int) -> Tensor:
    x = functional.interpolate(x, (side, side), mode="bilinear", align_corners=False, antialias=True)
    return (x - 128) / 128


def _torch_fidelity(x: Tensor, side: int) -> Tensor:
    """Samples output pixel i at i * old / new, where torch samples at (i + 0.5) * old / new - 0.5."""
    for axis in (2, 3):
        old = x.shape[axis]
        at = torch.arange(side, dtype=torch.float32) * (old / side)
        low = at.floor().long()
        high = (low + 1).clamp(max=old - 1)
        share = (at - low).view(-1, 1) if axis == 2 else (at - low)
        below, above = x.index_select(axis, low), x.index_select(axis, high)
        x = below + (above - below) * share
    return (x - 128) / 128


def _clean_fid(x: Tensor, side: int) -> Tensor:
    planes = [
        np.asarray(Image.fromarray(plane).resize((side, side), Image.Resampling.BICUBIC)).clip(0, 255)
        for plane in x[0].numpy()
    ]
    return (torch.from_numpy(np.stack(planes))[None] - 128) / 128


_RESIZES: dict[Resize, Callable[[Tensor, int], Tensor]] = {
    Resize.pytorch_fid: _pytorch_fid,
    Resize.torch_fidelity: _torch_fidelity,
    Resize.clean_fid: _clean_fid,
    Resize.torchmetrics: _torchmetrics,
}
