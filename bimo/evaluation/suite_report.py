"""The report of a suite: report.json, a self-contained report.html in Chinese and English, and a model-card section
for every model with the hub's ``model-index``.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bimo.core.errors import DataError
from bimo.core.files import write_whole
from bimo.evaluation.intervals import Interval, verdict
from bimo.evaluation.protocol import VERSION, demand_comparable
from bimo.evaluation.report import finite, shown
from bimo.evaluation.suite_measures import MeasuredPicture
from bimo.evaluation.suite_page import page
from bimo.evaluation.suite_run import ModelResult, Plan, folder_of, now

JSON_FILE, PAGE_FILE, CARD_FILE = "report.json", "report.html", "model-card.md"


def write_report(results: Sequence[ModelResult], plan: Plan, out: Path) -> Path:
    """Writes all files of a report below ``out`` and returns the page's path."""
    data = as_dict(results, plan)
    write_whole(out / JSON_FILE, json.dumps(finite(data), ensure_ascii=False, indent=1).encode())
    for result in results:
        write_whole(out / folder_of(result.name) / CARD_FILE, card(result, plan).encode())
    return write_whole(out / PAGE_FILE, page(results, plan, data["when"]).encode())


def as_dict(results: Sequence[ModelResult], plan: Plan) -> dict[str, Any]:
    """JSON-compatible: every model's record, numbers, cost and counts, and every picture's values."""
    return {
        "kind": "suite",
        "version": VERSION,
        "when": now(),
        "suite": {
            "name": plan.suite.name,
            "licence": plan.suite.licence,
            "unverified format": plan.suite.unverified,
            "rows that are no prompts": dict(plan.suite.unusable),
        },
        "models": {result.name: _model(result) for result in results},
    }


def _model(result: ModelResult) -> dict[str, Any]:
    return {
        "record": dict(result.record),
        "numbers": {n.name: {"unit": n.unit, **asdict(n.interval)} for n in result.numbers},
        "cost, seconds a picture": {name: round(value, 4) for name, value in result.cost.items()},
        "counted": {name: count for name, count in result.counted.items() if count},
        "refused": dict(result.refused),
        "near copies": dict(result.copies),
        "notes": [note.en for note in result.notes],
        "pictures": [_picture(picture) for picture in result.pictures],
    }


def _picture(picture: MeasuredPicture) -> dict[str, Any]:
    row: dict[str, Any] = {
        "key": picture.prompt.key,
        "seed": picture.drawing.seed,
        "file": picture.drawing.file,
        "text": picture.prompt.text,
        "values": picture.values,
    }
    if picture.prompt.written:
        row |= {"written": list(picture.prompt.written), "read": list(picture.read)}
    if picture.answers:
        language = picture.prompt.language
        row["answers"] = {
            judge: [[check.question_in(language), answer.text, answer.right] for check, answer in rows]
            for judge, rows in picture.answers.items()
        }
    return row


def read_record(path: Path) -> dict[str, Any]:
    """Reads a suite's report.json. Raises DataError for other files and other versions."""
    try:
        data = json.loads(path.read_text("utf-8"))
        kind, version = data["kind"], data["version"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError("{path} is no report of a suite: {error}", path=path, error=error) from None
    if kind != "suite" or version != VERSION:
        raise DataError(
            "{path} is a report of version {found}, this bimo reads {version}; evaluate again",
            path=path,
            found=version,
            version=VERSION,
        )
    return data


def demand_reports_comparable(first: Path, second: Path) -> None:
    """Raises DataError if the models of two reports were not measured in the same way."""
    models, other_models = read_record(first)["models"], read_record(second)["models"]
    for name, model in models.items():
        for other_name, other_model in other_models.items():
            demand_comparable(model["record"], other_model["record"], (f"{name} ({first})", f"{other_name} ({second})"))


def compared(mine: Path, other: Path) -> list[str]:
    """One line for each number that both reports have, by model, with whether the intervals overlap."""
    lines: list[str] = []
    for name, model in read_record(mine)["models"].items():
        for other_name, other_model in read_record(other)["models"].items():
            for measure, value in model["numbers"].items():
                other_value = other_model["numbers"].get(measure)
                if other_value is not None and None not in (value["value"], other_value["value"]):
                    relation = verdict(_interval(value), _interval(other_value))
                    both = f"{shown(value, value['unit'])} / {shown(other_value, other_value['unit'])}"
                    lines.append(f"{name} / {other_name}  {measure}: {both}  {relation}")
    return lines


def _interval(value: Any) -> Interval:
    return Interval(*(value[part] for part in ("value", "low", "high", "n")))


def card(result: ModelResult, plan: Plan) -> str:
    """A model-card section: ``model-index`` for the card's YAML header, and a table."""
    index = {
        "model-index": [
            {
                "name": result.name,
                "results": [
                    {
                        "task": {"type": "text-to-image"},
                        "dataset": {"name": plan.suite.name, "type": plan.suite.name, "revision": plan.suite.digest},
                        "metrics": [
                            {"type": n.measure, "name": n.name, "value": round(n.interval.value, 6)}
                            for n in result.numbers
                            if not n.group
                        ],
                    }
                ],
            }
        ]
    }
    rows = [
        f"| {n.measure} | {n.language} | {n.interval.n} | {shown(asdict(n.interval), n.unit)} |"
        for n in result.numbers
        if not n.group
    ]
    measured = result.record["measured"]
    lines = [
        "---",
        _yaml(index),
        "---",
        "",
        f"## Evaluation: {plan.suite.name}",
        "",
        f"{measured['prompts']} prompts, {measured['pictures']} pictures, seeds {measured['seeds']}, "
        f"{_drawn_with(result.record['drawn'])}; 95 % intervals by resampled prompts; data {plan.suite.digest[:12]}.",
        "",
        "| measure | language | n | value |",
        "| --- | --- | --- | --- |",
        *rows,
        "",
        *(f"- {note.en}" for note in result.notes),
        "",
    ]
    return "\n".join(lines)


def _drawn_with(drawn: Any) -> str:
    names = ("steps", "guidance", "sampler", "size", "device", "dtype", "engine")
    return ", ".join(f"{name} {drawn[name]}" for name in names if name in drawn) or "pictures drawn elsewhere"


def _yaml(value: Any, depth: int = 0) -> str:
    """Writes plain data as YAML; JSON strings are valid YAML strings."""
    pad = "  " * depth
    if isinstance(value, dict):
        lines: list[str] = []
        items: dict[str, Any] = value  # pyright: ignore[reportUnknownVariableType]
        for key, part in items.items():
            if isinstance(part, (dict, list)):
                lines.append(f"{pad}{key}:\n{_yaml(part, depth + (isinstance(part, dict)))}")
            else:
                lines.append(f"{pad}{key}: {json.dumps(part, ensure_ascii=False)}")
        return "\n".join(lines)
    rows: list[Any] = value
    return "\n".join(f"{pad}- {_yaml(row, depth + 1).lstrip()}" for row in rows)
