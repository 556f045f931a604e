"""Tiny random HunyuanDiT checkpoints, saved by diffusers itself, and the words of a tiny T5."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch
from diffusers import DDPMScheduler, HunyuanDiT2DModel, HunyuanDiTPipeline
from transformers import BertConfig, BertModel, T5Config, T5EncoderModel, T5Tokenizer

from tests.support.tiny_checkpoints import BERT_WORDS, LENGTH, bert_words, vae

#: The letters of SentencePiece's unigram model with their scores, as in mT5: marks first.
PIECES = [
    *(("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0), ("▁a", -2.5), ("▁red", -3.0), ("▁cat", -3.5)),
    *((letter, -4.0 - i / 10) for i, letter in enumerate("一只红色苹果小桥流水人家山水画，。3redcats")),
]
LONGEST = 20
ENDS = {"1.1": 0.03, "1.2": 0.018}


def t5_words(folder: Path) -> T5Tokenizer:
    """Writes a T5's tokenizer and answers it."""
    unique = list(dict(PIECES).items())
    words = T5Tokenizer(vocab=unique, extra_ids=0, model_max_length=LONGEST)
    words.save_pretrained(str(folder))
    return T5Tokenizer.from_pretrained(str(folder), extra_ids=0)


def denoiser(version: str, **settings: Any) -> HunyuanDiT2DModel:
    """A transformer of four layers, the last joined to the first."""
    return HunyuanDiT2DModel(
        **{
            "sample_size": 8,
            "num_layers": 4,
            "patch_size": 2,
            "attention_head_dim": 8,
            "num_attention_heads": 2,
            "in_channels": 4,
            "cross_attention_dim": 16,
            "cross_attention_dim_t5": 24,
            "pooled_projection_dim": 12,
            "hidden_size": 16,
            "mlp_ratio": 2.0,
            "text_len": 77,
            "text_len_t5": 256,
            "use_style_cond_and_image_meta_size": version == "1.1",
            **settings,
        }
    )


def towers() -> tuple[BertModel, T5EncoderModel]:
    """A BERT and a T5 encoder of two layers; what they say counts."""
    first = BertModel(
        BertConfig(
            vocab_size=len(BERT_WORDS),
            hidden_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=32,
            max_position_embeddings=96,
        )
    )
    second = T5EncoderModel(
        T5Config(
            vocab_size=len(dict(PIECES)) + 2,
            d_model=24,
            d_kv=8,
            d_ff=32,
            num_layers=2,
            num_heads=2,
            feed_forward_proj="gated-gelu",
            tie_word_embeddings=False,
        )
    )
    with torch.no_grad():
        for parameter in first.parameters():
            parameter.mul_(4)
    return first.eval(), second.eval()


def checkpoint(folder: Path, version: str) -> HunyuanDiTPipeline:
    """Saves a pipeline of random weights in a folder and answers the pipeline as diffusers reads it back."""
    torch.manual_seed(11)
    first, second = towers()
    transformer = denoiser(version).eval()
    with torch.no_grad():
        # Zeros of the first modulations would hide how conditions enter.
        for parameter in transformer.parameters():
            parameter.add_(torch.randn(parameter.shape) * 0.05)
    scheduler = DDPMScheduler(
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=ENDS[version],
        prediction_type="v_prediction",
        clip_sample=False,
        steps_offset=1,
    )
    words = folder.with_name(f"{folder.name}-words")
    # The pipeline pads to 77 whatever the tokenizer says.
    assert LENGTH["bert"] < 77
    pipeline = HunyuanDiTPipeline(
        vae=vae().eval(),
        text_encoder=first,
        tokenizer=bert_words(words),
        text_encoder_2=second,
        tokenizer_2=t5_words(folder.with_name(f"{folder.name}-pieces")),
        transformer=transformer,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(str(folder))
    return read_by_diffusers(folder)


def read_by_diffusers(folder: Path) -> HunyuanDiTPipeline:
    """The pipeline in a folder, in silence."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pipeline = HunyuanDiTPipeline.from_pretrained(str(folder), local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
