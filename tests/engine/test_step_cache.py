"""Step caches of libraries on transformers: fewer blocks, gone with the drawing, each drawing's its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler

from bimo.core.errors import RequestError
from bimo.diffusion.system import System
from bimo.engine.engine import Engine
from bimo.models.layouts.diffusers_folder import read_folder
from tests.support import flow_checkpoints, hunyuan_checkpoints, tiny_checkpoints

REQUEST: dict[str, Any] = {
    "text": "一只红色苹果",
    "seed": 3,
    "steps": 8,
    "size": (64, 64),
    "guidance": 4.0,
    "negative": "山",
}
#: A layer of the last block of each, which cache-dit may leave out.
LAST = {"z_image": "layers.1.feed_forward", "hunyuan": "blocks.3.ff"}


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> System:
    folder = tmp_path_factory.mktemp("qwen") / "saved"
    flow_checkpoints.saved(folder, "qwen_image")
    return read_folder(folder)


def asked(system: System, **settings: Any) -> tuple[bytes, int]:
    """The picture, and how often the last block's products were asked for."""
    network: Any = system.level(system.recipe.levels[-1].name).denoiser.model
    count = 0

    def counted(*_: Any) -> None:
        nonlocal count
        count += 1

    hook = network.transformer_blocks[-1].attn.to_q.register_forward_hook(counted)
    try:
        return Engine(system).draw({**REQUEST, **settings})[0].image.tobytes(), count
    finally:
        hook.remove()


@pytest.mark.parametrize("setting", ["first-block:1", "taylor:3"])
def test_blocks_are_left_out_of_this_drawing_alone(system: System, setting: str) -> None:
    plain, every = asked(system)
    cached, fewer = asked(system, step_cache=setting)
    assert fewer < every
    assert (cached, fewer) == asked(system, step_cache=setting)
    assert asked(system) == (plain, every)


def test_after_a_cancelled_drawing_nothing_is_left(system: System) -> None:
    plain = asked(system)

    def cancel(place: int, count: int, step: int, steps: int) -> None:
        if step == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Engine(system).draw({**REQUEST, "step_cache": "first-block:1"}, progress=cancel)
    assert asked(system) == plain


@pytest.mark.parametrize("setting", ["first-block:1", "taylor:3"])
def test_drawings_that_take_turns_are_those_drawn_alone(system: System, setting: str) -> None:
    """Each has what it kept of its own steps, at other steps and with other numbers, and one beside them keeps none."""
    requests = [
        {**REQUEST, "step_cache": setting},
        {**REQUEST, "seed": 9, "steps": 6},
        {**REQUEST, "seed": 5, "steps": 7, "step_cache": setting},
        {**REQUEST, "seed": 6, "step_cache": "first-block:0.01"},
    ]
    engine = Engine(system)
    together = engine.draw_together(requests)
    for request, picture in zip(requests, together, strict=True):
        assert picture.image.tobytes() == engine.draw(request)[0].image.tobytes()


def test_a_second_pass_in_another_size_keeps_nothing_of_the_first(system: System) -> None:
    for setting in ("first-block:1", "taylor:3"):
        picture = Engine(system).draw({**REQUEST, "step_cache": setting, "hires": 2})[0]
        assert picture.image.size == (128, 128)


def test_what_diffusers_does_not_cache_is_refused(tmp_path: Path) -> None:
    tiny_checkpoints.checkpoint(tmp_path / "sd", "bert", DDIMScheduler(steps_offset=1, clip_sample=False))
    with pytest.raises(RequestError, match="take easy"):
        Engine(read_folder(tmp_path / "sd")).draw({"text": "红", "seed": 1, "step_cache": "first-block"})


@pytest.mark.slow
def test_converted_blocks_are_cached_as_well(system: System) -> None:
    pytest.importorskip("openvino")
    from bimo.engine.processor import Processor

    expected = torch.frombuffer(bytearray(asked(system, step_cache="first-block:1")[0]), dtype=torch.uint8).int()
    engine = Engine(system, processor=Processor("openvino", cache_converted=False))
    try:
        found = engine.draw({**REQUEST, "step_cache": "first-block:1"})[0].image.tobytes()
    finally:
        engine.processor.restore()
    assert (torch.frombuffer(bytearray(found), dtype=torch.uint8).int() - expected).abs().max() <= 3


@pytest.fixture(scope="module")
def cached_by_cache_dit(tmp_path_factory: pytest.TempPathFactory) -> dict[str, System]:
    """Systems that diffusers has no step cache for."""
    pytest.importorskip("cache_dit")
    folder = tmp_path_factory.mktemp("dbcache")
    flow_checkpoints.saved(folder / "z_image", "z_image")
    hunyuan_checkpoints.checkpoint(folder / "hunyuan", "1.2")
    return {name: read_folder(folder / name) for name in ("z_image", "hunyuan")}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["z_image", "hunyuan"])
def test_cache_dit_leaves_blocks_out_of_this_drawing_alone(cached_by_cache_dit: dict[str, System], name: str) -> None:
    system = cached_by_cache_dit[name]
    network: Any = system.level(system.recipe.levels[-1].name).denoiser.model
    own = {module: dict(vars(module)) for module in network.modules()}
    calls = [0]
    network.get_submodule(LAST[name]).register_forward_hook(lambda *_: calls.append(calls.pop() + 1))

    def drawn(**settings: Any) -> tuple[bytes, int]:
        calls[:] = [0]
        return Engine(system).draw({**REQUEST, **settings})[0].image.tobytes(), calls[0]

    plain, every = drawn()
    cached, fewer = drawn(step_cache="dbcache:1")
    assert 0 < fewer < every
    assert cached != plain
    assert (cached, fewer) == drawn(step_cache="dbcache:1")
    assert drawn() == (plain, every)
    alone = [cached, *(drawn(step_cache="dbcache:1", seed=seed)[0] for seed in (5, 6))]
    requests = [{**REQUEST, "step_cache": "dbcache:1", "seed": seed} for seed in (3, 5, 6)]
    together = [picture.image.tobytes() for picture in Engine(system).draw_together([*requests, REQUEST])]
    assert together == [*alone, plain]
    assert {module: dict(vars(module)) for module in network.modules()} == own


def test_without_cache_dit_it_is_said(system: System, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bimo.diffusion.block_cache.find_spec", lambda name: None)
    with pytest.raises(RequestError, match=r"needs cache-dit, which is not installed; run .*cache-dit\]"):
        Engine(system).draw({**REQUEST, "step_cache": "dbcache"})
