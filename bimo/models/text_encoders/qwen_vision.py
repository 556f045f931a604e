"""The vision tower of Qwen2.5-VL (arXiv:2502.13923): pictures as tokens among those of the text that speaks of them."""

# transformers leaves parts of its interface untyped; what crosses it here is named where it is used.
# pyright: reportUnknownArgumentType=false, reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from torch import Tensor, nn

from bimo.core.part import Part
from bimo.diffusion.casting import dtype_of
from bimo.diffusion.image_inputs import opaque, size_of_area
from bimo.models.spaces import CLIP_DEVIATION, CLIP_MEAN

if TYPE_CHECKING:
    from PIL import Image

#: The token that stands for one merged patch of a picture.
IMAGE_PAD = "<|image_pad|>"
#: What the sides are multiples of before they are halved.
HALVED = 16
PICTURE = f"<|vision_start|>{IMAGE_PAD}<|vision_end|>"


@dataclass(frozen=True, kw_only=True)
class QwenVision(Part):
    """Qwen2.5-VL's vision tower and what is done to a picture before it; the defaults are the 7 B model's, the names
    those of transformers' Qwen2_5_VLVisionConfig and Qwen2VLImageProcessor.

    A picture is first brought to about ``area`` pixels in its own shape, with ``halved`` to sides rounded up and then
    to half of them, as LongCat-Image-Edit's pipeline does; then to between ``min_pixels`` and
    ``max_pixels`` whose sides are whole merged patches. ``prompt`` stands for it before the text, "{}" in it for its
    number.
    """

    depth: int = 32
    hidden_size: int = 1280
    intermediate_size: int = 3420
    num_heads: int = 16
    out_hidden_size: int = 3584
    patch_size: int = 14
    spatial_merge_size: int = 2
    temporal_patch_size: int = 2
    window_size: int = 112
    fullatt_block_indexes: tuple[int, ...] = (7, 15, 23, 31)
    min_pixels: int = 3136
    max_pixels: int = 12845056
    area: int = 1024 * 1024
    halved: bool = False
    prompt: str = PICTURE

    def build(self) -> QwenVisionTower:
        """The module."""
        return QwenVisionTower(self)

    def tiny(self) -> Self:
        """Width 16, two layers, pictures of some 64 pixels a side."""
        small = replace(self, depth=2, hidden_size=16, intermediate_size=16, num_heads=2, out_hidden_size=16)
        return replace(small, fullatt_block_indexes=(1,), area=64 * 64)

    def size_of(self, width: int, height: int) -> tuple[int, int]:
        """(width, height) in pixels that a picture of some size is seen at: whole merged patches."""
        unit = self.patch_size * self.spatial_merge_size
        wide, high = (max(unit, round(side / unit) * unit) for side in (width, height))
        if wide * high > self.max_pixels:
            times = math.sqrt(width * height / self.max_pixels)
            wide, high = (max(unit, math.floor(side / times / unit) * unit) for side in (width, height))
        elif wide * high < self.min_pixels:
            times = math.sqrt(self.min_pixels / (width * height))
            wide, high = (math.ceil(side * times / unit) * unit for side in (width, height))
        return wide, high


@dataclass(frozen=True)
class View:
    """A picture as the tower sees it: ``tokens`` [rows x columns, out_hidden_size] of merged patches."""

    tokens: Tensor
    rows: int
    columns: int


class QwenVisionTower(nn.Module):
    """Pictures -> tokens. Published names are below ``model.``."""

    def __init__(self, part: QwenVision) -> None:
        super().__init__()
        from transformers.models.qwen2_5_vl.configuration_qwen2_5_vl import Qwen2_5_VLVisionConfig
        from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VisionTransformerPretrainedModel

        self.part = part
        names = ("depth", "hidden_size", "intermediate_size", "num_heads", "out_hidden_size", "patch_size")
        names += ("spatial_merge_size", "temporal_patch_size", "window_size")
        settings: dict[str, Any] = {name: getattr(part, name) for name in names}
        config = Qwen2_5_VLVisionConfig(**settings, fullatt_block_indexes=list(part.fullatt_block_indexes))
        self.model: Any = Qwen2_5_VisionTransformerPretrainedModel(config)

    def forward(self, image: Image.Image) -> View:
        """A picture -> its tokens."""
        patches, rows, columns = self.patches(image)
        device = next(self.parameters()).device
        grid = torch.tensor([[1, rows, columns]], device=device)
        answer = self.model(patches.to(device, dtype_of(self)), grid_thw=grid)
        # transformers of before 5.2 answers with the tokens alone.
        tokens = answer if isinstance(answer, Tensor) else answer.pooler_output
        merge = self.part.spatial_merge_size
        return View(tokens, rows // merge, columns // merge)

    def patches(self, image: Image.Image) -> tuple[Tensor, int, int]:
        """A picture -> patches [rows x columns, 3 x temporal_patch_size x patch_size²], those that are merged beside
        each other, and how many rows and columns; as transformers' Qwen2VLImageProcessor.
        """
        from PIL import Image

        part = self.part
        whole = opaque(image)
        size = (
            size_of_area(whole.size, part.area, HALVED, up=True) if part.halved else size_of_area(whole.size, part.area)
        )
        shown = whole.resize(size, resample=Image.Resampling.LANCZOS)
        if part.halved:
            shown = shown.resize((size[0] // 2, size[1] // 2), resample=Image.Resampling.LANCZOS)
        shown = shown.resize(part.size_of(*shown.size), resample=Image.Resampling.BICUBIC)
        values = torch.from_numpy(np.asarray(shown).astype(np.float32) / 255).permute(2, 0, 1)
        mean, deviation = (torch.tensor(each, device="cpu").view(3, 1, 1) for each in (CLIP_MEAN, CLIP_DEVIATION))
        side, merge = part.patch_size, part.spatial_merge_size
        rows, columns = shown.height // side, shown.width // side
        values = (values - mean) / deviation
        blocks = values.reshape(3, rows // merge, merge, side, columns // merge, merge, side)
        each = blocks.permute(1, 4, 2, 5, 0, 3, 6)[:, :, :, :, :, None]
        times = part.temporal_patch_size  # one picture stands for so many frames
        return each.expand(-1, -1, -1, -1, -1, times, -1, -1).reshape(rows * columns, -1), rows, columns


def rotary_positions(length: int, views: Sequence[tuple[int, View]]) -> Tensor:
    """[3, length]: time, row and column of each token of a text with pictures in it, each beginning at a token; what
    follows a picture goes on behind its longer side (M-RoPE, arXiv:2409.12191 section 2.1).
    """
    positions = torch.zeros(3, length, dtype=torch.long, device="cpu")
    token = place = 0
    for first, view in views:
        positions[:, token:first] = place + torch.arange(first - token, device="cpu")
        place += first - token
        rows = torch.arange(view.rows, device="cpu").repeat_interleave(view.columns)
        columns = torch.arange(view.columns, device="cpu").repeat(view.rows)
        token = first + view.rows * view.columns
        positions[:, first:token] = place + torch.stack([torch.zeros_like(rows), rows, columns])
        place += max(view.rows, view.columns)
    positions[:, token:] = place + torch.arange(length - token, device="cpu")
    return positions
