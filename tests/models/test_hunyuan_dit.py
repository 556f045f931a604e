"""HunyuanDiT's published layouts: the authors' files are the network of diffusers' folders; others are refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from bimo.core.errors import RecipeError, WeightsError
from bimo.diffusion.system import System
from bimo.hub.registry import load, recipe
from bimo.models.hunyuan_dit.denoiser import Hunyuan, middle
from bimo.models.hunyuan_dit.layout import is_authors, read_authors
from bimo.models.layouts.diffusers_folder import read_folder, recipe_of
from bimo.models.text_encoders.t5 import T5
from tests.support.drawing import alike, draw
from tests.support.hunyuan_checkpoints import PIECES, checkpoint, t5_words

pytestmark = pytest.mark.slow

#: The tensors of a block and outside of them, as the authors' modules are nested (hydit/modules/models.py).
BLOCK = [
    *("attn1.Wqkv", "attn1.q_norm", "attn1.k_norm", "attn1.out_proj"),
    *("attn2.q_proj", "attn2.kv_proj", "attn2.q_norm", "attn2.k_norm", "attn2.out_proj"),
    *("norm1", "norm2", "norm3", "mlp.fc1", "mlp.fc2", "default_modulation.1"),
]
OUTSIDE = [
    *("mlp_t5.0", "mlp_t5.2", "pooler.k_proj", "pooler.q_proj", "pooler.v_proj", "pooler.c_proj", "x_embedder.proj"),
    *("t_embedder.mlp.0", "t_embedder.mlp.2", "extra_embedder.0", "extra_embedder.2", "final_layer.linear"),
    "final_layer.adaLN_modulation.1",
]
ALONE = ["text_embedding_padding", "pooler.positional_embedding"]
REQUEST = {"text": "一只红苹果", "seed": 3, "steps": 2, "guidance": 5.0, "size": (48, 64)}


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Each version as diffusers saved it."""
    made = {version: tmp_path_factory.mktemp("hunyuan") / f"v{version}" for version in ("1.1", "1.2")}
    for version, folder in made.items():
        checkpoint(folder, version)
    return made


def authors_state(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors of diffusers' class as the authors name, order and fuse them."""
    made: dict[str, torch.Tensor] = {}
    outside = {
        "x_embedder.proj": "pos_embed.proj",
        "t_embedder.mlp.0": "time_extra_emb.timestep_embedder.linear_1",
        "t_embedder.mlp.2": "time_extra_emb.timestep_embedder.linear_2",
        "extra_embedder.0": "time_extra_emb.extra_embedder.linear_1",
        "extra_embedder.2": "time_extra_emb.extra_embedder.linear_2",
        "mlp_t5.0": "text_embedder.linear_1",
        "mlp_t5.2": "text_embedder.linear_2",
        "final_layer.linear": "proj_out",
        **{f"pooler.{letter}_proj": f"time_extra_emb.pooler.{letter}_proj" for letter in "kqvc"},
    }
    for end in ("weight", "bias"):
        for theirs, ours in outside.items():
            made[f"{theirs}.{end}"] = state[f"{ours}.{end}"]
        width = state[f"norm_out.linear.{end}"].shape[0] // 2
        scale, shift = state[f"norm_out.linear.{end}"][:width], state[f"norm_out.linear.{end}"][width:]
        made[f"final_layer.adaLN_modulation.1.{end}"] = torch.cat([shift, scale])
        for index in range(4):
            at = f"blocks.{index}"
            inner = {
                "norm1": "norm1.norm",
                "norm2": "norm3",
                "norm3": "norm2",
                "default_modulation.1": "norm1.linear",
                "mlp.fc1": "ff.net.0.proj",
                "mlp.fc2": "ff.net.2",
                "attn2.q_proj": "attn2.to_q",
                **{f"attn{i}.{letter}_norm": f"attn{i}.norm_{letter}" for i in (1, 2) for letter in "qk"},
                **{f"attn{i}.out_proj": f"attn{i}.to_out.0" for i in (1, 2)},
            }
            if index == 3:
                inner |= {"skip_norm": "skip_norm", "skip_linear": "skip_linear"}
            for theirs, ours in inner.items():
                made[f"{at}.{theirs}.{end}"] = state[f"{at}.{ours}.{end}"]
            made[f"{at}.attn1.Wqkv.{end}"] = torch.cat([state[f"{at}.attn1.to_{letter}.{end}"] for letter in "qkv"])
            made[f"{at}.attn2.kv_proj.{end}"] = torch.cat([state[f"{at}.attn2.to_{letter}.{end}"] for letter in "kv"])
    made["text_embedding_padding"] = state["text_embedding_padding"]
    made["pooler.positional_embedding"] = state["time_extra_emb.pooler.positional_embedding"]
    if "time_extra_emb.style_embedder.weight" in state:
        made["style_embedder.weight"] = state["time_extra_emb.style_embedder.weight"]
    return made


def authors_folder(folder: Path, place: Path, nested: bool = False) -> Path:
    """A folder of diffusers in the authors' layout."""
    root = place / "t2i"
    (root / "model").mkdir(parents=True)
    state = authors_state(load_file(folder / "transformer" / "diffusion_pytorch_model.safetensors"))
    for kind in ("ema", "module"):
        # What was learnt last and what was averaged are not the same.
        tensors = {n: v * (1.0 if kind == "ema" else 1.1) for n, v in state.items()}
        # Their files hold the tensors as they are, or in a table of that name.
        torch.save({kind: tensors} if nested else tensors, root / "model" / f"pytorch_model_{kind}.pt")
    pairs = {"text_encoder": "clip_text_encoder", "tokenizer": "tokenizer", "text_encoder_2": "mt5"}
    for ours, theirs in {**pairs, "vae": "sdxl-vae-fp16-fix"}.items():
        shutil.copytree(folder / ours, root / theirs)
    shutil.copytree(folder / "tokenizer_2", root / "mt5", dirs_exist_ok=True)
    words = load_file(root / "mt5" / "model.safetensors")
    table = words.get("shared.weight", words.get("encoder.embed_tokens.weight"))
    decoder = {"decoder.block.0.layer.0.SelfAttention.q.weight": torch.ones(2), "lm_head.weight": torch.ones(2)}
    torch.save({**words, "shared.weight": table, **decoder}, root / "mt5" / "pytorch_model.bin")
    (root / "mt5" / "model.safetensors").unlink()
    return place


@pytest.mark.parametrize("version", ["1.1", "1.2"])
def test_the_authors_files_are_the_same_network(places: dict[str, Path], tmp_path: Path, version: str) -> None:
    place = authors_folder(places[version], tmp_path, nested=version == "1.1")
    assert is_authors(place)
    assert not is_authors(places[version])
    one, other = read_folder(places[version]), load(place)
    assert recipe(place) == other.recipe
    assert other.recipe.name == one.recipe.name == f"hunyuan-dit-{version}"
    assert other.recipe.levels[0].schedule.beta_end == one.recipe.levels[0].schedule.beta_end  # type: ignore[attr-defined]
    # The authors' files say nothing of a scheduler; they are drawn by that of their code.
    for sampler in ("", "DDPM", "DDIM"):
        request = {**REQUEST, "sampler": sampler} if sampler else REQUEST
        alike(one, other, request)
    last = read_authors(place, "module")
    assert last.weights_hash != other.weights_hash
    assert draw(last, REQUEST)[0].image.tobytes() != draw(one, REQUEST)[0].image.tobytes()
    with pytest.raises(WeightsError, match="distill"):
        read_authors(place, "distill")


def test_the_recorded_names_are_all_there_are(places: dict[str, Path]) -> None:
    state = authors_state(load_file(places["1.2"] / "transformer" / "diffusion_pytorch_model.safetensors"))
    blocks = [f"blocks.{i}.{name}" for i in range(4) for name in BLOCK]
    named = [*blocks, *OUTSIDE, "blocks.3.skip_norm", "blocks.3.skip_linear"]
    assert state.keys() == {f"{name}.{end}" for name in named for end in ("weight", "bias")} | set(ALONE)


def test_missing_and_strange_tensors_are_listed(places: dict[str, Path], tmp_path: Path) -> None:
    place = authors_folder(places["1.2"], tmp_path)
    file = place / "t2i" / "model" / "pytorch_model_ema.pt"
    state = torch.load(file, weights_only=True)
    del state["blocks.1.mlp.fc2.bias"]
    torch.save({**state, "blocks.2.attn3.q_proj.weight": torch.ones(2)}, file)
    with pytest.raises(WeightsError) as error:
        read_authors(place)
    assert "blocks.1.ff.net.2.bias" in error.value.en
    assert "blocks.2.attn3.q_proj.weight" in error.value.en
    torch.save({"x": torch.ones(2)}, file)
    with pytest.raises(WeightsError, match=r"pos_embed\.proj\.weight"):
        read_authors(place)


@pytest.mark.parametrize(
    ("version", "change"),
    [
        ("1.2", {"beta_end": 0.03}),
        ("1.1", {"beta_end": 0.018}),
        ("1.2", {"prediction_type": "epsilon"}),
        ("1.1", {"beta_schedule": "linear"}),
    ],
)
def test_a_scheduler_of_another_version_is_refused(
    places: dict[str, Path], tmp_path: Path, version: str, change: dict[str, Any]
) -> None:
    folder = tmp_path / "other"
    shutil.copytree(places[version], folder)
    file = folder / "scheduler" / "scheduler_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    with pytest.raises(RecipeError, match="scheduler_config"):
        recipe_of(folder)


def test_sides_are_multiples_of_16(places: dict[str, Path]) -> None:
    from bimo.core.errors import RequestError

    with pytest.raises(RequestError, match="48"):
        draw(read_folder(places["1.2"]), {**REQUEST, "size": (56, 64)})


def test_full_size_has_the_published_counts() -> None:
    """About 1.5 B, mT5-XL's encoder about 1.7 B; diffusers' own class says the same of 1.2."""
    with torch.device("meta"):
        counts = {meta: sum(p.numel() for p in Hunyuan(meta=meta).build().parameters()) for meta in (False, True)}
        tower = sum(p.numel() for p in T5().build().parameters())
    # The style and six sizes of 256 numbers lead into a layer four times as wide as the network.
    assert counts[True] - counts[False] == 1408 + (6 * 256 + 1408) * 4 * 1408
    assert 1.4e9 < counts[False] < 1.6e9
    layer = 4 * 2048 * 2048 + 3 * 2048 * 5120 + 2 * 2048
    assert tower == 250112 * 2048 + 24 * layer + 32 * 32 + 2048


def test_the_recipes_are_of_full_size() -> None:
    from bimo.recipes.hunyuan_dit import hunyuan_dit_1_1, hunyuan_dit_1_2, hunyuan_dit_1_2_control

    with torch.device("meta"):
        made = [System(each) for each in (hunyuan_dit_1_1, hunyuan_dit_1_2, hunyuan_dit_1_2_control)]
    heads = [{name: p.numel() for name, p in system.named_parameters()} for system in made]
    encoders = [sum(n for name, n in each.items() if name.startswith("text.0.")) for each in heads]
    # BERT of 24 layers, 1,024 wide, 47,020 words: about 350 M.
    layer = 4 * (1024 * 1024 + 1024) + 2 * 1024 * 4096 + 4096 + 1024 + 4 * 1024
    assert encoders == [(47020 + 512 + 2 + 2) * 1024 + 24 * layer] * 3
    control = sum(n for name, n in heads[2].items() if ".adapter." in name)
    # The nineteen blocks that are joined to the last ones, and what leads into them.
    assert len({name.split(".blocks.")[1].split(".")[0] for name in heads[2] if ".adapter.model.blocks." in name}) == 19
    assert 0.6e9 < control < 0.8e9


def test_the_places_of_a_picture_lie_over_the_middle_of_a_square() -> None:
    assert middle((64, 64), 32) == ((0, 0), (32, 32))
    assert middle((48, 64), 32) == ((4, 0), (28, 32))
    assert middle((80, 48), 32) == ((0, 6), (32, 25))


def test_the_same_tokens_as_transformers(tmp_path: Path) -> None:
    words = t5_words(tmp_path / "words")
    tower = T5(vocab=64, length=12).tiny().build()
    texts = ["", "a red cat", "一只红苹果，小桥", "  two   blanks 苹", "cat" * 9]
    expected: Any = words(texts, padding="max_length", max_length=12, truncation=True, return_tensors="pt")
    for folder in (tmp_path / "words", sentence_pieces(tmp_path / "pieces")):
        tower.load_tokenizer(folder)
        ids, mask = tower.ids(texts)
        assert torch.equal(ids, expected.input_ids)
        assert torch.equal(mask, expected.attention_mask.bool())
    assert tower.budget("cat" * 9).lost
    tower.save_tokenizer(tmp_path / "again")
    tower.load_tokenizer(tmp_path / "again")
    assert torch.equal(tower.ids(texts)[0], ids)
    with pytest.raises(WeightsError, match=r"spiece\.model"):
        tower.load_tokenizer(tmp_path)


def sentence_pieces(folder: Path) -> Path:
    """The same words as SentencePiece writes them: a protocol buffer with a message for each piece."""
    import struct

    folder.mkdir()
    data = b""
    for text, score in dict(PIECES).items():
        inside = b"\x0a" + bytes([len(text.encode())]) + text.encode() + b"\x15" + struct.pack("<f", score)
        data += b"\x0a" + bytes([len(inside)]) + inside
    (folder / "spiece.model").write_bytes(data)
    return folder


def test_saved_by_bimo_it_draws_the_same(places: dict[str, Path], tmp_path: Path) -> None:
    system = read_folder(places["1.2"])
    system.save(tmp_path)
    again = System.read(tmp_path)
    alike(system, again, REQUEST)
