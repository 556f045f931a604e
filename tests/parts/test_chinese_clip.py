"""Chinese-CLIP as transformers has it, and the best of several drawings by it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy
import pytest
import torch
import transformers
from PIL import Image

from bimo.core.errors import RecipeError, WeightsError
from bimo.core.types import Picture, Request
from bimo.eval.scorer import ranked
from bimo.parts.chinese_clip import ChineseClip, ChineseClipScorer, read_chinese_clip
from tests.parity.tiny_checkpoints import BERT_WORDS, bert_words

TEXTS = ["一只红苹果", "小桥流水"]


def image(seed: int, size: tuple[int, int] = (50, 40)) -> Image.Image:
    values = numpy.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=numpy.uint8)
    return Image.fromarray(values)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, transformers.ChineseCLIPModel]:
    """A folder with a random tiny Chinese-CLIP, and the same as transformers has it."""
    torch.manual_seed(0)
    tower = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    model = transformers.ChineseCLIPModel(
        transformers.ChineseCLIPConfig(
            text_config={**tower, "vocab_size": len(BERT_WORDS), "max_position_embeddings": 64},
            vision_config={**tower, "image_size": 32, "patch_size": 16},
            projection_dim=12,
        )
    ).eval()
    folder = tmp_path_factory.mktemp("clip") / "saved"
    bert_words(folder)
    model.save_pretrained(str(folder))
    return folder, model


@pytest.fixture(scope="module")
def scorer(saved: tuple[Path, transformers.ChineseCLIPModel]) -> ChineseClipScorer:
    return read_chinese_clip(saved[0])


def test_scores_are_those_of_transformers(
    saved: tuple[Path, transformers.ChineseCLIPModel], scorer: ChineseClipScorer
) -> None:
    folder, model = saved
    pictures = [image(1), image(2, (32, 70)), image(3, (40, 40))]
    words = transformers.BertTokenizer.from_pretrained(str(folder))
    texts = words(TEXTS, padding="max_length", max_length=52, return_tensors="pt")
    with torch.no_grad():
        answer = model(**texts, pixel_values=scorer.pixels(pictures))
    expected = answer.logits_per_text / model.logit_scale.detach().exp()
    found = scorer.similarity(TEXTS, pictures)
    assert found.shape == (2, 3)
    assert torch.allclose(found, expected, atol=1e-5)
    assert float(found.std()) > 1e-3


def test_pixels_are_those_of_clips_processor(scorer: ChineseClipScorer) -> None:
    """Chinese-CLIP's own processor needs torchvision; CLIP's does the same with Pillow, with the same numbers."""
    processor = transformers.CLIPImageProcessorPil(
        size={"shortest_edge": 32},
        crop_size={"height": 32, "width": 32},
    )
    pictures = [image(4), image(5, (33, 90)), image(6, (32, 32))]
    expected = processor(pictures, return_tensors="pt").pixel_values
    assert torch.allclose(scorer.pixels(pictures), expected, atol=1e-5)


def test_full_size_is_vit_b_16() -> None:
    with torch.device("meta"):
        found = sum(p.numel() for p in ChineseClip().build().parameters())
    assert found / 1e6 == pytest.approx(188, abs=1)


def test_a_folder_that_is_not_one_is_told(saved: tuple[Path, transformers.ChineseCLIPModel], tmp_path: Path) -> None:
    with pytest.raises(WeightsError):
        read_chinese_clip(tmp_path)
    config = json.loads((saved[0] / "config.json").read_text())
    config["text_config"]["hidden_act"] = "relu"
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(RecipeError, match="hidden_act"):
        read_chinese_clip(tmp_path)


def test_the_best_comes_first() -> None:
    request = Request(text="一只红苹果", seed=1, count=4)
    pictures = [Picture(image(i), request, "r", "", index=i) for i in range(4)]
    asked: list[list[str]] = []

    def similarity(texts: object, images: object) -> torch.Tensor:
        asked.append(list(texts))  # type: ignore[call-overload]
        return torch.tensor([[0.1, 0.4, 0.4, -0.2]])

    found = ranked(pictures, similarity)
    assert [picture.index for picture, _ in found] == [1, 2, 0, 3]
    assert [round(score, 3) for _, score in found] == [0.4, 0.4, 0.1, -0.2]
    assert asked == [["一只红苹果"]]
    assert ranked([], similarity) == []


def test_ranked_by_chinese_clip(scorer: ChineseClipScorer) -> None:
    request = Request(text="小桥流水", seed=1, count=3)
    pictures = [Picture(image(i), request, "r", "", index=i) for i in range(3)]
    scores = scorer.similarity(["小桥流水"], [picture.image for picture in pictures])[0]
    assert [p.index for p, _ in ranked(pictures, scorer.similarity)] == scores.argsort(descending=True).tolist()
