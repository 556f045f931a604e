"""Checkpoints of MindSpore, written here byte by byte as its protocol says, read without it."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from bimo.core.errors import WeightsError
from bimo.models.layouts import mindspore
from bimo.models.layouts.diffusers_folder import read_folder
from bimo.models.layouts.export import to_single
from bimo.models.stable_diffusion import ldm_names
from bimo.models.stable_diffusion.single_file import read_file
from tests.parity.test_single_file import made
from tests.support.drawing import draw, same_weights

SPLIT = 3


def varint(value: int) -> bytes:
    found = b""
    while value > 127:
        found += bytes([value & 127 | 128])
        value >>= 7
    return found + bytes([value])


def message(field: int, content: bytes) -> bytes:
    return varint(field << 3 | 2) + varint(len(content)) + content


def value(tag: str, tensor: Tensor, packed: bool = False) -> bytes:
    """A tensor as MindSpore writes it: long ones in several messages of the same tag."""
    kinds = {torch.float32: "Float32", torch.float16: "Float16", torch.bfloat16: "BFloat16", torch.int32: "Int32"}
    shape = list(tensor.shape) or [0]
    content = tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    size = tensor.element_size()
    cut = (len(content) // size // SPLIT or 1) * size
    pieces = [content[at : at + cut] for at in range(0, len(content), cut)] if len(content) > 64 else [content]
    dims = message(1, b"".join(map(varint, shape))) if packed else b"".join(varint(8) + varint(d) for d in shape)
    return b"".join(
        message(
            1, message(1, tag.encode()) + message(2, dims + message(2, kinds[tensor.dtype].encode()) + message(3, p))
        )
        for p in pieces
    )


def written(path: Path, state: Mapping[str, Tensor], tail: bytes = b"") -> Path:
    path.write_bytes(b"".join(value(tag, tensor, i % 2 == 0) for i, (tag, tensor) in enumerate(state.items())) + tail)
    return path


STATE = {
    "net.dense.weight": torch.arange(60.0).reshape(3, 20),
    "net.dense.bias": torch.arange(3.0).half(),
    "net.norm.gamma": torch.ones(5).bfloat16(),
    "global_step": torch.tensor(7, dtype=torch.int32),
}


@pytest.mark.parametrize("tail", [b"", b"crc_num0123456789"])
def test_reads_every_tensor(tmp_path: Path, tail: bytes) -> None:
    path = written(tmp_path / "x.ckpt", STATE, tail)
    assert mindspore.is_checkpoint(path)
    found = mindspore.read(path)
    assert list(found) == ["net.dense.weight", "net.dense.bias", "net.norm.weight", "global_step"]
    for ours, theirs in zip(found.values(), STATE.values(), strict=True):
        assert torch.equal(ours, theirs)
        assert ours.dtype == theirs.dtype
    assert mindspore.shapes(path) == {name: tuple(v.shape) for name, v in found.items()}
    assert (
        mindspore.read(path, torch.float64, lambda n: n.endswith("weight"))["net.dense.weight"].dtype == torch.float64
    )


def test_files_of_others_are_not_taken_for_it(tmp_path: Path) -> None:
    torch.save(STATE, tmp_path / "new.ckpt")
    torch.save(STATE, tmp_path / "old.ckpt", _use_new_zipfile_serialization=False)
    (tmp_path / "page.ckpt").write_text("<html>not found</html>")
    (tmp_path / "empty.ckpt").write_bytes(b"")
    assert not any(mindspore.is_checkpoint(path) for path in [*tmp_path.iterdir(), tmp_path, tmp_path / "none"])


@pytest.mark.slow
def test_every_damage_is_an_error_or_read_as_it_stands(tmp_path: Path) -> None:
    whole = written(tmp_path / "x.ckpt", STATE).read_bytes()
    path = tmp_path / "bad.ckpt"
    refused = 0
    for end in range(1, len(whole), 3):
        path.write_bytes(whole[:end])
        # Cut between two messages it is whole, but for tensors that are gone: those the recipe misses.
        with contextlib.suppress(WeightsError):
            assert len(mindspore.shapes(path)) < len(STATE)
            refused -= 1
        refused += 1
    assert refused > len(whole) // 3 - 9
    generator = torch.Generator().manual_seed(0)
    for _ in range(300):
        at, byte = (int(torch.randint(0, high, (1,), generator=generator)) for high in (len(whole), 256))
        path.write_bytes(whole[:at] + bytes([byte]) + whole[at + 1 :])
        with contextlib.suppress(WeightsError):
            mindspore.read(path)


def test_lengths_beyond_the_file_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.ckpt"
    tensor = varint(8) + varint(1 << 40) + message(2, b"Float32") + varint(3 << 3 | 2) + varint(1 << 42)
    path.write_bytes(message(1, message(1, b"a") + message(2, tensor)))
    with pytest.raises(WeightsError, match="damaged"):
        mindspore.read(path)
    path.write_bytes(message(1, message(1, b"a") + message(2, varint(8) + varint(1 << 40) + message(2, b"Float32"))))
    with pytest.raises(WeightsError, match="damaged"):
        mindspore.read(path)


def by_mindspore(name: str) -> str:
    """The name in WuKong's checkpoint of a tensor of LDM's: the other way than the reader goes."""
    norms = ("in_layers.0", "out_layers.0", "norm", "norm1", "norm2", "norm3", "norm_out", "group_norm", "out.0")
    norms += ("ln_1", "ln_2", "ln_final")
    module, _, kind = name.rpartition(".")
    if module.endswith(tuple(f".{norm}" for norm in norms)):
        name = f"{module}.{'gamma' if kind == 'weight' else 'beta'}"
    if name.startswith("cond_stage_model.model."):
        name = name.replace("cond_stage_model.model.", "cond_stage_model.transformer.")
        name = name.replace(".transformer.transformer.", ".transformer.transformer_layer.")
        name = name.replace(".token_embedding.weight", ".embedding_table").replace(".mlp.c_", ".c_")
        name = name.replace(".attn.", ".attn.attn.").replace("in_proj_", "in_proj.")
    if name.startswith(ldm_names.UNET):
        for torch_name, own in (("in_layers", "2"), ("out_layers", "3")):
            name = name.replace(f".{torch_name}.0.", f".{torch_name}_norm.")
            name = name.replace(f".{torch_name}.{own}.", f".{torch_name}_conv.conv.")
        for wrapped in (".skip_connection.", ".op.", ".conv.", "input_blocks.0.0.", ".out.2."):
            if wrapped in name and "_conv.conv." not in name:
                name = name.replace(wrapped, f"{wrapped}conv.")
                break
    return name


@pytest.mark.slow
def test_wukong_draws_as_the_torch_weights_it_was_written_from(tmp_path: Path) -> None:
    folder = made(tmp_path / "sd1", "clip")
    system = read_folder(folder)
    file = to_single(system, tmp_path / "sd1" / "wukong.safetensors")
    tower: Any = system.text_encoders[0]
    state = {n: v for n, v in load_file(file).items() if not n.startswith("cond_stage_model.")}
    own = {name.removeprefix("text_model."): v for name, v in tower.model.state_dict().items()}
    state |= {f"cond_stage_model.model.{n}": v for n, v in ldm_names.open_clip_to_ldm(own, 2).items()}
    (tmp_path / "ms").mkdir()
    ckpt = written(tmp_path / "ms" / "wukong.ckpt", {by_mindspore(n): v for n, v in state.items()})
    assert {mindspore.torch_name(by_mindspore(n)) for n in state} == state.keys()
    assert sum(by_mindspore(n) != n for n in state) > len(state) // 3
    shutil.copytree(tmp_path / "sd1" / "wukong.words.0", tmp_path / "ms" / "words.0")
    again = read_file(ckpt)
    same_weights(system, again)
    assert (again.recipe.text_encoders[0].eps, again.recipe.text_encoders[0].activation) == (1e-7, "quick_gelu")  # type: ignore[attr-defined]
    request = {"text": "red cat", "seed": 1, "steps": 2, "size": (64, 64)}
    one, other = (numpy.asarray(draw(each, request)[0].image).astype(int) for each in (again, system))
    # Torch's norms add 1e-5 in the place of 1e-7.
    assert numpy.abs(one - other).max() <= 2
