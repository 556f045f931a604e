"""What a model needs is said before it is read; what does not fit is refused with what would."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from bimo.cli import main
from bimo.core.errors import RequestError
from bimo.core.recipe import Recipe
from bimo.engine.memory import Keeping, Weights, drawing_bytes, resident_bytes
from bimo.hub import memory, registry
from bimo.hub.options import LoadOptions

GIGA = 1_000_000_000


TAIYI = Weights(102_267_648, (859_520_964,), 83_653_863, 0, 59_000_000)
FP32, BF16 = Keeping(), Keeping("bf16", "bf16")


@pytest.fixture
def taiyi(monkeypatch: pytest.MonkeyPatch) -> Recipe:
    """The recipe; its weights, which take a second to count, are counted in the first test alone."""
    monkeypatch.setattr(memory, "weighed", lambda recipe: TAIYI)
    return registry.recipe("taiyi-sd-zh")


def test_bytes_of_weights() -> None:
    weights = memory.weighed(registry.recipe("taiyi-sd-zh"))
    assert replace(weights, grouped=0) == replace(TAIYI, grouped=0)
    assert 2 * 29_491_200 < weights.grouped < sum(weights.denoisers) / 2
    weights = TAIYI
    assert resident_bytes(weights, FP32) == 4 * 1_045_442_475
    assert resident_bytes(weights, BF16) == 2 * 1_045_442_475
    fp16 = Keeping("fp16")
    assert resident_bytes(weights, fp16) == 2 * (102_267_648 + 859_520_964) + 4 * 83_653_863
    assert resident_bytes(weights, replace(fp16, offload="parts")) == 2 * 859_520_964 + 4 * 83_653_863
    assert resident_bytes(weights, replace(fp16, offload="groups")) == 2 * 59_000_000 + 4 * 83_653_863
    assert resident_bytes(weights, Keeping("bf16", "bf16", quantise="int8")) < 0.6 * resident_bytes(weights, BF16)
    assert memory.weighed(registry.recipe("xiaomo")).denoisers == (9_540_659, 14_203_808)


def test_the_estimate_is_reported(taiyi: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LANG", "C")
    said = memory.plan(taiyi, None, free=64 * GIGA)
    assert "5.8 GB" in said
    assert "4.2 for weights" in said
    assert "0.6 for libraries" in said


def test_small_models_are_not_reported() -> None:
    assert memory.plan(registry.recipe("xiaomo"), None, free=64 * GIGA) == ""


@pytest.mark.parametrize(
    ("free", "offered", "refused"),
    [
        (
            5.0,
            (
                *("--dtype bf16 (2.6 GB)", "--offload parts (4.8 GB)", "--dtype bf16 --offload parts (2.4 GB)"),
                *("--offload disk (1.6 GB)", "--size 384"),
            ),
            ("groups", "int8", "tiles"),
        ),
        (4.0, ("--dtype bf16 (2.6 GB)", "--dtype bf16 --offload parts"), ("fits: --offload", "--size")),
        (2.5, ("--dtype bf16 --offload parts (2.4 GB)",), ("--dtype bf16 (", "--size")),
        (0.2, ("the least is 0.3 GB (--dtype bf16 --offload disk --size 64)",), ("what fits",)),
    ],
)
def test_what_does_not_fit_is_refused_with_what_would(
    taiyi: Recipe, free: float, offered: tuple[str, ...], refused: tuple[str, ...]
) -> None:
    with pytest.raises(RequestError) as caught:
        memory.plan(taiyi, (512, 512), free=int(free * GIGA))
    said = caught.value.en
    assert all(words in said for words in offered), said
    assert not any(words in said for words in refused), said


def test_what_is_offered_fits(taiyi: Recipe) -> None:
    assert memory.plan(taiyi, (512, 512), replace(BF16, offload="parts"), free=int(2.5 * GIGA))
    assert memory.plan(taiyi, (384, 384), free=int(5.0 * GIGA))
    with pytest.raises(RequestError) as caught:
        memory.plan(taiyi, (512, 512), BF16, free=int(2.5 * GIGA))
    assert "fits: --dtype bf16 --offload parts" in caught.value.en


def test_files_of_a_small_model_are_not_weighed(tmp_path: Path) -> None:
    assert memory.surely_small(registry.BUNDLES["xiaomo"])
    with (tmp_path / "weights.safetensors").open("wb") as file:
        file.truncate(GIGA)
    assert not memory.surely_small(tmp_path)


def test_the_command_line_refuses_before_it_reads(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LANG", "C")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(memory, "available", lambda: 100_000)
    monkeypatch.setattr(memory, "surely_small", lambda folder: False)
    monkeypatch.setattr(registry, "load", lambda *_, **__: pytest.fail("it was read"))
    assert main.run(["draw", "猫", "-m", str(tiny_folder)]) == RequestError.exit_status
    assert "of memory" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_shared_space_is_counted_once() -> None:
    assert memory.weighed(registry.recipe("xiaomo")).spaces == 2_419_544


def test_bf16_takes_half(taiyi: Recipe) -> None:
    """Of weights and of what is worked out; fp16 of the first alone."""
    assert 2 * resident_bytes(TAIYI, BF16) == resident_bytes(TAIYI, FP32)
    whole = drawing_bytes((512, 768), FP32)
    assert 2 * drawing_bytes((512, 768), BF16) == whole == drawing_bytes((512, 768), Keeping("fp16"))
    memory.check((1024, 1024), "bf16", free=3 * GIGA)
    with pytest.raises(RequestError, match="--size 832"):
        memory.check((1024, 1024), "fp32", free=3 * GIGA)


def test_an_engine_in_bfloat16_is_estimated_as_one(taiyi: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LANG", "C")
    monkeypatch.setattr(memory, "free_on", lambda device: 4 * GIGA)
    with pytest.raises(RequestError, match="taiyi-sd-zh"):
        memory.plan_by_name("taiyi-sd-zh", (512, 512), *LoadOptions(device="cpu").estimated)
    said = memory.plan_by_name("taiyi-sd-zh", (512, 512), *LoadOptions(engine="torch-bf16").estimated)
    assert "2.1 for weights" in said
    assert LoadOptions(device="cuda:1", offload="parts").estimated == ("cuda:1", Keeping("auto", offload="parts"))
    assert LoadOptions(engine="openvino").estimated == ("cpu", Keeping("auto"))
