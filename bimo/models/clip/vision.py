"""CLIP's image encoder (arXiv:2103.00020), for contrastive training and scoring."""

# torch leaves parts of its interface untyped.
# pyright: reportUnknownMemberType=false

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from bimo.core.part import Part
from bimo.diffusion.image_inputs import middle
from bimo.models.spaces import CLIP_DEVIATION, CLIP_MEAN

if TYPE_CHECKING:
    from PIL import Image


@dataclass(frozen=True, kw_only=True)
class ClipVision(Part):
    """A vision transformer with CLIP's projection and temperature; the defaults are ViT-L/14.

    ``size`` is the side of its square input in pixels; other aspect ratios are "cut" at the centre, or "squeezed" to a
    square, as by Chinese-CLIP's authors.
    """

    size: int = 224
    patch: int = 14
    width: int = 1024
    layers: int = 24
    heads: int = 16
    feed: int = 4096
    project: int = 768
    activation: Literal["quick_gelu", "gelu"] = "quick_gelu"
    fit: Literal["cut", "squeezed"] = "cut"

    def build(self) -> ClipVisionEncoder:
        """The module."""
        return ClipVisionEncoder(self)

    def tiny(self) -> Self:
        """Width 16, two layers, four patches of 8 pixels."""
        project = min(self.project, 16)
        return replace(self, size=16, patch=8, width=16, layers=2, heads=2, feed=32, project=project)


class ClipVisionEncoder(nn.Module):
    """Pixels -> embeddings [B, project]. Published names are below ``model.``; ``logit_scale`` is the log of 1/T."""

    def __init__(self, part: ClipVision) -> None:
        super().__init__()
        from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

        self.part = part
        self.model = CLIPVisionModelWithProjection(
            CLIPVisionConfig(
                hidden_size=part.width,
                intermediate_size=part.feed,
                projection_dim=part.project,
                num_hidden_layers=part.layers,
                num_attention_heads=part.heads,
                image_size=part.size,
                patch_size=part.patch,
                hidden_act=part.activation,
            )
        )
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))

    def forward(self, pixels: Tensor) -> Tensor:
        """[B, 3, H, W] in [-1, 1] -> [B, project]. Pixels of another size are resized, bicubic: the shorter side with a
        centre crop, or to the square.
        """
        wanted = self.part.size
        height, width = pixels.shape[2:]
        if (height, width) != (wanted, wanted):
            scale = wanted / min(height, width)
            resized = (max(wanted, int(scale * height)), max(wanted, int(scale * width)))
            resized = resized if self.part.fit == "cut" else (wanted, wanted)
            pixels = functional.interpolate(pixels, resized, mode="bicubic", antialias=True, align_corners=False)
            top, left = (resized[0] - wanted) // 2, (resized[1] - wanted) // 2
            pixels = pixels[:, :, top : top + wanted, left : left + wanted].clamp(-1, 1)
        mean, deviation = (torch.tensor(v).to(pixels)[:, None, None] for v in (CLIP_MEAN, CLIP_DEVIATION))
        model: Any = self.model
        # Cast last: pixels have more levels than the mantissa of bfloat16.
        return model(pixel_values=((pixels / 2 + 0.5 - mean) / deviation).to(model.dtype)).image_embeds

    def fitted(self, picture: Image.Image) -> Image.Image:
        """A picture of any size as the square input, resized as by CLIP; an exact square is unchanged."""
        from PIL import Image

        wanted = self.part.size
        picture = picture.convert("RGB")
        if self.part.fit == "cut":
            picture = middle(picture, (wanted, wanted))
        scale = wanted / min(picture.size)
        # The shorter side is exact despite rounding.
        resized = tuple(wanted if side == min(picture.size) else int(scale * side) for side in picture.size)
        resized = resized if self.part.fit == "cut" else (wanted, wanted)
        picture = picture.resize((resized[0], resized[1]), Image.Resampling.BICUBIC)
        left, top = (resized[0] - wanted) // 2, (resized[1] - wanted) // 2
        return picture.crop((left, top, left + wanted, top + wanted))

    def seen(self, pictures: Sequence[Image.Image]) -> Tensor:
        """Pictures of any size -> pixels [B, 3, size, size] in [-1, 1]."""
        rows = np.stack([np.asarray(self.fitted(picture)) for picture in pictures])
        return torch.from_numpy(rows).permute(0, 3, 1, 2).float() / 127.5 - 1
