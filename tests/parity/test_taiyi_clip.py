"""Taiyi-CLIP against transformers' own modules: its published text tower, CLIP's picture tower and processor."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    CLIPConfig,
    CLIPModel,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from bimo.core.errors import WeightsError
from bimo.core.recipe import Recipe
from bimo.diffusion.system import System
from bimo.hub import registry
from bimo.hub.model_info import parameters, unfilled
from bimo.hub.registry import load
from bimo.models.clip.scoring import similarity
from bimo.models.clip.taiyi_layout import read_apart
from bimo.models.clip.vision import ClipVision
from bimo.models.text_encoders.bert import Bert
from bimo.recipes.taiyi_clip import taiyi_clip, taiyi_clip_b32, taiyi_clip_huge, taiyi_clip_large
from tests.support.tiny_checkpoints import BERT_WORDS, bert_words

LENGTH = 24
SIDE = 32


@pytest.fixture(scope="module")
def pair() -> tuple[BertForSequenceClassification, CLIPVisionModelWithProjection]:
    torch.manual_seed(3)
    words = BertForSequenceClassification(
        BertConfig(
            vocab_size=len(BERT_WORDS), hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
            intermediate_size=32, max_position_embeddings=LENGTH, num_labels=12,
        )
    ).eval()  # fmt: skip
    pictures = CLIPVisionModelWithProjection(
        CLIPVisionConfig(
            hidden_size=16, intermediate_size=32, projection_dim=12, num_hidden_layers=2, num_attention_heads=2,
            image_size=SIDE, patch_size=8,
        )
    ).eval()  # fmt: skip
    return words, pictures


@pytest.fixture(scope="module")
def system(
    pair: tuple[BertForSequenceClassification, CLIPVisionModelWithProjection], tmp_path_factory: pytest.TempPathFactory
) -> System:
    words, pictures = pair
    text = Bert(
        width=16, layers=2, heads=2, feed=32, vocab=len(BERT_WORDS), positions=LENGTH, length=LENGTH, pool="first",
        project=12,
    )  # fmt: skip
    vision = ClipVision(size=SIDE, patch=8, width=16, layers=2, heads=2, feed=32, project=12)
    made = System(Recipe(name="pair", text_encoders=(text,), vision=vision)).eval()
    state = words.state_dict()
    own = {f"model.{n.removeprefix('bert.')}": v for n, v in state.items() if n.startswith("bert.")}
    own |= {f"head.{n.removeprefix('classifier.')}": v for n, v in state.items() if n.startswith("classifier.")}
    made.text[0].load_state_dict(own, strict=True)
    made.vision.model.load_state_dict(pictures.state_dict(), strict=True)
    folder = tmp_path_factory.mktemp("words") / "words"
    bert_words(folder)
    made.text_encoders[0].load_tokenizer(folder)
    return made


def test_scores_are_those_of_the_published_encoders(
    system: System, pair: tuple[BertForSequenceClassification, CLIPVisionModelWithProjection], tmp_path: Path
) -> None:
    words, pictures = pair
    texts = ["一只红苹果", "小桥流水人家", "a cat"]
    noise = np.random.default_rng(0)
    images = [Image.fromarray(noise.integers(0, 256, (h, w, 3), dtype=np.uint8)) for h, w in ((40, 57), (64, 33))]
    processor = CLIPImageProcessorPil(
        size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE}, do_convert_rgb=True
    )
    tokenizer = bert_words(tmp_path / "words")
    ids = tokenizer(texts, padding="max_length", max_length=LENGTH, truncation=True, return_tensors="pt")["input_ids"]
    with torch.inference_mode():
        left = words(ids).logits
        right = pictures(pixel_values=processor(images, return_tensors="pt")["pixel_values"]).image_embeds
    expected = (left / left.norm(dim=1, keepdim=True)) @ (right / right.norm(dim=1, keepdim=True)).T
    found = similarity(system, texts, images)
    assert found.shape == (3, 2)
    assert torch.allclose(found, expected, atol=1e-5)
    assert expected.std() > 1e-3  # or any two towers would agree


def test_published_folders_are_read(
    system: System, pair: tuple[BertForSequenceClassification, CLIPVisionModelWithProjection], tmp_path: Path
) -> None:
    words, pictures = pair
    bert_words(tmp_path / "both" / "text_encoder")
    words.save_pretrained(tmp_path / "both" / "text_encoder")
    whole = CLIPModel(
        CLIPConfig(
            text_config={"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "vocab_size": 9},
            vision_config=pictures.config.to_dict(),
            projection_dim=12,
        )
    )
    whole.load_state_dict(pictures.state_dict(), strict=False)
    whole.save_pretrained(tmp_path / "both" / "vision_encoder")
    read = load(tmp_path / "both")
    images = [Image.new("RGB", (50, 40), "red"), Image.new("RGB", (32, 32), "blue")]
    texts = ["一只红苹果", "a cat"]
    assert torch.equal(similarity(read, texts, images), similarity(system, texts, images))
    assert torch.equal(read.vision.logit_scale, whole.logit_scale)
    os.remove(tmp_path / "both" / "vision_encoder" / "model.safetensors")
    with pytest.raises(WeightsError, match="vision_encoder"):
        load(tmp_path / "both")


def test_text_encoders_of_two_repositories_are_one_system(
    system: System,
    pair: tuple[BertForSequenceClassification, CLIPVisionModelWithProjection],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The words are Taiyi's, the pictures CLIP's: what projects CLIP's own words is not for Taiyi's."""
    words, pictures = pair
    places = {taiyi_clip.weights.repo: tmp_path / "words", taiyi_clip.weights.vision: tmp_path / "pictures"}
    bert_words(tmp_path / "words")
    words.save_pretrained(tmp_path / "words")
    text = {"hidden_size": 12, "num_hidden_layers": 1, "num_attention_heads": 1, "vocab_size": 9}
    whole = CLIPModel(CLIPConfig(text_config=text, vision_config=pictures.config.to_dict(), projection_dim=12))
    whole.load_state_dict(pictures.state_dict(), strict=False)
    whole.save_pretrained(tmp_path / "pictures")
    monkeypatch.setattr(registry, "fetch", lambda repo, indices: places[repo])
    first = load("taiyi-clip").weights_hash
    assert len(first) == 64
    images, texts = [Image.new("RGB", (50, 40), "red")], ["一只红苹果", "a cat"]
    for name in ("taiyi-clip", taiyi_clip.weights.repo):
        read = load(name)
        assert read.recipe.name == "taiyi-clip"
        assert read.recipe.weights == taiyi_clip.weights
        assert torch.equal(similarity(read, texts, images), similarity(system, texts, images))
    # What scores are kept by: other weights of either tower are another scorer.
    with torch.no_grad():
        whole.vision_model.post_layernorm.bias.add_(1)
    whole.save_pretrained(tmp_path / "pictures")
    assert load("taiyi-clip").weights_hash not in (first, "")


def test_a_text_encoder_without_a_projection_takes_nobody_elses(tmp_path: Path) -> None:
    """As Taiyi's for ViT-H: its pooler is as wide as the pictures' embedding."""
    torch.manual_seed(5)
    words = BertModel(
        BertConfig(
            vocab_size=len(BERT_WORDS), hidden_size=12, num_hidden_layers=1, num_attention_heads=2,
            intermediate_size=32, max_position_embeddings=LENGTH,
        )
    ).eval()  # fmt: skip
    tokenizer = bert_words(tmp_path / "words")
    words.save_pretrained(tmp_path / "words")
    text = {"hidden_size": 12, "num_hidden_layers": 1, "num_attention_heads": 1, "vocab_size": 9}
    vision = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": SIDE, "patch_size": 8}
    whole = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=12))
    whole.save_pretrained(tmp_path / "pictures")
    read = read_apart(tmp_path / "words", tmp_path / "pictures")
    ids = tokenizer(["红苹果"], padding="max_length", max_length=LENGTH, return_tensors="pt")["input_ids"]
    with torch.inference_mode():
        (found,) = read.encode(["红苹果"])
        assert torch.allclose(found.pooled, words(ids).pooler_output, atol=1e-6)


@pytest.mark.parametrize(
    ("recipe", "words", "pictures"),
    [
        # chinese-roberta-wwm-ext with its pooler and a projection; CLIP's picture towers with theirs.
        (taiyi_clip, 102_267_648 + 768 * 768 + 768, 303_966_208),
        (taiyi_clip_b32, 102_267_648 + 768 * 512 + 512, 87_849_216),
        (taiyi_clip_large, 325_522_432 + 1024 * 768 + 768, 303_966_208),
        (taiyi_clip_huge, 325_522_432, 632_076_800),
    ],
    ids=lambda value: value.name if isinstance(value, Recipe) else "",
)
def test_full_sizes(recipe: Recipe, words: int, pictures: int) -> None:
    counts = parameters(unfilled(recipe))
    assert sum(n for name, n in counts.items() if name.startswith("text.")) == words
    assert sum(n for name, n in counts.items() if name.startswith("vision.model.")) == pictures
