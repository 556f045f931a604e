"""HunyuanImage-2.1's transformer, diffusers' HunyuanImageTransformer2DModel: its base, distilled form and refiner."""

# diffusers loads its classes lazily, which reads as private.
# pyright: reportPrivateImportUsage=false

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, Self

import torch
from torch import Tensor

from bimo.core.errors import RecipeError
from bimo.core.part import Part
from bimo.core.tensors import Conditioning, TextEncoding
from bimo.diffusion.denoiser import NEXT, PublishedDenoiser
from bimo.models.stable_diffusion.unet import SCALE

#: The factor of the guidance scale before it is embedded like a timestep.
GUIDANCE = 1000.0


@dataclass(frozen=True, kw_only=True)
class HunyuanImage(Part):
    """HunyuanImage-2.1's transformer with double-stream and single-stream blocks. The fields are diffusers', the
    defaults the published base model's. Its text streams are a language model's and, ``text_embed_2_dim`` wide, that of
    the glyphs to be rendered.

    With ``guidance_embeds`` it is conditioned on the guidance scale; with ``use_meanflow`` on the timestep at the end
    of a step, and predicts the mean velocity up to there (MeanFlow, arXiv:2505.13447). The refiner has ``out_channels``
    each for x and for the picture to be refined, in patches with a time dimension, and no glyphs. ``texts`` are the
    indices of its text encoders, if the system has more.
    """

    in_channels: int = 64
    out_channels: int = 64
    num_attention_heads: int = 28
    attention_head_dim: int = 128
    num_layers: int = 20
    num_single_layers: int = 40
    num_refiner_layers: int = 2
    mlp_ratio: float = 4.0
    patch_size: tuple[int, ...] = (1, 1)
    guidance_embeds: bool = False
    text_embed_dim: int = 3584
    text_embed_2_dim: int | None = 1472
    rope_theta: float = 256.0
    rope_axes_dim: tuple[int, ...] = (64, 64)
    use_meanflow: bool = False
    texts: tuple[int, ...] = ()

    def build(self) -> HunyuanImageDenoiser:
        """The module."""
        return HunyuanImageDenoiser(self)

    def tiny(self) -> Self:
        """One layer of each kind, two heads of 8; the text widths of tiny text encoders."""
        layers = {"num_layers": 1, "num_single_layers": 1, "num_refiner_layers": 1}
        axes = (4, 4) if len(self.rope_axes_dim) == 2 else (4, 2, 2)
        small = replace(self, num_attention_heads=2, attention_head_dim=8, rope_axes_dim=axes, **layers)
        return replace(small, text_embed_dim=16, text_embed_2_dim=None if self.text_embed_2_dim is None else 16)


class HunyuanImageDenoiser(PublishedDenoiser):
    """x [R, C, h, w], t [R] and conditioning -> [R, C, h, w]. Published names are below ``model.``."""

    def __init__(self, part: HunyuanImage) -> None:
        super().__init__()
        from diffusers import HunyuanImageTransformer2DModel

        self.part = part
        settings = {field.name: getattr(part, field.name) for field in fields(part) if field.name != "texts"}
        self.model: Any = HunyuanImageTransformer2DModel(**settings)

    @property
    def reads_next(self) -> bool:
        """With MeanFlow."""
        return self.part.use_meanflow

    def forward(self, x: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        """Predicts noise - x, with MeanFlow its mean up to the next timestep (t itself if there is none). Raises
        RecipeError for other text encoders, and for spatial conditions it was not built for.
        """
        part = self.part
        streams = self._streams(conditioning)
        spatial, wanted = conditioning.spatial, part.in_channels - part.out_channels
        if (0 if spatial is None else spatial.shape[1]) != wanted:
            if not wanted:
                raise RecipeError("{name} reads no spatial conditions", name="HunyuanImage")
            raise RecipeError("{name} needs the picture that it refines", name="HunyuanImage")
        both = x if spatial is None else torch.cat([x, spatial.to(x)], dim=1)
        framed = len(part.patch_size) == 3
        scalars, rows = conditioning.scalars, len(x)
        arguments: dict[str, Any] = {}
        if part.guidance_embeds:
            if SCALE not in scalars:
                raise RecipeError("{name} needs the condition {scale!r}", name="HunyuanImage", scale=SCALE)
            arguments["guidance"] = scalars[SCALE].reshape(rows).to(x) * GUIDANCE
        if part.use_meanflow:
            arguments["timestep_r"] = (scalars[NEXT].reshape(rows) if NEXT in scalars else t).to(x)
        if len(streams) == 2:
            arguments |= {"encoder_hidden_states_2": streams[1].tokens, "encoder_attention_mask_2": _mask(streams[1])}
        output = self.model(
            hidden_states=both[:, :, None] if framed else both,
            timestep=t.to(x),
            encoder_hidden_states=streams[0].tokens,
            encoder_attention_mask=_mask(streams[0]),
            **arguments,
            return_dict=False,
        )[0]
        return output[:, :, 0] if framed else output

    def _streams(self, conditioning: Conditioning) -> list[TextEncoding]:
        every, wanted = conditioning.streams, 1 if self.part.text_embed_2_dim is None else 2
        chosen = [every[place] for place in self.part.texts if place < len(every)] if self.part.texts else [*every]
        if len(chosen) != wanted:
            raise RecipeError(
                "HunyuanImage reads {wanted} text encoders, not {count}", wanted=wanted, count=len(chosen)
            )
        return chosen


def _mask(stream: TextEncoding) -> Tensor:
    """The mask of a stream [R, L], all True if it has none."""
    if stream.mask is not None:
        return stream.mask
    return torch.ones(stream.tokens.shape[:2], dtype=torch.bool, device=stream.tokens.device)
