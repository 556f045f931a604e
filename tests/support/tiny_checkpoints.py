"""Tiny random checkpoints in diffusers' layout, saved by diffusers itself."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any, Literal

import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from transformers import (
    BertConfig,
    BertModel,
    BertTokenizer,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTokenizer,
)

BERT_WORDS = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    *"一只红色苹果小桥流水人家山湖画，。3",
    "a",
    "red",
    "##s",
    "cat",
]
LENGTH = {"bert": 24, "clip": 16}


def byte_letters() -> list[str]:
    """The 256 letters that stand for bytes in a byte-level vocabulary."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [b for b in range(256) if b not in shown]
    return [chr(b) for b in shown] + [chr(256 + i) for i in range(len(hidden))]


def bert_words(folder: Path) -> BertTokenizer:
    folder.mkdir(parents=True)
    (folder / "vocab.txt").write_text("\n".join(BERT_WORDS), encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps({"model_max_length": LENGTH["bert"]}))
    return BertTokenizer.from_pretrained(str(folder))


def clip_words(folder: Path) -> CLIPTokenizer:
    folder.mkdir(parents=True)
    letters = byte_letters()
    merges = ["r e", "re d</w>", "c a", "ca t</w>", "ç º"]
    joined = [merge.replace(" ", "") for merge in merges]
    words = [*letters, *(f"{letter}</w>" for letter in letters), *joined, "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}), encoding="utf-8")
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]), encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"model_max_length": LENGTH["clip"], "pad_token": "<|endoftext|>"})
    )
    return CLIPTokenizer.from_pretrained(str(folder))


def unet(text: int = 16, channels: tuple[int, ...] = (8, 16), **settings: Any) -> UNet2DConditionModel:
    return UNet2DConditionModel(
        **{
            "sample_size": 8,
            "layers_per_block": 1,
            "block_out_channels": channels,
            "down_block_types": ("CrossAttnDownBlock2D",) * (len(channels) - 1) + ("DownBlock2D",),
            "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * (len(channels) - 1),
            "cross_attention_dim": text,
            "attention_head_dim": 2,
            "norm_num_groups": 4,
            **settings,
        }
    )


def vae(channels: tuple[int, ...] = (8, 8, 8, 8)) -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=channels,
        down_block_types=("DownEncoderBlock2D",) * len(channels),
        up_block_types=("UpDecoderBlock2D",) * len(channels),
        norm_num_groups=4,
        layers_per_block=1,
    )


def checkpoint(folder: Path, kind: Literal["bert", "clip"], scheduler: Any, **settings: Any) -> StableDiffusionPipeline:
    """Saves a pipeline of random weights in a folder and answers the pipeline as diffusers reads it back."""
    torch.manual_seed(7)
    if kind == "bert":
        words: Any = bert_words(folder.with_name(f"{folder.name}-words"))
        tower: Any = BertModel(
            BertConfig(
                vocab_size=len(BERT_WORDS),
                hidden_size=16,
                num_hidden_layers=2,
                num_attention_heads=2,
                intermediate_size=32,
                max_position_embeddings=LENGTH["bert"],
            )
        )
    else:
        words = clip_words(folder.with_name(f"{folder.name}-words"))
        tower = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(words),
                hidden_size=16,
                num_hidden_layers=2,
                num_attention_heads=2,
                intermediate_size=32,
                max_position_embeddings=LENGTH["clip"],
                bos_token_id=words.bos_token_id,
                eos_token_id=words.eos_token_id,
            )
        )
    # Random weights hardly listen to the words: make what they say count.
    with torch.no_grad():
        for parameter in tower.parameters():
            parameter.mul_(4)
    pipeline = StableDiffusionPipeline(
        vae=vae().eval(),
        text_encoder=tower.eval(),
        tokenizer=words,
        unet=unet(**settings).eval(),
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(str(folder))
    return read_by_diffusers(folder)


def read_by_diffusers(folder: Path) -> StableDiffusionPipeline:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pipeline = StableDiffusionPipeline.from_pretrained(str(folder), local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
