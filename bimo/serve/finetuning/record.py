"""The record of a fine-tuning run on a server: a folder with a JSON file, the photos until it is done, and the run.

The JSON file is replaced atomically at every change, so that a killed server can resume after a restart. Progress is
read from the files that the run itself writes.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Any, cast

from bimo.core.files import write_whole
from bimo.training.finetune.result import FILES, SHEET_FILE
from bimo.training.logging import LOG_FILE, rows_of

#: The folder of all runs within the server's folder, and the files and folders of a run.
FOLDER = "finetuning"
RECORD, PHOTOS, RUN, OUTPUT = "record.json", "photos", "run", "output.txt"
#: The file of a run with the steps of its stages.
PLAN_FILE = "finetune.json"
LORA_FILE = FILES["lora"]
#: The files that are kept of a finished run.
KEPT = (LORA_FILE, SHEET_FILE, LOG_FILE, PLAN_FILE, "recipe.py")
#: The number of last lines of the process's output that are shown.
LINES = 12
#: An absolute path; lines with one are not shown, as paths of the server are private.
_PATH = re.compile(r"(?:^|[\s'\"=])(?:/|[A-Za-z]:\\)\w")
#: The number of recent steps whose mean duration predicts the remaining time.
RECENT = 20


class State(StrEnum):
    """The state of a fine-tuning."""

    running = "running"
    stopped = "stopped"
    failed = "failed"
    done = "done"


@dataclass(frozen=True)
class Record:
    """A fine-tuning run: its owner, model, request and state. ``name`` is that of the LoRA in requests; ``failure`` is
    the error message of the process.
    """

    id: str
    key: str
    name: str
    model: str
    photos: int
    word: str = ""
    subject: str = ""
    steps: int = 0
    language: str = "en"
    created: float = 0.0
    state: State = State.running
    ended: float | None = None
    failure: str = ""
    process: int = 0
    folder: Path = field(default=Path(), compare=False)

    @property
    def run(self) -> Path:
        """The folder of its run."""
        return self.folder / RUN

    @property
    def lora(self) -> Path:
        """The file of its LoRA."""
        return self.run / LORA_FILE

    @property
    def sheet(self) -> Path | None:
        """The newest sheet of samples, at the end that of before and after; None if there is none yet."""
        if (self.run / SHEET_FILE).is_file():
            return self.run / SHEET_FILE
        return max((self.run / "sheets").glob("*.png"), default=None)

    def without_paths(self, text: str) -> str:
        """A text with the paths of the run's files made relative to its folder."""
        return text.replace(f"{self.folder}{os.sep}", "")

    def write(self) -> Record:
        """Writes the record to its folder."""
        values = {name: value for name, value in asdict(self).items() if name != "folder"}
        write_whole(self.folder / RECORD, json.dumps(values, ensure_ascii=True, indent=1).encode())
        return self

    def changed(self, **values: Any) -> Record:
        """Updates values of the record and writes it."""
        return replace(self, **values).write()

    @classmethod
    def read(cls, folder: Path) -> Record | None:
        """Reads the record in a folder; None if there is none, as the server was killed before writing it."""
        try:
            values = json.loads((folder / RECORD).read_text("utf-8"))
        except (OSError, ValueError):
            return None
        return cls(**(values | {"state": State(values["state"]), "folder": folder}))


def records(home: Path) -> list[Record]:
    """The records of a server's folder, the newest first."""
    folders = [entry for entry in (home / FOLDER).iterdir() if entry.is_dir()] if (home / FOLDER).is_dir() else []
    valid = [record for folder in folders if (record := Record.read(folder)) is not None]
    return sorted(valid, key=lambda record: record.created, reverse=True)


@dataclass(frozen=True)
class Progress:
    """The progress of a run over all of its stages; ``seconds`` is the remaining time, None before the first steps."""

    done: int = 0
    steps: int = 0
    loss: float | None = None
    seconds: float | None = None
    lines: Sequence[str] = ()


def progress(record: Record) -> Progress:
    """Reads the progress from the files of the run."""
    lines = tuple(line for line in map(record.without_paths, _lines(record.folder / OUTPUT)) if not _PATH.search(line))
    lines = lines[-LINES:]
    stages = _stages(record.run / PLAN_FILE)
    steps, names = sum(stages), list[str]()
    rows = list(rows_of(record.run / LOG_FILE))
    for row in rows:
        if row["stage"] not in names:
            names.append(row["stage"])
    if not rows or not stages:
        return Progress(steps=steps, lines=lines)
    last = rows[-1]
    done = sum(stages[: len(names) - 1]) + int(last["step"])
    recent = [float(row["seconds"]) for row in rows[-RECENT:]]
    return Progress(done, steps, float(last["loss"]), sum(recent) / len(recent) * max(0, steps - done), lines)


def _stages(file: Path) -> list[int]:
    """The steps of each stage; none before the plan is written."""
    try:
        stages = cast("list[dict[str, Any]]", json.loads(file.read_text("utf-8"))["stages"])
        return [int(stage.get("steps", 0)) for stage in stages]
    except (OSError, ValueError, KeyError):
        return []


def _lines(file: Path) -> Iterator[str]:
    """The lines of a process's output; of progress bars the last state."""
    if file.is_file():
        for line in file.read_text("utf-8", "replace").split("\n"):
            if text := line.rstrip().rpartition("\r")[2].strip():
                yield text
