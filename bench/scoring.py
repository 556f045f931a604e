"""Scores of pairs by one Chinese-CLIP folder: `bimo curate` with Similarity against data-juicer's own operator.

The folder is of the shape of ViT-B/32 with three layers of text, its weights random: they do not matter for time. Both
sides read the same pictures and captions and keep every pair, each by its own command in a fresh process; data-juicer
with one process of as many threads as there are cores, and with two. The peer runs by a Python of its own that has
py-data-juicer, torch and transformers (4.57.1 is the release it names).

    python bench/scoring.py --peers-python PATH [--pairs 200]
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from curation import ROOT, make, rows_of, whole


def clip(folder: Path, captions: list[str]) -> Path:
    """Saves a random Chinese-CLIP with a vocabulary of the captions' characters."""
    import torch
    from transformers import (
        BertTokenizer,
        ChineseCLIPConfig,
        ChineseCLIPImageProcessor,
        ChineseCLIPModel,
        ChineseCLIPProcessor,
    )

    torch.manual_seed(0)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *sorted({c for text in captions for c in text if c != " "})]
    folder.mkdir()
    (folder / "vocab.txt").write_text("\n".join(words), "utf-8")
    text = {"vocab_size": 21128, "num_hidden_layers": 3}
    vision = {"patch_size": 32, "image_size": 224, "hidden_size": 768, "num_hidden_layers": 12}
    ChineseCLIPModel(ChineseCLIPConfig(text_config=text, vision_config=vision)).save_pretrained(folder)
    tokenizer = BertTokenizer(str(folder / "vocab.txt"))
    # As the published folders have it, which older releases of the library need as well.
    squeezed = ChineseCLIPImageProcessor(size={"height": 224, "width": 224}, do_center_crop=False)
    ChineseCLIPProcessor(squeezed, tokenizer).save_pretrained(folder)
    return folder


def by_bimo(table: Path, model: Path, out: Path, dtype: str) -> int:
    """bimo's command, which also writes shards, a table and the page."""
    from bimo.core.part import dumps
    from bimo.curation.filters.similarity import Similarity
    from bimo.curation.steps import Curation

    listed = out.with_suffix(".json")
    listed.write_text(dumps(Curation(name="bench", steps=(Similarity(scorer=str(model), above=-1.0),))), "utf-8")
    command = [sys.executable, "-m", "bimo.cli.main", "curate", str(table), str(out), "--recipe", str(listed)]
    done = subprocess.run([*command, "--dtype", dtype], capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit((done.stdout + done.stderr)[-3000:])
    return int(json.loads((out / "report.json").read_text("utf-8"))["numbers"]["kept"])


def by_data_juicer(table: Path, model: Path, out: Path, processes: int) -> int:
    """data-juicer's command with a settings file; each process loads the model."""
    out.mkdir()
    with (out / "in.jsonl").open("w", encoding="utf-8") as listed:
        for row in rows_of(table):
            pair = {"text": f"<__dj__image> {row['caption']}", "images": [str(table.parent / row["file"])]}
            listed.write(json.dumps(pair, ensure_ascii=False) + "\n")
    settings = {
        "project_name": "bench",
        "dataset_path": str(out / "in.jsonl"),
        "export_path": str(out / "out.jsonl"),
        "np": processes,
        "use_cache": False,
        "open_monitor": False,
        "process": [{"image_text_similarity_filter": {"hf_clip": str(model), "min_score": -1.0, "max_score": 1.0}}],
    }
    (out / "bench.yaml").write_text(json.dumps(settings), "utf-8")
    command = [str(Path(sys.executable).with_name("dj-process")), "--config", str(out / "bench.yaml")]
    done = subprocess.run(command, cwd=out, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit((done.stdout + done.stderr)[-3000:])
    with (out / "out.jsonl").open(encoding="utf-8") as kept:
        return sum(1 for _ in kept)


SIDES: dict[str, Callable[[Path, Path, Path], int]] = {
    "bimo": lambda table, model, out: by_bimo(table, model, out, "fastest"),
    "bimo fp32": lambda table, model, out: by_bimo(table, model, out, "fp32"),
    "data-juicer": lambda table, model, out: by_data_juicer(table, model, out, 1),
    "data-juicer, 2 processes": lambda table, model, out: by_data_juicer(table, model, out, 2),
}


def run(side: str, table: Path, model: Path, out: Path, python: str) -> dict[str, Any]:
    """Runs a side in a process of its own and returns its measurements. Exits if it fails."""
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "DO_NOT_TRACK": "1"}
    environment |= {"PYTHONPATH": str(ROOT)} if side.startswith("bimo") else {}
    command = [python, __file__, "--one", side, "--table", str(table), "--model", str(model), "--out", str(out)]
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    seconds, after = time.monotonic() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        sys.exit(f"{side}: {done.stderr[-3000:]}")
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"kept": int(done.stdout.split()[-1]), "seconds": seconds, "cpu": cpu}


def scores(out: Path) -> Any:
    """The similarities [N] of a run of bimo, by number."""
    import numpy as np
    import pyarrow.parquet as pq

    rows = [row for file in sorted((out / "table").glob("*.parquet")) for row in pq.read_table(file).to_pylist()]
    return np.array([row["similarity"] for row in sorted(rows, key=lambda row: row["number"])])


def differences(exact: Any, fast: Any) -> str:
    """How far scores [N] are from exact ones, and whether they order the pairs alike (Spearman)."""
    import numpy as np

    apart = np.abs(exact - fast)
    ranks = [np.argsort(np.argsort(values)) for values in (exact, fast)]
    alike = float(np.corrcoef(ranks[0], ranks[1])[0, 1])
    return f"max {apart.max():.5f}, mean {apart.mean():.5f}, rank correlation {alike:.4f}"


def compare(pairs: int, peer: str) -> None:
    """Makes pairs and the model, lets both sides score few and many pairs, and prints what a pair costs beyond few."""
    with tempfile.TemporaryDirectory(prefix="bimo-scoring-") as made:
        folder = Path(made)
        make(folder / "data", pairs + 40)
        every = [row for row in rows_of(folder / "data" / "pairs.jsonl") if whole(folder / "data" / row["file"])]
        model = clip(folder / "clip", [row["caption"] for row in every])
        few = pairs // 10
        tables: dict[int, Path] = {}
        for count in (few, pairs):
            tables[count] = folder / "data" / f"{count}.jsonl"
            lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in every[:count])
            tables[count].write_text("".join(lines), "utf-8")
        print(f"{pairs} pairs, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} before the first run")
        costs: dict[str, float] = {}
        for place, side in enumerate(SIDES):
            python = sys.executable if side.startswith("bimo") else peer
            took = {n: run(side, t, model, folder / f"out-{place}-{n}", python) for n, t in tables.items()}
            costs[side] = (took[pairs]["seconds"] - took[few]["seconds"]) / (pairs - few)
            if short := [n for n, one in took.items() if one["kept"] != n]:
                # All rows must be kept: a missing one was not scored.
                sys.exit(f"{side}: of {short[0]} pairs {took[short[0]]['kept']} were scored")
            summary = ", ".join(f"{n}: {one['seconds']:.1f} s ({one['cpu']:.1f} cpu)" for n, one in took.items())
            print(f"{side:24} {summary}; {1 / costs[side]:.1f} pairs a second beyond the start", flush=True)
        exact, fast = (scores(folder / f"out-{place}-{pairs}") for place in (1, 0))
        print(f"cosines of bimo against its fp32: {differences(exact, fast)}; deviation {exact.std():.4f}")
        best = min(cost for side, cost in costs.items() if side.startswith("data-juicer"))
        print(f"bimo scores {best / costs['bimo']:.2f} times as many pairs a second as the faster data-juicer")


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--pairs", type=int, default=200)
    parser.add_argument("--peers-python", default="", help="the Python that has data-juicer")
    parser.add_argument("--one", choices=SIDES, help=argparse.SUPPRESS)
    for name in ("--table", "--model", "--out"):
        parser.add_argument(name, type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(SIDES[options.one](options.table, options.model, options.out))
    elif not options.peers_python:
        parser.error("--peers-python names the Python that has data-juicer")
    else:
        compare(options.pairs, options.peers_python)


if __name__ == "__main__":
    main()
