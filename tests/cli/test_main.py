"""The command line as people meet it: in processes of its own, with good input and bad."""

import gc
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import numpy
import pytest
from PIL import Image

from bimo.cli import main
from bimo.cli.inputs import size_of
from bimo.core.errors import RequestError
from bimo.core.output_path import OutputPath, name_of
from bimo.hub import memory
from tests.support.checkout import ROOT

pytestmark = pytest.mark.slow

ENGLISH, CHINESE = "C", "zh_CN.UTF-8"
SECONDS = 90
BIMO = (sys.executable, "-m", "bimo.cli.main")
HAN = range(0x4E00, 0xA000)


def environment(locale: str = ENGLISH, **more: str) -> dict[str, str]:
    """The environment of a user with a locale, offline, with one thread."""
    dropped = ("LC_", "LANG", "BIMO_", "HF_")
    clean = {k: v for k, v in os.environ.items() if not k.startswith(dropped)}
    root = str(ROOT)
    fixed = {"LANG": locale, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": root}
    return clean | fixed | more


def bimo(*words: str, cwd: Path, locale: str = ENGLISH, **more: str) -> subprocess.CompletedProcess[str]:
    """Runs the command line in a folder."""
    return subprocess.run(
        [*BIMO, *words],
        cwd=cwd,
        env=environment(locale, **more),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        timeout=SECONDS,
        check=False,
    )


Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    """Runs the command line in this process and the test's folder: a new process would take seconds to start."""
    monkeypatch.chdir(tmp_path)
    for name in ("LC_ALL", "LC_MESSAGES", "BIMO_LANGUAGE", "BIMO_MODEL", "BIMO_DEBUG"):
        monkeypatch.delenv(name, raising=False)

    def run(*words: str, locale: str = ENGLISH) -> subprocess.CompletedProcess[str]:
        monkeypatch.setenv("LANG", locale)
        status = main.run(list(words))
        return subprocess.CompletedProcess(words, status, *capfd.readouterr())

    return run


def one_sentence(done: subprocess.CompletedProcess[str], locale: str) -> str:
    """What a failed command said, which must be one line of the right language and no traceback."""
    assert done.returncode > 0, done.stdout
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("bimo: ")
    assert any(ord(c) in HAN for c in lines[0]) == (locale == CHINESE), lines[0]
    return lines[0]


def test_draws_saves_and_draws_again(tiny_folder: Path, tmp_path: Path) -> None:
    words = ("draw", "红苹果", "-m", str(tiny_folder), "--seed", "1", "--steps", "2")
    assert bimo(*words, "-n", "2", cwd=tmp_path).stdout.split() == ["红苹果.png", "红苹果-2.png"]
    again = bimo("draw", "--again", "红苹果-2.png", "-m", str(tiny_folder), "--json", cwd=tmp_path)
    report = json.loads(again.stdout)
    assert report["identical"] is True
    assert report["seeds"] == [2]
    assert report["files"] == ["红苹果-2-2.png"] or report["files"] == ["红苹果-3.png"]
    assert (tmp_path / report["files"][0]).read_bytes() == (tmp_path / "红苹果-2.png").read_bytes()
    # Without the folder the record's own name is looked up, and it is no recipe.
    assert "-m" in one_sentence(bimo("draw", "--again", "红苹果.png", cwd=tmp_path), ENGLISH)


def test_the_garbage_collector_is_off_until_the_model_is_loaded(tmp_path: Path) -> None:
    code = f"""
import gc, json
from bimo.cli import main
try:
    main.main({["draw", "红苹果", "--seed", "1", "--steps", "1"]!r})
except SystemExit as ended:
    print(json.dumps([ended.code, gc.isenabled(), gc.get_freeze_count()]))
"""
    told = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment(), capture_output=True, encoding="utf-8", check=True
    ).stdout
    file, row = told.splitlines()
    status, collects, frozen = json.loads(row)
    assert (file, status, collects) == ("红苹果.png", 0, True)
    assert frozen > 100_000


def test_the_collector_of_another_program_is_left_alone(here: Run) -> None:
    frozen = gc.get_freeze_count()
    assert here("--version").returncode == 0
    assert gc.isenabled()
    assert gc.get_freeze_count() == frozen


def test_a_picture_of_0_1_is_drawn_again_by_its_record(here: Run) -> None:
    """Its record calls the conditions otherwise, so that the file is another and the picture the same."""
    saved = ROOT / "tests" / "fixtures" / "saved_0_1" / "pose.png"
    done = here("draw", "--again", str(saved), "-o", "again.png", "--json")
    report = json.loads(done.stdout)
    assert report["request"]["conditions"] == {"pose": [0.0, 1.0, 0.0, 0.0, 0.0]}
    before, after = (numpy.asarray(Image.open(file), int) for file in (saved, report["files"][0]))
    worst = int(numpy.abs(before - after).max())
    # Other machines round otherwise; another pose is another picture.
    assert worst <= 2
    assert report["identical"] is False
    assert bool(report["warnings"]) == (worst > 0)


def test_drawing_again_with_other_weights_is_warned_of(tiny_folder: Path, tmp_path: Path, here: Run) -> None:
    import torch

    from bimo.hub import registry

    system = registry.load(tiny_folder)
    with torch.no_grad():
        next(iter(system.text.parameters())).add_(0.25)
    system.save(tmp_path / "other")
    words = ("--steps", "2", "--seed", "1", "-o", "a.png")
    here("draw", "猫", "-m", str(tiny_folder), *words)
    again = here("draw", "--again", "a.png", "-m", "other", "-o", "b.png")
    assert again.returncode == 0
    assert "other weights" in again.stderr


def test_json_names_what_was_not_learned(tiny_folder: Path, here: Run) -> None:
    words = ("draw", "一只龙", "-m", str(tiny_folder), "--steps", "2", "--style", "水墨", "-o", "dragon", "--json")
    refused = one_sentence(here(*words, locale=CHINESE), CHINESE)
    assert "龙" in refused
    assert "--anyway" in refused
    done = here(*words, "--anyway", locale=CHINESE)
    report = json.loads(done.stdout)
    assert report["files"] == ["dragon.png"]
    assert any("龙" in warning for warning in report["warnings"])
    assert "没有学过" in done.stderr
    assert report["request"]["style"] == "水墨"


BAD = {
    "empty prompt": ("draw", " "),
    "no prompt": ("draw",),
    "unknown model": ("draw", "猫", "-m", "xiaomoo"),
    "steps 0": ("draw", "猫", "--steps", "0"),
    "steps in words": ("draw", "猫", "--steps", "many"),
    "guidance NaN": ("draw", "猫", "--guidance", "nan"),
    "guidance infinite": ("draw", "猫", "--guidance", "inf"),
    "too large for memory": ("draw", "猫", "--size", "8192"),
    "too large at all": ("draw", "猫", "--size", "99999999x1"),
    "size in words": ("draw", "猫", "--size", "large"),
    "negative seed": ("draw", "猫", "--seed=-1"),
    "too many": ("draw", "猫", "-n", "1000000"),
    "unknown style": ("draw", "猫", "--style", "watercolr"),
    "no such folder": ("draw", "猫", "-m", "./nothing"),
    "a file is in the way": ("draw", "猫", "-o", "file/a.png"),
    "not a PNG": ("draw", "猫", "-o", "a.jpg"),
    "name too long": ("draw", "猫", "-o", "a" * 300 + ".png"),
    "again of nothing": ("draw", "--again", "none.png"),
    "again of another file": ("draw", "--again", "file"),
    "again with settings": ("draw", "--again", "file", "--seed", "1"),
    "int8 for others": ("export", "xiaomo", "out", "--dtype", "int8", "--to", "diffusers"),
    "nothing learned": ("draw", "smartwatch"),
    "unknown option": ("draw", "猫", "--sied", "1"),
    "unknown command": ("darw", "猫"),
    "prompt without quotes": ("draw", "a", "cat"),
    "unknown recipe": ("show", "xiaomoo"),
    "setting without value": ("train", "xiaomo", "--data", ".", "--out", "run", "--set", "name"),
}


@pytest.mark.parametrize("locale", [ENGLISH, CHINESE])
@pytest.mark.parametrize("words", BAD.values(), ids=BAD.keys())
def test_bad_input_is_one_sentence(
    words: tuple[str, ...], locale: str, tmp_path: Path, here: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("x", encoding="utf-8")
    monkeypatch.setattr(memory, "available", lambda: 8_000_000_000)
    one_sentence(here(*words, locale=locale), locale)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file"]


@pytest.mark.parametrize("locale", [ENGLISH, CHINESE])
def test_bad_input_with_a_model(locale: str, tiny_folder: Path, tmp_path: Path, here: Run) -> None:
    damaged = tmp_path / "damaged"
    shutil.copytree(tiny_folder, damaged)
    weights = damaged / "weights.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    done = here("draw", "猫", "-m", "damaged", locale=locale)
    assert "SHA-256" in one_sentence(done, locale)
    assert done.returncode == 4
    done = here("draw", "猫", "-m", str(tiny_folder), "--size", "100", locale=locale)
    assert "96" in one_sentence(done, locale)
    assert done.returncode == 2
    assert [p.name for p in tmp_path.iterdir()] == ["damaged"]


def test_a_pickle_that_would_run_code_is_refused(tmp_path: Path) -> None:
    import pickle

    from bimo.core import checkpoint_io
    from bimo.core.errors import WeightsError

    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(tmp_path / "ran"),)

    file = tmp_path / "pytorch_model.bin"
    file.write_bytes(pickle.dumps(Trap(), protocol=2))
    with pytest.raises(WeightsError) as caught:
        checkpoint_io.read(file)
    assert main.status_and_sentence(caught.value)[0] == WeightsError.exit_status
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("locale", [ENGLISH, CHINESE])
def test_an_interrupt_exits_with_130(locale: str, tiny_folder: Path, tmp_path: Path) -> None:
    words = [*BIMO, "draw", "猫", "-m", str(tiny_folder), "--steps", "20", "-n", "64"]
    running = subprocess.Popen(
        words,
        cwd=tmp_path,
        env=environment(locale),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        # A shell starts background jobs deaf to Ctrl-C, and what they start inherits that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert running.stdout is not None
    first = running.stdout.readline()
    running.send_signal(signal.SIGINT)
    out, err = running.communicate(timeout=SECONDS)
    saved = (first + out).split()
    one_sentence(subprocess.CompletedProcess(words, running.returncode, "", err), locale)
    assert running.returncode == main.INTERRUPTED
    # Pictures that were done stay, whole; of the one in work there is nothing.
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(saved)


def test_an_unknown_option_names_those_that_are_like_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LANG", "C")
    assert main.run(["draw", "猫", "--sied", "1"]) != 0
    assert "--seed" in capsys.readouterr().err
    # All options begin with dashes, which is no likeness.
    assert main.run(["eval", "xiaomo", "--guess", "4"]) != 0
    assert "did you mean" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "zh", "en"),
    [
        ("data scenes d --count 0", "--count 的值不对，应不小于 1", "--count is wrong: expected at least 1"),
        ("data scenes d --count 9999999999", "应不大于 1000000", "expected at most 1000000"),
        ("data artwork d --canvases 9999999999", "应不大于 1000000", "expected at most 1000000"),
        ("draw a --dtype x", "'x' 不在 auto、fp16、bf16、fp32 之中", "'x' is none of auto, fp16, bf16, fp32"),
        ("draw a -n x", "应为整数", "expected a whole number"),
        ("draw a --guidance x", "应为数", "expected a number"),
        ("draw a -o", "-o 后面缺少值", "-o needs a value"),
        ("draw a --json=1", "--json 后面不带值", "--json takes no value"),
        ("data", "bimo data 后面要写命令", "bimo data needs a command; there is folder"),
        ("draw a --image x\0", "里面有零字节", "it holds a zero byte"),
    ],
)
def test_parser_errors_are_in_the_users_language(
    line: str, zh: str, en: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for language, said in (("zh", zh), ("en", en)):
        monkeypatch.setenv("BIMO_LANGUAGE", language)
        assert main.run(line.split(" ")) == main.USAGE
        assert said in capsys.readouterr().err


def test_unexpected_errors_are_one_sentence() -> None:
    assert main.status_and_sentence(MemoryError())[0] == main.NO_MEMORY
    torch_says = "[enforce fail at alloc_cpu.cpp:117] . DefaultCPUAllocator: can't allocate memory: you tried ..."
    assert main.status_and_sentence(RuntimeError(torch_says))[0] == main.NO_MEMORY
    torch_says = "CUDA error: an illegal memory access was encountered\nCUDA kernel errors might be reported later"
    status, sentence = main.status_and_sentence(RuntimeError(torch_says))
    assert status == main.SYSTEM
    assert "failed in the middle (CUDA error: an illegal memory access was encountered), and nothing" in sentence
    assert "BIMO_DEBUG" in main.status_and_sentence(ValueError("odd\nthing"))[1]
    root = ROOT
    said = main.status_and_sentence(ModuleNotFoundError("no", name="gradio"))[1]
    assert f"{sys.executable} -m pip install -e '{root}[serve]'" in said


def test_what_an_extra_installs_is_told_by_its_name() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    extras = {
        name: project["optional-dependencies"][name]
        # What several need is told by the first of them.
        for name in (
            "quantise",
            "sdnq",
            "cache-dit",
            "gguf",
            "eval",
            "openvino",
            "ray",
            "deepspeed",
            "serve",
            "inscription",
            "data",
            "train",
        )
    }
    listed = {re.split(r"[\[><=]", line)[0].replace("-", "_"): name for name, lines in extras.items() for line in lines}
    imported = {"faiss_cpu": "faiss", "pyahocorasick": "ahocorasick", "fonttools": "fontTools"}
    assert {imported.get(name, name): extra for name, extra in listed.items()} == main.EXTRAS


def test_commands_print_what_they_should(tiny_folder: Path, tmp_path: Path, here: Run) -> None:
    listed = here("list", locale=CHINESE)
    assert "xiaomo" in listed.stdout
    assert "小墨" in listed.stdout
    shown = here("show", str(tiny_folder))
    assert "image.denoiser" in shown.stdout
    assert "text.*" in shown.stdout
    assert json.loads(here("show", "xiaomo", "--json").stdout)["name"] == "xiaomo"
    assert here("export", str(tiny_folder), "out", "--dtype", "fp32").stdout.strip() == "out"
    assert (tmp_path / "out" / "weights.safetensors").is_file()
    assert "not empty" in one_sentence(here("export", str(tiny_folder), "out"), ENGLISH)
    output = here("export", str(tiny_folder), "other", "--to", "diffusers")
    assert "--to bimo" in one_sentence(output, ENGLISH)
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("words", [(), ("draw",), ("train",), ("data", "artwork"), ("eval",), ("serve",)])
def test_help_is_in_both_languages(words: tuple[str, ...], tmp_path: Path) -> None:
    assert "例子" in bimo(*words, "--help", cwd=tmp_path, locale=CHINESE).stdout
    assert "Examples" in bimo(*words, "--help", cwd=tmp_path).stdout


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("红苹果，3D风格", "红苹果，3D风格"),
        ("a/b\\c", "a b c"),
        ("../../etc/passwd", "etc passwd"),
        ("line\nbreak\x00\x1b[31m", "line break [31m"),
        (".hidden", "hidden"),
        ("-rf", "rf"),
        ("???", "bimo"),
        ("", "bimo"),
    ],
)
def test_names_of_files(text: str, expected: str) -> None:
    assert name_of(text) == expected


def test_long_names_are_cut_by_bytes() -> None:
    for text in ("字" * 300, "😀" * 300, "a" * 500, "a" + "字" * 300):
        name = name_of(text)
        assert 200 < len(name.encode()) <= 245
        assert text.startswith(name)


def test_sizes() -> None:
    assert size_of("512") == (512, 512)
    assert size_of("512x768") == size_of("512×768") == size_of(" 512 * 768 ") == (512, 768)
    for wrong in ("", "x", "512x", "-1", "5.5", "1x2x3"):
        with pytest.raises(RequestError):
            size_of(wrong)


def test_nothing_is_overwritten_unless_named(tmp_path: Path) -> None:
    (tmp_path / "猫.png").write_bytes(b"mine")
    free = OutputPath(tmp_path, "猫")
    assert [free.write(b"1").name, free.write(b"2").name] == ["猫-2.png", "猫-3.png"]
    named = OutputPath(tmp_path / "猫.png", "狗")
    assert [named.write(b"3").name, named.write(b"4").name] == ["猫.png", "猫-4.png"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["猫-2.png", "猫-3.png", "猫-4.png", "猫.png"]


def test_memory_is_checked_before_loading() -> None:
    memory.check((512, 512), free=2_000_000_000)
    with pytest.raises(RequestError) as caught:
        memory.check((4096, 4096), free=2_000_000_000)
    assert "--size 640" in caught.value.en
    assert (memory.available() or 1) > 0
