"""CLIP's text encoder as a text tower (arXiv:2103.00020): Stable Diffusion's and Taiyi's bilingual one."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn

from bimo.core.errors import WeightsError
from bimo.core.part import Part
from bimo.core.types import Encoding, write_whole
from bimo.words.budget import Budget

TOKENIZER_FILE = "tokenizer.json"
SETTINGS_FILE = "tokenizer_config.json"
PAIRS_FILES = ("vocab.json", "merges.txt")


@dataclass(frozen=True, kw_only=True)
class ClipText(Part):
    """A causal CLIP tower, padded to ``length`` without a mask; the defaults are ViT-L/14's of Stable Diffusion 1.

    ``penultimate`` takes the output of the last layer but one, through the final norm, in place of the last.
    """

    width: int = 768
    layers: int = 12
    heads: int = 12
    feed: int = 3072
    vocab: int = 49408
    positions: int = 77
    length: int = 77
    activation: Literal["quick_gelu", "gelu"] = "quick_gelu"
    penultimate: bool = False

    def build(self) -> ClipTower:
        """The module, without its words until ``load_words``."""
        return ClipTower(self)

    def tiny(self) -> Self:
        """Width 16, two layers; the vocabulary and length stay, as the words belong to the data."""
        return replace(self, width=16, layers=2, heads=2, feed=32)


class ClipTower(nn.Module):
    """Texts -> tokens [B, length, width]. Published names are below ``model.``, without their ``text_model.``."""

    def __init__(self, part: ClipText) -> None:
        super().__init__()
        from transformers import CLIPTextConfig, CLIPTextModel

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
                # They only choose what is pooled, which is not used.
                bos_token_id=part.vocab - 2,
                eos_token_id=part.vocab - 1,
            )
        )
        self.words: Any = None
        self.pad = ""

    def encode(self, texts: Sequence[str]) -> Encoding:
        """Texts -> tokens; padding is seen, as it was in training."""
        return self.forward(self.ids(texts))

    def forward(self, ids: Tensor) -> Encoding:
        """Token ids [B, L] -> Encoding with tokens [B, L, width]."""
        if not self.part.penultimate:
            return Encoding(self.model(ids).last_hidden_state)
        states = self.model(ids, output_hidden_states=True).hidden_states
        return Encoding(self.model.final_layer_norm(states[-2]))

    def ids(self, texts: Sequence[str]) -> Tensor:
        """Texts -> token ids [B, length]; what is past the length is left out, the end mark is kept."""
        encoded = [self._encoded(text).ids for text in texts]
        rows = torch.full((len(encoded), self.part.length), self.words.token_to_id(self.pad), dtype=torch.long)
        for row, tokens in enumerate(encoded):
            kept = tokens if len(tokens) <= self.part.length else [*tokens[: self.part.length - 1], tokens[-1]]
            rows[row, : len(kept)] = torch.tensor(kept)
        return rows

    def budget(self, text: str) -> Budget:
        """Tokens used of the length and the text lost past it: from the first character not read in whole."""
        encoded = self._encoded(text)
        lost = ""
        if len(encoded.ids) > self.part.length:
            # Of a character of several tokens each has the offsets of the whole character.
            lost = text[encoded.offsets[self.part.length - 1][0] :]
        return Budget(len(encoded.ids), self.part.length, lost)

    def save_words(self, folder: Path) -> None:
        """Writes tokenizer.json and what it is padded with."""
        folder.mkdir(parents=True, exist_ok=True)
        settings = {"tokenizer_class": "CLIPTokenizer", "model_max_length": self.part.length, "pad_token": self.pad}
        write_whole(folder / TOKENIZER_FILE, self._known().to_str().encode())
        write_whole(folder / SETTINGS_FILE, json.dumps(settings, indent=1, ensure_ascii=False).encode())

    def load_words(self, folder: Path) -> None:
        """Reads a CLIPTokenizer's files: tokenizer.json, or vocab.json with merges.txt (and added_tokens.json).

        Raises WeightsError where they are missing, damaged or have more words than the tower.
        """
        from tokenizers import Tokenizer
        from transformers import CLIPTokenizer

        if not (folder / TOKENIZER_FILE).is_file() and not all((folder / name).is_file() for name in PAIRS_FILES):
            pairs = " + ".join(PAIRS_FILES)
            raise WeightsError(
                f"{folder} 里没有分词器：应有 {TOKENIZER_FILE} 或 {pairs}",
                f"no tokenizer in {folder}: expected {TOKENIZER_FILE} or {pairs}",
            )
        try:
            read: Any = CLIPTokenizer.from_pretrained(str(folder), local_files_only=True)
            words = Tokenizer.from_str(read.backend_tokenizer.to_str())
        except Exception as error:  # tokenizers raises plain Exception
            raise WeightsError(
                f"读不了 {folder} 的分词器：{error}", f"cannot read the tokenizer of {folder}: {error}"
            ) from None
        words.no_padding()
        words.no_truncation()
        largest = max(words.get_vocab(with_added_tokens=True).values(), default=-1)
        if largest >= self.part.vocab:
            raise WeightsError(
                f"{folder} 的分词器编号到 {largest}，文本塔只有 {self.part.vocab} 个词；这两者不是一套",
                f"the tokenizer of {folder} counts up to {largest}, the tower has {self.part.vocab} words; "
                "they do not belong together",
            )
        self.words, self.pad = words, str(read.pad_token)

    def _known(self) -> Any:
        if self.words is None:
            raise WeightsError("文本塔还没有分词器", "the text tower has no tokenizer yet")
        return self.words

    def _encoded(self, text: str) -> Any:
        return self._known().encode(text)
