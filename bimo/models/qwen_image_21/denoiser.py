"""Qwen-Image-2.1's transformer, diffusers' QwenImage21Transformer2DModel."""

# diffusers loads its classes lazily, which reads as private, and leaves parts of its interface untyped.
# pyright: reportPrivateImportUsage=false

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Self, cast

import torch
from torch import Tensor

from bimo.core.part import Part
from bimo.core.tensors import Conditioning
from bimo.diffusion.denoiser import PublishedDenoiser
from bimo.models.flow_tokens import LAST, PLACES, references_of, text_of

#: How many positions of x a place of the text stands for that is a picture's.
POSITIONS = 4


@dataclass(frozen=True, kw_only=True)
class QwenImage21(Part):
    """Qwen-Image-2.1's transformer of one stream, in which words see what is before them, and each picture itself as
    well. The fields are diffusers', the defaults the published model's. With ``causal_condition`` words and reference
    pictures are told the time 0.
    """

    in_channels: int = 64
    num_layers: int = 32
    attention_head_dim: int = 128
    num_attention_heads: int = 32
    context_in_dim: int = 4096
    mlp_ratio: int = 3
    axes_dims_rope: tuple[int, ...] = (16, 56, 56)
    eps: float = 1e-6
    causal_condition: bool = True

    def build(self) -> QwenImage21Denoiser:
        """The module."""
        return QwenImage21Denoiser(self)

    def tiny(self) -> Self:
        """Two layers of two heads of 8; the text width of tiny text encoders."""
        small = {"num_layers": 2, "attention_head_dim": 8, "num_attention_heads": 2}
        return replace(self, context_in_dim=16, axes_dims_rope=(4, 2, 2), **small)


class QwenImage21Denoiser(PublishedDenoiser):
    """x [R, C, h, w], t [R] and conditioning -> [R, C, h, w]. Published names are below ``model.``."""

    #: Four positions of x go with one place among the words.
    multiple = 2

    def __init__(self, part: QwenImage21) -> None:
        super().__init__()
        from diffusers import QwenImage21Transformer2DModel

        self.part = part
        self.model: Any = QwenImage21Transformer2DModel(
            in_channels=part.in_channels,
            out_channels=part.in_channels,
            num_layers=part.num_layers,
            attention_head_dim=part.attention_head_dim,
            num_attention_heads=part.num_attention_heads,
            context_in_dim=part.context_in_dim,
            mlp_ratio=part.mlp_ratio,
            axes_dims_rope=cast(Any, part.axes_dims_rope),
            eps=part.eps,
            causal_condition=part.causal_condition,
        )

    def forward(self, x: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        """noise - x. Reference pictures stand among the words where the scalar PLACES says."""
        text = text_of(conditioning, "QwenImage21")
        pictures = [picture.to(x) for picture in references_of(conditioning)]
        places: list[int] = cast(Any, conditioning.scalars[PLACES][0]).tolist() if pictures else []
        if text.mask is None:
            return self._answer(x, t, text.tokens, pictures, places)
        # By the length of the text the picture's places are counted: rows of other lengths go apart.
        lengths: list[int] = cast(Any, text.mask.sum(dim=1)).tolist()
        answers: dict[int, Tensor] = {}
        for length in dict.fromkeys(lengths):
            rows = [row for row, own in enumerate(lengths) if own == length]
            answer = self._answer(x[rows], t[rows], text.tokens[rows, :length], [p[rows] for p in pictures], places)
            answers |= zip(rows, answer, strict=True)
        return torch.stack([answers[row] for row in range(len(x))])

    def _answer(
        self, x: Tensor, t: Tensor, tokens: Tensor, pictures: Sequence[Tensor], places: Sequence[int]
    ) -> Tensor:
        """Of rows whose texts [R, L, D] are of one length."""
        words: list[Tensor] = []
        held: list[bool] = []
        begin = 0
        for picture, place in zip(pictures, places, strict=True):
            count = math.prod(picture.shape[-2:]) // POSITIONS
            words += [tokens[:, begin:place], tokens.new_zeros(len(x), count, tokens.shape[2])]
            held += [False] * (place - begin) + [True] * count
            begin = place
        words.append(tokens[:, begin:])
        held += [False] * (tokens.shape[1] - begin) + [True] * (math.prod(x.shape[-2:]) // POSITIONS)
        every = [*pictures, x]
        answer = self.model(
            hidden_states=torch.cat([each.flatten(2).transpose(1, 2) for each in every], dim=1),
            timestep=t / LAST,
            encoder_hidden_states=torch.cat(words, dim=1),
            img_shapes=[[(1, *each.shape[-2:]) for each in every]] * len(x),
            img_mask=torch.tensor([held], device=x.device),
            return_dict=False,
        )[0]
        return answer[:, -math.prod(x.shape[-2:]) :].transpose(1, 2).reshape_as(x)
