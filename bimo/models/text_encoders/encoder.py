"""What text encoders have in common: a tokenizer published with the weights, and what can be done with them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import nn

from bimo.models.text_encoders import tokenization


class PublishedTextEncoder(nn.Module):
    """A text encoder whose vocabulary is published with its weights."""

    #: Tokens before those of the text; None where the tokens do not stand as those of the text do.
    begins: int | None = None
    #: Whether it can be taught a word afterwards (textual inversion).
    teachable: bool = False
    #: How many of its last layers clip_skip counts.
    skippable: int = 0
    #: Its tokenizer, None before it is loaded.
    words: Any = None

    def build_tokenizer(self, captions: Iterable[str], known: Iterable[str]) -> None:
        """Raises WeightsError: the words are published with the weights."""
        raise tokenization.published_words()
