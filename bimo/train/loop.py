"""One loop for every stage: it resumes exactly, caches what is frozen, and leaves a folder that draws."""

# torch leaves parts of its interface untyped; what crosses it here is named where it is kept.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from bimo.core.errors import TrainingError, say
from bimo.core.part import dumps
from bimo.core.recipe import Recipe, Stage
from bimo.core.types import Batch, write_whole
from bimo.data.loader import Pictures
from bimo.data.sheets import sheet
from bimo.diffusion.drive import draw
from bimo.diffusion.system import RECIPE_FILE, System
from bimo.train.freeze import freeze
from bimo.train.objectives import Lesson, Objective, Vocabulary
from bimo.train.optim import Average, optimiser, rate
from bimo.train.record import Journal, Progress, curves

STATE_FILE = "state.pt"
CHECKPOINT_SECONDS = 180.0
SHEET_SECONDS = 900.0
ENCODE_BATCH = 64


def train(
    recipe: Recipe,
    data: Path,
    out: Path,
    *,
    threads: int | None = None,
    stop_after: float | None = None,
    seed: int = 0,
) -> Path:
    """Runs every stage of a recipe on the shards in ``data`` and answers ``out``, by then a folder that draws.

    The same command goes on where it was stopped: all that is random in a step comes from (seed, stage, step), and
    the rows of a step from its number, so losses and weights are those of an uninterrupted run with the same number
    of threads. ``stop_after`` seconds it stops of its own accord, with its state saved. Raises TrainingError for a
    folder that holds another recipe's run and for a loss that is not a number.
    """
    if threads:
        torch.set_num_threads(threads)
    run = Run(recipe, Pictures(data), out, seed, stop_after)
    run.everything()
    return out


@dataclass
class Place:
    """Where a run stands."""

    stage: int = 0
    step: int = 0


class Run:
    """A recipe being trained in a folder."""

    def __init__(self, recipe: Recipe, pictures: Pictures, out: Path, seed: int, stop_after: float | None) -> None:
        self.recipe, self.pictures, self.out, self.seed = recipe, pictures, out, seed
        self.deadline = math.inf if stop_after is None else time.monotonic() + stop_after
        out.mkdir(parents=True, exist_ok=True)
        self._same_run()
        torch.manual_seed(seed)
        self.system = System(recipe)
        self.vocabulary = _vocabulary(pictures)
        self.place = Place()
        self.journal = Journal(out)
        self.latents: dict[str, Tensor] = {}

    def everything(self) -> None:
        """Every stage from where the run stands."""
        self._words()
        saved = self._saved()
        if saved is not None:
            self.system.load_state_dict(saved["system"])
            self.place = Place(**saved["place"])
        self.journal.cut(self.place.stage, self.place.step)
        while self.place.stage < len(self.recipe.stages):
            stage = self.recipe.stages[self.place.stage]
            if not self._stage(stage, saved):
                return
            saved = None
            self.place = Place(self.place.stage + 1, 0)
            self._save({})
            curves(self.out, self.out / "curves.png")
        self.system.eval().save(self.out)
        print(say(f"训练完成：bimo draw -m {self.out}", f"trained: bimo draw -m {self.out}"))

    def _stage(self, stage: Stage, saved: dict[str, Any] | None) -> bool:
        """One stage to its end; False where time ran out first."""
        objective = cast(Objective, stage.objective)
        # What is only for training begins alike whatever was drawn before it.
        torch.manual_seed(self.seed + 1 + self.place.stage)
        extra = objective.extra(self.system, self.vocabulary)
        parameters = dict(self.system.named_parameters())
        if extra is not None:
            parameters |= {f"contrast.{n}": p for n, p in extra.named_parameters()}
        learns = freeze(parameters, stage.train)
        learning = {name: parameters[name] for name in learns}
        steps = optimiser(stage, learning)
        average = Average(learning, stage.ema)
        if saved is not None and saved["optimiser"] is not None:
            steps.load_state_dict(saved["optimiser"])
            average.values = {n: saved["average"][n] for n in average.values}
            if extra is not None:
                extra.load_state_dict(saved["extra"])
        print(_table(stage, learning, self.place))
        self._modes()
        progress = Progress(stage, self.place.step, self.journal)
        last_saved = last_sheet = time.monotonic()

        def keep() -> None:
            held = {"optimiser": steps.state_dict(), "average": average.values}
            self._save(held | {"extra": None if extra is None else extra.state_dict()})

        with progress:
            while self.place.step < stage.steps:
                loss, lr = self._step(stage, objective, extra, learning, steps, average)
                progress.told(self.place.step, loss, lr)
                now = time.monotonic()
                if now > self.deadline:
                    keep()
                    return False
                if now - last_saved > CHECKPOINT_SECONDS:
                    keep()
                    last_saved = time.monotonic()
                if now - last_sheet > SHEET_SECONDS:
                    self._look(average, learning)
                    last_sheet = time.monotonic()
        # A stage leaves its averaged weights, as a paper's next stage begins from them.
        average.swap(learning)
        self._look(Average({}, 0.0), learning)
        return True

    def _step(
        self,
        stage: Stage,
        objective: Objective,
        extra: nn.Module | None,
        learning: dict[str, nn.Parameter],
        steps: torch.optim.Optimizer,
        average: Average,
    ) -> tuple[float, float]:
        step = self.place.step
        generator = torch.Generator().manual_seed(_mixed(self.seed, self.place.stage, step))
        lr = rate(stage, step)
        for group in steps.param_groups:
            group["lr"] = lr
        lesson = self._lesson(stage, objective, extra, self._rows(stage, step), generator)
        loss = objective.loss(lesson)
        value = float(loss.detach())
        if not math.isfinite(value):
            self._broken(stage, lesson)
        steps.zero_grad(set_to_none=True)
        loss.backward()
        if stage.clip:
            nn.utils.clip_grad_norm_(learning.values(), stage.clip, foreach=True)
        steps.step()
        average.update(learning, step)
        self.place.step += 1
        return value, lr

    def _rows(self, stage: Stage, step: int) -> list[int]:
        """The rows of a step: epochs in shuffled order, a batch never split across two."""
        per_epoch = max(1, len(self.pictures) // stage.batch)
        epoch, at = divmod(step, per_epoch)
        order = self.pictures.order(epoch, self.seed + self.place.stage * 7919)
        return order[at * stage.batch : (at + 1) * stage.batch].tolist()

    def _lesson(
        self, stage: Stage, objective: Objective, extra: nn.Module | None, rows: list[int], generator: torch.Generator
    ) -> Lesson:
        labels = [self.pictures.labels[row] for row in rows]
        lesson = Lesson(self.system, stage, extra, labels, self.vocabulary, generator)
        if objective.sees == "pixels":
            return replace(lesson, pixels=self.pictures.pixels(rows))
        level = stage.level or str(getattr(objective, "level", ""))
        x = self._latents(level)[rows].float()
        dropped = torch.rand(len(rows), generator=generator) < stage.drop_text
        texts = self._captions(rows, dropped, generator)
        with torch.set_grad_enabled(any(p.requires_grad for p in self.system.text.parameters())):
            encodings = self.system.encode(texts)
        scalars = {} if self.pictures.poses is None else {"pose": self.pictures.poses[rows]}
        return replace(lesson, batch=Batch(x, encodings, scalars, dropped, generator))

    def _captions(self, rows: list[int], dropped: Tensor, generator: torch.Generator) -> list[str]:
        picks = torch.rand(len(rows), generator=generator).tolist()
        chosen = [self.pictures.captions[row] for row in rows]
        texts = [c[int(p * len(c))] for c, p in zip(chosen, picks, strict=True)]
        return ["" if gone else text for text, gone in zip(texts, dropped.tolist(), strict=True)]

    def _latents(self, level: str) -> Tensor:
        """All pictures in a level's space, [N, C, h, w] half: encoded once, kept by data and encoder."""
        at = f"{self.place.stage}:{level}"
        if at in self.latents:
            return self.latents[at]
        space = self.system.space(level)
        module = cast(nn.Module, space)
        name = hashlib.sha256(self.pictures.digest.encode())
        for key, value in sorted(module.state_dict().items()):
            name.update(key.encode() + value.numpy().tobytes())
        key = name.hexdigest()[:24]
        path = self.out / "cache" / f"latents-{key}.pt"
        if path.is_file():
            encoded = torch.load(path, weights_only=True, mmap=True)
        else:
            encoded = torch.cat(list(self._encoded(space)))
            path.parent.mkdir(exist_ok=True)
            part = path.with_suffix(".part")
            torch.save(encoded, part)
            part.replace(path)
        self.latents = {at: encoded}
        return encoded

    def _encoded(self, space: Any) -> Iterable[Tensor]:
        from rich.progress import track

        modes = space.training
        space.eval()
        title = say("编码图片", "encoding pictures")
        with torch.inference_mode():
            for first in track(range(0, len(self.pictures), ENCODE_BATCH), description=title):
                rows = list(range(first, min(len(self.pictures), first + ENCODE_BATCH)))
                yield space.encode(self.pictures.pixels(rows)).half().contiguous()
        space.train(modes)

    def _modes(self) -> None:
        """What learns whole is in training mode, everything else in evaluation mode: no dropout, no new statistics."""

        def visit(module: nn.Module, above: bool) -> None:
            parameters = list(module.parameters())
            module.training = all(p.requires_grad for p in parameters) if parameters else above
            for child in module.children():
                visit(child, module.training)

        visit(self.system, False)

    def _look(self, average: Average, learning: dict[str, nn.Parameter]) -> None:
        stage = self.recipe.stages[self.place.stage]
        if not self.recipe.prompts or stage.level != self.recipe.levels[-1].name:
            return  # the level that makes the picture has learnt nothing new
        modes = {name: module.training for name, module in self.system.named_modules()}
        average.swap(learning)
        self.system.eval()
        pictures = [draw(self.system, text, seed=7, steps=12)[0].image for text in self.recipe.prompts]
        sheet(pictures, self.recipe.prompts, self.out / "sheets" / f"{self.place.stage + 1}-{self.place.step:06d}.png")
        average.swap(learning)
        for name, module in self.system.named_modules():
            module.training = modes[name]

    def _words(self) -> None:
        """Vocabularies of towers that learn theirs from the captions: made once, then read."""
        for index, tower in enumerate(self.system.towers):
            folder = self.out / f"words.{index}"
            if not folder.is_dir():
                captions = (c for captions in self.pictures.captions for c in captions)
                tower.learn_words(captions, _known(self.pictures.folder))
                tower.save_words(folder)
            tower.load_words(folder)

    def _save(self, held: dict[str, Any]) -> None:
        empty: dict[str, Any] = {"optimiser": None, "average": {}, "extra": None}
        state = empty | held | {"system": self.system.state_dict(), "place": vars(self.place)}
        part = self.out / f"{STATE_FILE}.part"
        torch.save(state, part)
        part.replace(self.out / STATE_FILE)
        self.journal.flush()

    def _saved(self) -> dict[str, Any] | None:
        path = self.out / STATE_FILE
        return torch.load(path, weights_only=True) if path.is_file() else None

    def _same_run(self) -> None:
        path = self.out / RECIPE_FILE
        text = dumps(self.recipe)
        if path.is_file() and path.read_text(encoding="utf-8") != text:
            raise TrainingError(
                f"{self.out} 里是另一个配方的训练；换一个文件夹，或先删掉它",
                f"{self.out} holds the run of another recipe; take another folder, or delete it first",
            )
        write_whole(path, text.encode())

    def _broken(self, stage: Stage, lesson: Lesson) -> None:
        path = self.out / "broken-batch.pt"
        torch.save({"x": lesson.batch.x if lesson.batch else lesson.pixels}, path)
        raise TrainingError(
            f"阶段 {stage.name!r} 第 {self.place.step} 步的损失不是数；这一批存在 {path}，请降低 lr 后重试",
            f"the loss of stage {stage.name!r} is not a number at step {self.place.step}; "
            f"the batch lies in {path}; try again with a lower lr",
        )


def _mixed(*numbers: int) -> int:
    """One seed of several numbers."""
    text = ",".join(map(str, numbers)).encode()
    return int.from_bytes(hashlib.sha256(text).digest()[:7], "big")


def _vocabulary(pictures: Pictures) -> Vocabulary:
    values: dict[str, set[str]] = {}
    for row in pictures.labels:
        for label, value in row.items():
            if isinstance(value, (str, int)):
                values.setdefault(label, set()).add(str(value))
    return Vocabulary({label: tuple(sorted(found)) for label, found in sorted(values.items())})


def _known(folder: Path) -> list[str]:
    path = folder / "words.txt"
    return path.read_text(encoding="utf-8").splitlines() if path.is_file() else []


def _table(stage: Stage, learning: dict[str, nn.Parameter], place: Place) -> str:
    parts: dict[str, int] = {}
    for name, parameter in learning.items():
        head = ".".join(name.split(".")[:2])
        parts[head] = parts.get(head, 0) + parameter.numel()
    learns = ", ".join(f"{name} {count / 1e6:.2f} M" for name, count in parts.items())
    start = say(f"阶段 {place.stage + 1} {stage.name}", f"stage {place.stage + 1} {stage.name}")
    return say(
        f"{start}：学习 {learns}；{stage.steps} 步，每步 {stage.batch} 张，从第 {place.step} 步起",
        f"{start}: learns {learns}; {stage.steps} steps of {stage.batch}, from step {place.step}",
    )
