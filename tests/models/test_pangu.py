"""PanGu-Draw v3 as its authors save it, two files of MindSpore: read back whole, and told what is wrong with them."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bimo.core.errors import RequestError, WeightsError
from bimo.core.recipe import Recipe
from bimo.diffusion.system import System
from bimo.hub import registry
from bimo.models.pangu import layout
from bimo.recipes.pangu_draw import pangu_draw, pangu_draw_high
from tests.models.test_mindspore import written
from tests.support.drawing import alike, draw, same_weights
from tests.support.tiny_checkpoints import BERT_WORDS, bert_words, clip_words

pytestmark = pytest.mark.slow

HIGH, LOW = "pangu_high_timestamp-c6344411.ckpt", "pangu_low_timestamp-127da122.ckpt"
REQUEST: dict[str, Any] = {"text": "一只红苹果 a red cat", "size": (64, 240), "seed": 3, "steps": 4}
RESIDUAL = {
    "norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1", "norm2": "out_layers.0",
    "conv2": "out_layers.3", "conv_shortcut": "skip_connection",
}  # fmt: skip
#: Where the blocks of a UNet of three levels, one residual block each, stand in the authors' lists.
PLACES = {
    "time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0", "add_embedding.linear_2": "label_emb.0.2",
    "conv_in": "input_blocks.0.0", "conv_norm_out": "out.0", "conv_out": "out.2",
    "down_blocks.0.resnets.0": "input_blocks.1.0", "down_blocks.0.downsamplers.0.conv": "input_blocks.2.0.op",
    "down_blocks.1.resnets.0": "input_blocks.3.0", "down_blocks.1.attentions.0": "input_blocks.3.1",
    "down_blocks.1.downsamplers.0.conv": "input_blocks.4.0.op",
    "down_blocks.2.resnets.0": "input_blocks.5.0", "down_blocks.2.attentions.0": "input_blocks.5.1",
    "mid_block.resnets.0": "middle_block.0", "mid_block.attentions.0": "middle_block.1",
    "mid_block.resnets.1": "middle_block.2",
    "up_blocks.0.resnets.0": "output_blocks.0.0", "up_blocks.0.attentions.0": "output_blocks.0.1",
    "up_blocks.0.resnets.1": "output_blocks.1.0", "up_blocks.0.attentions.1": "output_blocks.1.1",
    "up_blocks.0.upsamplers.0.conv": "output_blocks.1.2.conv",
    "up_blocks.1.resnets.0": "output_blocks.2.0", "up_blocks.1.attentions.0": "output_blocks.2.1",
    "up_blocks.1.resnets.1": "output_blocks.3.0", "up_blocks.1.attentions.1": "output_blocks.3.1",
    "up_blocks.1.upsamplers.0.conv": "output_blocks.3.2.conv",
    "up_blocks.2.resnets.0": "output_blocks.4.0", "up_blocks.2.resnets.1": "output_blocks.5.0",
}  # fmt: skip
CODER = (
    (r"^(..coder)\.conv_norm_out", r"\1.norm_out"), (r"mid_block\.resnets\.0", "mid.block_1"),
    (r"mid_block\.resnets\.1", "mid.block_2"), (r"mid_block\.attentions\.0", "mid.attn_1"),
    (r"conv_shortcut", "nin_shortcut"), (r"group_norm", "norm"), (r"to_out\.0", "proj_out"), (r"to_([qkv])", r"\1"),
    (r"down_blocks\.(\d)\.resnets", r"down.\1.block"), (r"down_blocks\.(\d)\.downsamplers\.0", r"down.\1.downsample"),
    (r"up_blocks\.(\d)\.resnets", r"up.-\1.block"), (r"up_blocks\.(\d)\.upsamplers\.0", r"up.-\1.upsample"),
    (r"up\.-(\d)", lambda m: f"up.{3 - int(m[1])}"),
)  # fmt: skip


def spelt(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """A module's tensors, the last word of each as MindSpore's layer of that kind calls it."""
    for name, inner in module.named_modules():
        kinds = {"weight": "weight", "bias": "bias"}
        if isinstance(inner, (nn.GroupNorm, nn.LayerNorm)):
            kinds = {"weight": "gamma", "bias": "beta"}
        elif isinstance(inner, nn.Embedding):
            kinds = {"weight": "embedding_table"}
        for own, value in inner.named_parameters(recurse=False):
            yield f"{name}.{kinds[own]}", value.detach()


def unet_state(module: nn.Module) -> dict[str, Tensor]:
    found = {}
    for name, value in spelt(module):
        place = max((p for p in PLACES if name.startswith(f"{p}.")), key=len)
        rest = name.removeprefix(f"{place}.")
        if ".resnets." in place:
            kind, _, last = rest.rpartition(".")
            rest = f"{RESIDUAL[kind]}.{last}"
        found[f"model.diffusion_model.{PLACES[place]}.{rest}"] = value
    return found


def coder_state(module: nn.Module) -> dict[str, Tensor]:
    found = {}
    for name, value in spelt(module):
        for pattern, own in CODER:
            name = re.sub(pattern, own, name)
        points = ".attn_1." in name and value.ndim == 2
        found[f"first_stage_model.{name}"] = value[:, :, None, None] if points else value
    return found


def chinese_state(tower: Any) -> dict[str, Tensor]:
    prefix = "conditioner.embedders.0.transformer.text_model."
    found = {f"{prefix}{name}": value for name, value in spelt(tower.model)}
    return found | {f"{prefix}embeddings.position_ids": torch.arange(77, dtype=torch.int32)[None]}


def larger_state(tower: Any) -> dict[str, Tensor]:
    own = dict(spelt(tower.model))
    found = {
        "token_embedding.embedding_table": own["embeddings.token_embedding.embedding_table"],
        "positional_embedding": own["embeddings.position_embedding.embedding_table"],
        "ln_final.gamma": own["final_layer_norm.gamma"],
        "ln_final.beta": own["final_layer_norm.beta"],
        "text_projection": tower.projection.weight.detach().T.contiguous(),
        "attn_mask": torch.zeros(77, 77),
    }
    for n in range(tower.part.layers):
        layer, block = f"encoder.layers.{n}", f"transformer.resblocks.{n}"
        for kind in ("weight", "bias"):
            rows = [own[f"{layer}.self_attn.{which}_proj.{kind}"] for which in "qkv"]
            found[f"{block}.attn.in_proj_{kind}"] = torch.cat(rows)
            found[f"{block}.attn.out_proj.{kind}"] = own[f"{layer}.self_attn.out_proj.{kind}"]
            found[f"{block}.mlp.c_fc.{kind}"] = own[f"{layer}.mlp.fc1.{kind}"]
            found[f"{block}.mlp.c_proj.{kind}"] = own[f"{layer}.mlp.fc2.{kind}"]
        for kind in ("gamma", "beta"):
            for at in (1, 2):
                found[f"{block}.ln_{at}.{kind}"] = own[f"{layer}.layer_norm{at}.{kind}"]
    return {f"conditioner.embedders.1.model.{name}": value for name, value in found.items()}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[System, Path, Recipe]:
    """A system, the folder its authors would give, and the recipe to read it by, which knows another count of words."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("given") / "pangu"
    bert_words(folder)
    pairs = clip_words(folder / "words.1")
    tiny = pangu_draw.tiny()
    first, second = tiny.text_encoders
    # The published files of CLIP's words say another padding than the authors use.
    text = (replace(first, vocab=len(BERT_WORDS)), replace(second, vocab=len(pairs)))
    torch.manual_seed(5)
    system = System(replace(tiny, text_encoders=text)).eval()
    system.text_encoders[0].load_tokenizer(folder)
    system.text_encoders[1].load_tokenizer(folder / "words.1")
    larger: Any = system.text_encoders[1]
    larger.pad = 0
    space: Any = system.get_submodule("image.space.model")
    low = unet_state(system.get_submodule("image.denoiser.low.model")) | coder_state(space)
    low |= chinese_state(system.text_encoders[0]) | larger_state(larger)
    written(folder / LOW, low | {"global_step": torch.tensor(7, dtype=torch.int32)})
    high = unet_state(system.get_submodule("image.denoiser.high.model"))
    written(folder / HIGH, high | {"conditioner.embedders.0.spare": torch.zeros(2)})
    return system, folder, replace(tiny, text_encoders=(first, text[1]))


def copied(folder: Path, to: Path) -> Path:
    return Path(shutil.copytree(folder, to / "copy"))


def test_every_tensor_is_read_and_it_draws_the_same_bytes(made: tuple[System, Path, Recipe]) -> None:
    system, folder, wanted = made
    again = layout.read(folder, wanted)
    alike(system, again, REQUEST)
    assert again.recipe.text_encoders == system.recipe.text_encoders
    # Its positions, mask, step, and what stands beside the expert of high times.
    assert re.search(r"\b4 more entries|还有 4 个条目", again.recipe.note)


def test_the_recipe_that_is_asked_for_chooses_the_sizes(made: tuple[System, Path, Recipe]) -> None:
    system, folder, wanted = made
    again = layout.read(folder, replace(pangu_draw_high.tiny(), text_encoders=wanted.text_encoders))
    assert again.recipe.name == pangu_draw_high.tiny().name
    same_weights(system, again)
    with pytest.raises(RequestError):
        draw(again, REQUEST)


def test_the_folder_is_known_and_its_name_chooses_the_sizes(made: tuple[System, Path, Recipe], tmp_path: Path) -> None:
    _, folder, _ = made
    found = registry.recipe(folder)
    assert (found.name, found.request.sizes) == (pangu_draw.name, pangu_draw.request.sizes)
    named = Path(shutil.copytree(folder, tmp_path / pangu_draw_high.name))
    found = registry.recipe(named)
    assert (found.name, found.request.sizes) == (pangu_draw_high.name, pangu_draw_high.request.sizes)
    with pytest.raises(WeightsError, match="misshapen"):
        registry.load(folder)


@pytest.mark.parametrize(("gone", "pattern"), [(HIGH, "pangu_high_timestamp"), (LOW, "pangu_low_timestamp")])
def test_a_missing_expert_is_reported(
    made: tuple[System, Path, Recipe], tmp_path: Path, gone: str, pattern: str
) -> None:
    _, folder, wanted = made
    folder = copied(folder, tmp_path)
    (folder / gone).unlink()
    for read in (lambda: layout.read(folder, wanted), lambda: registry.recipe(folder)):
        with pytest.raises(WeightsError, match=f"expected one {pattern}.*found: (none|没有)"):
            read()


def test_a_second_file_of_an_expert_is_reported(made: tuple[System, Path, Recipe], tmp_path: Path) -> None:
    _, folder, wanted = made
    folder = copied(folder, tmp_path)
    shutil.copy(folder / LOW, folder / "pangu_low_timestamp-2.ckpt")
    with pytest.raises(WeightsError, match=r"expected one pangu_low.*127da122"):
        layout.read(folder, wanted)


@pytest.mark.parametrize("name", [HIGH, LOW])
def test_a_file_cut_short_is_reported(made: tuple[System, Path, Recipe], tmp_path: Path, name: str) -> None:
    _, folder, wanted = made
    folder = copied(folder, tmp_path)
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[: len(content) * 2 // 3 + 1])
    with pytest.raises(WeightsError, match=r"damaged|missing"):
        layout.read(folder, wanted)


def test_missing_unexpected_and_misshapen_tensors_are_listed(made: tuple[System, Path, Recipe], tmp_path: Path) -> None:
    system, folder, wanted = made
    folder = copied(folder, tmp_path)
    high = unet_state(system.get_submodule("image.denoiser.high.model"))
    high["model.diffusion_model.out.3.weight"] = high.pop("model.diffusion_model.out.2.weight")
    high["model.diffusion_model.out.0.gamma"] = torch.zeros(3)
    written(folder / HIGH, high)
    with pytest.raises(WeightsError) as caught:
        layout.read(folder, wanted)
    message = str(caught.value)
    for part in ("high.model.conv_out.weight", "out.3.weight", "high.model.conv_norm_out.weight (3,)"):
        assert part in message
