"""Training by bimo against a plain loop written as diffusers' train_text_to_image: same modules, data and settings.

A small model shaped as Stable Diffusion 1, every width about an eighth, so that autoencoder, text tower and UNet cost
in proportion what they cost there. The plain loop does what the script does at every step: decodes the pictures, reads
the words, encodes both with autoencoder and tower, adds noise, asks the UNet, clips, steps AdamW. Ours does a step of
the same stage. They take turns, one step each, the order changing; medians are given of seconds and of processor
seconds, which mind other work on the machine less. Peak memory is that of a process of its own for each.

The overhead is that of a whole step of ours over forward, backward, clipping and optimiser on tensors made before.

    OMP_NUM_THREADS=1 python bench/training.py [--turns 9] [--batch 4] [--side 128] [--memory]
"""

from __future__ import annotations

import argparse
import io
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from bimo.core.recipe import Level, Recipe, Stage
from bimo.data.loader import Pictures
from bimo.data.shards import read, shard_name, write_index, write_shard
from bimo.diffusion.schedule import Ddpm
from bimo.parts.denoisers.unet import Unet
from bimo.parts.spaces import Latent
from bimo.parts.text.bert import Bert
from bimo.train.denoise import Denoise
from bimo.train.loop import Run
from bimo.train.record import Journal, Progress

PICTURES, WARM = 32, 2
STAGES = {
    "text tower": ("text.*",),
    "keys and values": ("image.denoiser.*.attn2.to_[kv].*",),
    "full": ("image.denoiser.*",),
}
WORDS = "红黄蓝绿黑白大小山水花鸟鱼虫猫狗马牛房屋桥船车树天地人家日月星云"


def small(batch: int) -> Recipe:
    """The recipe: a stage for each of ``STAGES``."""
    words = Bert(width=96, layers=12, heads=4, feed=384, vocab=4000, positions=77, types=1, length=77, pooler=False)
    words = replace(words, words="lexicon", dropout=0.0)
    level = Level(
        name="image",
        space=Latent(block_channels=(16, 32, 64, 64), groups=8),
        denoiser=Unet(size=16, block_channels=(40, 80, 160, 160), heads=8, text=96, groups=8),
        schedule=Ddpm(),
    )
    stages = tuple(
        Stage(name=n, objective=Denoise(), train=t, level="image", batch=batch, sample_latents=True, steps=10**6)
        for n, t in STAGES.items()
    )
    return Recipe(name="small-sd", text=(words,), levels=(level,), stages=stages)


def make(folder: Path, side: int) -> None:
    """Some pictures of blobs with captions of ten characters."""
    from PIL import Image

    draw = random.Random(0)
    rows: list[Any] = []
    for number in range(PICTURES):
        noise = torch.randint(0, 256, (8, 8, 3), generator=torch.Generator().manual_seed(number), dtype=torch.uint8)
        buffer = io.BytesIO()
        Image.fromarray(noise.numpy()).resize((side, side), Image.Resampling.BICUBIC).save(buffer, "PNG")
        text = "".join(draw.choice(WORDS) for _ in range(10))
        rows.append((f"{number:04d}", buffer.getvalue(), {"captions": [{"text": text}], "labels": {}}))
    folder.mkdir(parents=True)
    write_index(folder, [write_shard(folder / shard_name(0), rows, "blobs")])


def ours(data: Path, out: Path, number: int, batch: int) -> tuple[Run, Any, Callable[[], None]]:
    """A step of our loop, its line in the journal and the progress bar with it; and what it learns with."""
    recipe = small(batch)
    stage = recipe.stages[number]
    run = Run(replace(recipe, stages=(stage,)), Pictures(data), out)
    run._words()
    learning = run._learning(stage, None)
    run._modes()
    progress = Progress(stage, 0, Journal(out))

    def step() -> None:
        loss, lr = run._step(stage, learning)
        progress.told(run.place.step, loss, lr)

    return run, learning, step


def plain(run: Run, learning: Any, data: Path, batch: int) -> Callable[[], None]:
    """A step as diffusers' script makes it, with modules of the same shape: nothing is kept from step to step."""
    import numpy
    from diffusers import DDPMScheduler
    from PIL import Image

    system = run.system
    tower: Any = system.towers[0]
    vae: Any = system.space("image").model  # type: ignore[attr-defined]
    unet: Any = system.level("image").denoiser.model
    scheduler = DDPMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)
    parameters = list(learning.parameters.values())
    optimiser = torch.optim.AdamW(parameters, lr=1e-4, betas=(0.9, 0.99), weight_decay=0.01, eps=1e-8, fused=True)
    law = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: 1.0)
    rows = [(image, row["captions"][0]["text"]) for _, image, row in read(data)]
    learns_words = any(p.requires_grad for p in system.text.parameters())
    place = [0]

    def step() -> None:
        some = [rows[(place[0] + i) % len(rows)] for i in range(batch)]
        place[0] += batch
        arrays = [numpy.asarray(Image.open(io.BytesIO(image)).convert("RGB")) for image, _ in some]
        pixels = torch.stack([torch.from_numpy(a.copy()).permute(2, 0, 1) for a in arrays]).float() / 127.5 - 1
        with torch.no_grad():
            latents = vae.encode(pixels).latent_dist.sample() * 0.18215
        noise = torch.randn_like(latents)
        t = torch.randint(0, 1000, (batch,))
        noised = scheduler.add_noise(latents, noise, t)
        with torch.set_grad_enabled(learns_words):
            states = tower.encode([text for _, text in some]).tokens
        answer = unet(noised, t, states, return_dict=False)[0]
        loss = torch.nn.functional.mse_loss(answer.float(), noise.float(), reduction="mean")
        loss.detach().item()  # the script gathers it for its log
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        law.step()
        optimiser.zero_grad()

    return step


def bare(run: Run, learning: Any) -> Callable[[], None]:
    """Forward, backward, clipping and the optimiser's step, on a batch made before."""
    stage = run.recipe.stages[0]
    lesson = learning.lessons.lesson(0, torch.Generator().manual_seed(0))
    batch = lesson.batch
    assert batch is not None
    unet: Any = run.system.level("image").denoiser
    tower: Any = run.system.towers[0]
    question = learning.objective.question(lesson, "image")
    ids = tower.ids(lesson.texts) if any(p.requires_grad for p in run.system.text.parameters()) else None
    parameters = list(learning.parameters.values())

    def step() -> None:
        learning.optimiser.zero_grad(set_to_none=True)
        conditioning = question.ask.conditioning if ids is None else run.system.condition((tower(*ids),))
        answer = unet(question.ask.x, question.ask.t, conditioning)
        torch.nn.functional.mse_loss(answer, question.noise).backward()
        torch.nn.utils.clip_grad_norm_(parameters, stage.clip, foreach=True)
        learning.optimiser.step()

    return step


def taking_turns(steps: dict[str, Callable[[], None]], turns: int) -> dict[str, tuple[float, float]]:
    """(seconds, processor seconds) of each, medians of steps made in turns."""
    seen: dict[str, list[tuple[float, float]]] = {name: [] for name in steps}
    for turn in range(turns + WARM):
        for name in list(steps) if turn % 2 == 0 else list(steps)[::-1]:
            start, busy = time.perf_counter(), time.process_time()
            steps[name]()
            if turn >= WARM:
                seen[name].append((time.perf_counter() - start, time.process_time() - busy))
    medians = {n: [statistics.median(v) for v in zip(*values, strict=True)] for n, values in seen.items()}
    return {name: (found[0], found[1]) for name, found in medians.items()}


def own_peak_megabytes() -> float:
    """The peak resident size of this process, in MB. Linux's getrusage would count that of the parent as well."""
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 * 1024 if sys.platform == "darwin" else 1024)


def peak(options: argparse.Namespace, name: str, number: int) -> float:
    """The peak memory of a process that makes some steps, in MB. Its caches are made by one before it."""
    command = [sys.executable, __file__, "--only", name, "--stage", str(number), "--folder", str(options.folder)]
    command += ["--batch", str(options.batch), "--side", str(options.side)]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(run.stdout.split()[-1])


def main() -> None:
    """Makes the data, takes turns, prints."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--turns", type=int, default=9)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--side", type=int, default=128)
    parser.add_argument("--memory", action="store_true", help="measure peak memory as well, a process a side")
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--only", choices=("ours", "plain"), help="make five steps and print the peak memory in MB")
    parser.add_argument("--stage", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.only:
        data, out = options.folder / "data", options.folder / f"run-{options.stage}"
        run, learning, step = ours(data, out, options.stage, options.batch)
        step = plain(run, learning, data, options.batch) if options.only == "plain" else step
        for _ in range(5):
            step()
        print(own_peak_megabytes())
        return
    with tempfile.TemporaryDirectory() as made:
        options.folder = options.folder or Path(made)
        data = options.folder / "data"
        if not data.is_dir():
            make(data, options.side)
        report: dict[str, Any] = {"threads": 1, "batch": options.batch, "side": options.side, "turns": options.turns}
        for number, name in enumerate(STAGES):
            start = time.process_time()
            run, learning, step = ours(data, options.folder / f"run-{number}", number, options.batch)
            caches = time.process_time() - start
            others = {"plain": plain(run, learning, data, options.batch), "bare": bare(run, learning)}
            found = taking_turns({"ours": step, **others}, options.turns)
            row = {side: {"seconds": s, "processor": p} for side, (s, p) in found.items()}
            times = [found["plain"][kind] / found["ours"][kind] for kind in (0, 1)]
            over = [found["ours"][kind] / found["bare"][kind] - 1 for kind in (0, 1)]
            print(
                f"{name:16} ours {options.batch / found['ours'][0]:6.2f} samples/s, plain "
                f"{options.batch / found['plain'][0]:6.2f}: {times[0]:.2f}x ({times[1]:.2f}x by processor); over the "
                f"bare step {over[0]:+.1%} ({over[1]:+.1%}); building and caches of {PICTURES} pictures {caches:.1f} s"
            )
            if options.memory:
                memory = {side: peak(options, side, number) for side in ("ours", "plain")}
                print(f"{'':16} peak memory: ours {memory['ours']:.0f} MB, plain {memory['plain']:.0f} MB")
                row["peak_megabytes"] = memory
            report[name] = row
        print(json.dumps(report))


if __name__ == "__main__":
    main()
