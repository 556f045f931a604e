"""The relatives of Stable Diffusion: at full size they have the parameters of the libraries' classes; how they read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from bimo.core import module_weights
from bimo.core.errors import RecipeError, WeightsError
from bimo.diffusion.preparation import prepare
from bimo.diffusion.system import System
from bimo.hub.registry import recipe
from bimo.models.layouts.diffusers_folder import recipe_of
from bimo.models.text_encoders.clip import ClipText
from bimo.models.text_encoders.tokenization import read_model
from bimo.models.text_encoders.xlm import XlmText
from tests.support.chinese_checkpoints import PIECES, pieces_words, sentence_model, sentence_words

pytestmark = pytest.mark.slow

CLIP_L = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072}
LARGE = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096}
PAI = {**CLIP_L, "vocab_size": 21128, "max_position_embeddings": 32}
SKY = {**CLIP_L, "vocab_size": 105879, "max_position_embeddings": 77}
TABLE = {**CLIP_L, "vocab_size": 49408, "max_position_embeddings": 77}
XLM = {**LARGE, "vocab_size": 250002, "max_position_embeddings": 514, "type_vocab_size": 1, "layer_norm_eps": 1e-5}
M18 = {**XLM, "project_dim": 1024, "has_pre_transformation": True}
DAMO = {**LARGE, "vocab_size": 21128}
#: The pooler of an XLM-RoBERTa, which is published, unused, and left out.
POOLER = 1024 * 1024 + 1024
#: Recipe: the tower's class and config, what of it is left out, and the parameters of its UNet.
FULL: dict[str, tuple[str, dict[str, Any], int, int]] = {
    "pai-diffusion-artist-large": ("clip", PAI, 0, 859_520_964),
    "pai-diffusion-artist-xlarge": ("clip", PAI, 0, 859_520_964),
    "skypaint": ("clip", SKY, 0, 859_520_964),
    "wukong-huahua": ("clip", TABLE, 0, 859_520_964),
    "miaobi": ("clip", TABLE, 0, 859_520_964),
    "damo-sd-zh": ("chinese-clip", DAMO, 0, 865_910_724),
    "altdiffusion-m9": ("alt", {**XLM, "project_dim": 768}, POOLER, 859_520_964),
    "altdiffusion-m18": ("alt", M18, POOLER, 865_910_724),
}


def reference(kind: str, config: dict[str, Any]) -> Any:
    """The library's class of a tower, without weights."""
    from diffusers.pipelines.deprecated.alt_diffusion.modeling_roberta_series import (
        RobertaSeriesConfig,
        RobertaSeriesModelWithTransformation,
    )
    from transformers import ChineseCLIPTextConfig, ChineseCLIPTextModel, CLIPTextConfig, CLIPTextModel

    with torch.device("meta"):
        if kind == "clip":
            return CLIPTextModel(CLIPTextConfig(**config))
        if kind == "alt":
            return RobertaSeriesModelWithTransformation(RobertaSeriesConfig(**config))
        return ChineseCLIPTextModel(ChineseCLIPTextConfig(**config), add_pooling_layer=False)


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize("name", FULL)
def test_full_size_has_the_parameters_of_the_reference(name: str) -> None:
    kind, config, less, painter = FULL[name]
    with module_weights.unfilled():
        system = System(recipe(name))
    level: Any = system.level("image")
    assert all(p.is_meta for p in system.parameters())
    wanted = reference(kind, config)
    assert count(system.text) == count(wanted) - less
    own = {n: tuple(p.shape) for n, p in system.text_encoders[0].model.named_parameters()}  # type: ignore[attr-defined]
    assert own == {n: tuple(p.shape) for n, p in wanted.named_parameters() if not n.startswith("roberta.pooler.")}
    assert count(level.denoiser) == painter
    assert count(level.space) == 83_653_863


def published(folder: Path, row: str) -> Path:
    """The configs of a row's folder at full size, without weights."""
    unet = {"_class_name": "UNet2DConditionModel", "_diffusers_version": "0.17.0", "sample_size": 64}
    unet |= {"attention_head_dim": 8, "cross_attention_dim": 768}
    if row in ("damo-sd-zh", "altdiffusion-m18"):
        unet |= {"attention_head_dim": [5, 10, 20, 20], "cross_attention_dim": 1024, "use_linear_projection": True}
        unet |= {"dual_cross_attention": False, "only_cross_attention": False, "num_class_embeds": None}
    if row == "pai-diffusion-xl":
        unet["sample_size"] = 96
    blocks = {"down_block_types": ["DownEncoderBlock2D"] * 4, "up_block_types": ["UpDecoderBlock2D"] * 4}
    space = {"_class_name": "AutoencoderKL", "block_out_channels": [128, 256, 512, 512], "layers_per_block": 2}
    schedule = {
        "_class_name": "PNDMScheduler",
        "beta_end": 0.012,
        "beta_start": 0.00085,
        "beta_schedule": "scaled_linear",
    }
    clip: dict[str, Any] = {"model_type": "clip_text_model", "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5}
    clip |= {"attention_dropout": 0.0, "projection_dim": 512}
    alt: dict[str, Any] = {"_name_or_path": "", "learn_encoder": False, "pooler_fn": "cls", "output_past": True}
    alt |= {"use_attention_mask": True, "position_embedding_type": "absolute", "layer_norm_eps": 1e-5}
    cls, named, words, limit, config = {
        "pai-diffusion": ("CLIPTextModel", "transformers", "BertTokenizer", 32, {**clip, **PAI}),
        "pai-diffusion-xl": ("CLIPTextModel", "transformers", "BertTokenizer", 32, {**clip, **PAI}),
        "skypaint": (
            "CLIPTextModel",
            "transformers",
            "BertTokenizer",
            77,
            {**clip, **SKY, "bos_token_id": None, "eos_token_id": None, "sep_token_id": 102},
        ),
        "wukong-huahua": (
            "CLIPTextModel",
            "transformers",
            "BertTokenizer",
            77,
            {**clip, **TABLE, "layer_norm_eps": 1e-7},
        ),
        "miaobi": ("CLIPTextModel", "clip_tokenizer_roberta", "CLIPTokenizerRoberta", 77, {**clip, **TABLE}),
        "damo-sd-zh": ("ChineseCLIPTextModel", "transformers", "ChineseCLIPProcessor", 512, DAMO),
        "altdiffusion-m9": (
            "RobertaSeriesModelWithTransformation",
            "transformers",
            "XLMRobertaTokenizer",
            77,
            {**alt, **XLM, "project_dim": 768},
        ),
        "altdiffusion-m18": (
            "RobertaSeriesModelWithTransformation",
            "transformers",
            "XLMRobertaTokenizer",
            77,
            {**alt, **M18},
        ),
    }[row]
    old = cls.startswith("Roberta")
    index = {
        "_class_name": "AltDiffusionPipeline" if old else "StableDiffusionPipeline",
        "text_encoder": ["alt_diffusion" if old else "transformers", cls],
        "tokenizer": [named, words],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
        "scheduler": ["diffusers", "PNDMScheduler"],
    }
    files = {
        "model_index.json": index,
        "text_encoder/config.json": config,
        "unet/config.json": unet,
        "vae/config.json": {**space, **blocks},
        "scheduler/scheduler_config.json": schedule,
        "tokenizer/tokenizer_config.json": {"model_max_length": limit, "do_lower_case": True},
    }
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(json.dumps(content))
    return folder


@pytest.mark.parametrize(
    ("row", "name", "message"),
    [
        ("pai-diffusion", "pai-diffusion-artist-large", "(21128 x 768 word embeddings): PAI-Diffusion"),
        ("pai-diffusion-xl", "pai-diffusion-artist-xlarge", "(21128 x 768 word embeddings): PAI-Diffusion"),
        ("skypaint", "skypaint", "(105879 x 768 word embeddings): SkyPaint"),
        ("wukong-huahua", "wukong-huahua", "(49408 x 768 word embeddings): WuKong-HuaHua"),
        ("miaobi", "miaobi", "(49408 x 768 word embeddings): MiaoBi"),
        ("damo-sd-zh", "damo-sd-zh", "(21128 x 1024 word embeddings): damo"),
        ("altdiffusion-m9", "altdiffusion-m9", "(250002 x 1024 word embeddings): AltDiffusion-m9"),
        ("altdiffusion-m18", "altdiffusion-m18", "(250002 x 1024 word embeddings): AltDiffusion-m18"),
    ],
)
def test_published_folder_is_the_recipe(
    tmp_path: Path, row: str, name: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BIMO_LANGUAGE", "en")
    found, wanted = recipe_of(published(tmp_path, row)), recipe(name)
    assert found.text_encoders == wanted.text_encoders
    assert (found.levels[0].denoiser, found.levels[0].space) == (wanted.levels[0].denoiser, wanted.levels[0].space)
    assert found.request.size == wanted.request.size
    assert wanted.name.startswith(found.name)
    assert message in found.note


def test_stable_diffusion_2_is_known_by_its_text_encoder(tmp_path: Path) -> None:
    folder = published(tmp_path, "skypaint")
    tower = {**LARGE, "num_hidden_layers": 23, "vocab_size": 49408, "max_position_embeddings": 77, "hidden_act": "gelu"}
    changes: dict[str, dict[str, Any]] = {
        "model_index.json": {"tokenizer": ["transformers", "CLIPTokenizer"]},
        "text_encoder/config.json": tower,
        "unet/config.json": {
            "attention_head_dim": [5, 10, 20, 20],
            "cross_attention_dim": 1024,
            "use_linear_projection": True,
            "sample_size": 96,
        },
        "scheduler/scheduler_config.json": {"prediction_type": "v_prediction", "_class_name": "DDIMScheduler"},
    }
    for name, fields in changes.items():
        (folder / name).write_text(json.dumps(json.loads((folder / name).read_text()) | fields))
    found = recipe_of(folder)
    assert (found.name, found.languages, found.request.size) == ("stable-diffusion-2", ("en",), (768, 768))
    assert found.levels[0].schedule.prediction == "v_prediction"  # type: ignore[attr-defined]
    assert found.levels[0].denoiser.heads == (5, 10, 20, 20)  # type: ignore[attr-defined]


def test_a_size_of_nobody_is_said_to_be_nobodys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BIMO_LANGUAGE", "en")
    folder = published(tmp_path, "skypaint")
    path = folder / "text_encoder/config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"vocab_size": 30522}))
    found = recipe_of(folder)
    assert (found.name, found.languages) == ("stable-diffusion", ("zh",))
    assert "no known system" in found.note


def test_a_text_encoder_has_a_position_for_every_token() -> None:
    with pytest.raises(RecipeError, match="32 positions"):
        ClipText(positions=32, length=77).build()
    with pytest.raises(RecipeError, match="512 positions"):
        XlmText(layers=1, vocab=9, length=513).build()


def test_one_vector_of_a_text_is_the_state_at_its_end(tmp_path: Path) -> None:
    """As PAI's first latent diffusion has it: the state at [SEP], projected, at unit length, for the whole text."""
    words = pieces_words(tmp_path, 12)
    part = ClipText(vocab=30, length=12, words="pieces", eps=1e-7, project=8, answer="end").tiny()
    torch.manual_seed(0)
    tower = part.build().eval()
    tower.load_tokenizer(tmp_path)
    with torch.inference_mode():
        found = tower.encode(["红苹果", "a red cat 小桥流水人家山水"])
        assert found.tokens.shape == (2, 1, 8)
        ids = words(["红苹果"], padding="max_length", max_length=12, return_tensors="pt").input_ids
        end = tower.model(ids).last_hidden_state[0, ids[0].tolist().index(words.sep_token_id)]
        expected = end @ tower.projection.weight.T  # type: ignore[union-attr]
        assert torch.allclose(found.tokens[0, 0], expected / expected.square().sum().sqrt(), atol=1e-6)
    with pytest.raises(RecipeError, match="project"):
        ClipText(answer="end").build()


def test_lost_characters_are_reported(tmp_path: Path) -> None:
    """From the first character that is not read in whole."""
    pieces_words(tmp_path / "bert", 12)
    tower = ClipText(vocab=30, length=12, words="pieces").tiny().build()
    tower.load_tokenizer(tmp_path / "bert")
    assert tower.budget("小桥流水人家山水画，").lost == ""
    assert tower.budget("小桥流水人家山水画，红苹果").lost == "红苹果"
    sentence_words(tmp_path / "xlm", 24)
    other = XlmText(length=8).tiny().build()
    other.load_tokenizer(tmp_path / "xlm")
    assert other.budget("小桥流水人").lost == ""
    assert other.budget("小桥流水人家苹果红").lost == "苹果红"
    assert other.ids(["小桥流水人家苹果红"])[0][0, -1] == 2


def test_sentence_pieces_are_read_as_written(tmp_path: Path) -> None:
    pieces, charsmap = read_model(sentence_model())
    assert [piece for piece, _ in pieces] == [piece for piece, _ in PIECES]
    assert [round(score, 3) for _, score in pieces] == [score for _, score in PIECES]
    assert charsmap == b""
    # A piece has the number of the file and one more, for <pad>; unknown text is <unk>.
    sentence_words(tmp_path, 24)
    tower = XlmText(length=8).tiny().build()
    tower.load_tokenizer(tmp_path)
    numbers = {piece: index + 1 for index, (piece, _) in enumerate(PIECES)}
    assert tower.ids(["red 苹果"])[0][0].tolist() == [0, numbers["▁red"], numbers["▁"], numbers["苹果"], 2, 1, 1, 1]
    assert 3 in tower.ids(["龙"])[0][0].tolist()
    (tmp_path / "sentencepiece.bpe.model").write_bytes(sentence_model()[:-3])
    with pytest.raises(WeightsError, match="truncated"):
        tower.load_tokenizer(tmp_path)


@pytest.mark.parametrize("name", ["pai-diffusion-artist-large", "skypaint", "miaobi", "altdiffusion-m18"])
def test_words_of_a_publisher_are_not_learnt(name: str) -> None:
    part: Any = recipe(name).text_encoders[0]
    with pytest.raises(WeightsError, match=r"words\.0"):
        part.tiny().build().build_tokenizer(["一只红苹果"], ["苹果"])


def test_prompt_of_skypaint_has_its_prefix(tmp_path: Path) -> None:
    pieces_words(tmp_path, 77)
    system = System(recipe("skypaint").tiny()).eval()
    system.text_encoders[0].load_tokenizer(tmp_path)
    prepared = prepare(system, {"text": "红苹果", "seed": 1, "size": (64, 64)})
    with torch.inference_mode():
        assert torch.equal(prepared.prompt[0].tokens, system.encode(["sai-v1 art, 红苹果"])[0].tokens)


def test_stages_learn_what_was_published() -> None:
    keys = ("image.denoiser.model.*attn2.to_k.*", "image.denoiser.model.*attn2.to_v.*")
    words, whole = ("text.*",), ("image.denoiser.*",)
    assert [stage.train for stage in recipe("altdiffusion-m9").stages] == [words, keys]
    assert [stage.train for stage in recipe("altdiffusion-m18").stages] == [words, keys, whole, whole]
    assert [stage.caption_dropout for stage in recipe("altdiffusion-m18").stages] == [0.0, 0.0, 0.0, 0.1]
    assert [stage.train[0] for stage in recipe("skypaint").stages] == ["text.*", "image.denoiser.*"]
    for name in ("pai-diffusion-food-large", "damo-sd-zh", "wukong-huahua-finetune"):
        assert [stage.train for stage in recipe(name).stages] == [("image.denoiser.*",)]
