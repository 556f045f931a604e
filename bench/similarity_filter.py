"""Whether curation's similarity filter pays: a small CLIP on captions of which some are another picture's.

Pictures and captions are those of `bimo data scenes`; a share of the captions is exchanged. A CLIP that learned from
this set as it is scores it, and curation's `Similarity` drops what lies below its line, not told which captions
were exchanged. Then CLIPs of the same shape learn from scratch for the same number of steps from every row, from what
the filter kept, from as many rows at random, and from the rows with their own captions alone, which no filter can know.
Each is shown captions and pictures that training had not.

    OMP_NUM_THREADS=1 python bench/similarity_filter.py SCENES --out RUN [--exchanged 0.5] [--steps 300]

A part that is there is not made again.
"""

from __future__ import annotations

import argparse
import io
import json
import random
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from bimo.core.recipe import Recipe, Stage
from bimo.curation.filters.similarity import Similarity
from bimo.curation.phases.run import curate
from bimo.curation.steps import Curation, Tools
from bimo.data import shards
from bimo.evaluation.intervals import Interval, bootstrap, share
from bimo.evaluation.report import shown
from bimo.models.clip.vision import ClipVision
from bimo.models.text_encoders.bert import Bert
from bimo.training.objectives.clip_contrastive import ClipContrastive
from bimo.training.trainer import train

SIDE, BATCH, HELD_OUT = 64, 64, 400
#: The share of exchanged captions that the line of the filter lets pass.
FALSE_ACCEPTS = 0.1
Row = dict[str, Any]


def recipe(steps: int) -> Recipe:
    """A CLIP of 0.8 M parameters for pictures of 64 pixels."""
    text = Bert(
        width=96, layers=2, heads=4, feed=384, length=24, masked=True, pooler=False, pool="start", project=64,
        words="lexicon", vocab=2000,
    )  # fmt: skip
    vision = ClipVision(size=SIDE, patch=16, width=96, layers=2, heads=4, feed=384, project=64)
    stage = Stage(
        name="words meet pictures",
        objective=ClipContrastive(),
        train=("text.*", "vision.*"),
        steps=steps,
        batch=BATCH,
        lr=1e-3,
        warmup=steps // 10,
        lr_schedule="cosine",
        size=(SIDE, SIDE),
    )
    return Recipe(name="small-clip", text_encoders=(text,), vision=vision, stages=(stage,))


def rows_of(data: Path) -> list[Row]:
    """Scenes and dishes: a small picture, its longest Chinese caption, what it shows and in which manner."""
    rows: list[Row] = []
    for key, png, record in shards.read(data):
        labels = record["labels"]
        if labels["type"] != "verse":
            with Image.open(io.BytesIO(png)) as image:
                small = image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BOX)
            chinese = [caption["text"] for caption in record["captions"] if caption["lang"] == "zh"]
            rows.append(
                {"key": key, "image": small, "text": max(chinese, key=len), "is": (labels["subject"], labels["style"])}
            )
    return rows


def exchanged(rows: Sequence[Row], portion: float) -> list[Row]:
    """The rows, a portion of them with captions of one another; "own" says which kept theirs."""
    chance = random.Random(0)
    picked = chance.sample(range(len(rows)), round(portion * len(rows)))
    texts = {place: rows[other]["text"] for place, other in zip(picked, (*picked[1:], picked[0]), strict=True)}
    return [{**row, "text": texts.get(n, row["text"]), "own": n not in texts} for n, row in enumerate(rows)]


def write(rows: Sequence[Row], folder: Path) -> Path:
    """A folder of pictures with a table of captions."""
    (folder / "pictures").mkdir(parents=True, exist_ok=True)
    with (folder / "pairs.jsonl").open("w", encoding="utf-8") as table:
        for row in rows:
            name = f"pictures/{row['key']}.png"
            row["image"].save(folder / name)
            table.write(json.dumps({"file": name, "caption": row["text"]}, ensure_ascii=False) + "\n")
    return folder / "pairs.jsonl"


def curated(rows: Sequence[Row], out: Path, steps: tuple[Similarity, ...] = ()) -> Path:
    """Rows as shards, after the steps of a curation."""
    from bimo.cli.curate import open_scorer

    if not (out / "report.json").is_file():
        source = write(rows, out.with_name(f"{out.name}-source"))
        curate(source, out, Curation(name="filter", steps=steps), tools=Tools(open_scorer))
    return out


def kept(rows: Sequence[Row], out: Path) -> list[Row]:
    """The rows that a curation kept, by the lines of the table that it read."""
    lines = [int(str(record["source"]).rpartition(":")[2]) for _, _, record in shards.read(out)]
    return [rows[line - 1] for line in lines]


def trained(data: Path, out: Path, steps: int) -> Path:
    """A CLIP on a set, from scratch."""
    return out if (out / "recipe.json").is_file() else train(recipe(steps), data, out, threads=1)


def measured(run: Path, rows: Sequence[Row]) -> tuple[Interval, Interval]:
    """Of captions that training had not: the share of pictures of another subject or manner that are further from one
    than its own picture is, 0.5 by chance; and how often the nearest picture is in its manner.
    """
    from bimo.cli.curate import open_scorer

    scorer = open_scorer(str(run))
    cosines = scorer.words([row["text"] for row in rows]) @ scorer.pictures([row["image"] for row in rows]).T
    other = np.array([[row["is"] != one["is"] for one in rows] for row in rows])
    further = [
        float((own[strange] < own[place]).mean())
        for place, (own, strange) in enumerate(zip(cosines, other, strict=True))
    ]
    first = [rows[int(place)]["is"][1] == row["is"][1] for place, row in zip(cosines.argmax(1), rows, strict=True)]
    return bootstrap(further), share(first)


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--exchanged", type=float, default=0.5)
    parser.add_argument("--steps", type=int, default=300)
    given = parser.parse_args()
    begun = time.process_time()
    rows = rows_of(given.data)
    random.Random(1).shuffle(rows)
    held_out, learned = rows[:HELD_OUT], exchanged(rows[HELD_OUT:], given.exchanged)
    by_all = trained(curated(learned, given.out / "all"), given.out / "run-all", given.steps)
    step = Similarity(scorer=str(by_all), false_accepts=FALSE_ACCEPTS)
    some = kept(learned, curated(learned, given.out / "filtered", (step,)))
    own = [row for row in learned if row["own"]]
    sets = {"filtered": some, "random": random.Random(2).sample(learned, len(some)), "own": own}
    runs = {"all": by_all}
    for name in sets:
        data = given.out / name if name == "filtered" else curated(sets[name], given.out / name)
        runs[name] = trained(data, given.out / f"run-{name}", given.steps)
    sets = {"all": learned, **sets}
    lines = [
        "| learned from | rows | own captions | strangers further | manner of the nearest |",
        "|---|---|---|---|---|",
    ]
    for name, run in runs.items():
        own_share = sum(row["own"] for row in sets[name]) / len(sets[name])
        further, manner = (shown(vars(found), "share") for found in measured(run, held_out))
        lines.append(f"| {name} | {len(sets[name])} | {own_share:.0%} | {further} | {manner} |")
    lines += ["", f"{time.process_time() - begun:.0f} processor seconds for what was not there yet."]
    (given.out / "table.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
