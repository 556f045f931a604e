"""`bimo curate`: turns raw pictures and captions into training shards, and records every decision."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

import typer

from bimo.core import part
from bimo.core.errors import BimoError, DataError, RecipeError
from bimo.core.messages import Both, Message, say
from bimo.hub import registry

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

    from bimo.curation.executors.executor import Executor
    from bimo.curation.readers.fetch import Limits
    from bimo.curation.steps import Curation

EXAMPLES = say(
    "SRC is a folder of pictures (with a .txt or .json of each one's name), a table (csv, tsv, "
    "jsonl, parquet), a folder of Hugging Face's, or webdataset shards.\n\nRun the same command again "
    "to go on after a stop; a changed threshold reads no picture. DST gets shards, table/ and "
    "report.json.\n\nExamples:\n\n  bimo curate photos/ data/ --recipe wukong\n\n  bimo curate pairs.csv "
    "data/ --recipe wukong --set steps.0.pixels=256\n\n  bimo curate photos/ data/ --recipe "
    "./mine.py:steps --workers 8\n\n  bimo curate photos/ data/ --recipe taiyi --scorer ./taiyi-clip "
    "--set steps.7.above=0.15 --select-only"
)


class Scoring(StrEnum):
    """The dtype of scorers."""

    fastest = "fastest"
    fp32 = "fp32"
    bf16 = "bf16"


def curate(
    source: Annotated[Path, typer.Argument(help=say("where pictures and captions are"))],
    out: Annotated[Path, typer.Argument(help=say("the folder to write"))],
    recipe: Annotated[
        str,
        typer.Option(help=say("a list of steps: a name, ./mine.py:name, JSON")),
    ],
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help=say("set a value of the list: path=value")),
    ] = None,
    workers: Annotated[int | None, typer.Option(min=1, help=say("how many processes"))] = None,
    on: Annotated[str, typer.Option(help=say("where to run: local, ray"))] = "local",
    scorer: Annotated[
        str | None,
        typer.Option(help=say("the system that scores pairs: name or folder")),
    ] = None,
    aesthetic: Annotated[
        str | None,
        typer.Option(help=say("the file of the linear head that judges beauty; none leaves that step out")),
    ] = None,
    dtype: Annotated[
        Scoring,
        typer.Option(help=say("the numbers to score in; fastest measures, and stays with what DST began with")),
    ] = Scoring.fastest,
    fetch: Annotated[
        list[str] | None,
        typer.Option(
            help=say(
                "how addresses are fetched: name=value, such as hosts=oss.local (hosts inside the house must be "
                "named), seconds=60, workers=64"
            )
        ),
    ] = None,
    select_only: Annotated[
        bool,
        typer.Option(
            "--select-only",
            help=say("select anew from stored scores; no pictures, no shards"),
        ),
    ] = False,
) -> None:
    """Runs a list of steps over a source; prints a summary and the folder."""
    steps_list, files = curation(recipe)
    steps_list = changed(steps_list, settings or [], scorer, aesthetic)
    from bimo.curation.phases import ingest
    from bimo.curation.phases.run import curate as run
    from bimo.curation.steps import ScorerStep, Tools

    if not (select_only or source.exists()):
        raise DataError("there is no {source}", source=source)
    # Checked before choosing the scorers' dtype, which writes to the folder.
    ingest.check_output_folder(source, out)
    if not select_only and any(isinstance(step, ScorerStep) for step in steps_list.steps):
        ingest.require_rows(source)
    if on not in ("local", "ray"):
        raise RecipeError("--on is {on!r}; expected local or ray", on=on)
    limits = limits_of(fetch) if fetch else None
    executor = executor_of(on, workers, files)
    with progress() as bar:
        model_executor = executor if on == "ray" else None
        tools = Tools(partial(open_scorer, dtype=dtype_of(steps_list, out, dtype)))
        options: dict[str, Any] = {"workers": executor, "model_workers": model_executor, "progress": bar}
        options |= {"stored": select_only, "limits": limits}
        report = run(source, out, steps_list, tools=tools, **options)
    for line in summary_lines(report):
        print(line)
    if select_only:
        typer.echo(say("the shards are those of the run before"), err=True)
    if not report["numbers"]["kept"]:
        raise DataError(
            "not one row was kept; {out} and {out_2} have what became of each",
            out=out / "report.html",
            out_2=out / "table",
        )
    print(out)


def lists() -> dict[str, Curation]:
    """All step lists of the package by name, sorted."""
    from bimo.curation.steps import Curation
    from bimo.recipes import curation as package

    return dict(sorted((v.name, v) for v in vars(package).values() if isinstance(v, Curation)))


def curation(name: str) -> tuple[Curation, tuple[tuple[str, str], ...]]:
    """The step list with a name, of ``./mine.py:name`` or a JSON file; and the user's files that workers must import.

    Raises RecipeError.
    """
    from bimo.curation.steps import Curation

    file, _, value = name.rpartition(":") if re.search(r"\.py:[^/\\]*$", name) else (name, "", "")
    if file.endswith(".py"):
        path = Path(file).expanduser().resolve()
        if not path.is_file():
            raise RecipeError("there is no file {path}", path=path)
        return _of_file(path, value), ((f"bimo_curation_{path.stem}", str(path)),)
    path = Path(name).expanduser()
    if path.is_file() or path.suffix == ".json":
        try:
            loaded = part.loads(path.read_text("utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise RecipeError("{path} cannot be read: {error}", path=path, error=error) from None
        if isinstance(loaded, Curation):
            return loaded, ()
        raise RecipeError("{path} is no list of steps", path=path)
    known = lists()
    if name in known:
        return known[name], ()
    near = part.meant(name, known)
    raise RecipeError("there is no list called {name!r}{near}", name=name, near=near)


def _of_file(path: Path, name: str) -> Curation:
    from bimo.curation.executors.executor import load_file
    from bimo.curation.steps import Curation

    try:
        module = load_file(f"bimo_curation_{path.stem}", path)
    except BimoError:
        raise
    # The file is the user's own program: any exception is reported.
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        raise RecipeError("the list {path} fails: {told}", path=path, told=reason) from error
    namespace = cast("dict[str, Any]", vars(module))
    defined = {n: v for n, v in namespace.items() if isinstance(v, Curation)}
    by_name = defined | {v.name: v for v in defined.values()}
    if name in by_name:
        return by_name[name]
    if not name and len({id(v) for v in defined.values()}) == 1:
        return next(iter(defined.values()))
    near = part.meant(name, by_name) if by_name else ""
    raise RecipeError("{path} has no list {name!r}{near}", path=path, name=name, near=near)


def changed(
    steps_list: Curation, settings: Sequence[str], scorer: str | None = None, aesthetic: str | None = None
) -> Curation:
    """Applies the command line to a step list: each --set, then --scorer, then --aesthetic, whose "none" removes that
    step. Raises RecipeError, also if a head is needed and not given, WeightsError if its file does not exist.
    """
    from bimo.curation.filters.classifiers import Aesthetic
    from bimo.curation.steps import ScorerStep

    steps_list = part.changed(steps_list, settings, "steps.0.pixels=256")
    steps: list[Any] = list(steps_list.steps)
    # --scorer does not replace the CLIP of an aesthetic head, which was trained for it.
    with_scorer = [place for place, step in enumerate(steps) if isinstance(step, ScorerStep)]
    scorer_places = [place for place in with_scorer if not isinstance(steps[place], Aesthetic)]
    if scorer is not None and not scorer_places:
        raise RecipeError("no step of {name} scores pairs", name=steps_list.name)
    for place in scorer_places if scorer is not None else ():
        steps[place] = dataclasses.replace(steps[place], scorer=scorer)
    aesthetic_places = [place for place, step in enumerate(steps) if isinstance(step, Aesthetic)]
    if aesthetic is not None and not aesthetic_places:
        raise RecipeError("no step of {name} judges beauty", name=steps_list.name)
    for place in aesthetic_places:
        if aesthetic not in (None, "none"):
            steps[place] = dataclasses.replace(steps[place], head=aesthetic)
        if aesthetic != "none":
            steps[place].demand()
    if aesthetic == "none":
        steps = [step for place, step in enumerate(steps) if place not in aesthetic_places]
    return dataclasses.replace(steps_list, steps=tuple(steps))


def executor_of(on: Literal["local", "ray"], count: int | None, files: tuple[tuple[str, str], ...]) -> Executor:
    """The executor: processes on this machine, by default one per core, or a Ray cluster."""
    from bimo.curation.executors.executor import cores
    from bimo.curation.executors.processes import ProcessExecutor
    from bimo.curation.executors.ray_cluster import RayExecutor

    if on == "ray":
        return RayExecutor(files=files)
    return ProcessExecutor(count or cores(), files)


def limits_of(settings: Sequence[str]) -> Limits:
    """Parses the limits of --fetch from name=value; ``hosts`` are separated by commas. Raises RecipeError."""
    from bimo.curation.readers.fetch import Limits

    values: dict[str, Any] = {}
    kinds: dict[str, type[Any]] = {field.name: type(field.default) for field in dataclasses.fields(Limits)}
    for setting in settings:
        name, _, text = setting.partition("=")
        if name not in kinds:
            near = part.meant(name, sorted(kinds))
            raise RecipeError("--fetch has no {name!r}{near}", name=name, near=near)
        try:
            values[name] = frozenset(text.split(",")) if kinds[name] is frozenset else kinds[name](text)
            if kinds[name] is not frozenset and values[name] < (name not in ("redirects", "pause")):
                raise ValueError
        except ValueError:
            raise RecipeError(
                "--fetch {setting}: {name} is to be a number above 0, such as {name}={value}",
                setting=setting,
                name=name,
                value=getattr(Limits, name),
            ) from None
    return Limits(**values)


def dtype_of(steps_list: Curation, out: Path, dtype: Scoring) -> Scoring:
    """Chooses and reports the scorers' dtype: the requested one, else that of the scores in ``out``, else the faster
    one by a benchmark. It is recorded in ``out``, so that a resumed run uses the same.
    """
    from bimo.curation.phases.store import read_json, save_json
    from bimo.curation.steps import ScorerStep

    if not any(isinstance(step, ScorerStep) for step in steps_list.steps):
        return Scoring.fp32
    path = out / "work" / "scoring.json"
    before: Any = read_json(path)
    recorded: Any = cast("dict[str, Any]", before).get("dtype") if isinstance(before, dict) else None
    if dtype is Scoring.fastest and recorded in (Scoring.fp32, Scoring.bf16):
        chosen, why = Scoring(recorded), say("as the scores that are there")
    elif dtype is Scoring.fastest:
        from bimo.models.clip.scoring import WORTH, fastest

        speedup = fastest()
        chosen = Scoring.bf16 if speedup >= WORTH else Scoring.fp32
        why = say("measured: bf16 is {times:.1f} times as fast as fp32", times=speedup)
    else:
        chosen, why = dtype, say("as --dtype says")
        if recorded not in (None, chosen):
            why = say("{why}; scores in {known} are made anew", why=why, known=recorded)
    typer.echo(say("scoring in {chosen} ({why})", chosen=chosen, why=why), err=True)
    if recorded != chosen:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_json(path, {"dtype": chosen})
    return chosen


class EncoderScorer:
    """A CLIP system as `bimo.curation.steps.Scorer`."""

    def __init__(self, name: str, dtype: Scoring = Scoring.fp32) -> None:
        self._system = registry.load(name)
        self.digest = self._system.weights_hash
        if dtype is Scoring.bf16:
            # Part of the identity, so that scores of one dtype are not reused for the other.
            self.digest += f" {dtype}"
            self._system.bfloat16()

    def words(self, texts: Sequence[str]) -> np.ndarray:
        """Normalised text embeddings, float32 [B, D]."""
        from bimo.models.clip.scoring import word_vectors

        return word_vectors(self._system, texts).numpy()

    def pictures(self, pictures: Sequence[Image.Image]) -> np.ndarray:
        """Normalised image embeddings, float32 [B, D]."""
        from bimo.models.clip.scoring import picture_vectors

        return picture_vectors(self._system, pictures).numpy()

    def fitted(self, picture: Image.Image) -> Image.Image:
        """A picture resized and cropped to the image encoder's input."""
        from bimo.models.clip.scoring import square

        return square(self._system, picture)


_opened: dict[tuple[str, Scoring], EncoderScorer] = {}


def open_scorer(name: str, dtype: Scoring = Scoring.fp32) -> EncoderScorer:
    """The scorer with a name or in a folder, loaded once per process."""
    key = name, dtype
    if key not in _opened:
        _opened[key] = EncoderScorer(name, dtype)
    return _opened[key]


def summary_lines(report: dict[str, Any]) -> Iterator[str]:
    """The summary in lines: totals, drops by rule, failures by reason, files."""
    from bimo.curation.failure_reasons import reason_message
    from bimo.curation.readers.inventory import inventory_lines

    numbers = report["numbers"]
    sums = tuple(numbers[name] for name in ("rows_in", "kept", "dropped", "failed"))
    yield say("rows in {{}} = kept {{}} + dropped {{}} + failed {{}}").format(*sums)
    for rule in report["rules"]:
        if rule["dropped"]:
            why = say(" ({rule})", rule=Both(rule["zh"], rule["en"]))
            yield say("dropped, {rule}{why}: {rule_2}", rule=rule["rule"], why=why, rule_2=rule["dropped"])
    for reason, count in report["failures"].items():
        converted = reason == "not a format that is read"
        advice = say("; convert them to JPEG or PNG") if converted else ""
        yield say("failed, {reason}: {count}", reason=reason_message(reason), count=count) + advice
    for profile, count in report["converted"].items():
        yield say("kept with colours converted from {profile} to sRGB: {count}", profile=profile, count=count)
    if files := report["files"]:
        yield say("read as {files}", files=Both(files["read_as"]["zh"], files["read_as"]["en"]))
        yield from inventory_lines(files)
    if killed := numbers["workers_killed"]:
        yield say(
            "processes killed by the system, most likely for memory, whose work was done again: {killed}", killed=killed
        )
    yield say(
        "{numbers:.1f} s, {numbers_2} rows a second", numbers=numbers["seconds"], numbers_2=numbers["rows_a_second"]
    )


class RichBar:
    """A progress bar: rows per second, fraction kept so far, time left."""

    def __init__(self, bar: Any) -> None:
        self._bar, self._task = bar, None
        self._rows = self._kept = 0

    def phase(self, name: Message, total: int | None) -> None:
        """Starts a phase."""
        if self._task is not None:
            self._bar.update(self._task, visible=False)
        self._rows = self._kept = 0
        self._task = self._bar.add_task(say(name), total=total, kept="")

    def advance(self, rows: int, kept: int | None = None) -> None:
        """Adds finished rows."""
        self._rows += rows
        self._kept += kept or 0
        share = say("{kept:.0%} kept", kept=self._kept / max(self._rows, 1))
        self._bar.update(self._task, advance=rows, kept=share if kept is not None else "")


@contextmanager
def progress() -> Generator[RichBar]:
    """A progress bar on standard error, as standard output is for results."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn
    from rich.text import Text

    class Speed(ProgressColumn):
        def render(self, task: Any) -> Text:
            return Text("" if not task.speed else say("{speed:.0f} rows/s", speed=task.speed))

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), Speed())
    all_columns = (*columns, TextColumn("{task.fields[kept]}"), TimeRemainingColumn())
    # transient: at the end only the summary stays on the terminal.
    with Progress(*all_columns, console=Console(stderr=True), transient=True) as bar:
        yield RichBar(bar)
