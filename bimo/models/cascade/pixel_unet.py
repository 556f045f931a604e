"""The pixel UNet of cascades (GLIDE, arXiv:2112.10741; unCLIP, arXiv:2204.06125), with the names of damo's cascades.

Text enters twice: pooled it is added to the timestep embedding, and as tokens its keys and values are concatenated to
those of the picture in self-attention. An image or text embedding may take the place of text.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Self, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from bimo.core.errors import RecipeError
from bimo.core.part import Part
from bimo.core.tensors import Conditioning
from bimo.diffusion.denoiser import Denoiser


@dataclass(frozen=True, kw_only=True)
class PixelUnet(Part):
    """A UNet over pixels; the defaults are those of damo's 64-pixel generator, without text.

    ``channels`` are those of x, ``spatial`` those of conditions concatenated to it (3: a picture of lower resolution),
    ``answer`` those of the output: twice those of x with a learned variance. ``attend`` are the downsampling factors
    (2: half the side) with self-attention, ``middle`` whether the lowest one has it; heads are ``head`` wide.

    ``text`` is the width of text tokens: pooled they are added to the timestep, as tokens they enter attention through
    ``context`` channels. ``embed`` is the width of a single embedding in their place, that of the condition ``reads``
    or the pooled text for "": it is added to the timestep and, as ``tokens`` tokens, enters attention. ``noise`` names
    the condition with the noise level of the concatenated picture. ``film`` lets the timestep scale features as well as
    shift them; ``encoder_film`` says so for down blocks that keep the side. ``convolve`` resamples by learned
    convolutions.
    """

    channels: int = 3
    spatial: int = 0
    answer: int = 6
    width: int = 512
    multiples: tuple[int, ...] = (1, 2, 3, 4)
    blocks: int = 3
    attend: tuple[int, ...] = (2, 4, 8)
    middle: bool = True
    head: int = 64
    groups: int = 32
    text: int = 0
    context: int = 512
    embed: int = 0
    reads: str = ""
    tokens: int = 4
    noise: str = ""
    film: bool = True
    encoder_film: bool = True
    convolve: bool = False
    dropout: float = 0.0

    def build(self) -> PixelDenoiser:
        """The module. Raises RecipeError for widths that are not divisible by groups or heads."""
        lowest = len(self.multiples) - 1
        for level, multiple in enumerate(self.multiples):
            width = self.width * multiple
            attends = 2**level in self.attend or (self.middle and level == lowest)
            if width % self.groups or (attends and width % self.head):
                raise RecipeError(
                    "a width of {width} in PixelUnet is no multiple of its groups ({groups}) and heads ({head})",
                    width=width,
                    groups=self.groups,
                    head=self.head,
                )
        return PixelDenoiser(self)

    def tiny(self) -> Self:
        """Width 8, one block for each level, heads of 4; as many levels, the text widths of tiny text encoders."""
        small = {"width": 8, "blocks": 1, "head": 4, "groups": 4, "context": 16}
        return replace(self, **small, text=min(self.text, 16), embed=min(self.embed, 16))


class Resample(nn.Module):
    """Resampling by 2.0, 0.5 or 1.0, with a convolution if wanted."""

    def __init__(self, width: int, scale: float, convolve: bool = False) -> None:
        super().__init__()
        made: nn.Module = nn.Identity()
        if scale == 2.0:
            after = nn.Conv2d(width, width, 3, padding=1) if convolve else nn.Identity()
            made = nn.Sequential(nn.Upsample(scale_factor=2.0, mode="nearest"), after)
        elif scale == 0.5:
            made = nn.Conv2d(width, width, 3, stride=2, padding=1) if convolve else nn.AvgPool2d(2)
        self.resample = made

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, h, w] -> [B, C, h * scale, w * scale]."""
        return self.resample(x)


class ResidualBlock(nn.Module):
    """Two convolutions with the timestep embedding in between as a shift, or as scale and shift (``film``), plus a
    shortcut.
    """

    def __init__(self, before: int, time: int, after: int, groups: int, film: bool, scale: float, drop: float) -> None:
        super().__init__()
        self.film = film
        self.layer1 = nn.Sequential(nn.GroupNorm(groups, before), nn.SiLU(), nn.Conv2d(before, after, 3, padding=1))
        self.resample = Resample(before, scale)
        self.embedding = nn.Sequential(nn.SiLU(), nn.Linear(time, after * 2 if film else after))
        self.layer2 = nn.Sequential(
            nn.GroupNorm(groups, after), nn.SiLU(), nn.Dropout(drop), nn.Conv2d(after, after, 3, padding=1)
        )
        self.shortcut = nn.Identity() if before == after else nn.Conv2d(before, after, 1)
        nn.init.zeros_(cast(nn.Conv2d, self.layer2[-1]).weight)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """[B, C, h, w] and the embedded time [B, E] -> [B, C', h', w']."""
        h = self.layer1[2](self.resample(self.layer1[1](self.layer1[0](x))))
        embedded = self.embedding(time)[:, :, None, None]
        if self.film:
            scale, shift = embedded.chunk(2, dim=1)
            h = self.layer2[0](h) * (1 + scale) + shift
        else:
            h = self.layer2[0](h + embedded)
        return self.layer2[3](self.layer2[2](self.layer2[1](h))) + self.shortcut(self.resample(x))


class AttentionBlock(nn.Module):
    """Self-attention over positions whose keys and values are concatenated with those of the context's tokens."""

    def __init__(self, width: int, context: int, head: int, groups: int) -> None:
        super().__init__()
        self.heads = width // head
        self.norm = nn.GroupNorm(groups, width)
        self.to_qkv = nn.Conv2d(width, width * 3, 1)
        if context:
            self.context_kv = nn.Linear(context, width * 2)
        self.proj = nn.Conv2d(width, width, 1)
        nn.init.zeros_(self.proj.weight)

    def forward(self, x: Tensor, context: Tensor | None, mask: Tensor | None) -> Tensor:
        """[B, C, h, w], context [B, L, D], mask [B, L] bool (True: real) -> [B, C, h, w]."""
        rows, width, high, wide = x.shape
        parts = self.to_qkv(self.norm(x)).reshape(rows, 3, self.heads, width // self.heads, high * wide)
        q, k, v = parts.transpose(-1, -2).unbind(1)
        attention_mask = None
        if context is not None:
            text_kv = self.context_kv(context).reshape(rows, -1, 2, self.heads, width // self.heads)
            more_k, more_v = text_kv.permute(2, 0, 3, 1, 4)
            k, v = torch.cat([k, more_k], dim=2), torch.cat([v, more_v], dim=2)
            if mask is not None:
                # The picture attends to all of itself; only text may be padding.
                attention_mask = functional.pad(mask, (high * wide, 0), value=True)[:, None, None]
        h = functional.scaled_dot_product_attention(q, k, v, attn_mask=attention_mask)
        return x + self.proj(h.transpose(-1, -2).reshape(rows, width, high, wide))


def sinusoidal(t: Tensor, width: int) -> Tensor:
    """Timesteps [B] -> [B, width]: cosines, then sines, of t / 10000^(i / half) (arXiv:1706.03762, section 3.5)."""
    half = width // 2
    powers = torch.exp(-math.log(10000) * torch.arange(half, device=t.device, dtype=torch.float32) / half)
    angles = t.float()[:, None] * powers
    return functional.pad(torch.cat([angles.cos(), angles.sin()], dim=1), (0, width % 2))


def _mlp(before: int, inner: int, after: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(before, inner), nn.SiLU(), nn.Linear(inner, after))


class PixelDenoiser(Denoiser):
    """x [R, C, h, w], t [R] and conditioning -> [R, answer, h, w]. The published names are its own."""

    def __init__(self, part: PixelUnet) -> None:
        super().__init__()
        self.part = part
        width, time = part.width, part.width * 4
        self.time_embedding = _mlp(width, time, time)
        if part.noise:
            self.noise_time_embedding = _mlp(width, time, time)
        if part.text:
            self.pool_embedding = nn.Sequential(nn.LayerNorm(part.text), nn.Linear(part.text, time))
            words = nn.Linear(part.text, part.context), nn.SiLU(), nn.Linear(part.context, part.context)
            self.text_embedding = nn.Sequential(nn.LayerNorm(part.text), *words)
        if part.embed:
            self.y_embedding = _mlp(part.embed, time, time)
            if part.tokens:
                self.context_embedding = _mlp(part.embed, time, part.context * part.tokens)
        self.context = part.context if part.text or (part.embed and part.tokens) else 0
        self._build(time)

    def _build(self, time: int) -> None:
        """Builds the convolutions. A block is a list of modules that run in sequence; a downsampling stands alone."""
        part = self.part
        lowest = len(part.multiples) - 1
        widths = [part.width * multiple for multiple in part.multiples]

        def residual(before: int, after: int, film: bool, scale: float = 1.0, drop: float = part.dropout) -> nn.Module:
            return ResidualBlock(before, time, after, part.groups, film, scale, drop)

        def attention(width: int) -> nn.Module:
            return AttentionBlock(width, self.context, part.head, part.groups)

        def resample(width: int, scale: float) -> nn.Module:
            return Resample(width, scale, True) if part.convolve else residual(width, width, part.film, scale)

        before, kept = part.width, [part.width]
        self.encoder = nn.ModuleList([nn.Conv2d(part.channels + part.spatial, part.width, 3, padding=1)])
        for level, width in enumerate(widths):
            for _ in range(part.blocks):
                block = nn.ModuleList([residual(before, width, part.film and part.encoder_film)])
                if 2**level in part.attend:
                    block.append(attention(width))
                self.encoder.append(block)
                kept.append(width)
                before = width
            if level < lowest:
                self.encoder.append(resample(width, 0.5))
                kept.append(width)
        between = [attention(before)] if part.middle else []
        self.middle = nn.ModuleList(
            [residual(before, before, part.film), *between, residual(before, before, part.film)]
        )
        self.decoder = nn.ModuleList()
        for level, width in reversed(list(enumerate(widths))):
            for index in range(part.blocks + 1):
                block = nn.ModuleList([residual(before + kept.pop(), width, part.film)])
                if 2**level in part.attend:
                    block.append(attention(width))
                if level and index == part.blocks:
                    block.append(resample(width, 2.0))
                self.decoder.append(block)
                before = width
        end = nn.Conv2d(before, part.answer, 3, padding=1)
        nn.init.zeros_(end.weight)
        self.head = nn.Sequential(nn.GroupNorm(part.groups, before), nn.SiLU(), end)

    @property
    def shift_equivariant(self) -> bool:
        """True: attention has no positions here."""
        return True

    def forward(self, x: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        """The denoiser's output. Raises RecipeError for conditions or text encoders it was not built for."""
        part = self.part
        if conditioning.spatial is not None:
            x = torch.cat([x, conditioning.spatial.to(x)], dim=1)
        if x.shape[1] != part.channels + part.spatial:
            raise RecipeError(
                "PixelUnet is given {shape} channels; expected {channels} and {spatial} of conditions",
                shape=x.shape[1],
                channels=part.channels,
                spatial=part.spatial,
            )
        time, context, mask = self._read(t.expand(len(x)), conditioning)
        skips: list[Tensor] = []
        for block in self.encoder:
            x = self._run(block, x, time, context, mask)
            skips.append(x)
        for block in self.middle:
            x = self._run(block, x, time, context, mask)
        for block in self.decoder:
            x = self._run(block, torch.cat([x, skips.pop()], dim=1), time, context, mask)
        return self.head(x)

    def _read(self, t: Tensor, conditioning: Conditioning) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """The timestep embedding [R, E], the context [R, L, D] and its mask [R, L]."""
        part = self.part
        kind = cast(nn.Linear, self.time_embedding[0]).weight.dtype  # timesteps are float32
        time = self.time_embedding(sinusoidal(t, part.width).to(kind))
        context, mask = None, None
        if part.noise:
            level = conditioning.scalars[part.noise][:, 0]
            time = time + self.noise_time_embedding(sinusoidal(level, part.width).to(kind))
        if part.text:
            if conditioning.vector is None or len(conditioning.streams) != 1:
                raise RecipeError("PixelUnet reads one text encoder, with a pooled output")
            time = time + self.pool_embedding(conditioning.vector)
            context = self.text_embedding(conditioning.streams[0].tokens)
            mask = conditioning.streams[0].mask
        if part.embed:
            y = conditioning.scalars[part.reads] if part.reads else conditioning.vector
            if y is None or y.shape[-1] != part.embed:
                width = "nothing" if y is None else str(y.shape[-1])
                raise RecipeError(
                    "PixelUnet reads an embedding of {embed}; it is given {found}", embed=part.embed, found=width
                )
            time = time + self.y_embedding(y)
            if part.tokens:
                context = self.context_embedding(y).reshape(len(y), part.tokens, part.context)
        return time, context, mask

    def _run(self, block: nn.Module, x: Tensor, time: Tensor, context: Tensor | None, mask: Tensor | None) -> Tensor:
        if isinstance(block, nn.ModuleList):
            for inner in block:
                x = self._run(inner, x, time, context, mask)
            return x
        if isinstance(block, ResidualBlock):
            return block(x, time)
        if isinstance(block, AttentionBlock):
            return block(x, context, mask)
        return block(x)
