"""The report of a suite: report.json, one self-contained report.html in Chinese and English, and for every model a
section for its card with the hub's ``model-index``.
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
from bimo.evaluation.suite_page import page
from bimo.evaluation.suite_run import Evaluated, Plan, folder_of, now

JSON_FILE, PAGE_FILE, CARD_FILE = "report.json", "report.html", "model-card.md"


def write_report(found: Sequence[Evaluated], plan: Plan, out: Path) -> Path:
    """Writes everything of a report below ``out`` and answers with the page's path."""
    data = as_dict(found, plan)
    write_whole(out / JSON_FILE, json.dumps(finite(data), ensure_ascii=False, indent=1).encode())
    for one in found:
        write_whole(out / folder_of(one.name) / CARD_FILE, card(one, plan).encode())
    return write_whole(out / PAGE_FILE, page(found, plan, data["when"]).encode())


def as_dict(found: Sequence[Evaluated], plan: Plan) -> dict[str, Any]:
    """For JSON: every model's record, numbers, cost and what was counted, and every picture's own values."""
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
        "models": {one.name: _model(one) for one in found},
    }


def _model(one: Evaluated) -> dict[str, Any]:
    return {
        "record": dict(one.record),
        "numbers": {n.name: {"unit": n.unit, **asdict(n.interval)} for n in one.numbers},
        "cost, seconds a picture": {name: round(value, 4) for name, value in one.cost.items()},
        "counted": {name: count for name, count in one.counted.items() if count},
        "refused": dict(one.refused),
        "near copies": dict(one.copies),
        "notes": [note.en for note in one.notes],
        "pictures": [
            {
                "key": each.prompt.key,
                "seed": each.drawing.seed,
                "file": each.drawing.file,
                "text": each.prompt.text,
                "values": each.values,
                **({"written": list(each.prompt.written), "read": list(each.read)} if each.prompt.written else {}),
                **({"answers": {
                    judge: [[check.asked(each.prompt.language), answer.said, answer.right] for check, answer in rows]
                    for judge, rows in each.answers.items()
                }} if each.answers else {}),
            }
            for each in one.shown
        ],
    }  # fmt: skip


def read_record(path: Path) -> dict[str, Any]:
    """report.json of a suite. Raises DataError for a file that is none, or one of another version."""
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
    """Raises DataError where the models of two reports were not measured in the same way."""
    one, other = read_record(first)["models"], read_record(second)["models"]
    for name, model in one.items():
        for beside, another in other.items():
            demand_comparable(model["record"], another["record"], (f"{name} ({first})", f"{beside} ({second})"))


def compared(mine: Path, other: Path) -> list[str]:
    """Every number that both reports have, model by model, with whether their intervals lie apart."""
    lines: list[str] = []
    for name, model in read_record(mine)["models"].items():
        for beside, another in read_record(other)["models"].items():
            for measure, value in model["numbers"].items():
                old = another["numbers"].get(measure)
                if old is not None and None not in (value["value"], old["value"]):
                    apart = verdict(_interval(value), _interval(old))
                    both = f"{shown(value, value['unit'])} / {shown(old, old['unit'])}"
                    lines.append(f"{name} / {beside}  {measure}: {both}  {apart}")
    return lines


def _interval(value: Any) -> Interval:
    return Interval(*(value[part] for part in ("value", "low", "high", "n")))


def card(one: Evaluated, plan: Plan) -> str:
    """A model card's section: ``model-index`` as the hub reads it from a card's header, and a table."""
    index = {
        "model-index": [
            {
                "name": one.name,
                "results": [
                    {
                        "task": {"type": "text-to-image"},
                        "dataset": {"name": plan.suite.name, "type": plan.suite.name, "revision": plan.suite.digest},
                        "metrics": [
                            {"type": n.measure, "name": n.name, "value": round(n.interval.value, 6)}
                            for n in one.numbers
                            if not n.group
                        ],
                    }
                ],
            }
        ]
    }
    rows = [
        f"| {n.measure} | {n.language} | {n.interval.n} | {shown(asdict(n.interval), n.unit)} |"
        for n in one.numbers
        if not n.group
    ]
    asked = one.record["measured"]
    lines = [
        "---",
        _yaml(index),
        "---",
        "",
        f"## Evaluation: {plan.suite.name}",
        "",
        f"{asked['prompts']} prompts, {asked['pictures']} pictures, seeds {asked['seeds']}, "
        f"{_said_drawn(one.record['drawn'])}; 95 % intervals by resampled prompts; data {plan.suite.digest[:12]}.",
        "",
        "| measure | language | n | value |",
        "| --- | --- | --- | --- |",
        *rows,
        "",
        *(f"- {note.en}" for note in one.notes),
        "",
    ]
    return "\n".join(lines)


def _said_drawn(drawn: Any) -> str:
    names = ("steps", "guidance", "sampler", "size", "device", "dtype", "engine")
    return ", ".join(f"{name} {drawn[name]}" for name in names if name in drawn) or "pictures drawn elsewhere"


def _yaml(value: Any, depth: int = 0) -> str:
    """Plain data as YAML: JSON strings are YAML strings."""
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
