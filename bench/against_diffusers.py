"""Seconds a picture and peak memory of bimo against diffusers' own pipeline: same weights, steps and threads.

A checkpoint in the layout of Taiyi-SD is made with random weights, small enough for a processor, or with ``--full`` of
the size that was published (1.05 billion numbers in float32). First the two pictures are compared; only if they are
equal within 1/255 a channel is anything timed. With ``--dtype bf16`` both are kept so, and no two are equal: each is
compared with the picture in float32, and bimo's must be no further from it than 1 dB beyond diffusers'. Then A and B
take turns in one process, the order changing every turn, so that other work on the machine meets both alike. Memory is
the peak resident size of a process of its own that loads and draws once.

    python bench/against_diffusers.py [--pairs 7] [--steps 10] [--size 256] [--threads 2] [--dtype bf16]
    python bench/against_diffusers.py --full --size 512 --steps 2 --pairs 3 --dtype bf16 --folder DIR
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MEMORY_RUNS = 3
#: The factor by which bimo's error in bfloat16 may exceed that of diffusers.
WORSE_DECIBELS = 1.0
PROMPT, NEGATIVE, GUIDANCE, SEED = "小桥流水人家，水彩", "广告，水印", 7.5, 1
Draw = Callable[[], Any]


@dataclass(frozen=True)
class Sizes:
    """Sizes of the checkpoint: channels of UNet and autoencoder, width and layers of the text encoder."""

    unet: tuple[int, ...]
    autoencoder: tuple[int, ...]
    text: int
    layers: int
    heads: int


SMALL = Sizes((64, 128, 256, 256), (32, 64, 128, 128), 256, 4, 4)
PUBLISHED = Sizes((320, 640, 1280, 1280), (128, 256, 512, 512), 768, 12, 12)


def make(folder: Path, side: int, sizes: Sizes) -> None:
    """Saves the checkpoint: BERT of 21128 words, a UNet and an autoencoder of four blocks."""
    import torch
    from diffusers import AutoencoderKL, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import BertConfig, BertModel, BertTokenizer

    torch.manual_seed(0)
    words = folder / "words"
    words.mkdir(parents=True)
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    han = [chr(0x4E00 + i) for i in range(21128 - len(special) - 1)]
    (words / "vocab.txt").write_text("\n".join([*special, "，", *han]), encoding="utf-8")
    (words / "tokenizer_config.json").write_text(json.dumps({"model_max_length": 512}))
    text = {"hidden_size": sizes.text, "num_hidden_layers": sizes.layers, "num_attention_heads": sizes.heads}
    StableDiffusionPipeline(
        vae=AutoencoderKL(
            block_out_channels=sizes.autoencoder,
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            layers_per_block=2,
        ).eval(),
        text_encoder=BertModel(BertConfig(vocab_size=21128, intermediate_size=4 * sizes.text, **text)).eval(),
        tokenizer=BertTokenizer.from_pretrained(str(words)),
        unet=UNet2DConditionModel(
            sample_size=side // 8, block_out_channels=sizes.unet, cross_attention_dim=sizes.text
        ).eval(),
        scheduler=PNDMScheduler(
            beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, skip_prk_steps=True, steps_offset=1
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(str(folder / "saved"))


def of_bimo(folder: Path, steps: int, dtype: str) -> Draw:
    """Draws with bimo; returns a PIL image."""
    import torch

    from bimo.engine.engine import Engine
    from bimo.models.layouts.diffusers_folder import read_folder

    system = read_folder(folder / "saved", None if dtype == "bf16" else torch.float32)
    engine = Engine(system, dtype=torch.bfloat16 if dtype == "bf16" else torch.float32)
    request = {"text": PROMPT, "negative": NEGATIVE, "guidance": GUIDANCE, "seed": SEED, "steps": steps}
    return lambda: engine.draw(request)[0].image


def of_diffusers(folder: Path, steps: int, dtype: str) -> Draw:
    """Draws with diffusers' StableDiffusionPipeline; returns a PIL image."""
    import torch
    from diffusers import StableDiffusionPipeline

    numbers = torch.bfloat16 if dtype == "bf16" else torch.float32
    pipeline = StableDiffusionPipeline.from_pretrained(
        str(folder / "saved"), torch_dtype=numbers, local_files_only=True
    )
    pipeline.set_progress_bar_config(disable=True)
    settings: dict[str, Any] = {"guidance_scale": GUIDANCE, "num_inference_steps": steps, "negative_prompt": NEGATIVE}
    return lambda: pipeline(PROMPT, generator=torch.Generator().manual_seed(SEED), **settings).images[0]


SIDES = {"bimo": of_bimo, "diffusers": of_diffusers}


def difference(one: Any, other: Any) -> int:
    """The largest difference of two images, in 1/255."""
    import numpy

    return int(numpy.abs(numpy.asarray(one).astype(int) - numpy.asarray(other).astype(int)).max())


def decibels(one: Any, other: Any) -> float:
    """The peak signal to noise ratio of two images."""
    import numpy

    apart = numpy.asarray(one).astype(float) - numpy.asarray(other).astype(float)
    return 20 * math.log10(255 / max(math.sqrt((apart**2).mean()), 1e-9))


def compare(pictures: dict[str, Any], folder: Path, options: argparse.Namespace) -> None:
    """Prints the difference of the pictures; exits if it is too large to compare times."""
    print(f"largest difference: {difference(*pictures.values())}/255 a channel, {pictures['bimo'].size}")
    if options.dtype == "fp32":
        if difference(*pictures.values()) > 1:
            sys.exit("the pictures differ: nothing is timed")
        return
    exact = of_diffusers(folder, options.steps, "fp32")()
    gc.collect()
    off = {name: decibels(picture, exact) for name, picture in pictures.items()}
    print("from the picture in float32: " + ", ".join(f"{name} {value:.1f} dB" for name, value in off.items()))
    if off["bimo"] < off["diffusers"] - WORSE_DECIBELS:
        sys.exit("bimo's picture is further from it: nothing is timed")


def taking_turns(draws: dict[str, Draw], pairs: int) -> dict[str, list[tuple[float, float]]]:
    """(seconds, CPU seconds) of each side, drawn in turns. CPU seconds hardly depend on other load."""
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in draws}
    for pair in range(pairs):
        names = list(draws) if pair % 2 == 0 else list(draws)[::-1]
        for name in names:
            start, busy = time.perf_counter(), time.process_time()
            draws[name]()
            seconds[name].append((time.perf_counter() - start, time.process_time() - busy))
    return seconds


def own_peak_megabytes() -> float:
    """The peak resident size of this process, in MB. Linux's getrusage would count that of the parent as well."""
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 * 1024 if sys.platform == "darwin" else 1024)


def peak_megabytes(name: str, folder: Path, options: argparse.Namespace) -> float:
    """The peak resident size of a process that loads and draws once, in MB: the median of a few."""
    command = [sys.executable, __file__, "--only", name, "--folder", str(folder)]
    command += ["--steps", str(options.steps), "--threads", str(options.threads), "--dtype", options.dtype]
    runs = [subprocess.run(command, capture_output=True, text=True, check=True) for _ in range(options.memory_runs)]
    return statistics.median(float(run.stdout.split()[-1]) for run in runs)


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--size", type=int, default=256, help="pixels a side")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--dtype", choices=("fp32", "bf16"), default="fp32", help="how weights are kept")
    parser.add_argument("--full", action="store_true", help="weights of the published size")
    parser.add_argument("--memory-runs", type=int, default=MEMORY_RUNS)
    parser.add_argument("--folder", type=Path, help="where the checkpoint is, or is to be made")
    parser.add_argument("--only", choices=SIDES, help="draw once and print the peak memory in MB")
    options = parser.parse_args()
    import torch

    torch.set_num_threads(options.threads)
    if options.only:
        SIDES[options.only](options.folder, options.steps, options.dtype)()
        print(own_peak_megabytes())
        return
    with tempfile.TemporaryDirectory() as made:
        folder = options.folder or Path(made)
        if not (folder / "saved").exists():
            make(folder, options.size, PUBLISHED if options.full else SMALL)
        draws = {name: side(folder, options.steps, options.dtype) for name, side in SIDES.items()}
        compare({name: draw() for name, draw in draws.items()}, folder, options)
        seconds = taking_turns(draws, options.pairs)
        for name, values in seconds.items():
            wall, busy = (statistics.median(value) for value in zip(*values, strict=True))
            memory = peak_megabytes(name, folder, options)
            print(f"{name:10} median {wall:.3f} s a picture, {busy:.3f} s of processor, peak {memory:.0f} MB")
        for kind, title in enumerate(("seconds", "processor seconds")):
            ratios = [a[kind] / b[kind] for a, b in zip(seconds["bimo"], seconds["diffusers"], strict=True)]
            found = f"{statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})"
            print(f"{title}, bimo / diffusers: {found}, median of {options.pairs} pairs; below 1 is faster")


if __name__ == "__main__":
    main()
