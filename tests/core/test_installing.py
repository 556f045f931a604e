"""The command that installs an extra can be typed as it is, in a checkout and without one."""

from __future__ import annotations

import importlib.metadata
import shlex
import sys
from pathlib import Path

import pytest

from bimo.core import installing as module
from bimo.core.installing import installed_version, installing


def test_a_checkout_installs_itself_with_its_constraints() -> None:
    words = shlex.split(installing("c2pa"))
    assert words[:4] == [sys.executable, "-m", "pip", "install"]
    assert words[4:] == ["-e", f"{module.CHECKOUT}[c2pa]", "-c", str(module.CHECKOUT / "constraints.txt")]
    assert Path(words[7]).is_file()


def test_paths_with_blanks_are_quoted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkout = tmp_path / "my code"
    checkout.mkdir()
    (checkout / "pyproject.toml").touch()
    monkeypatch.setattr(module, "CHECKOUT", checkout)
    assert f"{checkout}[eval]" in shlex.split(installing("eval"))


def test_without_a_checkout_the_libraries_of_the_extra_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    requires = [
        "torch>=2.6",
        "c2pa-python>=0.10 ; extra == 'c2pa'",
        'cryptography ; extra == "c2pa"',
        "ray[train] ; extra == 'ray'",
    ]
    monkeypatch.setattr(module, "CHECKOUT", tmp_path)
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: requires)  # pyright: ignore[reportUnknownLambdaType]
    assert shlex.split(installing("c2pa"))[4:] == ["c2pa-python>=0.10", "cryptography"]
    assert shlex.split(installing("ray"))[4:] == ["ray[train]"]


def test_the_version_is_that_of_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    assert installed_version() == importlib.metadata.version("bimo")

    def absent(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", absent)
    assert installed_version() == "0+not.installed"
