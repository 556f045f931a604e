"""Frozen weights that are kept rounded, narrower or elsewhere: what learns beside them, and that it is exact."""

from __future__ import annotations

from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from bimo.core.errors import TrainingError
from bimo.core.held_weights import NarrowWeight, can_hold, held_in, hold, move, release, weight_of
from bimo.core.recipe import Recipe, Stage
from bimo.diffusion.system import System
from bimo.engine.quantisation import RoundedWeight
from bimo.models.adapters.lora_merging import adapt
from bimo.training import trainer as trainer_file
from bimo.training.frozen_weights import FrozenWeights
from bimo.training.trainer import train
from tests.support.tiny_checkpoints import bert_words
from tests.training.test_lora_stage import recipe

#: Kinds by the library that rounds them, and how far a product may be from that of the whole weight.
KINDS = {"int8": ("torchao", 0.01), "fp8": ("torchao", 0.05), "nf4": ("bitsandbytes", 0.2), "bf16": ("", 0.01)}
CONVOLUTION: dict[str, Any] = {"stride": 2, "padding": 1, "groups": 2}


def held(weight: torch.Tensor, kind: str) -> Any:
    library = KINDS[kind][0]
    if library:
        pytest.importorskip(library)
        return RoundedWeight(weight, kind)  # type: ignore[arg-type]
    return NarrowWeight(weight.to(torch.bfloat16))


@pytest.mark.parametrize("kind", KINDS)
def test_a_product_and_its_gradient_keep_nothing_of_the_weight(kind: str) -> None:
    torch.manual_seed(0)
    layer, x = nn.Linear(256, 64), torch.randn(3, 256, requires_grad=True)
    layer.requires_grad_(False)
    whole, answer = layer.weight.data, layer(x)
    (wanted,) = torch.autograd.grad(answer.square().sum(), x)
    hold(layer, held(whole, kind))
    assert held_in(layer)["weight"].nbytes < 0.6 * whole.nbytes
    saved: list[torch.Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda value: saved.append(value) or value, lambda value: value):
        rounded = layer(x)
    assert not saved
    (gradient,) = torch.autograd.grad((rounded * (2 * answer.detach())).sum(), x)
    tolerance = KINDS[kind][1]
    assert (rounded - answer).norm() < tolerance * answer.norm()
    assert (gradient - wanted).norm() < tolerance * wanted.norm()
    # To the bit what the rounded weight itself gives.
    plain = nn.functional.linear(x, weight_of(layer), layer.bias)
    assert torch.allclose(rounded, plain, atol=1e-6)
    # What reads the parameter in passing by is found out.
    assert bool(layer.weight.isnan().all())
    release(layer, whole)
    assert torch.equal(layer(x), answer)


def test_a_convolution_is_that_of_its_weight() -> None:
    layer, x = nn.Conv2d(4, 6, 3, **CONVOLUTION), torch.randn(2, 4, 9, 8, requires_grad=True)
    answer = layer(x)
    (wanted,) = torch.autograd.grad(answer.square().sum(), x)
    hold(layer, NarrowWeight(layer.weight.data))
    again = layer(x)
    (gradient,) = torch.autograd.grad(again.square().sum(), x)
    assert torch.allclose(again, answer, atol=1e-6)
    assert torch.allclose(gradient, wanted, atol=1e-6)
    assert not can_hold(nn.Conv2d(4, 4, 3, padding=1, padding_mode="circular"))
    assert not can_hold(nn.MultiheadAttention(8, 2).out_proj)


def test_products_are_those_of_autocast() -> None:
    layer, x = nn.Linear(8, 4), torch.randn(3, 8, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        wanted = layer(x)
        hold(layer, NarrowWeight(layer.weight.data.to(torch.bfloat16)))
        answer = layer(x)
    assert answer.dtype == wanted.dtype == torch.bfloat16
    assert torch.allclose(answer, wanted, atol=0.02)
    assert torch.autograd.grad(answer.float().sum(), x)[0].dtype == torch.float32


def test_offloaded_weights_are_fetched_for_each_product() -> None:
    """torch's device without contents stands for a card: the layer is there, its weight in the processor's memory."""
    fetched: list[str] = []

    class Counted(NarrowWeight):
        def whole(self, device: torch.device, dtype: torch.dtype) -> torch.Tensor:
            assert self.value.device.type == "cpu"
            fetched.append(device.type)
            return super().whole(device, dtype)

    card = torch.device("meta")
    layers = nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8), nn.Linear(8, 2)).to(card)
    for layer in (layers[0], layers[2]):
        hold(layer, Counted(torch.ones(layer.weight.shape)))  # type: ignore[arg-type]
    move([layers], card, fixed=True)
    assert {parameter.device.type for parameter in layers.parameters()} == {"meta"}
    x = torch.zeros(3, 8, device=card, requires_grad=True)
    answer = layers(x)
    assert fetched == ["meta"] * 2
    answer.sum().backward()
    assert fetched == ["meta"] * 4
    assert x.grad is not None
    assert x.grad.device.type == "meta"


def taught(wanted: Recipe, shards: Path, out: Path, **more: Any) -> Path:
    if not out.is_dir():
        bert_words(out / "words.0")
    return train(wanted, shards, out, threads=1, **more)


def frozen(kind: str, **fields: Any) -> Recipe:
    made = recipe(**fields)
    return replace(made, stages=tuple(replace(stage, frozen=kind, steps=3) for stage in made.stages))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["int8", "nf4"])
def test_it_learns_goes_on_to_the_bit_and_leaves_the_weights_whole(
    kind: str, tiny_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a run leaves is the whole base with what was learnt: the file that is left, over it, gives the same."""
    if find_spec(KINDS[kind][0]) is None:
        pytest.skip(f"{KINDS[kind][0]} is not here")
    counts: list[int] = []

    class Counted(FrozenWeights):
        def __init__(self, stage: Stage, system: System, *rest: Any) -> None:
            super().__init__(stage, system, *rest)
            counts.append(sum(isinstance(one, RoundedWeight) for one in held_in(system).values()))

    monkeypatch.setattr(trainer_file, "FrozenWeights", Counted)
    torch.manual_seed(0)
    before = System(frozen(kind)).state_dict()
    whole = taught(frozen(kind), tiny_shards, tmp_path / "whole")
    after = System.read(whole).state_dict()
    moved = {name for name, value in after.items() if not torch.equal(value, before[name])}
    assert moved
    assert all(name.endswith(("to_q.weight", "to_v.weight", "query.weight")) for name in moved)
    beside = System.read(taught(frozen(kind, merge=False), tiny_shards, tmp_path / "beside"))
    assert all(torch.equal(value, before[name]) for name, value in beside.state_dict().items())
    adapt(beside, tmp_path / "beside" / "lora-1.safetensors")
    assert all(torch.allclose(value, after[name], atol=1e-6) for name, value in beside.state_dict().items())
    assert not list(whole.rglob("frozen.pt"))
    assert all(counts)  # it did learn beside what was rounded
    # Stopped after its first step, its state saved, it ends in the same bytes.
    taught(frozen(kind), tiny_shards, tmp_path / "resumed", stop_after=0.0)
    taught(frozen(kind), tiny_shards, tmp_path / "resumed")
    weights = [(tmp_path / name / "weights.safetensors").read_bytes() for name in ("whole", "resumed")]
    assert weights[0] == weights[1]


@pytest.mark.slow
def test_dora_and_others_read_the_weight_beside_which_they_learn(tiny_shards: Path, tmp_path: Path) -> None:
    pytest.importorskip("torchao")
    for number, fields in enumerate(({"dora": True}, {"algo": "loha"})):
        out = taught(frozen("int8", targets=("image.denoiser.*.to_q",), **fields), tiny_shards, tmp_path / str(number))
        state = System.read(out).state_dict()
        assert all(bool(value.isfinite().all()) for value in state.values() if value.is_floating_point())


def test_unsupported_frozen_formats_are_refused(
    tiny_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BIMO_LANGUAGE", "en")
    made = recipe()
    away = replace(made, stages=tuple(replace(stage, offload="parts") for stage in made.stages))
    with pytest.raises(TrainingError, match="it is learnt there; leave it out"):
        taught(away, tiny_shards, tmp_path / "away")
    monkeypatch.setattr("bimo.training.frozen_weights.available", lambda kind: False)
    with pytest.raises(TrainingError, match="pip install bitsandbytes"):
        taught(frozen("nf4"), tiny_shards, tmp_path / "nf4")
