"""Folders of CLIP, Chinese-CLIP, AltCLIP and OpenCLIP score as transformers' own models of the same weights do."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from safetensors.torch import save_file
from transformers.models.chinese_clip.image_processing_pil_chinese_clip import ChineseCLIPImageProcessorPil
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from bimo.cli import main
from bimo.core.errors import RecipeError, WeightsError
from bimo.diffusion.system import System
from bimo.evaluation.suites.suite import own
from bimo.hub.registry import load, recipe
from bimo.models.clip.scoring import similarity
from tests.support.chinese_checkpoints import sentence_words
from tests.support.tiny_checkpoints import BERT_WORDS, bert_words, clip_words

SIDE = 16
ENCODER = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
VISION = {**ENCODER, "image_size": SIDE, "patch_size": 8}
TEXTS = ["一只红苹果", "小桥流水人家，山水画。", "a red cat", "红" * 60]


def images() -> list[Image.Image]:
    noise = np.random.default_rng(0)
    return [
        Image.fromarray(noise.integers(0, 256, (h, w, 3), dtype=np.uint8)) for h, w in ((40, 57), (64, 33), (16, 16))
    ]


def clip(folder: Path) -> tuple[Any, Any]:
    words = clip_words(folder)
    text = {**ENCODER, "vocab_size": len(words), "max_position_embeddings": 16, "eos_token_id": len(words) - 1}
    text |= {"bos_token_id": len(words) - 2}
    made = transformers.CLIPModel(transformers.CLIPConfig(text_config=text, vision_config=VISION, projection_dim=12))
    return made, lambda texts: words(texts, padding="max_length", max_length=16, truncation=True, return_tensors="pt")


def chinese(folder: Path) -> tuple[Any, Any]:
    words = bert_words(folder)
    text = {**ENCODER, "vocab_size": len(BERT_WORDS), "max_position_embeddings": 64}
    config = transformers.ChineseCLIPConfig(text_config=text, vision_config=VISION, projection_dim=12)
    made = transformers.ChineseCLIPModel(config)
    return made, lambda texts: words(texts, padding="max_length", max_length=52, truncation=True, return_tensors="pt")


def alt(folder: Path) -> tuple[Any, Any]:
    words = sentence_words(folder, 77)
    text = {**ENCODER, "vocab_size": len(words), "max_position_embeddings": 40, "project_dim": 20}
    made = transformers.AltCLIPModel(
        transformers.AltCLIPConfig(text_config=text, vision_config=VISION, projection_dim=12)
    )
    return made, lambda texts: words(texts, padding=True, max_length=38, truncation=True, return_tensors="pt")


def saved(make: Callable[[Path], tuple[Any, Any]], folder: Path) -> tuple[Any, Any]:
    torch.manual_seed(5)
    model, words = make(folder)
    with torch.no_grad():
        for name, value in model.named_parameters():
            # Norms and biases begin at one and zero: what is put in the wrong place would not be seen.
            if name != "logit_scale":
                value.add_(torch.randn(value.shape) * 0.1)
    model.eval().save_pretrained(folder)
    return model, words


def expected(model: Any, words: Any, texts: list[str], pixels: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        left = model.get_text_features(**words(texts)).pooler_output
        right = model.get_image_features(pixel_values=pixels).pooler_output
    return torch.nn.functional.normalize(left, dim=1) @ torch.nn.functional.normalize(right, dim=1).T


def cut() -> torch.Tensor:
    made = CLIPImageProcessorPil(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE})
    return made(images(), return_tensors="pt")["pixel_values"]


@pytest.mark.parametrize(
    ("make", "name", "languages"),
    [(clip, "clip", ("en",)), (chinese, "chinese-clip", ("zh",)), (alt, "alt-clip", ("zh", "en"))],
)
def test_scores_are_those_of_transformers(
    make: Callable[[Path], tuple[Any, Any]], name: str, languages: tuple[str, ...], tmp_path: Path
) -> None:
    model, words = saved(make, tmp_path / "saved")
    system = load(tmp_path / "saved")
    assert (system.recipe.name, system.recipe.languages) == (name, languages)
    assert recipe(tmp_path / "saved") == system.recipe
    found = similarity(system, TEXTS, images())
    assert torch.allclose(found, expected(model, words, TEXTS, cut()), atol=1e-5)
    assert float(found.std()) > 1e-3
    assert torch.equal(system.vision.logit_scale, model.logit_scale)
    assert len(system.weights_hash) == 64
    # One text alone is read as it is among others.
    assert torch.allclose(similarity(system, TEXTS[:1], images()), found[:1], atol=1e-6)
    # Saved as bimo has it, it is the same.
    system.save(tmp_path / "own")
    assert torch.equal(similarity(load(tmp_path / "own"), TEXTS, images()), found)


def test_eval_measures_by_such_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From folders in the publishers' layouts to the report, against transformers' cosines."""
    monkeypatch.setenv("BIMO_LANGUAGE", "en")
    both = {"zh": saved(chinese, tmp_path / "zh"), "en": saved(clip, tmp_path / "en")}
    suite = own().only(groups=("colours",), limit=3)
    (tmp_path / "api").mkdir()
    for prompt, image in zip(suite.prompts, (*images(), *images()), strict=True):
        image.save(tmp_path / "api" / f"{prompt.key}.png")
    line = ["eval", "--pictures", str(tmp_path / "api"), "--group", "colours", "--limit", "3", "--no-text"]
    line += ["--clip-zh", str(tmp_path / "zh"), "--clip-en", str(tmp_path / "en"), "--out", str(tmp_path / "out")]
    assert main.run(line) == 0
    report = json.loads((tmp_path / "out" / "report.json").read_text("utf-8"))["models"]["api"]
    pixels = torch.cat([cut(), cut()])
    for language, (model, words) in both.items():
        # A picture of a prompt in the other language is compared with the translation.
        texts = [
            next(p.text for p in suite.prompts if (p.pair, p.language) == (q.pair, language)) for q in suite.prompts
        ]
        wanted = expected(model, words, texts, pixels).diagonal()
        found = [row["values"][f"clip-{language} similarity"] for row in report["pictures"]]
        assert found == pytest.approx(wanted.tolist(), abs=1e-5)
        weights = report["record"]["measured"]["scorers"][f"clip-{language}"]
        assert weights == load(tmp_path / language).weights_hash


def test_a_folder_says_how_pictures_become_square(tmp_path: Path) -> None:
    model, words = saved(chinese, tmp_path / "saved")
    squeezing = ChineseCLIPImageProcessorPil(size={"height": SIDE, "width": SIDE}, do_center_crop=False)
    squeezing.save_pretrained(tmp_path / "saved")
    system = load(tmp_path / "saved")
    pixels = squeezing(images(), return_tensors="pt")["pixel_values"]
    found = similarity(system, TEXTS, images())
    assert torch.allclose(found, expected(model, words, TEXTS, pixels), atol=1e-5)
    assert not torch.allclose(found, expected(model, words, TEXTS, cut()), atol=1e-3)
    said = tmp_path / "saved" / "preprocessor_config.json"
    said = said if said.is_file() else tmp_path / "saved" / "processor_config.json"
    said.write_text(json.dumps({"image_mean": [0.5, 0.5, 0.5]}))
    with pytest.raises(RecipeError, match="image_mean"):
        load(tmp_path / "saved")


def test_the_largest_token_is_the_end_where_a_config_says_2(tmp_path: Path) -> None:
    """As configs of before transformers 4.31 have it."""
    saved(clip, tmp_path / "saved")
    before = similarity(load(tmp_path / "saved"), TEXTS, images())
    path = tmp_path / "saved" / "config.json"
    config = json.loads(path.read_text())
    config["text_config"]["eos_token_id"] = 2
    path.write_text(json.dumps(config))
    system = load(tmp_path / "saved")
    assert getattr(system.recipe.text_encoders[0], "pool", "") == "largest"
    assert torch.allclose(similarity(system, TEXTS, images()), before, atol=1e-6)


def opened(folder: Path) -> tuple[Any, Any]:
    """The same weights in OpenCLIP's file: fused projections, the tower's own names, projections on the right."""
    model, words = saved(clip, folder / "clip")
    state = model.state_dict()
    blocks = {"layer_norm1": "ln_1", "layer_norm2": "ln_2", "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj"}
    blocks |= {"self_attn.out_proj": "attn.out_proj"}
    found: dict[str, torch.Tensor] = {"logit_scale": state["logit_scale"]}
    for tower, prefix in (("text_model", ""), ("vision_model", "visual.")):
        for layer in range(2):
            own = f"{tower}.encoder.layers.{layer}."
            for kind in ("weight", "bias"):
                fused = [state[f"{own}self_attn.{which}_proj.{kind}"] for which in "qkv"]
                found[f"{prefix}transformer.resblocks.{layer}.attn.in_proj_{kind}"] = torch.cat(fused)
                for theirs, open_name in blocks.items():
                    value = state[f"{own}{theirs}.{kind}"]
                    found[f"{prefix}transformer.resblocks.{layer}.{open_name}.{kind}"] = value
    for kind in ("weight", "bias"):
        found[f"ln_final.{kind}"] = state[f"text_model.final_layer_norm.{kind}"]
        found[f"visual.ln_pre.{kind}"] = state[f"vision_model.pre_layrnorm.{kind}"]
        found[f"visual.ln_post.{kind}"] = state[f"vision_model.post_layernorm.{kind}"]
    found |= {
        "token_embedding.weight": state["text_model.embeddings.token_embedding.weight"],
        "positional_embedding": state["text_model.embeddings.position_embedding.weight"],
        "text_projection": state["text_projection.weight"].T,
        "visual.proj": state["visual_projection.weight"].T,
        "visual.conv1.weight": state["vision_model.embeddings.patch_embedding.weight"],
        "visual.class_embedding": state["vision_model.embeddings.class_embedding"],
        "visual.positional_embedding": state["vision_model.embeddings.position_embedding.weight"],
    }
    place = folder / "open"
    clip_words(place)
    save_file({name: value.contiguous() for name, value in found.items()}, place / "open_clip_model.safetensors")
    config = {
        "model_cfg": {
            "embed_dim": 12,
            "quick_gelu": True,
            "vision_cfg": {
                "image_size": SIDE, "layers": 2, "width": 16, "patch_size": 8, "head_width": 8, "mlp_ratio": 2,
            },
            "text_cfg": {
                "context_length": 16, "vocab_size": len(clip_words(folder / "words")), "width": 16, "heads": 2,
                "layers": 2, "mlp_ratio": 2.0,
            },
        },
        "preprocess_cfg": {"mean": [0.48145466, 0.4578275, 0.40821073]},
    }  # fmt: skip
    (place / "open_clip_config.json").write_text(json.dumps(config))
    return model, words


def test_open_clip_scores_as_the_same_weights_do(tmp_path: Path) -> None:
    model, words = opened(tmp_path)
    system = load(tmp_path / "open")
    assert system.recipe.name == "open-clip"
    found = similarity(system, TEXTS, images())
    assert torch.allclose(found, expected(model, words, TEXTS, cut()), atol=1e-5)
    path = tmp_path / "open" / "open_clip_config.json"
    config = json.loads(path.read_text())
    for field, value in (("layers", [3, 4, 6, 3]), ("timm_model_name", "vit_medium"), ("pool_type", "avg")):
        other = json.loads(path.read_text())
        other["model_cfg"]["vision_cfg"][field] = value
        path.write_text(json.dumps(other))
        with pytest.raises(RecipeError, match=field):
            load(tmp_path / "open")
        path.write_text(json.dumps(config))
    (tmp_path / "open" / "open_clip_model.safetensors").unlink()
    with pytest.raises(WeightsError, match="open_clip_model"):
        load(tmp_path / "open")


def test_damaged_folders_are_reported(tmp_path: Path) -> None:
    saved(chinese, tmp_path / "saved")
    path = tmp_path / "saved" / "config.json"
    config = json.loads(path.read_text())
    for part, field, value in (("text_config", "hidden_act", "relu"), ("vision_config", "hidden_size", 32)):
        other = json.loads(path.read_text())
        other[part][field] = value
        path.write_text(json.dumps(other))
        with pytest.raises((RecipeError, WeightsError), match=f"{field}|patch_embedding"):
            load(tmp_path / "saved")
        path.write_text(json.dumps(config))
    (tmp_path / "saved" / "vocab.txt").unlink()
    (tmp_path / "saved" / "tokenizer.json").unlink(missing_ok=True)
    with pytest.raises(WeightsError):
        load(tmp_path / "saved")


def test_full_sizes() -> None:
    """Chinese-CLIP ViT-B/16 has 188 M parameters (arXiv:2211.01335, table 1)."""
    from bimo.core import module_weights
    from bimo.core.recipe import Recipe
    from bimo.models.clip.vision import ClipVision
    from bimo.models.text_encoders.bert import Bert

    text = Bert(length=52, masked=True, pooler=False, pool="start", project=512)
    vision = ClipVision(patch=16, width=768, layers=12, heads=12, feed=3072, project=512)
    with module_weights.unfilled():
        count = sum(p.numel() for p in System(Recipe(name="clip", text_encoders=(text,), vision=vision)).parameters())
    assert count / 1e6 == pytest.approx(188, abs=1)
