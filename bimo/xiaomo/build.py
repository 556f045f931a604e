"""Builds a data set of scenes, verses and dishes: plans -> pictures with captions -> shards, with a report.

As for artwork, the same arguments give the same bytes, whatever the number of workers, and an interrupted run is
continued.
"""

from __future__ import annotations

import hashlib
import io
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from PIL import Image

from bimo.core.errors import DataError
from bimo.core.files import write_whole
from bimo.data.shards import Shard, finished, hash_of, read_shard, shard_name, write_index, write_shard
from bimo.xiaomo.artwork.captions import Text
from bimo.xiaomo.captions.lexicon import elements, moods, styles, subjects
from bimo.xiaomo.captions.phrases import dish_captions, facts_of_subject, facts_of_verse, scene_captions
from bimo.xiaomo.captions.verses import drawn_verses, verses
from bimo.xiaomo.dishes.plan import DishPlan, draw_dish, plan_dishes, table_kind
from bimo.xiaomo.dishes.table import dishes, ingredients
from bimo.xiaomo.heldout import held_out_scene
from bimo.xiaomo.scenes.plan import ScenePlan, VersePlan, draw_scene, draw_verse, pairs, plan_scenes, plan_verses
from bimo.xiaomo.shard_jobs import build_shards, write_json

RECIPE = "scenes 1"
SAMPLES_PER_SHARD = 500
CAPTIONS = 12
PNG_LEVEL = 2
SIDE = 256
#: The most characters of a name; longer texts are lines of verse.
LONGEST_NAME = 24
#: The kinds in each ten consecutive pictures, interleaved so that any part of a set has the same shares.
TURN = ("scene", "dish", "scene", "verse", "scene", "scene", "dish", "scene", "verse", "scene")
LICENCE = "Apache-2.0"
SOURCE = "bimo"
AnyPlan = ScenePlan | VersePlan | DishPlan


@dataclass(frozen=True)
class Job:
    """One shard to write, with everything that a worker needs."""

    out: str
    number: int
    plans: tuple[AnyPlan, ...]
    side: int
    stamp: str

    def __str__(self) -> str:
        return shard_name(self.number)


def plan(count: int, seed: int = 0) -> list[AnyPlan]:
    """The pictures of a set in order: scenes, verses and dishes with the shares of TURN, without held-out ones.

    A larger set starts with the smaller one.
    """
    kinds = [TURN[number % len(TURN)] for number in range(count)]
    wanted = Counter(kinds)
    ready: Mapping[str, Iterator[AnyPlan]] = {
        "scene": plan_scenes(wanted["scene"], seed),
        "verse": plan_verses([verse.line for verse in drawn_verses()], wanted["verse"], seed),
        "dish": plan_dishes(wanted["dish"], seed),
    }
    return [next(ready[kind]) for kind in kinds]


def build_scenes(
    out: Path,
    count: int = 20000,
    side: int = SIDE,
    seed: int = 0,
    workers: int = 2,
    progress: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Builds the set under `out` and returns its report, which is also written to `out/report.json`.

    Raises DataError for numbers that make no set.
    """
    if count < 1 or workers < 1 or side < 16:
        raise DataError(
            "count ({count}) and workers ({workers}) must be at least 1, and side ({side}) at least 16.",
            count=count,
            workers=workers,
            side=side,
        )
    began = time.monotonic()
    out.mkdir(parents=True, exist_ok=True)
    _write_tables(out)
    plans, stamp = plan(count, seed), _stamp(side)
    jobs: list[Job] = []
    for number, start in enumerate(range(0, count, SAMPLES_PER_SHARD)):
        some = tuple(plans[start : start + SAMPLES_PER_SHARD])
        jobs.append(Job(str(out), number, some, side, f"{stamp} {len(some)} {seed}"))
    shards = build_shards(out, write_job, jobs, workers, progress)
    digest = write_index(out, shards)
    report = {"kind": "scenes", "count": count, "side": side, "seed": seed, "digest": digest, **_count(out, shards)}
    write_json(out / "report.json", report)
    return {**report, "seconds": round(time.monotonic() - began, 1)}


def write_job(job: Job) -> Shard:
    """Writes one shard, unless it exists completely with the same stamp."""
    path = Path(job.out) / shard_name(job.number)
    return finished(path, job.stamp) or write_shard(path, (sample(one, job.side) for one in job.plans), job.stamp)


def sample(one: AnyPlan, side: int = SIDE) -> tuple[str, bytes, dict[str, Any]]:
    """Key, PNG and record of a plan. The record's labels are style, mood, layout and the boxes of elements."""
    if isinstance(one, DishPlan):
        drawn = draw_dish(one, side)
        table = table_kind(drawn.layout)
        captions = dish_captions(one.dish, one.vessel, one.style, drawn.elements, table, one.key, CAPTIONS)
        labels: dict[str, Any] = {"type": "dish", "subject": one.dish, "vessel": one.vessel, "table": table}
        return _record(one, drawn.image, captions, labels, drawn.layout.as_list(), drawn.elements)
    if isinstance(one, VersePlan):
        scene, verse = draw_verse(one, side), next(v for v in drawn_verses() if v.line == one.line)
        facts = facts_of_verse(verse, one.style, scene.mood, scene.elements)
        labels = {"type": "verse", "subject": one.line, "named": list(verse.elements), **asdict(scene.mood)}
    else:
        scene = draw_scene(one, side)
        facts = facts_of_subject(one.subject, one.style, scene.mood, scene.elements)
        labels = {"type": "scene", "subject": one.subject, **asdict(scene.mood)}
    captions = scene_captions(facts, one.key, CAPTIONS)
    return _record(one, scene.image, captions, labels, scene.layout.as_list(), scene.elements)


def _record(
    one: AnyPlan,
    image: Image.Image,
    captions: Sequence[Text],
    labels: Mapping[str, Any],
    layout: list[float],
    boxes: Mapping[str, Any],
) -> tuple[str, bytes, dict[str, Any]]:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=PNG_LEVEL)
    everything = {**labels, "style": one.style, "layout": layout, "elements": boxes}
    record = {
        "captions": [asdict(text) for text in captions], "labels": everything, "source": SOURCE, "licence": LICENCE
    }  # fmt: skip
    return one.key, buffer.getvalue(), record


def _stamp(side: int) -> str:
    """A hash of what determines the pictures: the code and tables that draw them, and the side."""
    digest = hashlib.sha256(f"{RECIPE} {side}".encode())
    room = Path(str(resources.files("bimo.xiaomo")))
    drawing = [path for name in ("captions", "dishes", "scenes") for path in sorted((room / name).rglob("*"))]
    for path in (*drawing, room / "build.py", room / "chance.py", room / "heldout.py"):
        if path.suffix in (".py", ".tsv"):
            digest.update(f"{path.relative_to(room).as_posix()} {hash_of(path)}\n".encode())
    return digest.hexdigest()


def _count(out: Path, shards: Sequence[Shard]) -> dict[str, dict[str, int]]:
    """Statistics of the written records."""
    names = ("type", "subject", "style", "season", "light", "weather", "vessel")
    counts: dict[str, Counter[str]] = {name: Counter() for name in (*names, "element")}
    for shard in sorted(shards, key=lambda shard: shard.name):
        for _, _, record in read_shard(out / shard.name):
            labels = record["labels"]
            for name in names:
                if name in labels and not (name == "subject" and labels["type"] == "verse"):
                    counts[name][labels[name]] += 1
            counts["element"].update(labels["elements"].keys())
    return {f"by {name}": dict(counter.most_common()) for name, counter in counts.items()}


def _write_tables(out: Path) -> None:
    """Writes `held_out.json`, `LICENSES.md` and `words.txt`, the words that a tokenizer should keep whole."""
    drawn = {verse.line for verse in drawn_verses()}
    held = {
        "scenes": [list(pair) for pair in pairs() if held_out_scene(*pair)],
        "verses": [verse.line for verse in verses() if verse.line not in drawn],
    }
    write_json(out / "held_out.json", held)
    write_whole(out / "words.txt", ("\n".join(_known_words()) + "\n").encode())
    notice = resources.files("bimo.xiaomo.captions").joinpath("LICENSE.chinese-poetry.txt").read_text("utf-8")
    text = f"Pictures and captions are drawn by procedure, {LICENCE}. Verses are from chinese-poetry:\n\n{notice}"
    write_whole(out / "LICENSES.md", text.encode())


def _known_words() -> list[str]:
    """The words that a tokenizer should keep whole: elements, subjects, moods, styles, dishes and ingredients."""
    named = [*elements().values(), *subjects().values(), *styles().values()]
    named += [one for values in moods().values() for one in values.values()]
    # A line of a poem is no word.
    words = {word for one in named for word in (*one.zh, *one.en, *one.words) if not _is_line(word)}
    words |= {word for dish in dishes().values() for word in (dish.name, dish.english, *dish.also, *dish.vessels)}
    words |= {word for one in ingredients().values() for word in (one.name, one.english)}
    return sorted({word.strip().lower() for word in words if word.strip()})


def _is_line(text: str) -> bool:
    """Whether a text is a line of a poem rather than a name."""
    return any(mark in text for mark in "，。？！；") or len(text) > LONGEST_NAME
