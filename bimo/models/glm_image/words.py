"""What GLM-Image's prior reads of a prompt: the ids of its tokens, which the prior itself embeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from bimo.core.errors import WeightsError
from bimo.core.part import Part
from bimo.core.tensors import TextEncoding
from bimo.models.text_encoders import tokenization
from bimo.models.text_encoders.encoder import PublishedTextEncoder
from bimo.models.text_encoders.prompt_tokens import TokenRow, batch_rows, read_tokenizer_files


@dataclass(frozen=True, kw_only=True)
class GlmImageWords(Part):
    """The tokenizer of GLM-Image's prior, without a model; ``vocab`` is that of the prior's words, ``length`` how many
    of them it reads.

    Between ``grid_start`` and ``grid_end`` the prior is told how many rows and columns of tokens it is to write, and
    behind ``image_start`` it writes them.
    """

    vocab: int = 168064
    length: int = 131072
    grid_start: str = "<sop>"
    grid_end: str = "<eop>"
    image_start: str = "<|dit_token_16384|>"

    def build(self) -> GlmImageWordsEncoder:
        """The module, without its tokenizer until ``load_tokenizer``."""
        return GlmImageWordsEncoder(self)

    def tiny(self) -> Self:
        """As many words as a test's tokenizer has at most."""
        return replace(self, vocab=min(self.vocab, 1024))


class GlmImageWordsEncoder(PublishedTextEncoder):
    """Texts -> ids [B, L, 1], integers, and mask [B, L]; on the processor, where the prior puts them together."""

    tokenizer_class = "PreTrainedTokenizerFast"

    def __init__(self, part: GlmImageWords) -> None:
        super().__init__()
        self.part = part

    def encode(self, texts: Sequence[str], skip: int = 0) -> TextEncoding:
        """Texts -> their ids."""
        return self.forward(*self.ids(texts))

    def forward(self, ids: Tensor, mask: Tensor) -> TextEncoding:
        """Token ids [B, L] and mask [B, L] -> the same, as an encoding."""
        return TextEncoding(ids[:, :, None], mask)

    def ids(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Texts -> ids [B, L], as many as the longest has, and mask [B, L] bool."""
        rows = [self.tokens(text).ids[: self.part.length] for text in texts]
        with torch.device("cpu"):
            return batch_rows([TokenRow(row, [True] * len(row)) for row in rows], self.pad, pad_left=False)

    def told(self, grids: Sequence[tuple[int, int]]) -> list[int]:
        """The ids behind the prompt: the (rows, columns) of each grid, and the token that a picture begins with."""
        part = self.part
        sizes = "".join(f"{part.grid_start}{rows} {columns}{part.grid_end}" for rows, columns in grids)
        return tokenization.known(self.tokenizer).encode(sizes + part.image_start, add_special_tokens=False).ids

    def load_tokenizer(self, folder: Path) -> None:
        """Reads tokenizer.json. Raises WeightsError as its kind does, and where a token that the prior is told by is
        missing.
        """
        super().load_tokenizer(folder)
        for name in (self.part.grid_start, self.part.grid_end, self.part.image_start):
            if self.tokenizer.token_to_id(name) is None:
                raise WeightsError("the tokenizer of {folder} has no {pad}", folder=folder, pad=name)

    def read_tokenizer(self, folder: Path) -> tuple[Any, str]:
        """tokenizer.json and the padding token of its settings."""
        return read_tokenizer_files(folder)
