"""HunyuanDiT's transformer (arXiv:2405.08748), diffusers' HunyuanDiT2DModel: versions 1.0 to 1.2."""

# diffusers loads its classes lazily, which reads as private, and leaves parts of its interface untyped.
# pyright: reportPrivateImportUsage=false, reportUnknownVariableType=false

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor, nn

from bimo.core.errors import RecipeError
from bimo.core.part import Part
from bimo.core.tensors import Conditioning, TextEncoding
from bimo.diffusion.denoiser import PublishedDenoiser

#: The side in pixels to which positions are normalised: larger pictures have finer steps.
BASE_PIXELS = 512
#: The original size that versions up to 1.1 are conditioned on, whatever it was.
ORIGINAL_PIXELS = (1024, 1024)


@dataclass(frozen=True, kw_only=True)
class Hunyuan(Part):
    """HunyuanDiT's transformer; the defaults are version 1.2's. ``size`` is the side of x, ``factor`` the pixels of a
    position.

    It has two text encoders of widths ``text``, padded to ``lengths`` with a learned vector. ``meta`` adds size and
    style conditioning (version 1.1 and before). With ``variance`` the output has twice the channels, a learned variance
    in the second half.
    """

    channels: int = 4
    size: int = 128
    patch: int = 2
    width: int = 1408
    heads: int = 16
    layers: int = 40
    ratio: float = 4.3637
    text: tuple[int, int] = (1024, 2048)
    pooled: int = 1024
    lengths: tuple[int, int] = (77, 256)
    meta: bool = False
    variance: bool = True
    factor: int = 8

    def build(self) -> HunyuanDenoiser:
        """The module."""
        return HunyuanDenoiser(self)

    def tiny(self) -> Self:
        """Width 16, four layers, of which the last has a skip from the first; the text widths of tiny text encoders."""
        return replace(self, size=8, width=16, heads=2, layers=4, ratio=2.0, text=(16, 16), pooled=16)

    def settings(self) -> dict[str, Any]:
        """These fields by diffusers' names, for the transformer and its ControlNets."""
        return {
            "num_attention_heads": self.heads,
            "attention_head_dim": self.width // self.heads,
            "in_channels": self.channels,
            "patch_size": self.patch,
            "sample_size": self.size,
            "hidden_size": self.width,
            "mlp_ratio": self.ratio,
            "cross_attention_dim": self.text[0],
            "cross_attention_dim_t5": self.text[1],
            "pooled_projection_dim": self.pooled,
            "text_len": self.lengths[0],
            "text_len_t5": self.lengths[1],
            "use_style_cond_and_image_meta_size": self.meta,
        }


class HunyuanDenoiser(PublishedDenoiser):
    """x [R, C, h, w], t [R] and conditioning -> [R, 2 C, h, w]. Published names are below ``model.``."""

    def __init__(self, part: Hunyuan) -> None:
        super().__init__()
        from diffusers import HunyuanDiT2DModel

        self.part = part
        self.model = HunyuanDiT2DModel(**part.settings(), num_layers=part.layers, learn_sigma=part.variance)
        self._places: dict[tuple[int, int], tuple[Tensor, Tensor]] = {}

    def forward(
        self, x: Tensor, t: Tensor, conditioning: Conditioning, added: Mapping[str, Any] | None = None
    ) -> Tensor:
        """The denoiser's output; ``added`` are the residuals of a ControlNet."""
        return self.model(**self.inputs(x, t, conditioning), **(added or {}), return_dict=False)[0]

    def inputs(self, x: Tensor, t: Tensor, conditioning: Conditioning) -> dict[str, Any]:
        """The arguments of diffusers' transformer, or of its ControlNet. Raises RecipeError for other streams."""
        if len(conditioning.streams) != 2:
            count = len(conditioning.streams)
            raise RecipeError("Hunyuan reads two text encoders, not {count}", count=count)
        first, second = (
            _padded(stream, length) for stream, length in zip(conditioning.streams, self.part.lengths, strict=True)
        )
        rows, (h, w) = x.shape[0], x.shape[2:]
        sizes = [*ORIGINAL_PIXELS, h * self.part.factor, w * self.part.factor, 0, 0]
        return {
            "hidden_states": x,
            "timestep": t.to(x),
            "encoder_hidden_states": first.tokens,
            "text_embedding_mask": first.mask,
            "encoder_hidden_states_t5": second.tokens,
            "text_embedding_mask_t5": second.mask,
            "image_meta_size": torch.tensor([sizes] * rows, dtype=x.dtype, device=x.device),
            "style": torch.zeros(rows, dtype=torch.long, device=x.device),
            "image_rotary_emb": self.places(h // self.part.patch, w // self.part.patch),
        }

    def places(self, rows: int, columns: int) -> tuple[Tensor, Tensor]:
        """Cosines and sines of the rotary embedding of a grid, each [rows * columns, width of a head].

        The grid is centred on the square grid of 512 pixels, so that every size is in its range.
        """
        from diffusers.models.embeddings import get_2d_rotary_pos_embed

        if (rows, columns) not in self._places:
            part = self.part
            corners = middle((rows, columns), BASE_PIXELS // part.factor // part.patch)
            head = part.width // part.heads
            cos, sin = get_2d_rotary_pos_embed(head, corners, (rows, columns), output_type="pt")
            self._places[rows, columns] = cos, sin
        return self._places[rows, columns]


def middle(grid: tuple[int, int], side: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """Top left and bottom right, as (row, column), of a grid (rows, columns) resized so that its longer side is
    ``side``, centred in a square of that side.
    """
    rows, columns = grid
    tall, wide = (side, round(side / rows * columns)) if rows > columns else (round(side / columns * rows), side)
    top, left = round((side - tall) / 2), round((side - wide) / 2)
    return (top, left), (top + tall, left + wide)


def _padded(stream: TextEncoding, length: int) -> TextEncoding:
    """A stream padded to ``length`` tokens, with a mask. Raises RecipeError for a longer one."""
    tokens, missing = stream.tokens, length - stream.tokens.shape[1]
    if missing < 0:
        raise RecipeError(
            "a text encoder gives Hunyuan {shape} tokens; at most {length}", shape=tokens.shape[1], length=length
        )
    mask = stream.mask if stream.mask is not None else tokens.new_ones(tokens.shape[:2], dtype=torch.bool)
    return TextEncoding(
        nn.functional.pad(tokens, (0, 0, 0, missing)), nn.functional.pad(mask, (0, missing), value=False)
    )
