"""Packed weights: the same answers, the same names, given back whole whoever asks for them."""

from __future__ import annotations

import platform
import resource
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from torch import nn

from bimo.core.pages import freed_kept, freed_returned
from bimo.engine import packing
from bimo.engine.engine import Engine
from bimo.engine.memory import Keeping
from bimo.engine.packing import PackedConv2d, PackedLinear, pack, storage_of, unpack
from bimo.engine.processor import Processor
from bimo.models.layouts.diffusers_folder import read_folder
from bimo.serve.pool import _storages  # pyright: ignore[reportPrivateUsage]
from tests.support.adapter_files import with_adapters

needs_bfloat16 = pytest.mark.skipif(not packing.possible(), reason="oneDNN has no bfloat16 on this processor")
REQUEST: dict[str, Any] = {"text": "红苹果", "seed": 3, "steps": 2, "size": (64, 64), "guidance": 3.0}


class Net(nn.Module):
    """Layers that are packed, and one of each kind that is not."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(8, 16, 3, padding=1, stride=2)
        self.wide = nn.Linear(16, 32, bias=False)
        self.grouped = nn.Conv2d(8, 8, 3, groups=8)
        self.words = nn.Embedding(5, 16)
        self.tied = nn.Linear(16, 5, bias=False)
        self.tied.weight = self.words.weight
        self.attention = nn.MultiheadAttention(16, 2)


@pytest.fixture
def net() -> Net:
    torch.manual_seed(0)
    return Net().to(torch.bfloat16)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return with_adapters(tmp_path_factory.mktemp("sd"))


def engine(place: Path, name: str = "torch-bf16", **settings: Any) -> Engine:
    made = Processor(name)
    return Engine(read_folder(place / "sd", None), dtype=made.dtype, processor=made, **settings)


def packed(network: nn.Module) -> list[str]:
    return [name for name, module in network.named_modules() if isinstance(module, PackedLinear | PackedConv2d)]


def pixels(engine: Engine, **settings: Any) -> numpy.ndarray:
    return numpy.asarray(engine.draw({**REQUEST, **settings})[0].image).astype(int)


@needs_bfloat16
def test_layers_answer_as_before_and_keep_their_names(net: Net) -> None:
    picture, rows = torch.randn(2, 8, 9, 7).bfloat16(), torch.randn(2, 3, 16).bfloat16()
    with torch.no_grad():
        before = net.conv(picture), net.wide(rows), net.attention(rows, rows, rows)[0]
        weights = {name: value.clone() for name, value in net.named_parameters()}
        pack(net)
        assert packed(net) == ["conv", "wide"]
        after = net.conv(picture), net.wide(rows), net.attention(rows, rows, rows)[0]
        for one, other in zip(before, after, strict=True):
            torch.testing.assert_close(one, other, rtol=2e-2, atol=1e-2)
        assert net.conv(picture[:0]).shape == before[0][:0].shape
        assert net.wide(rows[:0]).shape == before[1][:0].shape
    assert [(n, p.shape, p.dtype) for n, p in net.named_parameters()] == [
        (n, p.shape, p.dtype) for n, p in weights.items()
    ]
    unpack(net)
    assert not packed(net)
    assert all(torch.equal(value, weights[name]) for name, value in net.named_parameters())
    assert type(net.conv) is nn.Conv2d


@needs_bfloat16
def test_what_reads_a_weight_finds_it_in_the_usual_order(net: Net) -> None:
    expected, rows = net.wide.weight.detach().clone(), torch.randn(3, 16).bfloat16()
    pack(net)
    with torch.inference_mode():
        assert torch.equal(nn.functional.linear(rows, net.wide.weight), nn.functional.linear(rows, expected))
    assert packed(net) == ["conv"]
    with torch.no_grad():
        net.wide.weight.add_(1.0)  # not a tensor of inference mode


@needs_bfloat16
def test_a_seamless_convolution_pads_as_it_is_told(net: Net) -> None:
    picture = torch.randn(1, 8, 6, 6).bfloat16()
    pack(net)
    net.conv.padding_mode = "circular"
    with torch.no_grad():
        found = net.conv(picture)
        expected = nn.functional.conv2d(
            nn.functional.pad(picture, (1, 1, 1, 1), mode="circular"), net.conv.weight, net.conv.bias, stride=2
        )
    assert torch.equal(found, expected)


@needs_bfloat16
def test_bad_input_is_refused_as_by_any_layer(net: Net) -> None:
    pack(net)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        net.wide(torch.randn(2, 15).bfloat16())
    with pytest.raises(RuntimeError, match="dtype"):
        net.wide(torch.randn(2, 16))


def test_float32_is_not_packed(net: Net) -> None:
    pack(net.float())
    assert not packed(net)


@needs_bfloat16
def test_an_engine_packs_and_draws_what_it_drew(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = engine(place)
    names = packed(made.system)
    assert any(name.startswith("image.denoiser") for name in names)
    assert any(name.startswith("text") for name in names)
    assert not any("space" in name for name in names)
    found = pixels(made)
    monkeypatch.setattr(packing, "possible", lambda: False)
    assert abs(found - pixels(engine(place))).max() <= 8
    assert abs(found - pixels(engine(place))).mean() < 1


@needs_bfloat16
def test_what_openvino_leaves_to_torch_is_packed(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("openvino")
    monkeypatch.setenv("BIMO_CACHE", str(tmp_path))
    made = engine(place, "openvino-bf16")
    names = packed(made.system)
    assert "image.denoiser.model.conv_in" in names
    assert not any("resnets" in name for name in names)
    pixels(made)
    made.processor.restore()
    assert not packed(made.system)


@needs_bfloat16
@pytest.mark.parametrize("keeping", [Keeping(offload="parts"), Keeping(offload="disk")])
def test_weights_that_move_are_not_packed(place: Path, keeping: Keeping) -> None:
    made = engine(place, keeping=keeping)
    assert not packed(made.system)
    pixels(made)


@needs_bfloat16
def test_loras_change_packed_weights(place: Path) -> None:
    made, file = engine(place), place / "ink.safetensors"
    before = pixels(made)
    made.attach(f"{file}:3")
    assert packed(made.system)
    changed = pixels(made)
    assert abs(changed - before).max() > 8
    made.detach()
    assert (pixels(made) == before).all()
    beside = made.with_adapters([f"{file}:3"])
    assert (pixels(beside) == changed).all()
    assert (pixels(made) == before).all()
    assert set(packed(beside.system)) == set(packed(made.system))


@needs_bfloat16
def test_engines_share_packed_weights_that_no_lora_changes(place: Path) -> None:
    made = engine(place)
    beside = made.with_adapters([f"{place / 'ink.safetensors'}"])
    ours, theirs = dict(made.system.named_parameters()), dict(beside.system.named_parameters())
    own = {name for name in ours if storage_of(ours[name].data)[0] != storage_of(theirs[name].data)[0]}
    assert own
    assert all("to_q" in name for name in own)
    assert sum(_storages(made).values()) >= sum(p.nbytes for p in made.system.parameters())


@needs_bfloat16
def test_another_engine_takes_over_a_packed_system(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    system = engine(place).system
    found = pixels(Engine(system, dtype=torch.float32))
    monkeypatch.setattr(packing, "possible", lambda: False)
    assert (found == pixels(Engine(engine(place).system, dtype=torch.float32))).all()


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library has no switch for it")
def test_freed_memory_is_kept_while_drawing() -> None:
    def faults() -> int:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        for _ in range(4):
            torch.empty(40 << 20, dtype=torch.uint8).fill_(1)
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

    pages = (40 << 20) // resource.getpagesize()
    with freed_kept():
        with freed_kept():
            faults()
        with freed_kept(), freed_returned():
            assert faults() > pages
        faults()
        assert min(faults(), faults()) < pages // 2  # the inner one's end does not end the outer
    assert faults() > pages
