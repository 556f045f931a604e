"""Vocabularies that text encoders learn from the captions of the data."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bimo.data.loader import Pictures
from bimo.diffusion.text_encoder import TextEncoder


def build_tokenizer(encoder: TextEncoder, pictures: Pictures) -> None:
    """Builds a text encoder's vocabulary of the words that each folder of the data lists, and of the captions."""
    captions = (caption for each in pictures.captions for caption in each)
    encoder.build_tokenizer(captions, [word for folder in pictures.folders for word in _listed_words(folder)])


def _listed_words(folder: Path) -> list[str]:
    path = folder / "words.txt"
    return path.read_text(encoding="utf-8").splitlines() if path.is_file() else []


def load_tokenizers(encoders: Sequence[TextEncoder], pictures: Pictures, out: Path) -> None:
    """Loads the tokenizers in a run's folder; those that are not there are built from the captions and saved first."""
    for index, encoder in enumerate(encoders):
        folder = out / f"words.{index}"
        if not folder.is_dir():
            build_tokenizer(encoder, pictures)
            encoder.save_tokenizer(folder)
        encoder.load_tokenizer(folder)
