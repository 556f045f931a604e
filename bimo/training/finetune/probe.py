"""Times a few steps of each stage, to predict the time and memory of all of them."""

# torch leaves parts of its interface untyped; what crosses it here is named where it is kept.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import io
import statistics
import sys
import tempfile
import time
from collections.abc import Iterable
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from bimo.core.messages import say
from bimo.core.part import Part
from bimo.core.recipe import Recipe, Stage
from bimo.data.loader import Pictures
from bimo.diffusion.system import System
from bimo.training.distributed.processes import Processes
from bimo.training.logging import LOG_FILE, rows_of
from bimo.training.objectives.dreambooth import Dreambooth
from bimo.training.trainer import Trainer

#: Steps of a probe; the first is not counted, since it allocates memory.
STEPS = 4


@dataclass(frozen=True)
class Probed:
    """Seconds of a step of each stage, seconds of all else in the probe, and the peak of bytes, on a CPU those of the
    whole process.
    """

    steps: tuple[float, ...]
    besides: float
    peak: int

    def seconds(self, stages: Iterable[Stage]) -> float:
        """The predicted seconds of all steps of some stages."""
        return sum(stage.steps * seconds for stage, seconds in zip(stages, self.steps, strict=True))


def probed(recipe: Recipe, pictures: Pictures, start: Iterable[System], device: torch.device) -> Probed:
    """Runs a few steps of each stage in a temporary folder, on a batch of pictures."""
    stages = tuple(replace(stage, steps=STEPS, warmup=0, objective=_briefly(stage)) for stage in recipe.stages)
    most = max(stage.batch * stage.accumulate for stage in stages) * STEPS
    few = pictures.of([pictures.groups[at] for at in range(min(len(pictures.groups), most))])
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    with tempfile.TemporaryDirectory() as folder, redirect_stdout(io.StringIO()):
        start_time, out = time.monotonic(), Path(folder)
        trainer = Trainer(replace(recipe, stages=stages, prompts=()), few, out, processes=Processes(device=device))
        for system in start:
            trainer.begin_as(system)
        trainer.everything()
        whole = time.monotonic() - start_time
        rows = list(rows_of(out / LOG_FILE))
    each = [[row["seconds"] for row in rows if row["stage"] == stage.name] for stage in stages]
    besides = whole - sum(map(sum, each))
    return Probed(tuple(statistics.median(seconds[1:]) for seconds in each), besides, _peak(device))


def expected(recipe: Recipe, probe: Probed) -> list[str]:
    """Lines with the time and memory that a probe predicts."""
    lines = [
        say(
            "{name}: {each:.2f} s a step, {whole:.0f} s for {steps}",
            name=stage.name,
            each=each,
            whole=each * stage.steps,
            steps=stage.steps,
        )
        for stage, each in zip(recipe.stages, probe.steps, strict=True)
    ]
    total_seconds = probe.seconds(recipe.stages) + probe.besides
    return [
        *lines,
        say(
            "expected: {whole:.0f} s, {peak:.2f} GB at the most, by the probe",
            whole=total_seconds,
            peak=probe.peak / 1e9,
        ),
    ]


def _briefly(stage: Stage) -> Part:
    """The objective without drawing its class pictures first."""
    objective = stage.objective
    return replace(objective, count=2) if isinstance(objective, Dreambooth) and objective.prior else objective


def _peak(device: torch.device) -> int:
    """The peak of bytes that this process has allocated on a device."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource
    except ImportError:  # Windows
        return 0
    size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return size if sys.platform == "darwin" else size * 1024
