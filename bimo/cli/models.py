"""`bimo list`, `bimo show`, `bimo extend`, `bimo export`: lists, describes, extends and exports systems."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bimo.cli.terminal import console, plain_table, print_json
from bimo.core.errors import RequestError
from bimo.core.messages import say
from bimo.hub import model_info, registry

if TYPE_CHECKING:
    import torch
    from rich.table import Table

    from bimo.diffusion.system import System

LIST_EXAMPLES = say(
    "Examples:\n\n  bimo list taiyi\n\n  bimo list --reads en --source weights\n\n  bimo list --here --json\n\n  "
    "bimo list --styles --sheet styles.png"
)
#: The least width in columns for a table with sources and repositories.
WHOLE_COLUMNS = 150
SHOW_EXAMPLES = say("Examples:\n\n  bimo show xiaomo\n\n  bimo show ./mine.py:recipe --json")
EXTEND_EXAMPLES = say(
    "Examples:\n\n  bimo extend ./stable-diffusion-xl begun/ --data data/ --positions 512 --length "
    "225\n\n  bimo train taiyi-xl --start begun/ --data data/ --out run/"
)
EXPORT_EXAMPLES = say(
    "Examples:\n\n  bimo export taiyi-sd-en taiyi/ --dtype fp16\n\n  bimo export taiyi-sd-en "
    "taiyi.safetensors --to single\n\n"
    "  bimo export run/ autoencoder.safetensors --only 'image.space.*' --dtype int8\n\n"
    "  bimo export one/ both/ --blend other/ --share 0.3"
)


class Stored(StrEnum):
    """The dtype of weights in a file."""

    fp16 = "fp16"
    bf16 = "bf16"
    fp32 = "fp32"
    int8 = "int8"


class To(StrEnum):
    """Formats of export: bimo's, diffusers' folder, a single-file checkpoint."""

    bimo = "bimo"
    diffusers = "diffusers"
    single = "single"


class Kind(StrEnum):
    """Kinds of source, by the last word of ``Recipe.source``."""

    weights = "weights"
    description = "description"
    reconstruction = "reconstruction"
    own = "own"


def list_models(
    words: Annotated[
        list[str] | None,
        typer.Argument(help=say("what a name, title, language or repository has")),
    ] = None,
    reads: Annotated[str | None, typer.Option(help=say("those that read a language, such as en"))] = None,
    source: Annotated[Kind | None, typer.Option(help=say("where it comes from"))] = None,
    here: Annotated[bool, typer.Option("--here", help=say("those whose weights are on this machine"))] = False,
    as_json: Annotated[bool, typer.Option("--json", help=say("print JSON"))] = False,
    styles: Annotated[
        bool, typer.Option("--styles", help=say("list the styles instead: their names, and the words that they add"))
    ] = False,
    sheet: Annotated[Path | None, typer.Option(help=say("with --styles: write their pictures into this PNG"))] = None,
) -> None:
    """Prints a table of all recipes, of those that match, or of the styles."""
    if styles or sheet is not None:
        if not styles or words or reads or source or here:
            raise RequestError("--sheet goes with --styles, and --styles without what chooses systems; leave one out")
        from bimo.cli.styles import list_styles

        list_styles(sheet, as_json)
        return
    rows = [model_info.brief(recipe) for recipe in registry.listed().values()]
    rows = [row for row in rows if _asked_for(row, words or [], reads, source, here)]
    if not rows:
        raise RequestError("there is no such system; bimo list shows all of them")
    if as_json:
        print_json(rows, indent=1)
        return
    output = console()
    wide = output.width >= WHOLE_COLUMNS
    headings = say("name title languages weights source repository").split()
    table = plain_table("", " ".join(headings if wide else headings[:4]))
    table.columns[0].no_wrap = True  # so that names can be copied
    for row in rows:
        codes = row["languages"]
        languages = ", ".join(codes[:2]) + (f" +{len(codes) - 2}" if len(codes) > 2 else "")
        cells = (row["name"], row["title"], languages, _state(row), _source(row), row["repository"])
        table.add_row(*(cells if wide else cells[:4]))
    output.print(table)


def _asked_for(row: dict[str, Any], words: list[str], reads: str | None, source: Kind | None, here: bool) -> bool:
    facts_of = [str(fact) for fact in (*row.values(), _source(row), _state(row))]
    return (
        all(any(word.casefold() in fact.casefold() for fact in facts_of) for word in words)
        and (reads is None or reads.casefold() in row["languages"])
        and (source is None or row["source"].split()[-1] == source)
        and (not here or row["weights"] in ("bundled", "here"))
    )


def names(incomplete: str) -> list[str]:
    """Names of recipes for shell completion."""
    return [name for name in registry.listed() if name.startswith(incomplete)]


def show(
    name: Annotated[
        str,
        typer.Argument(
            help=say("name, ./mine.py:name, JSON or folder"),
            autocompletion=names,
        ),
    ],
    as_json: Annotated[bool, typer.Option("--json", help=say("print JSON with the whole recipe in it"))] = False,
    engine: Annotated[
        bool, typer.Option("--engine", help=say("which engine this processor draws it by, and why"))
    ] = False,
) -> None:
    """Prints a recipe with its parameter counts; no weights are loaded."""
    facts = model_info.full(registry.recipe(name))
    if engine:
        _engines(facts["name"], facts["parameters"], as_json)
        return
    if as_json:
        print_json(facts, indent=1)
        return
    output = console()
    output.print(facts["name"], style="bold", markup=False)
    for label, fact in (
        (say("title"), facts["title"]),
        (say("paper"), facts["paper"]),
        (say("source"), _source(facts)),
        (say("licence"), facts["licence"]),
        (say("terms"), facts["terms"]),
        (say("languages"), ", ".join(facts["languages"])),
        (say("weights"), _weights(facts)),
        (say("size"), "x".join(str(side) for side in facts["size"])),
        (say("note"), facts["note"]),
    ):
        if fact:
            output.print(f"  {label}: {fact}", markup=False)
    table = plain_table(say("parts"), say("name kind parameters tokens"), right=say("parameters"))
    for row in facts["parts"]:
        table.add_row(row["name"], row["kind"], f"{row['parameters']:,}", str(row["tokens"] or ""))
    table.add_row(say("total"), "", f"{facts['parameters']:,}", "")
    output.print(table)
    if facts["levels"]:
        output.print(_levels(facts))
    if facts["stages"]:
        output.print(_stages(facts))


def _engines(name: str, parameters: int, as_json: bool) -> None:
    """Prints the benchmark of this machine's engines, and which one --engine auto chooses for a system."""
    from bimo.engine.processor import AUTO, chosen, measured

    rows, best = measured(), chosen(AUTO, parameters)
    if as_json:
        print_json({"name": name, "auto": best, "probe": [vars(row) for row in rows]}, indent=1)
        return
    heads = say("engine seconds error text-error")
    table = plain_table(say("engines of this processor"), heads, right=say("seconds error text-error"))
    for row in rows:
        seconds = "" if row.seconds is None else f"{row.seconds:.4f}"
        error = say("each model's own") if row.error is None else f"{row.error:.1e}"
        table.add_row(row.engine, seconds, error, f"{row.text_error:.1e}")
    console().print(table)
    if any(row.engine.startswith("openvino") for row in rows):
        console().print(
            say(
                "OpenVINO works out text encoders as well (of 8 bits the weights alone); one that it cannot convert is "
                "left to torch, with a warning"
            ),
            markup=False,
        )
    console().print(
        say("{name} is drawn by {best} with --engine auto, by torch without", name=name, best=best), markup=False
    )


def _levels(facts: dict[str, Any]) -> Table:
    heads = say("name space shape noise sampler steps guidance conditioners")
    table = plain_table(say("levels"), heads)
    for row in facts["levels"]:
        shape = "x".join(str(side) for side in row["shape"])
        guidance = ", ".join([f"{row['guidance']:g}", *row["guidance_weights"]])
        cells = (row["name"], row["space"], shape, row["schedule"], row["sampler"], str(row["steps"]), guidance)
        table.add_row(*cells, ", ".join(row["conditioners"]))
    return table


def _stages(facts: dict[str, Any]) -> Table:
    heads = say("name objective steps batch learns parameters note")
    table = plain_table(say("stages"), heads, right=say("parameters"))
    for row in facts["stages"]:
        cells = (row["name"], row["objective"], str(row["steps"]), str(row["batch"]), " ".join(row["learns"]))
        table.add_row(*cells, f"{row['parameters']:,}", row["note"])
    return table


def export(
    model: Annotated[str, typer.Argument(help=say("a model's name or folder"))],
    out: Annotated[Path, typer.Argument(help=say("the folder or file to write"))],
    dtype: Annotated[
        Stored, typer.Option(help=say("how numbers are stored; int8 with a scale for each row, for bimo alone"))
    ] = Stored.fp16,
    to: Annotated[To, typer.Option(help=say("who is to read it"))] = To.bimo,
    only: Annotated[
        list[str] | None,
        typer.Option(help=say("only the tensors of such names, for bimo train --start: 'image.space.*'; repeatable")),
    ] = None,
    blend: Annotated[
        str | None, typer.Option(help=say("another model of the same recipe, whose weights are mixed in"))
    ] = None,
    share: Annotated[float, typer.Option(help=say("the other model's part of the mixture, 0 to 1"))] = 0.5,
) -> None:
    """Writes a system as a bimo folder, a diffusers folder or a single file."""
    if to is To.single and out.suffix != ".safetensors":
        raise RequestError("a single file ends in .safetensors, not like {out}", out=out)
    if dtype is Stored.int8 and to is not To.bimo:
        raise RequestError("{to} does not read int8 with scales; leave out --to, or take --dtype fp16", to=str(to))
    if only and (to is not To.bimo or out.suffix != ".safetensors"):
        raise RequestError("--only writes one file for bimo; let {out} end in .safetensors, without --to", out=out)
    if out.is_file() or (out.is_dir() and any(out.iterdir())):
        raise RequestError("{out} is not empty; name a new folder", out=out)
    system = registry.load(model)
    if blend is not None:
        from bimo.hub.blending import blend as blended

        blended(system, registry.load(blend), share)
    try:
        if only:
            _write_only(system, out, only, numbers(dtype))
        elif to is To.bimo:
            system.save(out, numbers(dtype))
        else:
            from bimo.models.layouts.export import to_diffusers, to_single

            (to_diffusers if to is To.diffusers else to_single)(system, out, numbers(dtype))
    except OSError as error:
        raise RequestError("cannot write to {out}: {strerror}", out=out, strerror=error.strerror) from None
    print(out)


def _write_only(system: System, out: Path, globs: Sequence[str], dtype: torch.dtype) -> None:
    """Writes the tensors whose names match to one file. Raises RequestError if none does."""
    from bimo.core.checkpoint_io import write

    state = {n: v for n, v in system.state_dict().items() if any(fnmatchcase(n, glob) for glob in globs)}
    if not state:
        parts = sorted({".".join(name.split(".")[:2]) + ".*" for name in system.state_dict()})
        raise RequestError(
            "no tensor is called {globs}; there are {parts}", globs=", ".join(globs), parts=", ".join(parts)
        )
    write(out, state, dtype)


def extend(
    model: Annotated[str, typer.Argument(help=say("a model's name or folder"))],
    out: Annotated[Path, typer.Argument(help=say("the folder to write"))],
    words: Annotated[Path | None, typer.Option(help=say("the words to add, one a line"))] = None,
    data: Annotated[Path | None, typer.Option(help=say("add the Chinese characters of this data"))] = None,
    most: Annotated[int, typer.Option(min=1, help=say("at most so many of the data"))] = 8000,
    positions: Annotated[int, typer.Option(min=0, help=say("how many positions in all"))] = 0,
    length: Annotated[int, typer.Option(min=0, help=say("how many a text may use"))] = 0,
) -> None:
    """Writes a system whose text encoders have more tokens and positions, and prints how these are initialised."""
    if (words is None) == (data is None) and not positions:
        raise RequestError("give the words with --words, or data with --data, or more positions with --positions")
    if out.is_file() or (out.is_dir() and any(out.iterdir())):
        raise RequestError("{out} is not empty; name a new folder", out=out)
    added: list[str] = []
    try:
        if words is not None:
            added = [word.strip() for word in words.read_text("utf-8-sig").splitlines() if word.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError("cannot read {words}: {error}", words=words, error=error) from None
    system = registry.load(model)
    from bimo.models.text_encoders import extend as extension

    if data is not None:
        from bimo.data.shards import read

        captions = (caption["text"] for _, _, row in read(data) for caption in row["captions"])
        added += extension.characters(captions, most)
    for number, count in enumerate(extension.extend(system, added, positions, length), 1):
        part: Any = system.recipe.text_encoders[number - 1]
        print(
            say(
                "text encoder {number}: {count} new words ({count_2} stay as they are), {vocab} words and "
                "{positions} positions in all; a new word begins as the mean of the tokens it was read as, a new "
                "position as the last one",
                number=number,
                count=count,
                count_2=len(added) - count,
                vocab=part.vocab,
                positions=part.positions,
            )
        )
    system.save(out)
    print(out)


def numbers(dtype: Stored) -> torch.dtype:
    """The torch dtype."""
    import torch

    dtypes = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32, "int8": torch.int8}
    return dtypes[dtype.value]


def _source(row: dict[str, Any]) -> str:
    return say(model_info.SOURCES[row["source"]])


def _weights(row: dict[str, Any]) -> str:
    return f"{_state(row)} {row['repository']}" if row["weights"] == "to fetch" else _state(row)


def _state(row: dict[str, Any]) -> str:
    return {
        "bundled": say("bundled"),
        "here": say("here"),
        "to fetch": say("to fetch"),
        "none": say("none"),
    }[row["weights"]]
