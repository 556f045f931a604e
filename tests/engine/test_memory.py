"""The cheapest way that fits a limit is chosen, for made-up cards; every way draws the same picture, or nearly."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from diffusers.hooks.group_offloading import ModuleGroup

import bimo
from bimo.core.errors import RequestError
from bimo.core.recipe import Recipe
from bimo.engine.compile import repeated_blocks
from bimo.engine.engine import Engine
from bimo.engine.memory import (
    Keeping,
    Weights,
    bytes_of,
    candidates,
    cheapest,
    narrowed,
    total_bytes,
    weights_of,
)
from bimo.hub import loading, registry
from tests.support.one_device import ELSEWHERE, OneDevice, brought_back, counted
from tests.support.tiny_systems import TEXT, tiny_system

GIGA = 1_000_000_000
KOLORS = Weights(6_243_584_032, (2_578_571_268,), 83_653_863, 0, 900_000_000)
ALL = ("fp32", "bf16", "fp16")


def chosen(recipe: str, weights: Weights, giga: float, **how: Any) -> str:
    asked = how.pop("asked", Keeping())
    ways = candidates(registry.recipe(recipe), asked, **{"card": True, "supported": ALL, "quantises": True, **how})
    keeping, _ = cheapest(weights, (1024, 1024), int(giga * GIGA), ways)
    return "nothing" if keeping is None else keeping.flags


@pytest.mark.parametrize(
    ("giga", "flags"),
    [
        (48.0, "--dtype fp16"),
        (20.0, "--dtype fp16 --tiles"),
        (17.5, "--dtype fp16 --offload parts"),
        (14.0, "--dtype fp16 --offload parts --tiles"),
        (11.0, "--dtype fp16 --quantise int8 --tiles"),
        (8.0, "--dtype fp16 --offload groups"),
        (4.0, "--dtype fp16 --offload groups --tiles"),
        (2.0, "nothing"),
    ],
)
def test_kolors_on_cards(giga: float, flags: str) -> None:
    assert chosen("kolors", KOLORS, giga, asked=Keeping("fp16")) == flags


def test_on_a_processor_narrower_numbers_come_first_and_groups_never() -> None:
    assert chosen("kolors", KOLORS, 48.0, card=False) == ""
    assert chosen("kolors", KOLORS, 24.0, card=False) == "--dtype bf16"
    assert "bf16" not in chosen("kolors", KOLORS, 24.0, card=False, fixed=True)
    assert chosen("kolors", KOLORS, 5.0, card=False) == "--dtype bf16 --offload disk"
    assert chosen("hunyuan-dit-1.2", KOLORS, 12.0, card=False, quantises=False) == "--offload disk"


def test_what_is_asked_for_is_kept() -> None:
    assert chosen("kolors", KOLORS, 48.0, asked=Keeping("fp16", offload="groups")) == "--dtype fp16 --offload groups"
    assert chosen("kolors", KOLORS, 48.0, asked=Keeping("fp16", tiles=True)) == "--dtype fp16 --tiles"


@pytest.mark.parametrize(
    ("text", "count"), [("8GB", 8e9), ("8", 8e9), ("7.5 gb", 7.5e9), ("800MB", 8e8), ("1GiB", 2**30), ("2G", 2e9)]
)
def test_sizes_are_read(text: str, count: float) -> None:
    assert bytes_of(text) == count


@pytest.mark.parametrize("text", ["much", "0", "-3GB", "8 apples", "GB"])
def test_invalid_memory_sizes_are_refused(text: str) -> None:
    with pytest.raises(RequestError, match="expected a size such as 8GB"):
        bytes_of(text)


def drawn(folder: Path, **how: Any) -> numpy.ndarray[Any, Any]:
    engine = bimo.load(folder, **how)
    return numpy.asarray(engine.draw(TEXT, seed=3, steps=2)[0].image).astype(int)


def test_every_memory_plan_draws_the_same_picture(tiny_folder: Path) -> None:
    plain = drawn(tiny_folder)
    for offload in ("parts", "disk"):
        assert (drawn(tiny_folder, offload=offload) == plain).all()
    engine = bimo.load(tiny_folder, offload="disk")
    first, again = (engine.draw(TEXT, seed=3, steps=2)[0].image for _ in range(2))
    assert first.tobytes() == again.tobytes()
    with pytest.raises(RequestError, match="adapters are named when the model is loaded"):
        engine.detach()


def test_a_limit_is_kept_and_said(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LANG", "C")
    monkeypatch.setattr(loading, "LIBRARIES", 0)
    engine = bimo.load(tiny_folder, memory="64GB")
    assert "to fit into 64.0 GB: --dtype fp32" in str(engine.notices[0])
    assert engine.keeping == Keeping()
    with pytest.raises(RequestError, match=r"does not fit into 0\.0[0-9]* GB; the least it takes is"):
        bimo.load(tiny_folder, memory="100KB")


def test_an_emulated_dtype_is_the_last_resort(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "LIBRARIES", 0)

    def flags(capability: str, budget: int) -> str:
        monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
        return bimo.load(tiny_folder, memory=f"{budget}B").keeping.flags

    system = bimo.load(tiny_folder).system
    size, weights = system.recipe.request.size, weights_of(system)
    whole, parts, half = (
        total_bytes(weights, size, keeping)
        for keeping in (Keeping(), Keeping(offload="parts"), narrowed(system.recipe, Keeping(), "bf16"))
    )
    assert half < parts < whole
    assert flags("AVX512", whole - 1) == "--dtype bf16"
    assert flags("AVX2", whole - 1) == "--offload parts"
    assert flags("AVX2", half) == "--dtype bf16"


@pytest.mark.parametrize(
    ("how", "sentence"),
    [
        ({"offload": "groups"}, "there is none; parts or disk work without"),
        ({"offload": "cloud"}, "expected none, parts, groups, disk"),
        ({"quantise": "int2"}, "expected none, int8, int4, fp8, nf4, llm-int8, uint4"),
        ({"quantise": "int4"}, "has kernels for cuda, and the device is cpu"),
        ({"memory": "8GB", "engine": "torch-onednn"}, "goes without --memory"),
    ],
)
def test_incompatible_memory_options_are_refused(tiny_folder: Path, how: dict[str, Any], sentence: str) -> None:
    with pytest.raises(RequestError, match=sentence):
        bimo.load(tiny_folder, **how)


@pytest.mark.parametrize("name", ["taiyi-sd-zh", "z-image", "qwen-image", "kolors"])
@pytest.mark.slow
def test_tiles_are_nearly_the_whole(name: str) -> None:
    recipe: Recipe = registry.recipe(name).tiny()
    space: Any = recipe.levels[-1].space.build().eval()  # type: ignore[union-attr]
    torch.manual_seed(0)
    x = torch.randn(1, *space.shape((96, 96)))
    with torch.inference_mode():
        whole = space.decode(x)
        assert space.tile(64)
        tiled = space.decode(x)
    assert tiled.shape == whole.shape
    apart = (tiled - whole).norm() / whole.norm()
    assert 0 < apart < 0.5


def taken_away(group: Any) -> None:
    """Back to the processor, as if there were numbers to bring."""
    for module in group.modules:
        for tensor in (*module.parameters(), *module.buffers()):
            tensor.data = brought_back(tensor)
    for tensor in (*group.parameters, *group.buffers):
        tensor.data = brought_back(tensor)


@pytest.mark.parametrize("name", ["taiyi-sd-zh", "kolors", "hunyuan-dit-1.2", "z-image", "qwen-image", "xiaomo"])
@pytest.mark.slow
def test_layers_come_to_their_card_when_they_work(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By groups: no layer's weight is left on the processor, and what has worked is taken away again."""
    monkeypatch.setattr(torch, "get_device_module", lambda device: torch.cpu)
    monkeypatch.setattr(ModuleGroup, "_offload_to_memory", taken_away)
    system = tiny_system(registry.recipe(name), tmp_path)
    with counted(), OneDevice():
        engine = Engine(system, device=ELSEWHERE, dtype=torch.float16, keeping=Keeping("fp16", offload="groups"))
        denoiser = system.level(system.recipe.levels[-1].name).denoiser
        blocks = repeated_blocks(denoiser)
        assert blocks
        engine.draw(TEXT, seed=1, steps=2, size=(64, 64) if name != "xiaomo" else (128, 128))
        assert {p.device.type for block in blocks for p in block.parameters()} == {"cpu"}
