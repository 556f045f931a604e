"""`bimo list`, `bimo show`, `bimo export`: which systems there are, what is in one, and one written out."""

from __future__ import annotations

import fnmatch
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bimo.apps import models
from bimo.core import part
from bimo.core.errors import RequestError, say
from bimo.core.recipe import Recipe

if TYPE_CHECKING:
    from rich.console import Console

WIDE = 200

LIST_HELP = say("有哪些模型，权重在不在这台机器上。", "Which systems there are, and whose weights are here.")
LIST_EXAMPLES = say("例子：\n\n  bimo list", "Examples:\n\n  bimo list")
SHOW_HELP = say(
    "一个配方：大小、词元、每个训练阶段学什么。", "A recipe: its sizes, tokens, and what learns in each stage."
)
SHOW_EXAMPLES = say(
    "例子：\n\n  bimo show xiaomo\n\n  bimo show ./mine.py:recipe --json",
    "Examples:\n\n  bimo show xiaomo\n\n  bimo show ./mine.py:recipe --json",
)
EXPORT_HELP = say(
    "把模型写成可以带走的文件夹，或 diffusers、A1111、ComfyUI 能读的样子。",
    "Write a system as one folder that can be taken along, or as diffusers, A1111 and ComfyUI read it.",
)
EXPORT_EXAMPLES = say(
    "例子：\n\n  bimo export taiyi-sd-en taiyi/ --dtype fp16\n\n"
    "  bimo export taiyi-sd-en taiyi.safetensors --to single",
    "Examples:\n\n  bimo export taiyi-sd-en taiyi/ --dtype fp16\n\n"
    "  bimo export taiyi-sd-en taiyi.safetensors --to single",
)


class Dtype(StrEnum):
    """How numbers are stored."""

    fp16 = "fp16"
    bf16 = "bf16"
    fp32 = "fp32"


class To(StrEnum):
    """Whom a system is written for: bimo, diffusers' pipelines, or those who read single files."""

    bimo = "bimo"
    diffusers = "diffusers"
    single = "single"


def list_models() -> None:
    """Prints a table of every recipe."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for title in say("名字 标题 来源 许可证 语言 权重", "name title source licence languages weights").split():
        table.add_column(title, overflow="fold")
    for recipe in models.recipes().values():
        languages = ", ".join(recipe.languages)
        table.add_row(recipe.name, recipe.title, recipe.source, recipe.licence, languages, _whereabouts(recipe))
    _console().print(table)


def show(
    name: Annotated[
        str, typer.Argument(help=say("名字、./mine.py:名字、JSON 或文件夹", "name, ./mine.py:name, JSON or folder"))
    ],
    as_json: Annotated[bool, typer.Option("--json", help=say("打印整个配方", "print the whole recipe"))] = False,
) -> None:
    """Prints a recipe with its sizes, counted without making any weights."""
    recipe = models.recipe(name)
    if as_json:
        print(part.dumps(recipe))
        return
    from rich.table import Table

    console = _console()
    facts = [
        (say("标题", "title"), recipe.title),
        (say("论文", "paper"), recipe.paper),
        (say("来源", "source"), recipe.source),
        (say("许可证", "licence"), recipe.licence),
        (say("语言", "languages"), ", ".join(recipe.languages)),
        (say("权重", "weights"), _whereabouts(recipe)),
        (say("尺寸", "size"), "x".join(str(side) for side in recipe.request.size)),
        (say("备注", "note"), recipe.note),
    ]
    console.print(recipe.name, style="bold", markup=False)
    for label, fact in facts:
        if fact:
            console.print(f"  {label}: {fact}", markup=False)
    counts = parameters(recipe)
    table = Table(box=None, title=say("部件", "parts"), title_justify="left")
    for title, right in zip(
        say("名字 种类 参数 词元", "name kind parameters tokens").split(), (0, 0, 1, 1), strict=True
    ):
        table.add_column(title, justify="right" if right else "left")
    for label, piece, prefix in _pieces(recipe):
        size = sum(count for key, count in counts.items() if key.startswith(prefix))
        table.add_row(label, type(piece).__name__, f"{size:,}", str(getattr(piece, "length", "")))
    table.add_row(say("合计", "total"), "", f"{sum(counts.values()):,}", "")
    console.print(table)
    if not recipe.stages:
        return
    table = Table(box=None, title=say("训练阶段", "stages"), title_justify="left")
    for title in say("名字 目标 步数 批量 学什么 参数", "name objective steps batch learns parameters").split():
        table.add_column(title, overflow="fold")
    for stage in recipe.stages:
        # What an objective adds for training alone (the heads of a contrast) is no part of the system.
        learning = {key for glob in stage.train for key in fnmatch.filter(counts, glob)}
        size = sum(counts[key] for key in learning)
        kind, learns = type(stage.objective).__name__, " ".join(stage.train)
        table.add_row(stage.name, kind, str(stage.steps), str(stage.batch), learns, f"{size:,}")
    console.print(table)


def export(
    model: Annotated[str, typer.Argument(help=say("模型的名字或文件夹", "a model's name or folder"))],
    out: Annotated[Path, typer.Argument(help=say("写到哪个文件夹或文件", "the folder or file to write"))],
    dtype: Annotated[Dtype, typer.Option(help=say("怎样存数", "how numbers are stored"))] = Dtype.fp16,
    to: Annotated[To, typer.Option(help=say("写给谁读", "who is to read it"))] = To.bimo,
) -> None:
    """Writes a system with its recipe, weights, words and hashes, or in the layout of others."""
    if to is To.single and out.suffix != ".safetensors":
        raise RequestError(
            f"单个文件要以 .safetensors 结尾，收到 {out}", f"a single file ends in .safetensors, not like {out}"
        )
    if out.is_file() or (out.is_dir() and any(out.iterdir())):
        raise RequestError(f"{out} 已经有东西；请给一个新文件夹", f"{out} is not empty; name a new folder")
    system = models.load(model)
    import torch

    kinds = {Dtype.fp16: torch.float16, Dtype.bf16: torch.bfloat16, Dtype.fp32: torch.float32}
    try:
        if to is To.bimo:
            system.save(out, kinds[dtype])
        else:
            from bimo.parts.published.export import to_diffusers, to_single

            (to_diffusers if to is To.diffusers else to_single)(system, out, kinds[dtype])
    except OSError as error:
        raise RequestError(f"写不到 {out}：{error.strerror}", f"cannot write to {out}: {error.strerror}") from None
    print(out)


def parameters(recipe: Recipe) -> dict[str, int]:
    """Parameter name -> how many numbers it holds, without making any of them."""
    from bimo.core.weights import unfilled
    from bimo.diffusion.system import System

    with unfilled():
        system = System(recipe)
    return {name: parameter.numel() for name, parameter in system.named_parameters()}


def _pieces(recipe: Recipe) -> list[tuple[str, Any, str]]:
    """(label, part, prefix of its parameters' names) of everything that may hold parameters."""
    pieces: list[tuple[str, Any, str]] = [(f"text.{i}", tower, f"text.{i}.") for i, tower in enumerate(recipe.text)]
    for level in recipe.levels:
        if not isinstance(level.space, str):
            pieces.append((f"{level.name}.space", level.space, f"{level.name}.space."))
        pieces.append((f"{level.name}.denoiser", level.denoiser, f"{level.name}.denoiser."))
    return pieces


def _whereabouts(recipe: Recipe) -> str:
    folder = models.found(recipe)
    if folder is not None:
        return say("自带", "bundled") if folder.is_relative_to(models.BUNDLES) else say("已下载", "downloaded")
    if recipe.weights.repo:
        return say(f"需下载 {recipe.weights.repo}", f"to fetch: {recipe.weights.repo}")
    return say("无", "none")


def _console() -> Console:
    """Standard output; wide where it is not a terminal, so that nothing is cut for whoever reads it."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else WIDE, highlight=False)
