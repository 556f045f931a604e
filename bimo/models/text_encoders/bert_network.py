"""BERT's encoder (arXiv:1810.04805) in plain torch, with the parameter names of transformers' BertModel.

Weights are compatible in both directions. Implemented here because importing transformers takes longer than drawing a
picture.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bimo.core.errors import RecipeError
from bimo.models.attention import attended

NORM_EPS = 1e-12
INITIAL_DEVIATION = 0.02


@dataclass(frozen=True)
class BertOutput:
    """``last_hidden_state`` [B, L, D]; ``pooler_output`` [B, D], None without a pooler."""

    last_hidden_state: Tensor
    pooler_output: Tensor | None


class BertModel(nn.Module):
    """Token ids -> contextual embeddings; post-norm layers, exact GELU, dropout in training only."""

    def __init__(
        self, *, width: int, layers: int, heads: int, feed: int, vocab: int, positions: int, types: int,
        dropout: float = 0.1, pooler: bool = True,
    ) -> None:  # fmt: skip
        super().__init__()
        if width % heads:
            raise RecipeError(
                "width of BERT is {width}; expected a multiple of heads ({heads})", width=width, heads=heads
            )
        self.embeddings = Embeddings(width, vocab, positions, types, dropout)
        self.encoder = Encoder(width, layers, heads, feed, dropout)
        self.pooler = Pooler(width) if pooler else None
        self.apply(_initialise)

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, token_type_ids: Tensor | None = None
    ) -> BertOutput:
        """Ids [B, L], a mask [B, L] (0: masked), types [B, L] (zeros by default) -> tokens [B, L, D] and the pooled
        first token.
        """
        hidden = self.embeddings(input_ids, token_type_ids)
        mask = None if attention_mask is None else attention_mask.bool()[:, None, None, :]
        for layer in self.encoder.layer:
            hidden = layer(hidden, mask)
        return BertOutput(hidden, None if self.pooler is None else self.pooler(hidden))


class Embeddings(nn.Module):
    """The normalised sum of word, position and type embeddings."""

    def __init__(self, width: int, vocab: int, positions: int, types: int, dropout: float) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(vocab, width, padding_idx=0)
        self.position_embeddings = nn.Embedding(positions, width)
        self.token_type_embeddings = nn.Embedding(types, width)
        self.LayerNorm = nn.LayerNorm(width, eps=NORM_EPS)
        self.dropout = nn.Dropout(dropout)

    def forward(self, ids: Tensor, types: Tensor | None) -> Tensor:
        """[B, L] -> [B, L, D]."""
        kinds = self.token_type_embeddings(torch.zeros_like(ids[:1, :1]) if types is None else types)
        places = self.position_embeddings(torch.arange(ids.shape[1], device=ids.device))
        # In this order, as floating point sums depend on it.
        total = self.word_embeddings(ids) + kinds + places
        return self.dropout(self.LayerNorm(total))


class Encoder(nn.Module):
    """The layers, below the published name."""

    def __init__(self, width: int, layers: int, heads: int, feed: int, dropout: float) -> None:
        super().__init__()
        self.layer = nn.ModuleList(Layer(width, heads, feed, dropout) for _ in range(layers))


class Layer(nn.Module):
    """Attention, then a feed-forward network, each with residual and post-norm."""

    def __init__(self, width: int, heads: int, feed: int, dropout: float) -> None:
        super().__init__()
        self.attention = Attention(width, heads, dropout)
        self.intermediate = Intermediate(width, feed)
        self.output = Added(feed, width, dropout)

    def forward(self, hidden: Tensor, mask: Tensor | None) -> Tensor:
        """[B, L, D] -> [B, L, D]; ``mask`` [B, 1, 1, L] bool."""
        hidden = self.attention(hidden, mask)
        return self.output(self.intermediate(hidden), hidden)


class Attention(nn.Module):
    """Self-attention with its output layer."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.self = Heads(width, heads, dropout)
        self.output = Added(width, width, dropout)

    def forward(self, hidden: Tensor, mask: Tensor | None) -> Tensor:
        """[B, L, D] -> [B, L, D]."""
        return self.output(self.self(hidden, mask), hidden)


class Heads(nn.Module):
    """Scaled dot-product attention of several heads."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, hidden: Tensor, mask: Tensor | None) -> Tensor:
        """[B, L, D] -> [B, L, D]."""
        query, key, value = (
            layer(hidden).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        share = self.dropout.p if self.training else 0.0
        attention_output = attended(query, key, value, mask, share)
        return attention_output.transpose(1, 2).flatten(2)


class Intermediate(nn.Module):
    """The wide half of the feed-forward network."""

    def __init__(self, width: int, feed: int) -> None:
        super().__init__()
        self.dense = nn.Linear(width, feed)

    def forward(self, hidden: Tensor) -> Tensor:
        """[B, L, D] -> [B, L, feed]."""
        return nn.functional.gelu(self.dense(hidden))


class Added(nn.Module):
    """A linear layer with residual and post-norm."""

    def __init__(self, inner: int, width: int, dropout: float) -> None:
        super().__init__()
        self.dense = nn.Linear(inner, width)
        self.LayerNorm = nn.LayerNorm(width, eps=NORM_EPS)
        self.dropout = nn.Dropout(dropout)

    def forward(self, hidden: Tensor, before: Tensor) -> Tensor:
        """[B, L, inner] and [B, L, D] -> [B, L, D]."""
        return self.LayerNorm(self.dropout(self.dense(hidden)) + before)


class Pooler(nn.Module):
    """The first token through a linear layer and tanh."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.dense = nn.Linear(width, width)

    def forward(self, hidden: Tensor) -> Tensor:
        """[B, L, D] -> [B, D]."""
        return torch.tanh(self.dense(hidden[:, 0]))


@torch.no_grad()
def _initialise(module: nn.Module) -> None:
    """Initialisation: normal with a standard deviation of 0.02; biases and the padding embedding are zero."""
    if isinstance(module, (nn.Linear, nn.Embedding)):
        nn.init.normal_(module.weight, std=INITIAL_DEVIATION)
    if isinstance(module, nn.Linear):
        nn.init.zeros_(module.bias)
    if isinstance(module, nn.Embedding) and module.padding_idx is not None:
        nn.init.zeros_(module.weight[module.padding_idx])
