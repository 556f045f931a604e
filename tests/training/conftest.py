"""What tests of training share: a tiny teacher with words, and samples that are drawn by few steps."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from bimo.core.recipe import Recipe
from bimo.diffusion.system import System
from bimo.models.text_encoders.clip import ClipText
from bimo.training import snapshots
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


@pytest.fixture(scope="package", autouse=True)
def _few_steps() -> Iterator[None]:
    """What is drawn on the way: all steps make the same calls."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(snapshots, "SAMPLE_STEPS", 2)
        yield
