"""Memory and samples a second of the training data, by how many rows there are; of two checkouts in turns.

Data folders of small JPEGs with captions and labels are made and deleted afterwards. Each run is a process of its own
that opens the data, goes through it with a stage's loader for some epochs and lets a small convolution learn from each
batch (``--step`` of them a batch, 0 for none). Told are seconds until the first batch; samples a second of the first
epoch with that start, and of the later ones; memory at the end, all of it and what is no mapped file (VmRSS, RssAnon),
and at its most (VmHWM). ``--against`` names another checkout of bimo, run in turns with this one on the same data, its
caches removed before each run.

    OMP_NUM_THREADS=1 python bench/data_loading.py [--rows 1000,10000] [--side 64] [--epochs 2] [--against CHECKOUT]
"""

from __future__ import annotations

import argparse
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np

BATCH, SHARD = 64, 2000


def make(folder: Path, rows: int, side: int) -> None:
    """Writes a data folder of ``rows`` JPEGs of ``side`` pixels: noise on a slope, so that they weigh as photos do."""
    from PIL import Image

    from bimo.data.shards import Sample, shard_name, write_index, write_shard

    generator = np.random.default_rng(0)
    slope = np.linspace(0, 200, side)[None, :, None]

    def samples(first: int) -> Iterator[Sample]:
        for row in range(first, min(first + SHARD, rows)):
            noise = generator.integers(0, 55, (side, side, 3))
            buffer = io.BytesIO()
            Image.fromarray((slope + noise).astype(np.uint8)).save(buffer, "JPEG", quality=90)
            caption = {"text": f"第{row}张：一座山，山下有河，河边有人家，天上是第{row % 97}种云", "lang": "zh"}
            yield f"{row:08d}", buffer.getvalue(), {"captions": [caption], "labels": {"score": row % 10 / 10}}

    folder.mkdir()
    starts = range(0, rows, SHARD)
    write_index(folder, [write_shard(folder / shard_name(n), samples(at), "bench") for n, at in enumerate(starts)])


def memory() -> dict[str, int]:
    """Memory of this process in MB, as reported by the kernel."""
    lines = (line.split() for line in Path("/proc/self/status").read_text().splitlines())
    return {line[0][:-1]: int(line[1]) >> 10 for line in lines if line[0] in ("VmRSS:", "RssAnon:", "VmHWM:")}


def measure(folder: Path, out: Path, epochs: int, step: int) -> dict[str, Any]:
    """Reads a data folder in batches."""
    import torch

    from bimo.core.recipe import Stage
    from bimo.data.loader import Pictures
    from bimo.training.objectives.reconstruct import Reconstruct
    from bimo.training.train_inputs import TrainInputs, vocabulary
    from bimo.training.train_loader import TrainLoader

    torch.set_num_threads(1)
    before = memory()["VmRSS"]
    began = time.perf_counter()
    pictures = Pictures(folder)
    stage = Stage(name="bench", objective=Reconstruct(level="image"), steps=1, batch=BATCH, lr=1e-3, train=("*",))
    system = cast(Any, SimpleNamespace(text_encoders=()))
    blank = TrainInputs(system, stage, None, (), vocabulary(pictures.labels), torch.Generator())
    loader = TrainLoader(blank, "pixels", (), pictures, out, seed=1)
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 16, 3, 2, 1), torch.nn.SiLU(), torch.nn.Conv2d(16, 16, 3, 2, 1))
    marks = [time.perf_counter()]
    number = 0
    for _ in range(epochs):
        for _ in range(loader.order.per_epoch):
            inputs = loader.inputs(number, torch.Generator().manual_seed(number))
            for _ in range(step):
                net(cast(torch.Tensor, inputs.pixels)).square().mean().backward()
            number += 1
        marks.append(time.perf_counter())
    samples = loader.order.per_epoch * BATCH
    later = [end - start for start, end in pairwise(marks[1:])]
    return {
        "start_s": round(marks[0] - began, 2),
        "first_epoch_with_start": round(samples / (marks[1] - began)),
        "later_epochs": round(samples * len(later) / sum(later)) if later else None,
        "all": round(samples * epochs / (marks[-1] - began)),
        "MB_before_data": before,
        **memory(),
    }


def main() -> None:
    """Runs both sides in turns, or one in this process with ``--folder``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", default="1000,10000")
    parser.add_argument("--side", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--step", type=int, default=0)
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--against", type=Path)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.folder:
        with tempfile.TemporaryDirectory() as out:
            print(json.dumps(measure(options.folder, Path(out), options.epochs, options.step)))
        return
    here = Path(__file__).parents[1]
    for rows in map(int, options.rows.split(",")):
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place) / "data"
            make(folder, rows, options.side)
            for turn in range(options.runs):
                sides = [here, *([options.against] if options.against else [])]
                for side in sides if turn % 2 else sides[::-1]:
                    shutil.rmtree(folder / ".cache", ignore_errors=True)
                    words = ["--folder", folder, "--epochs", options.epochs, "--step", options.step]
                    done = subprocess.run(
                        [sys.executable, __file__, *map(str, words)],
                        env={**os.environ, "PYTHONPATH": str(side.absolute())},
                        capture_output=True,
                        text=True,
                        check=True,
                    )
                    name = "this" if side == here else "other"
                    print(f"{rows:>7} {name:>5} {done.stdout.splitlines()[-1]}", flush=True)


if __name__ == "__main__":
    main()
