"""`bimo curate`: reads, measures, selects, writes and accounts; each phase goes on where an earlier run was broken off.

Below ``out``: shards with ``index.json`` as training reads them, ``table/`` with every row, ``selection.parquet`` with
the kept ones, ``report.json`` and ``report.html``, and ``work/`` with what makes the next run short. Shards, index and
tables have the same bytes whatever the number of workers, and however often the run was killed.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from bimo.core.errors import DataError
from bimo.core.files import alone
from bimo.core.messages import Message, say
from bimo.core.part import Part
from bimo.curation.executors.executors import Executor, SerialExecutor
from bimo.curation.phases import ingest, measure, write
from bimo.curation.phases.ingest import Ingested
from bimo.curation.phases.measure import OF, Measure, Slice
from bimo.curation.phases.model_inference import ModelInference, room_of
from bimo.curation.phases.row_state import Columns, Scored
from bimo.curation.phases.select import Judge, Stretch, clear_after, clear_units, room, select_table, stretches
from bimo.curation.phases.store import Work, begin_arrow, load_table, read_json, save_json, sweep, unwritten
from bimo.curation.report import summary
from bimo.curation.report.page import PAGE, write_page
from bimo.curation.steps import Curation, ModelStep, PictureStep, TableStep, Tools, WriterStep
from bimo.data.shards import INDEX, write_index

if TYPE_CHECKING:
    from bimo.curation.readers.detect_format import Known
    from bimo.curation.readers.fetch import Limits

REPORT = "report.json"
#: What became of every file of the source, below work.
FILES = "files.json"
#: What steps with a large model or an endpoint name it by: one of it is enough, small models are in every process.
LARGE = ("scorer", "by")


class Bar(Protocol):
    """Is told how far a run is."""

    def phase(self, name: Message, total: int | None) -> None:
        """A phase begins, of so many rows."""
        ...

    def advance(self, rows: int, kept: int | None = None) -> None:
        """So many rows more were done, of which so many are kept so far, where that is known."""
        ...


class Silent:
    """Tells nobody."""

    def phase(self, name: Message, total: int | None) -> None:
        """Nothing."""

    def advance(self, rows: int, kept: int | None = None) -> None:
        """Nothing."""


@dataclass
class Run:
    """One run: what it reads and writes, who works, and what the phases hand on."""

    source: Path
    out: Path
    curation: Curation
    workers: Executor
    tools: Tools
    bar: Bar
    stored: bool
    asking: Executor
    limits: Limits | None
    what: Known | None = None
    work: Work = field(init=False)

    def __post_init__(self) -> None:
        self.work = Work(self.out / "work")

    @property
    def killed(self) -> int:
        """How many processes the system ended while they were at a job."""
        return sum(crew.killed for crew in {id(crew): crew for crew in (self.workers, self.asking)}.values())

    def read(self) -> Ingested:
        """Phase 0."""
        if self.stored:
            return ingest.taken(self.work)
        self.bar.phase(Message("reading"), None)
        return ingest.ingest(self.source, self.work, self.bar.advance, self.limits)

    def files(self, taken: Ingested) -> Any:
        """What became of every file of the source, and what that was taken for; of stored rows as it was then."""
        from bimo.curation.readers.inventory import inventory

        path = self.work.folder / FILES
        if self.what is None:
            return read_json(path)
        named = (
            name
            for unit in range(taken.units if self.what.tables else 0)
            for name in load_table(self.work.unit("rows", unit), ["path"])["path"].to_pylist()
        )
        found = {"read_as": {"zh": self.what.zh, "en": self.what.en}} | inventory(self.source, self.what, named).plain()
        save_json(path, found)
        return found

    def measure(self, taken: Ingested) -> int:
        """Phase 1; answers how many pictures were opened."""
        sweep(self.work.folder / "measured", 0, ".part")
        sweep(self.work.folder / "measured", taken.units)
        self.bar.phase(Message("looking at pictures"), taken.rows)
        task = Measure(self.source, self.work, self.curation.steps)
        measure.measured_by(self.curation.steps)
        halved = set[int]()
        opened = 0
        # Some small units first, which tells how fast it goes; the others last: nobody waits long for the last of them.
        order = sorted(range(taken.units), key=lambda unit: (unit >= 4, -taken.counts[unit]))
        jobs = (Slice(unit, taken.counts[unit]) for unit in order)
        for job, done in self.workers.answers(task, jobs):
            self.bar.advance(done.rows, done.kept)
            opened += done.opened
            if job.stop >= 0:
                halved.add(job.unit)
        for unit in sorted(halved):
            task.join(unit)
        return opened

    def select(self, taken: Ingested) -> tuple[str, list[Scored], tuple[Part, ...]]:
        """Phase 2: the room of the last standings, where scores lie, and the steps as they were settled."""
        every = stretches(self.curation.steps)
        units = range(taken.units)
        scored: list[Scored] = []
        settled = list(self.curation.steps)
        before = ""
        for place, stretch in enumerate(every):
            after, asked = room(place), ""
            rule = ", ".join(type(step).__name__ for step in stretch.steps[:3]) or say("closing")
            self.bar.phase(Message("selecting: {rule}", rule=rule), taken.rows)
            for at, step in enumerate(stretch.steps, stretch.first):
                if stretch.kind == "row" and isinstance(step, PictureStep):
                    scored.append(Scored("measured", step.measuring() + OF, at))
            if stretch.kind in ("model", "writer"):
                stretch, asked = self._ask(stretch, before, taken, scored)
            if stretch.kind == "table":
                table = Columns(self.work, taken.units, before, scored)
                select_table(self.work, stretch, before, after, taken.firsts, table, self.workers)
                self.bar.advance(taken.rows)
            else:
                self._judge(Judge(self.work, stretch, stretch.digest(), before, after, asked), units)
            if stretch.kind == "model":
                settled[stretch.first] = stretch.steps[0]
            before = after
        clear_after(self.work, len(every))
        clear_units(self.work, len(every), taken.units)
        return before, scored, tuple(settled)

    def _judge(self, task: Judge, units: Iterable[int]) -> None:
        for _, (rows, left) in self.workers.answers(task, units):
            self.bar.advance(rows, left)

    def _ask(self, stretch: Stretch, before: str, taken: Ingested, scored: list[Scored]) -> tuple[Stretch, str]:
        """Has a model's or a writer's answers stored, and gives the stretch with its step settled."""
        step = stretch.steps[0]
        assert isinstance(step, (ModelStep, WriterStep))
        asked = room_of(step, self.tools)
        task = ModelInference(self.source, self.work, step, self.tools, before, asked, self.stored)
        crew = self.asking if any(hasattr(step, name) for name in LARGE) else self.workers
        for _, (rows, _) in crew.answers(task, range(taken.units)):
            self.bar.advance(rows)
        sweep(self.work.folder / asked, taken.units)
        if isinstance(step, ModelStep):
            scored.append(Scored(asked, f"score{OF}", stretch.first))
            settle: Callable[[Columns], Any] | None = getattr(step, "settled", None)
            if settle is not None:
                step = settle(Columns(self.work, taken.units, before, scored))
        self.bar.phase(Message("selecting: {rule}", rule=type(step).__name__), taken.rows)
        return Stretch(stretch.kind, stretch.first, (step,)), asked

    def write(self, taken: Ingested, last: str) -> tuple[list[list[tuple[int, write.Share]]], dict[int, str], int]:
        """Phase 3: the shards. Answers which shards have what of a unit, the rows that were lost, and the samples."""
        planned = write.plan(self.work, taken.units, last)
        total = sum(share.count for shares in planned for share in shares)
        self.bar.phase(Message("writing shards"), total)
        task = write.WriteShard(self.source, self.work, self.out, last)
        # No index lists shards that are being replaced.
        (self.out / INDEX).unlink(missing_ok=True)
        made: list[write.Written] = []
        for _, written in self.workers.answers(task, list(enumerate(planned))):
            made.append(written)
            self.bar.advance(written.shard.count)
        write.remove_shards(self.out, self.work, len(planned))
        sweep(self.work.folder / "lost", len(planned), ".json")
        if any(written.shard.count for written in made):
            write_index(self.out, [written.shard for written in made])
        by_unit: list[list[tuple[int, write.Share]]] = [[] for _ in range(taken.units)]
        for number, shares in enumerate(planned):
            for share in shares:
                by_unit[share.unit].append((number, share))
        lost = {number: reason for written in made for number, reason in written.lost}
        return by_unit, lost, sum(written.shard.count for written in made)

    def tables(
        self,
        taken: Ingested,
        last: str,
        scores: Sequence[write.ScoreColumn],
        shares: Sequence[Sequence[tuple[int, write.Share]]],
        lost: dict[int, str],
    ) -> None:
        """The table of every row, unit by unit."""
        self.bar.phase(Message("writing the table"), taken.rows)
        stops = [*taken.firsts[1:], 1 << 62]
        jobs = (
            (
                unit,
                tuple(shares[unit]) if shares else (),
                tuple((n, lost[n]) for n in sorted(lost) if taken.firsts[unit] <= n < stops[unit]),
            )
            for unit in range(taken.units)
        )
        task = write.WriteTable(self.work, self.out, last, tuple(scores))
        for job, _ in self.workers.answers(task, jobs):
            self.bar.advance(taken.counts[job[0]])
        sweep(self.out / "table", taken.units)
        sweep(self.work.folder / "table", taken.units, ".json")


def curate(
    source: Path,
    out: Path,
    curation: Curation,
    *,
    tools: Tools,
    workers: Executor | None = None,
    asking: Executor | None = None,
    bar: Bar | None = None,
    stored: bool = False,
    limits: Limits | None = None,
) -> dict[str, Any]:
    """Runs a list over a source and answers the report, which is also in ``out/report.json``.

    ``workers`` look at pictures, judge and write; ``asking`` hold the models (this process where it is None). With
    ``stored`` nothing of the source is read: the selection, the table and the report are made from stored scores, and
    the shards stay those of the run before. Addresses are fetched within ``limits``.

    Raises DataError for a source that cannot be read or has not one row, a full disk, a folder of another source or of
    a run that is at work, and where the account does not balance.
    """
    began = time.monotonic()
    ingest.belongs(source, out)
    workers = workers or SerialExecutor()
    run = Run(source, out, curation, workers, tools, bar or Silent(), stored, asking or SerialExecutor(), limits)
    try:
        # Before anything is written: a start that fails leaves nothing.
        run.what = None if stored else ingest.demand(source)
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
        # A run that was killed left what it had not finished; nobody else is at work here.
        path.unlink(missing_ok=True)
    run.workers.begin()
    begin_arrow()
    taken = run.read()
    opened = 0 if stored else run.measure(taken)
    last, scored, steps = run.select(taken)
    shares, lost, samples = ([], {}, None) if stored else run.write(taken, last)
    scores = write.score_columns(run.work, taken.units, scored)
    run.tables(taken, last, scores, shares, lost)
    index = write.write_selection(out, taken.units)
    run.bar.phase(Message("accounting"), None)
    tally, tables = summary.summary(out, taken.units, steps, scores, _judged(scored, steps, scores), run.workers)
    report = {
        "kind": "curate",
        "recipe": run.curation.name,
        "source": str(run.source.resolve()),
        "numbers": summary.numbers(taken.rows, tally, time.monotonic() - began, opened, run.killed),
        "shards": None if stored else sum(1 for _ in out.glob("shard-*.tar")),
        "files": run.files(taken),
        **tables,
        "curation": summary.dumped(run.curation),
    }
    save_json(out / REPORT, report)
    write_page(out, run.source)
    summary.check(taken.rows, tally, index, samples)
    return report


def _judged(scored: Sequence[Scored], steps: Sequence[Part], scores: Sequence[write.ScoreColumn]) -> dict[int, str]:
    """The column of the table that each step judges by."""
    shown = {(score.room, score.column): score.name for score in scores}
    found: dict[int, str] = {}
    for one in scored:
        name = getattr(steps[one.place], "score", "")
        # What a table step holds rows against is no number of one picture.
        if isinstance(steps[one.place], TableStep):
            continue
        column = shown.get((one.room, one.start + name), name if name in ("width", "height") else "")
        if column:
            found[one.place] = column
    return found
