"""ChatGLM3 as a text encoder (arXiv:2406.12793), as in Kolors: left-padded, with two of its hidden states."""

# torch leaves parts of its interface untyped; what crosses it here is named where it is used.
# pyright: reportUnknownArgumentType=false, reportUnknownMemberType=false

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from bimo.core.errors import RecipeError, WeightsError
from bimo.core.files import write_whole
from bimo.core.part import Part
from bimo.core.tensors import TextEncoding
from bimo.models.text_encoders import tokenization
from bimo.models.text_encoders.encoder import PublishedTextEncoder
from bimo.models.text_encoders.sentencepiece import tokenizer_of
from bimo.prompts.token_budget import Budget

MODEL_FILE = "tokenizer.model"
#: Special tokens after those of the model file, in this order; a text begins with two of them.
MARKS = ("[MASK]", "[gMASK]", "[sMASK]", "sop", "eop", "<|system|>", "<|user|>", "<|assistant|>", "<|observation|>")
BEGINNING = ("[gMASK]", "sop")
ROTARY_BASE = 10000.0


@dataclass(frozen=True, kw_only=True)
class ChatGlm(Part):
    """A ChatGLM3; the defaults are those of ChatGLM3-6B-base. ``groups`` of keys and values are shared by the
    ``heads``, each ``head`` wide; ``length`` tokens are read, padded on the left.
    """

    width: int = 4096
    layers: int = 28
    heads: int = 32
    groups: int = 2
    head: int = 128
    feed: int = 13696
    vocab: int = 65024
    eps: float = 1e-5
    length: int = 256

    def build(self) -> ChatGlmTextEncoder:
        """The module, without tokenizer until ``load_tokenizer``. Raises RecipeError for inconsistent fields."""
        return ChatGlmTextEncoder(self)

    def tiny(self) -> Self:
        """Width 16, two layers, four heads; vocabulary and length stay, as the tokenizer belongs to the data."""
        return replace(self, width=16, layers=2, heads=4, groups=2, head=8, feed=32)


class ChatGlmTextEncoder(PublishedTextEncoder):
    """Texts -> tokens [B, length, width] of the last layer but one, pooled [B, width]: the last layer at the last
    token, both before the final norm. Published names are below ``model.``.
    """

    tokenizer_files = (MODEL_FILE,)

    def __init__(self, part: ChatGlm) -> None:
        super().__init__()
        if part.heads % part.groups or part.head % 4 or part.layers < 2:
            raise RecipeError(
                "the fields of ChatGlm do not go together: heads {heads} must be a multiple of groups {groups}, "
                "head {head} one of 4, and layers {layers} at least 2",
                heads=part.heads,
                groups=part.groups,
                head=part.head,
                layers=part.layers,
            )
        self.part = part
        self.model = Model(part)
        self.file = b""
        self.first = 0

    def forward(self, ids: Tensor, mask: Tensor) -> TextEncoding:
        """Token ids [B, L] and mask [B, L] bool -> Encoding with tokens [B, L, width] and pooled [B, width]."""
        states = self.model(ids, mask)
        return TextEncoding(states[-2], None, states[-1][:, -1])

    def ids(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Texts -> token ids [B, length] and mask [B, length] bool; longer texts are truncated."""
        room = self.part.length - len(BEGINNING)
        ids = torch.full((len(texts), self.part.length), self.pad, dtype=torch.long)
        mask = torch.zeros(len(texts), self.part.length, dtype=torch.bool)
        prefix = [self.first + MARKS.index(mark) for mark in BEGINNING]
        for row, text in enumerate(texts):
            row_ids = [*prefix, *self.tokens(text).ids[:room]]
            ids[row, -len(row_ids) :] = torch.tensor(row_ids)
            mask[row, -len(row_ids) :] = True
        return ids, mask

    def budget(self, text: str) -> Budget:
        """Tokens used of the length and the text lost past it: from the first character not read in whole."""
        encoded = self.tokens(text)
        room = self.part.length - len(BEGINNING)
        lost = text[encoded.offsets[room][0] :] if len(encoded.ids) > room else ""
        used = len(encoded.ids) + len(BEGINNING)
        return Budget(used, self.part.length, lost, unread=tokenization.unread(self.tokenizer, text))

    def save_tokenizer(self, folder: Path) -> None:
        """Writes the model file as it was read."""
        tokenization.known(self.tokenizer)
        write_whole(folder / MODEL_FILE, self.file)

    def read_tokenizer(self, folder: Path) -> tuple[Any, str]:
        """tokenizer.model; the padding token is the unknown one."""
        return tokenizer_of(folder / MODEL_FILE), "<unk>"

    def load_tokenizer(self, folder: Path) -> None:
        """As every tokenizer. Raises WeightsError also if the vocabulary has no room for the special tokens."""
        super().load_tokenizer(folder)
        self.first, self.file = (
            self.tokenizer.get_vocab_size(with_added_tokens=False),
            (folder / MODEL_FILE).read_bytes(),
        )
        if self.first + len(MARKS) > self.part.vocab:
            raise WeightsError(
                "the tokenizer of {folder} has {first} words and {count} marks, the text encoder {vocab}; they do not "
                "belong together",
                folder=folder,
                first=self.first,
                count=len(MARKS),
                vocab=self.part.vocab,
            )

    def tokens(self, text: str) -> Any:
        """A text without the special tokens at its beginning."""
        return tokenization.known(self.tokenizer).encode(text, add_special_tokens=False)


class Model(nn.Module):
    """Token ids [B, L] -> all hidden states, before the layers and after each, [B, L, width]."""

    def __init__(self, part: ChatGlm) -> None:
        super().__init__()
        self.rotary = part.head // 2
        self.embedding = nn.ModuleDict({"word_embeddings": nn.Embedding(part.vocab, part.width)})
        self.encoder = nn.Module()
        self.encoder.layers = nn.ModuleList(Layer(part) for _ in range(part.layers))
        # Published, but only used for generation.
        self.encoder.final_layernorm = nn.RMSNorm(part.width, part.eps)
        self.output_layer = nn.Linear(part.width, part.vocab, bias=False)

    def forward(self, ids: Tensor, mask: Tensor) -> list[Tensor]:
        """Ids and mask (True: real) [B, L], padding on the left."""
        turns = rotation(mask, self.rotary)
        causal = torch.ones(ids.shape[1], ids.shape[1], dtype=torch.bool, device=ids.device).tril()
        # Padding attends to everything: its states matter, as the denoiser sees them.
        attention_mask = (causal[None] & mask[:, None]) | ~mask[:, :, None]
        states = [self.embedding["word_embeddings"](ids)]
        for layer in self.encoder.layers:  # type: ignore[union-attr]
            states.append(layer(states[-1], turns, attention_mask[:, None]))
        return states


class Layer(nn.Module):
    """One layer: attention and a gated feed-forward network, each with RMSNorm and residual."""

    def __init__(self, part: ChatGlm) -> None:
        super().__init__()
        self.input_layernorm = nn.RMSNorm(part.width, part.eps)
        self.self_attention = Attention(part)
        self.post_attention_layernorm = nn.RMSNorm(part.width, part.eps)
        self.mlp = Feed(part)

    def forward(self, x: Tensor, turns: Tensor, attended: Tensor) -> Tensor:
        """x [B, L, width], turns [B, L, rotary / 2] complex, attended [B, 1, L, L] -> [B, L, width]."""
        x = x + self.self_attention(self.input_layernorm(x), turns, attended)
        return x + self.mlp(self.post_attention_layernorm(x))


class Attention(nn.Module):
    """Grouped-query attention (arXiv:2305.13245), with rotary embedding on half of each head."""

    def __init__(self, part: ChatGlm) -> None:
        super().__init__()
        self.counts = (part.heads, part.groups, part.groups)
        self.head = part.head
        self.query_key_value = nn.Linear(part.width, sum(self.counts) * part.head)
        self.dense = nn.Linear(part.heads * part.head, part.width, bias=False)

    def forward(self, x: Tensor, turns: Tensor, attended: Tensor) -> Tensor:
        """As ``Layer``."""
        parts = self.query_key_value(x).split([count * self.head for count in self.counts], dim=-1)
        q, k, v = (p.unflatten(-1, (-1, self.head)).transpose(1, 2) for p in parts)
        q, k = rotated(q, turns), rotated(k, turns)
        shared = self.counts[0] // self.counts[1]
        k, v = k.repeat_interleave(shared, dim=1), v.repeat_interleave(shared, dim=1)
        output = functional.scaled_dot_product_attention(q, k, v, attn_mask=attended)
        return self.dense(output.transpose(1, 2).flatten(2))


class Feed(nn.Module):
    """SwiGLU (arXiv:2002.05202): silu(a) b of the halves of one wide layer, then a projection."""

    def __init__(self, part: ChatGlm) -> None:
        super().__init__()
        self.dense_h_to_4h = nn.Linear(part.width, 2 * part.feed, bias=False)
        self.dense_4h_to_h = nn.Linear(part.feed, part.width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[B, L, width] -> [B, L, width]."""
        gate, value = self.dense_h_to_4h(x).chunk(2, dim=-1)
        return self.dense_4h_to_h(functional.silu(gate) * value)


def rotation(mask: Tensor, width: int) -> Tensor:
    """Mask [B, L] -> the rotary embedding (arXiv:2104.09864) of every position, [B, L, width / 2] complex: real tokens
    are counted from 0, padding has position 0.
    """
    places = (mask.cumsum(1) - 1).clamp(min=0).float()
    speeds = 1.0 / ROTARY_BASE ** (torch.arange(0, width, 2, device=mask.device).float() / width)
    angles = places[..., None] * speeds
    return torch.polar(torch.ones_like(angles), angles)


def rotated(x: Tensor, turns: Tensor) -> Tensor:
    """x [B, heads, L, D] with its first half rotated, neighbouring numbers as one complex number."""
    width = 2 * turns.shape[-1]
    pairs = torch.view_as_complex(x[..., :width].float().unflatten(-1, (-1, 2)).contiguous())
    turned = torch.view_as_real(pairs * turns[:, None]).flatten(-2).to(x.dtype)
    return torch.cat([turned, x[..., width:]], dim=-1)
