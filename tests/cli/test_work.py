"""Training data and training on the command line: what begins where, what is counted, what is refused in a sentence."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from bimo.cli import main
from bimo.core import checkpoint_io
from bimo.core.errors import DataError, RecipeError, RequestError, TrainingError, WeightsError
from bimo.core.part import dumps
from bimo.core.recipe import Recipe, Stage
from bimo.data.loader import Pictures
from bimo.diffusion.system import System
from bimo.hub import registry
from bimo.models.text_encoders.bert import Bert
from bimo.models.text_encoders.clip import ClipText
from bimo.training.objectives.denoise import Denoise
from bimo.training.objectives.distil import Distil
from bimo.training.objectives.draft import DRaFT
from bimo.training.objectives.online_rewards import OnlineRewards
from bimo.training.objectives.rewards import AestheticReward, ClipReward
from bimo.xiaomo.recipe import xiaomo
from tests.parity.test_clip_families import chinese, saved
from tests.support.command_line import Run, refused, runner
from tests.support.tiny_checkpoints import clip_words

pytestmark = pytest.mark.slow

GLOB = "image.denoiser.*"
STAGE = Stage(name="paint", objective=Denoise(), level="image", train=(GLOB,), steps=1, batch=4, lr=1e-2)
STAGE = replace(STAGE, max_unknown=1.0)  # what it begins as has the words of other data
TEACHER = ClipText(vocab=600, length=16, positions=16).tiny()
STUDENT = Bert(words="lexicon", vocab=200, positions=32, types=1, length=24).tiny()


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    """Runs the command line in the test's folder; returns (status, standard output, standard error)."""
    monkeypatch.chdir(tmp_path)
    for name in ("LC_ALL", "BIMO_LANGUAGE", "BIMO_MODEL", "BIMO_DEBUG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("LANG", "C")

    return runner(capfd)


@pytest.fixture
def painting(tmp_path: Path) -> str:
    """A file with the recipe of the toy system and one stage, of which the painter alone learns."""
    (tmp_path / "paint.json").write_text(dumps(replace(xiaomo.tiny(), stages=(STAGE,), prompts=())), "utf-8")
    return "paint.json"


def test_train_begins_as_another_system(here: Run, painting: str, tiny_folder: Path, tiny_shards: Path) -> None:
    words = ("train", painting, "--data", str(tiny_shards), "--threads", "1")
    status, out, _ = here(*words, "--out", "run", "--start", str(tiny_folder))
    assert status == 0
    assert out.splitlines()[-1] == "run"
    before = checkpoint_io.read(tiny_folder / "weights.safetensors")
    after = checkpoint_io.read(Path("run") / "weights.safetensors")
    assert all(torch.equal(after[name], value) for name, value in before.items() if not name.startswith(GLOB[:-1]))
    assert any(not torch.equal(after[name], value) for name, value in before.items() if name.startswith(GLOB[:-1]))
    assert here("draw", "红色", "-m", "run", "--steps", "1", "-o", "a.png")[0] == 0


def test_train_refuses_starting_weights_of_another_system(
    here: Run, painting: str, tiny_shards: Path, teacher: Path
) -> None:
    words = ("train", painting, "--data", str(tiny_shards), "--out", "run", "--threads", "1")
    refused(here(*words, "--start", "./nowhere"), WeightsError.exit_status, "nowhere")
    refused(here(*words, "--start", str(teacher)), TrainingError.exit_status, "begin from another system")
    refused(here("train", painting, "--data", "nowhere", "--out", "run"), DataError.exit_status, "nowhere")
    assert not list(Path().glob("run/*.safetensors"))


def test_train_begins_as_a_part_that_was_exported(here: Run, painting: str, tiny_shards: Path) -> None:
    words = ("train", painting, "--data", str(tiny_shards), "--threads", "1")
    assert here(*words, "--out", "run")[0] == 0
    assert here("export", "run", "space.safetensors", "--only", "image.space.*", "--dtype", "fp32")[0] == 0
    held = checkpoint_io.read(Path("space.safetensors"))
    assert held
    assert all(name.startswith("image.space.") for name in held)
    assert here(*words, "--out", "again", "--seed", "1", "--start", "space.safetensors")[0] == 0
    after = checkpoint_io.read(Path("again") / "weights.safetensors")
    assert all(torch.equal(after[name], value) for name, value in held.items())
    refused(here("export", "run", "none.safetensors", "--only", "nothing.*"), RequestError.exit_status, "image.space.*")
    refused(here("export", "run", "folder", "--only", "image.*"), RequestError.exit_status, ".safetensors")
    assert not Path("none.safetensors").exists()


def test_two_systems_are_exported_as_their_interpolation(here: Run, tiny_folder: Path, teacher: Path) -> None:
    first = registry.load(str(tiny_folder))
    second = registry.load(str(tiny_folder))
    with torch.no_grad():
        for value in second.parameters():
            value.add_(1)
    second.save(Path("other"))
    words = ("export", str(tiny_folder), "both", "--blend", "other", "--share", "0.25", "--dtype", "fp32")
    assert here(*words)[0] == 0
    after = registry.load("both").state_dict()
    names = dict(first.named_parameters())
    assert all(torch.allclose(after[name], value + 0.25, atol=1e-6) for name, value in names.items())
    base = ("export", str(tiny_folder), "none", "--blend")
    refused(here(*base, str(teacher)), RequestError.exit_status, "cannot be blended")
    refused(here(*base, "other", "--share", "2"), RequestError.exit_status, "from 0 to 1")
    assert not Path("none").exists()


@pytest.fixture
def teacher(tmp_path: Path) -> Path:
    """The folder of a toy tower that knows its words."""
    torch.manual_seed(5)
    made = System(Recipe(name="teacher", text_encoders=(TEACHER,))).eval()
    clip_words(tmp_path / "words")
    made.text_encoders[0].load_tokenizer(tmp_path / "words")
    made.save(tmp_path / "teacher")
    return tmp_path / "teacher"


def test_train_learns_from_a_teacher(here: Run, teacher: Path, tiny_shards: Path) -> None:
    stage = Stage(
        name="distil", objective=Distil(teacher=TEACHER).tiny(), train=("text.*",), steps=30, batch=8, lr=3e-3
    )
    Path("distil.json").write_text(dumps(Recipe(name="student", text_encoders=(STUDENT,), stages=(stage,))), "utf-8")
    words = ("train", "distil.json", "--data", str(tiny_shards), "--threads", "1")
    before = {file.name: file.read_bytes() for file in teacher.iterdir() if file.is_file()}
    status, out, _ = here(*words, "--out", "run", "--teacher", str(teacher))
    assert status == 0
    assert out.splitlines()[-1] == "run"
    losses = [json.loads(row)["loss"] for row in Path("run/log.jsonl").read_text("utf-8").splitlines()]
    assert sum(losses[-5:]) < sum(losses[:5])
    assert {file.name: file.read_bytes() for file in teacher.iterdir() if file.is_file()} == before
    refused(here(*words, "--out", "alone"), TrainingError.exit_status, "teacher")
    refused(here(*words, "--out", "alone", "--teacher", "./nowhere"), WeightsError.exit_status, "nowhere")


def photos(folder: Path) -> Path:
    """Two pictures with their texts and a broken one."""
    folder.mkdir()
    for name, colour in (("红", "red"), ("blue", "blue")):
        Image.new("RGB", (40, 30), colour).save(folder / f"{name}.png")
        (folder / f"{name}.txt").write_text(f"{name}\na picture", "utf-8")
    (folder / "broken.png").write_bytes((folder / "blue.png").read_bytes()[:60])
    (folder / "broken.txt").write_text("坏的", "utf-8")
    return folder


def test_data_of_texts_beside_pictures_and_again(here: Run, tmp_path: Path) -> None:
    photos(tmp_path / "photos")
    status, out, _ = here("data", "folder", "photos", "data")
    assert (status, out.splitlines()) == (0, ["kept: 2", "left out, cannot be decoded: 1", "data"])
    assert sorted(Pictures(Path("data")).captions) == [("blue", "a picture"), ("红", "a picture")]
    shard = Path("data/shard-00000.tar")
    written = shard.stat().st_mtime_ns
    assert here("data", "folder", "photos", "data")[:2] == (0, out)
    assert shard.stat().st_mtime_ns == written
    assert here("data", "folder", "photos", "wide", "--side", "31")[0] == DataError.exit_status


def test_data_of_a_table(here: Run, tmp_path: Path) -> None:
    source = photos(tmp_path / "photos")
    rows = [{"file_name": "红.png", "text": "红色"}, {"file_name": "gone.png", "text": "没有"}]
    (source / "metadata.jsonl").write_text("\n".join(json.dumps(row) for row in rows), "utf-8")
    status, out, _ = here("data", "folder", "photos", "data")
    assert (status, out.splitlines()) == (0, ["kept: 1", "left out, file not found: 1", "data"])
    assert Pictures(Path("data")).captions == [("红色",)]
    (source / "metadata.jsonl").write_text('{"file_name": "红.png"', "utf-8")
    refused(here("data", "folder", "photos", "other"), DataError.exit_status, "line 1 of photos/metadata.jsonl")


def test_data_of_nothing_is_refused(here: Run, tmp_path: Path) -> None:
    refused(here("data", "folder", "nowhere", "data"), DataError.exit_status, "no folder nowhere")
    (tmp_path / "empty").mkdir()
    refused(here("data", "folder", "empty", "data"), DataError.exit_status, "nothing in empty can be read")
    refused(here("data", "folder", "empty", "data", "--side", "0"), main.USAGE, "--side")
    assert not Path("data").exists()


def test_train_takes_rewards_of_ones_own(here: Run, tiny_shards: Path) -> None:
    """Functions of the recipe's own file by their names, and those of --reward; a recipe as data names no file."""
    Path("mine.py").write_text(
        "from dataclasses import replace\n"
        "from bimo.core.recipe import Stage\n"
        "from bimo.xiaomo.recipe import xiaomo\n"
        "from bimo.training.objectives.rewards import CustomReward, WeightedRewards\n"
        "from bimo.training.objectives.online_rewards import OnlineRewards\n"
        "def redness(shown):\n"
        "    return shown.pixels[:, 0].mean((1, 2)) - shown.pixels[:, 2].mean((1, 2))\n"
        "def lengths(shown):\n"
        "    return [0.01 * len(text) for text in shown.texts]\n"
        "both = WeightedRewards(parts=((1.0, CustomReward(name='redness')), (1.0, CustomReward(name='lengths'))))\n"
        "learn = OnlineRewards(reward=both, requests=2, draws=2, every=2, steps=1)\n"
        "stage = Stage(name='s', objective=learn, level='image',\n"
        "              train=('image.denoiser.*',), steps=2, batch=2, max_unknown=1.0)\n"
        "recipe = replace(xiaomo.tiny(), stages=(stage,), prompts=())\n",
        "utf-8",
    )
    words = ("--data", str(tiny_shards), "--threads", "1")
    assert here("train", "./mine.py:recipe", *words, "--out", "run")[0] == 0
    report = json.loads(Path("run/stage-1/round-0001/round.json").read_text("utf-8"))["scores"]
    assert list(report) == ["score", "redness", "lengths"]
    # The same as data: it has the functions from the command line alone, and the same weights.
    Path("data.json").write_text(Path("run/recipe.json").read_text("utf-8"), "utf-8")
    refused(here("train", "data.json", *words, "--out", "lost"), RecipeError.exit_status, "--reward ./mine.py:redness")
    given = ("--reward", "./mine.py:redness", "--reward", "./mine.py:lengths")
    assert here("train", "data.json", *words, "--out", "again", *given)[0] == 0
    assert Path("again/weights.safetensors").read_bytes() == Path("run/weights.safetensors").read_bytes()
    refused(
        here("train", "data.json", *words, "--out", "lost", "--reward", "./mine.py:rednes"),
        RecipeError.exit_status,
        "did you mean redness",
    )


def test_extend_then_train_begins_as_told(here: Run, tiny_shards: Path, tmp_path: Path) -> None:
    """Taiyi-XL's way: English words are given characters and positions, and a recipe of that size begins so."""
    before = System(
        Recipe(name="words", text_encoders=(replace(TEACHER, vocab=len(clip_words(tmp_path / "words"))),))
    ).eval()
    before.text_encoders[0].load_tokenizer(tmp_path / "words")
    before.save(tmp_path / "small")
    given = ("extend", "small", "grown", "--data", str(tiny_shards), "--positions", "24", "--length", "20")
    status, out, _ = here(*given)
    assert status == 0
    grown = System.read(Path("grown"))
    part = grown.recipe.text_encoders[0]
    assert isinstance(part, ClipText)
    new = part.vocab - before.recipe.text_encoders[0].vocab  # type: ignore[attr-defined]
    assert f"{new} new words" in out
    assert (part.positions, part.length) == (24, 20)
    captions = {c for some in Pictures(tiny_shards).captions for c in some}
    assert 0 < new <= len({c for text in captions for c in text})
    assert torch.equal(before.encode(["a red cat"])[0].tokens, grown.encode(["a red cat"])[0].tokens[:, :16])
    # A recipe of its own whose tower is pooled elsewhere reads the same words, and takes every tensor.
    stage = Stage(name="s", objective=Distil(teacher=part), train=("text.*",), steps=1, batch=4)
    wanted = Recipe(name="student", text_encoders=(replace(part, pool="largest"),), stages=(stage,))
    Path("student.json").write_text(dumps(wanted), "utf-8")
    words = ("train", "student.json", "--data", str(tiny_shards), "--out", "run", "--threads", "1")
    status, out, _ = here(*words, "--start", "grown", "--teacher", "grown")
    assert status == 0
    assert "(0 more of it have no place here); 0 do not" in out
    files = [Path(folder) / "words.0" for folder in ("grown", "run")]
    assert {p.name: p.read_bytes() for p in files[0].iterdir()} == {p.name: p.read_bytes() for p in files[1].iterdir()}
    refused(here("extend", "small", "other"), RequestError.exit_status, "--words")
    refused(here("extend", "small", "grown", "--positions", "30"), RequestError.exit_status, "not empty")


def test_train_teaches_words_by_texts_and_paints_by_pictures(here: Run, teacher: Path, tiny_shards: Path) -> None:
    """Parallel sentences and pictures are given side by side; each stage takes what it can learn from."""
    Path("parallel.tsv").write_text("zh\ten\n一个红色的方块\ta red square\n一个蓝色的方块\ta blue square\n", "utf-8")
    assert here("data", "texts", "parallel.tsv", "texts")[0] == 0
    tiny = xiaomo.tiny()
    student = replace(STUDENT, project=TEACHER.width)
    distil = Stage(name="words", objective=Distil(teacher=TEACHER), train=("text.*",), steps=2, batch=2)
    level = tiny.levels[1]
    denoiser = replace(level.denoiser.denoiser, spatial=0, scalars=(), text=student.width, vector=TEACHER.width)
    level = replace(level, denoiser=denoiser, conditioners=())
    wanted = Recipe(
        name="both", text_encoders=(student,), levels=(level,), stages=(distil, STAGE), request=tiny.request
    )
    Path("both.json").write_text(dumps(wanted), "utf-8")
    words = ("train", "both.json", "--out", "run", "--teacher", str(teacher), "--threads", "1", "--data", "texts")
    refused(here(*words), DataError.exit_status, "without pictures")
    status, out, _ = here(*words[:2], "--out", "run2", *words[4:], "--data", str(tiny_shards))
    assert status == 0
    assert "2 rows have no picture" in out
    steps = [json.loads(row)["stage"] for row in Path("run2/log.jsonl").read_text("utf-8").splitlines()]
    assert steps == ["words", "words", "paint"]


def test_feedback_and_texts_on_the_command_line(here: Run, tiny_shards: Path) -> None:
    photos(Path("photos"))
    Path("photos/judged.csv").write_text("请求,胜者,负者\n红的,红.png,blue.png\n蓝的,blue.png,没有.png\n", "utf-8")
    status, out, _ = here("data", "feedback", "photos/judged.csv", "pairs")
    assert status == 0
    assert out.splitlines() == ["with a winner: 1, ties: 0", "rows, counted: 1", "rows, picture not found: 1", "pairs"]
    assert len(Pictures(Path("pairs"))) == 2
    Path("prompts.txt").write_text("一只猫\n一只狗\n", "utf-8")
    status, out, _ = here("data", "texts", "prompts.txt", "texts")
    assert (status, out.splitlines()) == (0, ["kept: 2", "texts"])


def test_rewards_score_a_folder(here: Run, tiny_shards: Path) -> None:
    """A Chinese-CLIP in a folder is opened by its path, by rounds and along its gradient."""
    saved(chinese, Path("clip"))
    reward = ClipReward(scorer="clip")
    ascent = replace(STAGE, name="climb", objective=DRaFT(reward=reward, steps=1), batch=2)
    rounds = replace(
        STAGE, name="rounds", objective=OnlineRewards(reward=reward, requests=2, draws=2, steps=1), batch=2
    )
    Path("both.json").write_text(dumps(replace(xiaomo.tiny(), stages=(ascent, rounds), prompts=())), "utf-8")
    words = ("train", "both.json", "--data", str(tiny_shards), "--threads", "1", "--out", "run")
    assert here(*words)[0] == 0
    losses = [json.loads(row)["loss"] for row in Path("run/log.jsonl").read_text("utf-8").splitlines()]
    assert -1 <= losses[0] <= 1  # minus a cosine
    report = json.loads(Path("run/stage-2/round-0001/round.json").read_text("utf-8"))["scores"]["score"]
    assert report["count"] == 4
    assert -1 <= report["mean"] <= 1
    beauty = replace(ascent, objective=DRaFT(reward=AestheticReward(scorer="clip", head="none.safetensors"), steps=1))
    Path("beauty.json").write_text(dumps(replace(xiaomo.tiny(), stages=(beauty,), prompts=())), "utf-8")
    refused(here("train", "beauty.json", *words[2:-1], "other"), WeightsError.exit_status, "none.safetensors")


def test_train_keeps_decoded_pixels_where_it_is_told_to(
    here: Run, tiny_shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bimo.data.loader import Pictures as Loaded

    made: list[Path | None] = []
    real = Loaded.__init__

    def watched(self: Loaded, *folders: Path, cache: Path | None = None, **_: object) -> None:
        made.append(cache)
        real(self, *folders, cache=cache)
        raise DataError("enough")

    monkeypatch.setattr(Loaded, "__init__", watched)
    for more, wanted in ((("--cache", "kept"), Path("kept")), ((), None)):
        done = here("train", "xiaomo", "--data", str(tiny_shards), "--out", "run", "--tiny", *more)
        refused(done, DataError.exit_status, "enough")
        assert made.pop() == wanted
