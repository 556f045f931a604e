"""Blocks compiled one by one: the same picture within rounding, compiled once a shape."""

from __future__ import annotations

from pathlib import Path

import numpy
import pytest
import torch

from bimo.core.errors import RequestError
from bimo.core.module_weights import unfilled
from bimo.engine import compile as compiling
from bimo.engine.compile import check_graphs, compile_blocks, repeated_blocks
from bimo.engine.engine import Engine
from bimo.hub import registry
from bimo.hub.loading import load
from tests.support.tiny_systems import TEXT, tiny_system


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("taiyi-sd-zh", {"ResnetBlock2D", "Transformer2DModel"}),
        ("z-image", {"ZImageTransformerBlock"}),
        ("qwen-image", {"QwenImageTransformerBlock"}),
        ("hunyuan-dit-1.2", {"HunyuanDiTBlock"}),
    ],
)
def test_the_blocks_are_those_that_repeat(name: str, kind: set[str]) -> None:
    with unfilled():
        denoiser = registry.recipe(name).levels[-1].denoiser.build()  # type: ignore[attr-defined]
    assert kind == {type(block).__name__ for block in repeated_blocks(denoiser)}


def test_without_a_compiler_it_is_refused(monkeypatch: pytest.MonkeyPatch, tiny_folder: Path) -> None:
    monkeypatch.setattr(compiling.shutil, "which", lambda name: None)
    with pytest.raises(RequestError, match="a compiler of C"):
        compile_blocks(registry.load(tiny_folder), torch.device("cpu"))


def test_graphs_are_of_compiled_blocks_on_cuda(tiny_folder: Path) -> None:
    with pytest.raises(RequestError, match="device is cpu"):
        load(tiny_folder, device="cpu", compiled=True, graphs=True)
    with pytest.raises(RequestError, match="--compile"):
        check_graphs(torch.device("cuda"), compiled=False)


def test_a_step_says_that_it_needs_nothing_of_the_last(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    system = tiny_system(registry.recipe("qwen-image"), tmp_path)
    modes, steps = [], []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda block, **how: modes.append(how["mode"]))
    monkeypatch.setattr(torch.compiler, "cudagraph_mark_step_begin", lambda: steps.append(1))
    compile_blocks(system, torch.device("cuda"), graphs=True)
    assert modes == ["reduce-overhead"] * 2
    Engine(system).draw({"text": TEXT, "seed": 1, "steps": 3, "guidance": 1.0, "size": (64, 64)})
    assert len(steps) == 3


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of torch's own compiler
def test_compiled_it_draws_the_same_and_is_compiled_once(tmp_path: Path) -> None:
    system = tiny_system(registry.recipe("qwen-image"), tmp_path)
    request = {"text": TEXT, "seed": 1, "steps": 2, "size": (64, 64)}
    plain = numpy.asarray(Engine(system).draw(request)[0].image).astype(int)
    torch._dynamo.reset()
    counted = torch._dynamo.utils.counters
    assert compile_blocks(system, torch.device("cpu")) == 2
    first = numpy.asarray(Engine(system).draw(request)[0].image).astype(int)
    graphs = counted["stats"]["unique_graphs"]
    again = numpy.asarray(Engine(system).draw(request)[0].image).astype(int)
    assert graphs > 0
    assert counted["stats"]["unique_graphs"] == graphs
    assert numpy.abs(first - plain).max() <= 1
    assert (again == first).all()
