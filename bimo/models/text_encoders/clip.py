"""CLIP's text encoder (arXiv:2103.00020): Stable Diffusion's, and Chinese ones of the same shape."""

# torch leaves parts of its interface untyped; what crosses it here is named where it is used.
# pyright: reportUnknownArgumentType=false, reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Self, cast

import torch
from torch import Tensor, nn

from bimo.core.errors import RecipeError
from bimo.core.part import Part
from bimo.core.tensors import TextEncoding
from bimo.models.text_encoders import tokenization
from bimo.models.text_encoders.encoder import PublishedTextEncoder
from bimo.models.text_encoders.tokenization import TOKENIZER_FILE, VOCAB_FILE
from bimo.prompts.token_budget import Budget

PAIRS_FILES = "vocab.json + merges.txt"


@dataclass(frozen=True, kw_only=True)
class ClipText(Part):
    """A causal CLIP text encoder, padded to ``length`` without a mask; the defaults are ViT-L/14's of Stable Diffusion
    1.

    ``words`` "pairs" is CLIP's BPE; "pieces" are WordPieces of a BERT vocabulary, padded with [PAD] and ended with
    [SEP], or begun and ended with the ids ``marks``. ``penultimate`` takes the output of the last layer but one,
    through the final norm, or without it ("raw", as Stable Diffusion XL), in place of the last.

    ``project`` adds a pooled output: the last layer's state at the end token through a linear layer of that width; with
    ``pool`` "largest" the state at the largest id, which is the end token in CLIP's own vocabulary and not in an
    extended one, as in transformers before 4.31 and with eos_token_id 2. ``answer`` "end" outputs that alone,
    normalised, as the only token. With ``long`` "cut" a text is truncated to ``length`` tokens; with "pieces" a longer
    one is encoded in pieces of ``length`` that are concatenated, and the other texts are padded to as many tokens.
    """

    width: int = 768
    layers: int = 12
    heads: int = 12
    feed: int = 3072
    vocab: int = 49408
    positions: int = 77
    length: int = 77
    activation: Literal["quick_gelu", "gelu"] = "quick_gelu"
    eps: float = 1e-5
    penultimate: bool | Literal["raw"] = False
    words: Literal["pairs", "pieces"] = "pairs"
    marks: tuple[int, int] | None = None
    project: int = 0
    pool: Literal["end", "largest"] = "end"
    answer: Literal["tokens", "end"] = "tokens"
    long: Literal["cut", "pieces"] = "cut"

    def build(self) -> ClipTextEncoder:
        """The module, without tokenizer until ``load_tokenizer``. Raises RecipeError for inconsistent fields."""
        return ClipTextEncoder(self)

    def tiny(self) -> Self:
        """Width 16, two layers; vocabulary and length stay, as the tokenizer belongs to the data."""
        return replace(self, width=16, layers=2, heads=2, feed=32, project=min(self.project, 16))


class ClipTextEncoder(PublishedTextEncoder):
    """Texts -> tokens [B, length, width]. Published names are below ``model.``, without their ``text_model.``."""

    teachable = True

    def __init__(self, part: ClipText) -> None:
        super().__init__()
        from transformers import CLIPTextConfig, CLIPTextModel

        if part.length > part.positions:
            raise RecipeError(
                "length of ClipText is {length}, but it has {positions} positions",
                length=part.length,
                positions=part.positions,
            )
        if part.answer == "end" and (not part.project or part.long == "pieces"):
            raise RecipeError('ClipText with answer "end" needs project, and long "cut"')
        self.part = part
        self.model = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=part.vocab,
                hidden_size=part.width,
                intermediate_size=part.feed,
                num_hidden_layers=part.layers,
                num_attention_heads=part.heads,
                max_position_embeddings=part.positions,
                hidden_act=part.activation,
                layer_norm_eps=part.eps,
                # Only for the model's own pooling, which is not used: they are null in published configs.
                bos_token_id=part.vocab - 2,
                eos_token_id=part.vocab - 1,
            )
        )
        self.projection = nn.Linear(part.width, part.project, bias=False) if part.project else None
        # Tokens before those of the text; a single pooled token does not correspond to the text.
        self.begins = 1 if part.answer == "tokens" else None
        self.chunkable = part.answer == "tokens" and part.long == "cut"
        pairs = part.words == "pairs"
        self.tokenizer_class = "CLIPTokenizer" if pairs else "BertTokenizer"
        self.tokenizer_files = (TOKENIZER_FILE, PAIRS_FILES if pairs else VOCAB_FILE)
        # The number of layers that clip_skip can skip, starting with the one that is read.
        self.skippable = part.layers - bool(part.penultimate) if part.answer == "tokens" else 0

    def encode(self, texts: Sequence[str], skip: int = 0) -> TextEncoding:
        """Texts -> tokens; padding is attended to, as in training. ``skip`` further layers before the one that is read
        are skipped; the pooled output is of all layers.
        """
        rows = [self.tokens(text).ids for text in texts]
        length, longest = self.part.length, max(map(len, rows))
        if self.part.long == "cut" or longest <= length:
            return self.forward(*tokenization.padded(rows, length, self.pad), skip)
        ids, _ = tokenization.padded(rows, longest, self.pad)
        return TextEncoding(torch.cat([self._states(piece, skip)[0] for piece in ids.split(length, dim=1)], dim=1))

    def forward(self, ids: Tensor, mask: Tensor, skip: int = 0) -> TextEncoding:
        """Token ids [B, L] and mask [B, L] bool -> Encoding; the mask only marks the end of a text."""
        tokens, last = self._states(ids, skip)
        if self.projection is None:
            return TextEncoding(tokens)
        rows = torch.arange(len(ids), device=tokens.device)
        ends = mask.sum(1) - 1 if self.part.pool == "end" else ids.argmax(dim=1)
        pooled = cast(Tensor, self.projection(last[rows, ends]))
        if self.part.answer == "end":
            return TextEncoding(nn.functional.normalize(pooled, dim=1)[:, None])
        return TextEncoding(tokens, None, pooled)

    def budget(self, text: str) -> Budget:
        """Tokens used of the length and the text lost past it: from the first character not read in whole."""
        encoded = self.tokens(text)
        if self.part.long == "pieces":
            pieces = max(1, -(-len(encoded.ids) // self.part.length))
            budget = Budget(len(encoded.ids), pieces * self.part.length)
        else:
            budget = tokenization.budget(encoded, text, self.part.length)
        return replace(budget, unread=tokenization.unread(self.tokenizer, text))

    def read_tokenizer(self, folder: Path) -> tuple[Any, str]:
        """tokenizer.json, or the vocab.json, merges.txt (and added_tokens.json) of byte pairs, or the vocab.txt of word
        pieces.
        """
        return (tokenization.byte_pairs if self.part.words == "pairs" else tokenization.word_pieces)(folder)

    def load_tokenizer(self, folder: Path) -> None:
        """As every tokenizer; begun and ended with ``marks`` where the part has them."""
        super().load_tokenizer(folder)
        if self.part.words == "pieces" and self.part.marks is not None:
            self.tokenizer = tokenization.marked(self.tokenizer, self.part.marks)

    def _states(self, ids: Tensor, skip: int) -> tuple[Tensor, Tensor]:
        """Token ids [B, L] -> the output and the last layer through the final norm, [B, L, width] each."""
        left_out = skip + bool(self.part.penultimate)
        if not left_out:
            last = self.model(ids).last_hidden_state
            return last, last
        answer = self.model(ids, output_hidden_states=True)
        state = answer.hidden_states[-1 - left_out]
        raw = self.part.penultimate == "raw"
        return (state if raw else self.model.final_layer_norm(state)), answer.last_hidden_state
