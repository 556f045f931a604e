"""Scores of pairs by one Chinese-CLIP folder: `bimo curate` with Similarity against data-juicer's own operator.

The folder is of the shape of ViT-B/32 with three layers of text, its weights random: they do not matter for time. Both
sides read the same pictures and captions and keep every pair; a fresh process each, as many threads as there are cores.
The peer runs by a Python of its own that has py-data-juicer, torch and transformers.

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
from pathlib import Path
from typing import Any

from curation import ROOT, make, rows_of, whole

SIDES = ("bimo", "data-juicer")


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
    ChineseCLIPProcessor(ChineseCLIPImageProcessor(), tokenizer).save_pretrained(folder)
    return folder


def by_bimo(table: Path, model: Path, out: Path) -> int:
    """Through the interface that the command uses."""
    from bimo.apps.cli_curate import open_scorer
    from bimo.data.curation.run import curate
    from bimo.data.curation.similarity import Similarity
    from bimo.data.curation.steps import Curation, Tools

    step = Similarity(scorer=str(model), above=-1.0)
    report = curate(table, out, Curation(name="bench", steps=(step,)), tools=Tools(open_scorer))
    return int(report["numbers"]["kept"])


def by_data_juicer(table: Path, model: Path, out: Path) -> int:
    """Its command, by a settings file; one process, which holds the model."""
    out.mkdir()
    with (out / "in.jsonl").open("w", encoding="utf-8") as listed:
        for row in rows_of(table):
            pair = {"text": f"<__dj__image> {row['caption']}", "images": [str(table.parent / row["file"])]}
            listed.write(json.dumps(pair, ensure_ascii=False) + "\n")
    settings = {
        "project_name": "bench",
        "dataset_path": str(out / "in.jsonl"),
        "export_path": str(out / "out.jsonl"),
        "np": 1,
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


def run(side: str, table: Path, model: Path, out: Path, python: str) -> dict[str, Any]:
    """What a run took, in a process of its own. Exits where it fails."""
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "DO_NOT_TRACK": "1"}
    environment |= {"PYTHONPATH": str(ROOT)} if side == "bimo" else {}
    command = [python, __file__, "--one", side, "--table", str(table), "--model", str(model), "--out", str(out)]
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    seconds, after = time.monotonic() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        sys.exit(f"{side}: {done.stderr[-3000:]}")
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"kept": int(done.stdout.split()[-1]), "seconds": seconds, "cpu": cpu}


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
        for side in SIDES:
            python = sys.executable if side == "bimo" else peer
            took = {n: run(side, t, model, folder / f"out-{side}-{n}", python) for n, t in tables.items()}
            costs[side] = (took[pairs]["seconds"] - took[few]["seconds"]) / (pairs - few)
            told = ", ".join(f"{n}: {one['seconds']:.1f} s ({one['cpu']:.1f} cpu)" for n, one in took.items())
            print(
                f"{side:12} {told}; kept {took[pairs]['kept']}; {1 / costs[side]:.1f} pairs a second beyond the start"
            )
        print(f"bimo scores {costs['data-juicer'] / costs['bimo']:.2f} times as many pairs a second")


def main() -> None:
    """Reads the command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--pairs", type=int, default=200)
    parser.add_argument("--peers-python", default="", help="the Python that has data-juicer")
    parser.add_argument("--one", choices=SIDES, help=argparse.SUPPRESS)
    for name in ("--table", "--model", "--out"):
        parser.add_argument(name, type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        side = by_bimo if options.one == "bimo" else by_data_juicer
        print(side(options.table, options.model, options.out))
    elif not options.peers_python:
        parser.error("--peers-python names the Python that has data-juicer")
    else:
        compare(options.pairs, options.peers_python)


if __name__ == "__main__":
    main()
