"""The Chinese relatives of Stable Diffusion 1 and 2 draw in bimo as in diffusers, from their published layouts."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch

from bimo.core.errors import WeightsError
from bimo.diffusion.system import System
from bimo.models.layouts.diffusers_folder import read_folder, recipe_of
from tests.support.chinese_checkpoints import ROWS, Published, copied, edit, published
from tests.support.drawing import alike, draw, same_weights

TEXTS = ["", "一只红苹果", "reds cat", "[SEP] 小桥流水人家，山水画。", "  a  red\n", "龙😀ａ３", "红" * 60]
REQUESTS: list[dict[str, Any]] = [
    {"text": "一只红苹果，a cat", "negative": "小桥流水", "size": (80, 48), "count": 2},
    {"text": "小桥流水人家，" * 3, "guidance": 3.0},
]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Published]:
    """A row's folder, saved when first asked for."""
    found: dict[str, Published] = {}

    def make(row: str) -> Published:
        if row not in found:
            found[row] = published(tmp_path_factory.mktemp(row) / "saved", row)
        return found[row]

    return make


def by_diffusers(row: Published, request: dict[str, Any]) -> list[numpy.ndarray]:
    """The pictures of diffusers' own pipeline; a tower that it cannot call is called here."""
    count = request.get("count", 1)
    width, height = request.get("size", (64, 64))
    said: dict[str, Any] = {"prompt": request["text"], "negative_prompt": request.get("negative")}
    if row.pipeline.tokenizer is None:
        names = {"prompt_embeds": request["text"], "negative_prompt_embeds": request.get("negative", "")}
        said = {name: by_tower(row, [text]) for name, text in names.items()}
    drawn: Any = row.pipeline(
        **said,
        width=width,
        height=height,
        num_inference_steps=request["steps"],
        guidance_scale=request["guidance"],
        num_images_per_prompt=count,
        generator=[torch.Generator().manual_seed(request["seed"] + i) for i in range(count)],
    )
    return [numpy.asarray(image) for image in drawn.images]


def by_tower(row: Published, texts: list[str]) -> torch.Tensor:
    """What a publisher's tower answers, told of the padding."""
    seen = row.words(texts, padding="max_length", max_length=row.length, truncation=True, return_tensors="pt")
    with torch.inference_mode():
        return row.tower(**seen)[0]


@pytest.mark.parametrize("row", ROWS)
@pytest.mark.parametrize("request_", REQUESTS, ids=["negative, two, wide", "long"])
def test_draws_as_diffusers(made: Any, row: str, request_: dict[str, Any]) -> None:
    request = {"seed": 3, "steps": 4, "guidance": 7.5, "size": (64, 64), **request_}
    pictures = draw(read_folder(made(row).folder), request, batch=2)
    expected = by_diffusers(made(row), request)
    assert len(pictures) == len(expected) == request.get("count", 1)
    for picture, array in zip(pictures, expected, strict=True):
        found = numpy.asarray(picture.image).astype(int)
        assert found.shape == array.shape
        assert numpy.abs(found - array).max() <= 1
        assert array.std() > 5  # a flat picture would prove nothing


@pytest.mark.parametrize("row", ROWS)
def test_same_tokens_as_transformers(made: Any, row: str, tmp_path: Path) -> None:
    """Read from the publisher's files, and again from those that were saved."""
    here = made(row)
    tower: Any = read_folder(here.folder).text_encoders[0]
    seen = here.words(TEXTS, padding="max_length", max_length=here.length, truncation=True, return_tensors="pt")
    ids, mask = tower.ids(TEXTS)
    assert torch.equal(ids, seen.input_ids)
    assert torch.equal(mask.long(), seen.attention_mask)
    tower.save_tokenizer(tmp_path)
    tower.load_tokenizer(tmp_path)
    assert torch.equal(tower.ids(TEXTS)[0], ids)


@pytest.mark.parametrize("row", ["damo", "alt", "alt-m18"])
def test_text_encoder_gets_the_padding_mask_and_the_unet_does_not(made: Any, row: str) -> None:
    here = made(row)
    tower: Any = read_folder(here.folder).text_encoders[0]
    with torch.inference_mode():
        found = tower.encode(["红苹果"])
        assert found.mask is None
        assert found.tokens.shape == (1, here.length, 16)
        assert torch.allclose(found.tokens, by_tower(here, ["红苹果"]), atol=1e-5)
        ids, mask = tower.ids(["红苹果"])
        unmasked = tower.forward(ids, torch.ones_like(mask)).tokens
    assert not torch.allclose(found.tokens, unmasked, atol=1e-2)


def test_long_prompt_of_pai_is_read_in_pieces(made: Any) -> None:
    """As in PAI's own interface: pieces of 32 tokens side by side, the negative prompt padded to as many."""
    here = made("pai")
    tower: Any = read_folder(here.folder).text_encoders[0]
    text, negative = "小桥流水人家，" * 6 + "一只红苹果", "红 cat"
    ids = here.words(text, return_tensors="pt").input_ids
    other = here.words(negative, padding="max_length", max_length=ids.shape[1], return_tensors="pt").input_ids
    assert ids.shape[1] == 49
    with torch.inference_mode():
        found = tower.encode([negative, text]).tokens
        for row, whole in enumerate((other, ids)):
            expected = torch.cat([here.tower(piece)[0] for piece in whole.split(32, dim=1)], dim=1)
            assert torch.allclose(found[row], expected[0], atol=1e-5)
        assert tower.encode([negative]).tokens.shape == (1, 32, 16)
    budget = tower.budget(text)
    assert (budget.used, budget.limit, budget.lost) == (49, 64, "")
    picture = draw(read_folder(here.folder), {"text": text, "negative": negative, "size": (64, 64), "steps": 8})[0]
    assert not picture.warnings


def test_rows_beyond_the_words_are_read_from_nowhere(made: Any) -> None:
    """WuKong's table has more rows than its vocabulary has words."""
    tower: Any = read_folder(made("wukong").folder).text_encoders[0]
    assert tower.model.embeddings.token_embedding.num_embeddings > len(made("wukong").words)
    # A prompt too long keeps its end mark.
    assert tower.ids(["红" * 60])[0][0, -1] == made("wukong").words.sep_token_id
    assert tower.budget("红" * 60).lost == "红" * 38


def test_what_miaobi_begins_and_ends_with(made: Any) -> None:
    here = made("miaobi")
    tower: Any = read_folder(here.folder).text_encoders[0]
    plain = here.words("红苹果", add_special_tokens=False).input_ids
    assert tower.ids(["红苹果"])[0][0].tolist() == [49406, *plain, 49407, *[0] * 19]


def test_words_of_miaobi_named_in_its_own_settings_alone(made: Any, tmp_path: Path) -> None:
    folder = copied(made("miaobi").folder, tmp_path / "other")
    edit(folder / "model_index.json", tokenizer=["transformers_modules.clip_tokenizer_roberta", "CLIPTokenizerRoberta"])
    assert recipe_of(folder) == recipe_of(made("miaobi").folder)
    edit(folder / "model_index.json", tokenizer=["transformers", "PreTrainedTokenizer"])
    edit(folder / "tokenizer/tokenizer_config.json", auto_map={"AutoTokenizer": ["x.CLIPTokenizerRoberta", None]})
    assert recipe_of(folder) == recipe_of(made("miaobi").folder)


def test_whole_chinese_clip_in_the_place_of_its_text_encoder(made: Any, tmp_path: Path) -> None:
    """Names with ``text_model.``, a pooler, the half that sees, a nested config of many words: the same pictures."""
    from safetensors.torch import load_file, save_file

    here = made("damo").folder
    folder = copied(here, tmp_path / "whole")
    file = folder / "text_encoder/model.safetensors"
    state = {f"text_model.{name}": value for name, value in load_file(file).items()}
    beside = ("vision_model.embeddings.class_embedding", "logit_scale", "text_projection.weight")
    extra = ("text_model.pooler.dense.weight", "text_model.embeddings.position_ids")
    save_file(state | {name: torch.zeros(2) for name in (*beside, *extra)}, file)
    path = folder / "text_encoder/config.json"
    text = json.loads(path.read_text()) | {"top_k": 50, "is_decoder": False, "pruned_heads": {}, "typical_p": 1.0}
    path.write_text(json.dumps({"model_type": "chinese_clip", "text_config": text, "vision_config": {}}))
    one, other = read_folder(here), read_folder(folder)
    assert one.recipe.text_encoders == other.recipe.text_encoders
    same_weights(one.text_encoders[0], other.text_encoders[0])  # type: ignore[arg-type]


def test_m18_without_its_mark_is_refused(made: Any, tmp_path: Path) -> None:
    """Ignoring its norm and second layer would paint something else without a word."""
    folder = copied(made("alt-m18").folder, tmp_path / "bad")
    edit(folder / "text_encoder/config.json", has_pre_transformation=False)
    with pytest.raises(WeightsError, match="pre_LN"):
        read_folder(folder)


def test_m18_without_its_norm_is_refused(made: Any, tmp_path: Path) -> None:
    folder = copied(made("alt").folder, tmp_path / "bad")
    edit(folder / "text_encoder/config.json", has_pre_transformation=True)
    with pytest.raises(WeightsError) as raised:
        read_folder(folder)
    assert "missing 4" in raised.value.en
    assert "pre_LN.weight" in raised.value.en


def test_positions_among_the_weights_are_no_weights(made: Any, tmp_path: Path) -> None:
    """Older libraries saved them, under the names of their day."""
    from safetensors.torch import load_file, save_file

    for row, name, wide in (("pai", "text_model.embeddings", 32), ("alt", "roberta.embeddings", 26)):
        folder = copied(made(row).folder, tmp_path / row)
        file = folder / "text_encoder/model.safetensors"
        state = load_file(file)
        prefix = "" if row == "alt" or next(iter(state)).startswith("text_model.") else "text_model."
        old = {f"{prefix}{key}": value for key, value in state.items()}
        save_file(old | {f"{name}.position_ids": torch.arange(wide)[None]}, file)
        one, other = read_folder(made(row).folder).text.state_dict(), read_folder(folder).text.state_dict()
        assert one.keys() == other.keys()
        assert all(torch.equal(value, other[key]) for key, value in one.items())


def test_text_encoder_is_never_given_more_than_it_has_positions_for(made: Any, tmp_path: Path) -> None:
    folder = copied(made("pai").folder, tmp_path / "long")
    for limit in (77, 1e30):
        edit(folder / "tokenizer/tokenizer_config.json", model_max_length=limit)
        tower: Any = read_folder(folder).text_encoders[0]
        assert tower.ids(["红苹果"])[0].shape == (1, 32)
    # Its words have no end mark that CLIP's own pooling would find: nothing is pooled.
    assert tower.encode(["红苹果"]).pooled is None


@pytest.mark.parametrize("row", ["pai", "miaobi", "damo", "alt-m18"])
def test_saved_by_bimo_it_draws_the_same(made: Any, tmp_path: Path, row: str) -> None:
    system = read_folder(made(row).folder)
    system.save(tmp_path)
    again = System.read(tmp_path)
    request = {"text": "red 苹果", "seed": 3, "steps": 2, "negative": "小桥"}
    alike(system, again, request)
