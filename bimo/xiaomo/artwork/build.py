"""Builds the artwork set: packages -> sprites -> canvases with captions -> shards, and reports."""

from __future__ import annotations

import hashlib
import io
import json
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

from bimo.core.errors import DataError
from bimo.data.shards import SAMPLES_PER_SHARD, Shard, finished, read_shard, shard_name, write_index, write_shard
from bimo.xiaomo.artwork.canvas import Composer, Plan, plan
from bimo.xiaomo.artwork.captions import Phrases, known_words
from bimo.xiaomo.artwork.editions import EDITIONS, FIRST, Edition
from bimo.xiaomo.artwork.held_out import held_out_list
from bimo.xiaomo.artwork.packages import Package, obtain, package_named
from bimo.xiaomo.artwork.sprites import SOURCES, Kind, SpriteStore, draw_sprites, read_kinds
from bimo.xiaomo.artwork.words_table import assign_words
from bimo.xiaomo.shard_jobs import build_shards, write_json

CAPTIONS = 12
PNG_LEVEL = 2
RECIPE = "artwork 3"


@dataclass(frozen=True)
class Job:
    """One shard to write, with everything that a worker needs."""

    out: str
    number: int
    plans: tuple[Plan, ...]
    seed: int
    edition: int
    stamp: str
    credits: tuple[tuple[str, str, str], ...]

    def __str__(self) -> str:
        return shard_name(self.number)


def build_artwork(
    out: Path,
    canvases: int = 72000,
    seed: int = 0,
    workers: int = 2,
    packages: Path | None = None,
    progress: Callable[[str], None] | None = None,
    table: Iterable[Package] | None = None,
    edition: Edition = FIRST,
) -> dict[str, Any]:
    """Builds the whole set under `out` and returns the report, which is also written to `out/report.json`.

    `packages` is a folder of .tgz files to use instead of downloading, `table` the packages, by default the edition's.
    The same arguments give the same bytes, whatever the number of workers; an interrupted run is continued. Raises
    DataError for missing or damaged packages.
    """
    if canvases < 1 or workers < 1:
        raise DataError(
            "canvases ({canvases}) and workers ({workers}) must be at least 1.", canvases=canvases, workers=workers
        )
    began = time.monotonic()
    table = edition.packages if table is None else tuple(table)
    out.mkdir(parents=True, exist_ok=True)
    paths = obtain(table, out / ".packages", packages)
    kinds = assign_words(draw_sprites(paths, table, read_kinds(paths), out / ".sprites", progress, edition.side))
    _write_tables(out, kinds, table)
    plans = plan(kinds, canvases, seed, edition)
    stamp = _stamp(kinds, table, canvases, seed, edition)
    credits_ = tuple(
        (style, *_credit(source.package, table))
        for style, source in SOURCES.items()
        if any(package.name == source.package for package in table)
    )
    jobs = [
        Job(str(out), number, tuple(plans[start : start + SAMPLES_PER_SHARD]), seed, edition.number, stamp, credits_)
        for number, start in enumerate(range(0, canvases, SAMPLES_PER_SHARD))
    ]
    shards = build_shards(out, write_job, jobs, workers, progress)
    digest = write_index(out, shards)
    report = {
        "kind": "artwork",
        "canvases": canvases,
        "seed": seed,
        "kinds": len(kinds),
        "kinds with aliases": sum(bool(kind.aliases_zh) for kind in kinds),
        "sprites": dict(Counter(style for kind in kinds for style in kind.styles)),
        "digest": digest,
        **_count(out, shards),
    }
    write_json(out / "report.json", report)
    return {**report, "seconds": round(time.monotonic() - began, 1)}


def write_job(job: Job) -> Shard:
    """Writes one shard, unless it exists completely with the same stamp."""
    out = Path(job.out)
    path = out / shard_name(job.number)
    return finished(path, job.stamp) or write_shard(path, _samples(job), job.stamp)


@lru_cache(maxsize=1)
def _tools(out: str, stamp: str, seed: int, edition: int) -> tuple[Composer, Phrases]:
    """The composer and the captions of a worker, cached per process; `stamp` distinguishes sets in one folder."""
    kinds = read_kinds_table(Path(out) / "kinds.json")
    return Composer(kinds, SpriteStore(Path(out) / ".sprites"), seed, EDITIONS[edition]), Phrases(kinds)


def _samples(job: Job) -> Iterator[tuple[str, bytes, dict[str, Any]]]:
    composer, phrases = _tools(job.out, job.stamp, job.seed, job.edition)
    credit = {style: (source, licence) for style, source, licence in job.credits}
    for item in job.plans:
        image, labels = composer.compose(item)
        buffer = io.BytesIO()
        image.save(buffer, "PNG", compress_level=PNG_LEVEL)
        source, licence = credit[labels.style]
        captions = [asdict(text) for text in phrases.captions(labels, item.key, job.seed, CAPTIONS)]
        fields = labels.as_dict()
        pose = fields.pop("pose")
        record = {"captions": captions, "labels": fields, "pose": pose, "source": source, "licence": licence}
        yield item.key, buffer.getvalue(), record


def read_kinds_table(path: Path) -> list[Kind]:
    """The kinds of a built set, from its `kinds.json`."""
    try:
        records = json.loads(path.read_text("utf-8"))
        return [_kind(record) for record in records]
    except (OSError, ValueError, TypeError) as error:
        raise DataError("{path} cannot be read: {error}. Build the data again.", path=path, error=error) from error


def _kind(record: Mapping[str, Any]) -> Kind:
    fields: dict[str, Any] = {
        name: tuple(cast("list[Any]", value)) if isinstance(value, list) else value for name, value in record.items()
    }
    return Kind(**fields)


def _credit(name: str, table: Iterable[Package]) -> tuple[str, str]:
    package = package_named(name, table)
    return f"{package.name}@{package.version}", package.licence


def _stamp(kinds: Sequence[Kind], table: Iterable[Package], canvases: int, seed: int, edition: Edition) -> str:
    """A hash of what determines the shards: packages, kinds and words, amount, seed and the version of the recipe."""
    recipe = RECIPE if edition is FIRST else f"{RECIPE} edition {edition.number}"
    parts = [recipe, str(canvases), str(seed), *(package.sha256 for package in table), *map(repr, kinds)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _count(out: Path, shards: Iterable[Shard]) -> dict[str, dict[str, int]]:
    """Statistics of the written records: by type, style, effect, licence, caption language."""
    counts: dict[str, Counter[str]] = {name: Counter() for name in ("type", "style", "effect", "licence", "language")}
    for shard in sorted(shards, key=lambda shard: shard.name):
        for _, _, record in read_shard(out / shard.name):
            labels = record["labels"]
            for name in ("type", "style", "effect"):
                if labels[name] is not None:
                    counts[name][labels[name]] += 1
            counts["licence"][record["licence"]] += 1
            counts["language"].update(caption["lang"] for caption in record["captions"])
    return {f"by {name}": dict(counter.most_common()) for name, counter in counts.items()}


def _write_tables(out: Path, kinds: Sequence[Kind], table: Sequence[Package]) -> None:
    """`kinds.json`, `words.txt`, `held_out.json`, `LICENSES.md`."""
    write_json(out / "kinds.json", [asdict(kind) for kind in kinds])
    (out / "words.txt").write_text("\n".join(known_words(kinds)) + "\n", "utf-8")
    write_json(out / "held_out.json", held_out_list(list(kinds)))
    lines = ["# Licences and attributions", "", "| package | licence | used for | attribution |", "|---|---|---|---|"]
    lines += [f"| {p.name} {p.version} | {p.licence} | {p.use} | {p.attribution} |" for p in table]
    (out / "LICENSES.md").write_text("\n".join(lines) + "\n", "utf-8")
