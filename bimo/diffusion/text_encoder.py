"""The base classes of text encoders and of their fusion."""

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

    #: A tokenizer of the tokenizers library; None before it is loaded.
    tokenizer: Any = None
    #: The id of the padding token.
    pad: int = 0
    #: The number of tokens before those of the text; None if tokens do not correspond to the text.
    begins: int | None = None
    #: Whether it supports textual inversion.
    teachable: bool = False
    #: Whether long texts can be encoded in chunks, whose tokens a UNet reads side by side.
    chunkable: bool = False
    #: The number of last layers that clip_skip can skip.
    skippable: int = 0
    #: Last names of modules whose weights stay in float32 in a float16 model, as transformers'
    #: ``_keep_in_fp32_modules``.
    keep_in_fp32: tuple[str, ...] = ()
    #: Whether it reads pictures with the texts.
    reads_pictures: bool = False
    #: Prefixes of its head's parameter names: the head may be trained while the trunk is frozen.
    heads: tuple[str, ...] = ()
    #: The words that it was trained on, where there is a list of them; else empty.
    known: frozenset[str] = frozenset()

    def share(self, others: Sequence[TextEncoder]) -> None:
        """Takes over modules that it shares with another text encoder of the system; called when all are built."""
        return

    @abstractmethod
    def encode(self, texts: Sequence[str], skip: int = 0) -> TextEncoding:
        """Texts -> tokens [B, L, D] with mask and pooled output; without the last ``skip`` layers (up to
        ``skippable``).
        """

    def encode_with(self, texts: Sequence[str], pictures: Sequence[Sequence[Image.Image]]) -> TextEncoding:
        """As ``encode``, for texts with pictures, which encoders that do not read them ignore."""
        return self.encode(texts)

    def picture_places(self, count: int) -> tuple[int, ...]:
        """Positions at which a denoiser inserts the latents of ``count`` pictures between text tokens: the number of
        tokens before each; () if the tokens represent the pictures themselves. If the picture being drawn is inserted
        as well, its position follows, counted from the end (negative).
        """
        return ()

    @abstractmethod
    def ids(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Texts -> token ids [B, L] and mask [B, L] bool (True: real)."""

    @abstractmethod
    def budget(self, text: str) -> Budget:
        """The number of tokens of a text, and the part of it that is not read."""

    @abstractmethod
    def build_tokenizer(self, captions: Iterable[str], known: Iterable[str]) -> None:
        """Builds the tokenizer from captions and known words. Raises WeightsError if the vocabulary was published with
        the weights.
        """

    @abstractmethod
    def save_tokenizer(self, folder: Path) -> None:
        """Writes the tokenizer's files."""

    @abstractmethod
    def load_tokenizer(self, folder: Path) -> None:
        """Reads the tokenizer's files. Raises WeightsError if they are missing or damaged."""

    def pieces(self, text: str) -> list[tuple[int, str, int]]:
        """The tokens of a text without special tokens: (id, text, offset in the text)."""
        encoding = self.tokenizer.encode(text, add_special_tokens=False)
        return [
            (number, text[start:end], start)
            for number, (start, end) in zip(encoding.ids, encoding.offsets, strict=True)
        ]

    def trunk(self, texts: Sequence[str]) -> TextEncoding:
        """Texts -> the input of the head: ``encode`` is ``finished`` of it."""
        return self.encode(texts)

    def finished(self, trunk: TextEncoding) -> TextEncoding:
        """The trunk's output -> the text encoder's output."""
        return trunk

    def blank(self) -> Tensor | None:
        """The trunk's output for padding before a shorter text, [D], if the denoiser attends to it: the same for every
        text. None if there is no such padding.
        """
        return None


class TextFusion(Protocol):
    """Fuses the encodings of several text encoders into one conditioning."""

    def fuse(self, encodings: tuple[TextEncoding, ...]) -> Conditioning:
        """Encodings of B texts by every text encoder -> streams and vector of B rows."""
        ...
