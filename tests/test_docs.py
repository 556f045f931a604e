"""The documentation is whole in each language: the same pages of the same shape; what they link to is there."""

import re
import runpy
import signal
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import pytest
import typer

from bimo.cli import main
from bimo.cli.finetune import finetune
from bimo.core.errors import BimoError
from bimo.core.recipe import Stage
from bimo.core.stage_data import Augmentation, CaptionEdits
from bimo.training.objectives.denoise import Denoise

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
PAGES = sorted(path.name for path in (DOCS / "en").glob("*.md"))
EVERY = [f"{language}/{name}" for language in ("en", "zh") for name in PAGES]
CODE = re.compile(r"^```.*?^```$|`[^`\n]*`|\]\([^)\n]*\)", flags=re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\((?!https?:|#)([^)#\s]+)(?:#[^)\s]*)?\)")
#: A file of the package and the names in it that follow the link.
NAMED = re.compile(r"\]\((\.\./\.\./bimo/[^)]+\.py)\)\s*((?:[,、，]?\s?`[A-Za-z_][\w.]*`)+)")


def read(page: str) -> str:
    """The text of a page by its language and name."""
    return (DOCS / page).read_text("utf-8")


def test_both_languages_have_the_same_pages() -> None:
    assert [path.name for path in sorted((DOCS / "zh").glob("*.md"))] == PAGES
    assert not list(DOCS.glob("*.md"))


@pytest.mark.parametrize("name", PAGES)
def test_a_page_has_the_same_shape_in_both_languages(name: str) -> None:
    """Headings by their level, rows of tables, blocks of code, pictures and links, each in its order."""
    shapes = [
        (
            re.findall(r"^#+(?= )", text, flags=re.MULTILINE),
            [row.count(" | ") for row in re.findall(r"^\|.*\|$", text, flags=re.MULTILINE)],
            re.findall(r"^```\w*$", text, flags=re.MULTILINE),
            re.findall(r"!\[[^\]]*\]\(([^)]+)\)", text),
            sorted(set(LINK.findall(text)) - {"../../README.md", "../../README.zh.md"}),
        )
        for text in (read(f"en/{name}"), read(f"zh/{name}"))
    ]
    assert shapes[0] == shapes[1]


@pytest.mark.parametrize("page", EVERY)
def test_a_page_is_in_one_language(page: str) -> None:
    """Names and examples may be in the other; no sentence is."""
    sentence = r"[\u3400-\u9fff，]{9,}[，。；：]" if page.startswith("en/") else r"(?:\b[a-z]{2,}\b +){6}"
    assert not re.findall(sentence, CODE.sub("", read(page)))


@pytest.mark.parametrize("page", EVERY)
def test_what_a_page_links_to_is_there(page: str) -> None:
    links = LINK.findall(read(page))
    assert not [link for link in links if not ((DOCS / page).parent / link).exists()]


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in EVERY if "```python" in read(page)])
def test_the_python_of_a_page_runs(page: str, tmp_path: Path) -> None:
    """As one file: later blocks use what earlier ones import."""
    file = tmp_path / "mine.py"
    file.write_text(
        "\n".join(re.findall(r"^```python\n(.*?)^```", read(page), flags=re.MULTILINE | re.DOTALL)), "utf-8"
    )
    runpy.run_path(str(file))


@pytest.mark.parametrize("page", ["en/architecture.md", "zh/architecture.md"])
def test_functions_that_the_map_names_are_in_their_files(page: str) -> None:
    named = [
        (file, name)
        for file, names in NAMED.findall(read(page))
        for dotted in re.findall(r"`([\w.]+)`", names)
        for name in dotted.split(".")
    ]
    assert len(named) > 30
    missing = [
        (file, name)
        for file, name in named
        if not re.search(rf"\b(?:def|class) {name}\b", ((DOCS / page).parent / file).read_text("utf-8"))
    ]
    assert not missing


@pytest.mark.parametrize("page", ["en/architecture.md", "zh/architecture.md"])
def test_the_map_has_every_room(page: str) -> None:
    rooms = {path.parent.name for path in (ROOT / "bimo").glob("*/__init__.py")}
    assert set(re.findall(r"^\| `bimo/(\w+)` \|", read(page), flags=re.MULTILINE)) == rooms
    picture = (DOCS / "pictures" / "rooms.svg").read_text("utf-8")
    assert set(re.findall(r'text-anchor="middle">(\w+)<', picture)) == rooms


@pytest.mark.parametrize("language", ["en", "zh"])
def test_every_status_that_the_program_ends_with_is_told(language: str) -> None:
    statuses = {error.exit_status for error in (BimoError, *BimoError.__subclasses__())}
    statuses |= {0, main.INTERRUPTED, main.BROKEN_PIPE, main.BUG, main.NO_MEMORY, main.USAGE, main.SYSTEM}
    told = set(map(int, re.findall(r"^\| (\d+) \|", read(f"{language}/index.md"), flags=re.MULTILINE)))
    assert told == statuses | {128 + signal.SIGTERM}


@pytest.mark.parametrize("language", ["en", "zh"])
def test_options_beside_those_of_other_programs_are_finetunes_own(language: str) -> None:
    command = typer.main.get_command(_alone(finetune))
    options = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
    rows = read(f"{language}/finetune.md").partition("kohya-ss sd-scripts |")[2].partition("\n\n")[0].splitlines()[2:]
    here = [row.split("|")[1] for row in rows]
    named = [name for cell in here for name in re.findall(r"`(--[a-z-]+|-m)\b", cell)]
    assert len(named) > 15
    assert not [name for name in named if name not in options]
    values = [name for cell in here if "recipe.py" in cell for name in re.findall(r"`(\w+)`", cell)]
    assert values
    parts = (Stage, Denoise, CaptionEdits, Augmentation)
    known = {part.__name__ for part in parts} | {field.name for part in parts for field in fields(part)}
    assert not [name for name in values if name not in known]


def _alone(function: Callable[..., None]) -> typer.Typer:
    app = typer.Typer()
    app.command()(function)
    return app
