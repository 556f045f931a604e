"""The prior of unCLIP (arXiv:2204.06125, section 2.2): from a text embedding to an image embedding, with damo's names.

A causal transformer over four tokens: the text embedding, the timestep, the noisy image embedding and a learned query,
at whose position the output is read.
"""

# torch leaves parts of its interface untyped.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from bimo.core.errors import RecipeError
from bimo.core.part import Part
from bimo.core.tensors import Conditioning, TextEncoding
from bimo.diffusion.denoiser import Denoiser
from bimo.models.cascade.pixel_unet import sinusoidal
from bimo.models.spaces import at_root_length

TOKENS = 4


@dataclass(frozen=True, kw_only=True)
class Prior(Part):
    """A causal transformer, ``width`` wide, over embeddings of ``embed``; the defaults are damo's."""

    embed: int = 768
    width: int = 2048
    layers: int = 24
    heads: int = 32

    def build(self) -> PriorDenoiser:
        """The module."""
        return PriorDenoiser(self)

    def tiny(self) -> Self:
        """Width 16, two layers; the embeddings of tiny text encoders."""
        return replace(self, embed=min(self.embed, 16), width=16, layers=2, heads=2)


class SelfAttention(nn.Module):
    """Causal attention of a few tokens, heads of the queries first, then of keys, then of values."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.to_qkv = nn.Linear(width, width * 3)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """[B, L, D] -> [B, L, D]."""
        rows, length, width = x.shape
        parts = self.to_qkv(x).reshape(rows, length, 3, self.heads, width // self.heads)
        q, k, v = parts.permute(2, 0, 3, 1, 4)
        h = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.proj(h.transpose(1, 2).reshape(rows, length, width))


class Block(nn.Module):
    """Attention and a feed-forward of four times the width, each behind its norm."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attn = SelfAttention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.ffn = nn.Sequential(nn.Linear(width, width * 4), nn.GELU(), nn.Linear(width * 4, width))

    def forward(self, x: Tensor) -> Tensor:
        """[B, L, D] -> [B, L, D]."""
        x = x + self.attn(self.norm1(x))
        return x + self.ffn(self.norm2(x))


class PriorDenoiser(Denoiser):
    """x [R, D], t [R] and the pooled text [R, D] -> [R, D]."""

    def __init__(self, part: Prior) -> None:
        super().__init__()
        self.part = part
        width = part.width
        self.text_embedding = nn.Sequential(nn.Linear(part.embed, width), nn.SiLU(), nn.Linear(width, width))
        self.time_embedding = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        self.vision_embedding = nn.Sequential(nn.Linear(part.embed, width), nn.SiLU(), nn.Linear(width, width))
        self.eos_embedding = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embedding = nn.Parameter(torch.zeros(1, TOKENS, width))
        self.blocks = nn.ModuleList(Block(width, part.heads) for _ in range(part.layers))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, part.embed)
        self._start()

    def _start(self) -> None:
        """Initialises weights with a standard deviation of 0.02; output projections are divided by the root of twice
        the layers.
        """
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear) and module.weight.device.type != "meta":
                ends = name.endswith(("attn.proj", "ffn.2"))
                nn.init.normal_(module.weight, std=0.02 / math.sqrt(2 * self.part.layers) if ends else 0.02)
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        """The denoiser's output. Raises RecipeError without a pooled text output."""
        words = conditioning.vector
        if words is None or words.shape[-1] != self.part.embed:
            width = "nothing" if words is None else str(words.shape[-1])
            raise RecipeError(
                "Prior reads a pooled text of {embed}; it is given {found}", embed=self.part.embed, found=width
            )
        tokens = [
            self.text_embedding(words)[:, None],
            self.time_embedding(sinusoidal(t.expand(len(x)), self.part.width).to(x.dtype))[:, None],
            self.vision_embedding(x)[:, None],
            self.eos_embedding.expand(len(x), -1, -1),
        ]
        h = torch.cat(tokens, dim=1) + self.pos_embedding
        for block in self.blocks:
            h = block(h)
        return self.head(self.norm(h)[:, -1])


@dataclass(frozen=True, kw_only=True)
class RootLength(Part):
    """A text fusion for cascades over embeddings: the pooled output of the last text encoder that has one, scaled to
    norm sqrt(D) like image embeddings; every encoding is a stream.
    """

    def build(self) -> RootLengthFusion:
        """The module; it has no weights."""
        return RootLengthFusion()


class RootLengthFusion(nn.Module):
    """Encodings -> the same as streams, and the vector [B, D] of norm sqrt(D)."""

    def fuse(self, encodings: tuple[TextEncoding, ...]) -> Conditioning:
        """Raises RecipeError if no text encoder has a pooled output."""
        pooled = [e.pooled for e in encodings if e.pooled is not None]
        if not pooled:
            raise RecipeError("no text encoder gives a pooled output")
        return Conditioning(encodings, at_root_length(pooled[-1]))
