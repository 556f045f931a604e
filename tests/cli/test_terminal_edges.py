"""The command line where the system, the terminal or the user is odd: a sentence or a picture, never a surprise."""

import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from bimo.cli import main
from bimo.core.output_path import OutputPath, name_of
from bimo.curation.executors.executor import SerialExecutor
from bimo.hub import memory, registry
from tests.support.checkout import ROOT

pytestmark = pytest.mark.slow

SECONDS = 90
PNG = b"\x89PNG"


def bimo(*words: str | bytes, cwd: Path, **settings: Any) -> subprocess.CompletedProcess[bytes]:
    """Runs the command line as its own process; ``settings`` are those of subprocess, ``env`` adds to a plain one."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("LC_", "LANG", "BIMO_", "HF_", "PYTHON"))}
    own = {"LANG": "C.UTF-8", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    environment = clean | own | settings.pop("env", {})
    settings = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "stdin": subprocess.DEVNULL} | settings
    command = [sys.executable, "-m", "bimo", *words]
    return subprocess.run(command, cwd=cwd, env=environment, timeout=SECONDS, check=False, **settings)


@pytest.fixture
def drawing(tiny_folder: Path) -> tuple[str, ...]:
    return ("draw", "红苹果", "-m", str(tiny_folder), "--seed", "1", "--steps", "1")


def test_names_that_are_no_text(drawing: tuple[str, ...], tmp_path: Path) -> None:
    done = bimo(*drawing, "-o", b"cat\xff", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, b"cat\xff.png\n")
    assert (tmp_path / os.fsdecode(b"cat\xff.png")).read_bytes().startswith(PNG)
    done = bimo(*drawing, "-o", b"cat\xff", "--json", cwd=tmp_path)
    assert json.loads(done.stdout.decode())["files"] == ["cat\udcff.png"]
    done = bimo("draw", b"cat\xff", cwd=tmp_path)
    assert done.returncode == 2
    assert b"\\udcff" in done.stderr


def test_a_locale_of_ascii(drawing: tuple[str, ...], tmp_path: Path) -> None:
    done = bimo(*drawing, cwd=tmp_path, env={"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"})
    assert (done.returncode, done.stdout.decode()) == (0, "红苹果.png\n"), done.stderr
    assert (tmp_path / "红苹果.png").is_file()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no full device here")
@pytest.mark.parametrize("words", [("list",), ("--help",), ("--version",)])
def test_standard_output_is_full(words: tuple[str, ...], tmp_path: Path) -> None:
    with open("/dev/full", "wb") as full:
        done = bimo(*words, cwd=tmp_path, stdout=full)
    assert done.returncode == main.SYSTEM
    assert done.stderr.decode().strip() == "bimo: standard output: No space left on device, says the system"


def test_standard_output_is_closed(drawing: tuple[str, ...], tmp_path: Path) -> None:
    words = [sys.executable, "-m", "bimo", *drawing]
    line = f'cd "{tmp_path}" && exec "$@" >&- 2>&-'
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(["bash", "-c", line, "bash", *words], env=environment, timeout=SECONDS, check=False)
    assert done.returncode == 0
    assert (tmp_path / "红苹果.png").is_file()


@pytest.mark.parametrize("encoding", ["gbk", "ascii", "latin-1", "utf-16", "utf-8"])
def test_json_is_json_in_every_encoding(encoding: str, tmp_path: Path) -> None:
    done = bimo("list", "--json", cwd=tmp_path, env={"PYTHONIOENCODING": encoding, "BIMO_LANGUAGE": "zh"})
    text = done.stdout.decode("utf-16" if encoding == "utf-16" else "utf-8")
    assert any(row["title"] == "小墨" for row in json.loads(text)), done.stderr


@pytest.fixture
def here(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]
) -> Iterator[Callable[..., subprocess.CompletedProcess[str]]]:
    """Runs the command line in this process, each model read once."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LANG", "C.UTF-8")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for name in ("LC_ALL", "LC_MESSAGES", "BIMO_LANGUAGE", "BIMO_MODEL", "BIMO_DEBUG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(memory, "available", lambda: 8_000_000_000)
    load = registry.load
    held = {name: load(tiny_folder) for name in (str(tiny_folder), registry.DEFAULT_MODEL)}

    def loaded(name: str | Path, **settings: Any) -> Any:
        return held.get(str(name)) or load(name, **settings)

    monkeypatch.setattr(registry, "load", loaded)

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        status = main.run(list(words))
        out, err = (said.decode(errors="replace") for said in capfdbinary.readouterr())
        return subprocess.CompletedProcess(words, status, out, err)

    yield run
    assert sys.getrecursionlimit() >= 1000


def test_a_name_too_long_without_its_ending(here: Callable[..., Any], tmp_path: Path) -> None:
    done = here("draw", "猫", "-o", "a" * 300)
    assert done.returncode == 2
    assert "File name too long" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_devices_are_written_to_and_stay(here: Callable[..., Any], tmp_path: Path) -> None:
    done = here("draw", "猫", "-o", os.devnull, "--steps", "1")
    assert (done.returncode, done.stdout.strip()) == (0, os.devnull)
    assert not Path(f"{os.devnull}.png").exists()
    assert not Path(os.devnull).is_file()
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reading = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        OutputPath(pipe, "猫").write(PNG)
        assert os.read(reading, 100) == PNG
    finally:
        os.close(reading)
    assert pipe.is_fifo()


@pytest.mark.parametrize(
    ("prompt", "name"),
    [
        ("con", "con_"),
        ("NUL", "NUL_"),
        ("Com1", "Com1_"),
        ("lpt9.a cat", "lpt9_.a cat"),
        ("aux .b", "aux _.b"),
        ("com", "com"),
        ("console", "console"),
        ("COM¹", "COM¹_"),
    ],
)
def test_no_picture_has_the_name_of_a_device(prompt: str, name: str) -> None:
    assert name_of(prompt) == name


def test_a_name_that_the_file_system_cannot_write(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "getfilesystemencoding", lambda: "gbk")
    assert name_of("红苹果🐱") == "红苹果"


DAMAGED = ["", "{", "[]", "3", '"x"', "null", '{"kind": 5}', "[" * 100_000, '{"kind": "bimo.core.recipe:Recipe"}', "\0"]
DAMAGED += ['{"kind": "os:system"}', '{"kind": "bimo.core.recipe:Recipe", "name": 3}', "é", '{"a": NaN}']


@pytest.mark.parametrize("content", DAMAGED, ids=range(len(DAMAGED)))
@pytest.mark.parametrize("command", ["draw", "show"])
def test_a_damaged_recipe_is_named(
    content: str, command: str, tiny_folder: Path, tmp_path: Path, here: Callable[..., Any]
) -> None:
    shutil.copytree(tiny_folder, tmp_path / "model")
    (tmp_path / "model" / "recipe.json").write_text(content, "latin-1")
    done = here(*(("show", "model") if command == "show" else ("draw", "猫", "-m", "model")))
    assert 0 < done.returncode < main.BUG
    assert str(Path("model") / "recipe.json") in done.stderr


WORDS = [
    "猫",
    "a red cat",
    "",
    " ",
    "红苹果，3D风格",
    "🐱",
    "\udcff",
    "(a:9)",
    "（猫：1.3）",
    "\0",
    "-",
    "--",
    "x" * 2000,
    "?" * 9,
]
VALUES = ["1", "0", "-1", "1e9", "nan", "inf", "9223372036854775807", "9223372036854775808", "64", "64x64", "8x", "x"]
VALUES += ["ink", "水墨", "euler", "eulr", "a=b", "=", "a.png", "nowhere/a.png", "a.jpg", "/dev/null", "file", "xiaomo"]
VALUES += ["./none.py:x", "a/b/c", "fp32", "fp33", "zh", "\ud800", "CON", "a" * 300, "9" * 400]
COMMANDS = [
    "draw",
    "draw",
    "draw",
    "draw",
    "list",
    "show",
    "export",
    "eval",
    "serve",
    "data",
    "curate",
    "train",
    "extend",
]
#: What an option is meant for, or nearly.
LIKELY = {
    "--seed": ["0", "1", "9223372036854775807", "007"],
    "--steps": ["1", "2", "1e1"],
    "--size": ["64", "64x128", "128", "8", "100"],
    "--guidance": ["0", "1", "2.5", "100"],
    "--count": ["1", "2"],
    "--sampler": ["euler", "heun", "dpm++", "ddim", "pndm"],
    "--style": ["ink", "水墨", "3d", "twemoji", "watercolr"],
    "--output": ["a.png", "b", "folder", "folder/x/y", "file", "/dev/null", "c" * 252, "c" * 251 + ".png", "文件.PNG"],
    "--dtype": ["fp32", "bf16", "fp16"],
    "--negative": ["狗", "", "（猫：2）", "🐱"],
    "--image": ["picture.png", "file", "none.png", "folder", "/dev/null"],
    "--mask": ["picture.png", "file"],
    "--strength": ["0.1", "1", "0", "0.5"],
    "--condition": ["sketch=picture.png", "x=file", "pose=picture.png"],
    "--guidance-weight": ["a=1", "style=4.0", "a=nan"],
    "--lora": ["file", "picture.png:0.8", "none.safetensors"],
    "--embedding": ["file", "file=<cat>"],
    "--control": ["picture.png=folder", "picture.png=model"],
    "--again": ["picture.png", "drawn.png", "file", "folder"],
    "--data": ["folder", "none"],
    "--out": ["run", "folder", "file"],
    "--to": ["bimo", "diffusers", "single"],
    "--set": ["name=a", "stages.0.lr=1", "stages.9.lr=1", "levels.image.steps=x", "a"],
    "--recipe": ["wukong", "taiyi", "none", "xiaomo"],
}
SLOW = {"--install-completion", "--open", "--model", "-m"}


def lines(seed: int, count: int) -> Iterator[list[str]]:
    """Command lines of real options with likely and unlikely values."""
    import typer

    from bimo.cli.commands import command_line

    every: Any = main.commanded(typer.main.get_command(command_line()))
    rng = random.Random(seed)
    for _ in range(count):
        name = rng.choice(COMMANDS)
        command = every.commands[name]
        words = [name]
        if hasattr(command, "commands"):
            inner = rng.choice([*command.commands, "none"])
            words.append(inner)
            command = command.commands.get(inner, command)
        count = rng.choice((0, 1, 1, 1, 1, 2))
        words += [
            rng.choice(WORDS if name == "draw" else ["model", "xiaomo", "folder", *WORDS, *VALUES])
            for _ in range(count)
        ]
        options = [p for p in command.params if p.param_type_name == "option" and not SLOW & set(p.opts)]
        for option in rng.sample(options, min(len(options), rng.randrange(5))):
            likely = LIKELY.get(max(option.opts, key=len), VALUES) if rng.random() < 0.8 else VALUES
            words += [rng.choice(option.opts)] + ([] if option.is_flag else [rng.choice(likely)])
        if name == "draw" and "--steps" not in words and "--again" not in words:
            words += ["--steps", "1"]
        yield words


def test_random_command_lines_end_in_a_known_status(
    here: Callable[..., Any], tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("x", encoding="utf-8")
    (tmp_path / "folder").mkdir()
    (tmp_path / "model").symlink_to(tiny_folder)
    Image.new("RGB", (64, 64), "red").save(tmp_path / "picture.png")
    assert here("draw", "猫", "--steps", "1", "--size", "64", "-o", "drawn.png").returncode == 0
    # What would serve, fetch or train for minutes is not begun.
    from bimo.cli import work

    pytest.importorskip("gradio")
    monkeypatch.setattr("bimo.serve.run.serve", lambda settings, **where: None)
    monkeypatch.setattr(work, "_trained", lambda **settings: None)
    monkeypatch.setattr("bimo.xiaomo.artwork.build.build_artwork", lambda out, **settings: {})
    monkeypatch.setattr("bimo.xiaomo.build.build_scenes", lambda *a, **settings: {"count": 0})
    monkeypatch.setattr("bimo.cli.curate.executor_of", lambda *a: SerialExecutor())
    monkeypatch.setattr("bimo.xiaomo.evaluation.run.evaluate", lambda *a, **settings: None)
    monkeypatch.setattr("bimo.evaluation.suite_run.evaluate_suite", lambda *a: [])
    monkeypatch.setattr("bimo.evaluation.suite_report.write_report", lambda found, plan, out: out / "report.html")
    surprises = []
    for words in lines(14, 150):
        done = here(*words)
        if done.returncode in (main.BUG, main.NO_MEMORY) or "Traceback" in done.stderr:
            surprises.append((words, done.stderr[-300:]))
    assert surprises == []
