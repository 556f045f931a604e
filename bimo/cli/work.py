"""`bimo data`, `bimo train`, `bimo eval`: the long runs."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from bimo.core import part
from bimo.core.errors import RecipeError, say
from bimo.core.recipe import Recipe
from bimo.hub import registry

ARTWORK_HELP = say("用带许可的图标和表情画出训练数据。", "Make training data from licensed icons and emoji.")
ARTWORK_EXAMPLES = say(
    "例子：\n\n  bimo data artwork data/ --canvases 2000",
    "Examples:\n\n  bimo data artwork data/ --canvases 2000",
)
SCENES_HELP = say(
    "按程序画出中国的景、诗和菜，作训练数据。",
    "Make training data of Chinese scenes, verses and dishes drawn by procedure.",
)
SCENES_EXAMPLES = say(
    "不下载任何东西。例子：\n\n  bimo data scenes data/ --count 2000",
    "Nothing is downloaded. Examples:\n\n  bimo data scenes data/ --count 2000",
)
FOLDER_HELP = say("把一个文件夹的图片和说明变成训练数据。", "Make training data of a folder of pictures and captions.")
FOLDER_EXAMPLES = say(
    "说明放在图片旁的同名 .txt 里，或 metadata.jsonl（file_name、text），或 .csv（name、caption）。\n\n"
    "例子：\n\n  bimo data folder 照片/ data/",
    "Captions are in a .txt of the picture's name, in metadata.jsonl (file_name, text) or a .csv (name, caption).\n\n"
    "Examples:\n\n  bimo data folder photos/ data/",
)
FEEDBACK_HELP = say("把人比较图片的表变成偏好训练的数据。", "Make data of preferences of a table of compared pictures.")
FEEDBACK_EXAMPLES = say(
    "表（CSV、TSV、JSON 行、Parquet）放在图片旁边；列是 请求、胜者、负者，"
    "或 请求、a、b、选择（a、b、平），可加 标注者。\n\n"
    "例子：\n\n  bimo data feedback 比较.csv data/",
    "The table (CSV, TSV, JSON lines, Parquet) lies beside the pictures; its columns are request, winner, loser, or "
    "request, a, b, choice (a, b, tie), and judge if there are several.\n\n"
    "Examples:\n\n  bimo data feedback compared.csv data/",
)
TEXTS_HELP = say(
    "把没有图片的文字变成训练数据：平行语料，或要画的提示词。",
    "Make training data of texts without pictures: parallel sentences, or prompts to draw.",
)
TEXTS_EXAMPLES = say(
    "例子：\n\n  bimo data texts 提示词.txt data/\n\n  bimo data texts 平行语料.tsv data/（列 zh、en）\n\n"
    "  bimo data texts cedict data/（CC-CEDICT，CC BY-SA 4.0）",
    "Examples:\n\n  bimo data texts prompts.txt data/\n\n  bimo data texts parallel.tsv data/  (columns zh, en)\n\n"
    "  bimo data texts cedict data/  (CC-CEDICT, CC BY-SA 4.0)",
)
TRAIN_HELP = say("按配方训练；中断后再运行一次就接着练。", "Train a recipe; run it again to go on after a stop.")
TRAIN_EXAMPLES = say(
    "例子：\n\n  bimo train xiaomo --data data/ --out run/ --tiny\n\n"
    "  bimo train ./mine.py:recipe --data data/ --out run/ --set stages.1.lr=5e-6",
    "Examples:\n\n  bimo train xiaomo --data data/ --out run/ --tiny\n\n"
    "  bimo train ./mine.py:recipe --data data/ --out run/ --set stages.1.lr=5e-6",
)
EVAL_HELP = say("评测一个模型，写下数字和图。", "Measure a system; writes numbers and pictures.")
EVAL_EXAMPLES = say(
    "例子：\n\n  bimo eval xiaomo --out report/ --data data/",
    "Examples:\n\n  bimo eval xiaomo --out report/ --data data/",
)


def artwork(
    out: Annotated[Path, typer.Argument(help=say("写到哪个文件夹", "the folder to write"))],
    canvases: Annotated[int, typer.Option(min=1, help=say("多少张画", "how many pictures"))] = 72000,
    workers: Annotated[int, typer.Option(min=1, help=say("几个进程", "how many processes"))] = 2,
    packages: Annotated[
        Path | None, typer.Option(help=say("已下载的图标包所在的文件夹", "a folder with the packages of icons"))
    ] = None,
) -> None:
    """Builds the data that xiaomo is trained on."""
    from bimo.xiaomo.artwork.build import build_artwork

    report = build_artwork(
        out,
        canvases=canvases,
        workers=workers,
        packages=packages,
        progress=lambda words: typer.echo(words, err=True),
    )
    for name, value in report.items():
        if isinstance(value, (int, float, str)):
            print(f"{name}: {value}")
    print(out)


def scenes(
    out: Annotated[Path, typer.Argument(help=say("写到哪个文件夹", "the folder to write"))],
    count: Annotated[int, typer.Option(min=1, help=say("多少张画", "how many pictures"))] = 20000,
    side: Annotated[int, typer.Option(min=16, help=say("边长多少像素", "the side in pixels"))] = 256,
    seed: Annotated[int, typer.Option(min=0, help=say("另一个种子，另一批画", "another one: other pictures"))] = 0,
    workers: Annotated[int, typer.Option(min=1, help=say("几个进程", "how many processes"))] = 2,
) -> None:
    """Builds scenes, verses and dishes with captions and all that the pictures declare."""
    from bimo.xiaomo.build import build_scenes

    report = build_scenes(out, count, side, seed, workers, progress=lambda words: typer.echo(words, err=True))
    for name, value in report.items():
        if isinstance(value, (int, float, str)):
            print(f"{name}: {value}")
    print(out)


def folder(
    source: Annotated[Path, typer.Argument(help=say("图片所在的文件夹", "the folder of the pictures"))],
    out: Annotated[Path, typer.Argument(help=say("写到哪个文件夹", "the folder to write"))],
    side: Annotated[int, typer.Option(min=1, help=say("图片的边长至少多少像素", "the least side of a picture"))] = 1,
) -> None:
    """Builds training data of the user's own pictures."""
    from bimo.curation.folder import build_folder
    from bimo.curation.readers.inventory import told

    report = build_folder(source, out, side)
    typer.echo(say(f"读作 {report.kind}", f"read as {report.kind}"), err=True)
    print(say(f"可用：{report.kept}", f"kept: {report.kept}"))
    if report.joined:
        print(
            say(
                f"说明并到同一张图的行：{report.joined}",
                f"rows whose captions were joined to those of the same picture: {report.joined}",
            )
        )
    for reason, count in report.reasons().items():
        print(say(f"不可用，{reason.zh}：{count}", f"left out, {reason.en}: {count}"))
    for profile, count in report.converted.items():
        print(
            say(
                f"颜色按 {profile} 转到 sRGB 的：{count} 张",
                f"kept with colours converted from {profile} to sRGB: {count}",
            )
        )
    for line in told(report.files):
        typer.echo(line, err=True)
    print(out)


def feedback(
    table: Annotated[Path, typer.Argument(help=say("比较的表", "the table of comparisons"))],
    out: Annotated[Path, typer.Argument(help=say("写到哪个文件夹", "the folder to write"))],
) -> None:
    """Builds data of preferences."""
    from bimo.curation.feedback import Fate, build_feedback

    report = build_feedback(table, out)
    print(
        say(f"分出胜负的：{report.pairs} 对，平局 {report.ties}", f"with a winner: {report.pairs}, ties: {report.ties}")
    )
    for fate in Fate:
        if report.fates.get(fate):
            print(say(f"行，{fate.zh}：{report.fates[fate]}", f"rows, {fate.en}: {report.fates[fate]}"))
    print(out)


def texts(
    source: Annotated[str, typer.Argument(help=say("一行一句的 .txt、表，或 cedict", "a .txt, a table, or cedict"))],
    out: Annotated[Path, typer.Argument(help=say("写到哪个文件夹", "the folder to write"))],
) -> None:
    """Builds training data of texts alone."""
    from bimo.curation.report.page import REASONS
    from bimo.curation.texts import EMPTY, POINTS, build_texts

    chinese = {**REASONS, "kept": "可用", EMPTY: "空的", POINTS: "只指向别的词条"}
    for reason, count in build_texts(source, out).items():
        print(say(f"{chinese.get(reason, reason)}：{count}", f"{reason}: {count}"))
    print(out)


def train(
    recipe: Annotated[
        str, typer.Argument(help=say("配方：名字、./mine.py:名字、JSON", "a name, ./mine.py:name, JSON"))
    ],
    data: Annotated[
        list[Path], typer.Option(help=say("训练数据的文件夹，可多次给出", "a folder of data; may be repeated"))
    ],
    out: Annotated[Path, typer.Option(help=say("这次训练的文件夹", "the folder of the run"))],
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help=say("改配方的一个值：路径=值", "set a value of the recipe: path=value")),
    ] = None,
    tiny: Annotated[
        bool, typer.Option("--tiny", help=say("极小的同构模型，几秒试跑", "toy widths, for a trial"))
    ] = False,
    steps: Annotated[int | None, typer.Option(min=1, help=say("每个阶段的步数", "the steps of each stage"))] = None,
    seed: Annotated[
        int, typer.Option(min=0, help=say("另一个种子，另一些行和噪声", "another one: other rows and noise"))
    ] = 0,
    threads: Annotated[int | None, typer.Option(min=1, help=say("用几个线程", "how many threads"))] = None,
    start: Annotated[
        list[str] | None,
        typer.Option(help=say("从哪个模型的权重开始，可多次给出", "a model to begin from; may be repeated")),
    ] = None,
    teacher: Annotated[
        str | None, typer.Option(help=say("蒸馏阶段跟着哪个模型学", "the model that stages of distillation learn from"))
    ] = None,
    device: Annotated[
        str, typer.Option(help=say("在哪里算：auto、cpu、cuda、mps", "where to work: auto, cpu, cuda, mps"))
    ] = "auto",
    reward: Annotated[
        list[str] | None,
        typer.Option(help=say("自己的奖励函数：./mine.py:名字", "a function of yours for a reward: ./mine.py:name")),
    ] = None,
    on: Annotated[
        str, typer.Option(help=say("在哪里跑：local（或启动器）、ray", "where to run: local (or a launcher), ray"))
    ] = "local",
    workers: Annotated[int | None, typer.Option(min=1, help=say("Ray 上几个进程", "how many processes of Ray"))] = None,
    cache: Annotated[
        Path | None,
        typer.Option(
            help=say(
                "解码后的像素放在哪里；不写就放在数据文件夹里",
                "where decoded pixels are kept; in the folder of data unless given",
            )
        ),
    ] = None,
    size: Annotated[
        str | None, typer.Option(help=say("每个阶段的图片大小：宽x高", "size of pictures in each stage: WIDTHxHEIGHT"))
    ] = None,
    skip: Annotated[
        list[str] | None,
        typer.Option(
            help=say("略过一个阶段，按 --set 里的编号或名字；可多次给出", "leave a stage out, by number or name")
        ),
    ] = None,
    tune: Annotated[
        str | None,
        typer.Option(
            help=say("用自己的图片微调整个系统：lora 或 full", "fine-tune a system on pictures: lora or full")
        ),
    ] = None,
    from_here: Annotated[
        bool,
        typer.Option(
            "--from-here", help=say("练到一半，从这一步起改用新设置", "a begun run has new settings from its step on")
        ),
    ] = False,
    accept_new_data: Annotated[
        bool,
        typer.Option(
            "--accept-new-data", help=say("数据换过了也继续，并记下来", "go on with other data, and put that on record")
        ),
    ] = False,
) -> None:
    """Trains every stage of a recipe; the folder it prints can be drawn with."""
    if on not in ("local", "ray") or (workers and on != "ray"):
        raise RecipeError(
            f"--on 是 {on!r}，应为 local 或 ray；--workers 只用于 ray，几个进程在这里请用 torchrun",
            f"--on is {on!r}; expected local or ray, and --workers with ray alone: here several are begun by torchrun",
        )
    told = {"recipe": recipe, "data": data, "out": out, "settings": settings, "tiny": tiny, "steps": steps}
    told |= {"seed": seed, "threads": threads, "start": start, "teacher": teacher, "reward": reward}
    told |= {"cache": cache}
    told |= {"from_here": from_here, "accept_new_data": accept_new_data, "size": size, "skip": skip, "tune": tune}
    if on == "ray":
        from bimo.training.distributed.ray_cluster import on_ray

        on_ray(_trained, told, out, workers or 1, device)
    else:
        _trained(**told, device=device)
    if os.environ.get("RANK", "0") == "0":  # of several processes one speaks
        print(out)


def _trained(
    recipe: str,
    data: Path,
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
    """What one process does of a run."""
    wanted = registry.recipe(recipe)
    if tune is not None:
        from bimo.training.tuning import tuned

        wanted = tuned(wanted, tune)
        start = start or ([] if tiny else [recipe])  # what is tuned begins as it is
    wanted = changed(wanted, settings or [], tiny, steps, size, skip or [])
    from bimo.training.objectives.rewards import Judges
    from bimo.training.trainer import train as run

    begun = [registry.load(name) for name in start or []]
    taught = None if teacher is None else registry.load(teacher)
    own = [file for file in (recipe.rpartition(":")[0], recipe) if file.endswith(".py")]
    judges = Judges(
        registry.load, {n: f for file in (*own, *(reward or [])) for n, f in registry.functions(file).items()}
    )
    changes: dict[str, Any] = {"from_here": from_here, "accept_new_data": accept_new_data}
    begun_as: dict[str, Any] = {"start": begun, "teacher": taught, "judges": judges, "cache": cache}
    run(wanted, data, out, seed=seed, threads=threads, device=device, **begun_as, **changes)


def evaluate(
    model: Annotated[str, typer.Argument(help=say("模型的名字或文件夹", "a model's name or folder"))],
    out: Annotated[Path, typer.Option(help=say("报告的文件夹", "the folder of the report"))],
    data: Annotated[Path | None, typer.Option(help=say("测试数据的文件夹", "the folder of the test data"))] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help=say("每组最多问几句，想快点看时用", "at most so many questions a group"))
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(min=1, help=say("画几步，不写就是模型自己的步数", "how many steps, else the model's own")),
    ] = None,
) -> None:
    """Measures a system and writes a report."""
    system = registry.load(model)
    from bimo.xiaomo.evaluation.run import evaluate as run

    run(system, data, out, limit=limit, steps=steps)
    print(out)


def changed(
    recipe: Recipe,
    settings: list[str],
    tiny: bool,
    steps: int | None,
    size: str | None = None,
    skip: Sequence[str] = (),
) -> Recipe:
    """A recipe as the command line wants it: tiny first, then steps and size, then each path=value, then what is
    skipped. Raises RecipeError.
    """
    if tiny:
        recipe = recipe.tiny()
    if steps is not None:
        recipe = dataclasses.replace(recipe, stages=tuple(dataclasses.replace(s, steps=steps) for s in recipe.stages))
    if size is not None:
        wanted = _size(size)
        each = (dataclasses.replace(stage, size=wanted, buckets=()) for stage in recipe.stages)
        recipe = dataclasses.replace(recipe, stages=tuple(each))
    return _without(part.changed(recipe, settings, "stages.1.lr=5e-6"), skip)


def _size(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"(\d{1,5})[x×*](\d{1,5})", text.strip())
    if found is None or not (int(found[1]) and int(found[2])):
        raise RecipeError(
            f"--size 是 {text!r}，应为 宽x高，例如 512x512", f"--size is {text!r}; expected WIDTHxHEIGHT, as 512x512"
        )
    return int(found[1]), int(found[2])


def _without(recipe: Recipe, skip: Sequence[str]) -> Recipe:
    """The recipe without some of its stages, by number, as --set counts them, or by name."""
    names = [str(number) for number in range(len(recipe.stages))] + [stage.name for stage in recipe.stages]
    for name in skip:
        if name not in names:
            zh, en = part.meant(name, names[len(recipe.stages) :])
            raise RecipeError(f"--skip：没有阶段 {name!r}{zh}", f"--skip: there is no stage {name!r}{en}")
    gone = {names.index(name) % len(recipe.stages) for name in skip}
    return dataclasses.replace(recipe, stages=tuple(s for n, s in enumerate(recipe.stages) if n not in gone))
