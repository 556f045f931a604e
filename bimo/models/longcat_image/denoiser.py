"""LongCat-Image's transformer, diffusers' LongCatImageTransformer2DModel."""

# diffusers loads its classes lazily, which reads as private.
# pyright: reportPrivateImportUsage=false

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor

from bimo.core.part import Part
from bimo.core.tensors import Conditioning
from bimo.diffusion.denoiser import PublishedDenoiser
from bimo.models.flow_tokens import LAST, packed, text_of, unpacked


@dataclass(frozen=True, kw_only=True)
class LongCatImage(Part):
    """LongCat-Image's transformer of two streams, then one. ``channels`` are x's.

    The image's places are counted from ``origin``, the length that the texts are padded to.
    """

    channels: int = 16
    layers: int = 10
    singles: int = 20
    head: int = 128
    heads: int = 24
    text: int = 3584
    axes: tuple[int, ...] = (16, 56, 56)
    origin: int = 512

    def build(self) -> LongCatImageDenoiser:
        """The module."""
        return LongCatImageDenoiser(self)

    def tiny(self) -> Self:
        """One layer of two streams and one of one, two heads of 8; the text width of tiny text encoders."""
        return replace(self, layers=1, singles=1, head=8, heads=2, text=16, axes=(4, 2, 2))


class LongCatImageDenoiser(PublishedDenoiser):
    """x [R, C, h, w], t [R] and conditioning -> [R, C, h, w]. Published names are below ``model.``."""

    def __init__(self, part: LongCatImage) -> None:
        super().__init__()
        from diffusers import LongCatImageTransformer2DModel

        self.part = part
        self.model: Any = LongCatImageTransformer2DModel(
            in_channels=4 * part.channels,
            num_layers=part.layers,
            num_single_layers=part.singles,
            attention_head_dim=part.head,
            num_attention_heads=part.heads,
            joint_attention_dim=part.text,
            axes_dims_rope=list(part.axes),
        )

    def forward(self, x: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        """noise - x. The padding of the text is attended to, as it was in training."""
        text = text_of(conditioning, "LongCatImage")
        height, width = x.shape[-2:]
        length = text.tokens.shape[1]
        text_ids = torch.arange(length).unsqueeze(1) * torch.tensor([0, 1, 1])
        rows, columns = torch.meshgrid(torch.arange(height // 2), torch.arange(width // 2), indexing="ij")
        image_ids = torch.stack([torch.ones_like(rows), rows + self.part.origin, columns + self.part.origin], dim=-1)
        answer = self.model(
            hidden_states=packed(x),
            timestep=t / LAST,
            encoder_hidden_states=text.tokens,
            txt_ids=text_ids.to(x),
            img_ids=image_ids.flatten(0, 1).to(x),
            return_dict=False,
        )[0]
        return unpacked(answer, height, width)
