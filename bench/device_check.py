"""Checks a GPU in at most ten minutes: pictures equal to those of the CPU, seconds and memory, against diffusers.

Stable Diffusion 1 at its published size with random weights, 512x512, ten steps. Each row is a way to keep the weights:
the distance to the processor's float32 picture of the same seed, seconds (the median of three drawings after one that
warms), and the most memory that torch had from the card. Rows are left out once the minutes are spent, and said.

    python bench/device_check.py [--device cuda] [--minutes 10] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from against_diffusers import GUIDANCE, NEGATIVE, PROMPT, PUBLISHED, SEED, decibels, make

STEPS, SIDE, TURNS = 10, 512, 3
#: Arguments of ``bimo.load`` by the name of the row.
WAYS: dict[str, dict[str, Any]] = {
    "fp32": {"dtype": "fp32"},
    "fp16": {"dtype": "fp16"},
    "bf16": {"dtype": "bf16"},
    "fp16, int8": {"dtype": "fp16", "quantise": "int8"},
    "fp16, nf4": {"dtype": "fp16", "quantise": "nf4"},
    "fp16, parts": {"dtype": "fp16", "offload": "parts"},
    "fp16, groups": {"dtype": "fp16", "offload": "groups"},
    "fp16, 2 GB": {"memory": "2GB"},
    "fp16, compiled": {"dtype": "fp16", "compiled": True},
}
REQUEST = {"text": PROMPT, "negative": NEGATIVE, "guidance": GUIDANCE, "seed": SEED, "steps": STEPS}
Draw = Callable[[], Any]


def of_bimo(folder: Path, device: str, how: dict[str, Any]) -> Draw:
    """Draws with bimo."""
    import bimo

    engine = bimo.load(folder, device=device, **how)
    return lambda: engine.draw({**REQUEST, "size": (SIDE, SIDE)})[0].image


def of_diffusers(folder: Path, device: str, dtype: str) -> Draw:
    """Draws with diffusers' StableDiffusionPipeline from the same noise."""
    import torch
    from diffusers import StableDiffusionPipeline

    kind = {"fp32": torch.float32, "fp16": torch.float16}[dtype]
    pipeline = StableDiffusionPipeline.from_pretrained(str(folder), torch_dtype=kind, local_files_only=True).to(device)
    pipeline.set_progress_bar_config(disable=True)
    settings = {"negative_prompt": NEGATIVE, "guidance_scale": GUIDANCE, "num_inference_steps": STEPS}

    def draw() -> Any:
        generator = torch.Generator().manual_seed(SEED)
        return pipeline(PROMPT, generator=generator, width=SIDE, height=SIDE, **settings).images[0]

    return draw


def row(load: Callable[[], Draw], device: str, expected: Any) -> dict[str, Any]:
    """Measures one configuration; returns its row, or the error message."""
    import gc

    import torch

    gc.collect()
    if device.startswith("cuda"):
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        torch.cuda.set_per_process_memory_fraction(1.0)
    began = time.perf_counter()
    try:
        draw = load()
        loaded = time.perf_counter() - began
        picture = draw()
        seconds: list[float] = []
        for _ in range(TURNS):
            began = time.perf_counter()
            draw()
            seconds.append(time.perf_counter() - began)
    # Drivers raise exceptions of any type; they become rows of the table.
    except Exception as error:
        return {"refused": f"{type(error).__name__}: {error}"[:300]}
    peak = torch.cuda.max_memory_allocated() / 1e9 if device.startswith("cuda") else None
    found = {"load": round(loaded, 2), "seconds": round(statistics.median(seconds), 3), "gigabytes": peak}
    return found | {"decibels": None if expected is None else round(decibels(picture, expected), 1)}


def main() -> None:
    """Runs the checks and prints each row at once."""
    reader = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    reader.add_argument("--device", default="cuda")
    reader.add_argument("--minutes", type=float, default=10.0)
    reader.add_argument("--json", type=Path)
    options = reader.parse_args()
    until = time.monotonic() + 60 * options.minutes
    rows: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        make(folder, SIDE, PUBLISHED)
        saved = folder / "saved"
        expected = of_bimo(saved, "cpu", {"dtype": "fp32"})()
        loads: dict[str, Callable[[], Draw]] = {
            f"bimo {name}": lambda how=how: of_bimo(saved, options.device, how) for name, how in WAYS.items()
        }
        loads |= {
            f"diffusers {kind}": lambda kind=kind: of_diffusers(saved, options.device, kind)
            for kind in ("fp32", "fp16")
        }
        for name, load in loads.items():
            left = time.monotonic() < until
            rows[name] = row(load, options.device, expected) if left else {"refused": "no minutes were left"}
            print(name, json.dumps(rows[name], ensure_ascii=False), flush=True)
    if options.json:
        options.json.write_text(json.dumps(rows, ensure_ascii=False, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
