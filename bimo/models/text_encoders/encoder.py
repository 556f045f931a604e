"""The base class of text encoders with a published vocabulary: from texts to token ids and encodings."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from bimo.core.tensors import TextEncoding
from bimo.diffusion.text_encoder import TextEncoder
from bimo.models.text_encoders import tokenization
from bimo.prompts.token_budget import Budget


class PublishedTextEncoder(TextEncoder):
    """A text encoder whose vocabulary is published with its weights. Its ``part`` has ``vocab`` and ``length``."""

    part: Any
    #: The class of transformers with which its tokenizer is saved.
    tokenizer_class: str = ""
    #: The alternative sets of files ("vocab.json + merges.txt") of a tokenizer's folder.
    tokenizer_files: tuple[str, ...] = (tokenization.TOKENIZER_FILE,)

    def encode(self, texts: Sequence[str], skip: int = 0) -> TextEncoding:
        """Texts -> their encodings, by ``forward``."""
        return self.forward(*self.ids(texts))

    @abstractmethod
    def forward(self, ids: Tensor, mask: Tensor) -> TextEncoding:
        """Token ids [B, L] and mask [B, L] bool -> their encodings."""

    def ids(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Texts -> token ids [B, length] and mask [B, length] bool; truncated texts keep their end token."""
        return tokenization.padded([self.tokens(text).ids for text in texts], self.part.length, self.pad)

    def tokens(self, text: str) -> Any:
        """The tokenized text: ids, tokens, offsets."""
        return tokenization.read(self.tokenizer, self.spelt(text))

    def pieces(self, text: str) -> list[tuple[int, str, int]]:
        """The tokens of a text without special tokens, after ``spelt``."""
        spelt = self.spelt(text)
        encoding = self.tokenizer.encode(spelt, add_special_tokens=False)
        return [
            (number, spelt[start:end] or token, start)
            for number, token, (start, end) in zip(encoding.ids, encoding.tokens, encoding.offsets, strict=True)
        ]

    def spelt(self, text: str) -> str:
        """The text as it is passed to the tokenizer."""
        return text

    def budget(self, text: str) -> Budget:
        """Tokens used of the length and the text lost past it."""
        budget = tokenization.budget(self.tokens(text), text, self.part.length)
        return replace(budget, unread=tokenization.unread(self.tokenizer, text))

    def build_tokenizer(self, captions: Iterable[str], known: Iterable[str]) -> None:
        """Raises WeightsError: the vocabulary is published with the weights."""
        raise tokenization.published_words()

    def save_tokenizer(self, folder: Path) -> None:
        """Writes tokenizer.json, and the padding token in tokenizer_config.json."""
        tokenization.write_words(folder, self.tokenizer, self.pad, self.tokenizer_class, self.part.length)

    def load_tokenizer(self, folder: Path) -> None:
        """Reads ``tokenizer_files``. Raises WeightsError if they are missing, damaged or have more tokens than the text
        encoder.
        """
        self.tokenizer, self.pad = tokenization.read_words(
            folder, self.tokenizer_files, self.part.vocab, self.read_tokenizer
        )

    @abstractmethod
    def read_tokenizer(self, folder: Path) -> tuple[Any, str]:
        """The tokenizer of a folder with ``tokenizer_files``, and its padding token."""
