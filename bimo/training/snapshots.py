"""Snapshots of a system in training: with averaged weights, written to a folder, drawn as samples."""

# Parts of torch's interface are untyped.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

import shutil
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from bimo.core.recipe import Stage
from bimo.diffusion.system import System
from bimo.engine.engine import Engine
from bimo.training.adapters.adapter import adapter_of
from bimo.training.execution import eager
from bimo.training.stage_trainer import StageTrainer, gather_to_cpu

if TYPE_CHECKING:
    from PIL import Image

    from bimo.training.distributed.processes import Processes

SAMPLE_SEED = 7
SAMPLE_STEPS = 12


@contextmanager
def averaged(system: System, trainer: StageTrainer | None) -> Generator[None]:
    """The system with the averaged weights, in evaluation mode; both are undone afterwards."""
    modes = {name: module.training for name, module in system.named_modules()}
    if trainer is not None:
        trainer.swap_average()
    system.eval()
    yield
    if trainer is not None:
        trainer.swap_average()
    for name, module in system.named_modules():
        module.training = modes[name]


def write_snapshot(system: System, stage: Stage, trainer: StageTrainer, path: Path, is_main_process: bool) -> None:
    """Writes the system as a folder that draws, or the adapter that is being trained as a file."""
    adapter = adapter_of(stage)
    # All processes take part in gathering sharded weights.
    state = gather_to_cpu(trainer.system_state() if adapter is None else adapter.learnt(system))
    if not is_main_process:
        return
    if adapter is not None:
        with trainer.whole_weights():
            adapter.write(system, path, state)
        return
    part = path.with_name(f"{path.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    system.save(part, state=state)
    shutil.rmtree(path, ignore_errors=True)
    part.replace(path)


def remove_old(out: Path, prefix: str, keep_last: int) -> None:
    """Deletes all but the last snapshots with a prefix."""
    for old in sorted(out.glob(f"{prefix}*"))[:-keep_last]:
        shutil.rmtree(old) if old.is_dir() else old.unlink()


def draw_samples(system: System, trainer: StageTrainer | None, processes: Processes) -> list[Image.Image]:
    """One picture for each prompt of the recipe, with averaged weights."""

    def pictures() -> list[Image.Image]:
        engine = Engine(system, device=processes.device)
        # Without drafts, so that the samples show what the weights learned.
        return [
            engine.draw(text, seed=SAMPLE_SEED, steps=SAMPLE_STEPS, draft=0)[0].image for text in system.recipe.prompts
        ]

    with averaged(system, trainer), eager():
        # A sharded system draws in all processes.
        return trainer.within(pictures) if trainer is not None and processes.sharded else pictures()
