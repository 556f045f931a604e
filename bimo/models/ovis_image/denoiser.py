"""Ovis-Image's transformer, diffusers' OvisImageTransformer2DModel."""

# diffusers loads its classes lazily, which reads as private.
# pyright: reportPrivateImportUsage=false

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor, nn

from bimo.core.part import Part
from bimo.core.tensors import Conditioning
from bimo.diffusion.denoiser import PublishedDenoiser
from bimo.models.flow_tokens import LAST, packed, text_of, unpacked


@dataclass(frozen=True, kw_only=True)
class OvisImage(Part):
    """Ovis-Image's transformer; the defaults are the class's. ``channels`` are those of x; texts are padded with zeros
    to ``length`` tokens, which are attended to.
    """

    channels: int = 16
    layers: int = 6
    singles: int = 27
    head: int = 128
    heads: int = 24
    text: int = 2048
    axes: tuple[int, ...] = (16, 56, 56)
    length: int = 256

    def build(self) -> OvisImageDenoiser:
        """The module."""
        return OvisImageDenoiser(self)

    def tiny(self) -> Self:
        """One layer of two streams and one of one, two heads of 8; the text width of tiny text encoders."""
        return replace(self, layers=1, singles=1, head=8, heads=2, text=16, axes=(4, 2, 2))


class OvisImageDenoiser(PublishedDenoiser):
    """x [R, C, h, w], t [R] and conditioning -> [R, C, h, w]. Published names are below ``model.``."""

    def __init__(self, part: OvisImage) -> None:
        super().__init__()
        from diffusers import OvisImageTransformer2DModel

        self.part = part
        self.model: Any = OvisImageTransformer2DModel(
            in_channels=4 * part.channels,
            out_channels=4 * part.channels,
            num_layers=part.layers,
            num_single_layers=part.singles,
            attention_head_dim=part.head,
            num_attention_heads=part.heads,
            joint_attention_dim=part.text,
            axes_dims_rope=part.axes,  # type: ignore[arg-type]
        )

    def forward(self, x: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        """Predicts noise - x."""
        text = text_of(conditioning, "OvisImage")
        tokens = text.tokens if text.mask is None else text.tokens * text.mask[:, :, None].to(text.tokens)
        tokens = nn.functional.pad(tokens, (0, 0, 0, self.part.length - tokens.shape[1]))
        height, width = x.shape[-2:]
        text_ids = torch.arange(self.part.length).unsqueeze(1) * torch.tensor([0, 1, 1])
        rows, columns = torch.meshgrid(torch.arange(height // 2), torch.arange(width // 2), indexing="ij")
        image_ids = torch.stack([torch.zeros_like(rows), rows, columns], dim=-1).flatten(0, 1)
        output = self.model(
            hidden_states=packed(x),
            timestep=t / LAST,
            encoder_hidden_states=tokens,
            txt_ids=text_ids.to(x),
            img_ids=image_ids.to(x),
            return_dict=False,
        )[0]
        return unpacked(output, height, width)
