"""The house rules that a machine can check: names, recipes without logic, docstrings, a light `bimo --help`."""

import ast
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import grimp
import pytest

from tests.support.checkout import ROOT

PACKAGE = ROOT / "bimo"
VAGUE = {"utils", "util", "common", "helpers", "helper", "misc", "legacy", "examples"}
HEAVY = {"torch", "diffusers", "transformers", "tokenizers", "numpy", "PIL", "gradio", "fastapi", "safetensors"}
LOGIC = (
    *(ast.If, ast.IfExp, ast.For, ast.AsyncFor, ast.While, ast.comprehension, ast.Match, ast.Try, ast.With),
    *(ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, ast.ClassDef),
)
# A folder of one person's machine, of any system.
MACHINE_PATH = re.compile(r"(?<![\w.~$}/-])(?:/(?:home|Users|root|work|mnt)/\w|[A-Z]:\\Users)")


def modules() -> list[Path]:
    """Every Python file of the package."""
    return sorted(PACKAGE.rglob("*.py"))


def project_files() -> list[Path]:
    """Every file that is, or would be, in the repository; a copy without git is walked instead."""
    if (ROOT / ".git").exists() and shutil.which("git"):
        listing = ("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard")
        names = subprocess.run(listing, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
        return sorted(ROOT / name for name in names if name and (ROOT / name).is_file())
    hidden = {".venv", ".git", ".ruff_cache", ".pytest_cache", ".hypothesis", ".import_linter_cache", "__pycache__"}
    return sorted(p for p in ROOT.rglob("*") if p.is_file() and not hidden & set(p.relative_to(ROOT).parts))


def vague_names() -> Iterator[str]:
    """Files and folders whose name says nothing about what is inside."""
    for path in project_files():
        inside = path.relative_to(ROOT)
        vague = VAGUE & {*inside.parts[:-1], inside.stem}
        if vague:
            yield f"{inside}: {', '.join(sorted(vague))} says nothing about what is inside; name it after that"


def recipe_logic() -> Iterator[str]:
    """Statements in recipes that are more than values."""
    for path in sorted((PACKAGE / "recipes").glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, LOGIC):
                line = getattr(node, "lineno", getattr(getattr(node, "target", None), "lineno", "?"))
                yield f"{path.relative_to(ROOT)}:{line} has a {type(node).__name__}; a recipe holds values only"


def without_docstring() -> Iterator[str]:
    """Public modules that do not say what they are."""
    for path in modules():
        public = path.name == "__init__.py" or not path.name.startswith("_")
        if public and not ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))):
            yield f"{path.relative_to(ROOT)} has no docstring; its first sentence says what it is"


def machine_paths() -> Iterator[str]:
    """Places of one person's machine written into a file."""
    for path in project_files():
        data = path.read_bytes()
        if b"\0" in data[:8192]:
            continue
        for number, line in enumerate(data.decode("utf-8", errors="replace").splitlines(), 1):
            if found := MACHINE_PATH.search(line):
                yield f"{path.relative_to(ROOT)}:{number} names a folder of one machine: {found[0]}..."


def imported_by(code: str) -> set[str]:
    """The top-level modules that a new Python imports while it runs some code."""
    command = (sys.executable, "-X", "importtime", "-c", code)
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    rows = re.findall(r"^import time:\s+\d+ \|\s+\d+ \|\s+([\w.]+)$", done.stderr, flags=re.MULTILINE)
    return {name.partition(".")[0] for name in rows}


def test_names_say_what_is_inside() -> None:
    assert not list(vague_names())


def test_recipes_hold_values_only() -> None:
    assert not list(recipe_logic())


def test_every_public_module_says_what_it_is() -> None:
    assert not list(without_docstring())


def test_no_machine_paths() -> None:
    assert not list(machine_paths())


def test_machine_path_pattern_finds_and_spares() -> None:
    home = "/" + "home/someone/bimo"
    assert MACHINE_PATH.search(f"open('{home}')")
    assert not MACHINE_PATH.search("/usr/bin/chromium, docs" + home + " and ~" + home)


def test_files_read_from_the_package_are_there() -> None:
    wanted = re.compile(r'resources\.files\("([\w.]+)"\)(?:\.joinpath\("([\w.-]+)"\))?')
    found = [(path, *one) for path in modules() for one in wanted.findall(path.read_text(encoding="utf-8"))]
    assert found
    for path, package, name in found:
        assert (ROOT / package.replace(".", "/") / name).exists(), f"{path.relative_to(ROOT)}: {package} {name}"


def test_no_module_imports_itself_by_way_of_others() -> None:
    """Inside rooms too; the direction between rooms is a contract of import-linter. An import for types alone is none
    when the program runs.
    """
    graph = grimp.build_graph("bimo", cache_dir=None, exclude_type_checking_imports=True)
    TopologicalSorter({name: graph.find_modules_directly_imported_by(name) for name in graph.modules}).prepare()


def test_importing_bimo_is_light() -> None:
    assert not imported_by("import bimo") & HEAVY


def test_importing_the_command_line_is_light() -> None:
    seen = imported_by("import bimo.cli.main")
    assert "bimo" in seen
    assert not seen & HEAVY


def test_help_is_light() -> None:
    seen = imported_by("import sys; sys.argv = ['bimo', '--help']; from bimo.cli.main import main; main()")
    assert "bimo" in seen
    assert not seen & HEAVY


@pytest.mark.slow
def test_drawing_with_the_bundle_needs_torch_alone() -> None:
    code = "import sys, tempfile; from bimo.cli.main import run; out = tempfile.mkdtemp(); "
    code += "sys.exit(run(['draw', 'apple', '--steps', '1', '--size', '64', '-o', out]))"
    seen = imported_by(code)
    assert {"torch", "tokenizers", "PIL"} <= seen
    # sympy stands for torch's compiler, which begins by importing it.
    assert not seen & {"diffusers", "transformers", "huggingface_hub", "sympy", "scipy", "pandas"}
