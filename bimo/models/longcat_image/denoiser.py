"""LongCat-Image's transformer, diffusers' LongCatImageTransformer2DModel."""

# diffusers loads its classes lazily, which reads as private.
# pyright: reportPrivateImportUsage=false

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Self, cast

import torch
from torch import Tensor

from bimo.core.part import Part
from bimo.core.tensors import Conditioning
from bimo.diffusion.denoiser import PublishedDenoiser
from bimo.models.flow_tokens import LAST, packed, references_of, text_of, unpacked


@dataclass(frozen=True, kw_only=True)
class LongCatImage(Part):
    """LongCat-Image's transformer with double-stream and single-stream blocks. ``channels`` are those of x.

    The image's position ids start at ``origin``, the length of padded texts; if it is 0, at the length of each text,
    which includes the tokens of the picture to be edited.
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
        """Predicts noise - x. The text's padding is attended to, as in training; reference pictures' tokens follow
        those of x, with equal position ids and another modality id.
        """
        text = text_of(conditioning, "LongCatImage")
        pictures = [picture.to(x) for picture in references_of(conditioning)]
        if self.part.origin or text.mask is None:
            return self._answer(x, t, text.tokens, pictures)
        # Texts with pictures of other sizes are longer, which shifts the image's position ids.
        lengths: list[int] = cast(Any, text.mask.sum(dim=1)).tolist()
        each = [
            self._answer(x[i : i + 1], t[i : i + 1], text.tokens[i : i + 1, :n], [p[i : i + 1] for p in pictures])
            for i, n in enumerate(lengths)
        ]
        return torch.cat(each)

    def _answer(self, x: Tensor, t: Tensor, tokens: Tensor, pictures: list[Tensor]) -> Tensor:
        length = tokens.shape[1]
        text_ids = torch.arange(length).unsqueeze(1) * torch.tensor([0, 1, 1])
        origin = self.part.origin or length
        ids = [_places(each, 1 if each is x else 2, origin) for each in (x, *pictures)]
        answer = self.model(
            hidden_states=torch.cat([packed(each) for each in (x, *pictures)], dim=1),
            timestep=t / LAST,
            encoder_hidden_states=tokens,
            txt_ids=text_ids.to(x),
            img_ids=torch.cat(ids).to(x),
            return_dict=False,
        )[0]
        return unpacked(answer[:, : len(ids[0])], *x.shape[-2:])


def _places(x: Tensor, kind: int, origin: int) -> Tensor:
    """Kind, row and column of each token of x [R, C, h, w], counted from ``origin``: [h/2 w/2, 3]."""
    rows, columns = torch.meshgrid(torch.arange(x.shape[-2] // 2), torch.arange(x.shape[-1] // 2), indexing="ij")
    return torch.stack([torch.full_like(rows, kind), rows + origin, columns + origin], dim=-1).flatten(0, 1)
