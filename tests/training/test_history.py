"""A run that was begun: held by one at a time, with the data and settings that it began with, or changed on record."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from bimo.core import checkpoint_io
from bimo.core.errors import BimoError, TrainingError, WeightsError
from bimo.core.files import alone
from bimo.core.recipe import Recipe, Stage
from bimo.data.shards import read, shard_name, write_index, write_shard
from bimo.hub import registry
from bimo.recipes.taiyi_sd import taiyi_zh
from bimo.training import trainer
from bimo.training.adapters.control_stage import ControlAdapters
from bimo.training.adapters.lora_stage import Lora
from bimo.training.history import Place, differences, read_history, same_recipe
from bimo.training.objectives.denoise import Denoise
from bimo.training.objectives.reconstruct import Reconstruct
from bimo.training.trainer import Trainer, train
from bimo.xiaomo.recipe import xiaomo
from tests.support.tiny_checkpoints import bert_words

pytestmark = pytest.mark.slow

STEPS = 6
BASE = Stage(
    name="codes",
    objective=Reconstruct(level="image"),
    train=("image.space.*",),
    steps=STEPS,
    batch=4,
    lr=1e-3,
    ema=0.9,
)
MORE = replace(BASE, name="more", train=("image.space.decoder.*",), steps=2)


def recipe(*stages: Stage) -> Recipe:
    return replace(xiaomo.tiny(), stages=stages or (BASE, MORE), prompts=())


def rows(run: Path) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in (run / "log.jsonl").read_text("utf-8").splitlines()]
    return [{name: value for name, value in row.items() if name != "seconds"} for row in found]


@pytest.fixture(autouse=True)
def english(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BIMO_LANGUAGE", "en")


@pytest.fixture(scope="module")
def stopped(tiny_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that stands at the second step of its first stage. Not to be written to."""
    out = tmp_path_factory.mktemp("runs") / "stopped"
    for _ in range(2):
        train(recipe(), tiny_shards, out, threads=1, stop_after=0.0)
    assert torch.load(out / "state.pt", weights_only=True)["place"] == {"stage": 0, "step": 2}
    return out


@pytest.fixture
def run(stopped: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(stopped, tmp_path / "run"))


@pytest.fixture
def others(tiny_shards: Path, tmp_path: Path) -> Path:
    """Six of the pictures, a shard of their own."""
    folder = tmp_path / "others"
    folder.mkdir()
    samples = [row for row, _ in zip(read(tiny_shards), range(6), strict=False)]
    write_index(folder, [write_shard(folder / shard_name(0), samples, "others")])
    return folder


def test_a_run_is_held_by_one_at_a_time(run: Path, tiny_shards: Path) -> None:
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file() and path.name != "lock"}
    with alone(run), pytest.raises(TrainingError, match="another run is at work in"):
        train(recipe(), tiny_shards, run, threads=1)
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file() and path.name != "lock"} == before


def test_what_a_killed_process_held_is_free(tmp_path: Path) -> None:
    held = (
        "import os, signal, sys; from pathlib import Path; from bimo.core.files import alone\n"
        "with alone(Path(sys.argv[1])):\n    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", held, str(tmp_path / "run")], check=False)
    assert done.returncode < 0
    assert (tmp_path / "run" / "lock").exists()
    with alone(tmp_path / "run"):
        pass


def test_exchanged_data_is_refused_or_put_on_record(run: Path, others: Path, tiny_shards: Path) -> None:
    state = (run / "state.pt").read_bytes()
    with pytest.raises(TrainingError, match=r"it had 16 pictures, now there are 6 pictures.*--accept-new-data"):
        train(recipe(), others, run, threads=1)
    assert (run / "state.pt").read_bytes() == state
    train(recipe(), others, run, threads=1, accept_new_data=True)
    (change,) = read_history(run).changes
    assert (change.number, change.stage, change.step) == (0, "codes", 2)
    assert change.data is not None
    assert [one.pictures for one in change.data] == [16, 6]
    assert change.lines() == ["data: 16 pictures → 6 pictures"]
    assert "from step 2 of stage 1" in (run / "report.html").read_text("utf-8")
    with pytest.raises(TrainingError, match=r"is done, with 6 pictures.*to learn 16 pictures"):
        train(recipe(), tiny_shards, run, threads=1)


@pytest.mark.parametrize("accepted", [False, True])
def test_a_run_that_is_done_learns_nothing_of_other_data_and_says_so(
    run: Path, others: Path, tiny_shards: Path, accepted: bool
) -> None:
    train(recipe(), tiny_shards, run, threads=1)
    before = {path: path.read_bytes() for path in run.glob("*.json")}
    with pytest.raises(TrainingError, match=r"is done, with 16 pictures.*to learn 6 pictures.*--start .*-m "):
        train(recipe(), others, run, threads=1, accept_new_data=accepted)
    assert {path: path.read_bytes() for path in run.glob("*.json")} == before


def test_data_of_as_many_pictures_in_another_order_is_other_data(
    run: Path, others: Path, tiny_shards: Path, tmp_path: Path
) -> None:
    both = tmp_path / "both"
    train(recipe(), [tiny_shards, others], both, threads=1, stop_after=0.0)
    with pytest.raises(TrainingError, match="as many, of other content or order"):
        train(recipe(), [others, tiny_shards], both, threads=1)


def test_exchanged_maps_are_exchanged_data(tiny_shards: Path, tmp_path: Path) -> None:
    """Maps that a stage reads belong to the data; others may come and go."""
    data = Path(shutil.copytree(tiny_shards, tmp_path / "data"))
    bert_words(tmp_path / "run" / "words.0")
    adapter = ControlAdapters(network="t2i", source="map", name="depth")
    stage = replace(MORE, objective=Denoise(), level="image", train=(), adapter=adapter, max_unknown=1.0)
    wanted = replace(taiyi_zh.tiny(), stages=(replace(stage, size=(64, 64)),), prompts=())
    train(wanted, data, tmp_path / "run", threads=1, stop_after=0.0)
    (data / "maps" / "skeleton" / "0003.png").unlink()
    shutil.copy(data / "maps" / "depth" / "0000.png", data / "maps" / "depth" / "0007.png")
    with pytest.raises(TrainingError, match="as many, of other content"):
        train(wanted, data, tmp_path / "run", threads=1)
    shutil.copy(tiny_shards / "maps" / "depth" / "0007.png", data / "maps" / "depth" / "0007.png")
    train(wanted, data, tmp_path / "run", threads=1)


#: Settings that optimisers keep, that make groups of parameters, that make batches, averages, and later stages.
CHANGED = replace(
    BASE,
    lr=3e-4,
    weight_decay=0.1,
    lr_overrides=(("image.space.decoder.*", 1e-4),),
    batch=8,
    ema=0.5,
    lr_schedule="cosine",
    objective=replace(BASE.objective, edges=0.25),
)


def test_settings_change_from_a_step_on_and_it_resumes_exactly(run: Path, tiny_shards: Path, tmp_path: Path) -> None:
    wanted = recipe(CHANGED, replace(MORE, lr=1e-5))
    again = Path(shutil.copytree(run, tmp_path / "again"))
    with pytest.raises(TrainingError, match=r"stages\.0\.lr 0\.001 → 0\.0003.*--from-here"):
        train(wanted, tiny_shards, run, threads=1)
    train(wanted, tiny_shards, run, threads=1, from_here=True)
    train(wanted, tiny_shards, again, threads=1, from_here=True, stop_after=0.0)
    for number in range(STEPS):
        # Said again, or not: it has its settings.
        train(wanted, tiny_shards, again, threads=1, from_here=bool(number % 2), stop_after=0.0)
    train(wanted, tiny_shards, again, threads=1)
    assert (run / "weights.safetensors").read_bytes() == (again / "weights.safetensors").read_bytes()
    assert rows(run) == rows(again)
    first = [row for row in rows(run) if row["stage"] == "codes"]
    assert [row["lr"] for row in first[:2]] == [1e-3, 1e-3]
    assert all(row["lr"] <= 3e-4 for row in first[2:])
    assert [row["samples"] for row in first] == [4, 8, 16, 24, 32, 40]
    for out in (run, again):
        (change,) = read_history(out).changes
        assert (change.stage, change.step) == ("codes", 2)
        assert change.settings["stages.0.lr"] == (1e-3, 3e-4)
        assert change.settings["stages.0.objective.edges"] == (0.5, 0.25)
        assert change.settings["stages.1.lr"] == (1e-3, 1e-5)
        assert "stages.0.lr: 0.001 → 0.0003" in (out / "report.html").read_text("utf-8")


def test_groups_keep_the_state_of_their_parameters(run: Path, tiny_shards: Path) -> None:
    """Rates of their own make other groups: each parameter has the moments that it had, by its name."""
    saved = torch.load(run / "state.pt", weights_only=True)
    plain, grouped = (
        Trainer(recipe(stage, MORE), trainer.Pictures(tiny_shards), run, from_here=True) for stage in (BASE, CHANGED)
    )
    states: list[dict[str, Tensor]] = []
    for made in (plain, grouped):
        made._words()
        made.place.step = 2
        learning = made._stage_trainer(made.recipe.stages[0], saved)
        by_name = {name: learning.optimiser.state[p]["exp_avg"] for name, p in learning.parameters.items()}
        states.append(by_name)
        assert {group["weight_decay"] for group in learning.optimiser.param_groups} == {
            0.0,
            made.recipe.stages[0].weight_decay,
        }
    assert all(torch.equal(states[0][name], value) for name, value in states[1].items())
    assert any(value.any() for value in states[1].values())


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        (recipe(replace(BASE, train=("image.space.decoder.*",)), MORE), "half way.*--start"),
        (recipe(replace(BASE, name="other"), MORE), "half way"),
        (recipe(replace(BASE, steps=1), MORE), "1 steps are past"),
        (recipe(MORE), "half way"),
        (replace(recipe(), text_encoders=()), "another recipe"),
    ],
)
def test_what_cannot_change_half_way_is_refused(wanted: Recipe, said: str, run: Path, tiny_shards: Path) -> None:
    state = {name: (run / name).read_bytes() for name in ("state.pt", "recipe.json", "history.json")}
    with pytest.raises(TrainingError, match=said):
        train(wanted, tiny_shards, run, threads=1, from_here=True)
    assert {name: (run / name).read_bytes() for name in state} == state


def test_a_stage_that_is_done_stays_as_it_was(tiny_shards: Path, tmp_path: Path) -> None:
    done = train(recipe(MORE), tiny_shards, tmp_path / "run", threads=1)
    with pytest.raises(TrainingError, match=r"stages\.0\.lr cannot be changed: stage 'more' of .* is done"):
        train(recipe(replace(MORE, lr=1e-6)), tiny_shards, done, threads=1, from_here=True)
    train(recipe(MORE, replace(MORE, name="and more")), tiny_shards, done, threads=1, from_here=True)
    assert [row["stage"] for row in rows(done)] == ["more", "more", "and more", "and more"]


def test_where_nothing_was_learnt_it_begins_anew(tiny_shards: Path, others: Path, tmp_path: Path) -> None:
    """What was killed before it saved anything takes other settings and other data, and learns their words."""
    run = Trainer(recipe(), trainer.Pictures(tiny_shards), tmp_path / "run")
    run._words()
    run.history.write(run.out)
    (run.out / "recipe.json").write_text(trainer.dumps(run.recipe), "utf-8")
    again = train(recipe(replace(MORE, lr=1e-6)), others, run.out, threads=1)
    plain = train(recipe(replace(MORE, lr=1e-6)), others, tmp_path / "plain", threads=1)
    assert not read_history(again).changes
    for name in ("weights.safetensors", "words.0/tokenizer.json"):
        assert (again / name).read_bytes() == (plain / name).read_bytes()


def test_a_start_that_fails_leaves_nothing(tiny_shards: Path, tmp_path: Path) -> None:
    with pytest.raises(BimoError):
        train(recipe(replace(MORE, train=("image.nothing.*",))), tiny_shards, tmp_path / "run", threads=1)
    assert not (tmp_path / "run").exists()
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "mine.txt").write_text("mine", "utf-8")
    with pytest.raises(BimoError):
        train(recipe(replace(MORE, train=("image.nothing.*",))), tiny_shards, tmp_path / "kept", threads=1)
    assert (tmp_path / "kept" / "mine.txt").read_text("utf-8") == "mine"


@pytest.mark.parametrize(("place", "changeable"), [(Place(0, 3), True), (Place(1, 1), False), (Place(2, 0), False)])
def test_only_a_change_that_can_be_made_is_offered(place: Place, changeable: bool) -> None:
    wanted = recipe(replace(BASE, lr=1e-5), MORE)
    with pytest.raises(TrainingError) as refused:
        same_recipe(recipe(), wanted, place, Path("RUN"), from_here=False)
    assert ("--from-here" in str(refused.value)) == changeable
    assert ("--start RUN" in str(refused.value)) != changeable
    if changeable:
        assert same_recipe(recipe(), wanted, place, Path("RUN"), from_here=True).keys() == {"stages.0.lr"}
    else:
        with pytest.raises(TrainingError, match="only stages that are not can be"):
            same_recipe(recipe(), wanted, place, Path("RUN"), from_here=True)


def test_a_damaged_state_is_reported(run: Path, tiny_shards: Path) -> None:
    (run / "state.pt").write_bytes((run / "state.pt").read_bytes()[:1000])
    with pytest.raises(TrainingError, match=r"cannot read .*state\.pt"):
        train(recipe(), tiny_shards, run, threads=1)


@pytest.mark.parametrize("stop", [0.0, None])
def test_weights_that_are_no_numbers_are_not_saved(stop: float | None, run: Path, tiny_shards: Path) -> None:
    """The gradient is finite, the step is not: no loss tells of it any more where it is the last one."""
    state = (run / "state.pt").read_bytes()
    wild = recipe(replace(BASE, lr=1e38, steps=3), MORE)
    with pytest.raises(TrainingError, match=r"step 3: weights are not finite: \d+/\d+ \(image\.space.*--from-here"):
        train(wild, tiny_shards, run, threads=1, from_here=True, stop_after=stop)
    assert (run / "state.pt").read_bytes() == state
    assert not (run / "weights.safetensors").exists()
    # As it says: from the good state at a lower rate.
    mended = recipe(replace(BASE, lr=1e-4, steps=3), MORE)
    train(mended, tiny_shards, run, threads=1, from_here=True)
    assert (run / "weights.safetensors").is_file()


def test_weights_of_a_first_step_that_are_no_numbers_leave_no_state(tiny_shards: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"step 1: .*with --set stages\.0\.lr=0\.0001$"):
        train(recipe(replace(BASE, lr=1e38, steps=1)), tiny_shards, tmp_path / "run", threads=1)
    assert not list(tmp_path.glob("run/*.pt")) + list(tmp_path.glob("run/*.safetensors"))
    train(recipe(replace(BASE, lr=1e-4, steps=1)), tiny_shards, tmp_path / "run", threads=1)


def test_an_adapter_of_no_numbers_is_not_written(tiny_shards: Path, tmp_path: Path) -> None:
    adapter = Lora(targets=("image.denoiser.*.to_q",), rank=2)
    stage = replace(xiaomo.tiny().stages[4], adapter=adapter, train=(), steps=1, batch=4, lr=1e38, warmup=0, ema=0.0)
    with pytest.raises(TrainingError, match=r"not finite: .*lora"):
        train(recipe(stage), tiny_shards, tmp_path / "run", threads=1)
    assert not list(tmp_path.glob("run/*.safetensors"))


def steep(before: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A loss that is a number and whose gradient is none."""

    def loss(self: Reconstruct, inputs: Any) -> Tensor:
        weight = next(inputs.system.level("image").space.parameters())
        return before(self, inputs) + (weight.sum() * 0).abs().sqrt()

    return loss


@pytest.mark.parametrize("clip", [0.0, 1.0])
def test_gradients_that_are_no_numbers_are_reported_by_step(
    clip: float, run: Path, tiny_shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = (run / "state.pt").read_bytes()
    monkeypatch.setattr(Reconstruct, "loss", steep(Reconstruct.loss))
    wanted = recipe(replace(BASE, max_grad_norm=clip), MORE)
    with pytest.raises(TrainingError, match=r"step 3: gradients are not finite: 1/\d+ \(image\.space\.\S+\)"):
        train(wanted, tiny_shards, run, threads=1, from_here=True)
    assert (run / "state.pt").read_bytes() == state


@pytest.mark.parametrize("clip", [0.0, 0.01])
def test_gradients_are_clipped_as_torch_does(clip: float, tiny_shards: Path, tmp_path: Path) -> None:
    run = Trainer(recipe(replace(BASE, max_grad_norm=clip)), trainer.Pictures(tiny_shards), tmp_path / "run")
    learning = run._stage_trainer(run.recipe.stages[0], None)
    for place, parameter in enumerate(learning.parameters.values()):
        parameter.grad = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(place))
    wanted = [torch.nn.Parameter(p.detach().clone()) for p in learning.parameters.values()]
    for one, other in zip(wanted, learning.parameters.values(), strict=True):
        one.grad = other.grad.clone() if other.grad is not None else None
    if clip:
        torch.nn.utils.clip_grad_norm_(wanted, clip, foreach=True)
    learning.losses.begin(1)
    learning._clip()
    for one, other in zip(wanted, learning.parameters.values(), strict=True):
        assert one.grad is not None
        assert other.grad is not None
        assert torch.equal(one.grad, other.grad)


def test_a_run_begins_with_weights_that_are_numbers(tiny_shards: Path, tmp_path: Path) -> None:
    run = Trainer(recipe(MORE), trainer.Pictures(tiny_shards), tmp_path / "run")
    with torch.no_grad():
        next(run.system.level("image").parameters()).fill_(torch.nan)
    with pytest.raises(TrainingError, match=r"to begin with are not finite: 1/.*--start"):
        run.everything()


def test_an_unfinished_run_is_a_system_as_it_stands(run: Path, tiny_shards: Path, tmp_path: Path) -> None:
    saved = torch.load(run / "state.pt", weights_only=True)
    system = registry.load(run)
    own = system.state_dict()
    assert saved["average"]
    assert all(torch.equal(own[name], value) for name, value in saved["average"].items())
    rest = saved["system"].keys() - saved["average"].keys()
    assert all(torch.equal(own[name], saved["system"][name]) for name in rest)
    other = train(recipe(replace(MORE, lr=1e-30)), tiny_shards, tmp_path / "other", threads=1, start=[system])
    learnt = checkpoint_io.read(other / "weights.safetensors")
    assert all(torch.equal(learnt[name], own[name]) for name in rest if not name.startswith("image.space."))


def test_an_unfinished_adapter_is_merged_as_at_its_end(tiny_shards: Path, tmp_path: Path) -> None:
    """A run that is read after its last step but before it ends is what it ends as."""
    adapter = Lora(targets=("image.denoiser.*.to_q",), rank=2)
    stage = replace(xiaomo.tiny().stages[4], adapter=adapter, train=(), steps=2, batch=4, lr=1e-2, warmup=0, ema=0.5)
    run = tmp_path / "run"
    for _ in range(2):
        train(recipe(stage), tiny_shards, run, threads=1, stop_after=0.0)
    read_now = registry.load(run).state_dict()
    train(recipe(stage), tiny_shards, run, threads=1)
    done = checkpoint_io.read(run / "weights.safetensors")
    assert all(torch.equal(read_now[name], value) for name, value in done.items())


def test_a_run_that_saved_nothing_is_no_system(tmp_path: Path, tiny_shards: Path) -> None:
    run = Trainer(recipe(), trainer.Pictures(tiny_shards), tmp_path / "run")
    run.history.write(run.out)
    (run.out / "recipe.json").write_text(trainer.dumps(run.recipe), "utf-8")
    with pytest.raises(WeightsError, match="nothing was saved yet"):
        registry.load(run.out)


def test_differences_are_reported_as_set_names_them() -> None:
    one = recipe()
    other = recipe(replace(BASE, lr=1.0, lr_overrides=(("a", 1.0),)), MORE, MORE)
    found = differences(one, other)
    assert list(found) == ["stages.0.lr", "stages.0.lr_overrides", "stages.2"]
    assert differences(one, one) == {}


def test_a_note_that_was_worded_anew_is_no_difference() -> None:
    first, *others = xiaomo.stages
    reworded = replace(xiaomo, note="other words", stages=(replace(first, note="others again"), *others))
    assert differences(xiaomo, reworded) == {}
    assert list(differences(xiaomo, replace(reworded, title="another"))) == ["title"]
