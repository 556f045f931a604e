"""What a run leaves for people: a README that says how to draw with it, and a page with curves, stages and sheets."""

from __future__ import annotations

import html
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bimo.core.files import page, write_whole
from bimo.core.recipe import Recipe
from bimo.training.history import describe_changes, read_history
from bimo.training.logging import LOG_FILE, curves, rows_of, smoothed
from bimo.training.objectives.online_rewards import rounds_of

README_FILE, PAGE_FILE, CURVES_FILE = "README.md", "report.html", "curves.png"
SHEETS = "sheets"
STYLE = "td,th{text-align:right}td:first-child,th:first-child{text-align:left}figure{margin:1em 0}"


@dataclass(frozen=True)
class Course:
    """How far a stage has come: its last ``loss`` smoothed, its lowest ``valid``, samples a second, all seconds."""

    name: str
    step: int
    steps: int
    samples: int
    loss: float
    valid: float | None
    speed: float
    seconds: float


def courses(run: Path, recipe: Recipe) -> list[Course]:
    """The stages that have begun, from ``run``/log.jsonl. A second is the median's, so that a rest counts as none."""
    by_stage: dict[str, list[dict[str, float]]] = {}
    for row in rows_of(run / LOG_FILE):
        by_stage.setdefault(str(row["stage"]), []).append(row)
    steps = {stage.name: stage.steps for stage in recipe.stages}
    made: list[Course] = []
    for name, rows in by_stage.items():
        last, seconds = rows[-1], [row["seconds"] for row in rows]
        speed = last["samples"] / last["step"] / max(1e-9, statistics.median(seconds))
        valid = min((row["valid"] for row in rows if "valid" in row), default=None)
        loss = smoothed([row["loss"] for row in rows])[-1]
        counted = int(last["step"]), steps.get(name, int(last["step"])), int(last["samples"])
        made.append(Course(name, *counted, loss, valid, speed, sum(seconds)))
    return made


def leave(run: Path, recipe: Recipe) -> None:
    """Writes README.md, curves.png and report.html into a run's folder, as it is now."""
    found = courses(run, recipe)
    if found:
        curves(run, run / CURVES_FILE)
    write_whole(run / README_FILE, _readme(run, recipe, found).encode())
    write_whole(run / PAGE_FILE, _page(run, recipe, found).encode())


def _readme(run: Path, recipe: Recipe, curves: Sequence[Course]) -> str:
    prompt = next(iter(recipe.prompts), "红苹果")
    title = f"{recipe.title} {recipe.name}".strip()
    lines = [
        f"# {title}",
        "",
        f"用 bimo（笔墨）按配方 `{recipe.name}` 训练的模型；这个文件夹本身就是模型。",
        f"A model trained by bimo by the recipe `{recipe.name}`; this folder is the model.",
        "",
        "```",
        f'bimo draw -m . "{prompt}"',
        "```",
        "",
        f"配方的许可：{recipe.licence or '未写明'}。训练数据的许可：未知；分发权重之前请自己查明并写在这里。",
        f"Licence of the recipe: {recipe.licence or 'not stated'}. Licence of the training data: unknown; find out and "
        "say so here before you pass the weights on.",
        "",
        "| 阶段 stage | 步 steps | 样本 samples | 损失 loss | 验证 valid | 样本/秒 samples/s |",
        "|---|---|---|---|---|---|",
        *(f"| {' | '.join(_cells(course))} |" for course in curves),
        "",
        f"曲线和样图 curves and sheets: [{PAGE_FILE}]({PAGE_FILE}) · 每一步 every step: [{LOG_FILE}]({LOG_FILE})",
    ]
    return "\n".join(lines) + "\n"


def _page(run: Path, recipe: Recipe, curves: Sequence[Course]) -> str:
    title = f"{recipe.title} {recipe.name}".strip()
    headings = ("阶段 stage", "步 steps", "样本 samples", "损失 loss", "验证 valid", "样本/秒 samples/s", "秒 seconds")
    head = "".join(f"<th>{heading}</th>" for heading in headings)
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
        f"<h2>样图，新的在前 Sheets, the newest first</h2>{figures}"
    )
    return page(title, body, STYLE, beside=True)


def _rounds(run: Path) -> str:
    """What the rounds of a run were worth, one a row; nothing where there were none."""
    rounds = rounds_of(run)
    if not rounds:
        return ""
    names = list(dict.fromkeys(name for row in rounds for name in row["scores"]))
    headings = ("阶段 stage", "轮 round", "步 step", "画 drawings", *names)
    head = "".join(f"<th>{html.escape(heading)}</th>" for heading in headings)
    rows = ""
    for row in rounds:
        cells = [str(row[name]) for name in ("stage", "round", "step", "drawings")]
        for name in names:
            score = row["scores"].get(name, {"count": 0})
            cells.append(f"{score['mean']:.4f} ± {score['error']:.4f}" if score["count"] else "")
        rows += "<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"
    return f"<h2>奖励 Rewards</h2><table><tr>{head}</tr>{rows}</table>"


def _changes(run: Path) -> str:
    """What was changed under way, from which step on; nothing where all is as it began."""
    changes = describe_changes(read_history(run))
    items = "".join(
        f"<li>{html.escape(where)}<br>{'<br>'.join(map(html.escape, lines))}</li>" for where, lines in changes
    )
    return f"<h2>中途的改动 Changed under way</h2><ul>{items}</ul>" if changes else ""


def _cells(course: Course) -> tuple[str, ...]:
    valid = "" if course.valid is None else f"{course.valid:.4f}"
    steps = f"{course.step:,}/{course.steps:,}"
    return course.name, steps, f"{course.samples:,}", f"{course.loss:.4f}", valid, f"{course.speed:.1f}"


def _when(sheet: Path) -> str:
    stage, _, step = sheet.stem.partition("-")
    return f"阶段 stage {int(stage)}，步 step {int(step):,}"
