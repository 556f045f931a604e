"""The steps of `bimo finetune`: data, plan, recipe file, training, resulting file, pictures before and after."""

from __future__ import annotations

import hashlib
import json
import shlex
import shutil
import signal
import threading
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
import typer

from bimo.cli.finetune_options import captioner_of, usual_precision, wish_of
from bimo.core.errors import BimoError, TrainingError
from bimo.core.files import write_whole
from bimo.core.messages import say
from bimo.core.part import changed, dump, load
from bimo.core.recipe import Recipe, Stage
from bimo.data.loader import Pictures
from bimo.diffusion.system import System
from bimo.engine.adapters import Adapters
from bimo.engine.devices import device_of
from bimo.engine.engine import Engine
from bimo.engine.memory import QUANTISES, Keeping, bytes_of
from bimo.hub import registry
from bimo.hub.loading import load_with, steady
from bimo.hub.memory import LIBRARIES, free_on
from bimo.training.adapters.adapter import adapter_of
from bimo.training.finetune.captions import Captions
from bimo.training.finetune.memory import fitted, memory_ways
from bimo.training.finetune.planning import Pictured, Plan, planned
from bimo.training.finetune.probe import expected, probed
from bimo.training.finetune.recipe_file import NAME, RECIPE_FILE, source
from bimo.training.finetune.result import adapters_of, attached, collected, compare, drawn, written
from bimo.training.finetune.sources import Prepared, prepared, sources
from bimo.training.finetune.wish import Wish
from bimo.training.trainer import train

STATE_FILE = "finetune.json"
#: A setting as `--set` takes it.
EXAMPLE = "stages.0.lr=5e-6"
#: How many captions the planning rules look at.
CAPTIONS = 64
TITLES = {
    "lora": ("LoRA", "LoRA"),
    "full": ("full fine-tuning", "full fine-tuning"),
    "embedding": ("textual inversion", "textual inversion"),
    "controlnet": ("ControlNet", "ControlNet"),
}


def run_of(
    options: Mapping[str, Any],
    paths: Sequence[str],
    out: Path,
    *,
    memory: str,
    device: str,
    captioner: str | None,
    captioner_model: str,
) -> FinetuneRun:
    """The run for the options of the command line. Raises RequestError for missing or contradictory options."""
    wish = wish_of(options)
    place = device_of(device)
    precision = wish.precision or usual_precision(place)
    captions = Captions(
        word=str(options["class_word"]) or wish.prompt or wish.word,
        by=None if captioner is None else captioner_of(captioner, captioner_model, wish),
        cache=out / "data" / "captions.json",
    )
    budget = bytes_of(memory) if memory else None
    return FinetuneRun(replace(wish, precision=precision), tuple(paths), out, place, budget, captions)


@dataclass(frozen=True)
class FinetuneRun:
    """A fine-tuning run: the wish, the picture sources, the folder, the device, the memory limit, the captioner."""

    wish: Wish
    texts: tuple[str, ...]
    out: Path
    device: torch.device
    budget: int | None
    captions: Captions

    def plan(self, seed: int, threads: int | None, settings: Sequence[str]) -> None:
        """Prints the plan with estimates from a probe of a few steps; writes nothing."""
        torch.set_num_threads(threads or torch.get_num_threads())
        with _leaving_nothing(self.out, always=True):
            data = self._data()
            recipe, _ = self._planned(data, (), every_way=True)
            recipe = changed(recipe, settings, EXAMPLE)
            typer.echo(say("a few steps, to know what all take ..."), err=True)
            pictures = Pictures(*data.folders, repeats=data.repeats)
            probe = probed(recipe, pictures, self._start(recipe), self.device)
            for line in expected(recipe, probe):
                print(line)
            print(self._text(recipe, data))

    def train(
        self, seed: int, threads: int | None, settings: Sequence[str], *, from_here: bool, accept_new_data: bool
    ) -> None:
        """Starts or resumes the run, and writes the resulting file."""
        torch.set_num_threads(threads or torch.get_num_threads())
        before = {file: file.read_bytes() for file in self._files() if file.is_file()}
        with _leaving_nothing(self.out):
            data = self._data()
            recipe = self._recipe(data, tuple(settings))
        try:
            with _terminated() as stopping:
                train(
                    recipe,
                    data.folders,
                    self.out,
                    seed=seed,
                    threads=threads,
                    start=self._start(recipe),
                    device=str(self.device),
                    from_here=from_here,
                    accept_new_data=accept_new_data,
                    repeats=data.repeats,
                    stopping=stopping,
                )
        except BimoError:
            if before and registry.recipe(self.out) != recipe:  # restore the files of the resumed run
                for file, content in before.items():
                    write_whole(file, content)
            raise
        self._finish(recipe, data)

    def _start(self, recipe: Recipe) -> Iterator[System]:
        """Loads the base model on demand; in the stored dtype if a stage keeps its frozen weights so."""
        yield registry.load(self.wish.model, stored=recipe.holds)

    def _files(self) -> tuple[Path, Path]:
        """The recipe file, and the file with the options that it was planned from."""
        return self.out / RECIPE_FILE, self.out / STATE_FILE

    def _data(self) -> Prepared:
        data = prepared(sources(self.texts), self.out / "data", self.captions, lambda line: typer.echo(line, err=True))
        for line in self.captions.account(self.wish.prompt or self.wish.word):
            typer.echo(line, err=True)
        return data

    def _recipe(self, data: Prepared, settings: tuple[str, ...]) -> Recipe:
        """The recipe of the run: that of its file if the options are the same, else a new plan, which is written."""
        file, state = self.out / RECIPE_FILE, self._state()
        requested = {"wish": _plain(self.wish), "settings": list(settings)}
        if file.is_file() and state:
            edited = _digest(file) != state["written"]
            # Settings that a run's version did not know have their defaults.
            then = {"wish": _plain(replace(Wish(model=""), **state["wish"])), "settings": state["settings"]}
            same = then == requested
            if edited and not same:
                raise TrainingError(
                    "{file} was edited, and now other options are given: go on with what it says by the command that "
                    "stands in it, or begin in another folder",
                    file=file,
                )
            if same:
                if edited:
                    typer.echo(say("{file} was edited: what it says counts", file=file), err=True)
                return registry.recipe(f"{file}:{NAME}")
        recipe, stages = self._planned(data, cast("Sequence[Any]", load(state["stages"])) if state else ())
        recipe = changed(recipe, settings, EXAMPLE)
        write_whole(file, self._text(recipe, data).encode())
        assert registry.recipe(f"{file}:{NAME}") == recipe
        state_out = requested | {"stages": [dump(stage) for stage in stages], "written": _digest(file)}
        write_whole(self.out / STATE_FILE, json.dumps(state_out, ensure_ascii=False, indent=1).encode())
        return recipe

    def _state(self) -> dict[str, Any]:
        file = self.out / STATE_FILE
        if not file.is_file():
            return {}
        try:
            return json.loads(file.read_text(encoding="utf-8"))
        except ValueError:
            raise TrainingError("{file} is damaged; begin in another folder", file=file) from None

    def _planned(
        self, data: Prepared, before: Sequence[Stage], every_way: bool = False
    ) -> tuple[Recipe, Sequence[Stage]]:
        """Plans a recipe and prints each choice, with ``every_way`` also the memory of all ways to train; stages keep
        the batch sizes of the stages ``before`` of a resumed run.
        """
        pictures = Pictures(*data.folders, repeats=data.repeats)
        base, pictured = registry.recipe(self.wish.model), _pictured(pictures)
        free = self._free()
        typer.echo(say("loading {model} ...", model=self.wish.model), err=True)
        system = registry.load(self.wish.model, stored=True)
        for name, parameter in system.named_parameters():
            if ".denoiser." not in name:  # only the memory of denoisers is estimated; captions are really encoded
                parameter.data = parameter.data.float()
        parameters = [sum(p.numel() for p in system.level(each.name).denoiser.parameters()) for each in base.levels]
        plan = planned(self.wish, base, pictured, parameters or [0])
        kept = [stage.name for stage in before] == [stage.name for stage in plan.stages] and not self.wish.batch
        self._tell(replace(plan, choices=tuple(c for c in plan.choices if not kept or c[0] != "batch")), pictured)
        if kept:
            stages = tuple(_as_before(stage, old) for stage, old in zip(plan.stages, before, strict=True))
        else:
            caption = max(pictured.captions, key=len, default="")
            besides = None if self.budget is None else self._libraries
            fitting = fitted(system, plan.stages, caption, free, self.device.type != "cpu", besides)
            stages = fitting.stages
            if fitting.counted:
                print(say("memory: about {total:.2f} GB", total=fitting.total / 1e9))
            for line in memory_ways(fitting) if every_way else ():
                print(line)
        for stage in stages:
            print(_line(stage))
        return replace(base, prompts=plan.prompts, stages=stages), stages

    @property
    def _libraries(self) -> int:
        """The bytes of libraries in the budget: on a CPU they need memory from the same."""
        return LIBRARIES if self.device.type == "cpu" else 0

    def _free(self) -> int | None:
        free = free_on(self.device)
        if self.budget is None:
            return free
        budget = self.budget - self._libraries
        return budget if free is None else min(budget, free)

    def _tell(self, plan: Plan, pictured: Pictured) -> None:
        if len(pictured.sizes) == 1:
            typer.echo(
                say("there is one picture: it will be learnt by heart; five to twenty that differ are better"), err=True
            )
        size = plan.stages[-1].size or (0, 0)
        small = sum(min(own) * 2 <= min(size) for own in pictured.sizes)
        if small:
            typer.echo(
                say(
                    "{small} pictures have less than half of {size} a side and are enlarged",
                    small=small,
                    size=min(size),
                ),
                err=True,
            )
        for what, value, why in plan.choices:
            print(say("{what}: {value} ({why})", what=what, value=value, why=why))

    def _text(self, recipe: Recipe, data: Prepared) -> str:
        """The text of the recipe file."""
        data_arguments = [
            f"{folder}*{times}" if times > 1 else str(folder)
            for folder, times in zip(data.folders, data.repeats, strict=True)
        ]
        words = [
            "bimo",
            "train",
            f"{self.out / RECIPE_FILE}:{NAME}",
            *(w for d in data_arguments for w in ("--data", d)),
        ]
        words += ["--out", str(self.out), "--start", self.wish.model]
        kind = "DreamBooth" if self.wish.prompt else TITLES[self.wish.way][0]
        name = Path(self.wish.model).name
        return source(self.wish.model, recipe.stages, recipe.prompts, f"{name}: {kind}.", shlex.join(words))

    def _finish(self, recipe: Recipe, data: Prepared) -> None:
        """Writes the trained weights as one file, loads it and compares; draws a sheet of before and after."""
        if not (self.out / "weights.safetensors").is_file():
            typer.echo(say("stopped; what was learnt is kept, and the same command goes on"), err=True)
            raise typer.Exit(128 + signal.SIGTERM)
        captions = (text for own in Pictures(*data.folders).captions for text in own)
        file = collected(self.out, recipe, captions)
        kinds = {each.kind for stage in recipe.stages if (each := adapter_of(stage)) is not None}
        prompts, wish = recipe.prompts, self.wish
        base = registry.load(wish.model, stored=recipe.holds)
        if "control" in kinds:
            attached(base, self.out, "control")
            model, out = shlex.quote(wish.model), shlex.quote(str(self.out))
            print(
                say(
                    "learnt: bimo draw -m {model} --control {picture}={out} ...",
                    model=model,
                    picture="PICTURE",
                    out=out,
                )
            )
            return
        # Before training, the new word is replaced by the word that it was initialised from.
        prompts_before = [text.replace(wish.word, " ".join(wish.nouns)) if wish.word else text for text in prompts]
        before = drawn(self._engine(recipe, base, wish.model, Adapters()), prompts_before)
        model, adapters = self.out, Adapters()
        if kinds:
            model, adapters = wish.model, adapters_of(self.out, next(iter(kinds)))
            after = attached(base, self.out, next(iter(kinds)))
            if kinds == {"lora"}:
                compare(after, self.out)
        else:
            after = System.read(self.out)
        after_pictures = drawn(self._engine(recipe, after, model, adapters), prompts)
        sheet = written(before, after_pictures, prompts_before, prompts, self.out)
        print(say("before and after: {sheet}", sheet=sheet))
        option = {"lora": ["-m", wish.model, "--lora"], "tokens": ["-m", wish.model, "--embedding"]}
        words = ["bimo", "draw", *(option[next(iter(kinds))] if kinds else ["-m"]), str(self.out), prompts[0]]
        if file is not None:
            print(say("{file} is loaded back: it gives what was learnt", file=file))
        print(shlex.join(words))

    def _engine(self, recipe: Recipe, system: System, model: str | Path, adapters: Adapters) -> Engine:
        """An engine that draws with a system. On a GPU, or if frozen weights were quantised, the model is loaded again
        as it fits into memory.
        """
        memory = f"{self.budget}B" if self.budget else ""
        if self.device.type != "cpu":
            return load_with(model, adapters, device=str(self.device), memory=memory)
        if not recipe.holds:
            return steady(Engine(system.eval(), device=self.device))
        rounded: Any = next((stage.frozen for stage in recipe.stages if stage.frozen in QUANTISES), "none")
        return load_with(model, adapters, device="cpu", keeping=Keeping(quantise=rounded))


@contextmanager
def _terminated() -> Generator[Callable[[], bool]]:
    """Yields a function that tells whether SIGTERM was received; the signal does not end the process, so that the run
    can save its state after the step. Only the main thread can handle signals.
    """
    received = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield received.is_set
        return

    def on_signal(number: int, frame: object) -> None:
        received.set()

    before = signal.signal(signal.SIGTERM, on_signal)
    try:
        yield received.is_set
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _leaving_nothing(out: Path, always: bool = False) -> Generator[None]:
    """Removes the folder again if it was new and the start fails, or ``always``."""
    is_new = not out.exists() or not any(out.iterdir())
    keep = False
    try:
        yield
        keep = not always
    except BimoError:
        raise
    finally:
        if is_new and not keep:
            shutil.rmtree(out, ignore_errors=True)


def _pictured(pictures: Pictures) -> Pictured:
    captions: dict[str, None] = {}
    for own in pictures.captions:
        captions |= dict.fromkeys(text for text in own if text.strip())
        if len(captions) >= CAPTIONS:
            break
    return Pictured(len(pictures.groups), tuple(pictures.sizes), tuple(captions))


def _as_before(stage: Stage, old: Stage) -> Stage:
    """A stage with the settings that were chosen by free memory when the run was started."""
    chosen = ("batch", "accumulate", "gradient_checkpointing", "frozen", "offload", "fused_backward", "max_grad_norm")
    return replace(stage, **{name: getattr(old, name) for name in chosen})


def _line(stage: Stage) -> str:
    line = say(
        "stage {name!r}: {steps} steps of {batch} x {times}, rate {lr:g}, {precision}",
        name=stage.name,
        steps=stage.steps,
        batch=stage.batch,
        times=stage.accumulate,
        lr=stage.lr,
        precision=stage.precision,
    )
    line += say(", blocks worked out twice") if stage.gradient_checkpointing else ""
    line += say(", frozen weights as {kind}", kind=stage.frozen) if stage.frozen != "fp32" else ""
    line += say(", away while they wait ({offload})", offload=stage.offload) if stage.offload != "none" else ""
    line += say(", each step fused with the backward pass") if stage.fused_backward else ""
    line += say(", blocks compiled") if stage.compiled else ""
    line += say(", channels last") if stage.channels_last else ""
    return line + (say(", deterministic kernels alone") if stage.exact else "")


def _plain(wish: Wish) -> dict[str, Any]:
    """A wish as JSON has it."""
    return json.loads(json.dumps(asdict(wish)))


def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()
