"""`bimo curate`: raw pictures and captions become training shards, and every decision is on record."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Sequence
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
    """The numbers that scorers reckon in."""

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
    """Runs a list of steps over a source; prints the account and the folder."""
    wanted, files = curation(recipe)
    wanted = changed(wanted, settings or [], scorer, aesthetic)
    from bimo.curation.phases import ingest
    from bimo.curation.phases.run import curate as run
    from bimo.curation.steps import ScorerStep, Tools

    if not (select_only or source.exists()):
        raise DataError("there is no {source}", source=source)
    # Before a scorer is chosen, which is written down in the folder.
    ingest.check_output_folder(source, out)
    if not select_only and any(isinstance(step, ScorerStep) for step in wanted.steps):
        ingest.require_rows(source)
    if on not in ("local", "ray"):
        raise RecipeError("--on is {on!r}; expected local or ray", on=on)
    limits = limits_of(fetch) if fetch else None
    crew = crew_of(cast("Literal['local', 'ray']", on), workers, files)
    with progress() as bar:
        asking = crew if on == "ray" else None
        tools = Tools(partial(open_scorer, dtype=dtype_of(wanted, out, dtype)))
        more: dict[str, Any] = {"workers": crew, "asking": asking, "progress": bar}
        more |= {"stored": select_only, "limits": limits}
        report = run(source, out, wanted, tools=tools, **more)
    for line in account(report):
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
    """Every list of this package by its name, sorted."""
    from bimo.curation.steps import Curation
    from bimo.recipes import curation as room

    return dict(sorted((v.name, v) for v in vars(room).values() if isinstance(v, Curation)))


def curation(name: str) -> tuple[Curation, tuple[tuple[str, str], ...]]:
    """The list of a name, ``./mine.py:name`` or a JSON file, and the files of the user's that workers must load.

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
            found = part.loads(path.read_text("utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise RecipeError("{path} cannot be read: {error}", path=path, error=error) from None
        if isinstance(found, Curation):
            return found, ()
        raise RecipeError("{path} is no list of steps", path=path)
    every = lists()
    if name in every:
        return every[name], ()
    near = part.meant(name, every)
    raise RecipeError("there is no list called {name!r}{near}", name=name, near=near)


def _of_file(path: Path, name: str) -> Curation:
    from bimo.curation.executors.executor import load_file
    from bimo.curation.steps import Curation

    try:
        module = load_file(f"bimo_curation_{path.stem}", path)
    except BimoError:
        raise
    # The file is the user's own program: whatever it raises is told as it is.
    except Exception as error:
        told = f"{type(error).__name__}: {error}"
        raise RecipeError("the list {path} fails: {told}", path=path, told=told) from error
    found = {n: v for n, v in vars(module).items() if isinstance(v, Curation)}
    own = found | {v.name: v for v in found.values()}
    if name in own:
        return own[name]
    if not name and len({id(v) for v in found.values()}) == 1:
        return next(iter(found.values()))
    near = part.meant(name, own) if own else ""
    raise RecipeError("{path} has no list {name!r}{near}", path=path, name=name, near=near)


def changed(
    wanted: Curation, settings: Sequence[str], scorer: str | None = None, aesthetic: str | None = None
) -> Curation:
    """A list as the command line wants it: each path=value, then another scorer, and a head that judges beauty, or no
    such step. Raises RecipeError, also where a head is wanted and none is named, WeightsError for none that is there.
    """
    from bimo.curation.filters.classifiers import Aesthetic
    from bimo.curation.steps import ScorerStep

    wanted = part.changed(wanted, settings, "steps.0.pixels=256")
    steps: list[Any] = list(wanted.steps)
    # The CLIP of a head is that which the head was made for.
    scorers = [place for place, step in enumerate(steps) if isinstance(step, ScorerStep)]
    scoring = [place for place in scorers if not isinstance(steps[place], Aesthetic)]
    if scorer is not None and not scoring:
        raise RecipeError("no step of {name} scores pairs", name=wanted.name)
    for place in scoring if scorer is not None else ():
        steps[place] = dataclasses.replace(steps[place], scorer=scorer)
    judging = [place for place, step in enumerate(steps) if isinstance(step, Aesthetic)]
    if aesthetic is not None and not judging:
        raise RecipeError("no step of {name} judges beauty", name=wanted.name)
    for place in judging:
        if aesthetic not in (None, "none"):
            steps[place] = dataclasses.replace(steps[place], head=aesthetic)
        if aesthetic != "none":
            steps[place].demand()
    if aesthetic == "none":
        steps = [step for place, step in enumerate(steps) if place not in judging]
    return dataclasses.replace(wanted, steps=tuple(steps))


def crew_of(on: Literal["local", "ray"], count: int | None, files: tuple[tuple[str, str], ...]) -> Executor:
    """Processes of this machine, one a core, or a Ray cluster."""
    from bimo.curation.executors.executor import cores
    from bimo.curation.executors.processes import ProcessExecutor
    from bimo.curation.executors.ray_cluster import RayExecutor

    if on == "ray":
        return RayExecutor(files=files)
    return ProcessExecutor(count or cores(), files)


def limits_of(settings: Sequence[str]) -> Limits:
    """Limits from name=value; ``hosts`` has commas. Raises RecipeError."""
    from bimo.curation.readers.fetch import Limits

    given: dict[str, Any] = {}
    kinds = {field.name: type(field.default) for field in dataclasses.fields(Limits)}
    for setting in settings:
        name, _, text = setting.partition("=")
        if name not in kinds:
            near = part.meant(name, sorted(kinds))
            raise RecipeError("--fetch has no {name!r}{near}", name=name, near=near)
        try:
            given[name] = frozenset(text.split(",")) if kinds[name] is frozenset else kinds[name](text)
            if kinds[name] is not frozenset and given[name] < (name not in ("redirects", "pause")):
                raise ValueError
        except ValueError:
            raise RecipeError(
                "--fetch {setting}: {name} is to be a number above 0, such as {name}={value}",
                setting=setting,
                name=name,
                value=getattr(Limits, name),
            ) from None
    return Limits(**given)


def dtype_of(wanted: Curation, out: Path, dtype: Scoring) -> Scoring:
    """What the scorers of a list are to reckon in, said in a sentence: what is asked for, else what the scores in
    ``out`` were made by, else what is measured to be fastest. It is written down there, so that a run that was broken
    off goes on in the same numbers.
    """
    from bimo.curation.phases.store import read_json, save_json
    from bimo.curation.steps import ScorerStep

    if not any(isinstance(step, ScorerStep) for step in wanted.steps):
        return Scoring.fp32
    path = out / "work" / "scoring.json"
    before = read_json(path)
    known = before.get("dtype") if isinstance(before, dict) else None
    if dtype is Scoring.fastest and known in (Scoring.fp32, Scoring.bf16):
        chosen, why = Scoring(known), say("as the scores that are there")
    elif dtype is Scoring.fastest:
        from bimo.models.clip.scoring import WORTH, fastest

        times = fastest()
        chosen = Scoring.bf16 if times >= WORTH else Scoring.fp32
        why = say("measured: bf16 is {times:.1f} times as fast as fp32", times=times)
    else:
        chosen, why = dtype, say("as --dtype says")
        if known not in (None, chosen):
            why = say("{why}; scores in {known} are made anew", why=why, known=known)
    typer.echo(say("scoring in {chosen} ({why})", chosen=chosen, why=why), err=True)
    if known != chosen:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_json(path, {"dtype": chosen})
    return chosen


class EncoderScorer:
    """A system with two text encoders as `bimo.curation.steps.Scorer`."""

    def __init__(self, name: str, dtype: Scoring = Scoring.fp32) -> None:
        self._system = registry.load(name)
        self.digest = self._system.weights_hash
        if dtype is Scoring.bf16:
            # Scores in other numbers are other scores: none is taken for that of the other kind.
            self.digest += f" {dtype}"
            self._system.bfloat16()

    def words(self, texts: Sequence[str]) -> np.ndarray:
        """[B, D] float32, each of length 1."""
        from bimo.models.clip.scoring import word_vectors

        return word_vectors(self._system, texts).numpy()

    def pictures(self, pictures: Sequence[Image.Image]) -> np.ndarray:
        """[B, D] float32, each of length 1."""
        from bimo.models.clip.scoring import picture_vectors

        return picture_vectors(self._system, pictures).numpy()

    def fitted(self, picture: Image.Image) -> Image.Image:
        """The square that its image encoder sees."""
        from bimo.models.clip.scoring import square

        return square(self._system, picture)


_opened: dict[tuple[str, Scoring], EncoderScorer] = {}


def open_scorer(name: str, dtype: Scoring = Scoring.fp32) -> EncoderScorer:
    """The scorer of a name or folder, opened once a process."""
    key = name, dtype
    if key not in _opened:
        _opened[key] = EncoderScorer(name, dtype)
    return _opened[key]


def account(report: dict[str, Any]) -> Iterator[str]:
    """The account in lines: the sums, then what went by which rule and what failed why, and what became of files."""
    from bimo.curation.readers.inventory import told
    from bimo.curation.report.page import REASONS

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
        yield say("failed, {reason}: {count}", reason=Both(REASONS.get(reason, reason), reason), count=count) + advice
    for profile, count in report["converted"].items():
        yield say("kept with colours converted from {profile} to sRGB: {count}", profile=profile, count=count)
    if files := report["files"]:
        yield say("read as {files}", files=Both(files["read_as"]["zh"], files["read_as"]["en"]))
        yield from told(files)
    if killed := numbers["workers_killed"]:
        yield say(
            "processes killed by the system, most likely for memory, whose work was done again: {killed}", killed=killed
        )
    yield say(
        "{numbers:.1f} s, {numbers_2} rows a second", numbers=numbers["seconds"], numbers_2=numbers["rows_a_second"]
    )


class RichBar:
    """Shows on the terminal how far a run is: rows a second, the share kept so far, the time left."""

    def __init__(self, bar: Any) -> None:
        self._bar, self._task = bar, None
        self._rows = self._kept = 0

    def phase(self, name: Message, total: int | None) -> None:
        """A phase begins."""
        if self._task is not None:
            self._bar.update(self._task, visible=False)
        self._rows = self._kept = 0
        self._task = self._bar.add_task(say(name), total=total, kept="")

    def advance(self, rows: int, kept: int | None = None) -> None:
        """So many rows more were done."""
        self._rows += rows
        self._kept += kept or 0
        share = say("{kept:.0%} kept", kept=self._kept / max(self._rows, 1))
        self._bar.update(self._task, advance=rows, kept=share if kept is not None else "")


@contextmanager
def progress() -> Iterator[RichBar]:
    """A bar on the terminal; what is printed is the answer, so it goes elsewhere."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn
    from rich.text import Text

    class Speed(ProgressColumn):
        def render(self, task: Any) -> Text:
            return Text("" if not task.speed else say("{speed:.0f} rows/s", speed=task.speed))

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), Speed())
    shown = (*columns, TextColumn("{task.fields[kept]}"), TimeRemainingColumn())
    # What stays when it ends is the account.
    with Progress(*shown, console=Console(stderr=True), transient=True) as bar:
        yield RichBar(bar)
