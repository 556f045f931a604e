"""docs/systems.md has one row a recipe, says its source as the recipe does, and cites tests that exist."""

import re
from pathlib import Path

from bimo.apps.facts import SOURCES
from bimo.apps.models import recipes

PAGE = Path(__file__).resolve().parent.parent / "docs" / "systems.md"
ROW = re.compile(r"^\| ([\w.-]+) \| (.*?) \| (.*?) \|", flags=re.MULTILINE)
LINK = re.compile(r"\]\(([^)]+)\)")


def test_one_row_a_recipe() -> None:
    wanted = [(r.name, r.title, f"{SOURCES[r.source]} {r.source}") for r in recipes().values()]
    assert ROW.findall(PAGE.read_text("utf-8")) == wanted


def test_what_is_cited_is_there() -> None:
    links = set(LINK.findall(PAGE.read_text("utf-8")))
    assert len(links) > 10
    assert not [link for link in links if not (PAGE.parent / link).is_file()]


def test_what_draws_as_a_pipeline_cites_a_test_of_parity() -> None:
    rows = [line for line in PAGE.read_text("utf-8").splitlines() if line.startswith("|") and "流水线" in line]
    assert len(rows) > 10
    assert all("](../tests/parity/" in row for row in rows)
