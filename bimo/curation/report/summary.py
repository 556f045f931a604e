"""The summary of a run: every row is kept, dropped by a rule or failed with a reason, and the sums are checked.

``report.json`` has the data of the page: counts by rule and by reason, histograms of every score, and the rows just
above and just below each threshold.
"""

# numpy has no types; what crosses it here is named where it is kept.
# pyright: reportUnknownArgumentType=false, reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

import heapq
import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np

from bimo.core.errors import DataError
from bimo.core.part import Part, dump
from bimo.curation.executors.executor import Executor
from bimo.curation.phases.row_state import DROPPED, FAILED, KEPT
from bimo.curation.phases.select import BEFORE_ALL, ONE_PICTURE, ONE_PICTURE_REASON
from bimo.curation.phases.store import load_table, of_cell
from bimo.curation.phases.write import ScoreColumn
from bimo.curation.steps import Curation, Step, fields_of, step_name

BINS = 40
#: Rows that are listed on each side of a threshold, and thresholds that are listed of a rule.
NEAR, THRESHOLDS = 8, 4


@dataclass
class Counts:
    """The counts of the table: rows by state, rule and reason, captions by rule, ranges of scores."""

    rows: int = 0
    states: Counter[str] = field(default_factory=Counter[str])
    rules: Counter[int] = field(default_factory=Counter[int])
    reasons: Counter[str] = field(default_factory=Counter[str])
    converted: Counter[str] = field(default_factory=Counter[str])
    captions: Counter[tuple[int, str]] = field(default_factory=Counter["tuple[int, str]"])
    thresholds: Counter[tuple[int, float]] = field(default_factory=Counter["tuple[int, float]"])
    samples: int = 0
    scores: dict[str, list[float]] = field(default_factory=dict[str, "list[float]"])

    def add(self, other: Counts) -> None:
        """Adds the counts of another unit."""
        self.rows += other.rows
        self.samples += other.samples
        self.states.update(other.states)
        self.rules.update(other.rules)
        self.reasons.update(other.reasons)
        self.converted.update(other.converted)
        self.captions.update(other.captions)
        self.thresholds.update(other.thresholds)
        for name, values in other.scores.items():
            known = self.scores.setdefault(name, [0, 0, math.inf, -math.inf, 0.0])
            known[0] += values[0]
            known[1] += values[1]
            known[2], known[3] = min(known[2], values[2]), max(known[3], values[3])
            known[4] += values[4]


@dataclass(frozen=True)
class CountUnit:
    """Counts the table of one unit, in any process."""

    out: Path
    scores: tuple[str, ...]

    def __call__(self, unit: int) -> Counts:
        """The counts. Of a score: the number of finite and of other values, minimum, maximum and sum."""
        names = ["state", "rule", "step", "reason", "threshold", "trail", "repeats", "converted", *self.scores]
        table = load_table(self.out / "table" / f"{unit:06d}.parquet", names)
        counts = Counts(rows=len(table))
        states, reasons = table["state"].to_pylist(), table["reason"].to_pylist()
        steps, thresholds = table["step"].to_pylist(), table["threshold"].to_pylist()
        counts.states.update(states)
        counts.samples = sum(table["repeats"].to_pylist())
        profiles = table["converted"].to_pylist()
        counts.converted.update(p for p, state in zip(profiles, states, strict=True) if p and state == KEPT)
        for state, step, reason, threshold in zip(states, steps, reasons, thresholds, strict=True):
            if state == DROPPED:
                counts.rules[step] += 1
                value = json.loads(threshold)
                if isinstance(value, (int, float)) and math.isfinite(value):
                    counts.thresholds[step, float(value)] += 1
            elif state == FAILED:
                counts.reasons[reason] += 1
        for trail in table["trail"].to_pylist():
            for what in of_cell(trail):
                if what["what"] not in ("dropped", "failed"):
                    counts.captions[what["step"], what["what"]] += 1
        for name in self.scores:
            values = _numbers(table, name)
            if values is not None:
                finite = values[np.isfinite(values)]
                ends = [float(finite.min()), float(finite.max())] if len(finite) else [math.inf, -math.inf]
                counts.scores[name] = [len(finite), len(values) - len(finite), *ends, float(finite.sum())]
        return counts


def _numbers(table: Any, name: str) -> np.ndarray | None:
    """[N] float64 of a column of scores, NaN where a value is missing; None for a column of texts."""
    if str(table.schema.field(name).type) == "string":
        return None
    return np.array([math.nan if v is None else float(v) for v in table[name].to_pylist()], dtype=np.float64)


@dataclass(frozen=True)
class Threshold:
    """A threshold of a rule, and the column that it is compared with."""

    step: int
    value: float
    column: str


@dataclass
class Details:
    """Histograms of a unit by score, of all and of the kept rows; rows near thresholds as (distance, number, ...)."""

    counts: dict[str, np.ndarray]
    kept: dict[str, np.ndarray]
    near: dict[Threshold, dict[str, list[tuple[float, int, float, str]]]]


@dataclass(frozen=True)
class CountDetails:
    """Counts the details of a unit, once the ranges of all scores are known."""

    out: Path
    edges: Mapping[str, tuple[float, ...]]
    thresholds: tuple[Threshold, ...]

    def __call__(self, unit: int) -> Details:
        """The details of a unit."""
        names = dict.fromkeys([*self.edges, *(t.column for t in self.thresholds)])
        fixed = ["number", "source", "state", "step"]
        table = load_table(self.out / "table" / f"{unit:06d}.parquet", [*fixed, *names])
        kept = np.array([state == KEPT for state in table["state"].to_pylist()], dtype=bool)
        details = Details({}, {}, {})
        for name, edges in self.edges.items():
            values = _numbers(table, name)
            assert values is not None
            finite = np.isfinite(values)
            details.counts[name] = np.histogram(values[finite], edges)[0]
            details.kept[name] = np.histogram(values[finite & kept], edges)[0]
        states, steps = table["state"].to_pylist(), table["step"].to_pylist()
        numbers, sources = table["number"].to_pylist(), table["source"].to_pylist()
        for threshold in self.thresholds:
            values = _numbers(table, threshold.column)
            sides: dict[str, list[tuple[float, int, float, str]]] = {"dropped": [], "passed": []}
            for at, value in enumerate([] if values is None else values.tolist()):
                by_this = states[at] == DROPPED and steps[at] == threshold.step
                passed = states[at] == KEPT or (states[at] == DROPPED and steps[at] > threshold.step)
                if (by_this or passed) and math.isfinite(value):
                    row = (abs(value - threshold.value), numbers[at], value, sources[at])
                    sides["dropped" if by_this else "passed"].append(row)
            details.near[threshold] = {side: heapq.nsmallest(NEAR, rows) for side, rows in sides.items()}
        return details


def summary(
    out: Path,
    units: int,
    steps: Sequence[Part],
    scores: Sequence[ScoreColumn],
    judged: Mapping[int, str],
    workers: Executor,
) -> tuple[Counts, dict[str, Any]]:
    """The counts of the whole table, and the tables of the report. ``judged`` is step -> the column it judges by.

    Raises DataError where a unit's table cannot be read.
    """
    counts = Counts()
    task = CountUnit(out, tuple(dict.fromkeys([*(score.name for score in scores), *judged.values()])))
    parts = dict(workers.answers(task, range(units)))
    for unit in range(units):
        counts.add(parts[unit])
    edges: dict[str, tuple[float, ...]] = {}
    for name, (count, _, least, most, _) in counts.scores.items():
        if count:
            edges[name] = _edges(least, most)
    ranked = sorted(counts.thresholds.items(), key=lambda item: (item[0][0], -item[1], item[0][1]))
    places = Counter[int]()
    thresholds: list[Threshold] = []
    for (step, value), _ in ranked:
        places[step] += 1
        if step in judged and places[step] <= THRESHOLDS:
            thresholds.append(Threshold(step, value, judged[step]))
    details = dict(workers.answers(CountDetails(out, edges, tuple(thresholds)), range(units)))
    return counts, _tables(counts, [details[unit] for unit in range(units)], steps, edges, thresholds, judged)


def _edges(least: float, most: float) -> tuple[float, ...]:
    """The edges of a histogram; fewer bins where there are few distinct numbers."""
    edges = np.unique(np.linspace(least, most, BINS + 1)).tolist()
    return tuple(edges) if len(edges) > 1 else (least, float(np.nextafter(least, math.inf)))


def _tables(
    counts: Counts,
    details: Sequence[Details],
    steps: Sequence[Part],
    edges: Mapping[str, tuple[float, ...]],
    thresholds: Sequence[Threshold],
    judged: Mapping[int, str],
) -> dict[str, Any]:
    near: dict[int, list[dict[str, Any]]] = {}
    for threshold in thresholds:
        sides: dict[str, Any] = {"threshold": threshold.value}
        for side in ("dropped", "passed"):
            rows = heapq.nsmallest(NEAR, [row for part in details for row in part.near[threshold][side]])
            sides[side] = [{"number": number, "value": value, "source": source} for _, number, value, source in rows]
        near.setdefault(threshold.step, []).append(sides)
    rules = []
    for place, step in enumerate(steps):
        reason = cast(Step, step).reason()
        changes = {what: count for (at, what), count in sorted(counts.captions.items()) if at == place}
        rules.append(
            {"step": place, "rule": step_name(step), "zh": reason[0], "en": reason[1], "settings": fields_of(step)}
            | {"dropped": counts.rules[place], "changes": changes}
            | {"score": judged.get(place), "thresholds": near.get(place, [])}
        )
    if counts.rules[BEFORE_ALL]:
        changes = {what: count for (at, what), count in sorted(counts.captions.items()) if at == BEFORE_ALL}
        rules.append(
            {"step": BEFORE_ALL, "rule": ONE_PICTURE, "zh": ONE_PICTURE_REASON[0], "en": ONE_PICTURE_REASON[1]}
            | {"settings": {}, "dropped": counts.rules[BEFORE_ALL], "changes": changes, "score": None, "thresholds": []}
        )
    shown: dict[str, Any] = {}
    for name, (count, missing, least, most, total) in counts.scores.items():
        shown[name] = {"count": int(count), "missing": int(missing)}
        if count:
            shown[name] |= {"least": least, "most": most, "mean": total / count, "edges": list(edges[name])}
            shown[name]["counts"] = np.sum([part.counts[name] for part in details], axis=0).tolist()
            shown[name]["kept"] = np.sum([part.kept[name] for part in details], axis=0).tolist()
    converted = dict(sorted(counts.converted.items()))
    return {
        "rules": rules,
        "failures": dict(sorted(counts.reasons.items())),
        "converted": converted,
        "scores": shown,
    }


def check(rows_in: int, counts: Counts, index: int, samples: int | None) -> None:
    """Raises DataError where the numbers do not agree: rows read, the table, the index and the shards."""
    states = {state: counts.states[state] for state in (KEPT, DROPPED, FAILED)}
    whole = sum(states.values()) == counts.rows == rows_in
    if whole and index == states[KEPT] and samples in (None, counts.samples):
        return
    equation = f"{rows_in} ≠ {states[KEPT]} + {states[DROPPED]} + {states[FAILED]}"
    raise DataError(
        "the account does not balance: rows in {rows_in}, in the table {rows}, kept {states}, dropped "
        "{states_2}, failed {states_3}, in the index {index}, in shards {samples} of {samples_2} "
        "({told}); delete the folder work, run again, and report this",
        rows_in=rows_in,
        rows=counts.rows,
        states=states[KEPT],
        states_2=states[DROPPED],
        states_3=states[FAILED],
        index=index,
        samples=samples,
        samples_2=counts.samples,
        told=equation,
    )


def numbers(rows_in: int, counts: Counts, seconds: float, opened: int, killed: int) -> dict[str, Any]:
    """The numbers of the report."""
    return {
        "rows_in": rows_in,
        "kept": counts.states[KEPT],
        "dropped": counts.states[DROPPED],
        "failed": counts.states[FAILED],
        "samples": counts.samples,
        "pictures_opened": opened,
        "workers_killed": killed,
        "seconds": round(seconds, 3),
        "rows_a_second": round(rows_in / seconds, 1) if seconds > 0 else 0.0,
    }


def dumped(curation: Curation) -> Any:
    """The steps as they were run, for the report."""
    return dump(curation)
