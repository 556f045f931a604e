"""A run that is killed ten times equals an undisturbed one: the same losses, the same batches, the same weights.

A small model of Stable Diffusion's shape learns in four stages: its text tower (with dropout), keys and values, a
low-rank adapter, everything. In them are captions dropped for all towers and for each, latents drawn from their
posterior, words and latents kept, pictures of two shapes, several batches a step, averaged weights, validation with
the best kept, warm-up and falling rates. It runs once undisturbed. Then it runs again in another folder and gets
`kill -9` at moments that a seed draws: while words are encoded, while latents are, while the state is written, where a
stage ends, while the best is written, and just anywhere; after each kill the same command goes on. Compared are every
line of log.jsonl but its seconds, every batch (its rows, captions, x, conditioning and the state of the noise's
generator, also of steps that were made twice), and every file of weights, byte by byte.

The exit status is 0 where all is equal, 1 where something is not. With `--counting` a step's seed is the number of
those before it in its process, with `--forgetful` the optimiser begins anew after a kill: either must be found out.

    OMP_NUM_THREADS=1 python bench/resume.py [--kills 10] [--seed 0] [--steps 24] [--folder FOLDER]
                                              [--counting | --forgetful]
"""

from __future__ import annotations

import argparse
import hashlib
import io
import itertools
import json
import math
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from bimo.core.recipe import Defaults, Level, Recipe, Stage
from bimo.data.shards import shard_name, write_index, write_shard
from bimo.diffusion.schedules.ddpm import Ddpm
from bimo.diffusion.system import WEIGHTS_FILE
from bimo.models.spaces import Latent
from bimo.models.stable_diffusion.unet import Unet
from bimo.models.text_encoders.bert import Bert
from bimo.training import encoding_cache, train_loader, trainer
from bimo.training.adapters.lora_stage import Lora
from bimo.training.logging import LOG_FILE
from bimo.training.objectives.denoise import Denoise

PICTURES, STEPS = 18, 24
SIZES = ((64, 64), (96, 64))
COLOURS = ("红", "黄", "蓝", "绿", "黑", "白", "紫", "橙")
BATCHES_FILE = "batches.jsonl"
CHECKPOINT_SECONDS = 0.25
#: A run that makes no progress is a failure too.
LIMIT_SECONDS = 300.0
#: Phases of a run in which it is killed, in turn; "" is any moment.
WINDOWS = ("state", "", "words", "border", "latents", "best")


def trial(steps: int) -> Recipe:
    """The recipe, of so many steps a stage."""
    words = Bert(
        width=32,
        layers=2,
        heads=4,
        feed=64,
        vocab=600,
        positions=32,
        length=32,
        masked=True,
        pooler=False,
        words="lexicon",
        dropout=0.2,
    )
    level = Level(
        name="image",
        space=Latent(block_channels=(8, 8, 16, 16), layers_per_block=1, groups=8),
        denoiser=Unet(
            size=8,
            down=("CrossAttnDownBlock2D", "DownBlock2D"),
            up=("UpBlock2D", "CrossAttnUpBlock2D"),
            block_channels=(32, 64),
            layers_per_block=1,
            heads=4,
            text=32,
            groups=8,
        ),
        schedule=Ddpm(),
    )
    base: dict[str, Any] = {"objective": Denoise(), "level": "image", "batch": 4, "lr": 1e-3, "steps": steps}
    base |= {"caption_dropout": 0.1, "sample_latents": True, "buckets": SIZES}
    held_out = {"validation": 0.2, "validate_every": steps // 4}
    keys = "image.denoiser.*.attn2.to_[kv].*"
    adapter = Lora(targets=("image.denoiser.*.attn1.to_[qv]",), rank=2)
    stages = (
        Stage(name="text tower", train=("text.*",), ema=0.99, warmup=5, **base, **held_out),
        Stage(name="keys and values", train=(keys,), encoder_dropout=(0.2,), lr_schedule="cosine", **base),
        Stage(name="adapter", train=(), adapter=adapter, accumulate=2, **base),
        Stage(
            name="everything", train=("text.*", "image.denoiser.*"), ema=0.99, lr_schedule="linear", **base, **held_out
        ),
    )
    request = Defaults(size=SIZES[0])
    return Recipe(
        name="resume", text_encoders=(words,), levels=(level,), stages=stages, request=request, prompts=("红方块",)
    )


def make(folder: Path) -> None:
    """Pictures of two shapes, two captions each."""
    from PIL import Image, ImageDraw

    rows: list[Any] = []
    for number in range(PICTURES):
        width, height = SIZES[number % 3 == 2]
        canvas = Image.new("RGB", (width, height), (number * 5, 255 - number * 4, 90))
        ImageDraw.Draw(canvas).rectangle((number, 10, number + 20, 40), fill="white")
        buffer = io.BytesIO()
        canvas.save(buffer, "PNG")
        colour = COLOURS[number % len(COLOURS)]
        captions = [{"text": f"{colour}方块第{number}号"}, {"text": f"square {number}"}]
        rows.append((f"{number:04d}", buffer.getvalue(), {"captions": captions, "labels": {}}))
    folder.mkdir(parents=True)
    write_index(folder, [write_shard(folder / shard_name(0), rows, "squares")])


def train(data: Path, out: Path, steps: int, counting: bool, forgetful: bool) -> None:
    """Runs training in this process and reports its phases: "state 0.010" when it starts to write the state."""
    out.mkdir(parents=True, exist_ok=True)
    batches = os.open(out / BATCHES_FILE, os.O_CREAT | os.O_APPEND | os.O_WRONLY)

    def told(window: str, first: tuple[Any, str], last: tuple[Any, str]) -> None:
        """Wraps functions so that a phase reports its start and its end."""
        started = [0.0]

        def begins(*args: Any, **settings: Any) -> Any:
            tell(f"begins {window}")
            started[0] = time.monotonic()
            return beginning(*args, **settings)

        def ends(*args: Any, **settings: Any) -> Any:
            answer = ending(*args, **settings)
            tell(f"ends {window} {time.monotonic() - started[0]:.4f}")
            return answer

        beginning = getattr(*first)
        setattr(*first, begins)
        ending = getattr(*last)
        setattr(*last, ends)

    lesson_of = train_loader.TrainLoader.inputs

    def inputs(self: Any, number: int, generator: torch.Generator, *others: Any) -> Any:
        made = lesson_of(self, number, generator, *others)
        row = {"stage": self.blank.stage.name, "number": number, "held_out": bool(others), "batch": digest(made)}
        # A single write, so that a kill leaves the whole line or nothing.
        os.write(batches, (json.dumps(row) + "\n").encode())
        return made

    setattr(train_loader.TrainLoader, "inputs", inputs)  # noqa: B010
    for window, owner, name in (
        ("latents", train_loader.TrainLoader, "_encoded_once"),
        ("words", encoding_cache, "_keep"),
        ("state", trainer, "save_whole"),
        ("best", trainer.Trainer, "_write"),
    ):
        told(window, (owner, name), (owner, name))
    told("border", (trainer.Trainer, "_left"), (trainer, "leave"))
    trainer.CHECKPOINT_SECONDS = CHECKPOINT_SECONDS
    if counting:
        count = itertools.count()
        trainer._mixed = lambda *numbers: next(count)
    if forgetful:
        read_state = trainer.read_state

        def without_optimiser(out: Path) -> Any:
            state = read_state(out)
            return state and {**state, "optimiser": None}

        trainer.read_state = without_optimiser
    tell("begins")
    trainer.train(trial(steps), data, out, threads=1)


def tell(line: str) -> None:
    """Reports one line to the parent; the run's own output goes elsewhere."""
    print(line, file=sys.stderr, flush=True)


def digest(inputs: Any) -> str:
    """A digest of a batch: captions, x, text, sizes, dropout, and the state of its generator."""
    batch = inputs.batch
    total = hashlib.sha256("\0".join(inputs.texts).encode())
    words = [value for e in batch.encodings for value in (e.tokens, e.mask) if value is not None]
    for value in (batch.x, batch.dropped_captions, *words, *batch.scalars.values(), inputs.generator.get_state()):
        total.update(value.detach().contiguous().numpy().tobytes())
    return total.hexdigest()[:16]


@dataclass
class Process:
    """A child process of the run, with its reports and their times since training started."""

    popen: subprocess.Popen[str]
    began: float = 0.0
    errors: list[str] = field(default_factory=list[str])

    @classmethod
    def start(cls, options: argparse.Namespace, out: Path) -> Process:
        """Starts it."""
        command = [sys.executable, __file__, "--out", str(out)]
        command += [word for name in ("folder", "steps") for word in (f"--{name}", str(getattr(options, name)))]
        command += [f"--{name}" for name in ("counting", "forgetful") if getattr(options, name)]
        return cls(subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True))

    def lines(self) -> Iterator[str]:
        """Its reports as they arrive."""
        assert self.popen.stderr is not None
        for line in self.popen.stderr:
            if line.startswith(("begins", "ends")):
                self.began = self.began or time.monotonic()
                yield line.strip()
            else:
                self.errors.append(line)

    def over(self) -> int:
        """Waits for its exit status; prints its error output."""
        if self.popen.wait() > 0:
            print("".join(self.errors), file=sys.stderr)
        return self.popen.returncode


def undisturbed(options: argparse.Namespace, out: Path) -> tuple[dict[str, float], float]:
    """Runs undisturbed; returns the shortest duration of each phase, and the total."""
    process = Process.start(options, out)
    takes: dict[str, float] = dict.fromkeys(filter(None, WINDOWS), math.inf)
    for line in process.lines():
        if line.startswith("ends"):
            _, window, seconds = line.split()
            takes[window] = min(takes[window], float(seconds))
    if process.over():
        sys.exit("the undisturbed run did not end well")
    return takes, time.monotonic() - process.began


def killed(options: argparse.Namespace, out: Path, window: str, delay: float, skip: int) -> tuple[str, bool]:
    """Goes on with the run and kills it ``delay`` seconds after the window begins for the (skip + 1)th time, or after
    it began to train where the window is "". Answers where the kill fell, and whether it did before the end.
    """
    process = Process.start(options, out)
    at, seen = ["starting"], 0
    timer: threading.Timer | None = None
    for line in process.lines():
        words = line.split()
        at.append(words[1] if words[0] == "begins" and len(words) > 1 else "steps")
        due = words == ["begins"] if not window else words == ["begins", window]
        seen += due
        if due and seen == skip + 1 and timer is None:
            timer = threading.Timer(delay, process.popen.kill)
            timer.start()
    status = process.over()
    if timer is not None:
        timer.cancel()
    if status not in (0, -signal.SIGKILL):
        sys.exit(f"the run did not go on: exit status {status}")
    return at[-1], status == -signal.SIGKILL


def steps_of(out: Path) -> list[dict[str, Any]]:
    """The lines of log.jsonl without their seconds."""
    rows = [json.loads(line) for line in (out / LOG_FILE).read_text("utf-8").splitlines()]
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]


def lessons_of(out: Path) -> dict[tuple[str, int, bool], set[str]]:
    """The digests of every batch by stage, number and whether it is held out; more than one where it differed."""
    found: dict[tuple[str, int, bool], set[str]] = {}
    for line in (out / BATCHES_FILE).read_text("utf-8").splitlines():
        row = json.loads(line)
        found.setdefault((row["stage"], row["number"], row["held_out"]), set()).add(row["batch"])
    return found


def compared(whole: Path, stopped: Path) -> dict[str, tuple[int, int]]:
    """(count, number of differences) of steps, batches and weight files."""
    ours, theirs = steps_of(whole), steps_of(stopped)
    steps = sum(one != other for one, other in zip(ours, theirs, strict=False)) + abs(len(ours) - len(theirs))
    first, second = lessons_of(whole), lessons_of(stopped)
    batches = sum(first.get(key) != second.get(key) for key in first.keys() | second.keys())
    files = sorted({p.relative_to(out) for out in (whole, stopped) for p in out.rglob("*.safetensors")})
    differ = sum(
        not all((out / f).is_file() for out in (whole, stopped)) or bytes_differ(whole, stopped, f) for f in files
    )
    return {"lines of log.jsonl": (len(ours), steps), "batches": (len(first), batches), "files": (len(files), differ)}


def bytes_differ(whole: Path, stopped: Path, file: Path) -> bool:
    """Whether a file is not the same in both folders."""
    return (whole / file).read_bytes() != (stopped / file).read_bytes()


def main() -> None:
    """Runs undisturbed, runs killed, compares, prints."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=STEPS, help="of each stage, 4 or more")
    parser.add_argument("--folder", type=Path)
    broken = parser.add_mutually_exclusive_group()
    broken.add_argument("--counting", action="store_true", help="a step's seed is how many came before in its process")
    broken.add_argument("--forgetful", action="store_true", help="the optimiser begins anew after a kill")
    parser.add_argument("--out", type=Path, help="be one process of the run")
    options = parser.parse_args()
    if options.out:
        train(options.folder / "data", options.out, options.steps, options.counting, options.forgetful)
        return
    with tempfile.TemporaryDirectory() as made:
        options.folder = options.folder or Path(made)
        make(options.folder / "data")
        sys.exit(proved(options))


def proved(options: argparse.Namespace) -> int:
    """Runs the comparison in ``options.folder``; returns 0 if everything is equal."""
    whole, stopped = options.folder / "whole", options.folder / "killed"
    takes, seconds = undisturbed(options, whole)
    print(f"undisturbed: {seconds:.1f} s; windows: {', '.join(f'{n} {s:.3f} s' for n, s in takes.items())}")
    draw = random.Random(options.seed)
    wanted = [WINDOWS[number % len(WINDOWS)] for number in range(options.kills)]
    # Texts and latents are encoded at the start only.
    early = [window for window in wanted if window in ("words", "latents")]
    rest = [window for window in wanted if window not in early]
    draw.shuffle(rest)
    wanted, kills, ended = early + rest, 0, False
    limit = time.monotonic() + LIMIT_SECONDS
    print(f"{'kill':>4}  {'aimed at':10} {'after':>8}  fell in     state then     left half written")
    while not ended and time.monotonic() < limit:
        window = wanted[kills] if kills < len(wanted) else None
        if window is None:
            break
        delay = draw.uniform(0, takes[window]) if window else draw.uniform(0.05, seconds / options.kills)
        fell, hit = killed(options, stopped, window, delay, draw.randrange(2) if window == "state" else 0)
        ended = not hit
        if hit:
            kills += 1
            parts = ", ".join(sorted(p.name for p in stopped.rglob("*.part"))) or "-"
            print(f"{kills:4}  {window or 'anywhere':10} {delay:7.3f}s  {fell:10}  {place(stopped):13}  {parts}")
    while not ended:
        ended = not killed(options, stopped, "never", 0.0, 0)[1]
    print(f"killed {kills} times of {options.kills}, then left to end")
    found = compared(whole, stopped)
    for name, (count, differ) in found.items():
        print(f"{name:20} {count:5} compared, {differ:5} differ")
    return int(
        kills < options.kills or any(differ for _, differ in found.values()) or not (whole / WEIGHTS_FILE).is_file()
    )


def place(out: Path) -> str:
    """The stage and step that the state of a run would go on from."""
    path = out / trainer.STATE_FILE
    if not path.is_file():
        return "none"
    stage, step = torch.load(path, weights_only=True)["place"].values()
    return f"stage {stage + 1}, {step}"


if __name__ == "__main__":
    main()
