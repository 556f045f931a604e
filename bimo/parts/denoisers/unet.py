"""The UNet of latent diffusion (arXiv:2112.10752), diffusers' UNet2DConditionModel: Stable Diffusion 1 and 2."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Self, cast

import torch
from torch import Tensor, nn

from bimo.core.errors import RecipeError
from bimo.core.part import Part
from bimo.core.types import Conditioning

CROSS_DOWN, PLAIN_DOWN = "CrossAttnDownBlock2D", "DownBlock2D"
CROSS_UP, PLAIN_UP = "CrossAttnUpBlock2D", "UpBlock2D"


@dataclass(frozen=True, kw_only=True)
class Unet(Part):
    """A UNet that attends to words; the defaults are those of Stable Diffusion 1.

    ``channels`` are x's, ``spatial`` those of hints joined to it (5 for inpainting), ``size`` the side of x it was
    trained at. ``heads`` is the number of heads, one for all blocks or one each: what diffusers' configs call
    ``attention_head_dim``. ``text`` is the width of the words; ``linear`` and ``upcast`` are Stable Diffusion 2's.
    """

    channels: int = 4
    spatial: int = 0
    size: int = 64
    down: tuple[str, ...] = (CROSS_DOWN, CROSS_DOWN, CROSS_DOWN, PLAIN_DOWN)
    up: tuple[str, ...] = (PLAIN_UP, CROSS_UP, CROSS_UP, CROSS_UP)
    block_channels: tuple[int, ...] = (320, 640, 1280, 1280)
    layers_per_block: int = 2
    heads: int | tuple[int, ...] = 8
    text: int = 768
    groups: int = 32
    linear: bool = False
    upcast: bool = False

    def build(self) -> UnetDenoiser:
        """The module. Raises RecipeError for fields that do not go together."""
        return UnetDenoiser(self)

    def tiny(self) -> Self:
        """Width 8, one layer a block, two heads; as many blocks of the same kinds, the text width of tiny towers."""
        heads = (2,) * len(self.heads) if isinstance(self.heads, tuple) else 2
        widths = (8,) * len(self.block_channels)
        return replace(self, size=8, block_channels=widths, layers_per_block=1, heads=heads, text=16, groups=4)


class UnetDenoiser(nn.Module):
    """x [R, C, h, w], t [R] and conditioning -> [R, C, h, w]. Published names are below ``model.``."""

    def __init__(self, part: Unet) -> None:
        super().__init__()
        from diffusers import UNet2DConditionModel

        self.part = part
        try:
            self.model = UNet2DConditionModel(
                sample_size=part.size,
                in_channels=part.channels + part.spatial,
                out_channels=part.channels,
                down_block_types=part.down,
                up_block_types=part.up,
                block_out_channels=part.block_channels,
                layers_per_block=part.layers_per_block,
                attention_head_dim=cast(Any, part.heads),
                cross_attention_dim=part.text,
                norm_num_groups=part.groups,
                use_linear_projection=part.linear,
                upcast_attention=part.upcast,
            )
        except (ValueError, IndexError, ZeroDivisionError) as error:
            raise RecipeError(
                f"Unet 的字段不相配：{error}", f"the fields of Unet do not go together: {error}"
            ) from None

    def forward(self, x: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        """The answer to an ask. Raises RecipeError where it is told other channels or streams than it has."""
        if len(conditioning.streams) != 1:
            count = len(conditioning.streams)
            raise RecipeError(f"Unet 只读一个文本塔，收到 {count} 个", f"Unet reads one text tower, not {count}")
        if conditioning.spatial is not None:
            x = torch.cat([x, conditioning.spatial.to(x)], dim=1)
        if x.shape[1] != self.part.channels + self.part.spatial:
            raise RecipeError(
                f"Unet 收到 {x.shape[1]} 个通道，应为 {self.part.channels} + 提示的 {self.part.spatial}",
                f"Unet is given {x.shape[1]} channels; expected {self.part.channels} and {self.part.spatial} of hints",
            )
        words = conditioning.streams[0]
        mask = None if words.mask is None else words.mask.to(x.dtype)
        answer = self.model(x, t, words.tokens, encoder_attention_mask=mask, return_dict=False)
        return cast("tuple[Tensor, ...]", answer)[0]
