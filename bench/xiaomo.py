"""Seconds and memory of a system on this machine: `bimo bench`.

Four questions. How long does a picture take once the system is loaded? How does that compare with a plain loop over
the same modules? How long does a whole `bimo draw` take from the shell to the PNG, and how much memory? How does bimo
compare with diffusers' own pipeline (`against_diffusers.py`)? Sides that are compared take turns in one process, the
order changing every turn, and are timed only if their pictures are equal within 1/255 a channel.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from bimo.core.errors import BimoError
from bimo.core.files import write_whole
from bimo.core.messages import Both, say

if TYPE_CHECKING:
    from bimo.core.recipe import Recipe
    from bimo.diffusion.system import System
    from bimo.engine.engine import Engine

PROMPT, SEED = "红苹果，3D风格", 1
POSE = (0.0, 1.0, 0.0, 0.0, 0.0)
SHELL_RUNS = 3
DIFFUSERS_STEPS, DIFFUSERS_SIDE = 10, 256
Draw = Callable[[], Any]
Numbers = dict[str, float]


def bench(
    model: str, *, pairs: int, steps: int, threads: int | None, against: bool, file: Path | None
) -> dict[str, Any]:
    """Measures everything, prints a table and returns the data for `--json`. ``against``: with diffusers as well."""
    # First, while this process is small: a child's reported peak is at least its parent's size.
    numbers = from_the_shell(model, steps, threads)
    import torch

    if threads:
        torch.set_num_threads(threads)
    _tell(f"读入模型 {model} …", f"reading the model {model} ...")
    from bimo.hub.loading import load

    engine = load(model)
    system = engine.system
    numbers |= warm(engine, pairs, steps)
    if against:
        numbers |= against_diffusers(pairs, torch.get_num_threads())
    report = {
        "kind": "bench",
        "recipe": system.recipe.name,
        "weights": system.weights_hash,
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine(),
        "protocol": {"prompt": PROMPT, "seed": SEED, "steps": steps, "pairs": pairs, "shell runs": SHELL_RUNS},
        "numbers": numbers,
    }
    show(report)
    if file is not None:
        write_whole(file, json.dumps(report, ensure_ascii=False, indent=1).encode())
    return report


def machine() -> dict[str, Any]:
    """Facts about the machine."""
    import torch

    processor = platform.processor()
    facts = Path("/proc/cpuinfo")
    if facts.is_file():
        lines = (line.partition(":") for line in facts.read_text("utf-8").splitlines())
        processor = next((value.strip() for name, _, value in lines if name.strip() == "model name"), processor)
    threads, python = torch.get_num_threads(), platform.python_version()
    versions = {"torch": torch.__version__, "python": python, "system": platform.platform()}
    return {"processor": processor, "cores": os.cpu_count(), "threads": threads} | versions


def from_the_shell(model: str, steps: int, threads: int | None) -> Numbers:
    """Seconds and peak memory of whole `bimo draw` processes: medians, after one that warms the files."""
    _tell("从命令行画 …", "drawing from the shell ...")
    seconds, megabytes = zip(*(_process(model, steps, threads) for _ in range(1 + SHELL_RUNS)), strict=True)
    numbers = {"shell first seconds": seconds[0], "shell seconds": statistics.median(seconds[1:])}
    return numbers | {"shell megabytes": statistics.median(megabytes[1:])}


def _process(model: str, steps: int, threads: int | None) -> tuple[float, float]:
    """(seconds, MB) of one process; ends the command with its status and words where it fails."""
    environment = os.environ | ({"OMP_NUM_THREADS": str(threads)} if threads else {})
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "bimo.cli.main", "draw", PROMPT, "-m", model, "--seed", str(SEED)]
        command += ["--steps", str(steps), "-o", str(Path(folder) / "picture.png")]
        start = time.perf_counter()
        with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
            assert process.stderr is not None
            output = process.stderr.read()
            _, status, usage = os.wait4(process.pid, 0)
            seconds = time.perf_counter() - start
            process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        typer.echo(output, err=True, nl=False)
        raise typer.Exit(process.returncode)
    return seconds, usage.ru_maxrss / (1024 * 1024 if sys.platform == "darwin" else 1024)


def warm(engine: Engine, pairs: int, steps: int) -> Numbers:
    """Seconds a picture of a loaded system and, where it is of xiaomo's shape, of the plain loop beside it."""
    sides: dict[str, Draw] = {"bimo": lambda: drawn(engine, steps)}
    if like_xiaomo(engine.recipe):
        sides["plain"] = lambda: plain(engine.system, steps)
    _tell("画热身的图 …", "warming up ...")
    return _compared(sides, pairs)


def drawn(engine: Engine, steps: int) -> Any:
    """A picture as `bimo.draw` gives it, a PIL image."""
    return engine.draw({"text": PROMPT, "seed": SEED, "steps": steps, "conditions": {"pose": list(POSE)}})[0].image


def like_xiaomo(recipe: Recipe) -> bool:
    """Whether the plain loop supports the system: a regression level, then a flow that is conditioned on it."""
    from bimo.diffusion.schedules.flow import Flow
    from bimo.diffusion.schedules.single_step import SingleStepRegression

    schedules = [type(level.schedule) for level in recipe.levels]
    conditioners = [[type(conditioner).__name__ for conditioner in level.conditioners] for level in recipe.levels]
    return (
        schedules == [SingleStepRegression, Flow]
        and conditioners == [["Pose"], ["Earlier", "Pose"]]
        and len(recipe.text_encoders) == 1
    )


def plain(system: System, steps: int) -> Any:
    """The same picture by a plain loop: text encoder, regression, Euler with guidance, decoder."""
    import torch
    from PIL import Image

    from bimo.core.tensors import Conditioning, TextEncoding

    expected, level = system.recipe.levels
    width, height = system.recipe.request.size
    scale = system.recipe.request.guidance or level.guidance.scale
    space = system.space(level.name)
    with torch.inference_mode():
        words = system.text_encoders[0].encode(["", PROMPT])
        pose = torch.tensor([POSE])
        assert words.mask is not None
        assert words.pooled is not None
        told = TextEncoding(words.tokens[1:], words.mask[1:], words.pooled[1:])
        given = Conditioning((told,), told.pooled, None, {"pose": pose})
        shape = (1, *space.shape((width, height)))
        first = system.level(expected.name).denoiser(torch.zeros(shape), torch.ones(1), given)
        spatial = torch.cat([torch.zeros_like(first), first])
        both = Conditioning((words,), words.pooled, spatial, {"pose": pose.expand(2, -1)})
        denoiser = system.level(level.name).denoiser
        x = torch.randn(shape, generator=torch.Generator().manual_seed(SEED))
        # From noise alone to the last of a thousand times, then to the clean picture.
        times = [*torch.linspace(1.0, 0.001, steps).tolist(), 0.0]
        for now, after in itertools.pairwise(times):
            null, answer = denoiser(x.expand(2, -1, -1, -1), torch.full((2,), 1000 * now), both).chunk(2)
            x = x + (after - now) * (null + scale * (answer - null))
        pixels = space.decode(x)[0]
        values = (pixels / 2 + 0.5).clamp(0, 1).mul(255).round().to(torch.uint8)
    return Image.fromarray(values.permute(1, 2, 0).contiguous().numpy())


def against_diffusers(pairs: int, threads: int) -> Numbers:
    """bimo and diffusers' own pipeline on a checkpoint of random weights in Taiyi-SD's layout."""
    other = _beside("against_diffusers")
    _tell("与 diffusers 比较 …", "comparing with diffusers ...")
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        other.make(folder, DIFFUSERS_SIDE)
        sides: dict[str, Draw] = {name: side(folder, DIFFUSERS_STEPS) for name, side in other.SIDES.items()}
        found = _compared(sides, pairs)
        options = argparse.Namespace(steps=DIFFUSERS_STEPS, threads=threads)
        memory = {f"{name} megabytes": other.peak_megabytes(name, folder, options) for name in sides}
    return {f"latent {name}": value for name, value in (found | memory).items()}


def _compared(sides: dict[str, Draw], pairs: int) -> Numbers:
    """Medians of seconds a picture, of processor seconds, and of bimo's share of the other's."""
    other = _beside("against_diffusers")
    pictures = [side() for side in sides.values()]
    numbers: Numbers = {}
    if len(sides) == 2:
        numbers["difference"] = other.difference(*pictures)
        if numbers["difference"] > 1:
            names = " / ".join(sides)
            raise BimoError(
                Both(
                    f"{names} 的图相差 {numbers['difference']}/255，不再计时",
                    f"the pictures of {names} differ by {numbers['difference']}/255: nothing is timed",
                )
            )
    turns: dict[str, list[tuple[float, float]]] = other.taking_turns(sides, pairs)
    for kind, title in enumerate(("seconds", "processor seconds")):
        for name, values in turns.items():
            numbers[f"{name} {title}"] = statistics.median(value[kind] for value in values)
        if len(sides) == 2:
            (one, first), (two, second) = turns.items()
            shares = [a[kind] / b[kind] for a, b in zip(first, second, strict=True)]
            numbers[f"{one} / {two} {title}"] = statistics.median(shares)
    return numbers


#: The rows of the table: name, Chinese, English, digits, unit.
SHOWN = (
    ("bimo seconds", "载入后画一张", "a picture, loaded", 3, "s"),
    ("bimo processor seconds", "　处理器时间", "  processor time", 3, "s"),
    ("plain seconds", "直写循环画一张", "the plain loop", 3, "s"),
    ("bimo / plain seconds", "　bimo / 直写循环", "  bimo / plain loop", 3, ""),
    ("bimo / plain processor seconds", "　处理器时间之比", "  of processor time", 3, ""),
    ("shell seconds", "从命令行到 PNG", "from the shell to the PNG", 2, "s"),
    ("shell megabytes", "　内存峰值", "  peak memory", 0, "MB"),
    ("latent bimo seconds", "太乙结构的小模型", "a small Taiyi-SD", 3, "s"),
    ("latent diffusers seconds", "　diffusers", "  diffusers", 3, "s"),
    ("latent bimo / diffusers seconds", "　bimo / diffusers", "  bimo / diffusers", 3, ""),
    ("latent bimo / diffusers processor seconds", "　处理器时间之比", "  of processor time", 3, ""),
    ("latent bimo megabytes", "　bimo 内存峰值", "  bimo's peak memory", 0, "MB"),
    ("latent diffusers megabytes", "　diffusers 内存峰值", "  diffusers' peak memory", 0, "MB"),
)


def show(report: dict[str, Any]) -> None:
    """Prints the table."""
    from rich.console import Console
    from rich.table import Table

    facts, numbers = report["machine"], report["numbers"]
    cores = say(
        Both(f"{facts['cores']} 核，{facts['threads']} 线程", f"{facts['cores']} cores, {facts['threads']} threads")
    )
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column()
    table.add_column(justify="right")
    table.add_column()
    for name, zh, en, digits, unit in SHOWN:
        if name in numbers:
            table.add_row(say(Both(zh, en)), f"{numbers[name]:.{digits}f}", unit)
    console = Console(highlight=False)
    console.print(f"{report['recipe']} · {facts['processor']} · {cores} · torch {facts['torch']}", markup=False)
    console.print(table)


def _beside(name: str) -> Any:
    """Another script of this folder as a module."""
    spec = importlib.util.spec_from_file_location(f"bench_{name}", Path(__file__).with_name(f"{name}.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _tell(zh: str, en: str) -> None:
    typer.echo(say(Both(zh, en)), err=True)
