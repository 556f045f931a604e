"""Rounded matrices: each kind within its distance of float32, in every layer that may be rounded and in no other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from torch import nn

import bimo
from bimo.core.errors import RequestError
from bimo.engine import quantisation
from bimo.engine.memory import QUANTISED_BYTES, Quantise
from bimo.engine.offload import Offloader
from tests.support.tiny_systems import TEXT

#: The most that the product of a matrix of normal numbers may be off, relative to its length, by kind and in float32.
DISTANCES: dict[Quantise, float] = {"int8": 0.01, "fp8": 0.04, "nf4": 0.11, "llm-int8": 0.015, "uint4": 0.1}


class Network(nn.Module):
    """Layers of every kind that matters: nested, twice there, of zeros, kept whole, with a weight that another shares,
    and one between the blocks whose dtype is looked at.
    """

    def __init__(self) -> None:
        super().__init__()
        plain = [nn.Sequential(nn.Linear(128, 128), nn.GELU()) for _ in range(2)]
        self.zeros, self.wide, self.head = nn.Linear(128, 128), nn.Linear(128, 128), nn.Linear(128, 64, bias=False)
        nn.init.zeros_(self.zeros.weight)
        self.words = nn.Embedding(64, 128)
        self.head.weight = self.words.weight
        self.again = plain[0][0]
        self.blocks = nn.ModuleList([*plain, self.again, self.wide, self.zeros, self.head])
        self.times = nn.Linear(128, 128)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.times(x.to(self.times.weight.dtype))
        for block in self.blocks[:4]:
            x = block(x)
        return self.head(x + self.zeros(x))


def quantised(network: Network, kind: Quantise) -> list[nn.Parameter]:
    """Quantises all but ``wide``; the parameters that were read."""
    found: list[nn.Parameter] = []

    def read(parameter: nn.Parameter) -> torch.Tensor:
        found.append(parameter)
        return parameter.data

    quantisation.quantise(network, kind, read, {id(network.wide.weight)})
    return found


def needs(kind: Quantise) -> None:
    pytest.importorskip(quantisation.LIBRARY[kind])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", list(DISTANCES))
def test_quantised_products_are_near_float32(kind: Quantise, dtype: torch.dtype) -> None:
    needs(kind)
    torch.manual_seed(0)
    x = torch.randn(3, 17, 512)
    module = nn.ModuleDict({"blocks": nn.ModuleList([nn.Linear(512, 256)])}).requires_grad_(False)
    with torch.inference_mode():
        expected = module["blocks"][0](x)
        module.to(dtype)
        quantisation.quantise(module, kind, lambda parameter: parameter.data)
        answer = module["blocks"][0](x.to(dtype))
    assert answer.dtype == dtype
    off = float((answer.float() - expected).norm() / expected.norm())
    assert 1e-4 < off < DISTANCES[kind] + (0.005 if dtype == torch.bfloat16 else 0)
    of_float32 = [p for p in module.parameters() if p.dtype == torch.float32]
    assert not of_float32 or dtype == torch.float32


@pytest.mark.parametrize("kind", ["nf4", "llm-int8", "uint4"])
def test_a_layer_takes_the_bytes_that_are_counted(kind: Quantise) -> None:
    needs(kind)
    blocks = nn.ModuleList([nn.Linear(1024, 1024, bias=False)]).requires_grad_(False)
    module = nn.ModuleDict({"blocks": blocks})
    quantisation.quantise(module, kind, lambda parameter: parameter.data)
    layer: Any = blocks[0]
    state = getattr(layer.weight, "quant_state", None)
    scales = [*module.buffers()] if state is None else [state.absmax, state.state2.absmax]
    scales += [layer.weight.SCB] if kind == "llm-int8" else []
    taken = layer.weight.nbytes + sum(scale.nbytes for scale in scales)
    assert taken / 1024**2 == pytest.approx(QUANTISED_BYTES[kind], rel=0.1)


@pytest.mark.parametrize("kind", list(DISTANCES))
def test_shared_whole_and_empty_weights_stay(kind: Quantise) -> None:
    needs(kind)
    torch.manual_seed(0)
    network = Network().requires_grad_(False)
    kept = {name: getattr(network, name).weight for name in ("words", "wide", "zeros")}
    every = {id(p) for p in network.parameters()}
    with torch.inference_mode():
        before = network(torch.ones(2, 128))
        read = quantised(network, kind)
        after = network(torch.ones(2, 128))
    assert {id(p) for p in read} == every
    assert len(read) == len(every)
    assert all(getattr(network, name).weight is weight for name, weight in kept.items())
    assert network.head.weight is network.words.weight
    first: Any = network.blocks[0]
    assert network.again is first[0]
    assert network.blocks[2] is first[0]
    assert not torch.equal(before, after)
    assert network.times.weight.dtype == torch.float32
    assert (type(network.times.weight) is nn.Parameter) == (kind in quantisation.OF_INTEGERS)


@pytest.mark.parametrize("offload", ["none", "parts"])
@pytest.mark.parametrize("kind", list(DISTANCES))
def test_quantised_it_draws_nearly_the_same(tiny_folder: Path, kind: Any, offload: Any) -> None:
    needs(kind)
    plain = bimo.load(tiny_folder).draw(TEXT, seed=3, steps=2)[0].image
    engine = bimo.load(tiny_folder, quantise=kind, offload=offload)
    rounded = engine.draw(TEXT, seed=3, steps=2)[0].image
    apart = numpy.abs(numpy.asarray(plain).astype(int) - numpy.asarray(rounded)).mean()
    assert 0 < apart < (4 if kind in ("int8", "fp8", "llm-int8") else 16)
    assert not any(type(layer) is nn.Linear and layer.weight.ndim == 1 for layer in engine.system.modules())


def test_scales_that_are_not_moved_are_refused(tiny_folder: Path) -> None:
    pytest.importorskip("bitsandbytes")
    system = bimo.load(tiny_folder).system
    with pytest.raises(RequestError, match="does not move the scales of --quantise nf4"):
        Offloader(system, torch.float16, offload="groups", device=torch.device("cuda"), quantise="nf4")


@pytest.mark.parametrize(("kind", "device"), [("int4", "mps"), ("llm-int8", "mps")])
def test_a_device_without_kernels_is_refused(kind: str, device: str) -> None:
    with pytest.raises(RequestError, match=f"--quantise {kind} has kernels for cuda"):
        quantisation.check(kind, torch.device(device))


@pytest.mark.parametrize(("kind", "extra"), [("nf4", r"\[quantise\]"), ("uint4", r"\[sdnq\]")])
def test_a_library_that_is_missing_is_told(kind: str, extra: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantisation, "find_spec", lambda name: None)
    with pytest.raises(RequestError, match=rf"is not installed; run .*{extra}"):
        quantisation.check(kind, torch.device("cpu"))
