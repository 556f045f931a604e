"""The training loop of all stages; it resumes exactly, caches frozen encoders, and leaves a folder that draws."""

# Parts of torch's interface are untyped.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import math
import shlex
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch

from bimo.core.errors import TrainingError
from bimo.core.files import alone, write_whole
from bimo.core.messages import Message, say
from bimo.core.part import dumps
from bimo.core.recipe import Recipe, Stage
from bimo.data.loader import Pictures
from bimo.data.sheets import sheet
from bimo.diffusion.system import RECIPE_FILE, System
from bimo.training.adapters.adapter import adapter_of
from bimo.training.adapters.lora_stage import split_adapter_state
from bimo.training.checks import check_groups, check_seed, check_sizes, check_words
from bimo.training.distributed.processes import ALONE, Processes, init_distributed
from bimo.training.distributed.zero import zero_settings
from bimo.training.execution import Execution, deterministic
from bimo.training.finite import broken, not_finite, some
from bimo.training.frozen_weights import FrozenWeights
from bimo.training.history import Place
from bimo.training.logging import Journal, Progress, print_table, save_whole, table
from bimo.training.lr_schedules import rate
from bimo.training.objectives.objective import objective_of
from bimo.training.objectives.rewards import Judges
from bimo.training.optimizers import checkpoint_gradients, freeze, set_modes
from bimo.training.preflight import check_recipe, check_stages, sized
from bimo.training.run_page import leave
from bimo.training.run_state import STATE_FILE, copied, history_of, leaving_nothing, read_state, tensors_in
from bimo.training.seeds import mixed
from bimo.training.snapshots import averaged, draw_samples, remove_old, write_snapshot
from bimo.training.stage_trainer import StageTrainer, gather_to_cpu, named
from bimo.training.starting_weights import StartingWeights, copy_matching, demand_finite
from bimo.training.step_losses import log_every
from bimo.training.tokenizers import load_tokenizers
from bimo.training.train_inputs import TrainInputs, vocabulary

CHECKPOINT_SECONDS = 180.0
SHEET_SECONDS = 900.0


def train(
    recipe: Recipe,
    data: Path | Sequence[Path],
    out: Path,
    *,
    threads: int | None = None,
    stop_after: float | None = None,
    seed: int = 0,
    start: Iterable[System | Path] = (),
    teacher: System | None = None,
    judges: Judges | None = None,
    device: str = "cpu",
    cache: Path | None = None,
    from_here: bool = False,
    accept_new_data: bool = False,
    repeats: Sequence[int] = (),
    stopping: Callable[[], bool] = lambda: False,
) -> Path:
    """Trains every stage of a recipe on the shards in ``data``, one folder or several; returns ``out``, then a folder
    that draws. Data without pictures train text stages only.

    The same call resumes a stopped run. The random numbers of a step depend only on (seed, stage, step), and its rows
    on the step's number, so losses and weights are those of an uninterrupted run with the same number of threads.
    After ``stop_after`` seconds, or once ``stopping`` returns true, the run saves its state and stops. Tensors with the
    same name and shape, and tokenizers of equal text encoders, come from the systems of ``start``, or tensors from
    files, such as an autoencoder's; the last wins. ``teacher`` is the model for distillation, ``judges`` are the reward
    models. Raises TrainingError if another process works in the folder, if it has a run of another recipe, seed or
    data, if nothing in a ``start`` matches, and for non-finite numbers. With ``from_here`` a run continues with changed
    settings of its stages, with ``accept_new_data`` with other data (see history.json).

    Several processes of a launcher share each step, which equals that of a single process up to rounding of losses;
    ``out`` and ``data`` must be visible to all of them. ``device`` is "cpu", "cuda", "mps", or "auto". The index of the
    data and some decoded pixels are cached in ``cache``, by default in ``data`` itself. ``repeats`` says how often in
    an epoch the rows of each folder are seen.
    """
    with init_distributed(device) as processes:
        if threads:
            torch.set_num_threads(threads)
        pictures = Pictures(*((data,) if isinstance(data, Path) else data), cache=cache, repeats=repeats)
        fresh = not out.exists() or not any(out.iterdir())
        with (
            alone(out, TrainingError) if processes.is_main_process else nullcontext(),
            leaving_nothing(out, fresh, processes),
        ):
            options = teacher, judges, processes, from_here, accept_new_data, stopping
            run = Trainer(recipe, pictures, out, seed, stop_after, *options)
            for other in start:
                run.begin_as(other)
                del other  # keeps only one system of an iterator in memory
            run.everything()
    return out


class Trainer:
    """The training of a recipe in a folder."""

    def __init__(
        self,
        recipe: Recipe,
        pictures: Pictures,
        out: Path,
        seed: int = 0,
        stop_after: float | None = None,
        teacher: System | None = None,
        judges: Judges | None = None,
        processes: Processes = ALONE,
        from_here: bool = False,
        accept_new_data: bool = False,
        stopping: Callable[[], bool] = lambda: False,
    ) -> None:
        self.processes = processes
        check_recipe(recipe)
        self.recipe, self.pictures, self.out, self.seed = sized(recipe, pictures), pictures, out, seed
        self.deadline = math.inf if stop_after is None else time.monotonic() + stop_after
        self.stopping = stopping
        with processes.main_process_first():
            if processes.is_main_process:
                out.mkdir(parents=True, exist_ok=True)
            self.history = history_of(out, self.recipe, pictures, processes, from_here, accept_new_data)
        self.weights = StartingWeights(self.recipe, seed, processes.device)
        self.system = self.weights.system
        self.teacher = None if teacher is None else teacher.eval().requires_grad_(False).to(processes.device)
        self.judges = judges
        self.vocabulary = vocabulary(pictures.labels)
        self.place = Place()
        #: Names of tensors that were not finite before training, as attention masks.
        self._infinite: frozenset[str] = frozenset()
        self.journal = Journal(out, processes.is_main_process)

    def begin_as(self, other: System | Path) -> None:
        """As ``starting_weights.copy_matching``, for the run's system."""
        copy_matching(self.weights, other, self.out, self.processes)

    def everything(self) -> None:
        """Runs all remaining stages."""
        with self.processes.main_process_first():
            self._words()
        saved = read_state(self.out, mmap=self.weights.mapped)
        if saved is not None:
            check_seed(saved.get("seed", 0), self.seed, self.out)
            self.weights.put(saved.pop("system"), strict=True)
            saved = copied(saved) if self.weights.mapped else saved
            self.place = Place(**saved["place"])
        self.weights.complete()
        self._infinite = frozenset(f"system.{name}" for name in demand_finite(self.system))
        to_come = list(enumerate(self.recipe.stages))[self.place.stage :]
        check_stages(self.system, to_come, self.pictures, self.vocabulary, self.teacher, self.judges)
        for stage in self.recipe.stages[self.place.stage :] if self.processes.zero else ():
            zero_settings(stage)  # raises for every stage before the first one starts
        if self.processes.is_main_process:
            self.history.write(self.out)
            write_whole(self.out / RECIPE_FILE, dumps(self.recipe).encode())
            self.journal.cut(self.place.stage, self.place.step)
        while self.place.stage < len(self.recipe.stages):
            stage = self.recipe.stages[self.place.stage]
            if not self._stage(stage, saved):
                return
            saved = None
            self.place = Place(self.place.stage + 1, 0)
            self._save({})
            if self.processes.is_main_process:
                leave(self.out, self.recipe)
        with self.processes.main_process_first():
            if self.processes.is_main_process:
                self.system.eval().save(self.out)
        self.journal.close()
        print(say("trained: bimo draw -m {out}", out=shlex.quote(str(self.out))))

    def _stage(self, stage: Stage, saved: dict[str, Any] | None) -> bool:
        """Runs one stage; False if it stopped at the deadline."""
        with deterministic(stage, self.processes.device):
            trainer = self._stage_trainer(stage, saved)
            self._announce(stage, trainer)
            self._modes()
            self.journal.track(stage)
            with Progress(stage, self.place.step, self.journal) as progress:
                if not self._steps(stage, trainer, progress):
                    return False
            trainer.check_weights(self.place.step)
            if stage.holds:  # afterwards they are whole, on the processor, where drawing takes long
                self._draw_samples(trainer)
                self._left(stage, trainer)
            else:
                self._left(stage, trainer)
                self._draw_samples(None)
        return True

    def _steps(self, stage: Stage, trainer: StageTrainer, progress: Progress) -> bool:
        """Takes the remaining steps of a stage; False if it stopped at the deadline."""
        last_saved = last_sheet = time.monotonic()
        while self.place.step < stage.steps:
            self._step(stage, trainer)
            now, step = time.monotonic(), self.place.step
            log = self._logs(stage, trainer)
            over = save = look = 0.0
            if log or self.processes.count == 1:
                look = not stage.sample_every and now - last_sheet > SHEET_SECONDS
                due = (now > self.deadline or self.stopping(), now - last_saved > CHECKPOINT_SECONDS, look)
                # All processes follow the main process's clock.
                over, save, look = self.processes.total(*(float(it and self.processes.is_main_process) for it in due))
            look = look or (stage.sample_every and step % stage.sample_every == 0 and step < stage.steps)
            keep = stage.save_every and step % stage.save_every == 0 and step < stage.steps
            if log or over or save or look or keep:
                self._log(stage, trainer, progress)
            if keep:
                self._keep(stage, trainer)
            if over or save:
                trainer.check_weights(self.place.step)
                self._save(trainer.state() | {"stage": dumps(stage)}, trainer)
            if over:
                return False
            if save:
                last_saved = time.monotonic()
            if look:
                self._draw_samples(trainer)
                if self.processes.is_main_process:
                    leave(self.out, self.recipe)
                last_sheet = time.monotonic()
        return True

    def _logs(self, stage: Stage, trainer: StageTrainer) -> bool:
        """Whether losses are read after this step: as often as the stage says, and where what learns is looked at."""
        step = self.place.step
        every = log_every(stage, self.processes.device), trainer.objective.draws_every
        return step == stage.steps or any(n and step % n == 0 for n in every) or self._validates(stage, trainer)

    def _log(self, stage: Stage, trainer: StageTrainer, progress: Progress) -> None:
        """Reads the losses of the steps since the last time, and logs them."""
        seconds = progress.seconds_each(len(trainer.losses))
        for step, loss in trainer.losses.read():
            valid = self._validated(stage, trainer) if step == self.place.step else None
            progress.on_step(step, loss, rate(stage, step - 1), seconds, valid)

    def _announce(self, stage: Stage, trainer: StageTrainer) -> None:
        """Prints what is trained, and facts about the data. Raises TrainingError as ``check_words``."""
        check_groups(stage, trainer.batches.order, self.processes.count)
        if self.place.step == 0 and trainer.objective.captions != "none":
            check_words(stage, self.system.text_encoders, trainer.batches.pictures, trainer.batches.prefix)
        check_sizes(stage, trainer.batches.order)
        every = dict(self.system.named_parameters()) | trainer.parameters
        print_table(table(stage, self.place.stage, self.place.step, every, trainer.optimiser))

    def _left(self, stage: Stage, trainer: StageTrainer) -> None:
        """Ends a stage: its averaged weights become the system's, for the next stage; its adapter is written."""
        trainer.swap_average()
        trainer.close()
        adapter = adapter_of(stage)
        if self.processes.sharded:
            # FSDP cannot be undone: build a new system and load the gathered weights.
            state = gather_to_cpu(self.system.state_dict())
            self.system = System(self.recipe)
            self._words()
            if adapter is not None:
                adapter.put(self.system)
            self.system.load_state_dict(state)
            self.system.to(self.processes.device)
        if adapter is not None:
            learnt = adapter.learnt(self.system)
            adapter.leave(self.system)
            if self.processes.is_main_process:
                print(adapter.write(self.system, self.out / f"{adapter.kind}-{self.place.stage + 1}", learnt))

    def _stage_trainer(self, stage: Stage, saved: dict[str, Any] | None) -> StageTrainer:
        objective = objective_of(stage)
        number = self.place.stage
        folder = self.out / f"stage-{number + 1}"
        self.weights.complete()
        with self.processes.main_process_first():
            pictures = self.pictures if stage.holds else objective.pictures(self.system, self.pictures, folder)
        # Seeded, so that modules for training only are initialised alike in a resumed run.
        torch.manual_seed(self.seed + 1 + number)
        self.weights.settle(waiting=stage.holds)
        extra = objective.extra(self.system, self.vocabulary)
        adapter = adapter_of(stage)
        added = [] if adapter is None else adapter.put(self.system)
        if saved is not None and saved["optimiser"] is None:
            saved = None  # saved between stages: this one has not started
        if saved is not None:
            self.system.load_state_dict(saved.get("adapter", {}), strict=False)
            if extra is not None:
                extra.load_state_dict(saved["extra"])
        if not stage.holds:
            self.system.to(self.processes.device)
        if extra is not None:
            extra.to(self.processes.device, torch.float32)
        learns = freeze(named(self.system, extra, objective), (*stage.train, *added))
        checkpoint_gradients(stage, self.system)
        execution = Execution(stage, self.system, self.processes)
        frozen = FrozenWeights(stage, self.system, folder, self.processes) if stage.holds else None
        self.weights.settle()
        if frozen is not None:
            with self.processes.main_process_first():
                pictures = objective.pictures(self.system, pictures, folder)
        blank = TrainInputs(
            self.system, stage, extra, (), self.vocabulary, torch.Generator(), teacher=self.teacher, judges=self.judges
        )
        seed = self.seed + number * 7919
        with self.processes.main_process_first(), nullcontext() if frozen is None else frozen.text_encoders():
            batches = objective.batches(blank, pictures, self.out, folder, seed, self.processes)
        if frozen is not None and batches.runs_encoders:
            frozen.keep_text_encoders(stage)
        return StageTrainer(stage, batches, objective, learns, saved, number, frozen=frozen, execution=execution)

    def _step(self, stage: Stage, trainer: StageTrainer) -> None:
        step, rank = self.place.step, self.processes.rank
        seed = mixed(self.seed, self.place.stage, step)
        # Dropout uses the global generator; each process has other rows and needs its own seed.
        torch.manual_seed(mixed(seed, rank) if rank else seed)
        trainer.step(step, torch.Generator().manual_seed(seed), rate(stage, step))
        self.place.step += 1

    def _validates(self, stage: Stage, trainer: StageTrainer) -> bool:
        """Whether a validation is due after this step."""
        step = self.place.step
        return trainer.batches.held_out is not None and (step % stage.validate_every == 0 or step == stage.steps)

    def _validated(self, stage: Stage, trainer: StageTrainer) -> float | None:
        """The validation loss with averaged weights, None if none is due; writes a snapshot of the best system."""
        step = self.place.step
        if not self._validates(stage, trainer):
            return None

        def generator(number: int) -> torch.Generator:
            # The same noise and timesteps for every validation, different from those of training steps.
            return torch.Generator().manual_seed(mixed(self.seed, self.place.stage, -1 - number))

        trainer.check_weights(step)
        with averaged(self.system, trainer):
            value = trainer.validate(generator)
            if not math.isfinite(value):
                raise self._broken(stage, step, Message("the loss of what is held out is not a number"))
            self.journal.flush()
            better = self.processes.is_main_process and value < self.journal.best(self.place.stage)
            if self.processes.total(float(better))[0]:
                self._write(stage, trainer, f"best-{self.place.stage + 1}")
        return value

    def _keep(self, stage: Stage, trainer: StageTrainer) -> None:
        """Writes a snapshot of this step, and deletes all but the last few."""
        trainer.check_weights(self.place.step)
        prefix = f"step-{self.place.stage + 1}-"
        with averaged(self.system, trainer):
            self._write(stage, trainer, f"{prefix}{self.place.step:06d}")
        if stage.keep_last and self.processes.is_main_process:
            remove_old(self.out, prefix, stage.keep_last)

    def _write(self, stage: Stage, trainer: StageTrainer, name: str) -> None:
        write_snapshot(self.system, stage, trainer, self.out / name, self.processes.is_main_process)

    def _modes(self) -> None:
        set_modes(self.system)

    def _draw_samples(self, trainer: StageTrainer | None) -> None:
        stage = self.recipe.stages[self.place.stage]
        if not self.recipe.prompts or stage.level != self.recipe.levels[-1].name:
            return  # stages of other levels do not change the pictures
        pictures = draw_samples(self.system, trainer, self.processes)
        path = self.out / "sheets" / f"{self.place.stage + 1}-{self.place.step:06d}.png"
        if self.processes.is_main_process:
            self.journal.show(stage, self.place.step, sheet(pictures, self.recipe.prompts, path))

    def _words(self) -> None:
        load_tokenizers(self.system.text_encoders, self.pictures, self.out)

    def _save(self, stage_state: dict[str, Any], trainer: StageTrainer | None = None) -> None:
        empty: dict[str, Any] = {"optimiser": None, "average": {}, "extra": None}
        whole = gather_to_cpu(self.system.state_dict() if trainer is None else trainer.system_state())
        system, adapter = split_adapter_state(whole)
        own = {"system": system, "adapter": adapter, "place": vars(self.place), "seed": self.seed}
        state = empty | stage_state | own
        bad = [name for name in not_finite(tensors_in(state)) if name not in self._infinite]
        if bad:
            stage = self.recipe.stages[min(self.place.stage, len(self.recipe.stages) - 1)]
            listed = some(bad, len(tensors_in(state)))
            raise self._broken(
                stage, self.place.step, Message("what is to be saved is not finite: {listed}", listed=listed)
            )
        if not self.processes.is_main_process:
            return
        self.journal.flush()  # before the state: later rows are removed on resuming, missing ones cannot be restored
        save_whole(state, self.out / STATE_FILE)

    def _broken(self, stage: Stage, step: int, what: Message) -> TrainingError:
        number = min(self.place.stage, len(self.recipe.stages) - 1)
        return broken(stage, number, step, what, self.out, self.out / STATE_FILE)
