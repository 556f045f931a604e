"""Phase 2: takes the steps in order, by stored scores; the first verdict on a row counts.

Neighbouring steps that judge single rows form a group and run unit by unit; a step with a model, or over the whole set,
is a group of its own. After each group the state of every row is saved.
"""

# pyarrow has no types; what crosses it here is named where it is kept.
# pyright: reportUnknownArgumentType=false, reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

import json
import os
import shutil
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from bimo.core.errors import BimoError, DataError, RecipeError
from bimo.core.part import Part, dump
from bimo.curation.executors.executor import Executor
from bimo.curation.phases.ingest import JOINED
from bimo.curation.phases.measure import SCORE_SEPARATOR, measured_steps, scores_of
from bimo.curation.phases.row_state import (
    KEPT,
    LEFT,
    Columns,
    RowState,
    load_row_states,
    plain_value,
    save_row_states,
)
from bimo.curation.phases.store import Work, digest, fingerprint_of, load_rows, load_table, names_in, of_cell, sweep
from bimo.curation.steps import (
    CaptionStep,
    Change,
    ModelStep,
    PictureStep,
    TableStep,
    Verdict,
    WriterStep,
    step_name,
)

VERSION = 1
NO_CAPTION = "no caption"
#: The rule that drops a row whose picture an earlier row has; that one gets its captions. Before every step.
ONE_PICTURE, BEFORE_ALL = "OnePicture", -1
ONE_PICTURE_REASON = ("说明并到同一张图的第一行", "captions joined to the first row of the same picture")


@dataclass(frozen=True)
class StepGroup:
    """Steps that run together; ``first`` is the index of the first of them."""

    kind: str
    first: int
    steps: tuple[Part, ...]

    def digest(self) -> str:
        """A digest of what the outcome depends on besides the rows: settings, measurements, files named in settings."""
        measuring = [step.measuring() for step in self.steps if isinstance(step, PictureStep)]
        settings = [dump(step) for step in self.steps]
        return digest(VERSION, self.kind, self.first, settings, measuring, _files_in(settings))


def _files_in(settings: Any) -> list[Any]:
    """Size and time of every file that a setting names, such as a word list or a tokenizer."""
    if isinstance(settings, Mapping):
        return [found for value in cast("Mapping[str, Any]", settings).values() for found in _files_in(value)]
    if isinstance(settings, list):
        return [found for value in cast("list[Any]", settings) for found in _files_in(value)]
    # Only what looks like a path: a setting such as "zh" may have a namesake in the working directory.
    if not isinstance(settings, str) or not (os.sep in settings or "." in settings) or len(settings) > 4000:
        return []
    path = Path(settings).expanduser()
    with suppress(OSError, ValueError):
        files = [path] if path.is_file() else sorted(p for p in path.glob("*") if p.is_file())
        return [[str(file), file.stat().st_size, file.stat().st_mtime_ns] for file in files]
    return []


def kind_of(step: Part) -> str:
    """ "row", "model", "writer" or "table" (also for a table step that measures pictures). Raises RecipeError for what
    is no step.
    """
    kinds = (("table", TableStep), ("row", (PictureStep, CaptionStep)), ("model", ModelStep), ("writer", WriterStep))
    for kind, protocol in kinds:
        if isinstance(step, protocol):
            return kind
    raise RecipeError(
        "{named} is no step of curation: it derives from none of PictureStep, CaptionStep, ModelStep, WriterStep "
        "or TableStep of bimo.curation.steps",
        named=step_name(step),
    )


def step_groups(steps: Sequence[Part]) -> list[StepGroup]:
    """The steps in groups: the first always judges rows, to mark those that failed to decode; the last has no steps."""
    groups = [StepGroup("row", 0, ())]
    for place, step in enumerate(steps):
        kind = kind_of(step)
        # It measures each picture and then decides over the whole set: pictures it could not measure fail before.
        kinds = ("row", "table") if kind == "table" and isinstance(step, PictureStep) else (kind,)
        for one in kinds:
            if one == "row" and groups[-1].kind == "row":
                first = groups[-1].first if groups[-1].steps else place
                groups[-1] = StepGroup("row", first, (*groups[-1].steps, step))
            else:
                groups.append(StepGroup(one, place, (step,)))
    return [*groups, StepGroup("end", len(steps), ())]


@dataclass(frozen=True)
class Judge:
    """Runs a step group over a unit, in any process; returns how many rows there are and how many are left.

    ``before`` is the folder of the row states so far, "" at the start; ``results_folder`` that of a model's results.
    """

    work: Work
    group: StepGroup
    group_digest: str
    before: str
    after: str
    results_folder: str = ""

    def __call__(self, unit: int) -> tuple[int, int]:
        """Judges a unit, unless that is done already."""
        after = self.work.unit(self.after, unit)
        rooms = [self.before] if self.before else ["rows", "measured", JOINED]
        rooms += [self.results_folder] if self.results_folder else []
        inputs_digest = digest(
            self.group_digest, [fingerprint_of(self.work.unit(folder_name, unit)) for folder_name in rooms]
        )
        if fingerprint_of(after) == inputs_digest:
            states = load_table(after, ["state"])["state"].to_pylist()
            return len(states), sum(state in (LEFT, KEPT) for state in states)
        row_states = load_row_states(self.work.unit(self.before, unit)) if self.before else self._initial_states(unit)
        if self.group.kind == "row":
            self._judge_rows(unit, row_states)
        elif self.group.kind in ("model", "writer"):
            self._judge_results(unit, row_states)
        else:
            for row in row_states:
                if row.state == LEFT and row.captions:
                    row.state = KEPT
                elif row.state == LEFT:
                    row.fail(NO_CAPTION)
        save_row_states(after, row_states, inputs_digest)
        return len(row_states), sum(row.state in (LEFT, KEPT) for row in row_states)

    def _initial_states(self, unit: int) -> list[RowState]:
        """The row states before any step: left or failed."""
        states: list[RowState] = []
        joined = self.work.unit(JOINED, unit)
        one_picture = {row["number"]: row for row in load_rows(joined)} if joined.is_file() else {}
        measured = load_rows(self.work.unit("measured", unit), ["failed", "detail"])
        for row, measurements in zip(load_rows(self.work.unit("rows", unit)), measured, strict=True):
            row_state = RowState(row["number"], tuple(row["captions"]), of_cell(row["labels"]))
            if row["reason"] is not None or measurements["failed"] is not None:
                row_state.fail(row["reason"] or measurements["failed"], row["detail"] or measurements["detail"] or "")
            elif (same := one_picture.get(row["number"])) is not None:
                if same["first"] != row["number"]:
                    row_state.drop(BEFORE_ALL, ONE_PICTURE, Verdict(same["first"], ""))
                elif tuple(same["captions"]) != row_state.captions:
                    row_state.note(BEFORE_ALL, ONE_PICTURE, "captions changed", before=len(row_state.captions))
                    row_state.captions = tuple(same["captions"])
            states.append(row_state)
        return states

    def _judge_rows(self, unit: int, states: Sequence[RowState]) -> None:
        # isinstance takes longer than some steps take to judge, so it is called once.
        steps = [
            (place, step, step.measuring() if isinstance(step, PictureStep) else "")
            for place, step in enumerate(self.group.steps, self.group.first)
        ]
        names = [name for name in names_in(self.work.unit("measured", unit)) if SCORE_SEPARATOR in name]
        columns = {
            m: [
                (name, name.removeprefix(m + SCORE_SEPARATOR)) for name in names if name.startswith(m + SCORE_SEPARATOR)
            ]
            for _, _, m in steps
        }
        measured = load_rows(self.work.unit("measured", unit))
        for row, scores in zip(states, measured, strict=True):
            for place, step, measuring in steps:
                if row.state != LEFT:
                    break
                if measuring:
                    own = {name: scores[column] for column, name in columns[measuring]}
                    _judge_picture(row, place, cast(PictureStep, step), measuring, scores, own)
                else:
                    _judge_captions(row, place, cast(CaptionStep, step))

    def _judge_results(self, unit: int, states: Sequence[RowState]) -> None:
        place, step = self.group.first, self.group.steps[0]
        answers = {row["number"]: row for row in load_rows(self.work.unit(self.results_folder, unit))}
        for row in states:
            if row.state != LEFT:
                continue
            answer = answers[row.number]
            if answer["failed"] is not None:
                row.fail(answer["failed"], answer["detail"] or "")
            elif isinstance(step, ModelStep):
                _judge_scores(row, place, step, scores_of(answer, "score"))
            else:
                reply = json.loads(answer["answer"])
                if "captions" in reply:
                    row.note(place, step_name(step), "captions written", before=len(row.captions))
                    row.captions = tuple(reply["captions"])
                else:
                    row.drop(place, step_name(step), Verdict(reply["value"], reply["threshold"]))


def _judge_picture(
    row: RowState, place: int, step: PictureStep, measuring: str, measured: Mapping[str, Any], scores: Mapping[str, Any]
) -> None:
    rule = step_name(cast(Part, step))
    failures = of_cell(measured["failures"])
    if measuring in failures:
        row.fail(f"measure {rule}: {failures[measuring][0]}", failures[measuring][1])
    elif measuring not in measured_steps(measured["known"]):
        raise DataError(
            "{rule} has not measured the picture of row {number} yet; run without --select-only",
            rule=rule,
            number=row.number,
        )
    else:
        _judge_scores(row, place, step, scores)


def _judge_scores(row: RowState, place: int, step: PictureStep | ModelStep, scores: Mapping[str, Any]) -> None:
    rule = step_name(cast(Part, step))
    try:
        verdict = step.judge(scores)
    except BimoError:
        raise
    # A row that a step cannot judge fails; the others go on.
    except Exception as error:
        row.fail(f"judge {rule}: {type(error).__name__}", str(error)[:200])
        return
    if verdict is not None:
        row.drop(place, rule, verdict)


def _judge_captions(row: RowState, place: int, step: CaptionStep) -> None:
    rule = step_name(cast(Part, step))
    captions: dict[str, None] = {}
    last: Verdict | None = None
    for index, text in enumerate(row.captions):
        try:
            result = step.caption(text)
            if isinstance(result, str):
                result.encode()
        except BimoError:
            raise
        # As above: the row fails.
        except Exception as error:
            row.fail(f"caption {rule}: {type(error).__name__}", str(error)[:200])
            return
        if isinstance(result, Verdict):
            last = result
            details = {"value": plain_value(result.value), "threshold": plain_value(result.threshold)}
            row.note(place, rule, "caption dropped", caption=index, **details)
            continue
        if result in captions:
            row.note(place, rule, "caption dropped", caption=index, value="the same as another", threshold="")
        elif result != text:
            row.note(place, rule, "caption mended", caption=index)
        captions[result] = None
    row.captions = tuple(captions)
    if last is not None and not captions:
        row.drop(place, rule, last)


#: A unit and its changes, (number, change as JSON) in the order of the rows.
Changes = tuple[int, tuple[tuple[int, str], ...]]


def select_table(
    work: Work, group: StepGroup, before: str, after: str, firsts: Sequence[int], table: Columns, workers: Executor
) -> None:
    """Runs a step over the whole set. Its changes are stored in SQLite and then applied unit by unit."""
    units = range(len(firsts))
    prints = [fingerprint_of(work.unit(before, unit)) for unit in units]
    inputs_digest = digest(group.digest(), prints)
    if all(fingerprint_of(work.unit(after, unit)) == f"{inputs_digest} {unit}" for unit in units):
        return
    waiting = work.folder / "changes.sqlite"
    waiting.unlink(missing_ok=True)
    with closing(sqlite3.connect(waiting)) as changes:
        changes.execute("PRAGMA journal_mode=OFF")
        changes.execute("PRAGMA synchronous=OFF")
        changes.execute("CREATE TABLE changes (number INTEGER, what TEXT)")
        selected = cast(TableStep, group.steps[0]).select(table)
        changes.executemany("INSERT INTO changes VALUES (?, ?)", ((c.number, _change(c)) for c in selected))
        changes.execute("CREATE INDEX by_number ON changes (number)")
        for _ in workers.answers(Apply(work, group, inputs_digest, before, after), _by_unit(changes, firsts)):
            pass
    waiting.unlink()


def _by_unit(changes: sqlite3.Connection, firsts: Sequence[int]) -> Iterator[Changes]:
    between = "SELECT number, what FROM changes WHERE number >= ? AND number < ? ORDER BY number, rowid"
    for unit, ends in enumerate(zip(firsts, [*firsts[1:], 1 << 62], strict=True)):
        yield unit, tuple(changes.execute(between, ends))


@dataclass(frozen=True)
class Apply:
    """Applies the changes of a table step to one unit, in any process."""

    work: Work
    group: StepGroup
    inputs_digest: str
    before: str
    after: str

    def __call__(self, job: Changes) -> None:
        """Raises DataError for a change of a row that is not left."""
        unit, changes = job
        place, rule = self.group.first, step_name(self.group.steps[0])
        rows = load_row_states(self.work.unit(self.before, unit))
        by_number = {row.number: row for row in rows}
        for number, what in changes:
            row = by_number.get(number)
            if row is None or (row.state != LEFT and row.step != place):
                raise DataError(
                    "{rule} changes row {number}, which is not among those that are left", rule=rule, number=number
                )
            _apply(row, place, rule, json.loads(what))
        save_row_states(self.work.unit(self.after, unit), rows, f"{self.inputs_digest} {unit}")


def _change(change: Change) -> str:
    verdict = (
        None if change.verdict is None else [plain_value(change.verdict.value), plain_value(change.verdict.threshold)]
    )
    if change.repeats < 1 and verdict is None:
        raise DataError("row {number} is dropped without a verdict", number=change.number)
    captions = None if change.captions is None else list(change.captions)
    labels = None if change.labels is None else {name: plain_value(value) for name, value in change.labels.items()}
    return json.dumps([verdict, captions, int(change.repeats), labels])


def _apply(row: RowState, step: int, rule: str, change: Sequence[Any]) -> None:
    verdict, captions, repeats, labels = change
    if captions is not None and tuple(captions) != row.captions:
        row.note(step, rule, "captions changed", before=len(row.captions))
        row.captions = tuple(captions)
    if labels:
        row.note(step, rule, "labels", labels=labels)
        row.labels = row.labels | labels
    if repeats != 1 and verdict is None:
        row.note(step, rule, "repeats", value=repeats)
        row.repeats *= max(repeats, 1)
    if verdict is not None:
        row.drop(step, rule, Verdict(*verdict))


def clear_after(work: Work, count: int) -> None:
    """Removes the row states of a longer list of steps."""
    for folder in sorted((work.folder / "standing").glob("*")):
        if not folder.name.isdigit() or int(folder.name) >= count:
            shutil.rmtree(folder, ignore_errors=True)


def clear_units(work: Work, count: int, units: int) -> None:
    """Removes the row states of units that no longer exist."""
    for group in range(count):
        sweep(work.folder / folder_name(group), units)


def folder_name(group: int) -> str:
    """The folder of the row states after a step group."""
    return f"standing/{group:02d}"
