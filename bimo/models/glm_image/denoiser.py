"""GLM-Image's transformer, diffusers' GlmImageTransformer2DModel: it draws from the prior's tokens."""

# diffusers loads its classes lazily, which reads as private, and leaves parts of its interface untyped.
# pyright: reportPrivateImportUsage=false, reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Self

import torch
from torch import Tensor

from bimo.core.errors import RecipeError
from bimo.core.part import Part
from bimo.core.tensors import Conditioning, StepState
from bimo.diffusion.denoiser import StatefulDenoiser
from bimo.models.flow_tokens import REFERENCE, rows_by

#: The tokens of the prior at the places of x's patches, [R, h/2 w/2] of integers, -1 where there is none; those of each
#: reference picture; whether a row looks at reference pictures, [R, 1].
TOKENS, REFERENCE_TOKENS, LOOKS = "tokens", "tokens.", "looks"


@dataclass(frozen=True, kw_only=True)
class GlmImage(Part):
    """GLM-Image's transformer of one stream; the fields are diffusers', the defaults the published model's. A position
    of x is ``factor`` pixels a side. It reads the last text encoder, of what is to be written.
    """

    in_channels: int = 16
    num_layers: int = 30
    attention_head_dim: int = 128
    num_attention_heads: int = 32
    text_embed_dim: int = 1472
    time_embed_dim: int = 512
    condition_dim: int = 256
    prior_vq_quantizer_codebook_size: int = 16384
    factor: int = 8

    def build(self) -> GlmImageDenoiser:
        """The module."""
        return GlmImageDenoiser(self)

    def tiny(self) -> Self:
        """Two layers of two heads of 8; the text width of tiny text encoders, the codebook of a tiny prior."""
        small = {"num_layers": 2, "attention_head_dim": 8, "num_attention_heads": 2, "text_embed_dim": 16}
        return replace(self, **small, time_embed_dim=16, condition_dim=8, prior_vq_quantizer_codebook_size=32)


class GlmImageDenoiser(StatefulDenoiser):
    """x [R, C, h, w], t [R] and conditioning -> [R, C, h, w]. Published names are below ``model.``.

    Reference pictures are read once, at the time 0, by themselves: what is kept of a drawing are their keys and values.
    """

    #: Of the patches of 2x2, and of the tokens of the prior 2x2 of these.
    multiple = 2

    def __init__(self, part: GlmImage) -> None:
        super().__init__()
        from diffusers import GlmImageTransformer2DModel

        self.part = part
        settings = {field.name: getattr(part, field.name) for field in fields(part) if field.name != "factor"}
        self.model: Any = GlmImageTransformer2DModel(**settings, out_channels=part.in_channels)

    def roll(self, conditioning: Conditioning, shift: tuple[int, int], sides: tuple[int, int]) -> Conditioning:
        """Rolls the tokens of the prior with x, and those of a reference picture with the picture."""
        rolled = super().roll(conditioning, shift, sides)
        scalars = dict(rolled.scalars)
        lying = [name for name, picture in rolled.pictures.items() if picture.shape[-2:] == sides]
        for name in (TOKENS, *(name.replace(REFERENCE, REFERENCE_TOKENS) for name in lying)):
            if name in scalars:
                places = scalars[name].unflatten(1, (sides[0] // 2, sides[1] // 2))
                scalars[name] = torch.roll(places, (shift[0] // 2, shift[1] // 2), (-2, -1)).flatten(1)
        return replace(rolled, scalars=scalars)

    def forward(self, x: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        """noise - x, with reference pictures read anew."""
        return self.with_states(x, t, conditioning, [StepState() for _ in x])

    def with_states(self, x: Tensor, t: Tensor, conditioning: Conditioning, states: Sequence[StepState]) -> Tensor:
        """noise - x. Rows that are told texts of different lengths, or look at pictures or not, are processed
        separately: there is no attention mask. Raises RecipeError without tokens of the prior.
        """
        if TOKENS not in conditioning.scalars:
            raise RecipeError("{name} needs the condition {scale!r}", name="GlmImage", scale=TOKENS)
        text = conditioning.streams[-1]
        count = text.tokens.shape[1]
        lengths: list[int] = [count] * len(x) if text.mask is None else text.mask.sum(dim=1).tolist()
        looks = [False] * len(x)
        if LOOKS in conditioning.scalars:
            looks = [bool(each) for each in conditioning.scalars[LOOKS].flatten().tolist()]
        output = torch.empty_like(x)
        for (length, looking), rows in rows_by(zip(lengths, looks, strict=True)):
            caches = None
            if looking:
                owners = [states[row * len(states) // len(x)] for row in rows]
                caches = self._joined(
                    [self._read(owner, conditioning, row, x) for owner, row in zip(owners, rows, strict=True)]
                )
            tokens = conditioning.scalars[TOKENS][rows].to(x.device)
            output[rows] = self._called(x[rows], t[rows] - 1, text.tokens[rows, :length], tokens, caches).to(x.dtype)
        return output

    def _called(self, x: Tensor, t: Tensor, text: Tensor, tokens: Tensor, caches: Any) -> Tensor:
        size = torch.tensor(x.shape[-2:], device=x.device, dtype=x.dtype).mul(self.part.factor).repeat(len(x), 1)
        return self.model(
            hidden_states=x,
            encoder_hidden_states=text,
            prior_token_id=tokens.clamp(min=0),
            prior_token_drop=tokens < 0,
            timestep=t,
            target_size=size,
            crop_coords=torch.zeros_like(size),
            kv_caches=caches,
            return_dict=False,
        )[0]

    def _read(self, state: StepState, conditioning: Conditioning, row: int, x: Tensor) -> Any:
        """The keys and values of a row's reference pictures."""
        from diffusers.models.transformers.transformer_glm_image import GlmImageKVCache

        if REFERENCE not in state.kept:
            cache = GlmImageKVCache(num_layers=self.part.num_layers)
            cache.set_mode("write")
            for name, picture in conditioning.pictures.items():
                tokens = conditioning.scalars[name.replace(REFERENCE, REFERENCE_TOKENS)][row : row + 1].to(x.device)
                none = x.new_zeros(1, 0, self.part.text_embed_dim)
                self._called(picture[row : row + 1].to(x), torch.zeros(1, device=x.device), none, tokens, cache)
            state.kept[REFERENCE] = cache
        return state.kept[REFERENCE]

    def _joined(self, caches: Sequence[Any]) -> Any:
        """The keys and values of several rows, for one call."""
        from diffusers.models.transformers.transformer_glm_image import GlmImageKVCache

        joined = GlmImageKVCache(num_layers=self.part.num_layers)
        joined.set_mode("read")
        for layer, own in enumerate(joined.caches):
            own.k_caches = [cache[layer].k_caches[0] for cache in caches]
            own.v_caches = [cache[layer].v_caches[0] for cache in caches]
        return joined
