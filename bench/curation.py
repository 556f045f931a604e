"""Curation against other tools: the same generated pictures, the same machine, a fresh process for each run, in turns.

The pictures have sides of 120 to 1200 pixels; 5 % are copies byte for byte, 5 % were encoded again, 1 % is corrupt.
Every side drops sides under 200 pixels, shapes beyond 1:3, captions of fewer than two characters, and copies:

- bimo: near copies by an index (Hamming distance and cuts), shards, a table of every row with its scores, a page;
- pillow: a loop in two processes: Pillow, imagehash, copies by equal bytes or equal pHash, webdataset shards;
- daft: Daft's own decoder, copies by equal pHash, a parquet file without pictures;
- data-juicer: its operators, copies by equal pHash, a list in JSON without pictures; "safe" with ``batch_size: 1`` on
  operators over pictures, the only setting at which it does not lose all rows of a batch with a broken file, and
  "clean" as it comes, on a list from which the corrupt files were taken out beforehand.

Told are medians: seconds of the clock, processor seconds of all its processes, pictures a second by both, and what
became of the rows. Where other work runs on the machine, only processor seconds compare.

The peers run by a Python of their own: ``pip install py-data-juicer aiohttp opencv-python-headless imagededup daft
imagehash webdataset`` into an environment, and ``--peers-python`` names its Python; the parts that are not there are
told, not failed.

    python bench/curation.py [--pictures 2000] [--runs 1] [--peers-python PATH] [--only bimo,daft] [--folder FOLDER]
    python bench/curation.py --memory [--rows 2000,20000,200000]
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
WORKERS = 2
SIDES = ("bimo", "pillow", "daft", "data-juicer safe", "data-juicer clean")
LEAST_SIDE, LOW, HIGH, LEAST_TEXT = 200, 1 / 3, 3.0, 2
#: The modules that each tool needs.
NEEDS = {"pillow": "imagehash, webdataset", "daft": "daft", "data-juicer": "data_juicer, imagededup.methods, aiohttp"}


def make(folder: Path, count: int) -> Path:
    """Writes pictures and ``pairs.jsonl``; the same for the same count."""
    import numpy as np
    from PIL import Image

    draw = random.Random(0)
    noise = np.random.default_rng(0)
    (folder / "pictures").mkdir(parents=True)
    with (folder / "pairs.jsonl").open("w", encoding="utf-8") as table:
        for number in range(count):
            name = f"pictures/{number:07d}.jpg"
            kind = draw.random()
            if number > 20 and kind < 0.10:
                # A copy of an undamaged picture.
                other = folder / f"pictures/{draw.randrange(number // 20) * 20:07d}.jpg"
                if kind < 0.05:
                    shutil.copyfile(other, folder / name)
                else:
                    Image.open(other).save(folder / name, quality=70)
            else:
                width, height = draw.randint(120, 1200), draw.randint(120, 1200)
                grid = noise.integers(0, 256, (max(2, height // 24), max(2, width // 24), 3), dtype=np.uint8)
                picture = Image.fromarray(grid).resize((width, height), Image.Resampling.BICUBIC)
                picture.save(folder / name, quality=85)
                if kind > 0.99 and number % 20:
                    data = (folder / name).read_bytes()
                    (folder / name).write_bytes(data[: len(data) // 3])
            text = "猫" if number % 50 == 7 else f"第 {number} 张照片里的一只猫在晒太阳"
            table.write(json.dumps({"file": name, "caption": text}, ensure_ascii=False) + "\n")
    return folder / "pairs.jsonl"


def whole(path: Path) -> bool:
    """Whether Pillow decodes a file to its end."""
    from PIL import Image

    try:
        with Image.open(path) as picture:
            picture.load()
    except OSError:
        return False
    return True


def rows_of(table: Path) -> list[dict[str, str]]:
    """The rows of ``pairs.jsonl``."""
    return [json.loads(line) for line in table.read_text("utf-8").splitlines()]


# The functions up to the next heading run in a process of their own; other tools import nothing of bimo.


def by_bimo(table: Path, out: Path) -> dict[str, int]:
    """bimo, by the function that the command calls."""
    from bimo.curation.dedup.duplicates import Duplicates
    from bimo.curation.executors.processes import ProcessExecutor
    from bimo.curation.filters.caption_rules import Length
    from bimo.curation.filters.image_rules import Aspect, MinSide
    from bimo.curation.phases.run import curate
    from bimo.curation.steps import Curation, Tools

    def no_scorer(name: str) -> Any:
        raise AssertionError(name)

    steps = (MinSide(pixels=LEAST_SIDE), Aspect(low=LOW, high=HIGH), Length(least=LEAST_TEXT), Duplicates())
    crew = ProcessExecutor(WORKERS)
    report = curate(table, out, Curation(name="bench", steps=steps), tools=Tools(no_scorer), workers=crew)
    return {name: report["numbers"][name] for name in ("kept", "dropped", "failed")}


def _looked(row: tuple[str, str, str]) -> tuple[str, str, str, str] | str:
    """Processes a row in a worker: (name, caption, sha256, phash), or why it was dropped."""
    import hashlib

    import imagehash
    from PIL import Image

    folder, name, caption = row
    if len(caption) < LEAST_TEXT:
        return "dropped"
    data = Path(folder, name).read_bytes()
    try:
        with Image.open(Path(folder, name)) as opened:
            picture = opened.convert("RGB")
    except OSError:
        return "failed"
    width, height = picture.size
    if min(width, height) < LEAST_SIDE or not LOW <= width / height <= HIGH:
        return "dropped"
    return name, caption, hashlib.sha256(data).hexdigest(), str(imagehash.phash(picture))


def by_pillow(table: Path, out: Path) -> dict[str, int]:
    """A hand-written loop."""
    from multiprocessing import Pool

    import webdataset

    counts = {"kept": 0, "dropped": 0, "failed": 0}
    seen: set[str] = set()
    out.mkdir()
    jobs = [(str(table.parent), row["file"], row["caption"]) for row in rows_of(table)]
    with Pool(WORKERS) as pool, webdataset.ShardWriter(str(out / "%05d.tar"), maxcount=2000, verbose=0) as writer:
        for found in pool.imap(_looked, jobs, chunksize=16):
            if isinstance(found, str):
                counts[found] += 1
                continue
            name, caption, digest, phash = found
            if digest in seen or phash in seen:
                counts["dropped"] += 1
                continue
            seen |= {digest, phash}
            data = (table.parent / name).read_bytes()
            writer.write({"__key__": Path(name).stem, "jpg": data, "txt": caption})
            counts["kept"] += 1
    return counts


def by_daft(table: Path, out: Path) -> dict[str, int]:
    """Daft's expressions with its own threads."""
    import daft
    from daft import col
    from daft.functions import decode_image, download, image_hash, image_height, image_width, length

    rows = rows_of(table)
    data = {
        "path": [str(table.parent / row["file"]) for row in rows],
        "caption": [row["caption"] for row in rows],
    }
    frame = daft.from_pydict(data).where(length(col("caption")) >= LEAST_TEXT)
    frame = frame.with_column("picture", decode_image(download(col("path")), on_error="null", mode="RGB"))
    frame = frame.where(~col("picture").is_null())
    frame = frame.with_columns({"width": image_width(col("picture")), "height": image_height(col("picture"))})
    shape = col("width") / col("height")
    sides = (col("width") >= LEAST_SIDE) & (col("height") >= LEAST_SIDE)
    frame = frame.where(sides & (shape >= LOW) & (shape <= HIGH))
    frame = frame.with_column("phash", image_hash(col("picture"), method="phash"))
    frame.select("path", "caption", "width", "height", "phash").distinct("phash").write_parquet(str(out))
    # It does not report dropped rows.
    return {"kept": daft.read_parquet(str(out)).count_rows()}


def by_data_juicer(table: Path, out: Path, batch: int | None) -> dict[str, int]:
    """data-juicer's command with a settings file. ``batch`` is that of picture operators; None means its default."""
    out.mkdir()
    with (out / "in.jsonl").open("w", encoding="utf-8") as listed:
        for row in rows_of(table):
            pair = {"text": f"<__dj__image> {row['caption']}", "images": [str(table.parent / row["file"])]}
            listed.write(json.dumps(pair, ensure_ascii=False) + "\n")
    one = {} if batch is None else {"batch_size": batch}
    # The text has the image token and a blank before the caption.
    least = len("<__dj__image> ") + LEAST_TEXT
    settings = {
        "project_name": "bench",
        "dataset_path": str(out / "in.jsonl"),
        "export_path": str(out / "out.jsonl"),
        "np": WORKERS,
        "use_cache": False,
        "open_monitor": False,
        "keep_stats_in_res_ds": True,
        "process": [
            {"text_length_filter": {"min_len": least, "max_len": 10000}},
            {"image_shape_filter": {"min_width": LEAST_SIDE, "min_height": LEAST_SIDE, **one}},
            {"image_aspect_ratio_filter": {"min_ratio": LOW, "max_ratio": HIGH, **one}},
            {"image_deduplicator": {"method": "phash"}},
        ],
    }
    # JSON is YAML.
    (out / "bench.yaml").write_text(json.dumps(settings), "utf-8")
    command = [str(Path(sys.executable).with_name("dj-process")), "--config", str(out / "bench.yaml")]
    done = subprocess.run(command, cwd=out, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit((done.stdout + done.stderr)[-3000:])
    with (out / "out.jsonl").open(encoding="utf-8") as kept:
        return {"kept": sum(1 for _ in kept)}


def one(side: str, table: Path, out: Path) -> None:
    """Runs a side and prints what it kept, and the CPU seconds of this process and its children."""
    if side == "bimo":
        found = by_bimo(table, out)
    elif side == "pillow":
        found = by_pillow(table, out)
    elif side == "daft":
        found = by_daft(table, out)
    else:
        found = by_data_juicer(table, out, 1 if side.endswith("safe") else None)
    print(json.dumps(found))


# The functions below run in the main process.


def run(side: str, table: Path, out: Path, python: str) -> dict[str, Any]:
    """Runs a side in a process of its own and returns its measurements. Exits if it fails."""
    shutil.rmtree(out, ignore_errors=True)
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "DO_NOT_TRACK": "1"}
    if side == "bimo":
        environment["PYTHONPATH"] = str(ROOT)
    command = [python, __file__, "--one", side, "--table", str(table), "--out", str(out)]
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    seconds, after = time.monotonic() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        sys.exit(f"{side}: {done.stderr[-3000:]}")
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return json.loads(done.stdout.splitlines()[-1]) | {"seconds": seconds, "cpu": cpu}


def missing(side: str, python: str) -> str:
    """The modules that a side cannot import."""
    if side == "bimo":
        return ""
    names = NEEDS[side.partition(" ")[0]]
    if not python:
        return "no --peers-python was given"
    done = subprocess.run([python, "-c", f"import {names}"], capture_output=True, text=True, check=False)
    return done.stderr.strip().splitlines()[-1] if done.returncode else ""


def compare(count: int, runs: int, peers: str, sides: Sequence[str], kept: Path | None) -> None:
    """Makes the pictures, or takes those in ``kept``, lets the sides run in turns, prints medians and their ratios to
    bimo.
    """
    with tempfile.TemporaryDirectory(prefix="bimo-curation-") as made:
        folder = kept or Path(made)
        table, clean = folder / "pairs.jsonl", folder / "clean.jsonl"
        if not clean.is_file():
            shutil.rmtree(folder / "pictures", ignore_errors=True)
            make(folder, count)
            rows = [row for row in rows_of(table) if whole(folder / row["file"])]
            clean.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
        rows = rows_of(clean)
        if len(rows_of(table)) != count:
            sys.exit(f"{folder} holds {len(rows_of(table))} pictures, not {count}")
        if not sides[0]:
            return
        size = sum(file.stat().st_size for file in (folder / "pictures").iterdir())
        load = os.getloadavg()[0]
        print(f"{count} pictures, {size / 1e6:.0f} MB, {count - len(rows)} corrupt; {WORKERS} processes each; ", end="")
        print(f"{os.cpu_count()} cores, load {load:.1f} before the first run")
        can: list[str] = []
        for side in sides:
            lacks = missing(side, peers)
            print(f"{side}: not run, {lacks}" if lacks else "", end="\n" if lacks else "")
            can += [] if lacks else [side]
        found: dict[str, list[dict[str, Any]]] = {side: [] for side in can}
        for _ in range(runs):
            for side in can:
                source = clean if side.endswith("clean") else table
                done = run(side, source, folder / "out", sys.executable if side == "bimo" else peers)
                summary = f"{side}: {done['seconds']:.1f} s of the clock, {done['cpu']:.1f} s of processors"
                print(summary, file=sys.stderr, flush=True)
                found[side].append(done)
        middle = {s: {k: statistics.median(one[k] for one in f) for k in ("seconds", "cpu")} for s, f in found.items()}
        ours = middle.get("bimo")
        print(f"{'':18} {'clock':>8} {'processor':>10} {'a second':>9} {'a cpu s':>8}   times bimo's: clock, processor")
        for side, one in middle.items():
            rows_in = len(rows) if side.endswith("clean") else count
            # Per picture, as the clean list is shorter.
            by = [one[k] / rows_in / (ours[k] / count) for k in ("seconds", "cpu")] if ours else []
            ratio = ", ".join(f"{value:.2f}" for value in by)
            speed = f"{rows_in / one['seconds']:9.0f} {rows_in / one['cpu']:8.0f}"
            summary = ", ".join(f"{k} {v}" for k, v in found[side][0].items() if k not in ("seconds", "cpu"))
            print(f"{side:18} {one['seconds']:8.1f} {one['cpu']:10.1f} {speed}   {ratio:14} {rows_in} in: {summary}")


def memory(counts: Sequence[int]) -> None:
    """Runs bimo over tiny pictures, and prints the peak of its own process and of the largest worker, and the time."""
    print("rows, seconds of the clock and of processors, microseconds of processors a row, peak of parent and worker")
    for count in counts:
        with tempfile.TemporaryDirectory(prefix="bimo-curation-") as made:
            folder = Path(made)
            table = tiny(folder, count)
            environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
            command = [sys.executable, __file__, "--one", "bimo", "--table", str(table), "--out", str(folder / "out")]
            before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
            process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
            parent = worker = 0
            while process.poll() is None:
                parent = max(parent, peak(process.pid))
                worker = max([worker, *(peak(child) for child in children(process.pid))])
                time.sleep(0.05)
            seconds, after = time.monotonic() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
            if process.returncode:
                sys.exit(f"bimo ended with {process.returncode}")
            cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
            each = f"{cpu / count * 1e6:7.0f} us"
            print(
                f"{count:8} {seconds:8.1f} {cpu:8.1f} {each}  {parent // 1024:6} MB {worker // 1024:6} MB", flush=True
            )


def tiny(folder: Path, count: int) -> Path:
    """A table of rows, each with a picture of its own of 200 x 200 pixels: what counts here is rows, not pixels."""
    from multiprocessing import Pool

    (folder / "pictures").mkdir()
    with Pool(WORKERS) as pool:
        pool.starmap(_one_tiny, ((folder / "pictures", number) for number in range(count)), chunksize=500)
    with (folder / "pairs.jsonl").open("w", encoding="utf-8") as table:
        for number in range(count):
            row = {"file": f"pictures/{number:06d}.jpg", "caption": f"第 {number} 张照片里的一只猫"}
            table.write(json.dumps(row, ensure_ascii=False) + "\n")
    return folder / "pairs.jsonl"


def _one_tiny(folder: Path, number: int) -> None:
    import numpy as np
    from PIL import Image

    grid = np.random.default_rng(number).integers(0, 256, (9, 9, 3), dtype=np.uint8)
    picture = Image.fromarray(grid).resize((200, 200), Image.Resampling.BICUBIC)
    picture.save(folder / f"{number:06d}.jpg", quality=60)


def peak(process: int) -> int:
    """The peak of a process's memory in kilobytes (VmHWM); 0 where it is gone."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("VmHWM")), 0)


def children(process: int) -> list[int]:
    """The processes that a process started."""
    try:
        return [int(word) for word in Path(f"/proc/{process}/task/{process}/children").read_text().split()]
    except OSError:
        return []


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--pictures", type=int, default=2000)
    parser.add_argument("--runs", type=int, default=1, help="of each side")
    parser.add_argument("--peers-python", default="", help="the Python that has the peers")
    parser.add_argument("--only", default=",".join(SIDES), help="sides by name, with commas; none only makes pictures")
    parser.add_argument("--memory", action="store_true", help="how memory and time grow with the rows, bimo alone")
    parser.add_argument("--rows", default="2000,20000,200000", help="how many rows --memory takes")
    parser.add_argument("--folder", type=Path, help="where pictures are made and stay for the next call")
    parser.add_argument("--one", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--table", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        one(options.one, options.table, options.out)
    elif options.memory:
        memory([int(word) for word in options.rows.split(",")])
    else:
        compare(options.pictures, options.runs, options.peers_python, options.only.split(","), options.folder)


if __name__ == "__main__":
    main()
