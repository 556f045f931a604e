"""Engines of a processor against plain diffusers: Stable Diffusion 1 at its published size, random weights, 512x512.

Each side is a process of its own that loads once and then draws when it is told to, so that its load time and peak
memory are its own; the sides take turns, in another order every turn. A turn draws few steps, and times each step: a
picture of 20 steps is a picture's fixed part (words, decoding) and 20 steps, of the medians. "Whole process" adds
loading, imports included, and what only the first drawing does (compiling, hashing).
The first drawing of each side, 20 steps of a smaller picture unless told, warms it and says how far it is from
diffusers' in float32.

What OpenVINO has converted is made in a run before, which is not timed: a side whose conversions are missing makes them
as it warms.

    python bench/processor.py --folder DIR [--turns 2] [--steps 2] [--size 512] [--warm-steps 20] [--json FILE]
    python bench/processor.py --networks hunyuan-dit kolors z-image     # denoisers at half width, no pictures
    python bench/processor.py --networks z-image --layers 4 --size 256  # fewer blocks, fewer tokens: in minutes
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from against_diffusers import GUIDANCE, NEGATIVE, PROMPT, PUBLISHED, SEED, decibels, make, own_peak_megabytes
from denoisers import LAYERS, NETWORKS, network, of_network

SIDES = ("diffusers-fp32", "diffusers-bf16", "torch-bf16", "openvino", "openvino-bf16", "openvino-int8")
DEFAULT_SIDES = ("diffusers-fp32", "diffusers-bf16", "torch-bf16", "openvino-bf16", "openvino-int8")
NETWORK_SIDES = ("diffusers-fp32", "diffusers-bf16", "torch-bf16", "openvino-bf16")
STEPS_OF_A_PICTURE = 20
#: (side, other side, required ratio of seconds)
WANTED = (
    ("torch-bf16", "diffusers-fp32", 3.0),
    ("torch-bf16", "diffusers-bf16", 1.3),
    ("openvino-bf16", "diffusers-fp32", 3.0),
    ("openvino-bf16", "diffusers-bf16", 1.3),
    ("openvino-int8", "diffusers-fp32", 4.5),
)
#: draw(size, steps, note of each step's beginning) -> PIL image
Draw = Callable[[int, int, Callable[[], None]], Any]


def of_diffusers(folder: Path, numbers: str) -> Draw:
    """Draws with diffusers' StableDiffusionPipeline."""
    import torch
    from diffusers import StableDiffusionPipeline

    dtype = torch.bfloat16 if numbers == "bf16" else torch.float32
    pipeline = StableDiffusionPipeline.from_pretrained(str(folder / "saved"), torch_dtype=dtype, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)

    def draw(size: int, steps: int, note: Callable[[], None]) -> Any:
        own = pipeline.unet.forward

        def noted(*args: Any, **named: Any) -> Any:
            note()
            return own(*args, **named)

        pipeline.unet.forward = noted
        try:
            return pipeline(
                PROMPT,
                negative_prompt=NEGATIVE,
                guidance_scale=GUIDANCE,
                num_inference_steps=steps,
                width=size,
                height=size,
                generator=torch.Generator().manual_seed(SEED),
            ).images[0]
        finally:
            pipeline.unet.forward = own

    return draw


def of_bimo(folder: Path, name: str) -> Draw:
    """Draws with an engine of bimo's."""
    from bimo.engine.engine import Engine
    from bimo.engine.processor import Processor
    from bimo.models.layouts.diffusers_folder import read_folder

    processor = Processor(name)
    engine = Engine(read_folder(folder / "saved", None), dtype=processor.dtype, processor=processor)
    request = {"text": PROMPT, "negative": NEGATIVE, "guidance": GUIDANCE, "seed": SEED}

    def draw(size: int, steps: int, note: Callable[[], None]) -> Any:
        conditioned = {**request, "size": (size, size), "steps": steps}
        return engine.draw(conditioned, progress=lambda *step: note())[0].image

    return draw


def serve(side: str, folder: Path, threads: int, network: str) -> None:
    """Loads a side, then draws for each input line [size, steps, file] and prints the measurements; with ``network``,
    calls that denoiser alone.
    """
    begun = time.perf_counter()
    import torch

    torch.set_num_threads(threads)
    way, _, numbers = side.partition("-")
    if network:
        draw = of_network(folder, network, side)
    else:
        draw = of_diffusers(folder, numbers) if way == "diffusers" else of_bimo(folder, side)
    print(json.dumps({"load": time.perf_counter() - begun, "load_cpu": spent()}), flush=True)
    for line in sys.stdin:
        size, steps, file = json.loads(line)
        noted: list[tuple[float, float]] = []
        start = (time.perf_counter(), spent())
        made = draw(size, steps, lambda noted=noted: noted.append((time.perf_counter(), spent())))
        end = (time.perf_counter(), spent())
        made.save(file)
        # The last step ends with the decoder, so it is not among those that are timed.
        each = [[after[k] - before[k] for before, after in itertools.pairwise(noted)] for k in (0, 1)]
        whole = [end[k] - start[k] for k in (0, 1)]
        fixed = [whole[k] - len(noted) * statistics.median(each[k]) for k in (0, 1)]
        print(json.dumps({"steps": each, "fixed": fixed, "whole": whole, "peak": own_peak_megabytes()}), flush=True)


def spent() -> float:
    """CPU seconds of this process, user and system."""
    times = os.times()
    return times.user + times.system


class Side:
    """A process of one side."""

    def __init__(self, name: str, folder: Path, threads: int, network: str = "") -> None:
        self.name = name
        command = [sys.executable, __file__, "--serve", name, "--folder", str(folder), "--threads", str(threads)]
        command += ["--network", network] if network else []
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
        start = time.perf_counter()
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment,
        )
        self.load: dict[str, float] = self._read()
        self.load["seconds"] = time.perf_counter() - start
        self.first: dict[str, Any] = {}
        self.turns: list[dict[str, Any]] = []

    def _read(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith("{"):
                return json.loads(line)
        raise SystemExit(f"{self.name} ended: run its command by hand to see why")

    def draw(self, size: int, steps: int, file: Path) -> dict[str, Any]:
        """One drawing."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps([size, steps, str(file)]) + "\n")
        self.process.stdin.flush()
        return self._read()

    def picture(self, kind: int, steps: int) -> float:
        """Seconds (kind 0) or processor seconds (1) of a picture of so many steps, of the medians."""
        each = [value for turn in self.turns for value in turn["steps"][kind]]
        return statistics.median(turn["fixed"][kind] for turn in self.turns) + steps * statistics.median(each)

    def begun(self, share: float) -> float:
        """Seconds until it draws at its speed: loading, and what only the first drawing does (compiling, hashing). That
        one had a ``share`` of the pixels.
        """
        fixed = statistics.median(turn["fixed"][0] for turn in self.turns)
        return self.load["seconds"] + max(0.0, self.first["fixed"][0] - share * fixed)

    def end(self) -> None:
        """Ends the process."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def pictures(options: argparse.Namespace) -> dict[str, Any]:
    """Runs the sides in turns, prints and returns the measurements."""
    from PIL import Image

    report: dict[str, Any] = {"size": options.size, "turns": options.turns, "steps": STEPS_OF_A_PICTURE, "sides": {}}
    with tempfile.TemporaryDirectory() as made:
        folder = options.folder or Path(made)
        if not (folder / "saved").exists():
            make(folder, options.size, PUBLISHED)
        sides = [Side(name, folder, options.threads) for name in options.sides]
        for side in sides:
            side.first = side.draw(options.warm_size, options.warm_steps, Path(made) / f"{side.name}-warm.png")
        for turn in range(options.turns):
            for side in sides if turn % 2 == 0 else sides[::-1]:
                file = Path(made) / f"{side.name}.png"
                side.turns.append(side.draw(options.size, options.steps, file))
        exact = {kind: Image.open(Path(made) / f"{sides[0].name}{kind}.png") for kind in ("", "-warm")}
        for side in sides:
            off = {kind: decibels(Image.open(Path(made) / f"{side.name}{kind}.png"), exact[kind]) for kind in exact}
            wall, busy = (side.picture(kind, STEPS_OF_A_PICTURE) for kind in (0, 1))
            found = {
                "seconds": wall,
                "processor_seconds": busy,
                "step": statistics.median(value for turn in side.turns for value in turn["steps"][0]),
                "load_seconds": side.load["seconds"],
                "load_processor_seconds": side.load["load_cpu"],
                "begun_seconds": side.begun((options.warm_size / options.size) ** 2),
                "process_seconds": side.begun((options.warm_size / options.size) ** 2) + wall,
                "peak_megabytes": max(turn["peak"] for turn in side.turns),
                f"decibels_{options.warm_steps}_steps_{options.warm_size}": off["-warm"],
                f"decibels_{options.steps}_steps_{options.size}": off[""],
            }
            report["sides"][side.name] = found
            print(
                f"{side.name:15} {wall:7.1f} s a picture of {STEPS_OF_A_PICTURE} steps ({busy:.1f} s of processor; "
                f"{found['step']:.2f} s a step), loaded in {side.load['seconds']:.1f} s ("
                f"{found['begun_seconds']:.1f} with what the first drawing does once), peak "
                f"{found['peak_megabytes']:.0f} MB, {off['-warm']:.1f} dB from {sides[0].name} in "
                f"{options.warm_steps} steps of {options.warm_size}x{options.warm_size}, {off['']:.1f} dB in "
                f"{options.steps} of {options.size}x{options.size}",
                flush=True,
            )
            side.end()
    for one, other, least in WANTED:
        if one in report["sides"] and other in report["sides"]:
            a, b = report["sides"][one], report["sides"][other]
            ratios = [b[kind] / a[kind] for kind in ("seconds", "processor_seconds", "process_seconds")]
            shares = [a[kind] / b[kind] for kind in ("peak_megabytes", "load_seconds", "begun_seconds")]
            print(
                f"{one} against {other}: {ratios[0]:.2f}x warm, {ratios[1]:.2f}x by processor seconds, "
                f"{ratios[2]:.2f}x the whole process; wanted {least}x. "
                f"Memory {shares[0]:.2f}, loading {shares[1]:.2f} of its, with the first drawing's own {shares[2]:.2f}"
            )
    return report


def networks(options: argparse.Namespace) -> dict[str, Any]:
    """Times each network's answer by diffusers in float32 and bfloat16 and by OpenVINO in bfloat16, in turns, each in a
    process of its own.
    """
    import torch

    report: dict[str, Any] = {"size": options.size, "turns": options.turns}
    for name in options.networks:
        with tempfile.TemporaryDirectory() as made:
            folder = options.folder or Path(made)
            if not (folder / name).exists():
                module = network(name, options.layers or LAYERS[name])
                module.save_pretrained(folder / name)
                del module
            config = json.loads((folder / name / "config.json").read_text())
            layers = config.get("num_layers") or config.get("n_layers") or config["transformer_layers_per_block"][-1]
            converting = Side("openvino-bf16", folder, options.threads, name)  # its loading is not timed
            converting.draw(options.size, 1, Path(made) / "converting")
            converting.end()
            sides = [Side(way, folder, options.threads, name) for way in NETWORK_SIDES]
            answers: dict[str, Any] = {}
            for side in sides:
                side.first = side.draw(options.size, 1, Path(made) / side.name)
                answers[side.name] = torch.load(Path(made) / side.name)
            for turn in range(options.turns):
                for side in sides if turn % 2 == 0 else sides[::-1]:
                    side.turns.append(side.draw(options.size, options.steps, Path(made) / side.name))
            exact = answers[NETWORK_SIDES[0]]
            report[name] = {"layers": layers}
            for side in sides:
                wall, busy = (
                    statistics.median(value for turn in side.turns for value in turn["steps"][kind]) for kind in (0, 1)
                )
                error = float((answers[side.name] - exact).norm() / exact.norm())
                found = {
                    "seconds": wall,
                    "processor_seconds": busy,
                    "load_processor_seconds": side.load["load_cpu"],
                    "load_seconds": side.load["seconds"],
                    "begun_seconds": side.load["seconds"] + side.first["whole"][0],
                    "peak_megabytes": max(turn["peak"] for turn in side.turns),
                    "error": error,
                }
                report[name][side.name] = found
                plain = report[name][NETWORK_SIDES[0]]
                print(
                    f"{name} ({layers} layers, {options.size}x{options.size}) {side.name:15} {wall:.3f} s, "
                    f"{busy:.3f} s of processor, {plain['seconds'] / wall:.2f}x, "
                    f"{plain['processor_seconds'] / busy:.2f}x by processor seconds, "
                    f"loaded in {found['load_seconds']:.1f} s "
                    f"({found['load_processor_seconds']:.1f} of processor; {found['begun_seconds']:.1f} with "
                    f"the first answer), peak {found['peak_megabytes']:.0f} MB, "
                    f"error {error:.1e} ({-20 * math.log10(max(error, 1e-9)):.1f} dB)",
                    flush=True,
                )
                side.end()
    return report


def main() -> None:
    """Runs the benchmark; ``--json`` writes the numbers."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--folder", type=Path, help="where the checkpoint is, or is to be made, in saved/")
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=list(DEFAULT_SIDES))
    parser.add_argument("--turns", type=int, default=1)
    # The first step after waiting for the other sides is slower: few of them are to be among those timed.
    parser.add_argument("--steps", type=int, default=6, help="steps of a timed drawing")
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--warm-size", type=int, default=256, help="of the drawing that warms and is compared")
    parser.add_argument("--warm-steps", type=int, default=STEPS_OF_A_PICTURE, help="of that drawing")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--networks", nargs="+", choices=NETWORKS, help="time these denoisers at half width, and no pictures"
    )
    parser.add_argument("--layers", type=int, help="of those: the number of repeated blocks, where not all of them")
    parser.add_argument("--network", default="", choices=("", *NETWORKS), help="of --serve: this denoiser alone")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--serve", choices=SIDES, help="draw what standard input says, for the other process")
    options = parser.parse_args()
    if options.serve:
        serve(options.serve, options.folder, options.threads, options.network)
        return
    report = networks(options) if options.networks else pictures(options)
    if options.json:
        options.json.write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
