"""Every command of `bimo`, put together. Imported once the language is known: help is written as it is imported."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Annotated

import typer

from bimo.cli import curate, draw, models, serve, work
from bimo.core.errors import RequestError
from bimo.core.messages import say
from bimo.hub.registry import DEFAULT_MODEL

#: What measures; a checkout has it, an installed package has not.
BENCH = Path(__file__).resolve().parents[2] / "bench" / "xiaomo.py"


def _version(wanted: bool) -> None:
    if wanted:
        from bimo import __version__

        print(f"bimo {__version__}")
        raise typer.Exit


app = typer.Typer(
    name="bimo",
    help=say("bimo: from a sentence to a picture."),
    epilog=say(
        'Examples:\n\n  bimo draw "a red apple, 3d style"\n\n  bimo draw "a cat" --style ink -n 4\n\n  bimo list'
    ),
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def bimo(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_version, help=say("the version"))
    ] = False,
) -> None:
    """What goes before a command."""


data = typer.Typer(help=say("Prepare training data."))
app.command("draw", help=draw.HELP, epilog=draw.EXAMPLES)(draw.draw)
app.command("list", help=models.LIST_HELP, epilog=models.LIST_EXAMPLES)(models.list_models)
app.command("show", help=models.SHOW_HELP, epilog=models.SHOW_EXAMPLES)(models.show)


app.command("serve", help=serve.HELP, epilog=serve.EXAMPLES)(serve.serve)
app.add_typer(serve.keys, name="keys")
data.command("folder", help=work.FOLDER_HELP, epilog=work.FOLDER_EXAMPLES)(work.folder)
data.command("feedback", help=work.FEEDBACK_HELP, epilog=work.FEEDBACK_EXAMPLES)(work.feedback)
data.command("texts", help=work.TEXTS_HELP, epilog=work.TEXTS_EXAMPLES)(work.texts)
data.command("artwork", help=work.ARTWORK_HELP, epilog=work.ARTWORK_EXAMPLES)(work.artwork)
data.command("scenes", help=work.SCENES_HELP, epilog=work.SCENES_EXAMPLES)(work.scenes)
app.add_typer(data, name="data")
app.command("curate", help=curate.HELP, epilog=curate.EXAMPLES)(curate.curate)
app.command("train", help=work.TRAIN_HELP, epilog=work.TRAIN_EXAMPLES)(work.train)
app.command("eval", help=work.EVAL_HELP, epilog=work.EVAL_EXAMPLES)(work.evaluate)
app.command("extend", help=models.EXTEND_HELP, epilog=models.EXTEND_EXAMPLES)(models.extend)
app.command("export", help=models.EXPORT_HELP, epilog=models.EXPORT_EXAMPLES)(models.export)


@app.command(
    help=say("Measure seconds and memory on this machine."),
    epilog=say("Examples:\n\n  bimo bench\n\n  bimo bench --no-diffusers --json bench.json"),
)
def bench(
    model: Annotated[str, typer.Option("-m", "--model", help=say("the model"))] = DEFAULT_MODEL,
    pairs: Annotated[int, typer.Option(min=1, help=say("how many turns each side has"))] = 7,
    steps: Annotated[int, typer.Option(min=1, help=say("how many steps"))] = 20,
    threads: Annotated[int | None, typer.Option(min=1, help=say("how many threads"))] = None,
    diffusers: Annotated[bool, typer.Option(help=say("compare with diffusers as well"))] = True,
    file: Annotated[Path | None, typer.Option("--json", help=say("write the numbers here"))] = None,
) -> None:
    """Runs the measurements of bench/, which are not part of the package."""
    if not BENCH.is_file():
        raise RequestError("bimo bench needs a checkout with bench/xiaomo.py; get the source and run make bench")
    spec = importlib.util.spec_from_file_location("bench_xiaomo", BENCH)
    assert spec is not None
    assert spec.loader is not None
    measured = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(measured)
    measured.bench(model, pairs=pairs, steps=steps, threads=threads, against=diffusers, file=file)
