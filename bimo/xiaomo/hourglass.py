"""A small UNet for latents of 16 x 16: convolutions at full resolution, attention at half of it.

The UNet of latent diffusion (arXiv:2112.10752) with a single downsampling, which is all that such latents allow;
timestep scale and shift as in arXiv:2105.05233, section 3.
"""

# torch leaves parts of its interface untyped.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self, cast

import torch
from torch import Tensor, nn

from bimo.core.part import Part
from bimo.core.tensors import Conditioning
from bimo.diffusion.denoiser import Denoiser
from bimo.models.attention import attended
from bimo.models.pixart.network import TimeVector

GROUPS = 8


@dataclass(frozen=True, kw_only=True)
class Hourglass(Part):
    """``channels`` are those of x, ``spatial`` those of conditioning maps concatenated to it. ``blocks`` residual
    blocks of ``width`` on the way down and on the way up, ``deep`` blocks of ``inner`` with self- and cross-attention
    in between.

    Pooled text (``vector`` wide) and ``scalars`` (name and width) are added to the timestep embedding; 0 and () for
    none.
    """

    channels: int = 16
    spatial: int = 0
    width: int = 192
    inner: int = 384
    blocks: int = 2
    deep: int = 4
    heads: int = 6
    text: int = 192
    vector: int = 0
    scalars: tuple[tuple[str, int], ...] = ()

    def build(self) -> HourglassDenoiser:
        """The module."""
        return HourglassDenoiser(self)

    def tiny(self) -> Self:
        """Widths 8 and 16, one block each; the text widths of tiny text encoders."""
        small = replace(self, width=8, inner=16, blocks=1, deep=1, heads=2, text=16)
        return replace(small, vector=min(self.vector, 16))


class HourglassDenoiser(Denoiser):
    """x [R, C, h, w], t [R] and conditioning -> [R, C, h, w]."""

    def __init__(self, part: Hourglass) -> None:
        super().__init__()
        self.part = part
        self.multiple = 2  # downsampled once
        time = part.inner
        self.time = TimeVector(time)
        self.vector = nn.Linear(part.vector, time) if part.vector else None
        self.scalars = nn.ModuleDict({name: nn.Linear(width, time) for name, width in part.scalars})
        self.enter = nn.Conv2d(part.channels + part.spatial, part.width, 3, padding=1)
        self.down = nn.ModuleList(ResidualBlock(part.width, time) for _ in range(part.blocks))
        self.narrow = nn.Conv2d(part.width, part.inner, 2, stride=2)
        self.deep = nn.ModuleList(AttendingBlock(part.inner, time, part.heads, part.text) for _ in range(part.deep))
        self.widen = nn.Conv2d(part.inner, part.width * 4, 1)
        self.join = nn.Conv2d(part.width * 2, part.width, 1)
        self.up = nn.ModuleList(ResidualBlock(part.width, time) for _ in range(part.blocks))
        self.leave = nn.Sequential(
            nn.GroupNorm(GROUPS, part.width), nn.SiLU(), nn.Conv2d(part.width, part.channels, 3, padding=1)
        )
        last = cast(nn.Conv2d, self.leave[-1])
        nn.init.zeros_(last.weight)
        nn.init.zeros_(cast(Tensor, last.bias))

    @property
    def shift_equivariant(self) -> bool:
        """True: attention has no positions here."""
        return True

    def forward(self, x: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        """Predicts the model output, [R, C, h, w]."""
        stream = conditioning.streams[0]
        if conditioning.spatial is not None:
            x = torch.cat([x, conditioning.spatial.to(x)], dim=1)
        time = self.time(t, x.dtype)
        if self.vector is not None and conditioning.vector is not None:
            time = time + self.vector(conditioning.vector)
        for name, layer in self.scalars.items():
            time = time + layer(conditioning.scalars[name])
        time = nn.functional.silu(time)
        h = self.enter(x.contiguous(memory_format=torch.channels_last))
        for block in self.down:
            h = block(h, time)
        inner = self.narrow(h)
        mask = None if stream.mask is None else stream.mask[:, None, None, :]
        for block in self.deep:
            inner = block(inner, time, stream.tokens, mask)
        h = self.join(torch.cat([h, nn.functional.pixel_shuffle(self.widen(inner), 2)], dim=1))
        for block in self.up:
            h = block(h, time)
        return self.leave(h).contiguous()


class ResidualBlock(nn.Module):
    """x + conv(silu(norm(conv(silu(norm(x)))) scaled and shifted by the timestep)); the second convolution is
    zero-initialised.
    """

    def __init__(self, width: int, time: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(GROUPS, width)
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.shade = nn.Linear(time, 2 * width)
        self.norm_2 = nn.GroupNorm(GROUPS, width)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        nn.init.zeros_(self.second.weight)
        nn.init.zeros_(cast(Tensor, self.second.bias))

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """[R, D, h, w] and [R, T] -> [R, D, h, w]."""
        h = self.first(nn.functional.silu(self.norm(x)))
        scale, shift = self.shade(time)[:, :, None, None].chunk(2, dim=1)
        h = nn.functional.silu(self.norm_2(h) * (1 + scale) + shift)
        return x + self.second(h)


class AttendingBlock(nn.Module):
    """A residual block with self-attention and cross-attention to the text; their output projections are
    zero-initialised.
    """

    def __init__(self, width: int, time: int, heads: int, text: int) -> None:
        super().__init__()
        self.heads = heads
        self.residual = ResidualBlock(width, time)
        self.norm = nn.LayerNorm(width)
        self.own = nn.Linear(width, 3 * width)
        self.own_out = nn.Linear(width, width)
        self.norm_2 = nn.LayerNorm(width)
        self.query = nn.Linear(width, width)
        self.words = nn.Linear(text, 2 * width)
        self.words_out = nn.Linear(width, width)
        for layer in (self.own_out, self.words_out):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor, time: Tensor, words: Tensor, mask: Tensor | None) -> Tensor:
        """[R, D, h, w], [R, T], text [R, L, text] and mask [R, 1, 1, L] -> [R, D, h, w]."""
        x = self.residual(x, time)
        rows, columns = x.shape[-2:]
        h = x.flatten(2).transpose(1, 2)
        query, key, value = (self._split_heads(part) for part in self.own(self.norm(h)).chunk(3, dim=-1))
        h = h + self.own_out(attended(query, key, value).transpose(1, 2).flatten(2))
        key, value = (self._split_heads(part) for part in self.words(words).chunk(2, dim=-1))
        query = self._split_heads(self.query(self.norm_2(h)))
        h = h + self.words_out(attended(query, key, value, mask).transpose(1, 2).flatten(2))
        return h.transpose(1, 2).unflatten(2, (rows, columns))

    def _split_heads(self, x: Tensor) -> Tensor:
        """[R, N, D] -> [R, heads, N, D / heads]."""
        return x.unflatten(2, (self.heads, -1)).transpose(1, 2)
