"""`bimo finetune`: one command from pictures to a file that draws, killed and gone on with, refused in a sentence."""

from __future__ import annotations

import json
import os
import re
import signal
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from bimo.cli import finetune_run
from bimo.core import checkpoint_io
from bimo.core.errors import RecipeError
from bimo.diffusion.system import System
from bimo.engine.adapters import Adapters
from bimo.engine.engine import Engine
from bimo.hub import registry
from bimo.training import trainer
from bimo.training.finetune.recipe_file import NAME
from bimo.training.trainer import Trainer
from tests.support.command_line import Run, refused, runner
from tests.support.drawing import draw
from tests.support.families import FAMILIES
from tests.support.warm import Forked

pytestmark = pytest.mark.slow

ADAPTER = "pytorch_lora_weights.safetensors"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    """Runs the command line in the test's folder; returns (status, standard output, standard error)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BIMO_LANGUAGE", "en")

    return runner(capfd)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is drawn on the way and in the end has 64 pixels a side and two steps: families draw up to 2048 by many."""
    few: Any = finetune_run.drawn

    def samples(system: System, *_: object) -> list[Image.Image]:
        return few(Engine(system), system.recipe.prompts, steps=2, size=(64, 64))

    monkeypatch.setattr(finetune_run, "drawn", lambda engine, prompts: few(engine, prompts, steps=2, size=(64, 64)))
    monkeypatch.setattr(trainer, "draw_samples", samples)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Six pictures of mixed sizes, one of them damaged, without captions."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for number, size in enumerate([(90, 60), (60, 90), (64, 64), (64, 64), (80, 80)]):
        Image.new("RGB", size, (40 * number, 90, 60)).save(folder / f"IMG_{number}.png")
    (folder / "IMG_9.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    return folder


def words(model: Path, out: str, *more: str) -> tuple[str, ...]:
    brief = ("--steps", "2", "--batch", "2", "--threads", "1", "--size", "64", "--sample", "一只猫")
    return ("finetune", "photos", "-m", str(model), "--class", "猫", "--out", out, *brief, *more)


def test_from_pictures_to_a_drawing(here: Run, photos: Path, tiny_folder: Path) -> None:
    status, out, err = here(*words(tiny_folder, "run"))
    assert status == 0, err
    assert "1 of 6 pictures cannot be used and are left out: IMG_9.png (" in err
    assert "captions of 6 pictures are the class word" in err
    assert f"run/{ADAPTER} is loaded back: it gives what was learnt" in out
    assert out.splitlines()[-1] == "run"
    assert Path("run/before-after.png").is_file()
    # One file has both levels, and the run's folder stands for it.
    names = checkpoint_io.read(Path("run") / ADAPTER).keys()
    assert names == {n for k in (1, 2) for n in checkpoint_io.read(Path(f"run/lora-{k}.safetensors"))}
    one, two, three = (f"{name}.png" for name in ("plain", "folder", "file"))
    draw = ("draw", "一只猫", "-m", str(tiny_folder), "--seed", "1", "--anyway", "-o")
    assert [here(*draw, one)[0], here(*draw, two, "--lora", "run")[0]] == [0, 0]
    assert here(*draw, three, "--lora", f"run/{ADAPTER}")[0] == 0
    pixels = [Image.open(name).tobytes() for name in (one, two, three)]
    assert pixels[1] == pixels[2]
    assert pixels[0] != pixels[1]
    # The same command has nothing left to do, and the file that was written runs again as it says itself.
    before = Path("run/weights.safetensors").read_bytes()
    assert here(*words(tiny_folder, "run"))[0] == 0
    command = next(line for line in Path("run/recipe.py").read_text().splitlines() if "bimo train" in line).split()
    assert here(*command[1:], "--threads", "1")[0] == 0
    assert Path("run/weights.safetensors").read_bytes() == before


def test_a_subject_needs_no_captions(here: Run, photos: Path, tiny_folder: Path) -> None:
    """No class word either; captions that are there are not learnt, and that is said."""
    (photos / "IMG_0.txt").write_text("一只小狗", encoding="utf-8")
    arguments = words(tiny_folder, "my run", "--dreambooth", "一只红猫")
    without = [word for word in arguments if word not in ("--class", "猫")]
    status, out, err = here(*without)
    assert status == 0, err
    assert "captions of 1 pictures are not learnt: each is called '一只红猫'" in err
    assert "the class word" not in err
    assert out.splitlines()[-2] == f"bimo draw -m {tiny_folder.resolve()} --lora 'my run' '一只猫'"


def test_other_options_need_a_word_and_an_edited_file_counts(here: Run, photos: Path, tiny_folder: Path) -> None:
    assert here(*words(tiny_folder, "run"))[0] == 0
    refused(here(*words(tiny_folder, "run", "--lr", "0.5")), 6, "is of another recipe")
    file = Path("run/recipe.py")
    file.write_text(file.read_text().replace("rank=8", "rank=4"))
    refused(here(*words(tiny_folder, "run", "--lr", "0.5")), 6, "was edited")
    assert registry.recipe(f"{file}:{NAME}").stages[0].adapter.rank == 4  # type: ignore[union-attr]


def test_a_plan_is_said_and_leaves_nothing(here: Run, photos: Path, tiny_folder: Path) -> None:
    status, out, err = here(*words(tiny_folder, "run", "--plan"))
    assert status == 0, err
    assert "rank: 8 (for 5 pictures)" in out
    assert "steps: 2 (as asked)" in out
    assert "expected: " in out
    assert "finetuned = replace(" in out
    assert not Path("run").exists()


def test_a_plan_is_of_what_is_set(here: Run, photos: Path, tiny_folder: Path) -> None:
    status, out, err = here(*words(tiny_folder, "run", "--plan", "--set", "stages.0.lr=0.25"))
    assert status == 0, err
    assert "lr=0.25" in out
    refused(here(*words(tiny_folder, "run", "--plan", "--set", "stages.0.speed=1")), 3, "speed")


@pytest.mark.parametrize(
    ("more", "status", "said"),
    [
        (("--memory", "551MB"), 2, "of memory at the least"),
        (("--controlnet", "canny"), 3, "there is no controlnet for"),
        (("--embedding", "<猫>"), 3, "does not know"),
        (("--lora", "--full"), 2, "contradict each other"),
        (("--size", "63"), 3, "sides are multiples of"),
        (("--lr", "1e38"), 6, "--set stages.0.lr="),
        (("--prior", "3"), 2, "--class or --keep"),
        (("--mask", "alpha"), 5, "has an alpha channel"),
        (("--mask", "masklabel"), 5, "has a mask beside it"),
        (("--captioner", "http://127.0.0.1:9/v1"), 2, "--captioner-model"),
        (("--captioner", "there", "--dreambooth", "一只红猫"), 2, "each picture is called '一只红猫'"),
    ],
)
def test_invalid_arguments_are_refused_and_files_kept(
    more: tuple[str, ...], status: int, said: str, here: Run, photos: Path, tiny_folder: Path
) -> None:
    before = sorted(photos.iterdir())
    arguments = words(tiny_folder, "run", *more)
    if "--embedding" in more:
        arguments = tuple("🦄" if word == "猫" else word for word in arguments)
    refused(here(*arguments), status, said)
    assert sorted(photos.iterdir()) == before


def test_the_memory_that_is_advised_suffices(here: Run, photos: Path, tiny_folder: Path) -> None:
    status, _, err = here(*words(tiny_folder, "run", "--memory", "551MB"))
    assert status == 2
    advised = re.search(r"take --memory (\d+MB)", err)
    assert advised is not None, err
    status, _, err = here(*words(tiny_folder, "run", "--memory", advised[1]))
    assert status == 0, err


def test_a_single_picture_is_trained_on_with_a_warning(here: Run, photos: Path, tiny_folder: Path) -> None:
    for path in sorted(photos.iterdir())[1:]:
        path.unlink()
    status, _, err = here(*words(tiny_folder, "run"))
    assert status == 0
    assert "there is one picture: it will be learnt by heart" in err


#: A command that kills itself before a step, each step saved.
KILLED = """
import os, signal, sys
from bimo.training import trainer
trainer.CHECKPOINT_SECONDS = -1.0
plain, last = trainer.Trainer._step, int(sys.argv.pop(1))
def step(self, stage, learning):
    if self.place.stage * 100 + self.place.step == last:
        os.kill(os.getpid(), signal.SIGKILL)
    return plain(self, stage, learning)
trainer.Trainer._step = step
from bimo.cli.main import main
main()
"""


def test_the_blocks_of_each_level_are_compiled_where_that_is_asked(
    here: Run, photos: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # That a run of compiled blocks goes on to the bit is shown where stages are executed.
    blocks: list[torch.nn.Module] = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda block, **how: blocks.append(block))
    status, out, err = here(*words(tiny_folder, "run", "--steps", "1", "--compile"))
    assert status == 0, err
    assert "blocks compiled" in out
    assert blocks


@pytest.mark.parametrize(
    "more", [(), ("--channels-last", "--log-every", "3", "--exact")], ids=["plain", "channels last"]
)
def test_killed_twice_it_ends_in_the_same_bytes(
    more: tuple[str, ...], here: Run, photos: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    steps = ("--steps", "4", *more)
    status, out, err = here(*words(tiny_folder, "whole", *steps))
    assert status == 0, err
    assert ("channels last" in out) == ("--channels-last" in more)
    for at in ("2", "101"):
        command = [KILLED, at, *words(tiny_folder, "run", *steps)]
        status, said = Forked(*command, env=os.environ, cwd=tmp_path).ended(600)
        assert status == -signal.SIGKILL, said[-2000:]
    assert here(*words(tiny_folder, "run", *steps))[0] == 0
    for name in (ADAPTER, "weights.safetensors"):
        assert Path("run", name).read_bytes() == Path("whole", name).read_bytes()
    rows = [[json.loads(line) for line in Path(out, "log.jsonl").read_text().splitlines()] for out in ("run", "whole")]
    assert [row["loss"] for row in rows[0]] == [row["loss"] for row in rows[1]]


def test_sigterm_saves_before_it_ends(
    here: Run, photos: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert here(*words(tiny_folder, "whole", "--steps", "4"))[0] == 0
    plain: Any = Trainer._step  # pyright: ignore[reportPrivateUsage]

    def step(self: Trainer, *arguments: Any) -> Any:
        if self.place.stage == 1 and self.place.step == 1:
            signal.raise_signal(signal.SIGTERM)
        return plain(self, *arguments)

    monkeypatch.setattr(Trainer, "_step", step)
    status, _, err = here(*words(tiny_folder, "run", "--steps", "4"))
    assert status == 128 + signal.SIGTERM
    assert "the same command goes on" in err
    assert not Path("run", ADAPTER).exists()
    steps: list[int] = []
    monkeypatch.setattr(Trainer, "_step", lambda self, *a: (steps.append(self.place.step), plain(self, *a))[1])
    assert here(*words(tiny_folder, "run", "--steps", "4"))[0] == 0
    assert steps == [2, 3]
    for name in (ADAPTER, "weights.safetensors"):
        assert Path("run", name).read_bytes() == Path("whole", name).read_bytes()


def test_a_model_that_edits_wants_pairs(here: Run, photos: Path, tmp_path: Path) -> None:
    FAMILIES["qwen_image_edit"][1](tmp_path / "model")
    status, _, err = here(*words(tmp_path / "model", "run"))
    assert status == RecipeError.exit_status
    assert "maps/image/KEY.png" in err


@pytest.mark.parametrize("family", sorted(set(FAMILIES) - {"qwen_image_edit"}))
def test_every_family_learns_and_is_loaded_back(
    family: str, here: Run, photos: Path, tmp_path: Path, small: None
) -> None:
    """What is left, loaded beside a fresh model, gives the weights that were learnt: the command refuses others."""
    model = tmp_path / "model"
    FAMILIES[family][1](model)
    status, out, err = here(*words(model, "run", "--lr", "0.01", "--set", "stages.0.max_unknown=1"))
    assert status == 0, err
    assert "is loaded back: it gives what was learnt" in out
    state = checkpoint_io.read(Path("run") / ADAPTER)
    assert any(bool(value.any()) for name, value in state.items() if "lora_B" in name)


WAYS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "dreambooth": (("--dreambooth", "一只小苹果", "--prior", "2"), ("--lora", "run")),
    "keep": (("--lora", "--keep", "红苹果", "--prior", "2"), ("--lora", "run")),
    "embedding": (("--embedding", "<苹>"), ("--embedding", "run")),
    "controlnet": (("--controlnet", "canny"), ("--control", "photos/IMG_2.png=run")),
    "full": (("--full",), ()),
    "quantised": (("--lora", "--quantise", "int8"), ("--lora", "run")),
    "masked": (("--lora", "--mask", "alpha"), ("--lora", "run")),
    "masked beside": (("--lora", "--mask", "masklabel"), ("--lora", "run")),
}


@pytest.mark.parametrize("way", WAYS)
def test_every_method_writes_a_file_that_draws(way: str, here: Run, photos: Path, tmp_path: Path, small: None) -> None:
    model = tmp_path / "model"
    FAMILIES["taiyi"][1](model)
    learn, given = WAYS[way]
    if way == "quantised":
        pytest.importorskip("torchao")
    if way == "masked":
        Image.new("RGBA", (64, 64), (90, 90, 60, 0)).save(photos / "IMG_2.png")
    if way == "masked beside":
        Image.new("L", (64, 64)).save(photos / "IMG_2-masklabel.png")
    arguments = words(model, "run", "--lr", "0.1", "--set", "stages.0.max_unknown=1", *learn)
    status, out, err = here(*("苹果" if word == "猫" else word for word in arguments))
    assert status == 0, err
    assert ("1 of 5 pictures have an alpha channel" in out) == (way == "masked")
    assert ("1 of 5 pictures have a mask beside them" in out) == (way == "masked beside")
    assert ("frozen weights as int8" in out) == (way == "quantised")
    prompt = "一只<苹>" if way == "embedding" else "一只苹果"
    draw = ("draw", prompt, "--seed", "1", "--steps", "2", "--size", "64", "--anyway", "-o")
    named = ("-m", "run") if way == "full" else ("-m", str(model))
    assert here(*draw, "after.png", *named, *given)[0] == 0
    assert here(*draw, "before.png", "-m", str(model))[0] == 0
    assert Image.open("after.png").tobytes() != Image.open("before.png").tobytes()


@pytest.mark.parametrize("family", ["hunyuan", "qwen_image", "z_image"])
def test_diffusers_reads_controlnets_of_transformers(
    family: str, here: Run, photos: Path, tmp_path: Path, small: None
) -> None:
    """The run's folder is what their class reads, and what is drawn beside another picture is another drawing."""
    import diffusers

    kind: Any = {
        "hunyuan": diffusers.HunyuanDiT2DControlNetModel,
        "qwen_image": diffusers.QwenImageControlNetModel,
        "z_image": diffusers.ZImageControlNetModel,
    }[family]
    model = tmp_path / "model"
    FAMILIES[family][1](model)
    status, _, err = here(
        *words(model, "run", "--lr", "0.1", "--controlnet", "canny", "--set", "stages.0.max_unknown=1")
    )
    assert status == 0, err
    read = kind.from_pretrained("run").state_dict()
    left = checkpoint_io.read(Path("run/diffusion_pytorch_model.safetensors"))
    assert read.keys() == left.keys()
    assert all(bool((read[name] == value).all()) for name, value in left.items())
    draw = ("draw", "一只猫", "--seed", "1", "--steps", "2", "--size", "64", "--anyway", "-m", str(model))
    assert here(*draw, "-o", "plain.png")[0] == 0
    assert here(*draw, "-o", "seen.png", "--control", "photos/IMG_0.png=run")[0] == 0
    assert Image.open("seen.png").tobytes() != Image.open("plain.png").tobytes()


def test_diffusers_draws_what_was_learnt(here: Run, photos: Path, tmp_path: Path, small: None) -> None:
    """The run's folder is what its pipeline loads, and both draw the same within one of 255."""
    import numpy

    from tests.parity.test_adapters import by_diffusers
    from tests.support.tiny_checkpoints import read_by_diffusers

    model = tmp_path / "model"
    FAMILIES["stable-diffusion"][1](model)
    arguments = words(model, "run", "--lr", "0.1", "--steps", "8", "--set", "stages.0.lr_schedule=constant")
    assert here(*arguments)[0] == 0
    pipeline = read_by_diffusers(model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pipeline.load_lora_weights("run")
    request = {"text": "a red cat", "seed": 3, "steps": 3, "size": (64, 64), "guidance": 3.0}
    system = registry.load(model)
    plain = draw(system, request)
    loaded = draw(Adapters.from_files(["run"]).put(system), request)
    (theirs,) = by_diffusers(pipeline, request)
    own, before = (numpy.asarray(pictures[0].image).astype(int) for pictures in (loaded, plain))
    assert numpy.abs(own - theirs).max() <= 1
    assert numpy.abs(own - before).max() > 3
