"""Transformers of flow matching that read a language model: Z-Image, Qwen-Image, LongCat-Image and CogView4.

Each answers noise - x at t = 1000 s, whatever its own sign and clock are; x stays [R, C, h, w], packed inside.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor, nn

from bimo.core.errors import RecipeError
from bimo.core.part import Part
from bimo.core.tensors import Conditioning, TextEncoding

LAST = 1000.0


def words_of(conditioning: Conditioning, name: str) -> TextEncoding:
    """The one stream of words. Raises RecipeError where there are more, or hints that these denoisers do not read."""
    if len(conditioning.streams) != 1:
        count = len(conditioning.streams)
        raise RecipeError("{name} reads one text tower, not {count}", name=name, count=count)
    if conditioning.spatial is not None:
        raise RecipeError("{name} reads no spatial hints", name=name)
    return conditioning.streams[0]


def packed(x: Tensor) -> Tensor:
    """[R, C, h, w] -> [R, h/2 w/2, 4 C]: each token is 2x2 places, channels first."""
    height, width = x.shape[-2:]
    return (
        x.unflatten(-1, (width // 2, 2))
        .unflatten(-3, (height // 2, 2))
        .permute(0, 2, 4, 1, 3, 5)
        .flatten(3)
        .flatten(1, 2)
    )


def unpacked(tokens: Tensor, height: int, width: int) -> Tensor:
    """[R, h/2 w/2, 4 C] -> [R, C, h, w]."""
    grid = tokens.unflatten(1, (height // 2, width // 2)).unflatten(-1, (-1, 2, 2))
    return grid.permute(0, 3, 1, 4, 2, 5).flatten(4).flatten(2, 3)


@dataclass(frozen=True, kw_only=True)
class ZImage(Part):
    """Z-Image's single-stream transformer; the defaults are the published model's."""

    channels: int = 16
    width: int = 3840
    layers: int = 30
    refiners: int = 2
    heads: int = 30
    key_heads: int = 30
    text: int = 2560
    eps: float = 1e-5
    normed: bool = True
    theta: float = 256.0
    scale: float = 1000.0
    axes: tuple[int, ...] = (32, 48, 48)
    lengths: tuple[int, ...] = (1536, 512, 512)

    def build(self) -> ZImageDenoiser:
        """The module."""
        return ZImageDenoiser(self)

    def tiny(self) -> Self:
        """Width 16, two layers of two heads, one refiner; the text width of tiny towers."""
        axes = (4, 2, 2)
        return replace(self, width=16, layers=2, refiners=1, heads=2, key_heads=2, text=16, axes=axes)


class ZImageDenoiser(nn.Module):
    """x [R, C, h, w], t [R] and conditioning -> [R, C, h, w]. Published names are below ``model.``."""

    def __init__(self, part: ZImage) -> None:
        super().__init__()
        from diffusers import ZImageTransformer2DModel

        self.part = part
        self.model: Any = ZImageTransformer2DModel(
            in_channels=part.channels,
            dim=part.width,
            n_layers=part.layers,
            n_refiner_layers=part.refiners,
            n_heads=part.heads,
            n_kv_heads=part.key_heads,
            norm_eps=part.eps,
            qk_norm=part.normed,
            cap_feat_dim=part.text,
            rope_theta=part.theta,
            t_scale=part.scale,
            axes_dims=list(part.axes),
            axes_lens=list(part.lengths),
        )

    def forward(self, x: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        """The answer to an ask: the model's own is x - noise, and its clock runs from noise at 0 to x at 1."""
        words = words_of(conditioning, "ZImage")
        texts = [row if words.mask is None else row[words.mask[i]] for i, row in enumerate(words.tokens)]
        images = list(x.unsqueeze(2).unbind(0))
        answers = self.model(images, (LAST - t) / LAST, texts, return_dict=False)[0]
        return -torch.stack(list(answers)).squeeze(2)


@dataclass(frozen=True, kw_only=True)
class QwenImage(Part):
    """Qwen-Image's two-stream transformer; the defaults are the published model's. ``channels`` are x's."""

    channels: int = 16
    layers: int = 60
    head: int = 128
    heads: int = 24
    text: int = 3584
    axes: tuple[int, ...] = (16, 56, 56)

    def build(self) -> QwenImageDenoiser:
        """The module."""
        return QwenImageDenoiser(self)

    def tiny(self) -> Self:
        """Two layers of two heads of 8; the text width of tiny towers."""
        return replace(self, layers=2, head=8, heads=2, text=16, axes=(4, 2, 2))


class QwenImageDenoiser(nn.Module):
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
        )

    def forward(self, x: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        """The answer to an ask."""
        words = words_of(conditioning, "QwenImage")
        height, width = x.shape[-2:]
        answer = self.model(
            hidden_states=packed(x),
            timestep=t / LAST,
            encoder_hidden_states=words.tokens,
            encoder_hidden_states_mask=words.mask,
            img_shapes=[[(1, height // 2, width // 2)]] * len(x),
            return_dict=False,
        )[0]
        return unpacked(answer, height, width)


@dataclass(frozen=True, kw_only=True)
class LongCatImage(Part):
    """LongCat-Image's transformer of two streams, then one. ``channels`` are x's.

    The image's places are counted from ``origin``, the length that the texts are padded to.
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
        """One layer of two streams and one of one, two heads of 8; the text width of tiny towers."""
        return replace(self, layers=1, singles=1, head=8, heads=2, text=16, axes=(4, 2, 2))


class LongCatImageDenoiser(nn.Module):
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
        """The answer to an ask. Padding of the words is seen, as it was in training."""
        words = words_of(conditioning, "LongCatImage")
        height, width = x.shape[-2:]
        length = words.tokens.shape[1]
        text_ids = torch.arange(length).unsqueeze(1) * torch.tensor([0, 1, 1])
        rows, columns = torch.meshgrid(torch.arange(height // 2), torch.arange(width // 2), indexing="ij")
        image_ids = torch.stack([torch.ones_like(rows), rows + self.part.origin, columns + self.part.origin], dim=-1)
        answer = self.model(
            hidden_states=packed(x),
            timestep=t / LAST,
            encoder_hidden_states=words.tokens,
            txt_ids=text_ids.to(x),
            img_ids=image_ids.flatten(0, 1).to(x),
            return_dict=False,
        )[0]
        return unpacked(answer, height, width)


@dataclass(frozen=True, kw_only=True)
class CogView4(Part):
    """CogView4's transformer; the defaults are the published model's. A place of x is ``factor`` pixels a side."""

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
        """Two layers of two heads of 8; the text width of tiny towers."""
        return replace(self, layers=2, head=8, heads=2, text=16, time=16, condition=8, size=8)


class CogView4Denoiser(nn.Module):
    """x [R, C, h, w], t [R] and conditioning -> [R, C, h, w]. Published names are below ``model.``.

    It is told the picture's own size as the original and wanted one, and no crop (arXiv:2307.01952, section 2.2).
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
        """The answer to an ask. Texts of different lengths go one length at a time: it has no mask that hides."""
        words = words_of(conditioning, "CogView4")
        if words.mask is None:
            return self._answer(x, t, words.tokens)
        lengths = words.mask.sum(dim=1)
        answer = torch.empty_like(x)
        for length in lengths.unique().tolist():
            rows = (lengths == length).nonzero().flatten()
            answer[rows] = self._answer(x[rows], t[rows], words.tokens[rows, :length]).to(x.dtype)
        return answer

    def _answer(self, x: Tensor, t: Tensor, tokens: Tensor) -> Tensor:
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
