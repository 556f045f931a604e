"""Runs models and endpoints over the remaining rows, in batches; every result is stored and computed once.

A result belongs to a picture and its captions at that point: if either has changed, it is computed again.
"""

# pyarrow has no types; what crosses it here is named where it is kept.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

import json
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, cast

from bimo.core.errors import BimoError, DataError
from bimo.core.part import Part, dump
from bimo.curation.executors.executor import cores
from bimo.curation.phases.measure import SCORE_SEPARATOR, Pictures
from bimo.curation.phases.row_state import LEFT, load_row_states
from bimo.curation.phases.store import Work, column, digest, fingerprint_of, load_rows, plain, save_table
from bimo.curation.readers.rows import Unusable
from bimo.curation.steps import ModelStep, Pair, Tools, Verdict, View, WriterStep, step_name

VERSION = 1
#: The most pairs, and the most pixels, of a batch.
BATCH, BATCH_PIXELS = 32, 1 << 25
#: Pictures that are decoded ahead of the model.
AHEAD = 16
#: The same two for a step that resizes pictures by ``view``: they are small then.
VIEWED, VIEWED_AHEAD = 256, 128


def answers_folder(step: Part, tools: Tools) -> str:
    """The folder of a step's results, named by what they depend on."""
    assert isinstance(step, (ModelStep, WriterStep))
    return f"asked/{digest(VERSION, step_name(step), step.measuring(tools))[:16]}"


@dataclass(frozen=True)
class ModelInference:
    """Runs a step on the remaining rows of a unit that have no result yet.

    Batches do not cross units, so that scores do not depend on where an earlier run was interrupted. With ``stored`` no
    model is run.
    """

    source: Path
    work: Work
    step: Part
    tools: Tools
    before: str
    results_folder: str
    stored: bool

    def __call__(self, unit: int) -> tuple[int, int]:
        """(rows left, rows computed). Raises DataError if results are missing and ``stored`` is set."""
        path = self.work.unit(self.results_folder, unit)
        old: dict[int, dict[str, Any]] = {}
        if fingerprint_of(path):
            old = {row["number"]: row for row in load_rows(path)}
        shas = {
            row["number"]: row["sha256"] for row in load_rows(self.work.unit("measured", unit), ["number", "sha256"])
        }
        keys: dict[int, str] = {}
        captions: dict[int, tuple[str, ...]] = {}
        for row in load_row_states(self.work.unit(self.before, unit)):
            if row.state == LEFT:
                keys[row.number] = digest(shas[row.number], row.captions)
                captions[row.number] = row.captions
        known = {n for n, row in old.items() if row["key"] == keys.get(n) and (self.stored or row["failed"] is None)}
        pending = [number for number in keys if number not in known]
        if pending and self.stored:
            raise DataError(
                "{named} has not seen row {number} yet; run without --select-only",
                named=step_name(self.step),
                number=pending[0],
            )
        if pending or not fingerprint_of(path):
            rows = {row["number"]: row for row in load_rows(self.work.unit("rows", unit))}
            for batch in self._batches([rows[number] for number in pending], captions):
                for number, answer in self._with_results(batch):
                    old[number] = {"number": number, "key": keys[number], "failed": None, "detail": None} | answer
            self._save(path, [old[number] for number in sorted(old)])
        return len(keys), len(pending)

    def _batches(
        self, rows: Sequence[Mapping[str, Any]], captions: Mapping[int, tuple[str, ...]]
    ) -> Iterator[list[tuple[int, Pair | Unusable]]]:
        """Rows in batches; their pictures are decoded and resized ahead, in threads."""
        pictures = Pictures(self.source, self.work)
        view = self.step.view(self.tools) if isinstance(self.step, ModelStep) and rows else None
        most, early = (BATCH, AHEAD) if view is None else (VIEWED, VIEWED_AHEAD)
        batch: list[tuple[int, Pair | Unusable]] = []
        pixels = 0
        with ThreadPoolExecutor(max(2, cores()), "decode") as threads:
            coming = iter(rows)
            ahead = deque(threads.submit(_decoded, pictures, row, view) for row in islice(coming, early))
            for row in rows:
                future: Future[Any] = ahead.popleft()
                ahead.extend(threads.submit(_decoded, pictures, later, view) for later in islice(coming, 1))
                image, number = future.result(), row["number"]
                if isinstance(image, Unusable):
                    batch.append((number, image))
                else:
                    batch.append((number, Pair(number, image, captions[number])))
                    pixels += image.width * image.height
                if len(batch) >= most or pixels >= BATCH_PIXELS:
                    yield batch
                    batch, pixels = [], 0
        if batch:
            yield batch

    def _with_results(self, batch: Sequence[tuple[int, Pair | Unusable]]) -> Iterator[tuple[int, dict[str, Any]]]:
        pairs = [pair for _, pair in batch if isinstance(pair, Pair)]
        answers = iter(self._run(pairs)) if pairs else iter(())
        for number, pair in batch:
            if isinstance(pair, Unusable):
                yield number, {"failed": pair.reason, "detail": pair.detail}
            else:
                yield number, next(answers)

    def _run(self, pairs: Sequence[Pair]) -> list[dict[str, Any]]:
        """The results for pairs. If a batch fails, its pairs are tried one by one."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                results = _opened(self.step, self.tools)(pairs)
            if len(results) != len(pairs):
                raise ValueError(f"{len(results)} answers to {len(pairs)} pairs")
            return [_result_columns(one) for one in results]
        except BimoError:
            raise
        # Whatever a model or an endpoint raises: the pair fails, and is tried again in the next run.
        except Exception as error:
            if len(pairs) > 1:
                return [answer for pair in pairs for answer in self._run([pair])]
            return [{"failed": f"ask {step_name(self.step)}: {type(error).__name__}", "detail": str(error)[:200]}]

    def _save(self, path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
        import pyarrow as pa

        columns: dict[str, Any] = {"number": pa.array([row["number"] for row in rows], pa.int64())}
        for name in ("key", "failed", "detail", "answer"):
            columns[name] = pa.array([row.get(name) for row in rows], pa.string())
        for name in sorted({name for row in rows for name in row if SCORE_SEPARATOR in name}):
            columns[name] = column([row.get(name) for row in rows])
        cells = [[[name, repr(row[name])] for name in sorted(row) if row[name] is not None] for row in rows]
        save_table(path, columns, digest(cells))


def _result_columns(result: Any) -> dict[str, Any]:
    """A result as columns: the scores of a model, or the captions of a writer as JSON."""
    if isinstance(result, Verdict):
        return {"answer": json.dumps({"value": plain(result.value), "threshold": plain(result.threshold)})}
    if isinstance(result, Mapping):
        scores = cast("Mapping[str, Any]", result)
        return {f"score{SCORE_SEPARATOR}{name}": plain(value) for name, value in scores.items()}
    texts = [str(text).encode("utf-8", "replace").decode() for text in result]
    return {"answer": json.dumps({"captions": texts}, ensure_ascii=False)}


def _decoded(pictures: Pictures, row: Mapping[str, Any], view: View | None) -> Any:
    """The upright picture of a row, resized by ``view`` if there is one; or why there is none."""
    from bimo.curation import decoded_image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = decoded_image.decode_image(pictures.bytes_of(row), decoded_image.MODEL_SIDES).image
            return image if view is None else view(image)
    except Unusable as error:
        return error
    # It was decoded in phase 1: the file has changed since.
    except Exception as error:
        return Unusable(f"decode: {type(error).__name__}", str(error)[:200])


_open: dict[str, Callable[[Sequence[Pair]], Any]] = {}


def _opened(step: Part, tools: Tools) -> Callable[[Sequence[Pair]], Any]:
    """The function of a step's model, loaded once a process; the model before it is freed."""
    assert isinstance(step, (ModelStep, WriterStep))
    key = digest(dump(step))
    if key not in _open:
        _open.clear()
        _open[key] = step.open(tools) if isinstance(step, ModelStep) else step.write(tools)
    return _open[key]
