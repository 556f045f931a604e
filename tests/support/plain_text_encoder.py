"""A text encoder without a tokenizer, for tests that give its tokens themselves."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from bimo.diffusion.text_encoder import TextEncoder
from bimo.prompts.token_budget import Budget


class PlainTextEncoder(TextEncoder):
    """A character is a token; ``encode`` is the test's."""

    def ids(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        length = max(map(len, texts))
        ids = torch.tensor([[ord(c) for c in text.ljust(length, "\0")] for text in texts])
        return ids, ids > 0

    def budget(self, text: str) -> Budget:
        return Budget(len(text) + 1, 8)

    def build_tokenizer(self, captions: Iterable[str], known: Iterable[str]) -> None:
        """It has none."""

    def save_tokenizer(self, folder: Path) -> None:
        """It has none."""

    def load_tokenizer(self, folder: Path) -> None:
        """It has none."""
