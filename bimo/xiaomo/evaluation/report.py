"""The report of an evaluation: JSON first, then a page and a Markdown table made from it."""

from __future__ import annotations

import base64
import html
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from bimo.core.errors import DataError
from bimo.core.files import page as document
from bimo.core.files import write_whole

JSON_FILE, PAGE_FILE, TABLE_FILE = "report.json", "report.html", "report.md"
GROUPS: Mapping[str, tuple[str, str]] = {
    "seen": ("见过的说法：名称加风格词", "Captions seen in training: name and style word"),
    "bare": ("人们平常打的词", "Bare everyday words"),
    "unseen": ("没见过的（种类，风格）组合", "(kind, style) pairs never seen"),
    "colour": ("颜色词", "Colour words"),
    "unseen colour": ("没见过的（种类，颜色）组合", "(kind, colour) pairs never seen"),
    "count": ("数量", "Counts"),
    "pair": ("两样东西", "Two things"),
    "place": ("位置", "Places"),
    "warning": ("不认识的词的提醒", "Warning of unknown words"),
    "seeds": ("不同种子的差别", "Difference between seeds"),
}
MEASURES: Mapping[str, str] = {
    "kind top-1": "种类第一位对", "kind top-5": "种类前五位对", "style": "风格对", "kind and style": "种类和风格都对",
    "nearest neighbour": "最近的真图种类对", "colour": "颜色对", "colour and kind": "颜色和种类都对",
    "number": "数目对", "both things": "两样都有", "both in order": "两样都有且位置对", "place": "位置对",
    "zh and en alike": "中英文同一种类",
    "unknown word named": "点出不认识的词", "false alarm, seen captions": "误报（见过的说法）",
    "false alarm, known everyday words": "误报（词表内的日常词）", "pixels, two seeds": "像素差（两个种子）",
    "pixels, two kinds": "像素差（两个种类）", "embedding, two seeds": "特征距离（两个种子）",
    "embedding, two kinds": "特征距离（两个种类）",
}  # fmt: skip
VERDICTS: Mapping[str, tuple[str, str]] = {
    "above": ("高于{}", "above"),
    "below": ("低于{}", "below"),
    "not apart": ("与{}分不开", "not apart from"),
}
STYLE = ".above{color:#176b2c}.below{color:#a02020}"


@dataclass(frozen=True)
class Report:
    """What an evaluation found. ``figures`` are measures with intervals and baselines (`Figure.as_dict`); ``tables``
    rows of cells under a heading; ``pictures`` files beside the report, by title; ``notes`` say how to read it.
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
        """Every figure's value by its name, for comparing reports."""
        return {name_of(figure): figure["model"]["value"] for figure in self.figures}

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self) | {"numbers": self.numbers}

    def write(self, out: Path) -> None:
        """Writes report.json, report.html and report.md into a folder."""
        text = json.dumps(_finite(self.as_dict()), ensure_ascii=False, indent=1)
        write_whole(out / JSON_FILE, text.encode())
        write_whole(out / PAGE_FILE, page(self, out).encode())
        write_whole(out / TABLE_FILE, markdown(self).encode())


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


def _finite(value: Any) -> Any:
    """The same with null for what is not a number, as JSON has no other word for it."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(part) for key, part in value.items()}
    return [_finite(part) for part in value] if isinstance(value, (list, tuple)) else value


def shown(interval: Mapping[str, Any] | None, unit: str) -> str:
    """ "97.2 % [95.1, 98.6]" or "0.214 [0.20, 0.23]"; a dash where there is none."""
    if interval is None or interval["value"] is None or not math.isfinite(interval["value"]):
        return "–"
    value, low, high = interval["value"], interval["low"], interval["high"]
    if unit == "share":
        return f"{value:.1%} [{low * 100:.1f}, {high * 100:.1f}]".replace("%", " %")
    return f"{value:.3f} [{low:.3f}, {high:.3f}]"


def _baselines(figures: Sequence[Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(name for figure in figures for name in figure["baselines"]))


def sentence(figure: Mapping[str, Any]) -> tuple[str, str]:
    """Plainly, in Chinese and English, whether the interval lies above each baseline's."""
    found = [(VERDICTS[word], name) for name, word in figure["verdicts"].items()]
    zh = "，".join(words[0].format(BASELINES.get(name, name)) for words, name in found)
    return zh, "; ".join(f"{words[1]} {name}" for words, name in found)


BASELINES: Mapping[str, str] = {"nearest picture": "最近的训练图", "first level": "只用第一层"}


def rows(report: Report, group: str) -> list[list[str]]:
    """The table of a group: a heading, then one row a figure."""
    figures = [figure for figure in report.figures if figure["group"] == group]
    names = _baselines(figures)
    best = any(figure["ceiling"] for figure in figures)
    heading = ["指标 measure", "", "n", "模型 model", *(f"{BASELINES.get(n, n)} {n}" for n in names)]
    table = [heading + (["结论 verdict"] if names else []) + (["真图 true pictures"] if best else [])]
    for figure in figures:
        unit, measure = figure["unit"], figure["measure"]
        row = [f"{MEASURES.get(measure, measure)} {measure}", figure["language"], str(figure["model"]["n"])]
        row += [shown(figure["model"], unit), *(shown(figure["baselines"].get(name), unit) for name in names)]
        row += [" / ".join(filter(None, sentence(figure)))] if names else []
        table.append(row + ([shown(figure["ceiling"], unit)] if best else []))
    return table


def markdown(report: Report) -> str:
    """The figures as Markdown tables."""
    lines = [f"# {report.recipe}", "", f"{report.when}, weights {report.weights[:12]}", ""]
    lines += [f"- {name}: {value}" for name, value in report.protocol.items() if not isinstance(value, Mapping)]
    named = {f"{zh} {en}": rows(report, group) for group, (zh, en) in GROUPS.items()} | report.tables
    for title, table in named.items():
        if len(table) > 1:
            lines += ["", f"## {title}", "", _line(table[0]), _line(["---"] * len(table[0])), *map(_line, table[1:])]
    return "\n".join([*lines, "", *(f"- {note}" for note in report.notes), ""])


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def page(report: Report, out: Path) -> str:
    """One HTML page with the pictures inside it."""
    safe = html.escape
    said = f"{safe(report.when)}, weights {safe(report.weights[:12])}"
    parts = [f"<h1>{safe(report.recipe)} 评测 evaluation</h1><p>{said}</p>"]
    parts.append("<ul>" + "".join(f"<li>{safe(note)}</li>" for note in report.notes) + "</ul>")
    for group, (zh, en) in GROUPS.items():
        table = rows(report, group)
        if len(table) > 1:
            parts.append(f"<h2>{zh} <small>{en}</small></h2>{_html_table(table)}")
    for title, table in report.tables.items():
        parts.append(f"<h2>{safe(title)}</h2>{_html_table(table)}")
    for title, name in report.pictures.items():
        data = base64.b64encode((out / name).read_bytes()).decode()
        parts.append(f'<h2>{safe(title)}</h2><img alt="{safe(title)}" src="data:image/png;base64,{data}">')
    protocol = json.dumps(_finite(report.protocol), ensure_ascii=False, indent=1)
    parts.append(f"<h2>方法 <small>protocol</small></h2><pre>{safe(protocol)}</pre>")
    return document(report.recipe, "\n".join(parts), STYLE)


def _html_table(table: Sequence[Sequence[str]]) -> str:
    heading = "".join(f"<th>{html.escape(cell)}</th>" for cell in table[0])
    body = "".join("<tr>" + "".join(_cell(cell) for cell in row) + "</tr>" for row in table[1:])
    return f"<table><tr>{heading}</tr>{body}</table>"


def _cell(text: str) -> str:
    """A cell, green where it says above every baseline, red where it says below one."""
    kind = ""
    if "低于" in text:
        kind = ' class="below"'
    elif "高于" in text and "分不开" not in text:
        kind = ' class="above"'
    return f"<td{kind}>{html.escape(text)}</td>"


NOTES = (
    "区间为 95%：比例用 Wilson，均值用自助法。Intervals are 95 %: Wilson for shares, bootstrap for means.",
    "“高于”指模型的区间整个在基线的区间之上。“above” means that the model's whole interval lies above the baseline's.",
    "最近的训练图：同一种类的 3D 训练图（3D 被留出时用别的风格），不看风格、颜色、数目等词。"
    "Nearest picture: the 3d training picture of the kind (another style where that is held out), deaf to words of "
    "style, colour, number and place. The judge learned from these very pictures.",
    "真图：所要的种类和风格的真图，换了姿态，由同一评判器看：完美的画家能得的分。"
    "True pictures: the true picture of the kind and style asked for in a new pose, shown to the "
    "same judge: the score of a perfect painter.",
    "最近的真图：评判器的特征不大看风格，贴 3D 图也能得高分；能不能换风格，要看“种类和风格都对”。"
    "Nearest neighbour: the judge's embedding looks past style, so that pasting the 3d picture scores high as "
    "well; whether style transfers is seen in “kind and style”.",
    "“见过的说法”说明记忆，不说明生成。Seen captions show memory, not generation.",
    "评判器自己也会错；它在真图上的准确率见下表。"
    "The judge errs too: its accuracy on true pictures is in the tables below.",
    "日常词：评判器认为是所列种类之一即为对。"
    "Everyday words: right if the judge names one of the kinds a person would accept.",
)


def judge_tables(facts: Mapping[str, Any]) -> dict[str, list[list[str]]]:
    """The judge's own accuracies as tables: on poses never seen, and blind on held-out pairs."""
    heading = ["", "n", "kind top-1", "kind top-5", "style", "both"]

    def row(name: str, cells: dict[str, Any]) -> list[str]:
        return [name, str(cells["n"]), *(f"{cells[part]:.1%}".replace("%", " %") for part in heading[2:])]

    main, blind = facts.get("accuracy", {}), facts.get("blind accuracy", {})
    tables: dict[str, list[list[str]]] = {}
    if "overall" in main:
        body = [row("all", main["overall"])]
        body += [row(s, main["overall by style"][s]) for s in main["overall by style"]]
        tables["评判器在真图（新姿态）上 the judge on true pictures in poses never seen"] = [heading, *body]
    if "held out" in blind:
        body = [row("judge that never saw them", blind["held out"]), row("judge used here", main["held out"])]
        body.append(row("judge that never saw them, on pairs it saw", blind["overall"]))
        title = "留出的（种类，风格）真图 true pictures of held-out pairs: what a perfect painter could score"
        tables[title] = [heading, *body]
    return tables
