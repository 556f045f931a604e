"""The UNet of latent diffusion (arXiv:2112.10752), diffusers' UNet2DConditionModel: Stable Diffusion 1, 2 and XL."""

# diffusers loads its classes lazily, which reads as private.
# pyright: reportPrivateImportUsage=false

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import Any, Self, cast

import torch
from torch import Tensor, nn

from bimo.core.errors import RecipeError
from bimo.core.part import Part
from bimo.core.tensors import Conditioning, DenoiserInput
from bimo.diffusion.denoiser import ShortcutDenoiser
from bimo.models.stable_diffusion import shortcuts

#: The name of the guidance scale condition.
SCALE = "guidance_scale"
CROSS_DOWN, PLAIN_DOWN = "CrossAttnDownBlock2D", "DownBlock2D"
CROSS_UP, PLAIN_UP = "CrossAttnUpBlock2D", "UpBlock2D"


@dataclass(frozen=True, kw_only=True)
class Unet(Part):
    """A UNet with cross-attention; the defaults are those of Stable Diffusion 1.

    ``channels`` are those of x, ``spatial`` those of conditions concatenated to it (5 for inpainting), ``size`` the
    side of x it was trained at. ``heads`` is the number of heads, one for all blocks or one each: diffusers' configs
    call it ``attention_head_dim``. ``text`` is the width of the text tokens, or those of the text encoders that are
    concatenated; a ``bridge`` wide text encoder is projected to it by a linear layer (Kolors). ``linear`` and
    ``upcast`` are Stable Diffusion 2's, ``depth`` (transformer layers a block) is XL's (arXiv:2307.01952).

    A pooled text, ``vector`` wide, is added to the timestep embedding: alone, or with the numbers of a condition,
    ``ids`` (its name and how many), each as ``id_width`` sines and cosines. ``guidance`` is the width of the guidance
    scale embedding, 0 for none (consistency models, arXiv:2310.04378). ``config`` are further settings of diffusers'
    class.
    """

    channels: int = 4
    spatial: int = 0
    size: int = 64
    down: tuple[str, ...] = (CROSS_DOWN, CROSS_DOWN, CROSS_DOWN, PLAIN_DOWN)
    up: tuple[str, ...] = (PLAIN_UP, CROSS_UP, CROSS_UP, CROSS_UP)
    block_channels: tuple[int, ...] = (320, 640, 1280, 1280)
    layers_per_block: int = 2
    heads: int | tuple[int, ...] = 8
    depth: int | tuple[int | tuple[int, ...], ...] = 1
    text: int | tuple[int, ...] = 768
    bridge: int = 0
    vector: int = 0
    ids: tuple[str, int] = ("", 0)
    id_width: int = 256
    groups: int = 32
    linear: bool = False
    upcast: bool = False
    guidance: int = 0
    config: Mapping[str, Any] = field(default_factory=dict[str, Any])

    def build(self) -> UnetDenoiser:
        """The module. Raises RecipeError for inconsistent fields."""
        return UnetDenoiser(self)

    def tiny(self) -> Self:
        """Width 8, one layer a block, two heads; as many blocks of the same kinds, the text widths of tiny text
        encoders.
        """
        return replace(
            self,
            size=8,
            block_channels=(8,) * len(self.block_channels),
            layers_per_block=1,
            heads=(2,) * len(self.heads) if isinstance(self.heads, tuple) else 2,
            depth=tuple(map(_shallow, self.depth)) if isinstance(self.depth, tuple) else min(self.depth, 2),
            text=(16,) * len(self.text) if isinstance(self.text, tuple) else 16,
            bridge=min(self.bridge, 16),
            vector=min(self.vector, 16),
            id_width=8 if self.ids[0] else self.id_width,
            groups=4,
            guidance=min(self.guidance, 8),
        )

    def settings(self) -> dict[str, Any]:
        """These fields by diffusers' names, for the UNet and its ControlNets."""
        name, count = self.ids
        pooled: dict[str, Any] = {}
        if name:
            pooled = {"addition_embed_type": "text_time", "addition_time_embed_dim": self.id_width}
        elif self.vector:
            pooled = {"class_embed_type": "projection"}
        return {
            "down_block_types": self.down,
            "block_out_channels": self.block_channels,
            "layers_per_block": self.layers_per_block,
            "attention_head_dim": self.heads,
            "transformer_layers_per_block": self.depth,
            "cross_attention_dim": sum(self.text) if isinstance(self.text, tuple) else self.text,
            "encoder_hid_dim": self.bridge or None,
            "encoder_hid_dim_type": "text_proj" if self.bridge else None,
            "projection_class_embeddings_input_dim": self.vector + count * self.id_width or None,
            "norm_num_groups": self.groups,
            "use_linear_projection": self.linear,
            "upcast_attention": self.upcast,
            **pooled,
        }


def _shallow(depth: int | tuple[int, ...]) -> int | tuple[int, ...]:
    return tuple(min(n, 2) for n in depth) if isinstance(depth, tuple) else min(depth, 2)


class UnetDenoiser(ShortcutDenoiser):
    """x [R, C, h, w], t [R] and conditioning -> [R, C, h, w]. Published names are below ``model.``."""

    def __init__(self, part: Unet) -> None:
        super().__init__()
        from diffusers import UNet2DConditionModel

        self.part = part
        try:
            self.model = UNet2DConditionModel(
                **part.settings(),
                sample_size=part.size,
                in_channels=part.channels + part.spatial,
                out_channels=part.channels,
                up_block_types=part.up,
                time_cond_proj_dim=part.guidance or None,
                **part.config,
            )
        except (ValueError, IndexError, ZeroDivisionError, TypeError) as error:
            raise RecipeError("the fields of Unet do not go together: {error}", error=error) from None

    @property
    def shift_equivariant(self) -> bool:
        """True: attention has no positions here."""
        return True

    def forward(
        self, x: Tensor, t: Tensor, conditioning: Conditioning, added: Mapping[str, Any] | None = None
    ) -> Tensor:
        """The denoiser's output; ``added`` are the residuals of a ControlNet or adapter."""
        output = self.model(**self.inputs(x, t, conditioning), **(added or {}), return_dict=False)
        return cast("tuple[Tensor, ...]", output)[0]

    def shortened(self, x: Tensor, t: Tensor, conditioning: Conditioning, denoiser_input: DenoiserInput) -> Tensor:
        """The output with DeepCache, token merging, or normalized attention guidance."""
        inputs = self.inputs(x, t, conditioning)
        within = nullcontext()
        if denoiser_input.token_merging or denoiser_input.nag is not None:
            within = shortcuts.shortened(
                self.model, x, denoiser_input.token_merging, denoiser_input.nag, conditioning.negative
            )
        with within:
            if denoiser_input.deep is not None:
                return shortcuts.deep(self.model, inputs, denoiser_input.deep)
            return cast("tuple[Tensor, ...]", self.model(**inputs, return_dict=False))[0]

    def inputs(self, x: Tensor, t: Tensor, conditioning: Conditioning) -> dict[str, Any]:
        """The arguments of diffusers' UNet. Raises RecipeError if channels or streams differ from its own."""
        if len(conditioning.streams) != 1:
            count = len(conditioning.streams)
            raise RecipeError("Unet reads one text encoder, not {count}; several are made one by a join", count=count)
        if conditioning.spatial is not None:
            x = torch.cat([x, conditioning.spatial.to(x)], dim=1)
        if x.shape[1] != self.part.channels + self.part.spatial:
            raise RecipeError(
                "Unet is given {shape} channels; expected {channels} and {spatial} of conditions",
                shape=x.shape[1],
                channels=self.part.channels,
                spatial=self.part.spatial,
            )
        words = conditioning.streams[0]
        mask = None if words.mask is None else words.mask.to(x.dtype)
        return {
            "sample": x,
            "timestep": t,
            "encoder_hidden_states": words.tokens,
            "class_labels": self._pooled(conditioning) if self.part.vector and not self.part.ids[0] else None,
            "added_cond_kwargs": self._added(conditioning) if self.part.ids[0] else None,
            "encoder_attention_mask": mask,
            "timestep_cond": self._scale(conditioning).to(x) if self.part.guidance else None,
        }

    def _scale(self, conditioning: Conditioning) -> Tensor:
        """The guidance scale as sines and cosines, [R, guidance]. Raises RecipeError if it is missing."""
        scale = conditioning.scalars.get(SCALE)
        if scale is None:
            raise RecipeError(
                "Unet needs the condition {scale!r}; it is given {scalars}",
                scale=SCALE,
                scalars=sorted(conditioning.scalars),
            )
        half = self.part.guidance // 2
        speeds = torch.exp(torch.arange(half, dtype=torch.float32) * -(math.log(10000.0) / (half - 1)))
        # As in diffusers: the scale minus 1, times 1000.
        angles = (scale.float().cpu() - 1.0) * 1000.0 * speeds[None]
        embedding = torch.cat([angles.sin(), angles.cos()], dim=1)
        return nn.functional.pad(embedding, (0, self.part.guidance % 2))

    def _pooled(self, conditioning: Conditioning) -> Tensor:
        vector = conditioning.vector
        if vector is None or vector.shape[1] != self.part.vector:
            width = 0 if vector is None else vector.shape[1]
            raise RecipeError(
                "Unet is given a pooled text {width} wide; expected {vector}", width=width, vector=self.part.vector
            )
        return vector

    def _added(self, conditioning: Conditioning) -> dict[str, Tensor]:
        name, count = self.part.ids
        ids = conditioning.scalars.get(name)
        if ids is None or ids.shape[1] != count:
            raise RecipeError(
                "Unet needs the {count} numbers of a condition {name!r}; it is given {scalars}",
                count=count,
                name=name,
                scalars=sorted(conditioning.scalars),
            )
        return {"text_embeds": self._pooled(conditioning), "time_ids": ids}
