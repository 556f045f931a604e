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
from bimo.core.errors import BimoError, DataError, RecipeError, say
from bimo.hub import registry

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

    from bimo.curation.executors.executors import Executor
    from bimo.curation.readers.fetch import Limits
    from bimo.curation.steps import Curation

HELP = say(
    "把原始图文清洗成训练数据；每一行的去留都有据可查。",
    "Make training data of raw pairs; every decision is on record.",
)
EXAMPLES = say(
    "SRC 可以是图片文件夹（同名 .txt 或 .json）、csv/tsv/jsonl/parquet 表、Hugging Face 的文件夹、webdataset 分片。\n\n"
    "中断后再运行同一条命令就接着做；只改阈值时不再读图。结果在 DST：分片、table/、report.json。\n\n"
    "例子：\n\n  bimo curate 照片/ data/ --recipe wukong\n\n"
    "  bimo curate pairs.csv data/ --recipe wukong --set steps.0.pixels=256\n\n"
    "  bimo curate 照片/ data/ --recipe ./mine.py:steps --workers 8\n\n"
    "  bimo curate 照片/ data/ --recipe taiyi --scorer ./taiyi-clip --set steps.7.above=0.15 --select-only",
    "SRC is a folder of pictures (with a .txt or .json of each one's name), a table (csv, tsv, jsonl, parquet), a "
    "folder of Hugging Face's, or webdataset shards.\n\n"
    "Run the same command again to go on after a stop; a changed threshold reads no picture. DST gets shards, table/ "
    "and report.json.\n\n"
    "Examples:\n\n  bimo curate photos/ data/ --recipe wukong\n\n"
    "  bimo curate pairs.csv data/ --recipe wukong --set steps.0.pixels=256\n\n"
    "  bimo curate photos/ data/ --recipe ./mine.py:steps --workers 8\n\n"
    "  bimo curate photos/ data/ --recipe taiyi --scorer ./taiyi-clip --set steps.7.above=0.15 --select-only",
)


class Scoring(StrEnum):
    """The numbers that scorers reckon in."""

    fastest = "fastest"
    fp32 = "fp32"
    bf16 = "bf16"


def curate(
    source: Annotated[Path, typer.Argument(help=say("图片和说明在哪里", "where pictures and captions are"))],
    out: Annotated[Path, typer.Argument(help=say("写到哪个文件夹", "the folder to write"))],
    recipe: Annotated[
        str,
        typer.Option(help=say("步骤清单：名字、./mine.py:名字、JSON", "a list of steps: a name, ./mine.py:name, JSON")),
    ],
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help=say("改清单的一个值：路径=值", "set a value of the list: path=value")),
    ] = None,
    workers: Annotated[int | None, typer.Option(min=1, help=say("几个进程", "how many processes"))] = None,
    on: Annotated[str, typer.Option(help=say("在哪里跑：local、ray", "where to run: local, ray"))] = "local",
    scorer: Annotated[
        str | None,
        typer.Option(help=say("图文打分用的模型：名字或文件夹", "the system that scores pairs: name or folder")),
    ] = None,
    aesthetic: Annotated[
        str | None,
        typer.Option(
            help=say(
                "美学步骤用的线性头文件；none 是不要这一步",
                "the file of the linear head that judges beauty; none leaves that step out",
            )
        ),
    ] = None,
    dtype: Annotated[
        Scoring,
        typer.Option(
            help=say(
                "图文打分用什么数；fastest 量一下再定，DST 里定过就不变",
                "the numbers to score in; fastest measures, and stays with what DST began with",
            )
        ),
    ] = Scoring.fastest,
    fetch: Annotated[
        list[str] | None,
        typer.Option(
            help=say(
                "下载网址的限度：名字=值，如 hosts=oss.local（内网主机要点名）、seconds=60、workers=64",
                "how addresses are fetched: name=value, such as hosts=oss.local (hosts inside the house must be "
                "named), seconds=60, workers=64",
            )
        ),
    ] = None,
    select_only: Annotated[
        bool,
        typer.Option(
            "--select-only",
            help=say(
                "只按已有的分数重新挑选，不读图、不写分片", "select anew from stored scores; no pictures, no shards"
            ),
        ),
    ] = False,
) -> None:
    """Runs a list of steps over a source; prints the account and the folder."""
    wanted, files = curation(recipe)
    wanted = changed(wanted, settings or [], scorer, aesthetic)
    from bimo.curation.phases import ingest
    from bimo.curation.phases.run import curate as run
    from bimo.curation.steps import Tools

    if not (select_only or source.exists()):
        raise DataError(f"没有 {source}", f"there is no {source}")
    # Before a scorer is chosen, which is written down in the folder.
    ingest.belongs(source, out)
    if not select_only and any(hasattr(step, "scorer") for step in wanted.steps):
        ingest.demand(source)
    if on not in ("local", "ray"):
        raise RecipeError(f"--on 是 {on!r}，应为 local 或 ray", f"--on is {on!r}; expected local or ray")
    limits = limits_of(fetch) if fetch else None
    crew = crew_of(cast("Literal['local', 'ray']", on), workers, files)
    with progress() as bar:
        asking = crew if on == "ray" else None
        tools = Tools(partial(open_scorer, dtype=dtype_of(wanted, out, dtype)))
        more: dict[str, Any] = {"workers": crew, "asking": asking, "bar": bar, "stored": select_only, "limits": limits}
        report = run(source, out, wanted, tools=tools, **more)
    for line in account(report):
        print(line)
    if select_only:
        typer.echo(say("分片没有重写", "the shards are those of the run before"), err=True)
    if not report["numbers"]["kept"]:
        raise DataError(
            f"一行也没留下；每行的去向在 {out / 'report.html'} 和 {out / 'table'}",
            f"not one row was kept; {out / 'report.html'} and {out / 'table'} have what became of each",
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
            raise RecipeError(f"没有文件 {path}", f"there is no file {path}")
        return _of_file(path, value), ((f"bimo_curation_{path.stem}", str(path)),)
    path = Path(name).expanduser()
    if path.is_file() or path.suffix == ".json":
        try:
            found = part.loads(path.read_text("utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise RecipeError(f"读不了 {path}：{error}", f"{path} cannot be read: {error}") from None
        if isinstance(found, Curation):
            return found, ()
        raise RecipeError(f"{path} 不是清洗步骤的清单", f"{path} is no list of steps")
    every = lists()
    if name in every:
        return every[name], ()
    zh, en = part.meant(name, every)
    raise RecipeError(f"没有叫 {name!r} 的清单{zh}", f"there is no list called {name!r}{en}")


def _of_file(path: Path, name: str) -> Curation:
    from bimo.curation.executors.executors import load_file
    from bimo.curation.steps import Curation

    try:
        module = load_file(f"bimo_curation_{path.stem}", path)
    except BimoError:
        raise
    # The file is the user's own program: whatever it raises is told as it is.
    except Exception as error:
        told = f"{type(error).__name__}: {error}"
        raise RecipeError(f"清单 {path} 运行出错：{told}", f"the list {path} fails: {told}") from error
    found = {n: v for n, v in vars(module).items() if isinstance(v, Curation)}
    own = found | {v.name: v for v in found.values()}
    if name in own:
        return own[name]
    if not name and len({id(v) for v in found.values()}) == 1:
        return next(iter(found.values()))
    zh, en = part.meant(name, own) if own else ("", "")
    raise RecipeError(f"{path} 里没有清单 {name!r}{zh}", f"{path} has no list {name!r}{en}")


def changed(
    wanted: Curation, settings: Sequence[str], scorer: str | None = None, aesthetic: str | None = None
) -> Curation:
    """A list as the command line wants it: each path=value, then another scorer, and a head that judges beauty, or no
    such step. Raises RecipeError, also where a head is wanted and none is named, WeightsError for none that is there.
    """
    from bimo.curation.filters.classifiers import Aesthetic

    wanted = part.changed(wanted, settings, "steps.0.pixels=256")
    steps: list[Any] = list(wanted.steps)
    # The CLIP of a head is that which the head was made for.
    scoring = [place for place, step in enumerate(steps) if hasattr(step, "scorer") and not isinstance(step, Aesthetic)]
    if scorer is not None and not scoring:
        raise RecipeError(f"清单 {wanted.name} 里没有打分的步骤", f"no step of {wanted.name} scores pairs")
    for place in scoring if scorer is not None else ():
        steps[place] = dataclasses.replace(steps[place], scorer=scorer)
    judging = [place for place, step in enumerate(steps) if isinstance(step, Aesthetic)]
    if aesthetic is not None and not judging:
        raise RecipeError(f"清单 {wanted.name} 里没有美学的步骤", f"no step of {wanted.name} judges beauty")
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
    from bimo.curation.executors.executors import ProcessExecutor, RayExecutor, cores

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
            zh, en = part.meant(name, sorted(kinds))
            raise RecipeError(f"--fetch 没有 {name!r}{zh}", f"--fetch has no {name!r}{en}")
        try:
            given[name] = frozenset(text.split(",")) if kinds[name] is frozenset else kinds[name](text)
            if kinds[name] is not frozenset and given[name] < (name not in ("redirects", "pause")):
                raise ValueError
        except ValueError:
            raise RecipeError(
                f"--fetch {setting}：{name} 应是正数，如 {name}={getattr(Limits, name)}",
                f"--fetch {setting}: {name} is to be a number above 0, such as {name}={getattr(Limits, name)}",
            ) from None
    return Limits(**given)


def dtype_of(wanted: Curation, out: Path, dtype: Scoring) -> Scoring:
    """What the scorers of a list are to reckon in, said in a sentence: what is asked for, else what the scores in
    ``out`` were made by, else what is measured to be fastest. It is written down there, so that a run that was broken
    off goes on in the same numbers.
    """
    from bimo.curation.phases.store import read_json, save_json

    if not any(hasattr(step, "scorer") for step in wanted.steps):
        return Scoring.fp32
    path = out / "work" / "scoring.json"
    before = read_json(path)
    known = before.get("dtype") if isinstance(before, dict) else None
    if dtype is Scoring.fastest and known in (Scoring.fp32, Scoring.bf16):
        chosen, why = Scoring(known), say("与已有的分数一样", "as the scores that are there")
    elif dtype is Scoring.fastest:
        from bimo.models.clip.scoring import WORTH, fastest

        times = fastest()
        chosen = Scoring.bf16 if times >= WORTH else Scoring.fp32
        why = say(f"量得 bf16 的速度是 fp32 的 {times:.1f} 倍", f"measured: bf16 is {times:.1f} times as fast as fp32")
    else:
        chosen, why = dtype, say("照 --dtype", "as --dtype says")
        if known not in (None, chosen):
            why = say(f"{why}；已有的分数是 {known} 的，重新打分", f"{why}; scores in {known} are made anew")
    typer.echo(say(f"图文打分用 {chosen}（{why}）", f"scoring in {chosen} ({why})"), err=True)
    if known != chosen:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_json(path, {"dtype": chosen})
    return chosen


class TowerScorer:
    """A system with two towers as `bimo.curation.steps.Scorer`."""

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
        """The square that its picture tower sees."""
        from bimo.models.clip.scoring import square

        return square(self._system, picture)


_opened: dict[tuple[str, Scoring], TowerScorer] = {}


def open_scorer(name: str, dtype: Scoring = Scoring.fp32) -> TowerScorer:
    """The scorer of a name or folder, opened once a process."""
    key = name, dtype
    if key not in _opened:
        _opened[key] = TowerScorer(name, dtype)
    return _opened[key]


def account(report: dict[str, Any]) -> Iterator[str]:
    """The account in lines: the sums, then what went by which rule and what failed why, and what became of files."""
    from bimo.curation.readers.inventory import told
    from bimo.curation.report.page import REASONS

    numbers = report["numbers"]
    sums = tuple(numbers[name] for name in ("rows_in", "kept", "dropped", "failed"))
    yield say("读入 {} = 保留 {} + 丢弃 {} + 失败 {}", "rows in {} = kept {} + dropped {} + failed {}").format(*sums)
    for rule in report["rules"]:
        if rule["dropped"]:
            why = say(f"（{rule['zh']}）", f" ({rule['en']})")
            yield say(
                f"丢弃，{rule['rule']}{why}：{rule['dropped']}", f"dropped, {rule['rule']}{why}: {rule['dropped']}"
            )
    for reason, count in report["failures"].items():
        converted = reason == "not a format that is read"
        advice = say("", "; convert them to JPEG or PNG") if converted else ""
        yield say(f"失败，{REASONS.get(reason, reason)}：{count}", f"failed, {reason}: {count}") + advice
    for profile, count in report["converted"].items():
        yield say(
            f"颜色按 {profile} 的配置转到 sRGB 的：{count} 张",
            f"kept with colours converted from {profile} to sRGB: {count}",
        )
    if files := report["files"]:
        yield say(f"读作 {files['read_as']['zh']}", f"read as {files['read_as']['en']}")
        yield from told(files)
    if killed := numbers["workers_killed"]:
        yield say(
            f"被系统结束的进程（多半是内存不够，手上的已重做）：{killed}",
            f"processes killed by the system, most likely for memory, whose work was done again: {killed}",
        )
    yield say(
        f"用时 {numbers['seconds']:.1f} 秒，每秒 {numbers['rows_a_second']} 行",
        f"{numbers['seconds']:.1f} s, {numbers['rows_a_second']} rows a second",
    )


class RichBar:
    """Shows on the terminal how far a run is: rows a second, the share kept so far, the time left."""

    def __init__(self, bar: Any) -> None:
        self._bar, self._task = bar, None
        self._rows = self._kept = 0

    def phase(self, zh: str, en: str, total: int | None) -> None:
        """A phase begins."""
        if self._task is not None:
            self._bar.update(self._task, visible=False)
        self._rows = self._kept = 0
        self._task = self._bar.add_task(say(zh, en), total=total, kept="")

    def advance(self, rows: int, kept: int | None = None) -> None:
        """So many rows more were done."""
        self._rows += rows
        self._kept += kept or 0
        share = say(f"留 {self._kept / max(self._rows, 1):.0%}", f"{self._kept / max(self._rows, 1):.0%} kept")
        self._bar.update(self._task, advance=rows, kept=share if kept is not None else "")


@contextmanager
def progress() -> Iterator[RichBar]:
    """A bar on the terminal; what is printed is the answer, so it goes elsewhere."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn
    from rich.text import Text

    class Speed(ProgressColumn):
        def render(self, task: Any) -> Text:
            return Text("" if not task.speed else say(f"{task.speed:.0f} 行/秒", f"{task.speed:.0f} rows/s"))

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), Speed())
    shown = (*columns, TextColumn("{task.fields[kept]}"), TimeRemainingColumn())
    # What stays when it ends is the account.
    with Progress(*shown, console=Console(stderr=True), transient=True) as bar:
        yield RichBar(bar)
