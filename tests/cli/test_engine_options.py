"""The options by which a model is loaded: the same for every command that draws, and handed on as they are given."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import typer

from bimo.cli import chat, draw, evaluate, main, serve
from bimo.cli.engine_options import OPTIONS
from bimo.core.errors import RequestError
from bimo.hub import loading
from bimo.hub.options import LoadOptions

GIVEN = (
    *("--device", "cpu", "--dtype", "bf16", "--memory", "3GB", "--offload", "parts", "--quantise", "int8"),
    *("--tiles", "--compile", "--graphs", "--engine", "torch-bf16", "--denoiser", "x.gguf"),
    *("--text-encoder", "y.gguf"),
)
EXPECTED = LoadOptions(
    "cpu",
    "bf16",
    "3GB",
    "parts",
    "int8",
    True,
    True,
    True,
    engine="torch-bf16",
    denoiser=Path("x.gguf"),
    text_encoder=Path("y.gguf"),
)


def test_the_table_has_every_field() -> None:
    assert [*OPTIONS] == [field.name for field in dataclasses.fields(LoadOptions)]


@pytest.mark.parametrize("command", [draw.draw, chat.chat, serve.serve, evaluate.evaluate])
def test_every_command_that_draws_has_them_all(command: Any) -> None:
    app = typer.Typer()
    app.command()(command)
    options = {option for parameter in typer.main.get_command(app).params for option in parameter.opts}
    assert {option for option, _ in OPTIONS.values()} <= options


@pytest.mark.parametrize("words", [("draw", "a"), ("chat", "-m", "xiaomo"), ("eval", "xiaomo", "--out", "out")])
def test_options_reach_the_loader(
    words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: dict[str, Any] = {}

    def load_with(name: str, adapters: Any, **given: Any) -> None:
        seen.update(given)
        raise RequestError("seen")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(loading, "load_with", load_with)
    assert main.run([*words, *GIVEN]) == RequestError("").exit_status
    assert "seen" in capsys.readouterr().err
    expected = EXPECTED.arguments()
    assert {name: seen[name] for name in expected} == expected
    assert expected["keeping"].flags == "--dtype bf16 --offload parts --quantise int8 --tiles"


def test_the_server_loads_with_the_same_options(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from bimo.serve import pool, run
    from bimo.serve.settings import ServeSettings

    seen: dict[str, Any] = {}

    def load_with(name: str, adapters: Any, **given: Any) -> None:
        seen.update(given)
        raise RequestError("seen")

    monkeypatch.setattr(pool, "load_with", load_with)
    with pytest.raises(RequestError, match="seen"):
        run.make_service(ServeSettings(("xiaomo",), tmp_path, load_options=EXPECTED))
    assert seen == EXPECTED.arguments()


def test_one_denoiser_is_of_one_model(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["serve", "-m", "a", "-m", "b", "--denoiser", "x.gguf"]) > 0
    assert "--denoiser" in capsys.readouterr().err
