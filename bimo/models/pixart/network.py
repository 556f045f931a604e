"""PixArt's transformer (arXiv:2310.00426) in plain torch, with the parameter names of diffusers'
PixArtTransformer2DModel.

Weights are compatible in both directions. Implemented here because importing diffusers takes longer than drawing a
picture.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor, nn

from bimo.core.errors import RecipeError
from bimo.models.attention import attended

TIME_WIDTH = 256
MODULATIONS = 6
NORM_EPS = 1e-6
FEED = 4
#: Added to the attention score of padding.
HIDDEN = -10000.0


class PixArtModel(nn.Module):
    """x [R, C, h, w], text [R, L, text] and t [R] -> [R, channels_out, h, w]."""

    def __init__(
        self, *, channels: int, channels_out: int, size: int, patch: int, width: int, heads: int, layers: int, text: int
    ) -> None:
        super().__init__()
        if width % heads or width % 4:
            raise RecipeError(
                "width of PixArt is {width}; expected a multiple of 4 and of heads ({heads})", width=width, heads=heads
            )
        self.patch = patch
        self.channels_out = channels_out
        self.pos_embed = Patches(channels, size, patch, width)
        self.transformer_blocks = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.norm_out = nn.LayerNorm(width, eps=NORM_EPS, elementwise_affine=False)
        self.scale_shift_table = nn.Parameter(torch.randn(2, width) / width**0.5)
        self.proj_out = nn.Linear(width, patch * patch * channels_out)
        self.adaln_single = Times(width)
        self.caption_projection = Words(text, width)

    def forward(self, x: Tensor, words: Tensor, t: Tensor, mask: Tensor | None = None) -> Tensor:
        """The output; ``mask`` [R, L] bool is False for padding."""
        rows, columns = x.shape[-2] // self.patch, x.shape[-1] // self.patch
        hidden = self.pos_embed(x)
        modulation, time = self.adaln_single(t, hidden.dtype)
        words = self.caption_projection(words)
        bias = None if mask is None else ((1 - mask.to(x.dtype)) * HIDDEN)[:, None, None, :]
        for block in self.transformer_blocks:
            hidden = block(hidden, words, bias, modulation)
        shift, scale = (self.scale_shift_table + time[:, None]).chunk(2, dim=1)
        hidden = self.proj_out(self.norm_out(hidden) * (1 + scale) + shift)
        patches = hidden.reshape(-1, rows, columns, self.patch, self.patch, self.channels_out)
        return patches.permute(0, 5, 1, 3, 2, 4).reshape(-1, self.channels_out, rows * self.patch, columns * self.patch)


class Patches(nn.Module):
    """Patch embedding with positions."""

    pos_embed: Tensor

    def __init__(self, channels: int, size: int, patch: int, width: int) -> None:
        super().__init__()
        self.side = size // patch
        self.proj = nn.Conv2d(channels, width, patch, stride=patch)
        # A copy: buffers move with their model, and the cache must stay.
        with torch.inference_mode(False):
            where = places(width, self.side, self.side, self.side).clone()
        self.register_buffer("pos_embed", where, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """[R, C, h, w] -> [R, patches, D]."""
        maps = self.proj(x)
        rows, columns = maps.shape[-2:]
        where = self.pos_embed
        if (rows, columns) != (self.side, self.side):
            where = places(where.shape[-1], rows, columns, self.side).to(x.device)
        # Positions are float32 even where the weights are not.
        return (maps.flatten(2).transpose(1, 2) + where).to(maps.dtype)


@lru_cache(maxsize=8)
def places(width: int, rows: int, columns: int, side: int) -> Tensor:
    """Sine and cosine embeddings of a patch's column, then row, [1, rows x columns, width]; a grid of another size than
    ``side`` x ``side`` is scaled to the same range.
    """
    # The cache must hold ordinary tensors, even if the first call is in inference mode.
    with torch.inference_mode(False), torch.device("cpu"):
        along = (torch.arange(columns, dtype=torch.float32) / (columns / side)).repeat(rows)
        down = (torch.arange(rows, dtype=torch.float32) / (rows / side)).repeat_interleave(columns)
        omega = torch.arange(width // 4, dtype=torch.float64) / (width / 4)
        omega = 1.0 / 10000**omega
        angles = [torch.outer(where.double(), omega) for where in (along, down)]
        return torch.cat([f(a) for a in angles for f in (torch.sin, torch.cos)], dim=1).float()[None]


class Times(nn.Module):
    """The timestep as six modulations shared by all blocks, and as a vector for the output layer."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.emb = TimeVector(width)
        self.linear = nn.Linear(width, MODULATIONS * width)

    def forward(self, t: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """[R] -> [R, 6, D] and [R, D]."""
        time = self.emb(t, dtype)
        return self.linear(nn.functional.silu(time)).unflatten(-1, (MODULATIONS, -1)), time


class TimeVector(nn.Module):
    """The timestep embedding, with the published parameter name."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.timestep_embedder = TimeLayers(width)

    def forward(self, t: Tensor, dtype: torch.dtype) -> Tensor:
        """[R] -> [R, D]."""
        half = TIME_WIDTH // 2
        rates = torch.exp(-math.log(10000) * torch.arange(half, dtype=torch.float32, device=t.device) / half)
        angles = t[:, None].float() * rates
        return self.timestep_embedder(torch.cat([angles.cos(), angles.sin()], dim=-1).to(dtype))


class TimeLayers(nn.Module):
    """Two linear layers with SiLU between them."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(TIME_WIDTH, width)
        self.linear_2 = nn.Linear(width, width)

    def forward(self, waves: Tensor) -> Tensor:
        """[R, 256] -> [R, D]."""
        return self.linear_2(nn.functional.silu(self.linear_1(waves)))


class Words(nn.Module):
    """The text's tokens at the transformer's width."""

    def __init__(self, text: int, width: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(text, width)
        self.linear_2 = nn.Linear(width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """[R, L, text] -> [R, L, D]."""
        return self.linear_2(nn.functional.gelu(self.linear_1(tokens), approximate="tanh"))


class Block(nn.Module):
    """Self-attention among patches, cross-attention to the text, then a feed-forward network; the first and last are
    modulated by t.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=NORM_EPS, elementwise_affine=False)
        self.attn1 = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width, eps=NORM_EPS, elementwise_affine=False)
        self.attn2 = Attention(width, heads)
        self.ff = Feed(width)
        self.scale_shift_table = nn.Parameter(torch.randn(MODULATIONS, width) / width**0.5)

    def forward(self, hidden: Tensor, words: Tensor, bias: Tensor | None, modulation: Tensor) -> Tensor:
        """[R, patches, D] -> the same; words [R, L, D], bias [R, 1, 1, L], modulation [R, 6, D]."""
        parts = (self.scale_shift_table + modulation).chunk(MODULATIONS, dim=1)
        shift, scale, gate, shift_feed, scale_feed, gate_feed = parts
        modulated = self.norm1(hidden) * (1 + scale) + shift
        hidden = gate * self.attn1(modulated, modulated, None) + hidden
        hidden = self.attn2(hidden, words, bias) + hidden
        return gate_feed * self.ff(self.norm2(hidden) * (1 + scale_feed) + shift_feed) + hidden


class Attention(nn.Module):
    """Scaled dot-product attention of several heads, from one sequence to another."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(width, width)
        self.to_k = nn.Linear(width, width)
        self.to_v = nn.Linear(width, width)
        self.to_out = nn.ModuleList([nn.Linear(width, width)])

    def forward(self, asking: Tensor, asked: Tensor, bias: Tensor | None) -> Tensor:
        """[R, N, D] and [R, L, D] -> [R, N, D]; ``bias`` [R, 1, 1, L] is added to the scores."""
        query, key, value = (
            layer(rows).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for layer, rows in ((self.to_q, asking), (self.to_k, asked), (self.to_v, asked))
        )
        attention_output = attended(query, key, value, bias)
        return self.to_out[0](attention_output.transpose(1, 2).flatten(2))


class Feed(nn.Module):
    """Two linear layers; the second is the list's third entry, as it was published."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.net = nn.ModuleList([Wide(width), nn.Identity(), nn.Linear(FEED * width, width)])

    def forward(self, hidden: Tensor) -> Tensor:
        """[R, N, D] -> [R, N, D]."""
        return self.net[2](self.net[0](hidden))


class Wide(nn.Module):
    """The first of them, with GELU by tanh."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.proj = nn.Linear(width, FEED * width)

    def forward(self, hidden: Tensor) -> Tensor:
        """[R, N, D] -> [R, N, 4 D]."""
        return nn.functional.gelu(self.proj(hidden), approximate="tanh")
