"""One loop for every stage: it resumes exactly, caches what is frozen, and leaves a folder that draws."""

# torch leaves parts of its interface untyped; what crosses it here is named where it is kept.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import hashlib
import math
import pickle
import shutil
import time
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from bimo.core.checkpoint_io import read
from bimo.core.errors import TrainingError
from bimo.core.files import alone, write_whole
from bimo.core.messages import say
from bimo.core.part import dumps, loads
from bimo.core.recipe import Recipe, Stage
from bimo.data.loader import Pictures
from bimo.data.sheets import sheet
from bimo.diffusion.system import RECIPE_FILE, System
from bimo.engine.devices import exact
from bimo.engine.engine import Engine
from bimo.training.adapters.adapter import adapter_of
from bimo.training.adapters.lora_stage import apart
from bimo.training.checks import check_groups, check_seed, check_sizes, check_words
from bimo.training.distributed.processes import ALONE, Processes, init_distributed
from bimo.training.distributed.zero import zero_settings
from bimo.training.finite import broken, not_finite, some
from bimo.training.history import Change, History, Place, had, read_history, same_data, same_recipe, standing
from bimo.training.logging import Journal, Progress, save_whole, table, tell
from bimo.training.lr_schedules import rate
from bimo.training.objectives.objective import objective_of
from bimo.training.objectives.rewards import Judges
from bimo.training.optimizers import checkpoint_gradients, freeze
from bimo.training.preflight import check_recipe, check_stages, sized
from bimo.training.run_page import leave
from bimo.training.stage_trainer import StageTrainer, named, read_alike, whole
from bimo.training.train_inputs import TrainInputs, vocabulary

if TYPE_CHECKING:
    from PIL import Image

STATE_FILE = "state.pt"
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
) -> Path:
    """Runs every stage of a recipe on the shards in ``data``, one folder or several, and answers ``out``, by then a
    folder that draws. Of texts without pictures stages of words learn alone.

    The same command goes on where it was stopped: all that is random in a step comes from (seed, stage, step), and
    the rows of a step from its number, so losses and weights are those of an uninterrupted run with the same number
    of threads. ``stop_after`` seconds it stops of its own accord, with its state saved. What has the same name and
    shape in a system of ``start`` begins as it is there, and so do vocabularies of equal text encoders; so does what a
    file of ``start`` holds of a system of this recipe, such as its autoencoder. Of several the last decides.
    ``teacher`` is whom stages learn from that distil, ``judges`` open what rewards look through. Raises TrainingError
    for a folder that another run is at work in, or that holds a run of another recipe, seed or data, a ``start`` that
    gives nothing, and numbers that are none. With ``from_here`` a run that was begun goes on with other settings of its
    stages, with ``accept_new_data`` with other data; history.json says since when.

    Where a launcher has begun several processes they share each step, and it is the step that one alone takes, losses
    to rounding; ``out`` and ``data`` lie where all of them see them. ``device`` is "cpu", "cuda", "mps", or "auto".
    The index of the data and some decoded pixels are kept in ``cache``, in ``data`` itself where it is None. The rows
    of a folder are seen as often in an epoch as its one of ``repeats`` says.
    """
    with init_distributed(device) as processes, exact(processes.device):
        if threads:
            torch.set_num_threads(threads)
        pictures = Pictures(*((data,) if isinstance(data, Path) else data), cache=cache, repeats=repeats)
        fresh = not out.exists() or not any(out.iterdir())
        with (
            alone(out, TrainingError) if processes.is_main_process else nullcontext(),
            _leaving_nothing(out, fresh, processes),
        ):
            given = teacher, judges, processes, from_here, accept_new_data
            run = Trainer(recipe, pictures, out, seed, stop_after, *given)
            for beginning in start:
                run.begin_as(beginning)
                del beginning  # of an iterator one at a time is in memory
            run.everything()
    return out


@contextmanager
def _leaving_nothing(out: Path, fresh: bool, processes: Processes) -> Generator[None]:
    """A run that ends before it began leaves nothing where nothing was."""
    try:
        yield
    except BaseException:
        if fresh and processes.is_main_process and not (out / RECIPE_FILE).is_file():
            shutil.rmtree(out, ignore_errors=True)
        raise


class Trainer:
    """A recipe being trained in a folder."""

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
    ) -> None:
        self.processes = processes
        check_recipe(recipe)
        self.recipe, self.pictures, self.out, self.seed = sized(recipe, pictures), pictures, out, seed
        self.deadline = math.inf if stop_after is None else time.monotonic() + stop_after
        with processes.main_process_first():
            if processes.is_main_process:
                out.mkdir(parents=True, exist_ok=True)
            self.history = self._same_run(from_here, accept_new_data)
        torch.manual_seed(seed)
        self.system = System(self.recipe).to(processes.device)
        self.teacher = None if teacher is None else teacher.eval().requires_grad_(False).to(processes.device)
        self.judges = judges
        self.vocabulary = vocabulary(pictures.labels)
        self.place = Place()
        #: What was not finite in the weights before anything was learnt: masks may be.
        self._infinite: frozenset[str] = frozenset()
        self.journal = Journal(out, processes.is_main_process)

    def begin_as(self, other: System | Path) -> None:
        """Takes over all that has the same name and shape in another system, and vocabularies of equal text encoders;
        or in a file of some of a system's tensors.

        Raises TrainingError where that is nothing.
        """
        state, name = (read(other), str(other)) if isinstance(other, Path) else (other.state_dict(), other.recipe.name)
        own = self.system.state_dict()
        matching = {n: v for n, v in state.items() if n in own and own[n].shape == v.shape}
        if not matching:
            raise TrainingError(
                "not one tensor of {name} has name and shape of one of {name_2}; begin from another system",
                name=name,
                name_2=self.recipe.name,
            )
        self.system.load_state_dict(matching, strict=False)
        if isinstance(other, System):
            self._read_as(other)
        print(
            say(
                "{count} tensors begin as in {name} ({rest} more of it have no place here); {count_2} do not",
                count=len(matching),
                name=name,
                rest=len(state) - len(matching),
                count_2=len(own) - len(matching),
            )
        )

    def _read_as(self, other: System) -> None:
        """Keeps the vocabularies of text encoders that read alike, where the run has none."""
        for index, (encoder, wanted) in enumerate(zip(other.text_encoders, self.recipe.text_encoders, strict=False)):
            with self.processes.main_process_first():
                if read_alike(other.recipe.text_encoders[index], wanted) and not (self.out / f"words.{index}").is_dir():
                    encoder.save_tokenizer(self.out / f"words.{index}")

    def everything(self) -> None:
        """Every stage from where the run stands."""
        with self.processes.main_process_first():
            self._words()
        saved = self._saved()
        if saved is not None:
            check_seed(saved.get("seed", 0), self.seed, self.out)
            self.system.load_state_dict(saved["system"])
            self.place = Place(**saved["place"])
        self._begins_finite()
        to_come = list(enumerate(self.recipe.stages))[self.place.stage :]
        check_stages(self.system, to_come, self.pictures, self.vocabulary, self.teacher, self.judges)
        for stage in self.recipe.stages[self.place.stage :] if self.processes.zero else ():
            zero_settings(stage)  # what the last one refuses is said before the first is learnt
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
        print(say("trained: bimo draw -m {out}", out=self.out))

    def _stage(self, stage: Stage, saved: dict[str, Any] | None) -> bool:
        """One stage to its end; False where time ran out first."""
        trainer = self._stage_trainer(stage, saved)
        self._announce(stage, trainer)
        self._modes()
        self.journal.track(stage)
        progress = Progress(stage, self.place.step, self.journal)
        last_saved = last_sheet = time.monotonic()
        with progress:
            while self.place.step < stage.steps:
                loss, lr = self._step(stage, trainer)
                progress.on_step(self.place.step, loss, lr, self._validated(stage, trainer))
                now, step = time.monotonic(), self.place.step
                look = not stage.sample_every and now - last_sheet > SHEET_SECONDS
                due = (now > self.deadline, now - last_saved > CHECKPOINT_SECONDS, look)
                # By the leader's clock: what one does here all do.
                over, save, look = self.processes.total(*(float(it and self.processes.is_main_process) for it in due))
                look = look or (stage.sample_every and step % stage.sample_every == 0 and step < stage.steps)
                if stage.save_every and step % stage.save_every == 0 and step < stage.steps:
                    self._keep(stage, trainer)
                if over or save:
                    trainer.check_weights(self.place.step)
                    self._save(trainer.state() | {"stage": dumps(stage)}, trainer)
                if over:
                    return False
                if save:
                    last_saved = time.monotonic()
                if look:
                    self._look(trainer)
                    if self.processes.is_main_process:
                        leave(self.out, self.recipe)
                    last_sheet = time.monotonic()
        trainer.check_weights(self.place.step)
        self._left(stage, trainer)
        self._look(None)
        return True

    def _announce(self, stage: Stage, trainer: StageTrainer) -> None:
        """What learns, and what the data is like, before the first step. Raises TrainingError as ``check_words``."""
        check_groups(stage, trainer.batches.order, self.processes.count)
        if self.place.step == 0 and trainer.objective.captions != "none":
            check_words(stage, self.system.text_encoders, trainer.batches.pictures, trainer.batches.prefix)
        check_sizes(stage, trainer.batches.order)
        every = dict(self.system.named_parameters()) | trainer.parameters
        tell(table(stage, self.place.stage, self.place.step, every, trainer.optimiser))

    def _left(self, stage: Stage, trainer: StageTrainer) -> None:
        """What a stage leaves: its averaged weights, as a paper's next stage begins from them, and its adapter."""
        trainer.swap_average()
        trainer.close()
        adapter = adapter_of(stage)
        if self.processes.sharded:
            # Nothing takes a module out of FSDP: another is built, and given the weights.
            state = whole(self.system.state_dict())
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
        with self.processes.main_process_first():
            pictures = objective.pictures(self.system, self.pictures, folder)
        # What is only for training begins alike whatever was drawn before it.
        torch.manual_seed(self.seed + 1 + number)
        extra = objective.extra(self.system, self.vocabulary)
        adapter = adapter_of(stage)
        added = [] if adapter is None else adapter.put(self.system)
        if saved is not None and saved["optimiser"] is None:
            saved = None  # the stage before was done, and this one not begun
        if saved is not None:
            self.system.load_state_dict(saved.get("adapter", {}), strict=False)
            if extra is not None:
                extra.load_state_dict(saved["extra"])
        self.system.to(self.processes.device)
        if extra is not None:
            extra.to(self.processes.device)
        learns = freeze(named(self.system, extra, objective), (*stage.train, *added))
        checkpoint_gradients(stage, self.system)
        blank = TrainInputs(
            self.system, stage, extra, (), self.vocabulary, torch.Generator(), teacher=self.teacher, judges=self.judges
        )
        seed = self.seed + number * 7919
        with self.processes.main_process_first():
            batches = objective.batches(blank, pictures, self.out, folder, seed, self.processes)
        return StageTrainer(stage, batches, objective, learns, saved, number)

    def _step(self, stage: Stage, trainer: StageTrainer) -> tuple[float, float]:
        step, rank = self.place.step, self.processes.rank
        mixed = _mixed(self.seed, self.place.stage, step)
        # Dropout has no generator of its own: each process has other rows, and drops others.
        torch.manual_seed(_mixed(mixed, rank) if rank else mixed)
        lr = rate(stage, step)
        value = trainer.step(step, torch.Generator().manual_seed(mixed), lr)
        self.place.step += 1
        return value, lr

    def _validated(self, stage: Stage, trainer: StageTrainer) -> float | None:
        """The loss of what is held out, by averaged weights, where it is due; the best system is kept."""
        order, step = trainer.batches.held_out, self.place.step
        if order is None or (step % stage.validate_every and step != stage.steps):
            return None

        def generator(number: int) -> torch.Generator:
            # The same noise and times every time, others than of any step.
            return torch.Generator().manual_seed(_mixed(self.seed, self.place.stage, -1 - number))

        trainer.check_weights(step)
        with self._averaged(trainer):
            value = trainer.validate(generator)
            if not math.isfinite(value):
                what = "留出数据上的损失不是数", "the loss of what is held out is not a number"
                raise self._broken(stage, step, what)
            self.journal.flush()
            better = self.processes.is_main_process and value < self.journal.best(self.place.stage)
            if self.processes.total(float(better))[0]:
                self._best(stage, trainer)
        return value

    def _keep(self, stage: Stage, trainer: StageTrainer) -> None:
        """Keeps what is learnt after this step, and lets go of what was kept before the last few."""
        trainer.check_weights(self.place.step)
        start = f"step-{self.place.stage + 1}-"
        with self._averaged(trainer):
            self._leave(stage, trainer, f"{start}{self.place.step:06d}")
        if stage.keep_last and self.processes.is_main_process:
            for old in sorted(self.out.glob(f"{start}*"))[: -stage.keep_last]:
                shutil.rmtree(old) if old.is_dir() else old.unlink()

    def _best(self, stage: Stage, trainer: StageTrainer) -> None:
        """Keeps the system as it is, ready to draw, or the adapter that is learning."""
        self._leave(stage, trainer, f"best-{self.place.stage + 1}")

    def _leave(self, stage: Stage, trainer: StageTrainer, name: str) -> None:
        """Writes the system as it is, ready to draw, or the adapter that is learning."""
        adapter = adapter_of(stage)
        state = whole(trainer.system_state() if adapter is None else adapter.learnt(self.system))
        if not self.processes.is_main_process:
            return
        if adapter is not None:
            adapter.write(self.system, self.out / name, state)
            return
        part = self.out / f"{name}.part"
        shutil.rmtree(part, ignore_errors=True)
        self.system.save(part, state=state)
        shutil.rmtree(self.out / name, ignore_errors=True)
        part.replace(self.out / name)

    @contextmanager
    def _averaged(self, trainer: StageTrainer | None) -> Generator[None]:
        """The system with the averaged weights of what is learning, in evaluation mode, and as it was afterwards."""
        modes = {name: module.training for name, module in self.system.named_modules()}
        if trainer is not None:
            trainer.swap_average()
        self.system.eval()
        yield
        if trainer is not None:
            trainer.swap_average()
        for name, module in self.system.named_modules():
            module.training = modes[name]

    def _modes(self) -> None:
        """What learns whole is in training mode, everything else in evaluation mode: no dropout, no new statistics."""

        def visit(module: nn.Module, above: bool) -> None:
            parameters = list(module.parameters())
            module.training = all(p.requires_grad for p in parameters) if parameters else above
            for child in module.children():
                visit(child, module.training)

        visit(self.system, False)

    def _look(self, trainer: StageTrainer | None) -> None:
        stage = self.recipe.stages[self.place.stage]
        if not self.recipe.prompts or stage.level != self.recipe.levels[-1].name:
            return  # the level that makes the picture has learnt nothing new

        def drawn() -> list[Image.Image]:
            engine = Engine(self.system, device=self.processes.device)
            return [engine.draw(text, seed=7, steps=12)[0].image for text in self.recipe.prompts]

        with self._averaged(trainer):
            # What is in parts is drawn with by all processes.
            pictures = trainer.within(drawn) if trainer is not None and self.processes.sharded else drawn()
        path = self.out / "sheets" / f"{self.place.stage + 1}-{self.place.step:06d}.png"
        if self.processes.is_main_process:
            self.journal.show(stage, self.place.step, sheet(pictures, self.recipe.prompts, path))

    def _words(self) -> None:
        """Vocabularies of text encoders that learn theirs from the captions: made once, then read."""
        for index, encoder in enumerate(self.system.text_encoders):
            folder = self.out / f"words.{index}"
            if not folder.is_dir():
                captions = (c for captions in self.pictures.captions for c in captions)
                encoder.build_tokenizer(captions, [w for folder in self.pictures.folders for w in _known(folder)])
                encoder.save_tokenizer(folder)
            encoder.load_tokenizer(folder)

    def _save(self, stage_state: dict[str, Any], trainer: StageTrainer | None = None) -> None:
        empty: dict[str, Any] = {"optimiser": None, "average": {}, "extra": None}
        system, adapter = apart(whole(self.system.state_dict() if trainer is None else trainer.system_state()))
        state = (
            empty
            | stage_state
            | {"system": system, "adapter": adapter, "place": vars(self.place)}
            | {"seed": self.seed}
        )
        bad = [name for name in not_finite(_tensors(state)) if name not in self._infinite]
        if bad:
            stage = self.recipe.stages[min(self.place.stage, len(self.recipe.stages) - 1)]
            listed = some(bad, len(_tensors(state)))
            what = f"要保存的数不是有限的：{listed}", f"what is to be saved is not finite: {listed}"
            raise self._broken(stage, self.place.step, what)
        if not self.processes.is_main_process:
            return
        self.journal.flush()  # first, so that it never lacks a step of the state: what is later is cut
        save_whole(state, self.out / STATE_FILE)

    def _saved(self, mmap: bool = False) -> dict[str, Any] | None:
        """What ``_save`` left, None where nothing is. Raises TrainingError where it cannot be read."""
        path = self.out / STATE_FILE
        if not path.is_file():
            return None
        try:
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
        except (RuntimeError, OSError, EOFError, ValueError, pickle.UnpicklingError) as error:
            first = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise TrainingError(
                "cannot read {path} ({first}); begin in another folder, or delete it to begin anew here",
                path=path,
                first=first,
            ) from None

    def _same_run(self, from_here: bool, accept_new_data: bool) -> History:
        """What the folder knows of the run, with what changes now. Raises TrainingError for another run's folder."""
        path, history, now = self.out / RECIPE_FILE, read_history(self.out), had(self.pictures, self.recipe)
        if not path.is_file():
            return History(now)
        # Compared as recipes: fields that came later have the values they stood for.
        before = cast(Recipe, loads(path.read_text(encoding="utf-8")))
        saved = self._saved(mmap=True)
        if saved is None:
            other = history.data is not None and history.data.digest != now.digest
            if self.processes.is_main_process and (other or before != self.recipe):
                self._forget(before, other)
            return History(now)
        place = Place(**saved["place"])
        settings = same_recipe(before, self.recipe, place, self.out, from_here)
        data = same_data(history, now, self.out, accept_new_data)
        if not settings and data is None:
            return replace(history, data=now)
        stages = self.recipe.stages
        name = stages[place.stage].name if place.stage < len(stages) else ""
        change = Change(place.stage, name, place.step, settings, data)
        listed = "".join(f"\n  {line}" for line in change.lines())
        where = standing(self.recipe, place)
        print(say("from {where} on:{told}", where=where, told=listed))
        return replace(history.with_change(change), data=now)

    def _forget(self, before: Recipe, other: bool) -> None:
        """Nothing was saved of what was begun here: what was made for another recipe, or other data, goes."""
        print(say("nothing had been learnt in {out}; it begins anew", out=self.out))
        # What a system begins as gave its words; they stay with the same text encoders and captions.
        gone = [] if before.text_encoders == self.recipe.text_encoders and not other else [*self.out.glob("words.*")]
        for folder in (*gone, *self.out.glob("stage-*")):
            shutil.rmtree(folder)

    def _begins_finite(self) -> None:
        """Raises TrainingError where parameters are not finite before anything is learnt."""
        parameters = dict(self.system.named_parameters())
        bad = not_finite(dict(self.system.state_dict()))
        wrong = [name for name in bad if name in parameters]
        if wrong:
            listed = some(wrong, len(parameters))
            raise TrainingError(
                "the weights to begin with are not finite: {told}; begin from others (--start)", told=listed
            )
        self._infinite = frozenset(f"system.{name}" for name in bad)

    def _broken(self, stage: Stage, step: int, what: tuple[str, str]) -> TrainingError:
        number = min(self.place.stage, len(self.recipe.stages) - 1)
        return broken(stage, number, step, what, self.out, self.out / STATE_FILE)


def _tensors(value: Any, path: str = "") -> dict[str, Tensor]:
    """The tensors in maps and lists of whatever depth, by their paths."""
    if isinstance(value, Tensor):
        return {path: value}
    items: Any = ()
    if isinstance(value, Mapping):
        items = cast("Mapping[Any, Any]", value).items()
    elif isinstance(value, (list, tuple)):
        items = enumerate(cast("Sequence[Any]", value))
    tensors: dict[str, Tensor] = {}
    for name, part in items:
        tensors |= _tensors(part, f"{path}.{name}" if path else str(name))
    return tensors


def _mixed(*numbers: int) -> int:
    """One seed of several numbers."""
    text = ",".join(map(str, numbers)).encode()
    return int.from_bytes(hashlib.sha256(text).digest()[:7], "big")


def _known(folder: Path) -> list[str]:
    path = folder / "words.txt"
    return path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
