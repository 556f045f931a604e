"""What a model needs is said before it is read; what does not fit is refused with what would."""

from __future__ import annotations

from pathlib import Path

import pytest

from bimo.cli import main
from bimo.core.errors import RequestError
from bimo.core.recipe import Recipe
from bimo.hub import memory, registry

GIGA = 1_000_000_000


TAIYI = memory.Weighed(102_267_648, (859_520_964,), 83_653_863, 0)


@pytest.fixture
def taiyi(monkeypatch: pytest.MonkeyPatch) -> Recipe:
    """The recipe; its weights, which take a second to count, are counted in the first test alone."""
    monkeypatch.setattr(memory, "weighed", lambda recipe: TAIYI)
    return registry.recipe("taiyi-sd-zh")


def test_bytes_of_weights() -> None:
    weights = memory.weighed(registry.recipe("taiyi-sd-zh"))
    assert weights == TAIYI
    assert weights.bytes("fp32", False) == 4 * 1_045_442_475
    assert weights.bytes("bf16", False) == 2 * 1_045_442_475
    assert weights.bytes("fp16", False) == 2 * (102_267_648 + 859_520_964) + 4 * 83_653_863
    assert weights.bytes("fp16", True) == 2 * 859_520_964 + 4 * 83_653_863
    assert memory.weighed(registry.recipe("xiaomo")).denoisers == (9_540_659, 14_203_808)


def test_what_it_takes_is_said(taiyi: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LANG", "C")
    said = memory.plan(taiyi, None, free=64 * GIGA)
    assert "5.8 GB" in said
    assert "4.2 for weights" in said
    assert "0.6 for libraries" in said


def test_of_a_small_model_nothing_is_said() -> None:
    assert memory.plan(registry.recipe("xiaomo"), None, free=64 * GIGA) == ""


@pytest.mark.parametrize(
    ("free", "offered", "refused"),
    [
        (5.0, ("--dtype bf16 (2.6 GB)", "--offload (4.8 GB)", "--dtype bf16 --offload (2.4 GB)", "--size 384"), ()),
        (4.0, ("--dtype bf16 (2.6 GB)", "--dtype bf16 --offload"), ("fits: --offload", "--size")),
        (2.5, ("--dtype bf16 --offload (2.4 GB)",), ("--dtype bf16 (", "--size")),
        (1.0, ("the least is 1.9 GB (--dtype bf16 --offload --size 64)",), ("what fits",)),
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
    assert memory.plan(taiyi, (512, 512), "bf16", True, free=int(2.5 * GIGA))
    assert memory.plan(taiyi, (384, 384), free=int(5.0 * GIGA))
    with pytest.raises(RequestError) as caught:
        memory.plan(taiyi, (512, 512), "bf16", False, free=int(2.5 * GIGA))
    assert "--dtype bf16 --offload" in caught.value.en
    assert "fits: --offload" not in caught.value.en


def test_files_of_a_small_model_are_not_weighed(tmp_path: Path) -> None:
    assert memory.surely_small(registry.BUNDLES / "xiaomo" / "weights")
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
    assert 2 * TAIYI.bytes("bf16", False) == TAIYI.bytes("fp32", False)
    assert 2 * memory.needed((512, 768), "bf16") == memory.needed((512, 768)) == memory.needed((512, 768), "fp16")
    memory.check((1024, 1024), "bf16", free=3 * GIGA)
    with pytest.raises(RequestError, match="--size 832"):
        memory.check((1024, 1024), "fp32", free=3 * GIGA)
