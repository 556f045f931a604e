"""`bimo draw`: draws a prompt as PNG files, or a picture again from its metadata."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from bimo.cli import draw_help, inputs, redrawing, series, words
from bimo.cli.draw_requests import Rewriting, of_picture, of_prompts, paths_of, plan_of
from bimo.cli.draw_run import Output, compared, filled, load_engine, note, summary
from bimo.cli.engine_options import takes_engine
from bimo.cli.inputs import InscribeMethod, Writing
from bimo.cli.models import names
from bimo.cli.networks import Networks
from bimo.cli.terminal import print_json
from bimo.core.credentials import credentials_of
from bimo.core.errors import RequestError
from bimo.core.label import label_of
from bimo.core.messages import Listed, say
from bimo.core.picture import Picture
from bimo.core.request import Request, checked
from bimo.engine.adapters import of_prompt
from bimo.hub import memory
from bimo.hub.options import DEFAULT, LoadOptions
from bimo.inscription import drawing
from bimo.prompts.a1111 import lora_tags
from bimo.serve.foreign import fitting

EXAMPLES = say(
    'Examples:\n\n  bimo draw "a red apple, 3d style"\n\n  bimo draw "a bridge over a stream" --style '
    'ink -n 4 --seed 1 -o bridge.png\n\n  bimo draw "a cat" -m taiyi-sd-en --size 512x768 --steps '
    '30\n\n  bimo draw "a castle, (ink wash painting:1.5)"\n\n  bimo draw "in the snow" --image '
    'photo.png --strength 0.6\n\n  bimo draw "a red lantern" --inscribe 福\n\n  bimo draw --again "a red apple.png"'
)


@takes_engine
def draw(
    context: typer.Context,
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
        str | None,  # not a Path, which drops the trailing slash that marks a folder
        typer.Option(
            "-o",
            "--output",
            help=say("which PNG, or which folder (out/ makes it); else named by the prompt"),
        ),
    ] = None,
    count: Annotated[int, typer.Option("-n", "--count", help=say("how many pictures"))] = 1,
    size: Annotated[str | None, typer.Option(help=say("WxH or one side, in pixels"))] = None,
    steps: Annotated[int | None, typer.Option(help=say("how many steps"))] = None,
    guidance: Annotated[float | None, typer.Option(help=say("how strictly the prompt is followed"))] = None,
    sampler: Annotated[str | None, typer.Option(help=draw_help.SAMPLER_HELP)] = None,
    schedule: Annotated[str | None, typer.Option(help=draw_help.SCHEDULE_HELP)] = None,
    spacing: Annotated[str | None, typer.Option(help=draw_help.SPACING_HELP)] = None,
    eta: Annotated[float | None, typer.Option(help=draw_help.ETA_HELP)] = None,
    guidance_rescale: Annotated[float | None, typer.Option(help=draw_help.RESCALE_HELP)] = None,
    clip_skip: Annotated[int | None, typer.Option(help=draw_help.CLIP_SKIP_HELP)] = None,
    seed: Annotated[int | None, typer.Option(help=say("same seed, same picture"))] = None,
    subseed: redrawing.Subseed = None,
    subseed_strength: redrawing.SubseedStrength = None,
    draft: redrawing.Draft = None,
    negative: Annotated[str | None, typer.Option(help=draw_help.NEGATIVE_HELP)] = None,
    style: Annotated[str | None, typer.Option(help=say("a style, for instance ink"))] = None,
    image: Annotated[list[Path] | None, typer.Option(help=draw_help.IMAGE_HELP)] = None,
    mask: Annotated[Path | None, typer.Option(help=draw_help.MASK_HELP)] = None,
    strength: Annotated[float | None, typer.Option(help=draw_help.STRENGTH_HELP)] = None,
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
    condition: Annotated[list[str] | None, typer.Option(help=draw_help.CONDITION_HELP)] = None,
    guidance_weight: Annotated[list[str] | None, typer.Option(help=draw_help.GUIDANCE_WEIGHT_HELP)] = None,
    lora: Annotated[list[str] | None, typer.Option(help=draw_help.LORA_HELP)] = None,
    embedding: Annotated[list[str] | None, typer.Option(help=draw_help.EMBEDDING_HELP)] = None,
    control: Annotated[list[str] | None, typer.Option(help=draw_help.CONTROL_HELP)] = None,
    ip_adapter: Annotated[list[str] | None, typer.Option(help=draw_help.IP_ADAPTER_HELP)] = None,
    image_encoder: Annotated[Path | None, typer.Option(help=draw_help.ENCODER_HELP)] = None,
    fast: Annotated[str | None, typer.Option(help=draw_help.FAST_HELP)] = None,
    guidance_interval: Annotated[str | None, typer.Option(help=draw_help.INTERVAL_HELP)] = None,
    guidance_every: Annotated[int | None, typer.Option(help=draw_help.EVERY_HELP)] = None,
    step_cache: Annotated[str | None, typer.Option(help=draw_help.STEP_CACHE_HELP)] = None,
    token_merging: Annotated[float | None, typer.Option(help=draw_help.MERGING_HELP)] = None,
    nag: Annotated[float | None, typer.Option(help=draw_help.NAG_HELP)] = None,
    tiny_decoder: Annotated[Path | None, typer.Option(help=draw_help.TINY_HELP)] = None,
    best: Annotated[Path | None, typer.Option(help=draw_help.BEST_HELP)] = None,
    load_options: LoadOptions = DEFAULT,
    as_json: Annotated[bool, typer.Option("--json", help=say("print one JSON object"))] = False,
    inscribe: Annotated[list[str] | None, typer.Option(help=draw_help.INSCRIBE_HELP)] = None,
    no_inscribe: Annotated[bool, typer.Option("--no-inscribe", help=draw_help.NO_INSCRIBE_HELP)] = False,
    writing: Annotated[Writing | None, typer.Option(help=draw_help.WRITING_HELP)] = None,
    font: Annotated[str | None, typer.Option(help=draw_help.FONT_HELP)] = None,
    inscribe_box: Annotated[str | None, typer.Option(help=draw_help.INSCRIBE_BOX_HELP)] = None,
    inscribe_at: redrawing.InscribeAt = None,
    inscribe_method: Annotated[InscribeMethod | None, typer.Option(help=draw_help.INSCRIBE_METHOD_HELP)] = None,
    again: Annotated[Path | None, typer.Option(help=say("draw a PNG again from its record"))] = None,
    anyway: Annotated[
        bool, typer.Option("--anyway", help=say("draw a prompt of which the model never learned a word, too"))
    ] = False,
    lora_folder: Annotated[Path | None, typer.Option(envvar="BIMO_LORAS", help=draw_help.LORA_FOLDER_HELP)] = None,
    long_prompt: Annotated[bool, typer.Option("--long-prompt", help=draw_help.LONG_PROMPT_HELP)] = False,
    explain: Annotated[bool, typer.Option("--explain", help=draw_help.EXPLAIN_HELP)] = False,
    prompts: Annotated[Path | None, typer.Option(help=draw_help.PROMPTS_HELP)] = None,
    wildcards: Annotated[Path | None, typer.Option(envvar="BIMO_WILDCARDS", help=draw_help.WILDCARDS_HELP)] = None,
    resume: Annotated[bool, typer.Option("--resume", help=draw_help.RESUME_HELP)] = False,
    expand: Annotated[bool, typer.Option("--expand", help=draw_help.EXPAND_HELP)] = False,
    translate: Annotated[bool, typer.Option("--translate", help=draw_help.TRANSLATE_HELP)] = False,
    language_model: Annotated[str | None, typer.Option(help=draw_help.LANGUAGE_MODEL_HELP)] = None,
    language_model_name: Annotated[str, typer.Option(help=draw_help.LANGUAGE_MODEL_NAME_HELP)] = "",
    poem: Annotated[str | None, typer.Option(help=draw_help.POEM_HELP)] = None,
    inscribe_verse: Annotated[bool, typer.Option("--inscribe-verse", help=draw_help.INSCRIBE_VERSE_HELP)] = False,
    parameters: Annotated[bool, typer.Option("--parameters", help=draw_help.PARAMETERS_HELP)] = False,
    x: Annotated[str | None, typer.Option("--x", help=draw_help.AXIS_HELP)] = None,
    y: Annotated[str | None, typer.Option("--y", help=draw_help.AXIS_HELP)] = None,
    z: Annotated[str | None, typer.Option("--z", help=draw_help.AXIS_HELP)] = None,
    label: Annotated[str | None, typer.Option(help=draw_help.LABEL_HELP)] = None,
    c2pa: Annotated[tuple[Path, Path] | None, typer.Option(metavar="CERT KEY", help=draw_help.C2PA_HELP)] = None,
    producer: Annotated[str | None, typer.Option(help=draw_help.PRODUCER_HELP)] = None,
    server: Annotated[str | None, typer.Option(envvar="BIMO_SERVER_URL", help=draw_help.SERVER_HELP)] = None,
    opened: Annotated[bool, typer.Option("--open", help=say("open it when it is drawn"))] = False,
) -> None:
    """Draws, saves each picture as soon as it is done, and prints its path."""
    if server:
        from bimo.cli.at_server import check_options

        check_options(context)
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
        "draft": draft,
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
    networks = Networks.of(control or (), ip_adapter or (), image_encoder, bool(server))
    read = inputs.content_of if server else inputs.image_in
    images = inputs.images(image or (), mask, condition or (), networks, read)
    if region_map is not None:
        images["region_map"] = read(region_map)
    if outpaint is not None:
        settings["outpaint"] = redrawing.border_of(outpaint, inputs.opened(images.get("image")))
    folder = None if output is None else Path(output)
    best_of = None if best is None else inputs.BestOfN(best, count)
    axes = [
        series.Axis.of(f"--{name}", text, prompt or "") for name, text in zip("xyz", (x, y, z), strict=True) if text
    ]
    several = prompts is not None or bool(axes) or resume or expand or translate or poem is not None
    if poem is not None and (prompt is not None or prompts is not None):
        raise RequestError("--poem and a prompt; give one of them")
    rewriting = Rewriting(poem, inscribe_verse, expand, translate, language_model, language_model_name)
    prompt, settings, notes = rewriting.applied(prompt, settings)
    if again is not None:
        if prompt is not None or settings or count != 1 or several:
            raise RequestError(inputs.AGAIN_ALONE)
        plan = of_picture(again, images, model)
    else:
        if resume:
            if folder is None or (folder.suffix and not str(output).endswith(("/", os.sep))):
                raise RequestError("--resume needs a folder to look in; name it with -o")
            folder.mkdir(parents=True, exist_ok=True)
        made = of_prompts(prompt, prompts, axes, settings, images, count, wildcards, resume)
        if server:
            from bimo.cli.at_server import ServerDrawing

            there = ServerDrawing.at(server, model, lora or (), networks, images)
            there.draw(_literal(made) if anyway else made, output, axes, notes, as_json=as_json, opened=opened)
            return
        plan = plan_of(made, model, adapted=any((lora, embedding, control, ip_adapter)))
    requests = _literal(plan.requests) if anyway else plan.requests
    if best_of is not None and len(requests) > 1:
        raise RequestError("--best chooses among the pictures of one prompt; leave it out, or the list or wildcards")
    if best_of is not None:
        best_of.check()
    _check(requests, load_options)
    wanted_label, credentials = label_of(label, producer), credentials_of(c2pa)
    paths = paths_of(requests, None if explain else output)
    tags = dict.fromkeys(tag for request in requests for tag in lora_tags(request.text)[1])
    adapters = networks.adapters(lora or (), embedding or ())
    adapters = replace(adapters, loras=(*adapters.loras, *of_prompt(list(tags), lora_folder)))
    engine = load_engine(
        plan.model,
        adapters,
        requests[0].size,
        load_options,
        of_record=plan.record is not None and model is None,
        fast=fast,
        tiny_decoder=tiny_decoder,
    )
    notes += plan.notes
    if plan.foreign is not None:
        fields, ignored = fitting(engine, plan.foreign.fields)
        requests = [checked(fields | images)]
        notes += ignored
        paths = {requests[0].text: paths[plan.foreign.fields["text"]]}
    if again is None and (warning := words.unread(engine.recipe, requests[0].text)):
        notes.append(warning)
    note(dict.fromkeys(notes))
    if explain:
        from bimo.cli.explain import show
        from bimo.diffusion.explanation import explained

        show(explained(engine.system, engine.fill(requests[0])), folder)
        return
    from bimo.diffusion.request_validation import heeds_empty

    existing = series.Drawn(folder) if resume and folder is not None else None
    saving = Output(as_json, best_of, wanted_label, credentials, parameters)
    pictures: list[Picture] = []
    files: list[Path] = []
    noted: set[str] = set()
    for request in requests:
        full = filled(engine, request)
        if existing is not None and existing.has(
            full.request, engine.recipe.name, engine.system.weights_hash, heeds_empty(engine.system)
        ):
            continue
        prepared = engine.prepare(full)
        # With a LoRA the vocabulary does not say what the model was trained on.
        if prepared.nothing_known and again is None and not image and not (anyway or engine.adapters):
            raise _unknown_words(prepared.nothing_known, request.text, engine.recipe.name)
        # Warnings about the prompt are shown before minutes are spent on drawing.
        note(warning for warning in prepared.warnings if warning not in noted)
        noted.update(prepared.warnings)
        drawn, written = saving.draw(engine, prepared, None if axes else paths[request.text])
        pictures += drawn
        files += written
    if not pictures:
        typer.echo(say("all {count} pictures lie there already", count=len(requests)), err=True)
        return
    if axes:
        from bimo.cli.sheet import sheet

        grid = sheet(pictures, axes, wanted_label)
        files.append(paths[requests[0].text].write(grid if credentials is None else credentials.signed(grid)))
        if not as_json:
            print(files[-1])
    warnings = list(dict.fromkeys(warning for picture in pictures for warning in picture.warnings))
    report: dict[str, Any] = {}
    if again is not None and plan.record is not None:
        report["identical"] = again.read_bytes() == pictures[0].png()
        warnings += compared(again, pictures[0], plan.record, engine.system.weights_hash)
    note(warning for warning in warnings if warning not in noted)
    if as_json:
        print_json(report | summary(pictures, files, warnings))
    if opened:
        for file in files:
            typer.launch(str(file))


def _literal(requests: Sequence[Request]) -> list[Request]:
    """The requests with their texts to be read as they stand."""
    return [request.model_copy(update={"drawn_text": request.text}) for request in requests]


def _check(requests: Sequence[Request], load_options: LoadOptions) -> None:
    """Raises RequestError for an unknown style, a size that memory cannot hold, or a missing font, before a model is
    loaded.
    """
    for request in requests:
        if request.style:
            from bimo.prompts.styles import style_named

            style_named(request.style)
        if request.size:
            memory.check(request.size, load_options.dtype, load_options.device, tiles=load_options.tiles)
        drawing.check(request)


def _unknown_words(sentence: str, text: str, recipe: str) -> RequestError:
    """The error for a prompt of which the model learned no word, with models that did."""
    from bimo.hub.editions import models_that_know

    if others := list(models_that_know(text, recipe)):
        return RequestError(
            "{sentence}; {others} learned words of it: -m {first}; or draw it all the same with --anyway",
            sentence=sentence,
            others=Listed(others),
            first=others[0],
        )
    return RequestError(
        "{sentence}; say it in other words, or draw it all the same with --anyway",
        sentence=sentence,
    )
