"""Progress of an evaluation: bars on a terminal, one for each of its parts, else a line now and then.

Both go to standard error, as standard output is what was asked for.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

#: Called with (title, done, total).
OnProgress = Callable[[str, int, int], None]
#: Seconds between two lines of a part where there is no terminal.
INTERVAL = 60.0


class ProgressLines:
    """One progress bar for each title; without a terminal a line a minute, and one at the end of each part."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.console, self.clock = Console(stderr=True), clock
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self.progress = Progress(*columns, console=self.console)
        self.tasks: dict[str, TaskID] = {}
        self.said: dict[str, float] = {}

    def __enter__(self) -> Self:
        if self.console.is_terminal:
            self.progress.start()
        return self

    def __exit__(self, *raised: object) -> None:
        if self.console.is_terminal:
            self.progress.stop()

    def update(self, title: str, done: int, total: int) -> None:
        """Sets a part to ``done`` of ``total``; parts are told apart by the title up to its first comma."""
        name = title.partition(",")[0]
        if not self.console.is_terminal:
            now = self.clock()
            if done >= total or now - self.said.setdefault(name, now) >= INTERVAL:
                self.said[name] = now
                self.console.print(f"{title}: {done} / {total}", markup=False, highlight=False, soft_wrap=True)
            return
        if name not in self.tasks:
            self.tasks[name] = self.progress.add_task(title, total=total)
        self.progress.update(self.tasks[name], completed=done, total=total, description=title)
