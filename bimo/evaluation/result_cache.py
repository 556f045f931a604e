"""A cache of expensive results in a file of JSON lines, written one by one, so that a killed run can be resumed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


class ResultCache:
    """Values by key in a file of JSON lines; truncated lines are ignored."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.values: dict[str, Any] = {}
        truncated = False
        if path.is_file():
            text = path.read_text("utf-8", errors="replace")
            truncated = bool(text) and not text.endswith("\n")
            for line in text.splitlines():
                try:
                    row = json.loads(line)
                    self.values[row["key"]] = row["value"]
                except (ValueError, KeyError, TypeError):
                    continue
        if truncated:
            # The next row must start on a new line.
            with path.open("a", encoding="utf-8") as file:
                file.write("\n")

    def store(self, key: str, value: Any) -> None:
        """Appends a value to the file."""
        self.values[key] = value
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"key": key, "value": value}, ensure_ascii=False) + "\n")
