"""Qwen-Image's transformer, diffusers' QwenImageTransformer2DModel."""

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
from bimo.models.flow_tokens import LAST, packed, references_of, text_of, unpacked


@dataclass(frozen=True, kw_only=True)
class QwenImage(Part):
    """Qwen-Image's two-stream transformer; the defaults are the published model's. ``channels`` are x's. With
    ``zero_cond_t`` the tokens of reference pictures are told the time 0, as they have no noise (Qwen-Image-Edit-2511).
    """

    channels: int = 16
    layers: int = 60
    head: int = 128
    heads: int = 24
    text: int = 3584
    axes: tuple[int, ...] = (16, 56, 56)
    zero_cond_t: bool = False

    def build(self) -> QwenImageDenoiser:
        """The module."""
        return QwenImageDenoiser(self)

    def tiny(self) -> Self:
        """Two layers of two heads of 8; the text width of tiny text encoders."""
        return replace(self, layers=2, head=8, heads=2, text=16, axes=(4, 2, 2))


class QwenImageDenoiser(PublishedDenoiser):
    """x [R, C, h, w], t [R] and conditioning -> [R, C, h, w]. Published names are below ``model.``."""

    def __init__(self, part: QwenImage) -> None:
        super().__init__()
        from diffusers import QwenImageTransformer2DModel

        self.part = part
        self.model: Any = QwenImageTransformer2DModel(
            in_channels=4 * part.channels,
            out_channels=part.channels,
            num_layers=part.layers,
            attention_head_dim=part.head,
            num_attention_heads=part.heads,
            joint_attention_dim=part.text,
            axes_dims_rope=part.axes,  # type: ignore[arg-type]
            zero_cond_t=part.zero_cond_t,
        )

    def forward(self, x: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        """noise - x. Reference pictures' tokens stand behind those of x, each at its places of a frame of its own."""
        text = text_of(conditioning, "QwenImage")
        height, width = x.shape[-2:]
        pictures = [x, *(picture.to(x) for picture in references_of(conditioning))]
        tokens = [packed(picture) for picture in pictures]
        answer = self.model(
            hidden_states=torch.cat(tokens, dim=1),
            timestep=t / LAST,
            encoder_hidden_states=text.tokens,
            encoder_hidden_states_mask=text.mask,
            img_shapes=[[(1, each.shape[-2] // 2, each.shape[-1] // 2) for each in pictures]] * len(x),
            return_dict=False,
        )[0]
        return unpacked(answer[:, : tokens[0].shape[1]], height, width)
