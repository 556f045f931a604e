"""Loads a model for `bimo draw`, draws a request, saves its pictures, and compares them with an earlier one."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from bimo.cli import collection, inputs
from bimo.core.credentials import Credentials
from bimo.core.errors import RecipeError
from bimo.core.label import Label
from bimo.core.messages import say
from bimo.core.output_path import OutputPath
from bimo.core.picture import Picture
from bimo.core.request import Request
from bimo.hub import memory
from bimo.hub.options import LoadOptions
from bimo.inscription import drawing

if TYPE_CHECKING:
    from bimo.diffusion.preparation import Prepared
    from bimo.diffusion.request_filling import FilledRequest
    from bimo.engine.adapters import Adapters
    from bimo.engine.engine import Engine


#: Called with (picture index, number of pictures, step, number of steps).
ShowStep = Callable[[int, int, int, int], None]


def load_engine(
    name: str,
    adapters: Adapters,
    size: tuple[int, int] | None,
    load_options: LoadOptions,
    *,
    of_record: bool,
    fast: str | None,
    tiny_decoder: Path | None,
) -> Engine:
    """Loads a model and reports what it takes. ``of_record`` says that the name is from a picture's metadata. Raises
    RecipeError, WeightsError, RequestError.
    """
    # With a memory limit the chosen combination is reported after loading instead.
    if not load_options.memory and (sentence := memory.plan_by_name(name, size, *load_options.estimated)):
        typer.echo(sentence, err=True)
    with _status(say("reading the model {name} ...", name=name)):
        from bimo.hub.loading import load_with, steady

        try:
            engine = load_with(
                name, adapters, size=size, **load_options.arguments(), fast=fast, tiny_decoder=tiny_decoder
            )
        except RecipeError as error:
            if not of_record:
                raise
            raise RecipeError(
                "{error}; the picture was drawn by {name}: name its folder with -m", error=error, name=name
            ) from None
    for sentence in engine.notices:
        typer.echo(sentence, err=True)
    collection.settled()
    return steady(engine)


def filled(engine: Engine, request: Request) -> FilledRequest:
    """Fills in all fields of a request. Raises RequestError if it does not fit into memory."""
    from bimo.diffusion.hires import size_of
    from bimo.diffusion.request_validation import picture_unit

    both = engine.fill(request)
    memory.check_engine(engine, size_of(both.request, picture_unit(engine.system)))
    return both


@dataclass(frozen=True)
class Output:
    """How pictures are saved: printing their paths unless ``quiet``, only the best of several, with a label, signed,
    with AUTOMATIC1111's ``parameters`` chunk.
    """

    quiet: bool
    best: inputs.BestOfN | None
    label: Label | None
    credentials: Credentials | None
    parameters: bool

    def draw(self, engine: Engine, prepared: Prepared, path: OutputPath | None) -> tuple[list[Picture], list[Path]]:
        """Draws a request and saves each picture before the next is begun, or only the best at the end. Without a path
        nothing is saved.
        """
        pictures: list[Picture] = []
        files: list[Path] = []

        def save(picture: Picture) -> None:
            if path is None:
                return
            chunks = None
            if self.parameters:
                from bimo.serve.infotext import CHUNK, infotext

                chunks = {CHUNK: infotext(picture.metadata(), picture.recipe, engine.lora_weights, picture.image.size)}
            files.append(path.write(picture.png(chunks, label=self.label, credentials=self.credentials)))
            made = files[-1:]
            if not path.stream:
                made += picture.layer_files(files[-1], self.label, self.credentials)
            files.extend(made[1:])
            if not self.quiet:
                for file in made:
                    print(file, flush=True)

        with progress_bar() as progress:
            for picture in drawing.stream(engine, prepared, progress=progress):
                pictures.append(picture)
                if self.best is None:
                    save(picture)
        if self.best is not None:
            pictures = [self.best.of(pictures)]
            save(pictures[0])
        return pictures, files


def summary(pictures: Sequence[Picture], files: Sequence[Path], warnings: Sequence[str]) -> dict[str, Any]:
    """The result of a command for --json."""
    report: dict[str, Any] = {
        "files": [str(file) for file in files],
        "seeds": [picture.seed for picture in pictures],
        "seconds": [round(picture.seconds, 3) for picture in pictures],
        "warnings": list(warnings),
        "recipe": pictures[0].recipe,
        "weights": pictures[0].weights,
        "request": pictures[0].metadata()["request"],
    }
    if certificates := [list(picture.certificates) for picture in pictures if picture.certificates]:
        report["certificates"] = certificates
    return report


def note(warnings: Iterable[str]) -> None:
    """Prints warnings to standard error."""
    for warning in warnings:
        typer.secho(say("Note: {warning}", warning=warning), fg="yellow", err=True)


def compared(file: Path, picture: Picture, record: Mapping[str, Any], weights_hash: str) -> list[str]:
    """A warning if a picture that was drawn again differs from its file. The pixels are compared, as other versions
    write the metadata differently.
    """
    from PIL import Image

    if record["weights"] != weights_hash:
        return [
            say(
                "{file} was drawn with other weights (recorded {recorded}..., now {loaded}...); the new picture "
                "differs",
                file=file,
                recorded=record["weights"][:12],
                loaded=weights_hash[:12],
            )
        ]
    with Image.open(file) as before:
        same = (
            before.size == picture.image.size
            and before.convert(picture.image.mode).tobytes() == picture.image.tobytes()
        )
    if same:
        return []
    return [
        say(
            "the new picture has not the pixels of {file}; the processor, a library or --dtype may have changed",
            file=file,
        )
    ]


@contextlib.contextmanager
def _status(sentence: str) -> Generator[None]:
    if not sys.stderr.isatty():
        yield
        return
    from rich.console import Console

    with Console(stderr=True).status(sentence):
        yield


@contextlib.contextmanager
def progress_bar() -> Generator[ShowStep]:
    """A progress bar on standard error, if that is a terminal."""
    if not sys.stderr.isatty():
        yield lambda index, count, step, steps: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("", total=None)

        def show(index: int, count: int, step: int, steps: int) -> None:
            progress.update(
                task,
                description=say("picture {index} of {count}", index=index + 1, count=count),
                completed=step,
                total=steps,
            )

        yield show
