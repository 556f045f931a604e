"""The commands of the READMEs do what they say: each block under ``<!-- run -->`` is executed in a new folder.

A block stands alone. ``bimo`` is what the console script runs, in a process forked from one that has imported it; the
script itself is asked for its version. ``make draw`` runs the real Makefile with the
words of the README, but takes the environment as installed (``-o`` of its stamp, ``BIN`` of this Python), because a
test should not build a second environment.
"""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

import bimo
from tests.support.checkout import ROOT
from tests.support.warm import TYPED, answering

pytestmark = pytest.mark.slow

READMES = ("README.md", "README.zh.md")
SECONDS = 600  # for one block, on a busy machine
BIN = Path(sys.executable).parent
BLOCK = re.compile(r"<!--\s*run\s*-->[ \t]*\n\s*```(\w+)[ \t]*\n(.*?)^```", flags=re.MULTILINE | re.DOTALL)
MAKE = """
set -euo pipefail
bimo() { "$BIMO_PYTHON" -I -S -c "$BIMO_TYPED" "$BIMO_ADDRESS" "$@"; }
make() {
    [ "$1" = draw ] || { echo "make $1 is not for a README test" >&2; return 2; }
    command make --no-print-directory -f "$BIMO_ROOT/Makefile" -o .venv/.core BIN="$BIMO_BIN" "$@"
}
"""


class Block(NamedTuple):
    """One fenced block that a README asks to be run."""

    readme: str
    line: int
    language: str
    code: str


def blocks_of(readme: str, text: str) -> list[Block]:
    """The marked blocks of a README's text, in order."""
    return [Block(readme, text.count("\n", 0, m.start()) + 2, m[1], m[2]) for m in BLOCK.finditer(text)]


def read(readme: str) -> list[Block]:
    """The marked blocks of a README; none where it is not there."""
    path = ROOT / readme
    return blocks_of(readme, path.read_text(encoding="utf-8")) if path.exists() else []


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where a shell asks for what ``bimo`` does."""
    address = tmp_path_factory.mktemp("typed") / "socket"
    with answering(address):
        yield address


def run(block: Block, folder: Path, address: Path, seconds: float = SECONDS) -> str:
    """Executes a block in a folder, offline, and gives what it printed. Raises AssertionError where it fails."""
    commands = {
        "bash": ("bash", "-c", MAKE + block.code),
        "python": (sys.executable, "-c", block.code),
    }
    assert block.language in commands, f"{block.readme}:{block.line} marks a {block.language} block to be run"
    environment = os.environ | {
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
        "BIMO_ROOT": str(ROOT),
        "BIMO_BIN": str(BIN),
        "BIMO_PYTHON": sys.executable,
        "BIMO_TYPED": TYPED,
        "BIMO_ADDRESS": str(address),
        "HF_HUB_OFFLINE": "1",
        "LC_ALL": "C.UTF-8",
    }
    for name in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL", "PROMPT", "MODEL", "ARGS", "BIN"):
        environment.pop(name, None)
    done = subprocess.run(
        commands[block.language],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
        timeout=seconds,
        check=False,
    )
    where = f"{block.readme}:{block.line} ended with {done.returncode}"
    assert done.returncode == 0, f"{where}\n{block.code}\n{done.stdout[-4000:]}"
    return done.stdout


@pytest.mark.parametrize("readme", READMES)
def test_readme_has_something_to_run(readme: str) -> None:
    assert read(readme), f"{readme} is missing, or marks no block with <!-- run -->"


@pytest.mark.parametrize(
    "block", [block for readme in READMES for block in read(readme)], ids=lambda b: f"{b.readme}:{b.line}"
)
def test_block(block: Block, address: Path, tmp_path: Path) -> None:
    run(block, tmp_path, address)


def test_the_console_script_is_that_of_this_package() -> None:
    assert (BIN / "bimo").exists(), f"there is no console script in {BIN}; `make test` installs it"
    done = subprocess.run([BIN / "bimo", "--version"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split()[-1] == bimo.__version__


def test_finds_marked_blocks_only() -> None:
    text = "# a\n```bash\nno\n```\n<!-- run -->\n```bash\nyes 1\n```\n\n<!--run-->\n\n```python\nyes = 2\n```\n"
    found = [(b.line, b.language, b.code) for b in blocks_of("a", text)]
    assert found == [(6, "bash", "yes 1\n"), (11, "python", "yes = 2\n")]


@pytest.mark.parametrize("line", ["false", "bimo draw -n 0 红苹果 2>/dev/null"])
def test_a_failing_line_fails_the_block(line: str, address: Path, tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="ended with"):
        run(Block("a", 1, "bash", f"{line}\ntrue\n"), tmp_path, address)


@pytest.mark.parametrize(
    "prompt",
    ["红苹果，3D风格", 'he said "hi", 红', "it's $HOME $(date) `date` #1", "a\\b; c & d", "-3 degrees", "100%*?"],
)
def test_make_draw_hands_over_the_prompt_as_written(prompt: str, tmp_path: Path) -> None:
    bimo = tmp_path / "bimo"
    bimo.write_text("#!/bin/sh\nprintf '%s\\n' \"$@\"\n", encoding="utf-8")
    bimo.chmod(0o755)
    command = ["make", "--no-print-directory", "-f", str(ROOT / "Makefile"), "-o", ".venv/.core", f"BIN={tmp_path}"]
    words = ["draw", f"PROMPT={prompt}", "MODEL=taiyi sd", "ARGS=--seed 1"]
    clean = {k: v for k, v in os.environ.items() if k not in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL")}
    done = subprocess.run(command + words, cwd=tmp_path, env=clean, capture_output=True, text=True, check=False)
    assert done.stdout.splitlines() == ["draw", "-o", "outputs", "-m", "taiyi sd", "--seed", "1", "--", prompt], (
        done.stderr
    )
