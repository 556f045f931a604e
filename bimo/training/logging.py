"""The log of a run: one line for each step in log.jsonl, a progress bar, learning curves."""

from __future__ import annotations

import io
import json
import math
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import numpy as np
import torch
from PIL import Image, ImageDraw
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn, track
from rich.progress import Progress as Bar
from rich.table import Table
from torch import nn

from bimo.core.errors import TrainingError
from bimo.core.files import write_whole
from bimo.core.messages import Message, say
from bimo.core.part import dump
from bimo.core.recipe import Stage
from bimo.data.sheets import chinese_font
from bimo.training.trackers import WITH_PICTURES, opened

LOG_FILE = "log.jsonl"
SMOOTHING = 0.98
PANEL = (420, 250)
MARGIN = (56, 30, 14, 30)
CURVE_SMOOTHING = 0.97
#: How long steps wait to be written, so that whoever watches the file sees them.
FLUSH_SECONDS = 2.0
#: How long nothing is said where no bar can be seen.
LINE_SECONDS = 30.0
RED, BLUE = (190, 40, 40), (40, 90, 190)

T = TypeVar("T")


def save_whole(value: object, path: Path) -> None:
    """Saves with ``torch.save`` atomically: an existing file stays until the new one is complete.

    Raises TrainingError if the disk is full or not writable.
    """
    part = path.with_name(f"{path.name}.part")
    try:
        torch.save(value, part)
        part.replace(path)
    except (OSError, RuntimeError) as error:  # torch's own writer raises RuntimeError on a full disk
        part.unlink(missing_ok=True)
        raise _unwritten(path, error) from None


def _unwritten(path: Path, error: Exception) -> TrainingError:
    free = shutil.disk_usage(path.parent).free / 2**20
    # The messages of torch's writer say nothing about the disk.
    near = "" if not isinstance(error, OSError) else Message(": {strerror}", strerror=error.strerror)
    return TrainingError(
        "cannot write {path} ({free:.1f} MB are free on its disk){near}; what was saved before is still "
        "there, make room and go on with the same command",
        path=path,
        free=free,
        near=near,
    )


class Journal:
    """RUN/log.jsonl: stage, step, samples, loss, lr, seconds, and valid if it was validated. Written in bursts of whole
    lines, and to the trackers of a stage. Without ``writes`` it ignores everything.
    """

    def __init__(self, out: Path, writes: bool = True) -> None:
        self.path = out / LOG_FILE
        self.lines: list[str] = []
        self.writes = writes
        #: The last logged step of the current stage, and its samples: the batch size may have changed.
        self.done: tuple[str, int, int] = ("", 0, 0)
        self.trackers: dict[str, Any] = {}

    def track(self, stage: Stage) -> None:
        """Opens the trackers of a stage."""
        for name in stage.trackers if self.writes else ():
            if name not in self.trackers:
                self.trackers[name] = opened(name, self.path.parent, dump(stage))
        for name in [name for name in self.trackers if name not in stage.trackers]:
            self.trackers.pop(name).finish()

    def close(self) -> None:
        """Ends the trackers."""
        for name in list(self.trackers):
            self.trackers.pop(name).finish()

    def add(self, stage: Stage, step: int, loss: float, lr: float, seconds: float, valid: float | None = None) -> None:
        """Logs one step."""
        if not self.writes:
            return
        row = {
            "stage": stage.name,
            "step": step,
            "samples": self._samples(stage, step),
            "loss": round(loss, 6),
        }
        row |= {"lr": lr, "seconds": round(seconds, 4)}
        row |= {} if valid is None else {"valid": round(valid, 6)}
        self.lines.append(json.dumps(row, ensure_ascii=False))
        values = {f"{stage.name}/{name}": row[name] for name in ("loss", "lr", "valid") if name in row}
        for tracker in self.trackers.values():
            tracker.log(values, step=row["samples"])

    def show(self, stage: Stage, step: int, sheet: Path) -> None:
        """Sends pictures of the fixed prompts to the trackers that accept them; the run page reads the files."""
        shown = [tracker for name, tracker in self.trackers.items() if name in WITH_PICTURES]
        if shown:
            with Image.open(sheet) as image:
                pixels = np.asarray(image.convert("RGB"))
            for tracker in shown:
                own = {"dataformats": "NHWC"} if tracker.name == "tensorboard" else {}
                tracker.log_images({f"{stage.name}/prompts": pixels[None]}, step=self._samples(stage, step), **own)

    def flush(self) -> None:
        """Appends all pending lines. Raises TrainingError if the disk is full; no partial line is left."""
        if not self.lines:
            return
        before = self.path.stat().st_size if self.path.is_file() else 0
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write("\n".join(self.lines) + "\n")
        except OSError as error:
            if self.path.is_file():
                os.truncate(self.path, before)
            raise _unwritten(self.path, error) from None
        self.lines = []

    def best(self, stage: int) -> float:
        """The lowest validation loss of a stage by its number; infinite if there is none."""
        values = [row["valid"] for number, row in self._rows() if number == stage and "valid" in row]
        return min(values, default=math.inf)

    def cut(self, stages_done: int, step: int) -> None:
        """Removes steps after the state from which a run resumes: they will be repeated."""
        if not self.path.is_file():
            return
        rows = [row for at, row in self._rows() if at < stages_done or (at == stages_done and row["step"] <= step)]
        lines = "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows)
        write_whole(self.path, lines.encode())
        if rows:
            self.done = (rows[-1]["stage"], rows[-1]["step"], rows[-1]["samples"])

    def _samples(self, stage: Stage, step: int) -> int:
        name, before, samples = self.done
        if name != stage.name or step < before:
            return step * rows_a_step(stage)
        return samples + (step - before) * rows_a_step(stage)

    def _rows(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """(stage number, row) of every line but an incomplete last one."""
        names: list[str] = []
        for row in rows_of(self.path):
            if row["stage"] not in names:
                names.append(row["stage"])
            yield len(names) - 1, row


def rows_a_step(stage: Stage) -> int:
    """The number of samples in an optimiser step."""
    return stage.batch * stage.accumulate


def rows_of(path: Path) -> Iterator[dict[str, Any]]:
    """The complete rows of a log.jsonl."""
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        try:
            yield json.loads(line)
        except json.JSONDecodeError:
            return  # an interrupted run may leave an incomplete last line


class Progress:
    """A progress bar with smoothed loss, samples per second and remaining time; each step is logged to the journal."""

    def __init__(self, stage: Stage, step: int, journal: Journal) -> None:
        self.stage = stage
        self.journal = journal
        self.first = step
        self.mean = math.nan
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self.bar = Bar(*columns)
        self.task = self.bar.add_task(stage.name, total=stage.steps, completed=step)
        self.start = self.last = self.flushed = time.monotonic()

    def __enter__(self) -> Self:
        self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bar.stop()
        self.journal.flush()

    def seconds_each(self, steps: int) -> float:
        """The seconds of each of the ``steps`` since the last call."""
        now = time.monotonic()
        seconds, self.last = (now - self.last) / max(1, steps), now
        return seconds

    def on_step(self, step: int, loss: float, lr: float, seconds: float, valid: float | None = None) -> None:
        """Called for each step, once its loss is known."""
        now = time.monotonic()
        self.journal.add(self.stage, step, loss, lr, seconds, valid)
        if now - self.flushed > FLUSH_SECONDS:
            self.journal.flush()
            self.flushed = now
        self.mean = loss if math.isnan(self.mean) else SMOOTHING * self.mean + (1 - SMOOTHING) * loss
        speed = (step - self.first) * rows_a_step(self.stage) / max(1e-9, now - self.start)
        text = f"{self.stage.name}  loss {self.mean:.4f}  {speed:.1f}/s"
        self.bar.update(self.task, completed=step, description=text)


def counted(items: Sequence[T], title: str) -> Iterator[T]:
    """Iterates with a progress bar in a terminal; elsewhere with a line now and then, and one at the end."""
    from rich.console import Console

    if Console().is_terminal:
        yield from track(items, description=title)
        return
    last = time.monotonic()
    for done, item in enumerate(items, 1):
        yield item
        if time.monotonic() - last >= LINE_SECONDS or done == len(items):
            print(f"{title} {done}/{len(items)}", flush=True)
            last = time.monotonic()


def print_table(shown: Table) -> None:
    """Prints a table."""
    from rich.console import Console

    Console().print(shown)


def table(
    stage: Stage, number: int, step: int, parameters: Mapping[str, nn.Parameter], optimiser: torch.optim.Optimizer
) -> Table:
    """What is trained and what is frozen in a stage, part by part, with the peak learning rate."""
    share = {id(p): float(group["share"]) for group in optimiser.param_groups for p in group["params"]}
    parts: dict[str, list[nn.Parameter]] = {}
    for name, parameter in parameters.items():
        parts.setdefault(".".join(name.split(".")[:2]), []).append(parameter)
    title = say("stage {number}: {name}", number=number + 1, name=stage.name)
    size = rows_a_step(stage)
    caption = say("{steps} steps of {size}, from step {step}", steps=stage.steps, size=size, step=step)
    rows_table = Table(title=title, caption=caption)
    rows_table.add_column(say("part"))
    for heading in (say("learns"), say("frozen"), say("rate")):
        rows_table.add_column(heading, justify="right")
    learnt = frozen = 0
    for name, members in parts.items():
        learns = sum(p.numel() for p in members if id(p) in share)
        rest = sum(p.numel() for p in members) - learns
        rates = sorted({share[id(p)] * stage.lr for p in members if id(p) in share})
        rows_table.add_row(name, _millions(learns), _millions(rest), ", ".join(f"{rate:.3g}" for rate in rates))
        learnt, frozen = learnt + learns, frozen + rest
    rows_table.add_section()
    rows_table.add_row(say("in all"), _millions(learnt), _millions(frozen), "")
    return rows_table


def _millions(count: int) -> str:
    return f"{count / 1e6:,.3f} M" if count else ""


def smoothed(values: Sequence[float]) -> list[float]:
    """Exponential moving averages, corrected for their start."""
    means: list[float] = []
    total = weight = 0.0
    for value in values:
        total = CURVE_SMOOTHING * total + (1 - CURVE_SMOOTHING) * value
        weight = CURVE_SMOOTHING * weight + (1 - CURVE_SMOOTHING)
        means.append(total / weight)
    return means


def curves(run: Path, path: Path, columns: int = 3) -> Path:
    """Draws ``run/log.jsonl`` into a PNG at ``path``."""
    stages: dict[str, list[tuple[int, float]]] = {}
    valid: dict[str, list[tuple[int, float]]] = {}
    for row in rows_of(run / LOG_FILE):
        stages.setdefault(row["stage"], []).append((row["samples"], row["loss"]))
        if "valid" in row:
            valid.setdefault(row["stage"], []).append((row["samples"], row["valid"]))
    columns = min(columns, len(stages))
    rows = -(-len(stages) // columns)
    canvas = Image.new("RGB", (PANEL[0] * columns, PANEL[1] * rows), "white")
    pen, font = ImageDraw.Draw(canvas), chinese_font(13)
    for place, (name, points) in enumerate(stages.items()):
        left, top = place % columns * PANEL[0], place // columns * PANEL[1]
        _panel(pen, font, (left, top), name, points, valid.get(name, []))
    buffer = io.BytesIO()
    canvas.save(buffer, format="PNG")
    return write_whole(path, buffer.getvalue())


def _panel(
    pen: Any,
    font: Any,
    corner: tuple[int, int],
    name: str,
    points: list[tuple[int, float]],
    valid: list[tuple[int, float]],
) -> None:
    """The smoothed training loss of a stage in red, its validation loss in blue."""
    x0, y0 = corner[0] + MARGIN[0], corner[1] + MARGIN[1]
    x1, y1 = corner[0] + PANEL[0] - MARGIN[2], corner[1] + PANEL[1] - MARGIN[3]
    losses = smoothed([loss for _, loss in points])
    # The steep fall of the first steps would flatten the rest of the curve.
    shown = [*losses[len(losses) // 50 :], *(loss for _, loss in valid)]
    low, high, last = min(shown), max(shown), max(1, points[-1][0])
    spread = max(high - low, 1e-9)
    pen.rectangle((x0, y0, x1, y1), outline=(200, 200, 200))
    for share in (0.0, 0.5, 1.0):
        y = y1 - share * (y1 - y0)
        pen.line((x0, y, x1, y), fill=(230, 230, 230))
        pen.text((corner[0] + 4, y - 8), f"{low + share * spread:.3f}", fill=(90, 90, 90), font=font)

    def place(samples: int, loss: float) -> tuple[float, float]:
        return x0 + samples / last * (x1 - x0), y1 - min(1.0, (loss - low) / spread) * (y1 - y0)

    for values, colour in ((valid, BLUE), ([(s, v) for (s, _), v in zip(points, losses, strict=True)], RED)):
        pen.line([place(samples, loss) for samples, loss in values], fill=colour, width=2)
    validation = f"   valid {valid[-1][1]:.4f}" if valid else ""
    pen.text((x0, corner[1] + 8), f"{name}   {losses[-1]:.4f}{validation}", fill=(20, 20, 20), font=font)
    pen.text((x1 - 150, y1 + 8), f"{last:,} samples", fill=(90, 90, 90), font=font)
