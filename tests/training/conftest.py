"""What tests of objectives share: tiny text encoders with words, and batches made by hand."""

from __future__ import annotations

import pytest
import torch

from bimo.core.recipe import Recipe
from bimo.diffusion.system import System
from bimo.models.text_encoders.clip import ClipText
from tests.support.tiny_checkpoints import clip_words

TEACHER = ClipText(vocab=600, length=16, positions=16).tiny()


@pytest.fixture(scope="session")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> System:
    """A system of one tiny CLIP text encoder with words of its own."""
    torch.manual_seed(5)
    made = System(Recipe(name="teacher", text_encoders=(TEACHER,))).eval()
    words = tmp_path_factory.mktemp("teacher") / "words"
    clip_words(words)
    made.text_encoders[0].load_tokenizer(words)
    return made
