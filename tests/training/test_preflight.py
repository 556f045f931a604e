"""Before the first step: what any stage will lack is said at once, and pictures of several sizes get one."""

from __future__ import annotations

import io
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from bimo.cli import main
from bimo.core.errors import BimoError, DataError, RecipeError, TrainingError
from bimo.core.part import dumps
from bimo.core.recipe import Recipe, Stage
from bimo.data.loader import Pictures
from bimo.data.shards import shard_name, write_index, write_shard
from bimo.diffusion.system import System
from bimo.hub.registry import recipes
from bimo.models.cascade.conditioners import Score
from bimo.training.adapters.control_stage import ControlAdapters
from bimo.training.adapters.lora_stage import Lora
from bimo.training.objectives.denoise import Denoise
from bimo.training.objectives.distil import Distil
from bimo.training.objectives.draft import DRaFT
from bimo.training.objectives.dreambooth import Dreambooth
from bimo.training.objectives.online_rewards import OnlineRewards
from bimo.training.objectives.preferences import DiffusionDPO, RewardWeighted
from bimo.training.objectives.reconstruct import Reconstruct
from bimo.training.objectives.rewards import CustomReward, WeightedRewards
from bimo.training.trainer import Trainer, train
from bimo.training.tuning import tuned
from bimo.xiaomo.recipe import xiaomo
from tests.support.checkout import ROOT

pytestmark = pytest.mark.slow

BASE = Stage(name="paint", objective=Denoise(), level="image", train=("image.denoiser.*",), steps=1, batch=4)
SIZES = ((200, 120), (90, 160), (128, 128), (75, 75), (300, 40))


@pytest.fixture(autouse=True)
def english(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BIMO_LANGUAGE", "en")


def shard(folder: Path, sizes: tuple[tuple[int, int], ...] = SIZES, caption: str = "一只红苹果") -> Path:
    """Pictures without a label, as ``bimo data folder`` makes them of photographs."""
    rows: list[Any] = []
    for number, size in enumerate(sizes):
        buffer = io.BytesIO()
        Image.new("RGB", size, (20 * number, 100, 50)).save(buffer, "PNG")
        rows.append(
            (f"{number:04d}", buffer.getvalue(), {"captions": [{"text": caption}] if caption else [], "labels": {}})
        )
    folder.mkdir(parents=True)
    write_index(folder, [write_shard(folder / shard_name(0), rows, "photos")])
    return folder


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return shard(tmp_path / "photos")


def recipe(*stages: Stage) -> Recipe:
    return replace(xiaomo.tiny(), stages=stages, prompts=())


def test_pictures_of_several_sizes_have_the_systems_own(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    codes = replace(BASE, name="codes", objective=Reconstruct(level="image"), train=("image.space.*",))
    own = replace(BASE, name="own", size=(64, 64))
    run = train(recipe(codes, BASE, own), photos, tmp_path / "run", threads=1)
    said = [line for line in capsys.readouterr().out.splitlines() if "--size" in line]
    assert said == [
        "pictures are of 5 sizes: stages that say no size (2) learn them at 128x128, cut at the centre (another one: "
        "--size WIDTHxHEIGHT)"
    ]
    assert [stage.size for stage in System.read(run).recipe.stages] == [(128, 128), (128, 128), (64, 64)]
    # The same command goes on: what it derives is what it derived.
    train(recipe(codes, BASE, own), photos, run, threads=1)


@pytest.mark.parametrize(("sizes", "wanted"), [(((96, 64),) * 2, None), (((75, 75),) * 2, (128, 128))])
def test_pictures_of_one_size_stay_where_the_system_can_see_it(
    sizes: tuple[tuple[int, int], ...], wanted: tuple[int, int] | None, tmp_path: Path
) -> None:
    run = train(recipe(BASE), shard(tmp_path / "data", sizes), tmp_path / "run", threads=1)
    assert System.read(run).recipe.stages[0].size == wanted


def test_what_every_stage_lacks_is_said_before_the_first(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError) as error:
        train(replace(xiaomo.tiny(), prompts=()), photos, tmp_path / "run", threads=1)
    said = str(error.value)
    names = "stages.15 'expected picture, things apart', stages.16 'expected picture, things seen'"
    assert f"{names}: the data has no labels" in said
    assert said.endswith("--skip 'expected picture, things apart' --skip 'expected picture, things seen'")
    assert not (tmp_path / "run").exists()


LACKS: tuple[tuple[Stage, type[BimoError], str], ...] = (
    (replace(BASE, objective=RewardWeighted()), DataError, "no picture has a label 'score'"),
    (replace(BASE, objective=DiffusionDPO()), DataError, "no picture has a label 'score'"),
    (replace(BASE, objective=Dreambooth()), RecipeError, "needs class_noun"),
    (
        replace(BASE, objective=Distil(teacher=xiaomo.text_encoders[0]), train=("text.*",)),
        BimoError,
        "captions in all of en, zh",
    ),
    (replace(BASE, objective=OnlineRewards(reward=CustomReward(name="mine"))), RecipeError, "--reward ./mine.py:mine"),
    (
        replace(BASE, objective=OnlineRewards(reward=WeightedRewards(parts=((1.0, CustomReward(name="mine")),)))),
        RecipeError,
        "./mine.py:mine",
    ),
    (
        replace(BASE, objective=DRaFT(reward=CustomReward(name="mine", differentiable=True))),
        RecipeError,
        "./mine.py:mine",
    ),
    (
        replace(BASE, adapter=ControlAdapters(network="t2i", source="map", name="depth")),
        DataError,
        "5 of 5 pictures have no depth map",
    ),
    (replace(BASE, train=()), RecipeError, "nothing would be learnt"),
    (replace(BASE, train=("image.denoise.*",)), RecipeError, "matches no parameter; the nearest are"),
    (replace(BASE, adapter=Lora(targets=("image.nothing",))), RecipeError, "matches no layer"),
    (replace(BASE, size=(100, 64)), RecipeError, "100x64 are no multiples of"),
)


@pytest.mark.parametrize(("stage", "kind", "said"), LACKS, ids=range(len(LACKS)))
def test_what_a_later_stage_lacks(
    stage: Stage, kind: type[BimoError], said: str, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # No stage is begun: not even prepared.
    monkeypatch.setattr(Trainer, "_stage", lambda *_: pytest.fail("a stage was begun"))
    with pytest.raises(kind, match=r"nothing was begun yet: stages\.1 'paint': ") as error:
        train(recipe(replace(BASE, name="first"), stage), photos, tmp_path / "run", threads=1)
    assert said in str(error.value)
    assert str(error.value).endswith("or leave them out: --skip paint")
    assert not (tmp_path / "run").exists()


def test_labels_that_a_conditioner_reads_are_missed_before_the_first_step(photos: Path, tmp_path: Path) -> None:
    tiny = xiaomo.tiny()
    levels = (
        tiny.levels[0],
        replace(tiny.levels[1], conditioners=(*tiny.levels[1].conditioners, Score(name="beauty"))),
    )
    wanted = replace(tiny, levels=levels, stages=(BASE,), prompts=())
    with pytest.raises(DataError, match="5 of 5 pictures have no label 'beauty'"):
        train(wanted, photos, tmp_path / "run", threads=1)


def test_captions_that_a_later_stage_cannot_read(tmp_path: Path) -> None:
    empty = shard(tmp_path / "data", ((64, 64),) * 4, caption="")
    codes = replace(BASE, name="codes", objective=Reconstruct(level="image"), train=("image.space.*",))
    with pytest.raises(TrainingError, match=r"stages\.1 'paint': the captions hardly suit .* empty captions 100\.0%"):
        train(recipe(codes, BASE), empty, tmp_path / "run", threads=1)


@pytest.mark.parametrize("field", ["steps", "batch", "accumulate", "lr"])
def test_a_stage_of_nothing_is_none(field: str) -> None:
    for value in (-1, float("nan")) if field == "lr" else (0, -1):
        with pytest.raises(RecipeError, match=f"{field} of stage 'paint'"):
            replace(BASE, **{field: value})


def test_a_recipe_without_stages_is_refused(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"has no stages.*--tune lora.*--start"):
        train(recipe(), photos, tmp_path / "run", threads=1)
    assert not (tmp_path / "run").exists()


@pytest.fixture
def drawing() -> list[Recipe]:
    return [recipe for recipe in recipes().values() if recipe.levels]


@pytest.mark.parametrize("how", ["lora", "full"])
def test_every_system_can_be_tuned(how: str, drawing: list[Recipe]) -> None:
    """Its globs find layers in each of its levels, at its own size."""
    for one in drawing:
        made = tuned(one.tiny(), how)
        assert [stage.level for stage in made.stages] == [level.name for level in one.levels]
        assert all(stage.size == made.request.size for stage in made.stages)
        assert all(bool(stage.adapter) == (how == "lora") for stage in made.stages)


def test_what_cannot_be_tuned(drawing: list[Recipe]) -> None:
    with pytest.raises(RecipeError, match="there is lora, full"):
        tuned(drawing[0], "everything")
    with pytest.raises(RecipeError, match="does not draw"):
        tuned(recipes()["taiyi-clip"], "lora")


def test_tuning_on_the_command_line(
    photos: Path, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """A folder without stages names what it can be trained by, and that trains: from its own weights."""
    monkeypatch.chdir(tmp_path)
    system = System.read(tiny_folder)
    system.recipe = replace(system.recipe, stages=())
    system.save(tmp_path / "sd")
    words = ["train", "./sd", "--data", str(photos), "--out", "run", "--threads", "1", "--steps", "2"]
    assert main.run(words) == RecipeError.exit_status
    assert "--tune lora" in capfd.readouterr().err
    assert (
        main.run([*words, "--tune", "lora", "--set", "stages.0.max_unknown=1", "--set", "stages.1.max_unknown=1"]) == 0
    )
    assert "0 do not" in capfd.readouterr().out  # every tensor is its own
    assert sorted(path.name for path in Path("run").glob("lora-*")) == ["lora-1.safetensors", "lora-2.safetensors"]
    assert main.run(["draw", "红苹果", "-m", "run", "--steps", "1", "-o", "a.png"]) == 0


def test_stages_are_skipped_and_sized_on_the_command_line(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    second = replace(BASE, name="second, with a comma")
    Path("two.json").write_text(dumps(recipe(BASE, second)), "utf-8")
    words = ["train", "two.json", "--data", str(photos), "--threads", "1"]
    assert main.run([*words, "--out", "run", "--skip", "second, with a comma", "--size", "64x96"]) == 0
    (stage,) = System.read(tmp_path / "run").recipe.stages
    assert (stage.name, stage.size) == ("paint", (64, 96))
    for wrong, said in (
        (("--skip", "2"), "no stage '2'"),
        (("--size", "64"), "WIDTHxHEIGHT"),
        (("--size", "0x8"), "WIDTHx"),
    ):
        capfd.readouterr()
        assert main.run([*words, "--out", "other", *wrong]) == RecipeError.exit_status
        assert said in capfd.readouterr().err
    assert main.run([*words, "--out", "other", "--skip", "0", "--skip", "1"]) == RecipeError.exit_status
    assert not Path("other").exists()


def test_data_is_read_before_anything_is_made(tmp_path: Path) -> None:
    with pytest.raises(DataError):
        train(recipe(BASE), tmp_path / "nowhere", tmp_path / "run", threads=1)
    assert not (tmp_path / "run").exists()
    assert Pictures(shard(tmp_path / "some")).sizes == list(SIZES)


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_first_commands_of_the_page_work_on_photos(
    language: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """A plain folder of photos of several sizes with a caption beside each, by the commands as they are written."""
    page = (ROOT / "docs" / language / "training.md").read_text("utf-8")
    block = page.partition("```\n")[2].partition("```")[0].splitlines()
    commands = [shlex.split(line, comments=True)[1:] for line in block if line.startswith("bimo")]
    monkeypatch.chdir(tmp_path)
    Path("PICTURES").mkdir()
    for number, size in enumerate(SIZES):
        Image.new("RGB", size, (30 * number, 90, 160)).save(f"PICTURES/{number}.jpg")
        Path(f"PICTURES/{number}.txt").write_text("一盘红烧肉", "utf-8")
    assert [words[0] for words in commands[:3]] == ["data", "train", "train"]
    for words in commands[:2]:
        assert main.run([*words, *(("--threads", "1") if words[0] == "train" else ())]) == 0, capfd.readouterr().err
    trial = commands[1][commands[1].index("--out") + 1]
    assert main.run(["draw", "红烧肉", "-m", trial, "--steps", "1", "--anyway", "-o", "a.png"]) == 0
