"""docs/*/systems.md have one row a recipe, say its source as the recipe does, and cite tests that exist."""

import re

import pytest

from bimo.hub.model_info import SOURCES
from bimo.hub.registry import recipes
from tests.support.checkout import ROOT

PAGES = {language: ROOT / "docs" / language / "systems.md" for language in ("en", "zh")}
TRAPS = {"en": "## Traps", "zh": "## 陷阱"}
PIPELINE = {"en": "pipeline", "zh": "流水线"}
ROW = re.compile(r"^\| ([\w.-]+) \| (.*?) \| (.*?) \|", flags=re.MULTILINE)

languages = pytest.mark.parametrize("language", list(PAGES))


def systems(language: str) -> str:
    """The part of a page before its traps."""
    return PAGES[language].read_text("utf-8").partition(TRAPS[language])[0]


@languages
def test_one_row_a_recipe(language: str) -> None:
    rows = ROW.findall(systems(language).partition("|---|")[2])
    assert rows == [(r.name, r.title, SOURCES[r.source].said(language)) for r in recipes().values()]


@languages
def test_what_draws_as_a_pipeline_cites_a_test_of_parity(language: str) -> None:
    cells = [row.split(" | ")[3] for row in systems(language).splitlines() if row.count(" | ") == 6]
    drawn = [cell for cell in cells if cell.startswith(PIPELINE[language])]
    assert len(drawn) > 10
    assert all("](../../tests/parity/" in cell for cell in drawn)


@languages
def test_every_trap_has_its_test(language: str) -> None:
    section = PAGES[language].read_text("utf-8").partition(TRAPS[language])[2]
    cited = re.findall(r"\| \[(test_\w+)\]\(([^)]+)\) \|$", section, flags=re.MULTILINE)
    assert len(cited) == len(re.findall(r"^\| \d+ \|", section, flags=re.MULTILINE)) >= 34
    folder = PAGES[language].parent
    assert not [name for name, link in cited if f"def {name}(" not in (folder / link).read_text("utf-8")]


def test_recipes_in_the_readme_are_as_they_are() -> None:
    """Each definition in README's excerpt of recipes stands in the file that it names."""
    readme = (ROOT / "README.md").read_text("utf-8")
    excerpt = readme.partition("## A system is a recipe")[2].partition("```python\n")[2].partition("```")[0]
    files = [f.read_text("utf-8") for f in (ROOT / "bimo" / "recipes").glob("*.py")]
    pieces = [piece.strip() for piece in re.split(r"\n\n(?=\w)", excerpt)]
    assert len(pieces) == 2
    assert all(any(piece in file for file in files) for piece in pieces)


def test_both_readmes_have_the_same_sections() -> None:
    readmes = [(ROOT / name).read_text("utf-8") for name in ("README.md", "README.zh.md")]
    shapes = [[line.count("#") for line in text.splitlines() if line.startswith("## ")] for text in readmes]
    assert shapes[0] == shapes[1]
