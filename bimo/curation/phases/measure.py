"""Phase 1: measures every picture for the steps that look at pictures.

A picture is decoded once for all steps. Its scores are reused until its file or the step's ``measuring`` changes.
"""

# pyarrow has no types; what crosses it here is named where it is kept.
# pyright: reportMissingTypeStubs=false, reportUnknownArgumentType=false, reportUnknownMemberType=false
# pyright: reportUnknownVariableType=false

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

from bimo.core.errors import BimoError, DataError
from bimo.core.part import Part
from bimo.curation.executors.executor import Halvable, LossyTask
from bimo.curation.phases.ingest import text_of
from bimo.curation.phases.store import (
    Work,
    column,
    digest,
    fingerprint_of,
    load_rows,
    numbered,
    of_cell,
    plain,
    save_table,
)
from bimo.curation.readers.rows import Place, Unusable
from bimo.curation.steps import PictureStep, Scores, step_name

VERSION = 2
KILLED = "worker killed"
#: Reasons that may be gone at the next run, so that the row is tried again.
RETRIED = {KILLED, "unreadable", "decode: MemoryError"}
#: Separates a step's ``measuring`` from the name of a score.
SCORE_SEPARATOR = "\t"
#: The measured steps of a picture before any.
NO_STEPS = "[]"


@dataclass(frozen=True)
class Pictures:
    """Locates the pictures of rows."""

    source: Path
    work: Work

    def place(self, row: Mapping[str, Any]) -> tuple[Path, Place]:
        """The folder that a row's path is relative to, and where in it the picture is."""
        root = self.work.fetched if row["fetched"] else self.source
        return root, Place(os.fsdecode(row["path"]), row["offset"], row["size"], row["form"], row["column"])

    def bytes_of(self, row: Mapping[str, Any]) -> bytes:
        """The bytes of a picture. Raises Unusable."""
        from bimo.curation.readers import reading

        return reading.picture_bytes(*self.place(row))

    def states(self, rows: Iterable[Mapping[str, Any]]) -> dict[int, str]:
        """By the number of each row, a digest that changes when its path or the file there does."""
        from bimo.curation.readers import reading

        roots = {False: reading.root(self.source), True: self.work.fetched}
        known: dict[Path, tuple[int, int]] = {}
        states: dict[int, str] = {}
        for row in rows:
            path = roots[row["fetched"]] / os.fsdecode(row["path"])
            if path not in known:
                known[path] = -1, -1
                # A missing file has a digest, too.
                with contextlib.suppress(OSError, ValueError):
                    about = path.stat()
                    known[path] = about.st_size, about.st_mtime_ns
            place = [row["path"].hex(), *(row[name] for name in ("offset", "size", "form", "column", "reason"))]
            states[row["number"]] = digest(VERSION, str(roots[row["fetched"]]), place, known[path])[:32]
        return states


@dataclass(frozen=True)
class Slice(Halvable):
    """Some rows of a unit: those from ``first`` up to ``stop``, all where ``stop`` is -1."""

    unit: int
    count: int
    first: int = 0
    stop: int = -1

    def halves(self) -> tuple[Slice, Slice] | None:
        """The two halves, None of one row."""
        first, stop = self.first, self.count if self.stop < 0 else self.stop
        if stop - first < 2:
            return None
        middle = (first + stop) // 2
        return Slice(self.unit, self.count, first, middle), Slice(self.unit, self.count, middle, stop)


@dataclass(frozen=True)
class Measured:
    """Counts of a slice: its rows, those that the picture steps would keep, and the pictures that were opened."""

    rows: int
    kept: int
    opened: int


@dataclass(frozen=True)
class Measure(LossyTask):
    """Measures the pictures of a slice for all steps that look at pictures, and saves the scores."""

    source: Path
    work: Work
    steps: tuple[Part, ...]

    def __call__(self, job: Slice) -> Measured:
        """Measures what is not measured yet. A picture that raises fails alone; the run goes on."""
        rows = load_rows(self.work.unit("rows", job.unit))
        pictures = Pictures(self.source, self.work)
        chosen = rows[job.first : None if job.stop < 0 else job.stop]
        states = pictures.states(chosen)
        path = self.work.unit("measured", job.unit)
        old = {row["number"]: row for row in load_rows(path)} if fingerprint_of(path) else {}
        fresh = [row["number"] for row in rows] == list(old)
        required = measured_by(self.steps)
        opened = 0
        measured: list[dict[str, Any]] = []
        with warnings.catch_warnings():
            # Libraries warn of odd pictures; the row's reason says the same.
            warnings.simplefilter("ignore")
            for row in chosen:
                known = old.get(row["number"])
                if known is None or known["made"] != states[row["number"]] or known["failed"] in RETRIED:
                    known = _unmeasured(row, states[row["number"]])
                    fresh = False
                missing = list(required) if known["known"] == NO_STEPS else _missing(known["known"], required)
                if known["failed"] is None and (missing or known.get("sha256") is None):
                    known = known | self._measure_picture(pictures, row, known, {m: required[m] for m in missing})
                    opened += 1
                measured.append(known)
        if opened or not fresh or job.stop >= 0:
            save_measured(self._part(job), measured)
        judges = [(step.measuring(), step) for step in self.steps if isinstance(step, PictureStep)]
        kept = sum(row["failed"] is None and _passes(row, judges) for row in measured)
        return Measured(len(measured), kept, opened)

    def lost(self, job: Slice) -> Measured:
        """Marks the row as failed that killed its worker each time."""
        row = load_rows(self.work.unit("rows", job.unit))[job.first]
        state = Pictures(self.source, self.work).states([row])[row["number"]]
        save_measured(self._part(job), [_unmeasured(row, state) | {"failed": row["reason"] or KILLED}])
        return Measured(1, 0, 1)

    def join(self, unit: int) -> None:
        """Joins the parts that a unit was halved into."""
        parts = [p for p in numbered(self.work.folder / "measured", ".part") if p.name.startswith(f"{unit:06d}.")]
        save_measured(self.work.unit("measured", unit), [row for part in parts for row in load_rows(part)])
        for part in parts:
            part.unlink()

    def _part(self, job: Slice) -> Path:
        path = self.work.unit("measured", job.unit)
        return path if job.stop < 0 else path.with_suffix(f".{job.first:05d}-{job.stop:05d}.part")

    def _measure_picture(
        self, pictures: Pictures, row: Mapping[str, Any], known: Mapping[str, Any], steps: Mapping[str, PictureStep]
    ) -> dict[str, Any]:
        from bimo.curation import decoded_image

        try:
            data = pictures.bytes_of(row)
            picture = decoded_image.decode_image(data)
        except Unusable as error:
            return {"failed": error.reason, "detail": text_of(error.detail)}
        except BimoError:
            raise
        # Whatever a decoder or reader raises: the row fails, with the exception as its reason.
        except Exception as error:
            return {"failed": f"decode: {type(error).__name__}", "detail": text_of(str(error))[:200]}
        scores_row: dict[str, Any] = {
            "sha256": hashlib.sha256(data).hexdigest(),
            "bytes": len(data),
            "width": picture.size[0],
            "height": picture.size[1],
            "as_is": decoded_image.is_copyable(picture),
            "converted": picture.converted or None,
        }
        failures = cast("dict[str, list[str]]", of_cell(known["failures"]))
        for measuring, step in steps.items():
            try:
                scores = {name: plain(value) for name, value in step.measure(picture).items()}
            except BimoError:
                raise
            # A step that raises on one picture must not end a run over millions.
            except Exception as error:
                failures[measuring] = [type(error).__name__, text_of(str(error))[:200]]
                continue
            scores_row |= {f"{measuring}{SCORE_SEPARATOR}{name}": value for name, value in scores.items()}
        every = sorted({*measured_steps(known["known"]), *steps})
        return scores_row | {"known": json.dumps(every), "failures": json.dumps(failures, sort_keys=True)}


def _unmeasured(row: Mapping[str, Any], state: str) -> dict[str, Any]:
    return {"number": row["number"], "made": state, "known": NO_STEPS, "failures": "{}", "failed": row["reason"]}


def _missing(known: str, required: Iterable[str]) -> list[str]:
    measured = measured_steps(known)
    return [measuring for measuring in required if measuring not in measured]


@lru_cache(maxsize=64)
def measured_steps(known: str) -> frozenset[str]:
    """The measured steps listed in a cell; cached, since nearly all rows of a run have the same."""
    return frozenset(json.loads(known))


def _passes(row: Mapping[str, Any], judges: Sequence[tuple[str, PictureStep]]) -> bool:
    """Whether the picture steps would keep a row, for the progress bar."""
    failures = of_cell(row["failures"])
    for measuring, step in judges:
        # Exceptions are counted when the step judges in phase 2.
        with contextlib.suppress(Exception):
            if measuring in failures or step.judge(scores_of(row, measuring)) is not None:
                return False
    return True


def measured_by(steps: Sequence[Part]) -> dict[str, PictureStep]:
    """The steps that look at pictures, by ``measuring``: steps that measure the same share one measurement.

    Raises DataError for a ``measuring`` that cannot name a column.
    """
    steps_by: dict[str, PictureStep] = {}
    for step in steps:
        if isinstance(step, PictureStep):
            measuring = step.measuring()
            if SCORE_SEPARATOR in measuring or not measuring:
                raise DataError("{named} measures {measuring!r}", named=step_name(step), measuring=measuring)
            steps_by.setdefault(measuring, step)
    return steps_by


def scores_of(row: Mapping[str, Any], measuring: str) -> Scores:
    """The scores of one step for a row, by the step's own names."""
    start = measuring + SCORE_SEPARATOR
    return {name.removeprefix(start): value for name, value in row.items() if name.startswith(start)}


FIXED = (
    "number",
    "made",
    "sha256",
    "bytes",
    "width",
    "height",
    "as_is",
    "converted",
    "failed",
    "detail",
    "known",
    "failures",
)


def save_measured(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Saves measured rows. The fingerprint covers the files they were measured on, and the failures."""
    import pyarrow as pa

    types = {"number": pa.int64(), "bytes": pa.int64(), "width": pa.int64(), "height": pa.int64(), "as_is": pa.bool_()}
    columns: dict[str, Any] = {
        name: pa.array([row.get(name) for row in rows], types.get(name, pa.string())) for name in FIXED
    }
    for name in sorted({name for row in rows for name in row} - set(FIXED)):
        columns[name] = column([row.get(name) for row in rows])
    save_table(
        path, columns, digest([[row["made"], row["failed"], row.get("detail"), row["failures"]] for row in rows])
    )
