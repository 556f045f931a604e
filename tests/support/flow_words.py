"""Tiny vocabularies of the kinds that language models have, as the libraries' own classes save them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

from tests.support.tiny_checkpoints import byte_letters

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|image_pad|>", "<|vision_end|>")
CHAT = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if not enable_thinking %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
MERGES = (("r", "e"), ("re", "d"), ("ç", "º"), ("çº", "¢"))
VOCAB = 256 + len(MERGES) + len(SPECIAL) + 2


def qwen_words(folder: Path) -> Any:
    """A byte-level vocabulary of Qwen's kind, in a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    words = [*byte_letters(), *("".join(pair) for pair in MERGES)]
    made = transformers.Qwen2Tokenizer(vocab={word: i for i, word in enumerate(words)}, merges=list(MERGES))
    made.add_tokens(list(SPECIAL), special_tokens=True)
    made.chat_template = CHAT
    made.save_pretrained(str(folder))
    return made


def glm_words(folder: Path) -> Any:
    """A byte-level vocabulary that begins every text with two marks and is padded on the left, as GLM-4's."""
    folder.mkdir(parents=True, exist_ok=True)
    words = [*byte_letters(), *("".join(pair) for pair in MERGES), "<|endoftext|>", "[gMASK]", "<sop>"]
    table = {word: i for i, word in enumerate(words)}
    plain = Tokenizer(models.BPE(vocab=table, merges=list(MERGES)))
    plain.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    plain.decoder = decoders.ByteLevel()
    plain.add_special_tokens(words[-3:])
    marks = [(mark, table[mark]) for mark in words[-2:]]
    plain.post_processor = processors.TemplateProcessing(single="[gMASK]:0 <sop>:0 $A:0", special_tokens=marks)
    made = transformers.PreTrainedTokenizerFast(tokenizer_object=plain, pad_token="<|endoftext|>", padding_side="left")
    made.save_pretrained(str(folder))
    return made


def mistral_words(folder: Path) -> Any:
    """A byte-level vocabulary that begins every text with <s>, as Mistral's."""
    folder.mkdir(parents=True, exist_ok=True)
    words = [*byte_letters(), *("".join(pair) for pair in MERGES), "<unk>", "<pad>", "<s>"]
    table = {word: i for i, word in enumerate(words)}
    plain = Tokenizer(models.BPE(vocab=table, merges=list(MERGES)))
    plain.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    plain.decoder = decoders.ByteLevel()
    plain.add_special_tokens(words[-3:])
    plain.post_processor = processors.TemplateProcessing(single="<s>:0 $A:0", special_tokens=[("<s>", table["<s>"])])
    made = transformers.PreTrainedTokenizerFast(
        tokenizer_object=plain, bos_token="<s>", pad_token="<pad>", model_max_length=2048
    )
    made.save_pretrained(str(folder))
    return made


def gemma_words(folder: Path) -> Any:
    """Characters, and bytes for those it has none of, that begin with <bos>, as Gemma's."""
    folder.mkdir(parents=True, exist_ok=True)
    marks = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
    words = [*marks, *(f"<0x{byte:02X}>" for byte in range(256)), "▁"]
    made = transformers.GemmaTokenizer(vocab={word: i for i, word in enumerate(words)}, merges=[])
    begin = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 2)])
    made.backend_tokenizer.post_processor = begin
    made.save_pretrained(str(folder))
    return made
