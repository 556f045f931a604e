"""Reads the tables that lie beside the modules: TSV with a header, lines that begin with # are comments."""

from __future__ import annotations

import csv
from importlib import resources


def read_table(package: str, name: str) -> list[dict[str, str]]:
    """The rows of a table of ``bimo.xiaomo.<package>``, each by the names of its columns."""
    text = resources.files(f"bimo.xiaomo.{package}" if package else "bimo.xiaomo").joinpath(name).read_text("utf-8")
    lines = [line for line in text.split("\n") if line and not line.startswith("#")]
    return list(csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE))
