"""ERNIE-Image's transformer, diffusers' ErnieImageTransformer2DModel."""

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
from bimo.models.flow_tokens import text_of


@dataclass(frozen=True, kw_only=True)
class ErnieImage(Part):
    """ERNIE-Image's single-stream transformer, whose layers share one timestep modulation. The fields are diffusers',
    the defaults the published model's.
    """

    hidden_size: int = 4096
    num_attention_heads: int = 32
    num_layers: int = 36
    ffn_hidden_size: int = 12288
    in_channels: int = 128
    text_in_dim: int = 3072
    rope_theta: int = 256
    rope_axes_dim: tuple[int, int, int] = (32, 48, 48)
    eps: float = 1e-6

    def build(self) -> ErnieImageDenoiser:
        """The module."""
        return ErnieImageDenoiser(self)

    def tiny(self) -> Self:
        """Width 24, two layers of two heads; the text width of tiny text encoders."""
        small = {"hidden_size": 24, "num_attention_heads": 2, "num_layers": 2, "ffn_hidden_size": 32}
        return replace(self, text_in_dim=16, rope_axes_dim=(4, 4, 4), **small)


class ErnieImageDenoiser(PublishedDenoiser):
    """x [R, C, h, w], t [R] and conditioning -> [R, C, h, w]. Published names are below ``model.``."""

    def __init__(self, part: ErnieImage) -> None:
        super().__init__()
        from diffusers import ErnieImageTransformer2DModel

        self.part = part
        self.model: Any = ErnieImageTransformer2DModel(
            hidden_size=part.hidden_size,
            num_attention_heads=part.num_attention_heads,
            num_layers=part.num_layers,
            ffn_hidden_size=part.ffn_hidden_size,
            in_channels=part.in_channels,
            out_channels=part.in_channels,
            text_in_dim=part.text_in_dim,
            rope_theta=part.rope_theta,
            rope_axes_dim=part.rope_axes_dim,
            eps=part.eps,
        )

    def forward(self, x: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        """Predicts noise - x. Positions of the image follow each row's own text."""
        text = text_of(conditioning, "ErnieImage")
        rows, length = text.tokens.shape[:2]
        lengths = torch.full((rows,), length, device=x.device) if text.mask is None else text.mask.sum(dim=1)
        return self.model(x, t, text.tokens, lengths, return_dict=False)[0]
