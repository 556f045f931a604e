"""Shared by the builders of data sets: writing shards in several processes, and JSON files."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from bimo.core.files import write_whole
from bimo.curation.executors.processes import ProcessExecutor
from bimo.data.shards import Shard, shard_name

Job = TypeVar("Job")


def build_shards(
    out: Path,
    write_job: Callable[[Job], Shard],
    jobs: Sequence[Job],
    workers: int,
    progress: Callable[[str], None] | None = None,
) -> list[Shard]:
    """Removes leftovers of other runs, then writes the shards of all jobs, each of which is reported."""
    began = time.monotonic()
    _remove_leftovers(out, len(jobs))
    shards: list[Shard] = []
    for shard in _written_shards(write_job, jobs, workers):
        shards.append(shard)
        if progress:
            progress(f"{shard.name}: {shard.count} ({len(shards)}/{len(jobs)}, {time.monotonic() - began:.0f} s)")
    return shards


def _written_shards(write_job: Callable[[Job], Shard], jobs: Sequence[Job], workers: int) -> Iterator[Shard]:
    """Yields shards as they are finished, written by this process or by spawned ones."""
    if workers == 1 or len(jobs) == 1:
        yield from map(write_job, jobs)
        return
    executor = ProcessExecutor(min(workers, len(jobs)))
    try:
        yield from (shard for _, shard in executor.answers(write_job, jobs))
    finally:
        executor.close()


def _remove_leftovers(out: Path, count: int) -> None:
    """Removes leftovers of interrupted or larger runs: partial files, and shards from number ``count`` on."""
    names = {shard_name(number) for number in range(count)}
    for path in (*out.glob("shard-*.tar"), *out.glob("shard-*.done"), *out.glob("*.partial")):
        if path.with_suffix(".tar").name not in names or path.suffix == ".partial":
            path.unlink()
    (out / "index.json").unlink(missing_ok=True)


def write_json(path: Path, value: Mapping[str, Any] | Sequence[Any]) -> None:
    """Writes readable JSON atomically."""
    write_whole(path, json.dumps(value, ensure_ascii=False, indent=1).encode())
