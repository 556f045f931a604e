"""CogView4's transformer, diffusers' CogView4Transformer2DModel."""

# diffusers loads its classes lazily, which reads as private, and leaves parts of its interface untyped.
# pyright: reportPrivateImportUsage=false, reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor

from bimo.core.part import Part
from bimo.core.tensors import Conditioning
from bimo.diffusion.denoiser import PublishedDenoiser
from bimo.models.flow_tokens import rows_by, text_of


@dataclass(frozen=True, kw_only=True)
class CogView4(Part):
    """CogView4's transformer; the defaults are the published model's. A position of x is ``factor`` pixels a side."""

    channels: int = 16
    layers: int = 28
    head: int = 128
    heads: int = 32
    text: int = 4096
    time: int = 512
    condition: int = 256
    positions: int = 128
    size: int = 128
    axes: tuple[int, int] = (256, 256)
    factor: int = 8

    def build(self) -> CogView4Denoiser:
        """The module."""
        return CogView4Denoiser(self)

    def tiny(self) -> Self:
        """Two layers of two heads of 8; the text width of tiny text encoders."""
        return replace(self, layers=2, head=8, heads=2, text=16, time=16, condition=8, size=8)


class CogView4Denoiser(PublishedDenoiser):
    """x [R, C, h, w], t [R] and conditioning -> [R, C, h, w]. Published names are below ``model.``.

    The picture's own size is its original and target size, without a crop (arXiv:2307.01952, section 2.2).
    """

    def __init__(self, part: CogView4) -> None:
        super().__init__()
        from diffusers import CogView4Transformer2DModel

        self.part = part
        self.model: Any = CogView4Transformer2DModel(
            in_channels=part.channels,
            out_channels=part.channels,
            num_layers=part.layers,
            attention_head_dim=part.head,
            num_attention_heads=part.heads,
            text_embed_dim=part.text,
            time_embed_dim=part.time,
            condition_dim=part.condition,
            pos_embed_max_size=part.positions,
            sample_size=part.size,
            rope_axes_dim=part.axes,
        )

    def forward(self, x: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        """Predicts noise - x. Texts of different lengths are processed separately: there is no attention mask."""
        text = text_of(conditioning, "CogView4")
        if text.mask is None:
            return self._predict(x, t, text.tokens)
        lengths: list[int] = text.mask.sum(dim=1).tolist()
        output = torch.empty_like(x)
        for length, rows in rows_by(lengths):
            output[rows] = self._predict(x[rows], t[rows], text.tokens[rows, :length]).to(x.dtype)
        return output

    def _predict(self, x: Tensor, t: Tensor, tokens: Tensor) -> Tensor:
        size = torch.tensor(x.shape[-2:], device=x.device, dtype=x.dtype).mul(self.part.factor).repeat(len(x), 1)
        return self.model(
            hidden_states=x,
            encoder_hidden_states=tokens,
            timestep=t,
            original_size=size,
            target_size=size,
            crop_coords=torch.zeros_like(size),
            return_dict=False,
        )[0]
