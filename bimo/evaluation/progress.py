"""Progress bars of an evaluation in the terminal, one for each of its parts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Self

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

#: Called with (title, done, total).
OnProgress = Callable[[str, int, int], None]


class ProgressLines:
    """One progress bar for each title."""

    def __init__(self) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self.progress = Progress(*columns)
        self.tasks: dict[str, TaskID] = {}

    def __enter__(self) -> Self:
        self.progress.start()
        return self

    def __exit__(self, *raised: object) -> None:
        self.progress.stop()

    def update(self, title: str, done: int, total: int) -> None:
        """Sets a bar to ``done`` of ``total``; bars are told apart by the title up to its first comma."""
        name = title.partition(",")[0]
        if name not in self.tasks:
            self.tasks[name] = self.progress.add_task(title, total=total)
        self.progress.update(self.tasks[name], completed=done, total=total, description=title)
