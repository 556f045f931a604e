"""XGLM (arXiv:2112.10668) with a head: the Chinese text encoder of damo's cascade, under its published names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from bimo.core.part import Part
from bimo.core.tensors import TextEncoding
from bimo.models.text_encoders import tokenization
from bimo.models.text_encoders.encoder import PublishedTextEncoder
from bimo.models.text_encoders.tokenization import MODEL_FILE, TOKENIZER_FILE
from bimo.prompts.token_budget import Budget

PAD = 1


@dataclass(frozen=True, kw_only=True)
class XglmText(Part):
    """A causal language model that ends every text with a learned token, whose state through a linear layer is the
    whole output: the pooled one, ``project`` wide, and the only token.

    It has no positional embedding: the published code omits it. ``length`` counts the tokens before the learned one,
    including the start token.
    """

    width: int = 1024
    layers: int = 24
    heads: int = 16
    feed: int = 4096
    vocab: int = 256008
    length: int = 77
    project: int = 768
    dropout: float = 0.1

    def build(self) -> XglmTextEncoder:
        """The module, without tokenizer until ``load_tokenizer``."""
        return XglmTextEncoder(self)

    def tiny(self) -> Self:
        """Width 16, two layers; the vocabulary and length stay, as the words belong to the data."""
        return replace(self, width=16, layers=2, heads=2, feed=32, project=16)


class Attention(nn.Module):
    """Causal attention with masked padding."""

    def __init__(self, part: XglmText) -> None:
        super().__init__()
        self.heads = part.heads
        self.q = nn.Linear(part.width, part.width)
        self.k = nn.Linear(part.width, part.width)
        self.v = nn.Linear(part.width, part.width)
        self.o = nn.Linear(part.width, part.width)
        self.dropout = nn.Dropout(part.dropout)

    def forward(self, x: Tensor, attended: Tensor) -> Tensor:
        """[B, L, D] and attention mask [B, 1, L, L] bool -> [B, L, D]."""
        q, k, v = (layer(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for layer in (self.q, self.k, self.v))
        dropped = self.dropout.p if self.training else 0.0
        h = functional.scaled_dot_product_attention(q, k, v, attn_mask=attended, dropout_p=dropped)
        return self.dropout(self.o(h.transpose(1, 2).flatten(2)))


class Block(nn.Module):
    """Attention and a feed-forward, each behind its norm."""

    def __init__(self, part: XglmText) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(part.width)
        self.attn = Attention(part)
        self.norm2 = nn.LayerNorm(part.width)
        self.ffn = nn.Sequential(
            nn.Linear(part.width, part.feed),
            nn.GELU(),
            nn.Linear(part.feed, part.width),
            nn.Dropout(part.dropout),
        )

    def forward(self, x: Tensor, attended: Tensor) -> Tensor:
        """[B, L, D] -> [B, L, D]."""
        x = x + self.attn(self.norm1(x), attended)
        return x + self.ffn(self.norm2(x))


class Xglm(nn.Module):
    """The language model and its head."""

    def __init__(self, part: XglmText) -> None:
        super().__init__()
        self.scale = part.width**0.5
        self.token_embedding = nn.Embedding(part.vocab, part.width, PAD)
        self.eos_embedding = nn.Parameter(torch.randn(1, 1, part.width))
        self.dropout = nn.Dropout(part.dropout)
        self.blocks = nn.ModuleList(Block(part) for _ in range(part.layers))
        self.norm = nn.LayerNorm(part.width)
        self.head = nn.Linear(part.width, part.project, bias=False)
        for module in self.modules():
            if isinstance(module, (nn.Linear, nn.Embedding)) and module.weight.device.type != "meta":
                nn.init.normal_(module.weight, std=0.02)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Token ids [B, L] and mask [B, L] bool -> [B, project]."""
        x = torch.cat([self.scale * self.token_embedding(ids), self.eos_embedding.expand(len(ids), -1, -1)], dim=1)
        x = self.dropout(x)
        before = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool, device=x.device).tril()
        # The learned token attends to the text, not to itself.
        attention_mask = before & functional.pad(mask, (0, 1), value=False)[:, None, None]
        for block in self.blocks:
            x = block(x, attention_mask)
        return self.head(self.norm(x[:, -1]))


class XglmTextEncoder(PublishedTextEncoder):
    """Texts -> pooled [B, project], which is the only token [B, 1, project] too. Published names below ``model.``."""

    pad = PAD
    tokenizer_class = "XGLMTokenizer"
    tokenizer_files = (TOKENIZER_FILE, MODEL_FILE)

    def __init__(self, part: XglmText) -> None:
        super().__init__()
        self.part = part
        self.model = Xglm(part)

    def forward(self, ids: Tensor, mask: Tensor) -> TextEncoding:
        """Token ids [B, L] and mask [B, L] bool -> Encoding."""
        pooled = self.model(ids, mask)
        return TextEncoding(pooled[:, None], None, pooled)

    def ids(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Texts -> token ids [B, length] and mask [B, length] bool; longer texts are truncated."""
        # There is only a start token, no end token to be kept.
        rows = [self.tokens(text).ids[: self.part.length] for text in texts]
        return tokenization.padded(rows, self.part.length, self.pad)

    def budget(self, text: str) -> Budget:
        """Tokens used of the length and the text lost past it: from the first character not read in whole."""
        encoded = self.tokens(text)
        used, limit = len(encoded.ids), self.part.length
        lost = text[encoded.offsets[limit][0] :] if used > limit else ""
        return Budget(used, limit, lost, unread=tokenization.unread(self.tokenizer, text))

    def read_tokenizer(self, folder: Path) -> tuple[Any, str]:
        """tokenizer.json or sentencepiece.bpe.model."""
        return _pieces(folder)


def _pieces(folder: Path) -> tuple[Any, str]:
    """XGLM's tokenizer from a tokenizer.json or a sentencepiece.bpe.model; <pad>.

    Four special tokens come first, then the file's pieces without its own three, then seven unused tokens.
    """
    from tokenizers import Tokenizer
    from transformers import XGLMTokenizer

    if (folder / TOKENIZER_FILE).is_file():
        return Tokenizer.from_file(str(folder / TOKENIZER_FILE)), "<pad>"
    pieces, charsmap = tokenization.read_model((folder / MODEL_FILE).read_bytes())
    marks = [(mark, 0.0) for mark in ("<s>", "<pad>", "</s>", "<unk>")]
    settings: dict[str, Any] = {"_spm_precompiled_charsmap": charsmap or None}
    read: Any = XGLMTokenizer(vocab=[*marks, *pieces[3:]], **settings)
    return Tokenizer.from_str(read.backend_tokenizer.to_str()), "<pad>"
