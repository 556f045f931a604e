"""Language models as towers: what is read of a prompt, at which layer, and what a denoiser sees of padding."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from diffusers.pipelines.longcat_image.pipeline_longcat_image import split_quotation
from hypothesis import given
from hypothesis import strategies as st

from bimo.core.errors import RecipeError, WeightsError
from bimo.models.layouts.configs import Config
from bimo.models.layouts.language_model import language_model, text_name
from bimo.models.text_encoders.language_model import Bridge, LanguageModel, LanguageModelEncoder
from bimo.models.text_encoders.quoted_pieces import pieces
from tests.support.flow_checkpoints import VOCAB, glm_words, qwen_words

TEMPLATE = "<|im_start|>user\n{}<|im_end|>\n"
TINY = LanguageModel(vocab=VOCAB, template=TEMPLATE).tiny()


def tower(folder: Path, words: Any = qwen_words, **settings: Any) -> LanguageModelEncoder:
    """A tiny tower with random weights and words."""
    torch.manual_seed(3)
    words(folder)
    made = replace(TINY, **settings).build().eval()
    made.load_tokenizer(folder)
    return made


@pytest.mark.parametrize(
    "text",
    [
        "请写“福 到”两个字",
        "Please write 'Hello' on the blackboard, don't wait",
        "he said \"it's 'so'\" and ‘left’",
        "“没有写完",
        "“套“娃”",
        "",
    ],
)
def test_quotes_are_found_as_in_longcat(text: str) -> None:
    expected = [c for part, quoted in split_quotation(text) for c in (list(part) if quoted else [part])]
    found = pieces(text)
    assert [piece for _, piece in found] == expected
    assert all(text[at : at + len(piece)] == piece for at, piece in found)


@given(st.text(alphabet="ab' \"“”‘’福", max_size=24))
def test_pieces_are_the_whole_text_in_order(text: str) -> None:
    assert "".join(piece for _, piece in pieces(text)) == text


def test_quoted_words_take_a_token_a_character(tmp_path: Path) -> None:
    made = tower(tmp_path, characters=True)
    known = {"red": 1, "'red'": 5}
    for text, count in known.items():
        assert made.budget(text).used == count


@pytest.mark.parametrize("family", ["qwen3", "qwen2_5_vl", "glm", "gemma2", "llama"])
def test_states_are_those_before_the_norm_only_where_told(family: str) -> None:
    """transformers 5 lists the last state through the final norm; what came out of the last layer needs a hook."""
    torch.manual_seed(1)
    sizes = LanguageModel(family=family, vocab=VOCAB).tiny()
    made = sizes.build().eval()
    with torch.no_grad():
        made.model.norm.weight.add_(torch.rand(16))
    ids, seen = torch.arange(5)[None], torch.ones(1, 5, dtype=torch.bool)
    listed = made.model(ids, output_hidden_states=True).hidden_states
    assert len(listed) == 3
    assert torch.equal(made(ids, seen).tokens, listed[-1])
    made.part = replace(sizes, normed=False)
    plain = made(ids, seen).tokens
    assert not torch.allclose(plain, listed[-1], atol=1e-3)
    assert torch.allclose(made.model.norm(plain), listed[-1], atol=1e-6)
    made.part = replace(sizes, state=-2)
    assert torch.equal(made(ids, seen).tokens, listed[1])


def test_a_text_is_the_same_alone_and_beside_a_longer_one(tmp_path: Path) -> None:
    made = tower(tmp_path, drop=2)
    alone, both = made.encode(["red"]), made.encode(["red", "红苹果 red red"])
    assert alone.mask is None
    assert both.mask is not None
    length = alone.tokens.shape[1]
    assert both.mask.sum(1).tolist() == [length, both.tokens.shape[1]]
    assert torch.allclose(both.tokens[:1, :length], alone.tokens, atol=1e-5)


def test_padding_to_the_length_is_seen_by_the_denoiser_alone(tmp_path: Path) -> None:
    made = tower(tmp_path, characters=True, pad="full", length=20)
    encoding = made.encode(["red", ""])
    assert encoding.mask is None
    assert encoding.tokens.shape == (2, 20, 16)
    longer = tower(tmp_path / "b", characters=True, pad="full", length=24).encode(["red"])
    assert torch.allclose(longer.tokens[:, :1], encoding.tokens[:1, :1], atol=1e-5)


def test_padding_to_the_longest_of_the_batch(tmp_path: Path) -> None:
    encoding = tower(tmp_path, pad="batch").encode(["red", "红苹果"])
    assert encoding.mask is None
    assert encoding.tokens.shape[0] == 2


def test_padding_on_the_left_is_seen_by_all(tmp_path: Path) -> None:
    made = tower(tmp_path, words=glm_words, template="{}", multiple=16, family="glm")
    encoding = made.encode(["red", "red " * 12])
    assert encoding.mask is not None
    assert encoding.mask.sum(1).tolist() == [16, 32]
    blank, marks = made.pad, [made.tokenizer.token_to_id(mark) for mark in ("[gMASK]", "<sop>")]
    red = made.tokenizer.encode("red", add_special_tokens=False).ids
    ids = torch.tensor([[blank] * (16 - 2 - len(red)) + marks + red])
    expected = made.model(ids).last_hidden_state
    assert torch.allclose(encoding.tokens[:1, :16], expected, atol=1e-5)


def test_what_is_past_the_length_is_reported(tmp_path: Path) -> None:
    made = tower(tmp_path, drop=2, length=8)
    assert made.budget("red").lost == ""
    text = "red" * 12
    budget = made.budget(text)
    assert budget.limit == 8
    assert budget.lost
    assert text.endswith(budget.lost)
    assert budget.warnings()
    assert made.encode([text]).tokens.shape[1] == 8


def test_words_are_saved_and_read_back(tmp_path: Path) -> None:
    made = tower(tmp_path / "a")
    made.save_tokenizer(tmp_path / "b")
    again = replace(TINY).build()
    again.load_tokenizer(tmp_path / "b")
    assert (again.pad, again.tokenizer.encode("红 red").ids) == (made.pad, made.tokenizer.encode("红 red").ids)


def test_words_of_two_files(tmp_path: Path) -> None:
    """As the folders of Qwen-Image have them: vocab.json, merges.txt, and marks in the settings."""
    made = tower(tmp_path / "a")
    table = json.loads((tmp_path / "a" / "tokenizer.json").read_text(encoding="utf-8"))
    old = tmp_path / "old"
    old.mkdir()
    (old / "vocab.json").write_text(json.dumps(table["model"]["vocab"]), encoding="utf-8")
    merges = [" ".join(pair) if isinstance(pair, list) else pair for pair in table["model"]["merges"]]
    (old / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]), encoding="utf-8")
    marks = {str(t["id"]): {**{k: v for k, v in t.items() if k != "id"}} for t in table["added_tokens"]}
    own = {"tokenizer_class": "Qwen2Tokenizer", "pad_token": "<|endoftext|>", "added_tokens_decoder": marks}
    (old / "tokenizer_config.json").write_text(json.dumps(own))
    again = replace(TINY).build()
    again.load_tokenizer(old)
    text = "<|im_start|>user\nred 红<|im_end|>"
    assert again.tokenizer.encode(text).ids == made.tokenizer.encode(text).ids


def test_a_text_encoder_without_words_says_so(tmp_path: Path) -> None:
    with pytest.raises(WeightsError):
        replace(TINY).build().encode(["x"])
    with pytest.raises(WeightsError):
        replace(TINY).build().load_tokenizer(tmp_path)
    with pytest.raises(WeightsError):
        replace(TINY).build().build_tokenizer((), ())


def test_a_bridge_is_a_linear_layer_and_a_norm(tmp_path: Path) -> None:
    made = tower(tmp_path, bridge=Bridge(width=12))
    plain = tower(tmp_path)
    plain.model.load_state_dict(made.model.state_dict())
    assert made.out is not None
    states = plain.encode(["red"]).tokens @ made.out.weight.T
    expected = (states - states.mean(-1, keepdim=True)) / (states.var(-1, keepdim=True, correction=0) + 1e-6).sqrt()
    assert torch.allclose(made.encode(["red"]).tokens, expected, atol=1e-5)


def test_fields_that_do_not_go_together_are_reported() -> None:
    with pytest.raises(RecipeError, match="qwen3"):
        LanguageModel(family="qwen33")
    with pytest.raises(RecipeError):
        LanguageModel(template="no place")
    with pytest.raises(RecipeError):
        LanguageModel(normed=False, state=-2)


@pytest.mark.parametrize(
    ("published", "own"),
    [
        ("model.layers.0.mlp.up_proj.weight", "layers.0.mlp.up_proj.weight"),
        ("layers.0.mlp.up_proj.weight", "layers.0.mlp.up_proj.weight"),
        ("model.language_model.norm.weight", "norm.weight"),
        ("language_model.model.norm.weight", "norm.weight"),
        ("lm_head.weight", None),
        ("visual.blocks.0.norm1.weight", None),
        ("model.visual.patch_embed.proj.weight", None),
    ],
)
def test_names_of_all_days(published: str, own: str | None) -> None:
    assert text_name(published) == own


def config(**fields: Any) -> Config:
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": VOCAB}
    return Config(Path("config.json"), {**sizes, "intermediate_size": 32, "max_position_embeddings": 64, **fields})


def test_a_config_of_today_and_one_of_before_give_the_same_rotation() -> None:
    rope = {"rope_type": "default", "mrope_section": [2, 1, 1]}
    today = {"rope_parameters": {**rope, "rope_theta": 5e5}, "num_key_value_heads": 1}
    before = {"rope_scaling": {**rope, "type": "default"}, "rope_theta": 5e5, "num_key_value_heads": 1}
    ids, seen = torch.arange(9)[None], torch.ones(1, 9, dtype=torch.bool)
    answers: list[torch.Tensor] = []
    for fields in (today, before):
        torch.manual_seed(0)
        made = language_model(config(**fields), "qwen2_5_vl").build().eval()
        answers.append(made(ids, seen).tokens)
    assert torch.equal(*answers)
    torch.manual_seed(0)
    other = language_model(config(**{**before, "rope_theta": 7.0}), "qwen2_5_vl").build().eval()
    assert not torch.allclose(other(ids, seen).tokens, answers[0], atol=1e-4)


def test_a_field_that_the_class_lacks_is_named() -> None:
    with pytest.raises(RecipeError, match="sparse_experts"):
        language_model(config(sparse_experts=4), "qwen3")


def test_a_tiny_cpm_reads_as_transformers_does(tmp_path: Path) -> None:
    made = tower(tmp_path, family="cpmant", template="{}", pad="batch", config={"prompt_length": 2, "prompt_types": 4})
    ids = torch.tensor([[5, 6, 7, 8]])
    expected = made.model(ids, use_cache=False).last_hidden_state
    assert isinstance(made.model, transformers.CpmAntModel)
    assert torch.allclose(made(ids, torch.ones(1, 4, dtype=torch.bool)).tokens, expected)
