"""Several processes take the steps that one takes: the same rows, noise and losses, and the same after a stop."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from bimo.core.errors import TrainingError
from bimo.core.part import dumps
from bimo.core.recipe import Recipe, Stage
from bimo.data.loader import Pictures
from bimo.training.adapters.lora_stage import Lora
from bimo.training.batch_sampler import BatchSampler
from bimo.training.checks import check_groups
from bimo.training.distributed.processes import Processes, fully_shard
from bimo.training.distributed.zero import zero_settings
from bimo.training.objectives.online_rewards import OnlineRewards
from bimo.training.objectives.preferences import DiffusionDPO
from bimo.training.objectives.rewards import ColourfulReward
from bimo.training.trainer import Trainer, train
from bimo.xiaomo.recipe import xiaomo
from tests.support.checkout import ROOT
from tests.support.warm import Forked
from tests.training.test_trainer import losses

pytestmark = pytest.mark.slow

#: On a busy machine.
SECONDS = 900
#: Saves at every step; with a third argument the last process kills itself after so many steps, by SIGKILL.
WORKER = """
import os, signal, sys
from pathlib import Path
from bimo.core.part import loads
from bimo.training import snapshots, trainer
trainer.CHECKPOINT_SECONDS, snapshots.SAMPLE_STEPS = 0.0, 2
recipe, data, out, *killed = sys.argv[1:]
if killed and os.environ["RANK"] == str(int(os.environ["WORLD_SIZE"]) - 1):
    taken, step = [], trainer.Trainer._step
    def ending(self, *given):
        taken.append(step(self, *given))
        if len(taken) == int(killed[0]):
            os.kill(os.getpid(), signal.SIGKILL)
        return taken[-1]
    trainer.Trainer._step = ending
trainer.train(loads(Path(recipe).read_text("utf-8")), Path(data), Path(out), threads=1)
"""

#: What gloo's threads still hold when a sum has been answered.
SUMS = """
import torch
from torch import distributed
from bimo.training.distributed.processes import gather, init_distributed
sent, sums = [], distributed.all_reduce
distributed.all_reduce = lambda tensor: [sent.append(tensor), sums(tensor)]
with init_distributed("cpu") as processes:
    for number in range(300):
        rows = torch.ones(2, requires_grad=True)
        share = processes.share([2, 2])
        assert processes.total(number) == [2.0 * number]
        gather(rows, share).sum().backward()
        assert rows.grad.tolist() == [2.0, 2.0]
        held = [tensor._use_count() for tensor in sent]
        assert held == [1, 1, 1], held
        sent.clear()
"""


def recipe(*stages: int) -> Recipe:
    """Stages of the bundled recipe: batches that processes cannot part evenly, batch statistics, contrast, an average,
    accumulation, something held out, an adapter.
    """
    tiny = xiaomo.tiny()
    # So large an eps that AdamW does not blow up the rounding of a gradient that is zero but for that.
    common = {"steps": 3, "batch": 5, "eps": 1e-2}
    made = [replace(tiny.stages[number], **common) for number in stages]
    if 4 in stages:
        made[-1] = replace(made[-1], accumulate=2, ema=0.9, validation=0.2, validate_every=2, max_grad_norm=0.1)
        lora = Lora(targets=("image.denoiser.*",), rank=2)
        made.append(replace(made[-1], name="adapter", train=(), adapter=lora))
    return replace(tiny, stages=tuple(made), prompts=("红色的方块",))


def launched(count: int, arguments: list[str], code: str = WORKER, **settings: str) -> list[Forked]:
    """As many processes as a launcher would begin, with nobody to end one when another dies."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(count), "OMP_NUM_THREADS": "1"}
    begun: list[Forked] = []
    for rank in range(count):
        own = {"RANK": str(rank), "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": str(count), "BIMO_LANGUAGE": "en"}
        begun.append(Forked(code, *arguments, env={**os.environ, **common, **own, **settings}))
    return begun


def ended(processes: list[Forked]) -> list[tuple[int, str]]:
    """What each returned and said."""
    return [process.ended(SECONDS) for process in processes]


def finished(count: int, arguments: list[str], code: str = WORKER, **settings: str) -> None:
    for status, said in ended(launched(count, arguments, code, **settings)):
        assert status == 0, said


def alike(first: Path, second: Path) -> None:
    """Asserts that two runs had the same losses, and ended with the same weights, to rounding."""
    one, other = losses(first), losses(second)
    assert [row[:2] for row in one] == [row[:2] for row in other]
    assert [row[2] for row in one] == pytest.approx([row[2] for row in other], rel=1e-5, abs=2e-6)
    valid = [[row["valid"] for row in rows_of(run) if "valid" in row] for run in (first, second)]
    assert valid[0] == pytest.approx(valid[1], rel=1e-5, abs=2e-6)
    files = sorted(path.name for path in first.glob("*.safetensors"))
    assert files == sorted(path.name for path in second.glob("*.safetensors"))
    for name in files:
        mine, yours = load_file(first / name), load_file(second / name)
        assert mine.keys() == yours.keys()
        for key, value in mine.items():
            torch.testing.assert_close(value, yours[key], rtol=1e-4, atol=2e-6, msg=key)


def rows_of(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "log.jsonl").read_text("utf-8").splitlines()]


@given(st.lists(st.integers(1, 3), min_size=1, max_size=12), st.integers(1, 5))
def test_shares_are_all_rows_once_and_split_no_group(groups: list[int], count: int) -> None:
    shares = [Processes(rank, count).share(groups) for rank in range(count)]
    rows = list(range(sum(groups)))
    assert sum(Processes(rank, count).part(share) for rank, share in enumerate(shares)) == pytest.approx(1)
    if len(groups) < count:
        assert all(share.of(rows) == rows for share in shares)
        return
    assert [row for share in shares for row in share.of(rows)] == rows
    ends = {sum(groups[:place]) for place in range(len(groups) + 1)}
    assert {end for share in shares for end in (share.first, share.last)} <= ends
    assert min(share.last - share.first for share in shares) > 0


@pytest.fixture(scope="module")
def one(tiny_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one process."""
    return train(recipe(0, 1, 2, 4), tiny_shards, tmp_path_factory.mktemp("runs") / "one", threads=1)


@pytest.fixture(scope="module")
def three(one: Path, tiny_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The same by three processes that a launcher began, and what they printed."""
    run = tmp_path_factory.mktemp("runs") / "three"
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "3", "-m", "bimo"]
    asked = ["train", str(one / "recipe.json"), "--data", str(tiny_shards), "--out", str(run), "--threads", "1"]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [*launcher, *asked, "--device", "cpu"]
    told = subprocess.run(command, env=env, capture_output=True, text=True, timeout=SECONDS, check=False)
    assert told.returncode == 0, told.stderr
    return run, told.stdout


def test_processes_of_a_launcher_learn_as_one(one: Path, three: tuple[Path, str]) -> None:
    run, printed = three
    assert printed.splitlines().count(str(run)) == 1, "one process speaks for all"
    alike(one, run)
    assert {path.name for path in one.iterdir()} == {path.name for path in run.iterdir()}


def test_a_killed_process_ends_the_others_and_the_run_goes_on_exactly(
    one: Path, three: tuple[Path, str], tiny_shards: Path, tmp_path: Path
) -> None:
    # Three add up in an order, and that must be the same after a stop.
    run, other = tmp_path / "killed", tmp_path / "other"
    arguments = [str(one / "recipe.json"), str(tiny_shards), str(run)]
    *others, last = ended(launched(3, [*arguments, "8"]))
    assert last[0] == -signal.SIGKILL
    for status, said in others:
        assert status == 1
        assert "another process has ended" in said
    assert (run / "state.pt").is_file()
    assert not (run / "weights.safetensors").is_file()
    shutil.copytree(run, other)
    finished(3, arguments)
    assert (run / "weights.safetensors").read_bytes() == (three[0] / "weights.safetensors").read_bytes()
    assert losses(run) == losses(three[0])
    # With another number of processes it goes on as well, to rounding.
    train(recipe(0, 1, 2, 4), tiny_shards, other, threads=1)
    alike(one, other)


@pytest.mark.parametrize(("kind", "library"), [("bf16", ""), ("int8", "torchao"), ("nf4", "bitsandbytes")])
def test_each_process_keeps_frozen_weights_and_goes_on_exactly(
    kind: str, library: str, tiny_shards: Path, tmp_path: Path
) -> None:
    if library:
        pytest.importorskip(library)
    wanted = recipe(4)
    wanted = replace(wanted, stages=(replace(wanted.stages[-1], frozen=cast(Any, kind)),))
    one = train(wanted, tiny_shards, tmp_path / "one", threads=1)
    (tmp_path / "recipe.json").write_text(dumps(wanted), "utf-8")
    arguments = [str(tmp_path / "recipe.json"), str(tiny_shards)]
    run, killed = tmp_path / "run", tmp_path / "killed"
    finished(2, [*arguments, str(run)])
    alike(one, run)
    ended(launched(2, [*arguments, str(killed), "2"]))
    assert not (killed / "weights.safetensors").is_file()
    finished(2, [*arguments, str(killed)])
    assert (killed / "weights.safetensors").read_bytes() == (run / "weights.safetensors").read_bytes()
    assert not list(tmp_path.rglob("*frozen.pt"))  # each process removes its own


@pytest.mark.parametrize("fields", [{"sharded": True}, {"zero": True}], ids=str)
def test_sharded_training_refuses_frozen_formats(fields: dict[str, bool], tiny_shards: Path, tmp_path: Path) -> None:
    wanted = recipe(4)
    wanted = replace(wanted, stages=(replace(wanted.stages[-1], frozen="bf16"),))
    run = Trainer(wanted, Pictures(tiny_shards), tmp_path / "run", processes=Processes(**cast(Any, fields)))
    with pytest.raises(TrainingError, match="torchrun"):
        run._stage_trainer(run.recipe.stages[0], None)


def test_fsdp_leaves_the_run_of_one_process(tiny_shards: Path, tmp_path: Path) -> None:
    wanted = recipe(0, 2, 4)
    one = train(wanted, tiny_shards, tmp_path / "one", threads=1)
    (tmp_path / "recipe.json").write_text(dumps(wanted), "utf-8")
    settings = {"ACCELERATE_USE_FSDP": "true", "FSDP_AUTO_WRAP_POLICY": "SIZE_BASED_WRAP", "FSDP_MIN_NUM_PARAMS": "999"}
    run = tmp_path / "run"
    arguments = [str(tmp_path / "recipe.json"), str(tiny_shards), str(run)]
    ended(launched(2, [*arguments, "8"], **settings))
    assert not (run / "weights.safetensors").is_file()
    # What is kept is whole: it is that of one process in the middle of the stage.
    held = torch.load(run / "state.pt", weights_only=True)
    shapes = {tuple(p.shape) for p in held["average"].values()}
    assert {tuple(s["exp_avg"].shape) for s in held["optimiser"]["state"].values()} == shapes
    finished(2, arguments, **settings)
    alike(one, run)


def test_deepspeed_leaves_the_run_of_one_process(tiny_shards: Path, tmp_path: Path) -> None:
    pytest.importorskip("deepspeed")
    wanted = recipe(1, 2, 4)
    # The second stage does not use all that learns: that must not decay.
    wanted = replace(wanted, stages=tuple(replace(it, lr=1e-2, weight_decay=0.5) for it in wanted.stages))
    one = train(wanted, tiny_shards, tmp_path / "one", threads=1)
    (tmp_path / "recipe.json").write_text(dumps(wanted), "utf-8")
    settings = {"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_ZERO_STAGE": "2"}
    arguments = [str(tmp_path / "recipe.json"), str(tiny_shards)]
    run, killed = tmp_path / "run", tmp_path / "killed"
    finished(2, [*arguments, str(run)], **settings)
    alike(one, run)
    ended(launched(2, [*arguments, str(killed), "8"], **settings))
    assert not (killed / "weights.safetensors").is_file()
    other = shutil.copytree(killed, tmp_path / "other")
    finished(2, [*arguments, str(killed)], **settings)
    assert (killed / "weights.safetensors").read_bytes() == (run / "weights.safetensors").read_bytes()
    assert losses(killed) == losses(run)
    # What is kept is AdamW's own: one process goes on with it.
    train(wanted, tiny_shards, other, threads=1)
    alike(one, other)


@pytest.mark.parametrize(
    ("change", "config", "said"),
    [
        ({"optimiser": "muon"}, {"zero_optimization": {"stage": 2}}, "muon"),
        ({"precision": "fp16"}, {"zero_optimization": {"stage": 2}}, "fp16"),
        ({}, {"zero_optimization": {"stage": 3}}, "FSDP"),
        ({}, {"zero_optimization": {"stage": 2}, "optimizer": {"type": "Lion"}}, "optimizer"),
        ({}, {"zero_optimization": {"stage": 2}, "bf16": {"enabled": True}}, "bf16"),
        ({}, {}, "zero_optimization|ZeRO"),
    ],
)
def test_deepspeed_refuses_what_a_stage_or_the_loop_decides(
    change: dict[str, str], config: dict[str, Any], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "ds.json"
    path.write_text(json.dumps(config), "utf-8")
    monkeypatch.setenv("ACCELERATE_DEEPSPEED_CONFIG_FILE", str(path))
    with pytest.raises(TrainingError, match=said):
        zero_settings(replace(xiaomo.stages[0], **cast(Any, change)))


def test_deepspeed_refuses_a_later_stage_before_the_first_is_learnt(
    tiny_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACCELERATE_DEEPSPEED_ZERO_STAGE", "1")
    wanted = recipe(0, 2)
    wanted = replace(wanted, stages=(wanted.stages[0], replace(wanted.stages[1], optimiser="muon")))
    run = Trainer(wanted, Pictures(tiny_shards), tmp_path / "run", processes=Processes(zero=True))
    with pytest.raises(TrainingError, match="muon"):
        run.everything()
    assert not (run.out / "log.jsonl").is_file()


def test_workers_of_a_ray_cluster_learn_as_one(tiny_shards: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray")
    wanted = recipe(1, 2)
    one = train(wanted, tiny_shards, tmp_path / "one", threads=1)
    asked = ["train", str(one / "recipe.json"), "--data", str(tiny_shards), "--out", str(tmp_path / "two")]
    command = [sys.executable, "-m", "bimo", *asked, "--threads", "1", "--on", "ray", "--workers", "2"]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    told = subprocess.run(command, env=env, capture_output=True, text=True, timeout=SECONDS, check=False)
    assert told.returncode == 0, told.stderr
    alike(one, tmp_path / "two")


def test_two_processes_share_the_drawing_of_a_round(tiny_shards: Path, tmp_path: Path) -> None:
    tiny = xiaomo.tiny()
    # Of a large beta rounding is as many times larger.
    learn = DiffusionDPO(worst=True, beta=10.0)
    rounds = OnlineRewards(
        reward=ColourfulReward(), learn=learn, requests=4, draws=2, every=2, batch=2, steps=2, size=(128, 128)
    )
    learnt = Stage(name="own", objective=rounds, level="image", train=("image.denoiser.*",), steps=3, batch=4, eps=1e-2)
    wanted = replace(tiny, stages=(learnt,), prompts=())
    (tmp_path / "recipe.json").write_text(dumps(wanted), "utf-8")
    finished(2, [str(tmp_path / "recipe.json"), str(tiny_shards), str(tmp_path / "two")])
    one = train(wanted, tiny_shards, tmp_path / "one", threads=1)
    alike(one, tmp_path / "two")
    # The first round is drawn before a step is taken: by whom makes no difference to a byte.
    first = sorted((one / "stage-1" / "round-0001").glob("*.png"))
    assert len(first) == 8
    for path in first:
        assert path.read_bytes() == (tmp_path / "two" / path.relative_to(one)).read_bytes()


def test_an_all_reduce_releases_its_buffer() -> None:
    # Else a process that ends just then is aborted.
    finished(2, [], SUMS)


def test_fsdp_refuses_what_has_no_parts() -> None:
    stage = replace(xiaomo.tiny().stages[2], optimiser="adafactor")
    with pytest.raises(TrainingError, match="torchrun"):
        fully_shard(stage, torch.nn.Linear(2, 2), torch.device("cpu"))


def test_more_processes_than_groups_are_refused() -> None:
    order = BatchSampler([(0, 1), (2, 3)], [(0, 0)] * 4, 4, 0)
    check_groups(xiaomo.stages[0], order, 2)
    with pytest.raises(TrainingError, match=r"fewer processes|减少进程"):
        check_groups(xiaomo.stages[0], order, 3)
