"""HunyuanImage-2.1's transformer, diffusers' HunyuanImageTransformer2DModel."""

# diffusers loads its classes lazily, which reads as private.
# pyright: reportPrivateImportUsage=false

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor

from bimo.core.errors import RecipeError
from bimo.core.part import Part
from bimo.core.tensors import Conditioning, TextEncoding
from bimo.diffusion.denoiser import PublishedDenoiser


@dataclass(frozen=True, kw_only=True)
class HunyuanImage(Part):
    """HunyuanImage-2.1's transformer of two streams, then one. The fields are diffusers', the defaults the published
    model's. It reads a language model and, ``text_embed_2_dim`` wide, the glyphs of what is to be written.
    """

    in_channels: int = 64
    num_attention_heads: int = 28
    attention_head_dim: int = 128
    num_layers: int = 20
    num_single_layers: int = 40
    num_refiner_layers: int = 2
    mlp_ratio: float = 4.0
    text_embed_dim: int = 3584
    text_embed_2_dim: int = 1472
    rope_theta: float = 256.0
    rope_axes_dim: tuple[int, int] = (64, 64)

    def build(self) -> HunyuanImageDenoiser:
        """The module."""
        return HunyuanImageDenoiser(self)

    def tiny(self) -> Self:
        """One layer of each kind, two heads of 8; the text widths of tiny text encoders."""
        layers = {"num_layers": 1, "num_single_layers": 1, "num_refiner_layers": 1}
        small = replace(self, num_attention_heads=2, attention_head_dim=8, rope_axes_dim=(4, 4), **layers)
        return replace(small, text_embed_dim=16, text_embed_2_dim=16)


class HunyuanImageDenoiser(PublishedDenoiser):
    """x [R, C, h, w], t [R] and conditioning -> [R, C, h, w]. Published names are below ``model.``."""

    def __init__(self, part: HunyuanImage) -> None:
        super().__init__()
        from diffusers import HunyuanImageTransformer2DModel

        self.part = part
        self.model: Any = HunyuanImageTransformer2DModel(
            in_channels=part.in_channels,
            out_channels=part.in_channels,
            num_attention_heads=part.num_attention_heads,
            attention_head_dim=part.attention_head_dim,
            num_layers=part.num_layers,
            num_single_layers=part.num_single_layers,
            num_refiner_layers=part.num_refiner_layers,
            mlp_ratio=part.mlp_ratio,
            text_embed_dim=part.text_embed_dim,
            text_embed_2_dim=part.text_embed_2_dim,
            rope_theta=part.rope_theta,
            rope_axes_dim=part.rope_axes_dim,
        )

    def forward(self, x: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        """noise - x. Raises RecipeError for other than two text encoders, or spatial conditions."""
        if len(conditioning.streams) != 2:
            count = len(conditioning.streams)
            raise RecipeError("HunyuanImage reads two text encoders, not {count}", count=count)
        if conditioning.spatial is not None:
            raise RecipeError("{name} reads no spatial conditions", name="HunyuanImage")
        text, glyphs = conditioning.streams
        return self.model(
            hidden_states=x,
            timestep=t.to(x),
            encoder_hidden_states=text.tokens,
            encoder_attention_mask=_mask(text),
            encoder_hidden_states_2=glyphs.tokens,
            encoder_attention_mask_2=_mask(glyphs),
            return_dict=False,
        )[0]


def _mask(stream: TextEncoding) -> Tensor:
    """The mask of a stream [R, L], all real where it has none."""
    if stream.mask is not None:
        return stream.mask
    return torch.ones(stream.tokens.shape[:2], dtype=torch.bool, device=stream.tokens.device)
