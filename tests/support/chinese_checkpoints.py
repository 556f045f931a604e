"""Tiny random checkpoints of the Chinese relatives of Stable Diffusion, in their published layouts."""

from __future__ import annotations

import json
import shutil
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline
from diffusers.pipelines.deprecated.alt_diffusion import AltDiffusionPipeline
from diffusers.pipelines.deprecated.alt_diffusion.modeling_roberta_series import (
    RobertaSeriesConfig,
    RobertaSeriesModelWithTransformation,
)
from tokenizers.processors import TemplateProcessing
from transformers import (
    BertTokenizer,
    ChineseCLIPTextConfig,
    ChineseCLIPTextModel,
    CLIPTextConfig,
    CLIPTextModel,
    XLMRobertaTokenizer,
)

from tests.support.tiny_checkpoints import BERT_WORDS, unet, vae

SCHEDULE = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
#: What Stable Diffusion 2's UNet has and 1's has not.
SECOND = {"attention_head_dim": (2, 4), "use_linear_projection": True}
PIECES = [("<unk>", 0.0), ("<s>", 0.0), ("</s>", 0.0), ("▁", -2.0), ("▁a", -2.5), ("▁red", -3.0), ("▁cat", -3.5)]
PIECES += [(c, -4.0 - i / 8) for i, c in enumerate("一只红苹果小桥流水人家abcdert，。")]
PIECES += [("苹果", -4.5), ("小桥", -5.0)]
ROWS = ("pai", "skypaint", "wukong", "miaobi", "damo", "alt", "alt-m18")


@dataclass(frozen=True)
class Published:
    """A folder as published, and diffusers' own pipeline of the same weights; damo's words as its pipeline has them."""

    folder: Path
    pipeline: Any
    tower: Any
    words: Any
    length: int


def pieces_words(folder: Path, length: int) -> BertTokenizer:
    """Writes the vocab.txt of a BertTokenizer."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(BERT_WORDS), encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps({"model_max_length": length}))
    return BertTokenizer.from_pretrained(str(folder))


def sentence_words(folder: Path, length: int) -> XLMRobertaTokenizer:
    """Writes a sentencepiece.bpe.model and answers the tokenizer that transformers would make of it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "sentencepiece.bpe.model").write_bytes(sentence_model())
    (folder / "tokenizer_config.json").write_text(json.dumps({"model_max_length": length}))
    marks = [(mark, 0.0) for mark in ("<s>", "<pad>", "</s>", "<unk>")]
    return XLMRobertaTokenizer(vocab=[*marks, *PIECES[3:], ("<mask>", 0.0)], model_max_length=length)


def sentence_model() -> bytes:
    """A SentencePiece model: pieces with score and kind, a trainer's settings, a normaliser without a table."""

    def field(number: int, value: bytes) -> bytes:
        return bytes([number << 3 | 2]) + whole(len(value)) + value

    def whole(number: int) -> bytes:
        return bytes([number]) if number < 128 else bytes([number & 127 | 128]) + whole(number >> 7)

    out = b""
    for index, (piece, score) in enumerate(PIECES):
        kind = bytes([3 << 3, 2 if index == 0 else 3]) if index < 3 else b""
        out += field(1, field(1, piece.encode()) + bytes([2 << 3 | 5]) + struct.pack("<f", score) + kind)
    trainer = bytes([3 << 3]) + whole(1) + bytes([4 << 3]) + whole(250000)
    return out + field(2, trainer) + field(3, field(1, b"identity"))


def published(folder: Path, row: str) -> Published:
    """Saves a row's folder as its publisher lays it out."""
    torch.manual_seed(11)
    words, tower, index = _tower(folder, row)
    with torch.no_grad():
        # Random weights hardly listen to the words: make what they say count.
        for parameter in tower.parameters():
            parameter.mul_(4)
    tower.eval()
    second = row in ("damo", "alt-m18")
    painter = unet(**SECOND if second else {}).eval()
    prediction = "v_prediction" if row == "damo" else "epsilon"
    schedule = DDIMScheduler(
        **SCHEDULE, clip_sample=False, set_alpha_to_one=False, steps_offset=1, prediction_type=prediction
    )
    named = {"vae": vae().eval(), "unet": painter, "scheduler": schedule, "text_encoder": tower}
    for name, part in named.items():
        part.save_pretrained(str(folder / name))
    names = {
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
        "scheduler": ["diffusers", "DDIMScheduler"],
        "safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"],
        "feature_extractor": ["transformers", "CLIPFeatureExtractor"],
    }
    cls = "AltDiffusionPipeline" if row.startswith("alt") else "StableDiffusionPipeline"
    (folder / "model_index.json").write_text(json.dumps({"_class_name": cls, **names, **index}))
    if row == "skypaint":
        edit(folder / "text_encoder/config.json", eos_token_id=None, bos_token_id=None, sep_token_id=3)
    if row == "damo":
        named["text_encoder"] = None  # its words and tower go in as prompt_embeds
    make: Any = AltDiffusionPipeline if row.startswith("alt") else StableDiffusionPipeline
    tokens = None if row == "damo" else words
    extra = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    pipeline = make(tokenizer=tokens, **named, **extra)
    pipeline.set_progress_bar_config(disable=True)
    return Published(folder, pipeline, tower, words, {"pai": 32, "damo": 52}.get(row, 24))


def _tower(folder: Path, row: str) -> tuple[Any, Any, dict[str, list[str]]]:
    place = folder / "tokenizer"
    if row.startswith("alt"):
        words: Any = sentence_words(place, 24)
        config = RobertaSeriesConfig(
            vocab_size=len(words),
            max_position_embeddings=26,
            type_vocab_size=1,
            project_dim=16,
            layer_norm_eps=1e-5,
            **SIZES,
            **({"has_pre_transformation": True} if row == "alt-m18" else {}),
        )
        index = {"text_encoder": ["alt_diffusion", "RobertaSeriesModelWithTransformation"]}
        made = RobertaSeriesModelWithTransformation(config)
        return words, made, {**index, "tokenizer": ["transformers", "XLMRobertaTokenizer"]}
    words = pieces_words(place, {"pai": 32, "damo": 512}.get(row, 24))
    if row == "damo":
        config = ChineseCLIPTextConfig(vocab_size=len(BERT_WORDS), max_position_embeddings=60, **SIZES)
        index = {"text_encoder": ["transformers", "ChineseCLIPTextModel"]}
        made = ChineseCLIPTextModel(config, add_pooling_layer=False)
        return words, made, {**index, "tokenizer": ["transformers", "ChineseCLIPProcessor"]}
    rows = {"wukong": len(BERT_WORDS) + 9, "miaobi": 49408}.get(row, len(BERT_WORDS))
    eps = 1e-7 if row == "wukong" else 1e-5
    config = CLIPTextConfig(
        vocab_size=rows,
        max_position_embeddings=32 if row == "pai" else 24,
        layer_norm_eps=eps,
        bos_token_id=2,
        eos_token_id=3,
        **SIZES,
    )
    index = {"text_encoder": ["transformers", "CLIPTextModel"], "tokenizer": ["transformers", "BertTokenizer"]}
    if row == "miaobi":
        # Its own code must never run: this would end the test.
        (place / "clip_tokenizer_roberta.py").write_text("raise SystemExit('it ran')\n")
        index["tokenizer"] = ["clip_tokenizer_roberta", "CLIPTokenizerRoberta"]
        words.backend_tokenizer.post_processor = TemplateProcessing(
            single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 49406), ("[SEP]", 49407)]
        )
    return words, CLIPTextModel(config), index


def edit(path: Path, **changes: Any) -> None:
    """Changes fields of a JSON file."""
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def copied(source: Path, target: Path) -> Path:
    """A copy of a folder to be spoilt."""
    shutil.copytree(source, target)
    return target
