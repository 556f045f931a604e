"""`bimo eval`: draws models on a prompt suite, measures and compares them; rates models by votes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bimo.cli import inputs
from bimo.cli.engine_options import takes_engine
from bimo.core.errors import RequestError
from bimo.core.messages import Listed, Message, say
from bimo.hub.options import DEFAULT, LoadOptions

if TYPE_CHECKING:
    from bimo.engine.engine import Engine
    from bimo.evaluation.protocol import Preset
    from bimo.evaluation.suite_run import Entrant, Plan
    from bimo.evaluation.suites.suite import Suite

EXAMPLES = say(
    "Suites: chinese (300 prompts, in the package); NAME:FILE for a published one that you have; a file of prompts; "
    "xiaomo, the bundled model's own questions, with --data.\n\nExamples:\n\n  bimo eval xiaomo --limit 3 --out report/"
    "\n\n  bimo eval kolors ./mine --suite chinese --clip-zh ./chinese-clip --seeds 1-4 --out report/\n\n  bimo eval "
    "kolors --suite longtext-zh:text_prompts_zh.jsonl --out report/\n\n  bimo eval --pictures api/ --out report/\n\n  "
    "bimo eval --votes preferences/choices.jsonl"
)
#: The default suites: with --data the bundled model's own questions.
CHINESE, XIAOMO = "chinese", "xiaomo"
MOST_SEEDS = 1000


@takes_engine
def evaluate(
    models: Annotated[list[str] | None, typer.Argument(help=say("models, by name or folder, put side by side"))] = None,
    out: Annotated[Path | None, typer.Option(help=say("the folder of the report"))] = None,
    suite: Annotated[
        str | None, typer.Option(help=say("chinese, NAME:FILE of a published suite, a file of prompts, or xiaomo"))
    ] = None,
    data: Annotated[Path | None, typer.Option(help=say("the folder of the test data, for the suite xiaomo"))] = None,
    groups: Annotated[list[str] | None, typer.Option("--group", help=say("only this group; may be repeated"))] = None,
    english: Annotated[bool, typer.Option(help=say("draw the English of each prompt as well"))] = True,
    limit: Annotated[int | None, typer.Option(min=1, help=say("at most so many questions a group"))] = None,
    seeds: Annotated[str, typer.Option(help=say("the seeds of each prompt: 1, or 1,2,3, or 1-4"))] = "1",
    steps: Annotated[int | None, typer.Option(min=1, help=say("how many steps, else the model's own"))] = None,
    guidance: Annotated[float | None, typer.Option(min=0, help=say("the guidance, else the model's own"))] = None,
    sampler: Annotated[str | None, typer.Option(help=say("the sampler, else the model's own"))] = None,
    size: Annotated[str | None, typer.Option(help=say("size of pictures, else the model's own: WIDTHxHEIGHT"))] = None,
    protocol: Annotated[
        str | None,
        typer.Option(help=say("a published way to measure: altdiffusion-coco-zh, viscpm-30k, coco-cn, oneig-zh-text")),
    ] = None,
    batch: Annotated[int, typer.Option(min=1, max=1024, help=say("pictures drawn together"))] = 8,
    pictures: Annotated[
        list[Path] | None,
        typer.Option(help=say("a folder of pictures that something else drew, named after the prompts' keys")),
    ] = None,
    clip_zh: Annotated[str | None, typer.Option(help=say("a CLIP that reads Chinese: its name or folder"))] = None,
    clip_en: Annotated[str | None, typer.Option(help=say("a CLIP that reads English: its name or folder"))] = None,
    endpoint: Annotated[
        str | None, typer.Option(help=say("a vision model to answer the questions: http://host/v1#MODEL"))
    ] = None,
    key: Annotated[str, typer.Option(help=say("the environment variable that holds the endpoint's key"))] = "",
    text: Annotated[bool, typer.Option("--text/--no-text", help=say("read the text in pictures"))] = True,
    strokes: Annotated[bool, typer.Option("--strokes", help=say("judge the strokes of each character, too"))] = False,
    real: Annotated[Path | None, typer.Option(help=say("a folder of real pictures, for FID, KID and others"))] = None,
    inception: Annotated[Path | None, typer.Option(help=say("the file of Inception weights for them"))] = None,
    resize: Annotated[
        str | None, typer.Option(help=say("by whose resize: torch-fidelity, pytorch-fid, clean-fid, torchmetrics"))
    ] = None,
    nsfw: Annotated[bool, typer.Option("--nsfw", help=say("measure what is not safe for work, too"))] = False,
    aesthetic: Annotated[
        str | None, typer.Option(help=say("a head over a CLIP's picture vectors that scores beauty: HEAD#CLIP"))
    ] = None,
    classifier: Annotated[
        list[str] | None,
        typer.Option(help=say("a classifier's folder and a label, as of watermarks: FOLDER#LABEL; may be repeated")),
    ] = None,
    known: Annotated[Path | None, typer.Option(help=say("training pictures, to find near-copies of them"))] = None,
    against: Annotated[Path | None, typer.Option(help=say("an earlier report.json to compare with"))] = None,
    votes: Annotated[Path | None, typer.Option(help=say("rate models by votes of bimo serve; nothing else"))] = None,
    load_options: LoadOptions = DEFAULT,
) -> None:
    """Draws a suite with each model, measures the pictures and writes a report."""
    if votes is not None:
        _rate(votes)
        return
    if out is None:
        raise RequestError("where is the report to be written? name its folder with --out")
    if not models and not pictures:
        raise RequestError("name a model, or with --pictures a folder of pictures that something else drew")
    drawing_settings = {
        "steps": steps,
        "guidance": guidance,
        "sampler": sampler,
        "size": inputs.size_of(size) if size else None,
    }
    if (suite or (XIAOMO if data is not None else CHINESE)) == XIAOMO:
        extra = {"--group": groups, "--pictures": pictures, "--clip-zh": clip_zh, "--clip-en": clip_en, "--real": real,
                 "--endpoint": endpoint, "--known": known, "--nsfw": nsfw, "--aesthetic": aesthetic,
                 "--classifier": classifier, "--protocol": protocol, "--against": against,
                 "--sampler": sampler, "--size": size}  # fmt: skip
        _own_questions(models or [], data, out, limit, {"steps": steps, "guidance": guidance}, load_options, extra)
        return
    if data is not None:
        raise RequestError("--data is for the suite xiaomo, not for {suite}; leave one of them out", suite=suite)
    chosen = _suite(suite or CHINESE, groups or [], english, limit)
    devices = tuple(part.strip() for part in load_options.device.split(","))
    plan = _plan(chosen, drawing_settings, _seeds(seeds), protocol, batch, devices, text, strokes,
                 {"zh": clip_zh, "en": clip_en}, endpoint, key, real, inception, resize, known)  # fmt: skip
    plan = replace(plan, **_steps(nsfw, aesthetic, classifier or []))
    entrants = _entrants(models or [], pictures or [], load_options)
    _run(entrants, plan, out, against)


def _run(entrants: list[Entrant], plan: Plan, out: Path, against: Path | None) -> None:
    from bimo.evaluation import suite_report
    from bimo.evaluation.suite_run import evaluate_suite

    if against is not None:
        suite_report.read_record(against)  # fails before hours of drawing
    if plan.suite.unusable:
        reasons = say("rows that are no prompts: {reasons}", reasons=plan.suite.unusable_reasons())
        typer.echo(reasons, err=True)
    if plan.suite.unverified:
        typer.echo(say("the format of {suite} follows its paper: no published file was at hand to check that it is "
                       "read right", suite=plan.suite.name), err=True)  # fmt: skip
    results = evaluate_suite(entrants, plan, out)
    page = suite_report.write_report(results, plan, out)
    for result in results:
        for key, why in list(result.refused.items())[:5]:
            typer.echo(say("{name} did not draw {key}: {why}", name=result.name, key=key, why=why), err=True)
        if len(result.refused) > 5:
            typer.echo(say("and {count} more, in report.json", count=len(result.refused) - 5), err=True)
    if against is not None:
        suite_report.demand_reports_comparable(out / suite_report.JSON_FILE, against)
        for line in suite_report.compared(out / suite_report.JSON_FILE, against):
            print(line)
    print(page)


def _own_questions(
    models: list[str],
    data: Path | None,
    out: Path,
    limit: int | None,
    settings: Mapping[str, Any],
    load_options: LoadOptions,
    extra: dict[str, Any],
) -> None:
    """Evaluates the bundled model on its own questions with its own judge."""
    from bimo.xiaomo.evaluation.run import evaluate as run

    extra_options = [name for name, value in extra.items() if value]
    if extra_options or len(models) != 1 or "," in load_options.device:
        raise RequestError(
            "the suite xiaomo takes one model, one --device, --data, --limit, --steps and --guidance; leave out "
            "{given}",
            given=Listed(extra_options or ["..."]),
        )
    loaded = loaded_on(models[0], load_options)
    for sentence in loaded.notices:
        typer.echo(sentence, err=True)
    run(loaded, data, out, limit=limit, **settings)
    print(out)


def _suite(suite_name: str, groups: list[str], english: bool, limit: int | None) -> Suite:
    from bimo.evaluation.suites.readers import open_suite

    suite = open_suite(suite_name)
    mixed = len({prompt.language for prompt in suite.prompts}) > 1
    return suite.only(groups, "" if english or not mixed else "zh", limit)


def _seeds(text: str) -> tuple[int, ...]:
    seeds: list[int] = []
    for part in text.replace("，", ",").split(","):
        first, dash, last = part.strip().partition("-")
        valid = first.isdecimal() and (not dash or last.isdecimal())
        low, high = (int(first), int(last if dash else first)) if valid else (1, 0)
        if not low <= high or high - low >= MOST_SEEDS:
            raise RequestError("--seeds is {text!r}; expected numbers, as 1, or 1,2,3, or 1-4", text=text)
        seeds += range(low, high + 1)
    return tuple(dict.fromkeys(seeds))


def _plan(
    suite: Suite,
    drawing_settings: dict[str, Any],
    seeds: tuple[int, ...],
    protocol: str | None,
    batch: int,
    devices: tuple[str, ...],
    text: bool,
    strokes: bool,
    clips: dict[str, str | None],
    endpoint: str | None,
    key: str,
    real: Path | None,
    inception: Path | None,
    resize: str | None,
    training_pictures: Path | None,
) -> Plan:
    from bimo.cli.curate import open_scorer
    from bimo.evaluation import protocol as protocols
    from bimo.evaluation.metrics.resize import Resize
    from bimo.evaluation.suite_run import Plan

    resize_name, crop = resize or Resize.torch_fidelity.value, 0
    if protocol is not None:
        chosen = protocols.preset(protocol)
        drawing_settings = protocols.with_preset(chosen, protocol, suite, drawing_settings)
        resize_name, crop, seeds = resize or chosen.resize or resize_name, chosen.crop, chosen.seeds or seeds
        _tell(chosen)
    if resize_name not in set(Resize):
        raise RequestError("--resize is {resize!r}; there is {names}", resize=resize_name, names=Listed(Resize))
    return Plan(
        suite, seeds, drawing_settings, batch, devices,
        scorers={language: open_scorer(name) for language, name in clips.items() if name},
        endpoint=_endpoint(endpoint, key), read_text=text, strokes=strokes, real=real, inception=inception,
        resize=Resize(resize_name), crop=crop, training_pictures=training_pictures, preset=protocol or "",
    )  # fmt: skip


def _tell(chosen: Preset) -> None:
    """Prints a protocol's unexpected details and what is not published about it."""
    for quirk in chosen.quirks:
        typer.echo(str(quirk), err=True)
    if chosen.unpublished:
        names = Listed(chosen.unpublished)
        typer.echo(say("not published, so that numbers may differ: {names}", names=names), err=True)


def _steps(nsfw: bool, aesthetic: str | None, classifiers: list[str]) -> dict[str, Any]:
    """Curation's model steps that measure pictures, and their tools."""
    from bimo.cli.curate import open_scorer
    from bimo.curation.filters.classifiers import Aesthetic, Classified, Safe
    from bimo.curation.steps import ModelStep, Tools

    steps: list[ModelStep] = [Safe()] if nsfw else []
    for text in [aesthetic] if aesthetic is not None else []:
        head, mark, clip = text.partition("#")
        if not mark or not clip:
            raise RequestError("--aesthetic is {text!r}; expected the file of a head and a CLIP: HEAD#CLIP", text=text)
        beauty = Aesthetic(scorer=clip, head=head)
        beauty.demand()
        steps.append(beauty)
    for text in classifiers:
        folder, mark, label = text.partition("#")
        if not mark or not label:
            raise RequestError("--classifier is {text!r}; expected FOLDER#LABEL", text=text)
        steps.append(Classified(folder=folder, label=label, name=f"{label} by {Path(folder).name}", below=0.5))
    return {"steps": tuple(steps), "tools": Tools(open_scorer)}


def _endpoint(text: str | None, key: str) -> Any:
    if text is None:
        return None
    from bimo.curation.captioning.endpoint import Endpoint

    address, mark, model = text.partition("#")
    if not mark or not model:
        raise RequestError("--endpoint is {text!r}; expected http://host/v1#MODEL", text=text)
    return Endpoint(address=address, model=model, key=key)


def loaded_on(name: str, load_options: LoadOptions, device: str = "") -> Engine:
    """Loads the engine of a model on one device; a module-level function, so that it can be pickled."""
    from bimo.engine.adapters import Adapters
    from bimo.hub.loading import load_with

    return load_with(name, Adapters(), **replace(load_options, device=device or load_options.device).arguments())


def _entrants(models: list[str], pictures: list[Path], load_options: LoadOptions) -> list[Entrant]:
    from bimo.evaluation.suite_run import Entrant, folder_of

    entrants = [Entrant(name, load=partial(loaded_on, name, load_options)) for name in models]
    for folder in pictures:
        if not folder.is_dir():
            raise RequestError("{folder} is no folder of pictures", folder=folder)
        entrants.append(Entrant(folder.resolve().name, pictures=folder))
    names = [folder_of(entrant.name) for entrant in entrants]
    if duplicates := [name for name in dict.fromkeys(names) if names.count(name) > 1]:
        raise RequestError("two models are called {name} in the report; rename the folder of one", name=duplicates[0])
    return entrants


def _rate(path: Path) -> None:
    """Prints the ratings of models by human votes."""
    from bimo.core.files import demand_regular
    from bimo.evaluation.preference import ratings, read_votes

    demand_regular(path)
    votes, unusable = read_votes(path)
    for reason, count in unusable.items():
        typer.echo(say("{reason} {count}", reason=Message(reason), count=count), err=True)
    for rating in ratings(votes):
        print(
            say(
                "{model}: {points:.0f} points [{low:.0f}, {high:.0f}], {won:.0%} won, {votes} votes",
                model=rating.model,
                points=rating.points.value,
                low=rating.points.low,
                high=rating.points.high,
                won=rating.won,
                votes=rating.votes,
            )
        )
