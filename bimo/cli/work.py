"""`bimo data`, `bimo train`, `bimo bench`."""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from bimo.cli.engine_options import DEVICE_HELP
from bimo.core import part
from bimo.core.errors import RecipeError, RequestError
from bimo.core.messages import Message, say
from bimo.core.recipe import Recipe
from bimo.hub import registry

#: The benchmark script; only in a checkout, not in an installed package.
BENCH = Path(__file__).resolve().parents[2] / "bench" / "xiaomo.py"
BENCH_EXAMPLES = say("Examples:\n\n  bimo bench\n\n  bimo bench --no-diffusers --json bench.json")
#: Limit of generated pictures; more would take hours of planning and be held in memory meanwhile.
MAXIMUM_PICTURES = 1_000_000
#: Limit of worker processes.
MAXIMUM_PROCESSES = 1024
ARTWORK_EXAMPLES = say("Examples:\n\n  bimo data artwork data/ --canvases 2000")
SCENES_EXAMPLES = say("Nothing is downloaded. Examples:\n\n  bimo data scenes data/ --count 2000")
FOLDER_EXAMPLES = say(
    "Captions are in a .txt of the picture's name, in metadata.jsonl (file_name, text) or a .csv "
    "(name, caption).\n\nExamples:\n\n  bimo data folder photos/ data/"
)
FEEDBACK_EXAMPLES = say(
    "The table (CSV, TSV, JSON lines, Parquet) lies beside the pictures; its columns are request, "
    "winner, loser, or request, a, b, choice (a, b, tie), and judge if there are several.\n\n"
    "Examples:\n\n  bimo data feedback compared.csv data/"
)
TEXTS_EXAMPLES = say(
    "Examples:\n\n  bimo data texts prompts.txt data/\n\n  bimo data texts parallel.tsv data/  (columns "
    "zh, en)\n\n  bimo data texts cedict data/  (CC-CEDICT, CC BY-SA 4.0)"
)
TRAIN_EXAMPLES = say(
    "Examples:\n\n  bimo train xiaomo --data data/ --out run/ --tiny\n\n  bimo train ./mine.py:recipe "
    "--data data/ --out run/ --set stages.1.lr=5e-6"
)


def artwork(
    out: Annotated[Path, typer.Argument(help=say("the folder to write"))],
    canvases: Annotated[int, typer.Option(min=1, max=MAXIMUM_PICTURES, help=say("how many pictures"))] = 72000,
    workers: Annotated[int, typer.Option(min=1, max=MAXIMUM_PROCESSES, help=say("how many processes"))] = 2,
    packages: Annotated[Path | None, typer.Option(help=say("a folder with the packages of icons"))] = None,
    edition: Annotated[
        int,
        typer.Option(min=1, max=2, help=say("1 for xiaomo, 2 for xiaomo-2: larger, more styles, relations, idioms")),
    ] = 1,
) -> None:
    """Builds the data that xiaomo is trained on."""
    from bimo.xiaomo.artwork.build import build_artwork
    from bimo.xiaomo.artwork.editions import EDITIONS

    report = build_artwork(
        out,
        canvases=canvases,
        workers=workers,
        packages=packages,
        edition=EDITIONS[edition],
        progress=lambda words: typer.echo(words, err=True),
    )
    for name, value in report.items():
        if isinstance(value, (int, float, str)):
            print(f"{name}: {value}")
    print(out)


def scenes(
    out: Annotated[Path, typer.Argument(help=say("the folder to write"))],
    count: Annotated[int, typer.Option(min=1, max=MAXIMUM_PICTURES, help=say("how many pictures to draw"))] = 20000,
    side: Annotated[int, typer.Option(min=16, max=2048, help=say("the side in pixels"))] = 256,
    seed: Annotated[int, typer.Option(min=0, help=say("another one: other pictures"))] = 0,
    workers: Annotated[int, typer.Option(min=1, max=MAXIMUM_PROCESSES, help=say("how many processes"))] = 2,
) -> None:
    """Builds scenes, verses and dishes with captions and annotations."""
    from bimo.xiaomo.build import build_scenes

    report = build_scenes(out, count, side, seed, workers, progress=lambda words: typer.echo(words, err=True))
    for name, value in report.items():
        if isinstance(value, (int, float, str)):
            print(f"{name}: {value}")
    print(out)


def folder(
    source: Annotated[Path, typer.Argument(help=say("the folder of the pictures"))],
    out: Annotated[Path, typer.Argument(help=say("the folder to write"))],
    side: Annotated[int, typer.Option(min=1, help=say("the least side of a picture"))] = 1,
) -> None:
    """Builds training data from the user's own pictures."""
    from bimo.curation.folder import build_folder
    from bimo.curation.readers.inventory import inventory_lines

    report = build_folder(source, out, side)
    typer.echo(say("read as {kind}", kind=report.kind), err=True)
    print(say("kept: {kept}", kept=report.kept))
    if report.joined:
        print(say("rows whose captions were joined to those of the same picture: {joined}", joined=report.joined))
    for reason, count in report.reasons().items():
        print(say("left out, {reason}: {count}", reason=reason, count=count))
    for profile, count in report.converted.items():
        print(say("kept with colours converted from {profile} to sRGB: {count}", profile=profile, count=count))
    for line in inventory_lines(report.files):
        typer.echo(line, err=True)
    print(out)


def feedback(
    table: Annotated[Path, typer.Argument(help=say("the table of comparisons"))],
    out: Annotated[Path, typer.Argument(help=say("the folder to write"))],
) -> None:
    """Builds data of preferences."""
    from bimo.curation.feedback import RowOutcome, build_feedback

    report = build_feedback(table, out)
    print(say("with a winner: {pairs}, ties: {ties}", pairs=report.pairs, ties=report.ties))
    for outcome in RowOutcome:
        if report.outcomes.get(outcome):
            print(say("rows, {outcome}: {outcomes}", outcome=outcome, outcomes=report.outcomes[outcome]))
    print(out)


def texts(
    source: Annotated[str, typer.Argument(help=say("a .txt, a table, or cedict"))],
    out: Annotated[Path, typer.Argument(help=say("the folder to write"))],
) -> None:
    """Builds text-only training data."""
    from bimo.curation.failure_reasons import reason_message
    from bimo.curation.texts import EMPTY, POINTS, build_texts

    outcomes = {"kept": Message("kept"), EMPTY: Message("empty"), POINTS: Message("points at another entry")}
    for reason, count in build_texts(source, out).items():
        print(say("{reason}: {count}", reason=outcomes.get(reason) or reason_message(reason), count=count))
    print(out)


def train(
    recipe: Annotated[str, typer.Argument(help=say("a name, ./mine.py:name, JSON"))],
    data: Annotated[
        list[str],
        typer.Option(help=say("data, or what bimo curate reads: pictures, a table, tars; PATH*3 weighs; repeatable")),
    ],
    out: Annotated[Path, typer.Option(help=say("the folder of the run"))],
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help=say("set a value of the recipe: path=value")),
    ] = None,
    tiny: Annotated[bool, typer.Option("--tiny", help=say("toy widths, for a trial"))] = False,
    steps: Annotated[int | None, typer.Option(min=1, help=say("the steps of each stage"))] = None,
    seed: Annotated[int, typer.Option(min=0, help=say("another one: other rows and noise"))] = 0,
    threads: Annotated[int | None, typer.Option(min=1, max=MAXIMUM_PROCESSES, help=say("how many threads"))] = None,
    start: Annotated[
        list[str] | None,
        typer.Option(help=say("a model to begin from, or a file of bimo export --only; may be repeated")),
    ] = None,
    teacher: Annotated[str | None, typer.Option(help=say("the model that stages of distillation learn from"))] = None,
    device: Annotated[str, typer.Option(help=DEVICE_HELP)] = "auto",
    reward: Annotated[
        list[str] | None,
        typer.Option(help=say("a function of yours for a reward: ./mine.py:name")),
    ] = None,
    on: Annotated[str, typer.Option(help=say("where to run: local (or a launcher), ray"))] = "local",
    workers: Annotated[int | None, typer.Option(min=1, help=say("how many processes of Ray"))] = None,
    cache: Annotated[
        Path | None,
        typer.Option(help=say("where decoded pixels are kept; in the folder of data unless given")),
    ] = None,
    size: Annotated[str | None, typer.Option(help=say("size of pictures in each stage: WIDTHxHEIGHT"))] = None,
    skip: Annotated[
        list[str] | None,
        typer.Option(help=say("leave a stage out, by number or name")),
    ] = None,
    tune: Annotated[
        str | None,
        typer.Option(help=say("fine-tune a system on pictures: lora or full")),
    ] = None,
    from_here: Annotated[
        bool,
        typer.Option("--from-here", help=say("a begun run has new settings from its step on")),
    ] = False,
    accept_new_data: Annotated[
        bool,
        typer.Option("--accept-new-data", help=say("go on with other data, and put that on record")),
    ] = False,
) -> None:
    """Trains every stage of a recipe; the folder it prints can be drawn with."""
    if on not in ("local", "ray") or (workers and on != "ray"):
        raise RecipeError(
            "--on is {on!r}; expected local or ray, and --workers with ray alone: here several are begun by torchrun",
            on=on,
        )
    arguments: dict[str, Any] = {
        "recipe": recipe,
        "data": data,
        "out": out,
        "settings": settings,
        "tiny": tiny,
        "steps": steps,
    }
    arguments |= {"seed": seed, "threads": threads, "start": start, "teacher": teacher, "reward": reward}
    arguments |= {"cache": cache}
    arguments |= {"from_here": from_here, "accept_new_data": accept_new_data, "size": size, "skip": skip, "tune": tune}
    if on == "ray":
        from bimo.training.distributed.ray_cluster import on_ray

        on_ray(_trained, arguments, out, workers or 1, device)
    else:
        _trained(**arguments, device=device)
    if os.environ.get("RANK", "0") == "0":  # only one of several processes prints
        print(out)


def _trained(
    recipe: str,
    data: list[str],
    out: Path,
    settings: list[str] | None,
    tiny: bool,
    steps: int | None,
    seed: int,
    threads: int | None,
    start: list[str] | None,
    teacher: str | None,
    reward: list[str] | None,
    cache: Path | None,
    size: str | None,
    skip: list[str] | None,
    tune: str | None,
    from_here: bool,
    accept_new_data: bool,
    device: str,
) -> None:
    """Trains in one process."""
    planned = registry.recipe(recipe)
    if tune is not None:
        from bimo.training.tuning import tuned

        planned = tuned(planned, tune)
        start = start or ([] if tiny else [recipe])  # fine-tuning starts from the model's own weights
    planned = changed(planned, settings or [], tiny, steps, size, skip or [])
    from bimo.training.finetune.sources import as_data
    from bimo.training.objectives.rewards import Judges
    from bimo.training.trainer import train as run

    start_systems = (
        Path(name) if _is_part_of(Path(name), planned) else registry.load(name, stored=planned.holds)
        for name in start or []
    )
    teacher_system = None if teacher is None else registry.load(teacher)
    recipe_files = [file for file in (recipe.rpartition(":")[0], recipe) if file.endswith(".py")]
    judges = Judges(
        registry.load, {n: f for file in (*recipe_files, *(reward or [])) for n, f in registry.functions(file).items()}
    )
    resume_options: dict[str, Any] = {"from_here": from_here, "accept_new_data": accept_new_data}
    starting_points: dict[str, Any] = {
        "start": start_systems,
        "teacher": teacher_system,
        "judges": judges,
        "cache": cache,
    }
    sources = as_data(data, out)
    resume_options["repeats"] = sources.repeats
    run(planned, sources.folders, out, seed=seed, threads=threads, device=device, **starting_points, **resume_options)


def _is_part_of(path: Path, recipe: Recipe) -> bool:
    """Whether a safetensors file has only tensors with the names of a recipe's system."""
    if path.suffix != ".safetensors" or not path.is_file():
        return False
    from bimo.core.checkpoint_io import shapes

    prefixes = {"text.", *(f"{level.name}.{part}." for level in recipe.levels for part in ("space", "denoiser"))}
    return all(name.startswith(tuple(prefixes)) for name in shapes(path))


def changed(
    recipe: Recipe,
    settings: list[str],
    tiny: bool,
    steps: int | None,
    size: str | None = None,
    skip: Sequence[str] = (),
) -> Recipe:
    """Applies the command line to a recipe: --tiny, then --steps and --size, then each --set, then --skip. Raises
    RecipeError.
    """
    if tiny:
        recipe = recipe.tiny()
    if steps is not None:
        recipe = dataclasses.replace(recipe, stages=tuple(dataclasses.replace(s, steps=steps) for s in recipe.stages))
    if size is not None:
        pixels = _size(size)
        resized = (dataclasses.replace(stage, size=pixels, buckets=()) for stage in recipe.stages)
        recipe = dataclasses.replace(recipe, stages=tuple(resized))
    return _without(part.changed(recipe, settings, "stages.1.lr=5e-6"), skip)


def _size(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d{1,5})[x×*](\d{1,5})", text.strip())
    if match is None or not (int(match[1]) and int(match[2])):
        raise RecipeError("--size is {text!r}; expected WIDTHxHEIGHT, as 512x512", text=text)
    return int(match[1]), int(match[2])


def _without(recipe: Recipe, skip: Sequence[str]) -> Recipe:
    """The recipe without some of its stages, by number as in --set, or by name."""
    names = [str(number) for number in range(len(recipe.stages))] + [stage.name for stage in recipe.stages]
    for name in skip:
        if name not in names:
            near = part.meant(name, names[len(recipe.stages) :])
            raise RecipeError("--skip: there is no stage {name!r}{near}", name=name, near=near)
    skipped = {names.index(name) % len(recipe.stages) for name in skip}
    return dataclasses.replace(recipe, stages=tuple(s for n, s in enumerate(recipe.stages) if n not in skipped))


def bench(
    model: Annotated[str, typer.Option("-m", "--model", help=say("the model"))] = registry.DEFAULT_MODEL,
    pairs: Annotated[int, typer.Option(min=1, help=say("how many turns each side has"))] = 7,
    steps: Annotated[int, typer.Option(min=1, help=say("how many steps"))] = 20,
    threads: Annotated[int | None, typer.Option(min=1, help=say("how many threads"))] = None,
    diffusers: Annotated[bool, typer.Option(help=say("compare with diffusers as well"))] = True,
    file: Annotated[Path | None, typer.Option("--json", help=say("write the numbers here"))] = None,
    quality: Annotated[
        Path | None, typer.Option(help=say("what doing less costs, as a curve: the PNG to write, and a JSON beside it"))
    ] = None,
    data: Annotated[Path | None, typer.Option(help=say("the folder of the test data, with a judge"))] = None,
) -> None:
    """Runs the benchmarks in bench/, which are not part of the package."""
    if not BENCH.is_file():
        raise RequestError("bimo bench needs a checkout with bench/xiaomo.py; get the source and run make bench")
    if data is not None and quality is None:
        raise RequestError("--data without --quality: the judge is asked what doing less costs; give both")
    if quality is not None:
        benchmark = _measurements("quality")
        words = ["--model", model, "--out", str(quality), *(["--data", str(data)] if data is not None else [])]
        benchmark.bench(model, benchmark.options_of(words))
        return
    measured = _measurements(BENCH.stem)
    measured.bench(model, pairs=pairs, steps=steps, threads=threads, against=diffusers, file=file)


def _measurements(name: str) -> Any:
    """Imports a file of bench/."""
    spec = importlib.util.spec_from_file_location(f"bench_{name}", BENCH.with_name(f"{name}.py"))
    assert spec is not None
    assert spec.loader is not None
    measured = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(measured)
    return measured
