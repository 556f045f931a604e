"""`bimo curate`: reads, measures, selects, writes and reports; each phase resumes where an earlier run was interrupted.

Below ``out``: shards with ``index.json`` as training reads them, ``table/`` with every row, ``selection.parquet`` with
the kept ones, ``report.json`` and ``report.html``, and ``work/`` with what makes the next run short. Shards, index and
tables have the same bytes whatever the number of workers, and however often the run was killed.
"""

# pyarrow has no types; what crosses it here is named where it is kept.
# pyright: reportUnknownArgumentType=false, reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

from bimo.core.errors import DataError
from bimo.core.files import alone
from bimo.core.messages import Message, say
from bimo.core.part import Part
from bimo.curation.executors.executor import Executor, SerialExecutor
from bimo.curation.phases import ingest, measure, write
from bimo.curation.phases.ingest import Ingested
from bimo.curation.phases.measure import SCORE_SEPARATOR, Measure, Slice
from bimo.curation.phases.model_inference import ModelInference, answers_folder
from bimo.curation.phases.row_state import Columns, Scored
from bimo.curation.phases.select import (
    Judge,
    StepGroup,
    clear_after,
    clear_units,
    folder_name,
    select_table,
    step_groups,
)
from bimo.curation.phases.store import Work, begin_arrow, load_table, read_json, save_json, sweep, unwritten
from bimo.curation.report import summary
from bimo.curation.report.page import PAGE, write_page
from bimo.curation.steps import Curation, ModelStep, PictureStep, Step, TableStep, Tools, WriterStep
from bimo.data.shards import INDEX, write_index

if TYPE_CHECKING:
    from bimo.curation.readers.detect_format import SourceFormat
    from bimo.curation.readers.fetch import Limits

REPORT = "report.json"
#: How every file of the source was used, in the work folder.
FILES = "files.json"


class Progress(Protocol):
    """Shows how far a run is."""

    def phase(self, name: Message, total: int | None) -> None:
        """A phase begins, of so many rows."""
        ...

    def advance(self, rows: int, kept: int | None = None) -> None:
        """``rows`` more were processed, of which ``kept`` are kept so far, where that is known."""
        ...


class NoProgress:
    """Shows nothing."""

    def phase(self, name: Message, total: int | None) -> None:
        """Nothing."""

    def advance(self, rows: int, kept: int | None = None) -> None:
        """Nothing."""


@dataclass
class Run:
    """One run: its source and output, its executors, and the results that the phases pass on."""

    source: Path
    out: Path
    curation: Curation
    workers: Executor
    tools: Tools
    progress: Progress
    stored: bool
    model_workers: Executor
    limits: Limits | None
    what: SourceFormat | None = None
    work: Work = field(init=False)

    def __post_init__(self) -> None:
        self.work = Work(self.out / "work")

    @property
    def killed(self) -> int:
        """How many worker processes the system killed."""
        return sum(crew.killed for crew in {id(crew): crew for crew in (self.workers, self.model_workers)}.values())

    def read(self) -> Ingested:
        """Phase 0."""
        if self.stored:
            return ingest.read_ingested(self.work)
        self.progress.phase(Message("reading"), None)
        return ingest.ingest(self.source, self.work, self.progress.advance, self.limits)

    def files(self, ingested: Ingested) -> Any:
        """How every file of the source was used, and the detected format; with ``stored``, as the last run saved it."""
        from bimo.curation.readers.inventory import inventory

        path = self.work.folder / FILES
        if self.what is None:
            return read_json(path)
        pictures = (
            name
            for unit in range(ingested.units if self.what.tables else 0)
            for name in load_table(self.work.unit("rows", unit), ["path"])["path"].to_pylist()
        )
        account = {"read_as": {"zh": self.what.description.zh, "en": self.what.description.en}} | inventory(
            self.source, self.what, pictures
        ).plain()
        save_json(path, account)
        return account

    def measure(self, ingested: Ingested) -> int:
        """Phase 1; returns how many pictures were opened."""
        sweep(self.work.folder / "measured", 0, ".part")
        sweep(self.work.folder / "measured", ingested.units)
        self.progress.phase(Message("looking at pictures"), ingested.rows)
        task = Measure(self.source, self.work, self.curation.steps)
        measure.measured_by(self.curation.steps)
        halved = set[int]()
        opened = 0
        # Some small units first, for an early estimate; then the largest first, so that workers finish together.
        order = sorted(range(ingested.units), key=lambda unit: (unit >= 4, -ingested.counts[unit]))
        jobs = (Slice(unit, ingested.counts[unit]) for unit in order)
        for job, done in self.workers.answers(task, jobs):
            self.progress.advance(done.rows, done.kept)
            opened += done.opened
            if job.stop >= 0:
                halved.add(job.unit)
        for unit in sorted(halved):
            task.join(unit)
        return opened

    def select(self, ingested: Ingested) -> tuple[str, list[Scored], tuple[Part, ...]]:
        """Phase 2: the folder of the last row states, where the scores are, and the steps with settled thresholds."""
        every = step_groups(self.curation.steps)
        units = range(ingested.units)
        scored: list[Scored] = []
        settled = list(self.curation.steps)
        before = ""
        for place, group in enumerate(every):
            after, results_folder = folder_name(place), ""
            rule = ", ".join(type(step).__name__ for step in group.steps[:3]) or say("closing")
            self.progress.phase(Message("selecting: {rule}", rule=rule), ingested.rows)
            for at, step in enumerate(group.steps, group.first):
                if group.kind == "row" and isinstance(step, PictureStep):
                    scored.append(Scored("measured", step.measuring() + SCORE_SEPARATOR, at))
            if group.kind in ("model", "writer"):
                group, results_folder = self._run_model(group, before, ingested, scored)
            if group.kind == "table":
                table = Columns(self.work, ingested.units, before, scored)
                select_table(self.work, group, before, after, ingested.firsts, table, self.workers)
                self.progress.advance(ingested.rows)
            else:
                self._judge(Judge(self.work, group, group.digest(), before, after, results_folder), units)
            if group.kind == "model":
                settled[group.first] = group.steps[0]
            before = after
        clear_after(self.work, len(every))
        clear_units(self.work, len(every), ingested.units)
        return before, scored, tuple(settled)

    def _judge(self, task: Judge, units: Iterable[int]) -> None:
        for _, (rows, left) in self.workers.answers(task, units):
            self.progress.advance(rows, left)

    def _run_model(
        self, group: StepGroup, before: str, ingested: Ingested, scored: list[Scored]
    ) -> tuple[StepGroup, str]:
        """Runs a model or writer step, and returns the step group with its threshold settled."""
        step = group.steps[0]
        assert isinstance(step, (ModelStep, WriterStep))
        results_folder = answers_folder(step, self.tools)
        task = ModelInference(self.source, self.work, step, self.tools, before, results_folder, self.stored)
        executor = self.model_workers if step.single else self.workers
        for _, (rows, _) in executor.answers(task, range(ingested.units)):
            self.progress.advance(rows)
        sweep(self.work.folder / results_folder, ingested.units)
        if isinstance(step, ModelStep):
            scored.append(Scored(results_folder, f"score{SCORE_SEPARATOR}", group.first))
            step = step.settled(Columns(self.work, ingested.units, before, scored))
        self.progress.phase(Message("selecting: {rule}", rule=type(step).__name__), ingested.rows)
        return StepGroup(group.kind, group.first, (step,)), results_folder

    def write(self, ingested: Ingested, last: str) -> tuple[list[list[tuple[int, write.Share]]], dict[int, str], int]:
        """Phase 3: the shards. Returns their parts of each unit, the rows that were lost, and the number of samples."""
        planned = write.plan(self.work, ingested.units, last)
        total = sum(share.count for shares in planned for share in shares)
        self.progress.phase(Message("writing shards"), total)
        task = write.WriteShard(self.source, self.work, self.out, last)
        # No index lists shards that are being replaced.
        (self.out / INDEX).unlink(missing_ok=True)
        written_shards: list[write.WrittenShard] = []
        for _, result in self.workers.answers(task, list(enumerate(planned))):
            written_shards.append(result)
            self.progress.advance(result.shard.count)
        write.remove_shards(self.out, self.work, len(planned))
        sweep(self.work.folder / "lost", len(planned), ".json")
        if any(result.shard.count for result in written_shards):
            write_index(self.out, [result.shard for result in written_shards])
        by_unit: list[list[tuple[int, write.Share]]] = [[] for _ in range(ingested.units)]
        for number, shares in enumerate(planned):
            for share in shares:
                by_unit[share.unit].append((number, share))
        lost = {number: reason for result in written_shards for number, reason in result.lost}
        return by_unit, lost, sum(result.shard.count for result in written_shards)

    def tables(
        self,
        ingested: Ingested,
        last: str,
        scores: Sequence[write.ScoreColumn],
        shares: Sequence[Sequence[tuple[int, write.Share]]],
        lost: dict[int, str],
    ) -> None:
        """The table of every row, unit by unit."""
        self.progress.phase(Message("writing the table"), ingested.rows)
        stops = [*ingested.firsts[1:], 1 << 62]
        jobs = (
            (
                unit,
                tuple(shares[unit]) if shares else (),
                tuple((n, lost[n]) for n in sorted(lost) if ingested.firsts[unit] <= n < stops[unit]),
            )
            for unit in range(ingested.units)
        )
        task = write.WriteTable(self.work, self.out, last, tuple(scores))
        for job, _ in self.workers.answers(task, jobs):
            self.progress.advance(ingested.counts[job[0]])
        sweep(self.out / "table", ingested.units)
        sweep(self.work.folder / "table", ingested.units, ".json")


def curate(
    source: Path,
    out: Path,
    curation: Curation,
    *,
    tools: Tools,
    workers: Executor | None = None,
    model_workers: Executor | None = None,
    progress: Progress | None = None,
    stored: bool = False,
    limits: Limits | None = None,
) -> dict[str, Any]:
    """Runs a curation over a source and returns the report, which is also in ``out/report.json``.

    ``workers`` measure, judge and write; ``model_workers`` runs the large models (this process where it is None). With
    ``stored`` nothing of the source is read: the selection, the table and the report are made from stored scores, and
    the shards stay those of the run before. Addresses are fetched within ``limits``.

    Raises DataError for a source that cannot be read or has no rows, a full disk, an output folder of another source
    or of a run in progress, and where the counts do not add up.
    """
    began = time.monotonic()
    ingest.check_output_folder(source, out)
    workers = workers or SerialExecutor()
    run = Run(
        source,
        out,
        curation,
        workers,
        tools,
        progress or NoProgress(),
        stored,
        model_workers or SerialExecutor(),
        limits,
    )
    try:
        # Before anything is written, so that a start that fails leaves nothing.
        run.what = None if stored else ingest.require_rows(source)
        with alone(run.work.folder):
            return _curate(run, began)
    except OSError as error:
        path = Path(os.fsdecode(error.filename or out))
        if path.is_relative_to(source):
            raise DataError(
                "{path} cannot be read: {strerror}; what was finished is kept, mend this and run the same "
                "command again to go on",
                path=path,
                strerror=error.strerror,
            ) from error
        raise unwritten(error, path) from error
    finally:
        workers.close()


def _curate(run: Run, began: float) -> dict[str, Any]:
    out, stored = run.out, run.stored
    for name in (REPORT, PAGE):
        (out / name).unlink(missing_ok=True)
    for path in sorted({*out.glob(".*.part"), *out.glob("table/.*.part"), *run.work.folder.glob("*/**/.*.part")}):
        # Partial files of a run that was killed; the lock says that no other run writes here.
        path.unlink(missing_ok=True)
    run.workers.begin()
    begin_arrow()
    ingested = run.read()
    opened = 0 if stored else run.measure(ingested)
    last, scored, steps = run.select(ingested)
    shares, lost, samples = ([], {}, None) if stored else run.write(ingested, last)
    scores = write.score_columns(run.work, ingested.units, scored)
    run.tables(ingested, last, scores, shares, lost)
    index = write.write_selection(out, ingested.units)
    run.progress.phase(Message("accounting"), None)
    counts, tables = summary.summary(out, ingested.units, steps, scores, _judged(scored, steps, scores), run.workers)
    report = {
        "kind": "curate",
        "recipe": run.curation.name,
        "source": str(run.source.resolve()),
        "numbers": summary.numbers(ingested.rows, counts, time.monotonic() - began, opened, run.killed),
        "shards": None if stored else sum(1 for _ in out.glob("shard-*.tar")),
        "files": run.files(ingested),
        **tables,
        "curation": summary.dumped(run.curation),
    }
    save_json(out / REPORT, report)
    write_page(out, run.source)
    summary.check(ingested.rows, counts, index, samples)
    return report


def _judged(scored: Sequence[Scored], steps: Sequence[Part], scores: Sequence[write.ScoreColumn]) -> dict[int, str]:
    """The column of the table that each step judges by."""
    shown = {(score.folder_name, score.column): score.name for score in scores}
    columns: dict[int, str] = {}
    for one in scored:
        name = cast(Step, steps[one.place]).score_name()
        # A table step's threshold is not compared with a score of one picture.
        if isinstance(steps[one.place], TableStep):
            continue
        column = shown.get((one.folder_name, one.start + name), name if name in ("width", "height") else "")
        if column:
            columns[one.place] = column
    return columns
