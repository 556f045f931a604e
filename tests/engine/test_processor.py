"""Engines of the processor: each within its distance of float32, converted once for every size, given back whole."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy
import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel

from bimo.core.errors import RequestError
from bimo.diffusion.system import System
from bimo.engine import processor
from bimo.engine.engine import Engine
from bimo.engine.openvino import ConvertedBlock
from bimo.engine.processor import ENGINES, Measured, Processor
from bimo.hub.loading import load
from bimo.models.layouts.diffusers_folder import read_folder
from tests.support.tiny_checkpoints import checkpoint

openvino = pytest.importorskip("openvino")
pytestmark = pytest.mark.slow
REQUEST: dict[str, Any] = {"text": "红苹果", "seed": 3, "steps": 2, "size": (64, 64), "guidance": 3.0}
#: What a machine might measure: oneDNN rounds there.
PROBE = [
    Measured("torch", 0.1, 0.0, 0.0),
    Measured("torch-onednn", 0.01, 1e-2, 1e-2),
    Measured("torch-bf16", 0.05, 3e-3, 3e-3),
    Measured("openvino", 0.06, 1e-7, 1e-7),
    Measured("openvino-bf16", 0.03, 4e-3, 4e-3),
    Measured("openvino-int8", None, None, 5e-3),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("sd")
    checkpoint(made, "bert", DDIMScheduler(steps_offset=1, clip_sample=False))
    return made


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    patch = pytest.MonkeyPatch()
    made = tmp_path_factory.mktemp("cache")
    patch.setenv("BIMO_CACHE", str(made))
    yield made
    patch.undo()


def engine(folder: Path, name: str, **settings: Any) -> Engine:
    made = Processor(name, **settings)
    return Engine(read_folder(folder, None), dtype=made.dtype, processor=made)


def pixels(engine: Engine, **settings: Any) -> numpy.ndarray:
    return numpy.asarray(engine.draw({**REQUEST, **settings})[0].image).astype(float)


def decibels(one: numpy.ndarray, other: numpy.ndarray) -> float:
    return 20 * math.log10(255 / max(math.sqrt(((one - other) ** 2).mean()), 1e-9))


@pytest.mark.parametrize(("name", "least"), [("torch-onednn", 50), ("torch-bf16", 25), ("openvino", 50)])
def test_each_engine_is_near_float32(folder: Path, cache: Path, name: str, least: float) -> None:
    plain, other = engine(folder, "torch"), engine(folder, name)
    assert decibels(pixels(plain), pixels(other)) >= least
    assert (pixels(other) == pixels(other)).all()


@pytest.mark.parametrize(("name", "least"), [("openvino-bf16", 25), ("openvino-int8", 15)])
def test_one_conversion_serves_every_size_and_is_kept(folder: Path, cache: Path, name: str, least: float) -> None:
    plain, other = engine(folder, "torch"), engine(folder, name)
    assert decibels(pixels(plain), pixels(other)) >= least
    files = {file: file.stat().st_mtime_ns for file in sorted(cache.rglob("*.xml"))}
    assert files
    large = {"size": (128, 64)}
    assert decibels(pixels(plain, **large), pixels(other, **large)) >= least
    assert (pixels(engine(folder, name)) == pixels(other)).all()
    assert {file: file.stat().st_mtime_ns for file in sorted(cache.rglob("*.xml"))} == files


def test_int8_leaves_the_decoder_in_bfloat16(folder: Path, cache: Path) -> None:
    torch.manual_seed(0)
    x = torch.randn(1, 4, 8, 8, dtype=torch.bfloat16)
    answers: list[torch.Tensor] = []
    for name in ("openvino-bf16", "openvino-int8"):
        made = engine(folder, name)
        pixels(made)
        decoder: Any = next(module for module in made.system.modules() if isinstance(module, AutoencoderKL)).decoder
        assert isinstance(decoder.forward, ConvertedBlock)
        answers.append(decoder(x))
    assert torch.equal(*answers)
    assert list(cache.rglob("*mid_block*.int8.xml"))
    assert not list(cache.rglob("*decoder*.int8.xml"))


@pytest.mark.parametrize("amx", [True, False])
def test_with_amx_int8_leaves_a_unet_s_full_resolution_to_torch(
    folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, amx: bool
) -> None:
    monkeypatch.setattr("bimo.engine.openvino.torch_has_amx", lambda: amx)
    made = engine(folder, "openvino-int8")
    unet: Any = next(module for module in made.system.modules() if isinstance(module, UNet2DConditionModel))
    layers = (*unet.down_blocks[0].resnets, *unet.up_blocks[-1].resnets)
    assert {isinstance(layer.forward, ConvertedBlock) for layer in layers} == {not amx}
    assert isinstance(unet.mid_block.forward, ConvertedBlock)
    assert decibels(pixels(engine(folder, "torch")), pixels(made)) >= 15


def test_memory_of_the_steps_is_free_while_it_decodes(
    folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bimo.engine.openvino_infer import CompiledBlock

    made = engine(folder, "openvino-bf16")
    expected = pixels(made)
    order: list[CompiledBlock | None] = []
    infer, rest = CompiledBlock.__call__, CompiledBlock.rest
    monkeypatch.setattr(CompiledBlock, "__call__", lambda self, tensors: (order.append(None), infer(self, tensors))[1])
    monkeypatch.setattr(CompiledBlock, "rest", lambda self: (order.append(self), rest(self))[1])
    assert (pixels(made) == expected).all()
    # The last inference is the decoder's: all blocks are at rest before it, and it after it.
    place = max(index for index, each in enumerate(order) if each is None)
    rested = order[place - len(set(order)) + 1 : place]
    assert None not in rested
    assert len(rested) == len(set(order) - {None})
    assert len(order[place + 1 :]) == 1
    decoder: Any = next(module for module in made.system.modules() if isinstance(module, AutoencoderKL)).decoder
    assert decoder._forward_hooks
    made.processor.restore()
    assert not decoder._forward_hooks | decoder._forward_pre_hooks


def test_in_float32_a_block_keeps_no_memory_for_its_next_call(folder: Path, cache: Path) -> None:
    made = engine(folder, "openvino")
    expected = pixels(made)
    forwards = (module.forward for module in made.system.modules())
    block = next(one for one in forwards if isinstance(one, ConvertedBlock) and ".denoiser." in one.name)
    (compiled,) = block._compiled.values()
    own, released = compiled._compiled, list[None]()
    compiled._compiled = SimpleNamespace(release_memory=lambda: (released.append(None), own.release_memory()))
    assert (pixels(made) == expected).all()
    # Once after each step, and once before the decoder.
    assert len(released) == REQUEST["steps"] + 1


def test_a_cached_conversion_is_of_these_weights_and_dtype(folder: Path, tmp_path: Path) -> None:
    from dataclasses import replace

    from bimo.engine.openvino_cache import ConversionCache

    system = read_folder(folder, None)
    store = ConversionCache.of(system, tmp_path)
    assert ConversionCache.of(read_folder(folder, None), tmp_path) == store
    system.recipe = replace(system.recipe, note="another")
    assert ConversionCache.of(system, tmp_path) != store
    system.weights_hash = "0" * 64
    assert ConversionCache.of(system, tmp_path).folder != store.folder


def test_where_nothing_can_be_kept_it_draws_all_the_same(folder: Path, cache: Path) -> None:
    before = sorted(cache.rglob("*.xml"))
    made = engine(folder, "openvino", cache_converted=False)
    assert decibels(pixels(engine(folder, "torch")), pixels(made)) >= 50
    assert sorted(cache.rglob("*.xml")) == before


def test_restoring_gives_back_the_torch_weights(folder: Path, cache: Path) -> None:
    made = engine(folder, "openvino", cache_converted=False)
    expected = {name: value.clone() for name, value in read_folder(folder).state_dict().items()}
    pixels(made)
    made.processor.restore()
    state = made.system.state_dict()
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[name], value) for name, value in expected.items())


def test_a_text_encoder_that_cannot_be_converted_is_left_to_torch_with_a_warning(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = engine(folder, "torch").prepare(REQUEST).prompt[0].tokens
    made = engine(folder, "openvino", cache_converted=False)
    prepared = made.prepare(REQUEST)
    assert not [warning for warning in prepared.warnings if "OpenVINO" in warning]
    layers: Any = made.system.text[0].model.encoder.layer
    assert all(isinstance(layer.forward, ConvertedBlock) for layer in layers)
    torch.testing.assert_close(prepared.prompt[0].tokens, expected, atol=1e-5, rtol=0)

    monkeypatch.setattr("bimo.engine.openvino.LARGEST_ERROR", {"f32": -1.0})
    made = engine(folder, "openvino", cache_converted=False)
    prepared = made.prepare(REQUEST)
    assert [warning for warning in prepared.warnings if "OpenVINO" in warning and "text.0" in warning]
    layers = made.system.text[0].model.encoder.layer
    assert not any(isinstance(layer.forward, ConvertedBlock) for layer in layers)
    torch.testing.assert_close(prepared.prompt[0].tokens, expected, atol=0, rtol=0)


def test_features_of_deepcache_go_between_converted_blocks(folder: Path, cache: Path) -> None:
    settings = {"step_cache": "deep:2", "steps": 4}
    other = pixels(engine(folder, "openvino"), **settings)
    assert decibels(pixels(engine(folder, "torch"), **settings), other) >= 50


@pytest.mark.parametrize("settings", [{"token_merging": 0.5}, {"nag": 3.0, "negative": "山", "guidance": 1.0}])
def test_what_works_inside_of_blocks_is_refused(folder: Path, cache: Path, settings: dict[str, Any]) -> None:
    with pytest.raises(RequestError, match="OpenVINO"):
        engine(folder, "openvino").draw({**REQUEST, **settings})


def test_products_are_torchs_again_after_a_drawing(folder: Path) -> None:
    before = torch.backends.mkldnn.matmul.fp32_precision
    with pytest.raises(KeyboardInterrupt):
        engine(folder, "torch-onednn").draw(REQUEST, progress=interrupt)
    assert torch.backends.mkldnn.matmul.fp32_precision == before


def interrupt(*step: int) -> None:
    assert torch.backends.mkldnn.matmul.fp32_precision == "bf16"
    raise KeyboardInterrupt


def test_the_probe_is_taken_once(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[int] = []

    def probe() -> list[Measured]:
        taken.append(1)
        return PROBE

    monkeypatch.setattr(processor, "probe", probe)
    assert processor.measured() == processor.measured() == PROBE
    assert len(taken) == 1
    next(cache.glob("processor-*.json")).write_text("[1]")
    assert processor.measured() == PROBE


def test_the_probe_measures_what_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processor, "ROUNDS", 1)
    found = {row.engine: row for row in processor.probe()}
    assert list(found) == list(ENGINES)
    assert found["openvino-int8"].seconds is found["openvino-int8"].error is None
    assert all(row.seconds > 0 for row in found.values() if row.seconds is not None)
    assert found["torch"].error == found["torch"].text_error == 0
    assert found["openvino"].error < 1e-5
    assert found["openvino"].text_error < 1e-5
    # OpenVINO takes float32 for bfloat16 where the processor has no instructions for it.
    rounds = openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    assert (1e-5 if "BF16" in rounds else 0) < found["openvino-bf16"].error < 0.05
    assert (1e-5 if "BF16" in rounds else 0) < found["openvino-bf16"].text_error < 0.02
    assert 1e-4 < found["openvino-int8"].text_error < 0.02


@pytest.mark.parametrize(("name", "named"), [("openvino-bf16", True), ("openvino-int8", False), ("openvino", False)])
def test_where_openvino_has_no_bfloat16_it_is_float32_and_said(
    folder: Path, name: str, named: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LANG", "C")
    monkeypatch.setattr(processor, "openvino_has_bfloat16", lambda: False)
    assert Processor(name).dtype == torch.float32
    warned = ["float32 in its place" in warning for warning in Processor(name).warnings]
    assert warned == [True] * named
    # What it is named for may still be said by --dtype.
    with pytest.raises(RequestError, match="leave --dtype out"):
        load(folder, engine=name, dtype="bf16" if name == "openvino" else "fp16")
    monkeypatch.setattr(processor, "openvino_has_bfloat16", lambda: True)
    assert Processor(name).dtype == (torch.float32 if name == "openvino" else torch.bfloat16)
    assert Processor(name).warnings == ()


def test_auto_takes_the_fastest_engine_for_the_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processor, "measured", lambda: PROBE)
    monkeypatch.setattr(processor, "openvino_has_bfloat16", lambda: False)
    assert processor.chosen("auto", 10**9) == "torch-bf16"
    monkeypatch.setattr(processor, "openvino_has_bfloat16", lambda: True)
    assert processor.chosen("auto", 10**9) == "openvino-bf16"
    assert processor.chosen("auto", 10**6) == "torch"
    with pytest.raises(RequestError, match="rounds"):
        processor.chosen("torch-onednn", 10**9)
    with pytest.raises(RequestError, match="openvino-bf16"):
        processor.chosen("openvno-bf16", 10**9)
    monkeypatch.setattr(processor.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(RequestError, match="not installed"):
        processor.chosen("openvino", 10**9)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"engine": "openvino", "offload": True}, "offload"),
        ({"engine": "torch-bf16", "dtype": "fp16"}, "dtype"),
        ({"engine": "torch-bf16", "dtype": "fp32"}, "dtype"),
        ({"engine": "tensorrt"}, "tensorrt"),
    ],
)
def test_incompatible_engine_options_are_refused(folder: Path, settings: dict[str, Any], words: str) -> None:
    with pytest.raises(RequestError, match=words):
        load(folder, **settings)


def test_a_system_without_networks_of_diffusers_is_refused(tiny_folder: Path) -> None:
    with pytest.raises(RequestError, match="leave --engine out"):
        load(tiny_folder, engine="openvino")


def test_blocks_are_of_the_outermost_network(folder: Path) -> None:
    from bimo.engine.openvino import blocks

    system: System = read_folder(folder)
    names = list(blocks(system))
    assert len(names) == len(set(names))
    assert not any(one != other and one.startswith(f"{other}.") for one in names for other in names)
    assert sum("decoder" in name for name in names) == 1
