"""The README of a run's folder, and its page with curves, stages and sample sheets; both are in two languages."""

from __future__ import annotations

import html
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bimo.core.files import page, write_whole
from bimo.core.messages import Message
from bimo.core.recipe import Recipe
from bimo.training.history import describe_changes, read_history
from bimo.training.logging import LOG_FILE, curves, rows_of, smoothed
from bimo.training.objectives.online_rewards import rounds_of

README_FILE, PAGE_FILE, CURVES_FILE = "README.md", "report.html", "curves.png"
SHEETS = "sheets"
#: The columns of the table of stages.
COLUMNS = (
    Message("stage"),
    Message("steps"),
    Message("samples"),
    Message("loss"),
    Message("valid"),
    Message("samples/s"),
)
STYLE = "td,th{text-align:right}td:first-child,th:first-child{text-align:left}figure{margin:1em 0}"


@dataclass(frozen=True)
class Course:
    """The progress of a stage: its last ``loss``, smoothed, its lowest validation loss, samples per second, seconds."""

    name: str
    step: int
    steps: int
    samples: int
    loss: float
    valid: float | None
    speed: float
    seconds: float


def courses(run: Path, recipe: Recipe) -> list[Course]:
    """The stages that have started, from ``run``/log.jsonl. The speed is by the median step, so that pauses do not
    count.
    """
    by_stage: dict[str, list[dict[str, float]]] = {}
    for row in rows_of(run / LOG_FILE):
        by_stage.setdefault(str(row["stage"]), []).append(row)
    steps = {stage.name: stage.steps for stage in recipe.stages}
    result: list[Course] = []
    for name, rows in by_stage.items():
        last, seconds = rows[-1], [row["seconds"] for row in rows]
        speed = last["samples"] / last["step"] / max(1e-9, statistics.median(seconds))
        valid = min((row["valid"] for row in rows if "valid" in row), default=None)
        loss = smoothed([row["loss"] for row in rows])[-1]
        counted = int(last["step"]), steps.get(name, int(last["step"])), int(last["samples"])
        result.append(Course(name, *counted, loss, valid, speed, sum(seconds)))
    return result


def leave(run: Path, recipe: Recipe) -> None:
    """Writes README.md, curves.png and report.html into a run's folder, as it is now."""
    stages = courses(run, recipe)
    if stages:
        curves(run, run / CURVES_FILE)
    write_whole(run / README_FILE, _readme(recipe, stages).encode())
    write_whole(run / PAGE_FILE, _page(run, recipe, stages).encode())


def _readme(recipe: Recipe, curves: Sequence[Course]) -> str:
    prompt = next(iter(recipe.prompts), "红苹果")
    title = f"{recipe.title} {recipe.name}".strip()
    lines = [
        f"# {title}",
        "",
        *_both_lines(
            Message("A model trained by bimo by the recipe `{name}`; this folder is the model.", name=recipe.name)
        ),
        "",
        "```",
        f'bimo draw -m . "{prompt}"',
        "```",
        "",
        *_both_lines(
            Message(
                "Licence of the recipe: {licence}. Licence of the training data: unknown; find out and say so here "
                "before you pass the weights on.",
                licence=recipe.licence or Message("not stated"),
            )
        ),
        "",
        f"| {' | '.join(map(_both, COLUMNS))} |",
        f"|{'---|' * len(COLUMNS)}",
        *(f"| {' | '.join(_cells(course))} |" for course in curves),
        "",
        f"{_both(Message('curves and sheets'))}: [{PAGE_FILE}]({PAGE_FILE}) · {_both(Message('every step'))}: "
        f"[{LOG_FILE}]({LOG_FILE})",
    ]
    return "\n".join(lines) + "\n"


def _page(run: Path, recipe: Recipe, curves: Sequence[Course]) -> str:
    title = f"{recipe.title} {recipe.name}".strip()
    head = "".join(f"<th>{_both(heading)}</th>" for heading in (*COLUMNS, Message("seconds")))
    rows = "".join(
        "<tr>"
        + "".join(f"<td>{html.escape(cell)}</td>" for cell in (*_cells(course), f"{course.seconds:,.0f}"))
        + "</tr>"
        for course in curves
    )
    sheets = sorted((run / SHEETS).glob("*.png"), reverse=True)
    figures = "".join(
        f'<figure><img loading="lazy" src="{SHEETS}/{html.escape(path.name)}" alt=""><figcaption>'
        f"{html.escape(_when(path))}</figcaption></figure>"
        for path in sheets
    )
    curve = f'<img src="{CURVES_FILE}" alt="learning curves">' if curves else ""
    curve += _rounds(run) + _changes(run)
    body = (
        f"<h1>{html.escape(title)}</h1><table><tr>{head}</tr>{rows}</table>{curve}"
        f"<h2>{_both(Message('Sheets, the newest first'))}</h2>{figures}"
    )
    return page(title, body, STYLE, beside=True)


def _rounds(run: Path) -> str:
    """The scores of a run's reward rounds, one per row; empty without rounds."""
    rounds = rounds_of(run)
    if not rounds:
        return ""
    names = list(dict.fromkeys(name for row in rounds for name in row["scores"]))
    headings = (Message("stage"), Message("round"), Message("step"), Message("drawings"))
    head = "".join(f"<th>{html.escape(heading)}</th>" for heading in (*map(_both, headings), *names))
    rows = ""
    for row in rounds:
        cells = [str(row[name]) for name in ("stage", "round", "step", "drawings")]
        for name in names:
            score = row["scores"].get(name, {"count": 0})
            cells.append(f"{score['mean']:.4f} ± {score['error']:.4f}" if score["count"] else "")
        rows += "<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"
    return f"<h2>{_both(Message('Rewards'))}</h2><table><tr>{head}</tr>{rows}</table>"


def _changes(run: Path) -> str:
    """The settings and data that were changed during the run; empty without changes."""
    changes = describe_changes(read_history(run))
    items = "".join(
        f"<li>{html.escape(where)}<br>{'<br>'.join(map(html.escape, lines))}</li>" for where, lines in changes
    )
    return f"<h2>{_both(Message('Changed under way'))}</h2><ul>{items}</ul>" if changes else ""


def _cells(course: Course) -> tuple[str, ...]:
    valid = "" if course.valid is None else f"{course.valid:.4f}"
    steps = f"{course.step:,}/{course.steps:,}"
    return course.name, steps, f"{course.samples:,}", f"{course.loss:.4f}", valid, f"{course.speed:.1f}"


def _when(sheet: Path) -> str:
    stage, _, step = sheet.stem.partition("-")
    return f"{_both(Message('stage'))} {int(stage)}，{_both(Message('step'))} {int(step):,}"


def _both(message: Message) -> str:
    """A word or heading in Chinese and in English."""
    return f"{message.zh} {message.en}"


def _both_lines(message: Message) -> tuple[str, str]:
    """A sentence in Chinese, and in English."""
    return message.zh, message.en
