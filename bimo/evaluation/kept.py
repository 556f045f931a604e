"""What costs much to find out, kept line by line (JSON) as soon as it is known: a killed run asks none again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


class Kept:
    """Values by key in a file of JSON lines; a line that was cut off is left out."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.known: dict[str, Any] = {}
        cut = False
        if path.is_file():
            text = path.read_text("utf-8", errors="replace")
            cut = bool(text) and not text.endswith("\n")
            for line in text.splitlines():
                try:
                    row = json.loads(line)
                    self.known[row["key"]] = row["value"]
                except (ValueError, KeyError, TypeError):
                    continue
        if cut:
            # What comes next begins a line of its own.
            with path.open("a", encoding="utf-8") as file:
                file.write("\n")

    def keep(self, key: str, value: Any) -> None:
        """Writes a value."""
        self.known[key] = value
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"key": key, "value": value}, ensure_ascii=False) + "\n")
