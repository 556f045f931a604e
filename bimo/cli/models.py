"""`bimo list`, `bimo show`, `bimo export`: which systems there are, what is in one, and one written out."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bimo.cli.terminal import console, print_json
from bimo.core.errors import RequestError, say
from bimo.hub import model_info, registry

if TYPE_CHECKING:
    import torch
    from rich.table import Table

LIST_HELP = say("有哪些模型，权重在不在这台机器上。", "Which systems there are, and whose weights are here.")
LIST_EXAMPLES = say(
    "例子：\n\n  bimo list 太乙\n\n  bimo list --reads en --source weights\n\n  bimo list --here --json",
    "Examples:\n\n  bimo list taiyi\n\n  bimo list --reads en --source weights\n\n  bimo list --here --json",
)
#: Columns of a terminal that has room for sources and repositories.
WHOLE_COLUMNS = 150
SHOW_HELP = say(
    "一个配方：大小、词元、层级、条款、每个训练阶段学什么。",
    "A recipe: its sizes, tokens, levels, terms, and what learns in each stage.",
)
SHOW_EXAMPLES = say(
    "例子：\n\n  bimo show xiaomo\n\n  bimo show ./mine.py:recipe --json",
    "Examples:\n\n  bimo show xiaomo\n\n  bimo show ./mine.py:recipe --json",
)
EXTEND_HELP = say(
    "给 CLIP 的文本塔加词和位置（太乙 XL 的第一步），起点写明。",
    "Give CLIP's text towers more words and positions, as Taiyi-XL begins; how they begin is told.",
)
EXTEND_EXAMPLES = say(
    "例子：\n\n  bimo extend stable-diffusion-xl 起点/ --data data/ --positions 512 --length 225\n\n"
    "  bimo train taiyi-xl --start 起点/ --data data/ --out run/",
    "Examples:\n\n  bimo extend stable-diffusion-xl begun/ --data data/ --positions 512 --length 225\n\n"
    "  bimo train taiyi-xl --start begun/ --data data/ --out run/",
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


class Kind(StrEnum):
    """Kinds of source by their last words."""

    weights = "weights"
    description = "description"
    reconstruction = "reconstruction"
    own = "own"


def list_models(
    words: Annotated[
        list[str] | None,
        typer.Argument(
            help=say("名字、标题、语言、来源或仓库里要有的字", "what a name, title, language or repository has")
        ),
    ] = None,
    reads: Annotated[
        str | None, typer.Option(help=say("读得懂这种语言的，例如 zh", "those that read a language, such as en"))
    ] = None,
    source: Annotated[Kind | None, typer.Option(help=say("来源", "where it comes from"))] = None,
    here: Annotated[
        bool, typer.Option("--here", help=say("权重在这台机器上的", "those whose weights are on this machine"))
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help=say("打印 JSON", "print JSON"))] = False,
) -> None:
    """Prints a table of every recipe, or of those that are asked for."""
    rows = [model_info.brief(recipe) for recipe in registry.listed().values()]
    rows = [row for row in rows if _asked_for(row, words or [], reads, source, here)]
    if not rows:
        raise RequestError(
            "没有这样的模型；全部都在 bimo list 里", "there is no such system; bimo list shows all of them"
        )
    if as_json:
        print_json(rows, indent=1)
        return
    out = console()
    whole = out.width >= WHOLE_COLUMNS
    heads = say("名字 标题 语言 权重 来源 仓库", "name title languages weights source repository").split()
    table = _table("", " ".join(heads if whole else heads[:4]))
    table.columns[0].no_wrap = True  # a name is typed as it stands
    for row in rows:
        spoken = row["languages"]
        languages = ", ".join(spoken[:2]) + (f" +{len(spoken) - 2}" if len(spoken) > 2 else "")
        cells = (row["name"], row["title"], languages, _state(row), _source(row), row["repository"])
        table.add_row(*(cells if whole else cells[:4]))
    out.print(table)


def _asked_for(row: dict[str, Any], words: list[str], reads: str | None, source: Kind | None, here: bool) -> bool:
    facts_of = [str(fact) for fact in (*row.values(), _source(row), _state(row))]
    return (
        all(any(word.casefold() in fact.casefold() for fact in facts_of) for word in words)
        and (reads is None or reads.casefold() in row["languages"])
        and (source is None or row["source"].split()[-1] == source)
        and (not here or row["weights"] in ("bundled", "here"))
    )


def names(incomplete: str) -> list[str]:
    """Names of recipes that begin so, for the shell to complete."""
    return [name for name in registry.listed() if name.startswith(incomplete)]


def show(
    name: Annotated[
        str,
        typer.Argument(
            help=say("名字、./mine.py:名字、JSON 或文件夹", "name, ./mine.py:name, JSON or folder"),
            autocompletion=names,
        ),
    ],
    as_json: Annotated[
        bool, typer.Option("--json", help=say("打印 JSON，内含整个配方", "print JSON with the whole recipe in it"))
    ] = False,
) -> None:
    """Prints a recipe with its sizes, counted without making any weights."""
    told = model_info.full(registry.recipe(name))
    if as_json:
        print_json(told, indent=1)
        return
    out = console()
    out.print(told["name"], style="bold", markup=False)
    for label, fact in (
        (say("标题", "title"), told["title"]),
        (say("论文", "paper"), told["paper"]),
        (say("来源", "source"), _source(told)),
        (say("许可证", "licence"), told["licence"]),
        (say("条款", "terms"), told["terms"]),
        (say("语言", "languages"), ", ".join(told["languages"])),
        (say("权重", "weights"), _weights(told)),
        (say("尺寸", "size"), "x".join(str(side) for side in told["size"])),
        (say("备注", "note"), told["note"]),
    ):
        if fact:
            out.print(f"  {label}: {fact}", markup=False)
    table = _table(
        say("部件", "parts"), say("名字 种类 参数 词元", "name kind parameters tokens"), right="参数 parameters"
    )
    for row in told["parts"]:
        table.add_row(row["name"], row["kind"], f"{row['parameters']:,}", str(row["tokens"] or ""))
    table.add_row(say("合计", "total"), "", f"{told['parameters']:,}", "")
    out.print(table)
    if told["levels"]:
        out.print(_levels(told))
    if told["stages"]:
        out.print(_stages(told))


def _levels(told: dict[str, Any]) -> Table:
    heads = say("名字 空间 形状 噪声律 采样器 步数 引导 提示", "name space shape noise sampler steps guidance hints")
    table = _table(say("层级", "levels"), heads)
    for row in told["levels"]:
        shape = "x".join(str(side) for side in row["shape"])
        turned = ", ".join([f"{row['guidance']:g}", *row["guidance_weights"]])
        cells = (row["name"], row["space"], shape, row["schedule"], row["sampler"], str(row["steps"]), turned)
        table.add_row(*cells, ", ".join(row["conditioners"]))
    return table


def _stages(told: dict[str, Any]) -> Table:
    heads = say("名字 目标 步数 批量 学什么 参数 备注", "name objective steps batch learns parameters note")
    table = _table(say("训练阶段", "stages"), heads, right="参数 parameters")
    for row in told["stages"]:
        cells = (row["name"], row["objective"], str(row["steps"]), str(row["batch"]), " ".join(row["learns"]))
        table.add_row(*cells, f"{row['parameters']:,}", row["note"])
    return table


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
    system = registry.load(model)
    try:
        if to is To.bimo:
            system.save(out, numbers(dtype))
        else:
            from bimo.models.layouts.export import to_diffusers, to_single

            (to_diffusers if to is To.diffusers else to_single)(system, out, numbers(dtype))
    except OSError as error:
        raise RequestError(f"写不到 {out}：{error.strerror}", f"cannot write to {out}: {error.strerror}") from None
    print(out)


def extend(
    model: Annotated[str, typer.Argument(help=say("模型的名字或文件夹", "a model's name or folder"))],
    out: Annotated[Path, typer.Argument(help=say("写到哪个文件夹", "the folder to write"))],
    words: Annotated[Path | None, typer.Option(help=say("要加的词，一行一个", "the words to add, one a line"))] = None,
    data: Annotated[
        Path | None, typer.Option(help=say("加这份数据里常见的汉字", "add the Chinese characters of this data"))
    ] = None,
    most: Annotated[int, typer.Option(min=1, help=say("从数据里最多加几个字", "at most so many of the data"))] = 8000,
    positions: Annotated[int, typer.Option(min=0, help=say("共多少个位置", "how many positions in all"))] = 0,
    length: Annotated[int, typer.Option(min=0, help=say("一句话最多用几个", "how many a text may use"))] = 0,
) -> None:
    """Writes a system whose text towers have more words and positions, each begun as told."""
    if (words is None) == (data is None) and not positions:
        raise RequestError(
            "请用 --words 给出词表，或用 --data 给出数据，或用 --positions 增加位置",
            "give the words with --words, or data with --data, or more positions with --positions",
        )
    if out.is_file() or (out.is_dir() and any(out.iterdir())):
        raise RequestError(f"{out} 已经有东西；请给一个新文件夹", f"{out} is not empty; name a new folder")
    added: list[str] = []
    try:
        if words is not None:
            added = [word.strip() for word in words.read_text("utf-8-sig").splitlines() if word.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(f"读不了 {words}：{error}", f"cannot read {words}: {error}") from None
    system = registry.load(model)
    from bimo.models.text_encoders import extend as growing

    if data is not None:
        from bimo.data.shards import read

        captions = (caption["text"] for _, _, row in read(data) for caption in row["captions"])
        added += growing.characters(captions, most)
    for number, count in enumerate(growing.extend(system, added, positions, length), 1):
        part: Any = system.recipe.text_encoders[number - 1]
        print(
            say(
                f"第 {number} 个文本塔：新词 {count} 个（原有 {len(added) - count} 个不变），共 {part.vocab} 个词、"
                f"{part.positions} 个位置；新词从原来几个词元的平均开始，新位置从最后一个位置开始",
                f"text tower {number}: {count} new words ({len(added) - count} stay as they are), {part.vocab} words "
                f"and {part.positions} positions in all; a new word begins as the mean of the tokens it was read as, "
                "a new position as the last one",
            )
        )
    system.save(out)
    print(out)


def numbers(dtype: Dtype) -> torch.dtype:
    """torch's own name of it."""
    import torch

    return {Dtype.fp16: torch.float16, Dtype.bf16: torch.bfloat16, Dtype.fp32: torch.float32}[dtype]


def _source(row: dict[str, Any]) -> str:
    return say(model_info.SOURCES[row["source"]], row["source"])


def _weights(row: dict[str, Any]) -> str:
    return f"{_state(row)} {row['repository']}" if row["weights"] == "to fetch" else _state(row)


def _state(row: dict[str, Any]) -> str:
    return {
        "bundled": say("自带", "bundled"),
        "here": say("在本机", "here"),
        "to fetch": say("需下载", "to fetch"),
        "none": say("无", "none"),
    }[row["weights"]]


def _table(title: str, heads: str, right: str = "") -> Table:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, title=title or None, title_justify="left")
    for head in heads.split():
        table.add_column(head, overflow="fold", justify="right" if head in right.split() else "left")
    return table
