"""The vision tower of Qwen2.5-VL (arXiv:2502.13923): pictures as tokens among those of the text that speaks of them."""

# transformers leaves parts of its interface untyped; what crosses it here is named where it is used.
# pyright: reportUnknownArgumentType=false, reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Self

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
class PictureReader(Part, ABC):
    """What a language model sees pictures by, and what is done to one before; the names are those of transformers'
    vision configs and Qwen2VLImageProcessor.

    A picture is first brought to about ``area`` pixels in its own shape, then to between ``min_pixels`` and
    ``max_pixels`` whose sides are whole merged patches. ``prompt`` stands for it before the text, "{}" in it for its
    number, and ``between`` between two. With ``apart`` a picture's own tokens are left out of what is said of the text:
    the denoiser has the picture itself in their place.
    """

    #: The family of language models that it belongs to.
    family: ClassVar[str]
    #: Of red, green and blue in [0, 1].
    mean: ClassVar[tuple[float, ...]]
    deviation: ClassVar[tuple[float, ...]]

    patch_size: int = 14
    spatial_merge_size: int = 2
    temporal_patch_size: int = 2
    min_pixels: int = 3136
    max_pixels: int = 12845056
    area: int = 1024 * 1024
    prompt: str = PICTURE
    between: str = ""
    apart: bool = False

    @abstractmethod
    def build(self) -> PictureTower:
        """The module."""

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

    def shown(self, image: Image.Image) -> Image.Image:
        """The picture, opaque, at about ``area`` pixels."""
        from PIL import Image

        whole = opaque(image)
        return whole.resize(size_of_area(whole.size, self.area), resample=Image.Resampling.LANCZOS)

    def patches(self, image: Image.Image) -> tuple[Tensor, int, int]:
        """A picture -> patches [rows x columns, 3 x temporal_patch_size x patch_size²], those that are merged beside
        each other, and how many rows and columns; as transformers' Qwen2VLImageProcessor.
        """
        from PIL import Image

        shown = self.shown(image)
        shown = shown.resize(self.size_of(*shown.size), resample=Image.Resampling.BICUBIC)
        values = torch.from_numpy(np.asarray(shown).astype(np.float32) / 255).permute(2, 0, 1)
        mean, deviation = (torch.tensor(each, device="cpu").view(3, 1, 1) for each in (self.mean, self.deviation))
        side, merge = self.patch_size, self.spatial_merge_size
        rows, columns = shown.height // side, shown.width // side
        values = (values - mean) / deviation
        blocks = values.reshape(3, rows // merge, merge, side, columns // merge, merge, side)
        each = blocks.permute(1, 4, 2, 5, 0, 3, 6)[:, :, :, :, :, None]
        times = self.temporal_patch_size  # one picture stands for so many frames
        return each.expand(-1, -1, -1, -1, -1, times, -1, -1).reshape(rows * columns, -1), rows, columns


@dataclass(frozen=True, kw_only=True)
class QwenVision(PictureReader):
    """Qwen2.5-VL's vision tower; the defaults are the 7 B model's. With ``halved`` sides are rounded up and then
    halved before a picture is seen, as LongCat-Image-Edit's pipeline does.
    """

    family: ClassVar = "qwen2_5_vl"
    mean: ClassVar = CLIP_MEAN
    deviation: ClassVar = CLIP_DEVIATION

    depth: int = 32
    hidden_size: int = 1280
    intermediate_size: int = 3420
    num_heads: int = 16
    out_hidden_size: int = 3584
    window_size: int = 112
    fullatt_block_indexes: tuple[int, ...] = (7, 15, 23, 31)
    halved: bool = False

    def build(self) -> QwenVisionTower:
        """The module."""
        return QwenVisionTower(self)

    def tiny(self) -> Self:
        """Width 16, two layers, pictures of some 64 pixels a side."""
        small = replace(self, depth=2, hidden_size=16, intermediate_size=16, num_heads=2, out_hidden_size=16)
        return replace(small, fullatt_block_indexes=(1,), area=64 * 64)

    def shown(self, image: Image.Image) -> Image.Image:
        """The picture, opaque, at about ``area`` pixels, or where it is ``halved`` a quarter of them."""
        from PIL import Image

        if not self.halved:
            return super().shown(image)
        whole = opaque(image)
        size = size_of_area(whole.size, self.area, HALVED, up=True)
        shown = whole.resize(size, resample=Image.Resampling.LANCZOS)
        return shown.resize((size[0] // 2, size[1] // 2), resample=Image.Resampling.LANCZOS)


@dataclass(frozen=True)
class View:
    """A picture as a tower sees it: ``tokens`` [rows x columns, out_hidden_size] of merged patches, and what is added
    to them behind each of the language model's first layers, ``deepstack``, each of the same shape.
    """

    tokens: Tensor
    rows: int
    columns: int
    deepstack: tuple[Tensor, ...] = ()


class PictureTower(nn.Module, ABC):
    """Pictures -> tokens. Published names are below ``model.``."""

    part: PictureReader
    model: Any

    def forward(self, image: Image.Image) -> View:
        """A picture -> its tokens."""
        patches, rows, columns = self.patches(image)
        device = next(self.parameters()).device
        grid = torch.tensor([[1, rows, columns]], device=device)
        tokens, *deepstack = self.look(patches.to(device, dtype_of(self)), grid)
        merge = self.part.spatial_merge_size
        return View(tokens, rows // merge, columns // merge, tuple(deepstack))

    def patches(self, image: Image.Image) -> tuple[Tensor, int, int]:
        """As its part has them."""
        return self.part.patches(image)

    @abstractmethod
    def look(self, patches: Tensor, grid: Tensor) -> list[Tensor]:
        """Patches [P, N] of one picture and how many frames, rows and columns [1, 3] -> its tokens, and what follows
        for the language model's first layers.
        """


class QwenVisionTower(PictureTower):
    """Qwen2.5-VL's."""

    def __init__(self, part: QwenVision) -> None:
        super().__init__()
        from transformers.models.qwen2_5_vl.configuration_qwen2_5_vl import Qwen2_5_VLVisionConfig
        from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VisionTransformerPretrainedModel

        self.part = part
        names = ("depth", "hidden_size", "intermediate_size", "num_heads", "out_hidden_size", "patch_size")
        names += ("spatial_merge_size", "temporal_patch_size", "window_size")
        settings: dict[str, Any] = {name: getattr(part, name) for name in names}
        config = Qwen2_5_VLVisionConfig(**settings, fullatt_block_indexes=list(part.fullatt_block_indexes))
        self.model = Qwen2_5_VisionTransformerPretrainedModel(config)

    def look(self, patches: Tensor, grid: Tensor) -> list[Tensor]:
        """Its tokens alone."""
        answer = self.model(patches, grid_thw=grid)
        # transformers of before 5.2 answers with the tokens alone.
        return [answer if isinstance(answer, Tensor) else answer.pooler_output]


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
