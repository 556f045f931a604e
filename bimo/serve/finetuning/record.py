"""What a server keeps of a fine-tuning: a folder with its record, the photos until it is done, and the run.

The record is a JSON file, written whole at every change, so that a killed server knows after its next start what to go
on with. Progress is read from the files that the run itself writes.
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

#: The folder of all fine-tunings in a server's folder, and the files and folders of one.
FOLDER = "finetuning"
RECORD, PHOTOS, RUN, OUTPUT = "record.json", "photos", "run", "output.txt"
#: The file of a run with the steps of its stages.
PLAN_FILE = "finetune.json"
LORA_FILE = FILES["lora"]
#: What is kept of a run that is done: the result, what it looks like, how it came about.
KEPT = (LORA_FILE, SHEET_FILE, LOG_FILE, PLAN_FILE, "recipe.py")
#: The last lines of what the process printed.
LINES = 12
#: An absolute path: where a server keeps its models is nobody else's.
_PATH = re.compile(r"(?:^|[\s'\"=])(?:/|[A-Za-z]:\\)\w")
#: Steps whose mean duration predicts the remaining time.
RECENT = 20


class State(StrEnum):
    """The state of a fine-tuning."""

    running = "running"
    stopped = "stopped"
    failed = "failed"
    done = "done"


@dataclass(frozen=True)
class Record:
    """A fine-tuning: whose it is, of which model of the server, what it was asked for, how it went. ``name`` is that of
    the LoRA in requests; ``failure`` is the sentence that the process ended with.
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
        """The newest sheet of samples: before and after once it is done, None before there is one."""
        if (self.run / SHEET_FILE).is_file():
            return self.run / SHEET_FILE
        return max((self.run / "sheets").glob("*.png"), default=None)

    def without_paths(self, text: str) -> str:
        """A text in which files of the run are named as they are in its folder."""
        return text.replace(f"{self.folder}{os.sep}", "")

    def write(self) -> Record:
        """Writes the record to its folder."""
        values = {name: value for name, value in asdict(self).items() if name != "folder"}
        write_whole(self.folder / RECORD, json.dumps(values, ensure_ascii=True, indent=1).encode())
        return self

    def changed(self, **values: Any) -> Record:
        """The record with other values, written."""
        return replace(self, **values).write()

    @classmethod
    def read(cls, folder: Path) -> Record | None:
        """The record in a folder; None if there is none, as in a folder that a killed server had just begun."""
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
    """How far a run is: steps of all its stages together; ``seconds`` are those left, None before the first steps."""

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
    """The lines of what a process printed; of progress bars what was drawn last."""
    if file.is_file():
        for line in file.read_text("utf-8", "replace").split("\n"):
            if text := line.rstrip().rpartition("\r")[2].strip():
                yield text
