"""What every text encoder does: texts to tokens by a tokenizer of its own."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from torch import Tensor, nn

from bimo.core.tensors import Conditioning, TextEncoding
from bimo.prompts.token_budget import Budget

if TYPE_CHECKING:
    from PIL import Image


class TextEncoder(nn.Module, ABC):
    """A text encoder with its tokenizer."""

    #: Its tokenizer, of the tokenizers library; None before it is loaded.
    tokenizer: Any = None
    #: The id of its padding.
    pad: int = 0
    #: Tokens before those of the text; None where its tokens do not stand as those of the text do.
    begins: int | None = None
    #: Whether it can be taught a word afterwards (textual inversion).
    teachable: bool = False
    #: Whether a UNet reads the tokens of several texts side by side as those of one long text.
    chunkable: bool = False
    #: How many of its last layers clip_skip counts.
    skippable: int = 0
    #: Last names of its modules whose weights stay in float32 where the others are float16, as transformers'
    #: ``_keep_in_fp32_modules``.
    keep_in_fp32: tuple[str, ...] = ()
    #: Whether it looks at pictures beside the texts.
    reads_pictures: bool = False
    #: What the names of its head's parameters begin with: the head may learn while the trunk is frozen.
    heads: tuple[str, ...] = ()

    def share(self, others: Sequence[TextEncoder]) -> None:
        """Takes what it shares with another of the system's text encoders from there, once all are built."""
        return

    @abstractmethod
    def encode(self, texts: Sequence[str], skip: int = 0) -> TextEncoding:
        """Texts -> tokens [B, L, D] and what goes with them; without the last ``skip`` layers (up to ``skippable``)."""

    def encode_with(self, texts: Sequence[str], pictures: Sequence[Sequence[Image.Image]]) -> TextEncoding:
        """Texts, each with its pictures -> as ``encode``; the texts alone where it reads no pictures."""
        return self.encode(texts)

    @abstractmethod
    def ids(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Texts -> token ids [B, L] and mask [B, L] bool (True: real)."""

    @abstractmethod
    def budget(self, text: str) -> Budget:
        """How many tokens a text takes, and what of it is not read."""

    @abstractmethod
    def build_tokenizer(self, captions: Iterable[str], known: Iterable[str]) -> None:
        """Makes the tokenizer from captions and known words. Raises WeightsError where its words were published."""

    @abstractmethod
    def save_tokenizer(self, folder: Path) -> None:
        """Writes the tokenizer's files."""

    @abstractmethod
    def load_tokenizer(self, folder: Path) -> None:
        """Reads the tokenizer's files. Raises WeightsError where they are missing or damaged."""

    def pieces(self, text: str) -> list[tuple[int, str, int]]:
        """The tokens of a text without the marks around it: (id, what it reads, where in the text it begins)."""
        found = self.tokenizer.encode(text, add_special_tokens=False)
        return [(number, text[start:end], start) for number, (start, end) in zip(found.ids, found.offsets, strict=True)]

    def trunk(self, texts: Sequence[str]) -> TextEncoding:
        """Texts -> what the head is given: ``encode`` is ``finished`` of it."""
        return self.encode(texts)

    def finished(self, trunk: TextEncoding) -> TextEncoding:
        """The trunk's output -> the text encoder's."""
        return trunk

    def blank(self) -> Tensor | None:
        """The trunk's output for padding in front of a shorter text, [D], where the denoiser sees that: the same for
        every text. None where there is no such padding.
        """
        return None


class TextFusion(Protocol):
    """One conditioning of several text encoders' encodings."""

    def fuse(self, encodings: tuple[TextEncoding, ...]) -> Conditioning:
        """Encodings of B texts by every text encoder -> streams and vector of B rows."""
        ...
