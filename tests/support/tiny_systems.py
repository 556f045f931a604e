"""Any recipe at toy width, with made-up weights and words: what it draws is noise, by the code of the real one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import ByT5Tokenizer

from bimo.core.recipe import Recipe
from bimo.diffusion.system import System
from bimo.models.glm_image.words import GlmImageWordsEncoder
from bimo.models.text_encoders.bert import BertTextEncoder
from bimo.models.text_encoders.chatglm import ChatGlmTextEncoder
from bimo.models.text_encoders.clip import ClipTextEncoder
from bimo.models.text_encoders.language_model import LanguageModelEncoder
from bimo.models.text_encoders.t5 import T5TextEncoder
from bimo.models.text_encoders.xglm import XglmTextEncoder
from bimo.models.text_encoders.xlm import XlmTextEncoder
from tests.conftest import KNOWN
from tests.support.chinese_checkpoints import sentence_words
from tests.support.flow_checkpoints import qwen_words as language_words
from tests.support.glm_checkpoints import glm_image_words
from tests.support.hunyuan_checkpoints import t5_words
from tests.support.kolors_checkpoints import glm_words
from tests.support.tiny_checkpoints import bert_words, clip_words

TEXT = "一只红苹果"


def tiny_system(recipe: Recipe, folder: Path) -> System:
    """The recipe at toy width; what its tokenizers are read from is written to a folder."""
    torch.manual_seed(0)
    made = System(recipe.tiny()).eval()
    for index, tower in enumerate(made.text_encoders):
        if give_words(tower, folder / f"words.{index}"):
            tower.load_tokenizer(folder / f"words.{index}")
        else:
            assert isinstance(tower, BertTextEncoder)
            tower.build_tokenizer((TEXT, "a red cat"), KNOWN)
    return made


def give_words(tower: Any, folder: Path) -> bool:
    """Writes the words that a publisher gives with a tower; False for a tower that learns its own."""
    if isinstance(tower, BertTextEncoder) and tower.part.words == "lexicon":
        return False
    if isinstance(tower, BertTextEncoder) or (isinstance(tower, ClipTextEncoder) and tower.part.words == "pieces"):
        bert_words(folder)
    elif isinstance(tower, (XglmTextEncoder, XlmTextEncoder)):
        sentence_words(folder, 24)
    elif isinstance(tower, ClipTextEncoder):
        clip_words(folder)
    elif isinstance(tower, ChatGlmTextEncoder):
        glm_words(folder)
    elif isinstance(tower, T5TextEncoder) and tower.part.words == "bytes":
        ByT5Tokenizer().save_pretrained(str(folder))
    elif isinstance(tower, T5TextEncoder):
        t5_words(folder)
    elif isinstance(tower, GlmImageWordsEncoder):
        glm_image_words(folder)
    elif isinstance(tower, LanguageModelEncoder):
        language_words(folder)
    else:
        pytest.fail(f"this test has no words for a {type(tower).__name__}: write some here")
    return True
