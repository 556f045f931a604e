"""Lumina-Image 2.0's transformer (arXiv:2503.21758), diffusers' Lumina2Transformer2DModel."""

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
from bimo.models.flow_tokens import LAST, text_of


@dataclass(frozen=True, kw_only=True)
class Lumina2(Part):
    """Lumina-Image 2.0's single-stream transformer; the defaults are the published model's."""

    channels: int = 16
    size: int = 128
    patch: int = 2
    width: int = 2304
    layers: int = 26
    refiners: int = 2
    heads: int = 24
    key_heads: int = 8
    multiple: int = 256
    feed: float | None = None
    eps: float = 1e-5
    text: int = 2304
    axes: tuple[int, ...] = (32, 32, 32)
    lengths: tuple[int, ...] = (300, 512, 512)

    def build(self) -> Lumina2Denoiser:
        """The module."""
        return Lumina2Denoiser(self)

    def tiny(self) -> Self:
        """Width 24, two layers of two heads, one refiner; the text width of tiny text encoders."""
        small = replace(self, width=24, layers=2, refiners=1, heads=2, key_heads=1, multiple=8)
        return replace(small, text=16, axes=(4, 4, 4))


class Lumina2Denoiser(PublishedDenoiser):
    """x [R, C, h, w], t [R] and conditioning -> [R, C, h, w]. Published names are below ``model.``."""

    def __init__(self, part: Lumina2) -> None:
        super().__init__()
        from diffusers import Lumina2Transformer2DModel

        self.part = part
        self.model: Any = Lumina2Transformer2DModel(
            sample_size=part.size,
            patch_size=part.patch,
            in_channels=part.channels,
            hidden_size=part.width,
            num_layers=part.layers,
            num_refiner_layers=part.refiners,
            num_attention_heads=part.heads,
            num_kv_heads=part.key_heads,
            multiple_of=part.multiple,
            ffn_dim_multiplier=part.feed,
            norm_eps=part.eps,
            axes_dim_rope=part.axes,  # type: ignore[arg-type]
            axes_lens=part.lengths,  # type: ignore[arg-type]
            cap_feat_dim=part.text,
        )

    def forward(self, x: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        """Predicts noise - x: the published model predicts x - noise, with time running from noise at 0 to x at 1."""
        text = text_of(conditioning, "Lumina2")
        mask = text.mask if text.mask is not None else torch.ones(text.tokens.shape[:2], dtype=torch.bool)
        return -self.model(x, 1 - t / LAST, text.tokens, mask.to(x.device), return_dict=False)[0]
