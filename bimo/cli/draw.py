"""`bimo draw`: a prompt to PNG files, or a PNG drawn again from its own record."""

from __future__ import annotations

import contextlib
import os
import secrets
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bimo.cli import collection, inputs, redrawing, series, words
from bimo.cli.engine_options import takes_engine
from bimo.cli.inputs import InscribeMethod, Writing
from bimo.cli.models import names
from bimo.cli.terminal import print_json
from bimo.core.credentials import Credentials, credentials_of
from bimo.core.errors import RecipeError, RequestError
from bimo.core.label import Label, label_of
from bimo.core.messages import say
from bimo.core.output_path import OutputPath
from bimo.core.picture import Picture, read_metadata
from bimo.core.request import Request, checked
from bimo.engine.adapters import of_prompt
from bimo.hub import memory, registry
from bimo.hub.options import DEFAULT, LoadOptions
from bimo.inscription import drawing
from bimo.prompts.a1111 import lora_tags
from bimo.prompts.wildcards import Wildcards
from bimo.serve.foreign import Foreign, fitting, foreign

if TYPE_CHECKING:
    from bimo.diffusion.preparation import Prepared
    from bimo.engine.adapters import Adapters
    from bimo.engine.engine import Engine

EXAMPLES = say(
    'Examples:\n\n  bimo draw "a red apple, 3d style"\n\n  bimo draw "a bridge over a stream" --style '
    'ink -n 4 --seed 1 -o bridge.png\n\n  bimo draw "a cat" -m taiyi-sd-en --size 512x768 --steps '
    '30\n\n  bimo draw "a castle, (ink wash painting:1.5)"\n\n  bimo draw "in the snow" --image '
    'photo.png --strength 0.6\n\n  bimo draw "a red lantern" --inscribe 福\n\n  bimo draw --again "a red apple.png"'
)


@takes_engine
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
    subseed: redrawing.Subseed = None,
    subseed_strength: redrawing.SubseedStrength = None,
    negative: Annotated[str | None, typer.Option(help=inputs.NEGATIVE_HELP)] = None,
    style: Annotated[str | None, typer.Option(help=say("a style, for instance ink"))] = None,
    image: Annotated[list[Path] | None, typer.Option(help=inputs.IMAGE_HELP)] = None,
    mask: Annotated[Path | None, typer.Option(help=inputs.MASK_HELP)] = None,
    strength: Annotated[float | None, typer.Option(help=inputs.STRENGTH_HELP)] = None,
    outpaint: redrawing.Outpaint = None,
    feather: redrawing.Feather = None,
    region: redrawing.Regions = None,
    region_map: redrawing.RegionMap = None,
    base_ratio: redrawing.BaseRatio = None,
    hires: redrawing.Hires = None,
    hires_strength: redrawing.HiresStrength = None,
    hires_steps: redrawing.HiresSteps = None,
    hires_upscaler: redrawing.HiresUpscaler = None,
    tile_size: redrawing.TileSize = None,
    tile_overlap: redrawing.TileOverlap = None,
    seamless: redrawing.Seamless = None,
    condition: Annotated[list[str] | None, typer.Option(help=inputs.CONDITION_HELP)] = None,
    guidance_weight: Annotated[list[str] | None, typer.Option(help=inputs.GUIDANCE_WEIGHT_HELP)] = None,
    lora: Annotated[list[str] | None, typer.Option(help=inputs.LORA_HELP)] = None,
    embedding: Annotated[list[str] | None, typer.Option(help=inputs.EMBEDDING_HELP)] = None,
    control: Annotated[list[str] | None, typer.Option(help=inputs.CONTROL_HELP)] = None,
    ip_adapter: Annotated[list[str] | None, typer.Option(help=inputs.IP_ADAPTER_HELP)] = None,
    image_encoder: Annotated[Path | None, typer.Option(help=inputs.ENCODER_HELP)] = None,
    fast: Annotated[str | None, typer.Option(help=inputs.FAST_HELP)] = None,
    guidance_interval: Annotated[str | None, typer.Option(help=inputs.INTERVAL_HELP)] = None,
    guidance_every: Annotated[int | None, typer.Option(help=inputs.EVERY_HELP)] = None,
    step_cache: Annotated[str | None, typer.Option(help=inputs.STEP_CACHE_HELP)] = None,
    token_merging: Annotated[float | None, typer.Option(help=inputs.MERGING_HELP)] = None,
    nag: Annotated[float | None, typer.Option(help=inputs.NAG_HELP)] = None,
    tiny_decoder: Annotated[Path | None, typer.Option(help=inputs.TINY_HELP)] = None,
    best: Annotated[Path | None, typer.Option(help=inputs.BEST_HELP)] = None,
    how: LoadOptions = DEFAULT,
    as_json: Annotated[bool, typer.Option("--json", help=say("print one JSON object"))] = False,
    inscribe: Annotated[list[str] | None, typer.Option(help=inputs.INSCRIBE_HELP)] = None,
    no_inscribe: Annotated[bool, typer.Option("--no-inscribe", help=inputs.NO_INSCRIBE_HELP)] = False,
    writing: Annotated[Writing | None, typer.Option(help=inputs.WRITING_HELP)] = None,
    font: Annotated[str | None, typer.Option(help=inputs.FONT_HELP)] = None,
    inscribe_box: Annotated[str | None, typer.Option(help=inputs.INSCRIBE_BOX_HELP)] = None,
    inscribe_at: redrawing.InscribeAt = None,
    inscribe_method: Annotated[InscribeMethod | None, typer.Option(help=inputs.INSCRIBE_METHOD_HELP)] = None,
    again: Annotated[Path | None, typer.Option(help=say("draw a PNG again from its record"))] = None,
    anyway: Annotated[
        bool, typer.Option("--anyway", help=say("draw a prompt of which the model never learned a word, too"))
    ] = False,
    lora_folder: Annotated[Path | None, typer.Option(envvar="BIMO_LORAS", help=inputs.LORA_FOLDER_HELP)] = None,
    long_prompt: Annotated[bool, typer.Option("--long-prompt", help=inputs.LONG_PROMPT_HELP)] = False,
    explain: Annotated[bool, typer.Option("--explain", help=inputs.EXPLAIN_HELP)] = False,
    prompts: Annotated[Path | None, typer.Option(help=inputs.PROMPTS_HELP)] = None,
    wildcards: Annotated[Path | None, typer.Option(envvar="BIMO_WILDCARDS", help=inputs.WILDCARDS_HELP)] = None,
    resume: Annotated[bool, typer.Option("--resume", help=inputs.RESUME_HELP)] = False,
    expand: Annotated[bool, typer.Option("--expand", help=inputs.EXPAND_HELP)] = False,
    translate: Annotated[bool, typer.Option("--translate", help=inputs.TRANSLATE_HELP)] = False,
    language_model: Annotated[str | None, typer.Option(help=inputs.LANGUAGE_MODEL_HELP)] = None,
    language_model_name: Annotated[str, typer.Option(help=inputs.LANGUAGE_MODEL_NAME_HELP)] = "",
    poem: Annotated[str | None, typer.Option(help=inputs.POEM_HELP)] = None,
    inscribe_verse: Annotated[bool, typer.Option("--inscribe-verse", help=inputs.INSCRIBE_VERSE_HELP)] = False,
    parameters: Annotated[bool, typer.Option("--parameters", help=inputs.PARAMETERS_HELP)] = False,
    x: Annotated[str | None, typer.Option("--x", help=inputs.AXIS_HELP)] = None,
    y: Annotated[str | None, typer.Option("--y", help=inputs.AXIS_HELP)] = None,
    z: Annotated[str | None, typer.Option("--z", help=inputs.AXIS_HELP)] = None,
    label: Annotated[str | None, typer.Option(help=inputs.LABEL_HELP)] = None,
    c2pa: Annotated[tuple[Path, Path] | None, typer.Option(metavar="CERT KEY", help=inputs.C2PA_HELP)] = None,
    producer: Annotated[str | None, typer.Option(help=inputs.PRODUCER_HELP)] = None,
    opened: Annotated[bool, typer.Option("--open", help=say("open it when it is drawn"))] = False,
) -> None:
    """Draws, saves each picture as soon as it is done, and prints where it lies."""
    settings: dict[str, Any] = {
        "size": None if size is None else inputs.size_of(size),
        "steps": steps,
        "guidance": guidance,
        "sampler": sampler,
        "schedule": schedule,
        "spacing": spacing,
        "eta": eta,
        "guidance_rescale": guidance_rescale,
        "clip_skip": clip_skip,
        "seed": seed,
        "subseed": subseed,
        "subseed_strength": subseed_strength,
        "feather": feather,
        "inscribe_at": inscribe_at and inscribe_at.value,
        "regions": [redrawing.region_of(text) for text in region] if region else None,
        "base_ratio": base_ratio,
        "hires": hires,
        "hires_strength": hires_strength,
        "hires_steps": hires_steps,
        "hires_upscaler": hires_upscaler and hires_upscaler.value,
        "tile_size": tile_size,
        "tile_overlap": tile_overlap,
        "seamless": seamless and seamless.value,
        "negative": negative,
        "style": style,
        "strength": strength,
        "guidance_interval": None if guidance_interval is None else inputs.interval(guidance_interval),
        "guidance_every": guidance_every,
        "step_cache": step_cache,
        "token_merging": token_merging,
        "nag": nag,
        "tiny_decoder": True if tiny_decoder is not None and again is None else None,
        "guidance_weights": inputs.guidance_weights(guidance_weight) if guidance_weight else None,
        "long_prompt": "chunks" if long_prompt else None,
    } | inputs.inscription(inscribe, no_inscribe, writing, font, inscribe_box, inscribe_method)
    settings = {name: value for name, value in settings.items() if value is not None}
    networks = inputs.Networks.of(control or (), ip_adapter or (), image_encoder)
    images = inputs.images(image or (), mask, condition or (), networks)
    if region_map is not None:
        images["region_map"] = inputs.image_in(region_map)
    if outpaint is not None:
        settings["outpaint"] = redrawing.border_of(outpaint, images.get("image"))
    adapters = networks.adapters(lora or (), embedding or ())
    choice = None if best is None else inputs.BestOfN(best, count)
    axes = [
        series.Axis.of(f"--{name}", text, prompt or "") for name, text in zip("xyz", (x, y, z), strict=True) if text
    ]
    several = prompts is not None or bool(axes) or resume or expand or translate or poem is not None
    said: list[str] = []
    theirs: Foreign | None = None
    if poem is not None:
        if prompt is not None or prompts is not None:
            raise RequestError("--poem and a prompt; give one of them")
        fields, said = words.poem_fields(poem, settings, inscribe_verse)
        settings |= fields
        prompt = str(settings.pop("text"))
    elif inscribe_verse:
        raise RequestError("--inscribe-verse needs --poem; to write other words use --inscribe")
    if (expand or translate) and prompt:
        ask = None if language_model is None else words.language_model(language_model, language_model_name)
        made = [function for function, on in ((words.expansion, expand), (words.translation, translate)) if on]
        for function in made:
            fields, told = function(prompt, ask)
            prompt = str(fields.pop("text"))
            settings = fields | settings  # what was written first is the original
            said += told
    if again is not None:
        if prompt is not None or settings or count != 1 or several:
            raise RequestError(inputs.AGAIN_ALONE)
        theirs = foreign(again)
        if theirs is not None:
            record, name = None, model or os.environ.get("BIMO_MODEL") or registry.DEFAULT_MODEL
            said += theirs.notes()
            wanted = [checked({"text": theirs.fields["text"]} | images)]
        else:
            record = read_metadata(again)
            record["request"] = inputs.recorded(record["request"], images, again)
            wanted, name = [checked(record["request"])], model or record["recipe"]
    else:
        record, name = None, model or os.environ.get("BIMO_MODEL") or registry.DEFAULT_MODEL
        if resume and (output is None or output.suffix):
            raise RequestError("--resume needs a folder to look in; name it with -o")
        if resume:
            output.mkdir(parents=True, exist_ok=True)  # pyright: ignore[reportOptionalMemberAccess]
        if prompts is not None and prompt is not None:
            raise RequestError("a prompt and --prompts; give one of them")
        fields = settings | images | ({} if prompts is not None else {"text": prompt or ""})
        first = 0 if resume else secrets.randbelow(2**32)
        lists = Wildcards(wildcards)
        if axes:
            fields = checked({"seed": first, **fields, "count": count}).model_dump(exclude_unset=True) | images
            table = [cell for _, cell in series.cells(fields, axes)]
            wanted = series.requests({}, table, 1, lists, True, first)
        else:
            table = [] if prompts is None else series.rows(prompts)
            wanted = series.requests(fields, table, count, lists, resume, first)
    if choice is not None and len(wanted) > 1:
        raise RequestError("--best chooses among the pictures of one prompt; leave it out, or the list or wildcards")
    for request in wanted:
        if request.style:
            from bimo.prompts.styles import style_named

            style_named(request.style)
        if request.size:
            memory.check(request.size, how.dtype, how.device, tiles=how.tiles)
        # Fonts are looked for before a model is read.
        drawing.check(request)
    wanted_label, credentials = label_of(label, producer), credentials_of(c2pa)
    places = {request.text: OutputPath(None if explain else output, request.text) for request in wanted}
    for place in places.values():
        place.check()
    if output is not None and places[wanted[0].text].named:
        places = dict.fromkeys(places, places[wanted[0].text])  # one name, counted on
    tags = dict.fromkeys(tag for request in wanted for tag in lora_tags(request.text)[1])
    adapters = replace(adapters, loras=(*adapters.loras, *of_prompt(list(tags), lora_folder)))
    given: dict[str, Any] = {"fast": fast, "tiny_decoder": tiny_decoder}
    engine = _loaded(name, record is not None and model is None, wanted[0].size, adapters, how, given)
    if theirs is not None:
        fields, left = fitting(engine, theirs.fields)
        wanted = [checked(fields | images)]
        said += left
        places = {wanted[0].text: places[theirs.fields["text"]]}
    said += filter(None, (words.unread(engine.recipe, request.text) for request in wanted[:1] if again is None))
    note(dict.fromkeys(said))
    if explain:
        from bimo.cli.explain import told
        from bimo.diffusion.explanation import explained

        told(explained(engine.system, engine.completed(wanted[0])), output)
        return
    from bimo.diffusion.request_validation import heeds_empty

    lying = series.Drawn(output) if resume and output is not None else None
    pictures: list[Picture] = []
    files: list[Path] = []
    noted: set[str] = set()
    for request in wanted:
        full = filled(engine, request)
        if lying is not None and lying.has(
            full, engine.recipe.name, engine.system.weights_hash, heeds_empty(engine.system)
        ):
            continue
        prepared = engine.prepare(full)
        # What a LoRA was taught no vocabulary knows of.
        if prepared.nothing_known and again is None and not image and not (anyway or engine.adapters):
            raise RequestError(
                "{sentence}; say it in other words, or draw it all the same with --anyway",
                sentence=prepared.nothing_known,
            )
        # What is known of the prompt is said before minutes are spent on it.
        note(warning for warning in prepared.warnings if warning not in noted)
        noted.update(prepared.warnings)
        place = None if axes else places[request.text]
        more, written = _drawn(engine, prepared, place, as_json, choice, wanted_label, credentials, parameters)
        pictures += more
        files += written
    if not pictures:
        typer.echo(say("all {count} pictures lie there already", count=len(wanted)), err=True)
        return
    if axes:
        from bimo.cli.sheet import sheet

        drawn_sheet = sheet(pictures, axes, wanted_label)
        drawn_sheet = drawn_sheet if credentials is None else credentials.signed(drawn_sheet)
        files.append(places[wanted[0].text].write(drawn_sheet))
        if not as_json:
            print(files[-1])
    warnings = list(dict.fromkeys(warning for picture in pictures for warning in picture.warnings))
    report: dict[str, Any] = {}
    if again is not None and record is not None:
        report["identical"] = again.read_bytes() == pictures[0].png()
        warnings += _compared(again, _has_pixels_of(again, pictures[0]), record["weights"], engine.system.weights_hash)
    note(warning for warning in warnings if warning not in noted)
    if as_json:
        report |= {
            "files": [str(file) for file in files],
            "seeds": [picture.seed for picture in pictures],
            "seconds": [round(picture.seconds, 3) for picture in pictures],
            "warnings": warnings,
            "recipe": pictures[0].recipe,
            "weights": pictures[0].weights,
            "request": pictures[0].metadata()["request"],
        }
        if certificates := [list(picture.certificates) for picture in pictures if picture.certificates]:
            report["certificates"] = certificates
        print_json(report)
    if opened:
        for file in files:
            typer.launch(str(file))


def _loaded(
    name: str,
    recorded: bool,
    size: tuple[int, int] | None,
    adapters: Adapters,
    how: LoadOptions,
    given: Mapping[str, Any],
) -> Engine:
    # Where a limit is given the way that fits is said once the model is known.
    if not how.memory and (sentence := memory.said(name, size, how.device, how.keeping)):
        typer.echo(sentence, err=True)
    with _shown(say("reading the model {name} ...", name=name)):
        from bimo.hub.loading import load_with, steady

        try:
            engine = load_with(name, adapters, size=size, **how.arguments(), **given)
        except RecipeError as error:
            if not recorded:
                raise
            raise RecipeError(
                "{error}; the picture was drawn by {name}: name its folder with -m", error=error, name=name
            ) from None
    for sentence in engine.told:
        typer.echo(sentence, err=True)
    collection.settled()
    return steady(engine)


def filled(engine: Engine, request: Request) -> Request:
    """The request with all that it leaves open. Raises RequestError for one that does not fit into memory."""
    from bimo.diffusion.hires import size_of
    from bimo.diffusion.request_validation import fill_request, picture_unit

    if request.seed is None:
        request = request.model_copy(update={"seed": secrets.randbelow(2**32)})
    full = fill_request(engine.system, engine.completed(request))
    memory.check_engine(engine, size_of(full, picture_unit(engine.system)))
    return full


def _drawn(
    engine: Engine,
    prepared: Prepared,
    place: OutputPath | None,
    quiet: bool,
    choice: inputs.BestOfN | None,
    label: Label | None,
    credentials: Credentials | None,
    parameters: bool,
) -> tuple[list[Picture], list[Path]]:
    """The pictures and their files: each is saved before the next is begun, or the best of them alone; none without a
    place.
    """
    pictures: list[Picture] = []
    files: list[Path] = []

    def save(picture: Picture) -> None:
        if place is None:
            return
        texts = None
        if parameters:
            from bimo.serve.infotext import CHUNK, infotext

            texts = {CHUNK: infotext(picture.metadata(), picture.recipe, engine.adapters, picture.image.size)}
        files.append(place.write(picture.png(texts, label=label, credentials=credentials)))
        if not quiet:
            print(files[-1], flush=True)

    with _bar() as progress:
        for picture in drawing.stream(engine, prepared, progress=progress):
            pictures.append(picture)
            if choice is None:
                save(picture)
    if choice is not None:
        pictures = [choice.of(pictures)]
        save(pictures[0])
    return pictures, files


def note(warnings: Iterable[str]) -> None:
    """Says warnings on standard error."""
    for warning in warnings:
        typer.secho(say("Note: {warning}", warning=warning), fg="yellow", err=True)


def _has_pixels_of(file: Path, picture: Picture) -> bool:
    """Whether a picture is that of a file: another version writes the record otherwise, and the same picture."""
    from PIL import Image

    with Image.open(file) as before:
        return before.size == picture.image.size and before.convert("RGB").tobytes() == picture.image.tobytes()


def _compared(file: Path, same: bool, recorded: str, loaded: str) -> list[str]:
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
    if same:
        return []
    return [
        say(
            "the new picture has not the pixels of {file}; the processor, a library or --dtype may have changed",
            file=file,
        )
    ]


@contextlib.contextmanager
def _shown(sentence: str) -> Iterator[None]:
    if not sys.stderr.isatty():
        yield
        return
    from rich.console import Console

    with Console(stderr=True).status(sentence):
        yield


@contextlib.contextmanager
def _bar() -> Iterator[Callable[[int, int, int, int], None]]:
    """A progress bar on standard error; nothing where that is not a terminal."""
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
