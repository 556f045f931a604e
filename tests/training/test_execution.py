"""Compiled blocks, channels-last and deterministic kernels, losses that are read now and then."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bimo.core.errors import RecipeError, RequestError, TrainingError
from bimo.core.recipe import Recipe, Stage
from bimo.data.loader import Pictures
from bimo.diffusion.system import System
from bimo.engine import compile as compiling
from bimo.engine.compile import repeated_blocks
from bimo.recipes.taiyi_sd import taiyi_zh
from bimo.training import execution, snapshots
from bimo.training.distributed.processes import Processes
from bimo.training.execution import Execution, deterministic, kernels, no_kernel
from bimo.training.objectives.denoise import Denoise
from bimo.training.step_losses import LOG_EVERY, log_every
from bimo.training.trainer import Trainer, train
from bimo.xiaomo.recipe import xiaomo
from tests.support.tiny_checkpoints import bert_words
from tests.training.test_trainer import losses

STAGE = Stage(
    name="executed",
    objective=Denoise(),
    level="image",
    train=("image.denoiser.*.to_q.*",),
    steps=3,
    batch=4,
    lr=1e-3,
    max_unknown=1.0,
)
UNET = replace(STAGE, train=("image.denoiser.*conv_in.*", "image.denoiser.*.to_q.*"), size=(64, 64))
CUDA = torch.device("cuda")


class Block(nn.Module):
    """A product, of any width."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.product = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.product(x)


def recipe(base: Recipe, stage: Stage) -> Recipe:
    return replace(base.tiny(), stages=(stage,), prompts=())


def weights(folder: Path) -> bytes:
    return (folder / "weights.safetensors").read_bytes()


def stopped_after_each_step(wanted: Recipe, shards: Path, out: Path) -> bytes:
    for _ in range(wanted.stages[0].steps + 1):
        torch.compiler.reset()
        train(wanted, shards, out, threads=1, stop_after=0.0)
    return weights(out)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of torch's own compiler
def test_compiled_it_goes_on_to_the_bit(tiny_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # One block, whose input has a gradient: each further graph keeps g++ busy for a minute more.
    monkeypatch.setattr(execution, "repeated_blocks", lambda denoiser: repeated_blocks(denoiser)[1:2])
    wanted = recipe(xiaomo, replace(STAGE, compiled=True, steps=2))
    counters = torch._dynamo.utils.counters["stats"]
    torch.compiler.reset()
    before = counters["unique_graphs"]
    whole = weights(train(wanted, tiny_shards, tmp_path / "whole", threads=1))
    assert counters["unique_graphs"] > before
    for stop_after in (0.0, None):
        torch.compiler.reset()
        train(wanted, tiny_shards, tmp_path / "stopped", threads=1, stop_after=stop_after)
    assert weights(tmp_path / "stopped") == whole


@pytest.mark.slow
def test_channels_last_it_goes_on_to_the_bit(tiny_shards: Path, tmp_path: Path) -> None:
    wanted = recipe(taiyi_zh, replace(UNET, channels_last=True, ema=0.5, optimiser="adamw"))
    found = []
    for out in ("whole", "stopped"):
        bert_words(tmp_path / out / "words.0")
    found.append(weights(train(wanted, tiny_shards, tmp_path / "whole", threads=1)))
    found.append(stopped_after_each_step(wanted, tiny_shards, tmp_path / "stopped"))
    assert found[0] == found[1]


def begun(shards: Path, out: Path, stage: Stage, base: Recipe = taiyi_zh) -> tuple[Trainer, Any]:
    bert_words(out / "words.0")
    run = Trainer(recipe(base, stage), Pictures(shards), out)
    run._words()
    return run, run._stage_trainer(stage, None)


def test_kernels_lie_channels_last_while_they_learn(tiny_shards: Path, tmp_path: Path) -> None:
    run, learning = begun(tiny_shards, tmp_path, replace(UNET, channels_last=True))
    denoiser = run.system.level("image").denoiser
    wide = [kernel for kernel in kernels(denoiser) if min(kernel.shape[:2]) > 1]
    last = {"memory_format": torch.channels_last}
    assert wide
    assert all(kernel.is_contiguous(**last) and not kernel.is_contiguous() for kernel in wide)
    run._step(run.recipe.stages[0], learning)
    name = next(name for name in learning.parameters if "conv_in" in name)
    state = learning.optimiser.state[learning.parameters[name]]
    assert state["exp_avg"].is_contiguous(**last)
    # What an older run saved otherwise is put in that order, too.
    learning._go_on({"optimiser": _contiguous(learning.optimiser.state_dict()), "average": {}})
    assert learning.optimiser.state[learning.parameters[name]]["exp_avg"].is_contiguous(**last)
    learning.close()
    assert all(kernel.is_contiguous() for kernel in denoiser.parameters())


def _contiguous(state: dict[str, Any]) -> dict[str, Any]:
    own = {
        at: {name: value.contiguous() if isinstance(value, Tensor) else value for name, value in row.items()}
        for at, row in state["state"].items()
    }
    return {**state, "state": own}


def test_what_is_of_no_use_to_a_stage_is_said(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BIMO_LANGUAGE", "en")
    system = System(recipe(xiaomo, STAGE))
    level: Any = system.level("image")
    level.denoiser = nn.Sequential(nn.Conv2d(3, 8, 2, stride=2), nn.Linear(4, 4))
    Execution(replace(STAGE, compiled=True, channels_last=True), system, Processes()).close()
    said = capsys.readouterr().out
    assert "it has no blocks that repeat" in said
    assert "it has no convolutions" in said


@pytest.mark.filterwarnings("ignore")  # of torch's own compiler
def test_what_shards_is_refused_and_what_is_compiled_is_undone(monkeypatch: pytest.MonkeyPatch) -> None:
    system = System(recipe(xiaomo, STAGE))
    for processes in (Processes(count=2, sharded=True), Processes(count=2, zero=True)):
        for fields in ({"compiled": True}, {"channels_last": True}):
            with pytest.raises(TrainingError, match=f"{next(iter(fields))} of stage"):
                Execution(replace(STAGE, **fields), system, processes)
    blocks = repeated_blocks(system.level("image").denoiser)
    execution = Execution(replace(STAGE, compiled=True), system, Processes())
    assert all(block._compiled_call_impl is not None for block in blocks)
    execution.close()
    assert all(block._compiled_call_impl is None for block in blocks)
    monkeypatch.setattr(compiling.shutil, "which", lambda name: None)
    with pytest.raises(RequestError, match="a compiler of C"):
        Execution(replace(STAGE, compiled=True), system, Processes())


def test_every_width_of_a_unet_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch leaves off at eight variants of one kind of block; a UNet as published has more."""
    made: list[int] = []

    def backend(graph: Any, _: Any) -> Any:
        made.append(1)
        return graph.forward

    plain = nn.Module.compile
    monkeypatch.setattr(nn.Module, "compile", lambda block, mode, **how: plain(block, backend=backend, **how))
    torch.compiler.reset()

    blocks = compiling.compile_each([Block(width) for width in range(1, 21)], torch.device("cpu"), dynamic=False)
    for width, block in enumerate(blocks, 1):
        block(torch.zeros(1, width))
    assert len(made) == 20
    torch.compiler.reset()


@pytest.fixture
def flags(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What torch was told of deterministic kernels."""
    told: list[Any] = []
    monkeypatch.setattr(torch, "use_deterministic_algorithms", lambda on, warn_only=False: told.append((on, warn_only)))
    return told


@pytest.mark.parametrize(("exact", "wanted"), [(None, (True, True)), (True, (True, False)), (False, (False, False))])
def test_kernels_of_a_card_are_deterministic_where_asked(
    exact: bool | None, wanted: tuple[bool, bool], flags: list[Any]
) -> None:
    with deterministic(replace(STAGE, exact=exact), CUDA):
        assert flags == [wanted]
        assert torch.backends.cudnn.benchmark == (exact is False)
    assert flags[1:] == [(False, False)]
    assert not torch.backends.cudnn.benchmark


def test_exact_is_of_devices_that_say_so(capsys: pytest.CaptureFixture[str], flags: list[Any]) -> None:
    with (
        pytest.raises(TrainingError, match="exact of stage"),
        deterministic(replace(STAGE, exact=True), torch.device("mps")),
    ):
        pass
    for exact in (None, True):
        with deterministic(replace(STAGE, exact=exact), torch.device("cpu")):
            assert not flags
        assert not capsys.readouterr().out
    with deterministic(replace(STAGE, exact=False), torch.device("cpu")):
        pass
    assert "'executed'" in capsys.readouterr().out


def test_an_operation_without_a_kernel_is_said_once_or_refused(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BIMO_LANGUAGE", "en")
    sentence = "cumsum_cuda_kernel does not have a deterministic implementation, but you set ..."
    with no_kernel(STAGE):
        for _ in range(2):
            warnings.warn(sentence, stacklevel=1)
    assert capsys.readouterr().out.count("cumsum_cuda_kernel has no deterministic kernel") == 1
    with pytest.raises(TrainingError, match="cumsum_cuda_kernel"), no_kernel(STAGE):
        raise RuntimeError(sentence)
    with pytest.raises(RuntimeError, match="out of memory"), no_kernel(STAGE):
        raise RuntimeError("out of memory")


def test_losses_are_read_of_a_card_now_and_then() -> None:
    assert log_every(STAGE, torch.device("cpu")) == 1
    assert log_every(STAGE, CUDA) == LOG_EVERY
    assert log_every(replace(STAGE, log_every=3), CUDA) == 3
    with pytest.raises(RecipeError, match="log_every"):
        replace(STAGE, log_every=-1)


NOW_AND_THEN = replace(STAGE, steps=8, log_every=3, accumulate=2, batch=2)


def test_read_now_and_then_the_log_and_the_weights_are_the_same(tiny_shards: Path, tmp_path: Path) -> None:
    found = {}
    for every in (1, 3):
        out = train(
            recipe(xiaomo, replace(NOW_AND_THEN, log_every=every)), tiny_shards, tmp_path / str(every), threads=1
        )
        found[every] = weights(out), losses(out)
    assert found[1] == found[3]
    assert len(found[1][1]) == 8


def spoilt(monkeypatch: pytest.MonkeyPatch, step: int) -> list[Tensor]:
    """Makes the loss of a step NaN; returns the x of each of its batches, once they are there."""
    plain, calls, seen = Denoise.loss, [0], list[Tensor]()

    def loss(self: Denoise, inputs: Any) -> Tensor:
        calls[0] += 1
        value = plain(self, inputs)
        if (calls[0] - 1) // 2 + 1 == step:
            seen.append(inputs.batch.x)
            return value * torch.nan
        return value

    monkeypatch.setattr(Denoise, "loss", loss)
    return seen


def test_a_loss_that_is_no_number_is_found_before_anything_is_saved(
    tiny_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted, out = recipe(xiaomo, NOW_AND_THEN), tmp_path / "run"
    train(wanted, tiny_shards, out, threads=1, stop_after=0.0)
    state = (out / "state.pt").read_bytes()
    # From step 2 on: the fourth is bad, the sixth is when losses are read.
    with monkeypatch.context() as patch:
        seen = spoilt(patch, step=3)
        with pytest.raises(TrainingError, match="step 4: the loss is not a number"):
            train(wanted, tiny_shards, out, threads=1)
    assert (out / "state.pt").read_bytes() == state
    assert not (out / "weights.safetensors").exists()
    assert torch.equal(torch.load(out / "broken-batch.pt")["x"], seen[0])
    # The good steps before are on record, and the run goes on as if nothing had been.
    assert len(losses(out)) == 3
    whole = train(wanted, tiny_shards, tmp_path / "whole", threads=1)
    assert weights(train(wanted, tiny_shards, out, threads=1)) == weights(whole)


@pytest.mark.parametrize("what", ["state", "snapshot", "validation"])
def test_whatever_keeps_weights_reads_the_losses_first(
    what: str, tiny_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fields: dict[str, Any] = {
        "state": {},
        "snapshot": {"save_every": 2},
        "validation": {"validation": 0.2, "validate_every": 2},
    }[what]
    wanted, out = recipe(xiaomo, replace(NOW_AND_THEN, log_every=100, **fields)), tmp_path / "run"
    spoilt(monkeypatch, step=2)
    wrote: list[str] = []
    monkeypatch.setattr("bimo.training.trainer.write_snapshot", lambda *a: wrote.append("snapshot"))
    if what == "state":
        monkeypatch.setattr("bimo.training.trainer.CHECKPOINT_SECONDS", -1.0)
    with pytest.raises(TrainingError, match="step 2: the loss is not a number"):
        train(wanted, tiny_shards, out, threads=1)
    assert not wrote
    saved = torch.load(out / "state.pt")["place"] if (out / "state.pt").is_file() else None
    assert saved == ({"stage": 0, "step": 1} if what == "state" else None)


def test_samples_are_drawn_uncompiled() -> None:
    made: list[int] = []
    block = Block(2)

    def backend(graph: Any, _: Any) -> Any:
        made.append(1)
        return graph.forward

    block.compile(backend=backend)
    with snapshots.eager():
        block(torch.zeros(1, 2))
    assert not made
    block(torch.zeros(1, 2))
    assert made
    torch.compiler.reset()
