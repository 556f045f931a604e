"""`bimo draw`: a prompt to PNG files, or a PNG drawn again from its own record."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bimo.cli import inputs
from bimo.cli.models import Dtype, names, numbers
from bimo.cli.terminal import print_json
from bimo.core.errors import RecipeError, RequestError
from bimo.core.messages import say
from bimo.core.output_path import OutputPath
from bimo.core.picture import Picture, read_metadata
from bimo.core.request import Request, checked
from bimo.core.tensors import DenoiserInput
from bimo.hub import memory, registry

if TYPE_CHECKING:
    from bimo.diffusion.system import System
    from bimo.engine.offload import Offloader

#: Systems of fewer gain nothing from a second thread.
SMALL_PARAMETERS = 50_000_000

EXAMPLES = say(
    'Examples:\n\n  bimo draw "a red apple, 3d style"\n\n  bimo draw "a bridge over a stream" --style '
    'ink -n 4 --seed 1 -o bridge.png\n\n  bimo draw "a cat" -m taiyi-sd-en --size 512x768 --steps '
    '30\n\n  bimo draw "a castle, (ink wash painting:1.5)"\n\n  bimo draw "in the snow" --image '
    'photo.png --strength 0.6\n\n  bimo draw --again "a red apple.png"'
)
HELP = say("Draw a sentence as a picture (PNG).")


def draw(
    prompt: Annotated[str | None, typer.Argument(help=say("what to draw"))] = None,
    model: Annotated[
        str | None,
        typer.Option(
            "-m",
            "--model",
            help=say("a model: name, folder or owner/name of Hugging Face; else BIMO_MODEL, else xiaomo"),
            autocompletion=names,
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            help=say("which PNG or folder; else named by the prompt"),
        ),
    ] = None,
    count: Annotated[int, typer.Option("-n", "--count", help=say("how many pictures"))] = 1,
    size: Annotated[str | None, typer.Option(help=say("WxH or one side, in pixels"))] = None,
    steps: Annotated[int | None, typer.Option(help=say("how many steps"))] = None,
    guidance: Annotated[float | None, typer.Option(help=say("how strictly the prompt is followed"))] = None,
    sampler: Annotated[str | None, typer.Option(help=inputs.SAMPLER_HELP)] = None,
    schedule: Annotated[str | None, typer.Option(help=inputs.SCHEDULE_HELP)] = None,
    spacing: Annotated[str | None, typer.Option(help=inputs.SPACING_HELP)] = None,
    eta: Annotated[float | None, typer.Option(help=inputs.ETA_HELP)] = None,
    guidance_rescale: Annotated[float | None, typer.Option(help=inputs.RESCALE_HELP)] = None,
    clip_skip: Annotated[int | None, typer.Option(help=inputs.CLIP_SKIP_HELP)] = None,
    seed: Annotated[int | None, typer.Option(help=say("same seed, same picture"))] = None,
    negative: Annotated[str | None, typer.Option(help=inputs.NEGATIVE_HELP)] = None,
    style: Annotated[str | None, typer.Option(help=say("a style, for instance ink"))] = None,
    image: Annotated[Path | None, typer.Option(help=inputs.IMAGE_HELP)] = None,
    mask: Annotated[Path | None, typer.Option(help=inputs.MASK_HELP)] = None,
    strength: Annotated[float | None, typer.Option(help=inputs.STRENGTH_HELP)] = None,
    hint: Annotated[list[str] | None, typer.Option(help=inputs.HINT_HELP)] = None,
    dial: Annotated[list[str] | None, typer.Option(help=inputs.DIAL_HELP)] = None,
    lora: Annotated[list[str] | None, typer.Option(help=inputs.LORA_HELP)] = None,
    embedding: Annotated[list[str] | None, typer.Option(help=inputs.EMBEDDING_HELP)] = None,
    control: Annotated[list[str] | None, typer.Option(help=inputs.CONTROL_HELP)] = None,
    ip_adapter: Annotated[list[str] | None, typer.Option(help=inputs.IP_ADAPTER_HELP)] = None,
    image_encoder: Annotated[Path | None, typer.Option(help=inputs.ENCODER_HELP)] = None,
    best: Annotated[Path | None, typer.Option(help=inputs.BEST_HELP)] = None,
    dtype: Annotated[Dtype, typer.Option(help=inputs.DTYPE_HELP)] = Dtype.fp32,
    offload: Annotated[bool, typer.Option("--offload", help=inputs.OFFLOAD_HELP)] = False,
    as_json: Annotated[bool, typer.Option("--json", help=say("print one JSON object"))] = False,
    again: Annotated[Path | None, typer.Option(help=say("draw a PNG again from its record"))] = None,
    opened: Annotated[bool, typer.Option("--open", help=say("open it when it is drawn"))] = False,
) -> None:
    """Draws, saves each picture as soon as it is done, and prints where it lies."""
    settings: dict[str, Any] = {
        "size": None if size is None else size_of(size),
        "steps": steps,
        "guidance": guidance,
        "sampler": sampler,
        "schedule": schedule,
        "spacing": spacing,
        "eta": eta,
        "guidance_rescale": guidance_rescale,
        "clip_skip": clip_skip,
        "seed": seed,
        "negative": negative,
        "style": style,
        "strength": strength,
        "dials": inputs.dials(dial) if dial else None,
    }
    given = {name: value for name, value in settings.items() if value is not None}
    beside = inputs.Adapters.given(lora or (), control or (), embedding or (), ip_adapter or (), image_encoder)
    seen = inputs.pictures(image, mask, hint or (), beside)
    choice = None if best is None else inputs.BestOfN(best, count)
    if again is not None:
        if prompt is not None or given or count != 1:
            raise RequestError(inputs.AGAIN_ALONE)
        record = read_metadata(again)
        record["request"] = inputs.recorded(record["request"], seen, again)
        request, name = checked(record["request"]), model or record["recipe"]
    else:
        request = checked({"text": prompt or "", "count": count} | given | seen)
        record, name = None, model or os.environ.get("BIMO_MODEL") or registry.DEFAULT_MODEL
    if request.style:
        from bimo.prompts.styles import style_named

        style_named(request.style)
    if request.size:
        memory.check(request.size, dtype)
    place = OutputPath(output, request.text)
    place.check()
    system = beside.put(_loaded(name, record is not None and model is None, request.size, dtype, offload))
    full = _filled(system, request, dtype)
    said: list[str] = []
    pictures, files = _drawn(_kept(system, dtype, offload), full, place, as_json, choice, said)
    warnings = list(dict.fromkeys(w for picture in pictures for w in picture.warnings))
    told: dict[str, Any] = {}
    if again is not None and record is not None:
        identical = again.read_bytes() == pictures[0].png()
        told["identical"] = identical
        warnings += _compared(again, identical, record["weights"], system.weights_hash)
    _note(warning for warning in warnings if warning not in said)
    if as_json:
        told |= {
            "files": [str(file) for file in files],
            "seeds": [picture.seed for picture in pictures],
            "seconds": [round(picture.seconds, 3) for picture in pictures],
            "warnings": warnings,
            "recipe": pictures[0].recipe,
            "weights": pictures[0].weights,
            "request": pictures[0].metadata()["request"],
        }
        print_json(told)
    if opened:
        for file in files:
            typer.launch(str(file))


def _steady(system: System) -> System:
    """A small system is drawn by one thread: no slower from the shell, and the same bytes by every process. With two,
    about one process in twenty was seen to differ in the last bit, which may turn a pixel by one of 255.
    """
    import torch

    if sum(parameter.numel() for parameter in system.parameters()) < SMALL_PARAMETERS:
        torch.set_num_threads(1)
    return system


def _loaded(name: str, recorded: bool, size: tuple[int, int] | None, dtype: Dtype, offload: bool) -> System:
    if said := memory.said(name, size, dtype, offload):
        typer.echo(said, err=True)
    with _shown(say("reading the model {name} ...", name=name)):
        try:
            return _steady(registry.load(name, stored=offload or dtype is not Dtype.fp32))
        except RecipeError as error:
            if not recorded:
                raise
            raise RecipeError(
                "{error}; the picture was drawn by {name}: name its folder with -m", error=error, name=name
            ) from None


def _filled(system: System, request: Request, dtype: Dtype) -> Request:
    """The request with all that it leaves open. Raises RequestError for one that does not fit into memory."""
    from bimo.diffusion.request_validation import fill_request

    if request.seed is None:
        request = request.model_copy(update={"seed": secrets.randbelow(2**32)})
    full = fill_request(system, request)
    memory.check(full.size or (0, 0), dtype)
    return full


def _kept(system: System, dtype: Dtype, offload: bool) -> Offloader:
    from bimo.engine.offload import Offloader

    return Offloader(system, numbers(dtype), offload=offload)


def _drawn(
    shelf: Offloader,
    request: Request,
    place: OutputPath,
    quiet: bool,
    choice: inputs.BestOfN | None,
    said: list[str],
) -> tuple[list[Picture], list[Path]]:
    from bimo.diffusion.batching import run_batched
    from bimo.diffusion.sampling import prepare, sample

    with shelf.text_encoders():
        prepared = prepare(shelf.system, request)
    # What is known of the words is said before minutes are spent on them.
    said += prepared.warnings
    _note(prepared.warnings)
    pictures: list[Picture] = []
    files: list[Path] = []
    with _bar(request.count) as progress:
        for index in range(request.count):

            def told(_: int, ask: DenoiserInput, index: int = index) -> None:
                shelf.on_step(ask)
                progress(index, ask.step, ask.steps)

            start = time.perf_counter()
            # One at a time: each is saved before the next is begun, and drawn alone it is the same to the byte.
            (picture,) = run_batched(shelf.system, [sample(shelf.system, prepared, index)], told)
            pictures.append(replace(picture, seconds=time.perf_counter() - start))
            if choice is None:
                files.append(place.write(pictures[-1].png()))
                if not quiet:
                    print(files[-1], flush=True)
    if choice is not None:
        pictures = [choice.of(pictures)]
        files = [place.write(pictures[0].png())]
        if not quiet:
            print(files[0], flush=True)
    return pictures, files


def _note(warnings: Iterable[str]) -> None:
    for warning in warnings:
        typer.secho(say("Note: {warning}", warning=warning), fg="yellow", err=True)


def _compared(file: Path, identical: bool, recorded: str, loaded: str) -> list[str]:
    if recorded != loaded:
        return [
            say(
                "{file} was drawn with other weights (recorded {recorded}..., now {loaded}...); the new picture "
                "differs",
                file=file,
                recorded=recorded[:12],
                loaded=loaded[:12],
            )
        ]
    if identical:
        return []
    return [
        say(
            "the new picture is not {file} to the byte; the processor, a library or --dtype may have changed", file=file
        )
    ]


def size_of(text: str) -> tuple[int, int]:
    """'512x768' or '512' -> (width, height). Raises RequestError."""
    found = re.fullmatch(r"\s*(\d{1,9})\s*(?:[xX×*]\s*(\d{1,9})\s*)?", text)
    if found is None:
        raise RequestError("--size is {text!r}; expected WxH (for instance 512x768) or one side (512)", text=text)
    return int(found[1]), int(found[2] or found[1])


@contextlib.contextmanager
def _shown(sentence: str) -> Iterator[None]:
    if not sys.stderr.isatty():
        yield
        return
    from rich.console import Console

    with Console(stderr=True).status(sentence):
        yield


@contextlib.contextmanager
def _bar(count: int) -> Iterator[Callable[[int, int, int], None]]:
    """A progress bar on standard error; nothing where that is not a terminal."""
    if not sys.stderr.isatty():
        yield lambda index, step, steps: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("", total=None)

        def told(index: int, step: int, steps: int) -> None:
            progress.update(
                task,
                description=say("picture {index} of {count}", index=index + 1, count=count),
                completed=step,
                total=steps,
            )

        yield told
