"""docs/systems.md has one row a recipe, says its source as the recipe does, and cites tests that exist."""

import re
from pathlib import Path

from bimo.hub.model_info import SOURCES
from bimo.hub.registry import recipes

PAGE = Path(__file__).resolve().parent.parent / "docs" / "systems.md"
ROW = re.compile(r"^\| ([\w.-]+) \| (.*?) \| (.*?) \|", flags=re.MULTILINE)
LINK = re.compile(r"\]\(([^)]+)\)")


def test_one_row_a_recipe() -> None:
    wanted = [(r.name, r.title, f"{SOURCES[r.source]} {r.source}") for r in recipes().values()]
    assert ROW.findall(PAGE.read_text("utf-8").partition("## 陷阱 Traps")[0]) == wanted


def test_what_is_cited_is_there() -> None:
    links = set(LINK.findall(PAGE.read_text("utf-8")))
    assert len(links) > 10
    assert not [link for link in links if not (PAGE.parent / link).is_file()]


def test_what_draws_as_a_pipeline_cites_a_test_of_parity() -> None:
    rows = [line for line in PAGE.read_text("utf-8").splitlines() if line.startswith("|") and "流水线" in line]
    assert len(rows) > 10
    assert all("](../tests/parity/" in row for row in rows)


def test_every_trap_has_its_test() -> None:
    section = PAGE.read_text("utf-8").partition("## 陷阱 Traps")[2]
    cited = re.findall(r"\| \[(test_\w+)\]\(([^)]+)\) \|$", section, flags=re.MULTILINE)
    assert len(cited) == len(re.findall(r"^\| \d+ \|", section, flags=re.MULTILINE)) >= 34
    assert not [name for name, link in cited if f"def {name}(" not in (PAGE.parent / link).read_text("utf-8")]


def test_recipes_in_the_readme_are_as_they_are() -> None:
    """Each definition in README's excerpt of recipes stands in the file that it names."""
    readme = (PAGE.parent.parent / "README.md").read_text("utf-8")
    excerpt = readme.partition("## A system is a recipe")[2].partition("```python\n")[2].partition("```")[0]
    files = [f.read_text("utf-8") for f in (PAGE.parent.parent / "bimo" / "recipes").glob("*.py")]
    pieces = [piece.strip() for piece in re.split(r"\n\n(?=\w)", excerpt)]
    assert len(pieces) == 2
    assert all(any(piece in file for file in files) for piece in pieces)


def test_both_readmes_have_the_same_sections() -> None:
    readmes = [(PAGE.parent.parent / name).read_text("utf-8") for name in ("README.md", "README.zh.md")]
    shapes = [[line.count("#") for line in text.splitlines() if line.startswith("## ")] for text in readmes]
    assert shapes[0] == shapes[1]
