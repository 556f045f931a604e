"""The table of all commands of `bimo`. Imported after the language is set, as help texts are translated at import.

Only the module of the command that runs is imported; for all others the table has the help.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Annotated, Any, cast

import typer

from bimo.core.messages import say


@dataclass(frozen=True)
class Command:
    """Where a command is implemented: a module of ``bimo.cli``, and the names of its function and examples."""

    module: str
    function: str
    help: str
    examples: str

    def add(self, to: typer.Typer, name: str, selected: bool) -> None:
        """Adds the command to a command line: with its function if ``selected``, else only with its help."""
        if not selected:
            to.command(name, help=self.help)(_not_loaded)
            return
        module: Any = importlib.import_module(f"bimo.cli.{self.module}")
        namespace = cast("dict[str, Any]", vars(module))
        to.command(name, help=self.help, epilog=namespace[self.examples])(namespace[self.function])


def _not_loaded() -> None:
    """Stands in for the function of commands that are only listed."""


COMMANDS: dict[str, Command] = {
    "draw": Command("draw", "draw", say("Draw a sentence as a picture (PNG)."), "EXAMPLES"),
    "chat": Command("chat", "chat", say("Draw, and change the picture turn by turn in words."), "EXAMPLES"),
    "list": Command(
        "models", "list_models", say("Which systems there are, and whose weights are here."), "LIST_EXAMPLES"
    ),
    "show": Command(
        "models",
        "show",
        say("A recipe: its sizes, tokens, levels, terms, and what learns in each stage."),
        "SHOW_EXAMPLES",
    ),
    "systems": Command(
        "systems",
        "systems",
        say("Which pipelines of diffusers are read, and what a folder of one lacks to be drawn."),
        "EXAMPLES",
    ),
    "info": Command("info", "info", say("What a picture's file says of how it was made, and its labels."), "EXAMPLES"),
    "serve": Command(
        "serve",
        "serve",
        say("Serve the web page and the interfaces that programs speak, by default for this machine alone."),
        "EXAMPLES",
    ),
    "curate": Command(
        "curate", "curate", say("Make training data of raw pairs; every decision is on record."), "EXAMPLES"
    ),
    "train": Command("work", "train", say("Train a recipe; run it again to go on after a stop."), "TRAIN_EXAMPLES"),
    "finetune": Command(
        "finetune",
        "finetune",
        say("Fine-tune a model on your pictures: LoRA, DreamBooth, a new word, ControlNet; leaves a file that draws."),
        "EXAMPLES",
    ),
    "eval": Command(
        "evaluate", "evaluate", say("Draw a suite of prompts, measure the pictures, write a report."), "EXAMPLES"
    ),
    "extend": Command(
        "models",
        "extend",
        say("Give CLIP's text encoders more words and positions, as Taiyi-XL begins; how they begin is told."),
        "EXTEND_EXAMPLES",
    ),
    "export": Command(
        "models",
        "export",
        say("Write a system as one folder that can be taken along, or as diffusers, A1111 and ComfyUI read it."),
        "EXPORT_EXAMPLES",
    ),
    "bench": Command("work", "bench", say("Measure seconds and memory on this machine."), "BENCH_EXAMPLES"),
}
DATA_HELP = say("Prepare training data.")
KEYS_HELP = say("Keys for programs and people that use a server from other machines.")
DATA: dict[str, Command] = {
    "folder": Command(
        "work", "folder", say("Make training data of a folder of pictures and captions."), "FOLDER_EXAMPLES"
    ),
    "feedback": Command(
        "work", "feedback", say("Make data of preferences of a table of compared pictures."), "FEEDBACK_EXAMPLES"
    ),
    "texts": Command(
        "work",
        "texts",
        say("Make training data of texts without pictures: parallel sentences, or prompts to draw."),
        "TEXTS_EXAMPLES",
    ),
    "artwork": Command("work", "artwork", say("Make training data from licensed icons and emoji."), "ARTWORK_EXAMPLES"),
    "scenes": Command(
        "work",
        "scenes",
        say("Make training data of Chinese scenes, verses and dishes drawn by procedure."),
        "SCENES_EXAMPLES",
    ),
}
#: As they are listed; "keys" and "data" are groups.
ORDER = (
    "draw",
    "chat",
    "list",
    "show",
    "systems",
    "info",
    "serve",
    "keys",
    "data",
    "curate",
    "train",
    "finetune",
    "eval",
    "extend",
    "export",
    "bench",
)


def _version(wanted: bool) -> None:
    if wanted:
        from bimo import __version__

        print(f"bimo {__version__}")
        raise typer.Exit


def _keys(wanted: bool) -> typer.Typer:
    """The group `bimo keys`: with its commands if it is selected, else only with what a typer group needs."""
    if not wanted:
        group = typer.Typer()
        group.command("add")(_not_loaded)
        return group
    from bimo.cli.serve import keys

    return keys


def command_line(wanted: str | None = None) -> typer.Typer:
    """The command line; with ``wanted`` only that command is imported, the others have their name and help."""
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
        """Options before a command."""

    data = typer.Typer(help=DATA_HELP)
    for name, command in DATA.items():
        command.add(data, name, wanted in (None, "data"))
    for name in ORDER:
        if name == "data":
            app.add_typer(data, name=name)
        elif name == "keys":
            app.add_typer(_keys(wanted in (None, name)), name=name, help=KEYS_HELP)
        else:
            COMMANDS[name].add(app, name, wanted in (None, name))
    return app
