"""What a newcomer types first: the version, the list of systems, completion; light, and as wide as the terminal."""

import json
import os
import re
import subprocess
import sys
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import bimo
from bimo.cli import main
from bimo.hub import download, model_info, registry
from tests.support.checkout import ROOT

HEAVY = {"torch", "numpy", "diffusers", "transformers", "huggingface_hub", "PIL"}


@pytest.fixture
def here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Runs the command line in this process, with an empty cache of the hub."""
    monkeypatch.setenv("LANG", "C")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    for name in ("LC_ALL", "LC_MESSAGES", "BIMO_LANGUAGE"):
        monkeypatch.delenv(name, raising=False)

    def run(*words: str, columns: int | None = None) -> tuple[int, str, str]:
        if columns is None:
            monkeypatch.delenv("COLUMNS", raising=False)
        else:
            monkeypatch.setenv("COLUMNS", str(columns))
        return (main.run(list(words)), *capfd.readouterr())

    return run


def test_the_index_is_that_of_the_recipes() -> None:
    assert registry.INDEX.read_text("utf-8") == registry.index(), "recipes were changed: run `make index`"
    listed = {name: model_info.brief(recipe) for name, recipe in registry.listed().items()}
    assert listed == {name: model_info.brief(recipe) for name, recipe in registry.recipes().items()}
    assert list(listed) == sorted(listed)


@pytest.mark.parametrize(
    ("words", "settings"),
    [
        (["list"], {}),
        (["list", "--json"], {}),
        (["--version"], {}),
        ([], {"_BIMO_COMPLETE": "complete_bash", "COMP_WORDS": "bimo show xi", "COMP_CWORD": "2"}),
        (["--show-completion", "bash"], {"_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}),
    ],
)
def test_nothing_heavy_is_imported(words: list[str], settings: dict[str, str], tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "HF_HOME": str(tmp_path)} | settings
    command = [sys.executable, "-X", "importtime", "-m", "bimo", *words]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=90, check=False)
    assert done.returncode == 0, done.stderr[-500:]
    assert done.stdout
    seen = set(re.findall(r"\|\s+([\w.]+)$", done.stderr, flags=re.MULTILINE))
    assert not {name.partition(".")[0] for name in seen} & HEAVY
    assert not {name for name in seen if name.startswith("bimo.recipes")}


def width(line: str) -> int:
    return sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in line)


@pytest.mark.parametrize("language", ["zh", "en"])
@pytest.mark.parametrize("columns", [80, 100, 200])
def test_the_list_fits_and_splits_no_name(columns: int, language: str, here: Callable[..., Any]) -> None:
    status, out, _ = here("list", "--language", language, columns=columns)
    lines = out.splitlines()
    assert status == 0
    assert max(map(width, lines)) <= columns
    begun = {line.split()[0] for line in lines if not line.startswith(" ")}
    assert begun >= set(registry.recipes())


@pytest.mark.parametrize(
    ("words", "some", "none"),
    [
        (("太乙",), "taiyi-sd-zh", "kolors"),
        (("TAIYI", "en"), "taiyi-sd-en", "kolors"),
        (("--reads", "en"), "kolors", "taiyi-sd-zh"),
        (("--reads", "ja"), "altdiffusion-m9", "kolors"),
        (("--source", "reconstruction"), "danqing", "kolors"),
        (("--source", "own"), "xiaomo", "kolors"),
        (("--here",), "xiaomo", "kolors"),
        (("sd", "--reads", "zh", "--source", "weights"), "taiyi-sd-zh", "taiji-sd"),
    ],
)
def test_list_filters_by_its_options(words: tuple[str, ...], some: str, none: str, here: Callable[..., Any]) -> None:
    names = {row["name"] for row in json.loads(here("list", *words, "--json")[1])}
    assert some in names
    assert none not in names


def test_an_unknown_name_without_a_near_match_is_one_sentence(here: Callable[..., Any]) -> None:
    status, out, err = here("list", "nothing-like-it")
    assert (status, out) == (2, "")
    assert "bimo list" in err


def test_what_is_here_is_listed(here: Callable[..., Any], tmp_path: Path) -> None:
    cache = tmp_path / "models--Kwai-Kolors--Kolors-diffusers"
    snapshot = cache / "snapshots" / "0"
    snapshot.mkdir(parents=True)
    (snapshot / "model_index.json").write_text("{}")
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text("0")
    assert [row["name"] for row in json.loads(here("list", "--here", "--json")[1])] == ["kolors", "xiaomo", "xiaomo-2"]


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"HF_HOME": "/elsewhere/home"},
        {"XDG_CACHE_HOME": "/elsewhere/cache"},
        {"HF_HUB_CACHE": "~/hub", "HF_HOME": "/elsewhere/home"},
        {"HUGGINGFACE_HUB_CACHE": "$HOME/x"},
    ],
)
def test_the_cache_is_where_the_library_looks(settings: dict[str, str]) -> None:
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGINGFACE_", "XDG_"))}
    code = "from bimo.hub.download import hub_cache; first = hub_cache(); from huggingface_hub import constants; "
    code += "print(first); print(constants.HF_HUB_CACHE)"
    environment = clean | {"PYTHONPATH": str(ROOT)} | settings
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    ours, theirs = done.stdout.split()
    assert ours == theirs
    assert download.hub_cache().is_absolute()


def test_the_version(here: Callable[..., Any]) -> None:
    assert here("--version")[:2] == (0, f"bimo {bimo.__version__}\n")


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("bimo dr", {"draw"}),
        ("bimo draw --see", {"--seed"}),
        ("bimo show taiyi-sd-e", {"taiyi-sd-en"}),
        ("bimo draw 猫 -m xia", {"xiaomo", "xiaomo-2"}),
    ],
)
def test_completion_offers(
    typed: str, offered: set[str], here: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("_BIMO_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", typed)
    monkeypatch.setenv("COMP_CWORD", str(len(typed.split()) - 1))
    status, out, _ = here()
    assert status == 0
    assert set(out.split()) == offered


@pytest.mark.parametrize(
    "place", [("--language", "zh", "list"), ("list", "--language=zh"), ("list", "--language", "zh")]
)
def test_the_language_is_chosen_anywhere(place: tuple[str, ...], here: Callable[..., Any]) -> None:
    assert "自带" in here(*place)[1]
    assert "bundled" in here("list")[1]
    assert "BIMO_LANGUAGE" not in os.environ


def test_an_unknown_language_is_a_sentence(here: Callable[..., Any]) -> None:
    status, _, err = here("list", "--language", "fr")
    assert status == 2
    assert "zh, en" in err
    assert "Value error" not in err


def test_styles_are_listed_and_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from PIL import Image

    from bimo.prompts.styles import STYLES

    sheet = tmp_path / "styles.png"
    assert main.run(["list", "--styles", "--sheet", str(sheet), "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in rows] == list(STYLES)
    assert {
        "name": "ink",
        "zh": "水墨",
        "en": "Ink wash",
        "adds_zh": "水墨画",
        "adds_en": "chinese ink painting",
    } in rows
    with Image.open(sheet) as image:
        colours = image.convert("RGB").resize((60, 40)).getcolors(maxcolors=60 * 40)
        assert colours is not None
        assert len(colours) > 100
    assert main.run(["list", "--styles", "taiyi"]) == 2
    assert main.run(["list", "--sheet", str(sheet)]) == 2
    assert main.run(["list", "--styles", "--sheet", str(tmp_path / "a.jpg")]) == 2
