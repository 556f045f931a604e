"""What a run leaves: a README and a page, the best of what was held out; and nothing half written on a full disk."""

from __future__ import annotations

import errno
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import tracking
from PIL import Image

from bimo.core.errors import RecipeError, TrainingError
from bimo.core.recipe import Recipe
from bimo.data.loader import Pictures
from bimo.diffusion.system import System
from bimo.training import logging, trainer
from bimo.training.adapters.lora_stage import Lora
from bimo.training.run_page import courses
from bimo.training.trackers import check_trackers
from bimo.training.trainer import Trainer, train
from bimo.xiaomo.recipe import xiaomo
from tests.support.drawing import draw

TINY = xiaomo.tiny()
PAINTER = 4


def recipe(steps: int = 4, **fields: Any) -> Recipe:
    stage = replace(TINY.stages[PAINTER], steps=steps, batch=4, **fields)
    return replace(TINY, stages=(stage,), prompts=("红色的<方块>",), title="试 & 验")


def logged(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "log.jsonl").read_text("utf-8").splitlines()]


HELD = {"validation": 0.3, "validate_every": 2}


@pytest.fixture(scope="module")
def whole(tiny_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(recipe(steps=5, **HELD), tiny_shards, tmp_path_factory.mktemp("runs") / "whole", threads=1)


def test_what_is_held_out_is_measured_now_and_then_and_at_the_end(whole: Path) -> None:
    assert [row["step"] for row in logged(whole) if "valid" in row] == [2, 4, 5]


def test_the_best_is_kept_ready_to_draw(whole: Path) -> None:
    best = System.read(whole / "best-1")
    assert draw(best, "红色的方块", steps=1)[0].image.size == (128, 128)
    assert not list(whole.glob("*.part"))


@pytest.mark.slow
def test_stopped_it_goes_on_to_the_same_losses_and_the_same_best(
    whole: Path, tiny_shards: Path, tmp_path: Path
) -> None:
    for _ in range(7):
        train(recipe(steps=5, **HELD), tiny_shards, tmp_path / "run", threads=1, stop_after=0.0)
    keys = ("step", "loss", "valid")
    found, wanted = ([[row.get(key) for key in keys] for row in logged(run)] for run in (tmp_path / "run", whole))
    assert found == wanted
    for name in ("weights.safetensors", "best-1/weights.safetensors"):
        assert (tmp_path / "run" / name).read_bytes() == (whole / name).read_bytes()


def test_what_is_held_out_is_never_learnt_and_its_noise_stays(tiny_shards: Path, tmp_path: Path) -> None:
    run = Trainer(recipe(**HELD, ema=0.0), Pictures(tiny_shards), tmp_path / "run")
    run._words()
    stage = run.recipe.stages[0]
    learning = run._stage_trainer(stage, None)
    run._modes()
    order, held_out = learning.batches.order, learning.batches.held_out
    assert held_out is not None
    assert set(order.groups).isdisjoint(held_out.groups)
    assert len(order.groups) + len(held_out.groups) == 16
    assert held_out.groups
    values = []
    for step in (2, 4):
        run.place.step = step
        values.append(run._validated(stage, learning))
    assert values[0] == values[1]
    assert run._validated(stage, learning) is not None
    run.place.step = 3
    assert run._validated(stage, learning) is None
    # It is a measure, not a step: everything is in training as before.
    assert run.system.level("image").denoiser.training


def test_validation_is_by_the_averaged_weights(tiny_shards: Path, tmp_path: Path) -> None:
    run = Trainer(recipe(**HELD, ema=0.9), Pictures(tiny_shards), tmp_path / "run")
    run._words()
    stage = run.recipe.stages[0]
    learning = run._stage_trainer(stage, None)
    run._modes()
    run.place.step = 2
    before = run._validated(stage, learning)
    with torch.no_grad():
        for parameter in learning.parameters.values():
            parameter.add_(1.0)
    assert run._validated(stage, learning) == before
    learning.average.swap(learning.parameters)
    assert run._validated(stage, learning) != before


def test_more_data_moves_no_picture_to_the_other_side(tiny_shards: Path, tmp_path: Path) -> None:
    pictures = Pictures(tiny_shards)
    sides = []
    for groups in (pictures.groups, list(reversed(pictures.groups))[:12]):
        run = Trainer(recipe(**HELD), pictures.of(groups), tmp_path / str(len(groups)))
        run._words()
        held_out = run._stage_trainer(run.recipe.stages[0], None).batches.held_out
        assert held_out is not None
        sides.append(set(held_out.groups))
    assert sides[1] == {group for group in sides[0] if group[0] >= 4}


def test_a_share_that_leaves_nothing_is_refused(tiny_shards: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="validation"):
        train(recipe(validation=1e-9), tiny_shards, tmp_path / "run", threads=1)


def test_the_best_adapter_is_a_file_of_its_own(tiny_shards: Path, tmp_path: Path) -> None:
    adapter = Lora(targets=("text.0.model.*.query",), rank=2)
    run = train(recipe(**HELD, train=(), adapter=adapter), tiny_shards, tmp_path / "run", threads=1)
    assert (run / "best-1.safetensors").is_file()
    assert not (run / "best-1").exists()


def test_the_run_folder_has_a_readme_and_a_report(whole: Path) -> None:
    readme = (whole / "README.md").read_text("utf-8")
    assert 'bimo draw -m . "红色的<方块>"' in readme
    assert "unknown" in readme
    assert "未知" in readme
    page = (whole / "report.html").read_text("utf-8")
    assert "<h1>试 &amp; 验 xiaomo-tiny</h1>" in page
    assert '<img src="curves.png"' in page
    assert "sheets/1-000005.png" in page
    assert "align the painter" in page
    (course,) = courses(whole, recipe(steps=5))
    assert (course.step, course.steps, course.samples) == (5, 5, 20)
    assert course.valid == min(row["valid"] for row in logged(whole) if "valid" in row)


@pytest.mark.slow
def test_a_full_disk_leaves_the_state_of_before(
    tiny_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = recipe(steps=6)
    whole = train(wanted, tiny_shards, tmp_path / "whole", threads=1)
    run = tmp_path / "run"
    train(wanted, tiny_shards, run, threads=1, stop_after=0.0)
    before = (run / "state.pt").read_bytes()
    save = torch.save

    def full(value: Any, path: Any, **settings: Any) -> None:
        save(value, path, **settings)
        data = Path(path).read_bytes()
        Path(path).write_bytes(data[: len(data) // 2])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    monkeypatch.setattr(trainer, "CHECKPOINT_SECONDS", 0.0)
    with pytest.raises(TrainingError, match="No space left"):
        train(wanted, tiny_shards, run, threads=1)
    assert (run / "state.pt").read_bytes() == before
    assert not list(run.glob("*.part"))
    monkeypatch.undo()
    train(wanted, tiny_shards, run, threads=1)
    assert (run / "weights.safetensors").read_bytes() == (whole / "weights.safetensors").read_bytes()
    assert [row["loss"] for row in logged(run)] == [row["loss"] for row in logged(whole)]


def test_a_line_that_does_not_fit_is_not_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = logging.Journal(tmp_path)
    stage = recipe().stages[0]
    journal.add(stage, 1, 1.0, 1e-3, 0.1)
    journal.flush()
    before = (tmp_path / "log.jsonl").read_bytes()
    journal.add(stage, 2, 1.0, 1e-3, 0.1)
    opened = Path.open

    def full(self: Path, *args: Any, **settings: Any) -> Any:
        if "a" not in args:
            return opened(self, *args, **settings)
        with opened(self, *args, **settings) as file:
            file.write('{"stage": "al')
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(TrainingError, match="No space left"):
        journal.flush()
    assert (tmp_path / "log.jsonl").read_bytes() == before
    monkeypatch.undo()
    journal.flush()
    assert [row["step"] for row in logged(tmp_path)] == [1, 2]


def test_what_a_kill_left_half_written_is_no_row(tmp_path: Path) -> None:
    journal = logging.Journal(tmp_path)
    stage = recipe().stages[0]
    for step in (1, 2):
        journal.add(stage, step, 1.0, 1e-3, 0.1)
    journal.flush()
    with (tmp_path / "log.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"stage": "al')
    journal.cut(0, 2)
    assert [row["step"] for row in logged(tmp_path)] == [1, 2]


class Tracker:
    """What stands for a tracker of accelerate."""

    name = "tensorboard"
    requires_logging_directory = True

    def __init__(self, run: str, logging_dir: str) -> None:
        self.folder = logging_dir
        self.seen: list[Any] = []

    def start(self) -> None:
        self.seen.append("start")

    def log(self, values: dict[str, float], step: int) -> None:
        self.seen.append((values, step))

    def log_images(self, values: dict[str, Any], step: int, dataformats: str) -> None:
        self.seen.append(({name: pixels.shape for name, pixels in values.items()}, step, dataformats))

    def finish(self) -> None:
        self.seen.append("finish")


def test_the_trackers_of_a_stage_are_told_and_no_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(tracking.LOGGER_TYPE_TO_CLASS, "tensorboard", Tracker)
    journal = logging.Journal(tmp_path)
    plain = recipe().stages[0]
    journal.track(plain)
    assert not journal.trackers
    stage = replace(plain, trackers=("tensorboard",))
    journal.track(stage)
    (tracker,) = journal.trackers.values()
    assert tracker.folder == str(tmp_path)
    journal.add(stage, 3, 0.5, 1e-3, 0.1, 0.25)
    sheet = tmp_path / "sheet.png"
    Image.new("RGB", (4, 3), (90, 90, 90)).save(sheet)
    journal.show(stage, 3, sheet)
    journal.track(plain)
    assert not journal.trackers
    values = {f"{stage.name}/loss": 0.5, f"{stage.name}/lr": 1e-3, f"{stage.name}/valid": 0.25}
    assert tracker.seen == ["start", (values, 12), ({f"{stage.name}/prompts": (1, 3, 4, 3)}, 12, "NHWC"), "finish"]


def test_tensorboard_itself_writes_its_events(tmp_path: Path) -> None:
    stage = replace(recipe().stages[0], trackers=("tensorboard",))
    check_trackers(stage)
    journal = logging.Journal(tmp_path / "run")
    journal.track(stage)
    journal.add(stage, 1, 0.5, 1e-3, 0.1)
    journal.close()
    (events,) = (tmp_path / "run").rglob("events.out.*")
    assert b"/loss" in events.read_bytes()


@pytest.mark.parametrize(
    ("name", "message"), [("tensorbored", "did you mean tensorboard"), ("swanlab", "pip install swanlab")]
)
def test_a_tracker_that_is_not_there(monkeypatch: pytest.MonkeyPatch, name: str, message: str) -> None:
    monkeypatch.setattr(tracking, "get_available_trackers", lambda: ["tensorboard"])
    with pytest.raises(RecipeError, match=message):
        check_trackers(replace(recipe().stages[0], trackers=(name,)))


@pytest.mark.slow
def test_what_is_learnt_is_kept_every_so_many_steps_and_the_last_of_them(tiny_shards: Path, tmp_path: Path) -> None:
    """Stopped or not, of an adapter or of the whole; how often may change at any time, and changes nothing learnt."""
    adapter = Lora(targets=("image.denoiser.*.to_q",), rank=2)
    fields: dict[str, Any] = {"train": (), "adapter": adapter, "save_every": 1, "keep_last": 2, "sample_every": 2}
    out = train(recipe(**fields), tiny_shards, tmp_path / "run", threads=1)
    assert sorted(path.name for path in out.glob("step-*")) == [f"step-1-{n:06d}.safetensors" for n in (2, 3)]
    sheets = sorted(path.name for path in (out / "sheets").glob("*.png"))
    assert sheets == ["1-000002.png", "1-000004.png"]
    plain = recipe(train=(), adapter=adapter)
    train(plain, tiny_shards, tmp_path / "stopped", threads=1, stop_after=0.0)
    for _ in range(4):
        train(recipe(**{**fields, "keep_last": 0}), tiny_shards, tmp_path / "stopped", threads=1, stop_after=0.0)
    assert (tmp_path / "stopped/lora-1.safetensors").read_bytes() == (out / "lora-1.safetensors").read_bytes()
    for name in ("step-1-000002.safetensors", "step-1-000003.safetensors"):
        assert (tmp_path / "stopped" / name).read_bytes() == (out / name).read_bytes()
    whole = train(recipe(2, save_every=1), tiny_shards, tmp_path / "whole", threads=1)
    assert draw(System.read(whole / "step-1-000001"), "红色的<方块>")
    with pytest.raises(RecipeError, match="keep_last"):
        recipe(keep_last=2)
