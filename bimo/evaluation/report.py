"""The report of an evaluation as JSON, HTML and Markdown; the latter two in the user's language."""

from __future__ import annotations

import base64
import html
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast

from bimo.core.errors import DataError
from bimo.core.files import page as document
from bimo.core.files import write_whole
from bimo.core.messages import Listed, Message, say

JSON_FILE, PAGE_FILE, TABLE_FILE = "report.json", "report.html", "report.md"
STYLE = ".above{color:#176b2c}.below{color:#a02020}"


@dataclass(frozen=True)
class Labels:
    """Display names in a report: titles of groups, in the order of the page, and names of measures and baselines, each
    by its key in report.json.
    """

    groups: Mapping[str, Message]
    measures: Mapping[str, Message]
    baselines: Mapping[str, Message]


@dataclass(frozen=True)
class Report:
    """The results of an evaluation. ``figures`` are measures with intervals and baselines (`Figure.as_dict`),
    ``tables`` rows of cells by heading, ``pictures`` files next to the report by title, ``notes`` how to read it.
    """

    kind: str
    recipe: str
    weights: str
    when: str
    protocol: dict[str, Any]
    figures: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    tables: dict[str, list[list[str]]] = field(default_factory=dict[str, "list[list[str]]"])
    pictures: dict[str, str] = field(default_factory=dict[str, str])
    notes: list[str] = field(default_factory=list[str])

    @property
    def numbers(self) -> dict[str, float]:
        """The value of every figure by name, to compare reports."""
        return {name_of(figure): figure["model"]["value"] for figure in self.figures}

    def as_dict(self) -> dict[str, Any]:
        """JSON-compatible values."""
        return asdict(self) | {"numbers": self.numbers}

    def write(self, out: Path, labels: Labels) -> None:
        """Writes report.json, report.html and report.md into a folder."""
        text = json.dumps(finite(self.as_dict()), ensure_ascii=False, indent=1)
        write_whole(out / JSON_FILE, text.encode())
        write_whole(out / PAGE_FILE, page(self, labels, out).encode())
        write_whole(out / TABLE_FILE, markdown(self, labels).encode())


def read_report(path: Path) -> Report:
    """A report that `write` wrote. Raises DataError."""
    try:
        record = json.loads(path.read_text("utf-8"))
        record.pop("numbers")
        return Report(**record)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError("the report {path} cannot be read: {error}. Evaluate again", path=path, error=error) from error


def name_of(figure: Mapping[str, Any]) -> str:
    """ "seen.zh.kind top-1"."""
    return ".".join(part for part in (figure["group"], figure["language"], figure["measure"]) if part)


def finite(value: Any) -> Any:
    """Replaces NaN and infinity by None, as JSON has neither."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: finite(part) for key, part in cast(Mapping[str, Any], value).items()}
    return [finite(part) for part in cast(Sequence[Any], value)] if isinstance(value, (list, tuple)) else value


def shown(interval: Mapping[str, Any] | None, unit: str) -> str:
    """ "97.2 % [95.1, 98.6]" or "0.214 [0.20, 0.23]"; a dash without a value."""
    if interval is None or interval["value"] is None or not math.isfinite(interval["value"]):
        return "–"
    value, low, high = interval["value"], interval["low"], interval["high"]
    if unit == "share":
        return f"{value:.1%} [{low * 100:.1f}, {high * 100:.1f}]".replace("%", " %")
    return f"{value:.3f} [{low:.3f}, {high:.3f}]"


def _baselines(figures: Sequence[Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(name for figure in figures for name in figure["baselines"]))


def sentence(figure: Mapping[str, Any], labels: Labels) -> Message:
    """The verdicts against the baselines in words."""
    return Listed([_verdict(word, labels.baselines.get(name, name)) for name, word in figure["verdicts"].items()])


def _verdict(word: str, baseline: Message | str) -> Message:
    if word == "above":
        return Message("above the {baseline}", baseline=baseline)
    if word == "below":
        return Message("below the {baseline}", baseline=baseline)
    return Message("not distinguishable from the {baseline}", baseline=baseline)


def figures_of(report: Report, group: str) -> list[dict[str, Any]]:
    """The figures of a group, in their order."""
    return [figure for figure in report.figures if figure["group"] == group]


def rows(report: Report, labels: Labels, group: str) -> list[list[str]]:
    """The table of a group: a header row, then one row for each figure."""
    figures = figures_of(report, group)
    names = _baselines(figures)
    best = any(figure["ceiling"] for figure in figures)
    heading = [say("measure"), "", "n", say("model"), *(str(labels.baselines.get(name, name)) for name in names)]
    table = [heading + ([say("verdict")] if names else []) + ([say("true pictures")] if best else [])]
    for figure in figures:
        unit, measure = figure["unit"], figure["measure"]
        row = [str(labels.measures.get(measure, measure)), figure["language"], str(figure["model"]["n"])]
        row += [shown(figure["model"], unit), *(shown(figure["baselines"].get(name), unit) for name in names)]
        row += [str(sentence(figure, labels))] if names else []
        table.append(row + ([shown(figure["ceiling"], unit)] if best else []))
    return table


def markdown(report: Report, labels: Labels) -> str:
    """The figures as Markdown tables."""
    lines = [
        f"# {report.recipe}",
        "",
        say("{when}, weights {digest}", when=report.when, digest=report.weights[:12]),
        "",
    ]
    lines += [f"- {name}: {value}" for name, value in report.protocol.items() if not isinstance(value, Mapping)]
    tables = {str(title): rows(report, labels, group) for group, title in labels.groups.items()} | report.tables
    for title, table in tables.items():
        if len(table) > 1:
            lines += ["", f"## {title}", "", _line(table[0]), _line(["---"] * len(table[0])), *map(_line, table[1:])]
    return "\n".join([*lines, "", *(f"- {note}" for note in report.notes), ""])


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def page(report: Report, labels: Labels, out: Path) -> str:
    """One self-contained HTML page."""
    safe = html.escape
    header = say("{when}, weights {digest}", when=report.when, digest=report.weights[:12])
    parts = [f"<h1>{safe(say('Evaluation of {name}', name=report.recipe))}</h1><p>{safe(header)}</p>"]
    parts.append("<ul>" + "".join(f"<li>{safe(note)}</li>" for note in report.notes) + "</ul>")
    for group, title in labels.groups.items():
        table = rows(report, labels, group)
        if len(table) > 1:
            classes = [verdict_class(figure) for figure in figures_of(report, group)]
            parts.append(f"<h2>{safe(str(title))}</h2>{_html_table(table, classes)}")
    for title, table in report.tables.items():
        parts.append(f"<h2>{safe(title)}</h2>{_html_table(table)}")
    for title, name in report.pictures.items():
        data = base64.b64encode((out / name).read_bytes()).decode()
        parts.append(f'<h2>{safe(title)}</h2><img alt="{safe(title)}" src="data:image/png;base64,{data}">')
    protocol = json.dumps(finite(report.protocol), ensure_ascii=False, indent=1)
    parts.append(f"<h2>{safe(say('Protocol'))}</h2><pre>{safe(protocol)}</pre>")
    return document(report.recipe, "\n".join(parts), STYLE)


def verdict_class(figure: Mapping[str, Any]) -> str:
    """The CSS class of a figure: "below" if it is below any baseline, "above" if it is above all, else ""."""
    verdicts = set(figure["verdicts"].values())
    return "below" if "below" in verdicts else "above" if verdicts == {"above"} else ""


def _html_table(table: Sequence[Sequence[str]], classes: Sequence[str] = ()) -> str:
    """A table with a header row; ``classes`` are those of the other rows."""
    heading = "".join(f"<th>{html.escape(cell)}</th>" for cell in table[0])
    body: list[str] = []
    for place, row in enumerate(table[1:]):
        kind = f' class="{classes[place]}"' if place < len(classes) and classes[place] else ""
        body.append(f"<tr{kind}>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>")
    return f"<table><tr>{heading}</tr>{''.join(body)}</table>"
