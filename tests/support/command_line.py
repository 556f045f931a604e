"""Runs the command line in this process."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from bimo.cli import main

#: (exit status, standard output, standard error) of a command.
Run = Callable[..., tuple[int, str, str]]


def runner(capfd: pytest.CaptureFixture[str]) -> Run:
    """A function that runs a command."""

    def run(*words: str) -> tuple[int, str, str]:
        status = main.run(list(words))
        captured = capfd.readouterr()
        return status, captured.out, captured.err

    return run


def refused(done: tuple[int, str, str], status: int, said: str) -> None:
    """Asserts that a command failed with a status and, as its last line, an error that contains ``said``."""
    assert done[0] == status
    assert "Traceback" not in done[2]
    last = done[2].strip().splitlines()[-1]
    assert last.startswith("bimo: ")
    assert said in last
