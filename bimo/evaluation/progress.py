"""How far an evaluation has come, one line in the terminal for each part of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Self

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

#: Called with a title, how many are done, and of how many.
OnProgress = Callable[[str, int, int], None]


class ProgressLines:
    """One line of progress for each title."""

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
        """``done`` of ``total``; what follows a comma in the title may change."""
        name = title.partition(",")[0]
        if name not in self.tasks:
            self.tasks[name] = self.progress.add_task(title, total=total)
        self.progress.update(self.tasks[name], completed=done, total=total, description=title)
