"""The bundled model's own questions at several numbers of steps and strengths of guidance, next to its own settings.

Each setting is an evaluation in a folder of its own (`bimo.xiaomo.evaluation`), whose pictures are kept one by one: the
same command goes on where it was stopped, and a setting whose report is there is only read. The judge is trained once,
in the folder of the data. Questions and seeds are the same for all, so a difference is of the setting alone; where two
intervals of 95 % are apart the table says so.

    OMP_NUM_THREADS=1 python bench/ablations.py DATA --out RUN [--model xiaomo] [--limit 20] [--steps 4 8 20 50]
        [--guidance 1 1.5 2 3 5] [--table]

DATA is what `bimo data artwork` or `bimo data scenes` wrote. --table only writes what there is.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from bimo.evaluation.intervals import Interval, verdict
from bimo.evaluation.report import JSON_FILE, name_of, read_report, shown

#: The setting that all others are compared with: the model's own.
OWN = "own"
COST = "cost.json"
STEPS, GUIDANCE = (4, 8, 20, 50), (1.0, 1.5, 2.0, 3.0, 5.0)
MARKS = {"above": " ↑", "below": " ↓", "not apart": ""}


def settings(steps: Sequence[int], guidance: Sequence[float]) -> Iterator[tuple[str, dict[str, Any]]]:
    """(folder, settings) of each evaluation: the model's own settings, then with one changed at a time."""
    yield OWN, {}
    yield from ((f"steps-{count}", {"steps": count}) for count in steps)
    yield from ((f"guidance-{scale:g}", {"guidance": scale}) for scale in guidance)


def run(model: str, data: Path, out: Path, limit: int, cells: Sequence[tuple[str, dict[str, Any]]]) -> None:
    """Runs evaluations that have no report yet, and writes the table after each."""
    from bimo.hub.loading import load
    from bimo.xiaomo.evaluation.run import evaluate

    engine = load(model)
    for name, changed in cells:
        if not (out / name / JSON_FILE).is_file():
            begun = time.process_time()
            evaluate(engine, data, out / name, limit=limit, **changed)
            spent = {"core-seconds of the last piece": round(time.process_time() - begun, 1)}
            (out / name / COST).write_text(json.dumps(spent | {"threads": os.environ.get("OMP_NUM_THREADS", "all")}))
        write_table(out, cells, limit)


def write_table(out: Path, cells: Sequence[tuple[str, dict[str, Any]]], limit: int) -> Path:
    """Writes ``ablations.md``: a row for each measure, a column for each setting that has a report."""
    reports = {name: read_report(out / name / JSON_FILE) for name, _ in cells if (out / name / JSON_FILE).is_file()}
    if not reports:
        raise SystemExit(f"{out} holds no report yet")
    figures = {name: {name_of(one): one for one in report.figures} for name, report in reports.items()}
    rows = list(dict.fromkeys(measure for found in figures.values() for measure in found))
    first = next(iter(reports.values()))
    lines = [
        f"{first.recipe}, weights {first.weights[:12]}, at most {limit} questions of each group and language; "
        f"{platform.processor() or platform.machine()}. ↑ ↓: the interval lies apart from that of `{OWN}`.",
        "",
        "| measure | n | " + " | ".join(_head(name, report.protocol) for name, report in reports.items()) + " |",
        "|---" * (len(reports) + 2) + "|",
    ]
    for measure in rows:
        some = next(found[measure] for found in figures.values() if measure in found)
        cells_of = [_cell(found.get(measure), figures.get(OWN, {}).get(measure)) for found in figures.values()]
        lines.append(f"| {measure} | {some['model']['n']} | {' | '.join(cells_of)} |")
    path = out / "ablations.md"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def _head(name: str, protocol: dict[str, Any]) -> str:
    return f"{name}: {protocol['steps']} steps, guidance {protocol['guidance']:g}"


def _cell(figure: dict[str, Any] | None, own: dict[str, Any] | None) -> str:
    if figure is None:
        return "–"
    text = shown(figure["model"], figure["unit"])
    if own is None or None in (figure["model"]["value"], own["model"]["value"]):
        return text
    return text + MARKS[verdict(_interval(figure["model"]), _interval(own["model"]))]


def _interval(fields: dict[str, Any]) -> Interval:
    return Interval(*(fields[name] for name in ("value", "low", "high", "n")))


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model", default="xiaomo")
    parser.add_argument("--limit", type=int, default=20)
    parser.add_argument("--steps", type=int, nargs="*", default=STEPS)
    parser.add_argument("--guidance", type=float, nargs="*", default=GUIDANCE)
    parser.add_argument("--table", action="store_true")
    given = parser.parse_args()
    cells = list(settings(given.steps, given.guidance))
    if not given.table:
        run(given.model, given.data, given.out, given.limit, cells)
    print(write_table(given.out, cells, given.limit))


if __name__ == "__main__":
    main()
