"""`bimo serve` and `bimo keys`: the web page and the HTTP interfaces, and their access keys."""

from __future__ import annotations

import os
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from bimo.cli.draw_help import C2PA_HELP, LABEL_HELP, PRODUCER_HELP
from bimo.cli.engine_options import takes_engine
from bimo.core.credentials import credentials_of
from bimo.core.errors import RequestError
from bimo.core.label import label_of
from bimo.core.messages import say
from bimo.hub.options import DEFAULT, LoadOptions
from bimo.hub.registry import DEFAULT_MODEL, bundled
from bimo.serve.keys import KeyStore, Scope
from bimo.serve.settings import Limits, Retention, ServeSettings, default_folder

EXAMPLES = say(
    "Examples:\n\n  bimo serve\n\n  bimo serve -m xiaomo -m taiyi-sd-en --loras loras/\n\n  bimo serve --host 0.0.0.0 "
    "--name draw.example.com"
)
FOLDER_HELP = say("where jobs, pictures and keys lie; else BIMO_SERVE, else the user's folder of data")


class On(StrEnum):
    """Where workers draw."""

    processes = "processes"
    ray = "ray"


@takes_engine
def serve(
    host: Annotated[str, typer.Option(help=say("the address to listen on"))] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help=say("the port"))] = 7860,
    model: Annotated[
        list[str] | None, typer.Option("-m", "--model", help=say("a model that requests may name; may be repeated"))
    ] = None,
    folder: Annotated[Path | None, typer.Option("--data", help=FOLDER_HELP)] = None,
    loras: Annotated[Path | None, typer.Option(help=say("a folder of LoRAs that requests may name"))] = None,
    embeddings: Annotated[Path | None, typer.Option(help=say("a folder of learnt words (embeddings)"))] = None,
    controlnets: Annotated[
        Path | None, typer.Option(help=say("a folder of ControlNets and T2I-Adapters that requests may name"))
    ] = None,
    reports: Annotated[
        list[Path] | None,
        typer.Option(help=say("a folder of bimo eval, whose pictures people are asked to vote on; may be repeated")),
    ] = None,
    host_name: Annotated[
        list[str] | None,
        typer.Option("--name", help=say("a further name of this machine, as behind a proxy; may be repeated")),
    ] = None,
    load_options: LoadOptions = DEFAULT,
    batch: Annotated[int, typer.Option(min=1, max=64, help=say("the most pictures in one call of a denoiser"))] = 16,
    workers: Annotated[
        int, typer.Option(min=1, max=64, help=say("how many processes draw: one for a card, or for a group of cores"))
    ] = 1,
    on: Annotated[On, typer.Option(help=say("where they draw: processes of this machine, or replicas on Ray"))] = (
        On.processes
    ),
    finetuning: Annotated[
        bool | None,
        typer.Option(
            "--finetune/--no-finetune", help=say("whether the page may fine-tune; else on loopback without --name")
        ),
    ] = None,
    waiting: Annotated[int, typer.Option(min=1, help=say("the most jobs that wait"))] = 256,
    keep_days: Annotated[float, typer.Option(min=0, help=say("how many days pictures are kept"))] = 30.0,
    keep_gigabytes: Annotated[float, typer.Option(min=0, help=say("the most gigabytes of pictures to keep"))] = 10.0,
    label: Annotated[str | None, typer.Option(help=LABEL_HELP)] = None,
    producer: Annotated[str | None, typer.Option(help=PRODUCER_HELP)] = None,
    c2pa: Annotated[tuple[Path, Path] | None, typer.Option(metavar="CERT KEY", help=C2PA_HELP)] = None,
    filter_prompts: Annotated[
        bool | None, typer.Option("--filter-prompts/--any-prompt", help=say("refuse prompts by a list of words"))
    ] = None,
    filter_pictures: Annotated[
        bool | None, typer.Option("--filter-pictures/--any-picture", help=say("keep back pictures that are not decent"))
    ] = None,
    words: Annotated[Path | None, typer.Option(help=say("further words to refuse, one a line"))] = None,
    audit_prompts: Annotated[
        bool, typer.Option("--audit-prompts", help=say("write prompts into the audit log as well"))
    ] = False,
) -> None:
    """Loads the first model, then serves until Ctrl-C."""
    from bimo.hub.editions import SECOND
    from bimo.serve.run import is_loopback
    from bimo.serve.run import serve as run

    if load_options.files and len(model or ()) > 1:
        raise RequestError(
            "--denoiser and --text-encoder go with one model, and several are named; name that one with -m alone"
        )
    named = tuple(model or ([os.environ["BIMO_MODEL"]] if os.environ.get("BIMO_MODEL") else []))
    # Embeddings and parts of other models fit one model only, so editions are chosen by prompt only without them.
    editions = not named and bundled(SECOND) is not None and not (embeddings or load_options.files)
    settings = ServeSettings(
        models=named or ((DEFAULT_MODEL, SECOND) if editions else (DEFAULT_MODEL,)),
        editions=editions,
        finetuning=is_loopback(host) and not host_name if finetuning is None else finetuning,
        folder=folder or default_folder(),
        loras=loras,
        embeddings=embeddings,
        controlnets=controlnets,
        reports=tuple(reports or ()),
        load_options=load_options,
        batch=batch,
        workers=workers,
        on=on.value,
        limits=Limits(waiting=waiting, waiting_of_key=waiting if is_loopback(host) else max(1, waiting // 4)),
        retention=Retention(keep_days * 86400, int(keep_gigabytes * 1e9)),
        audit_prompts=audit_prompts,
        label=label_of(label, producer),
        credentials=credentials_of(c2pa),
        filter_prompts=not is_loopback(host) if filter_prompts is None else filter_prompts,
        filter_pictures=not is_loopback(host) if filter_pictures is None else filter_pictures,
        words=words,
    )
    run(settings, host=host, port=port, names=tuple(host_name or ()))


keys = typer.Typer()


@keys.command("add", help=say("Make a key; it is shown once."))
def add_key(
    name: Annotated[str, typer.Argument(help=say("whose it is"))],
    scope: Annotated[list[Scope] | None, typer.Option(help=say("what it opens; may be repeated"))] = None,
    rate: Annotated[int, typer.Option(min=1, help=say("how many requests a minute"))] = 60,
    token: Annotated[
        str | None, typer.Option(help=say("the token of a key of another server, which opens this one as well then"))
    ] = None,
    folder: Annotated[Path | None, typer.Option("--data", help=FOLDER_HELP)] = None,
) -> None:
    """Prints the token of a new key."""
    store = KeyStore(folder or default_folder())
    print(store.add(name, scope or [Scope.draw], rate, token))


@keys.command("list", help=say("Which keys there are."))
def list_keys(folder: Annotated[Path | None, typer.Option("--data", help=FOLDER_HELP)] = None) -> None:
    """Prints names, scopes and rates."""
    for key in KeyStore(folder or default_folder()).listed():
        scopes = " ".join(key.scopes)
        print(say("{name}: {scopes}, {rate} requests a minute", name=key.name, scopes=scopes, rate=key.per_minute))


@keys.command("revoke", help=say("Take a key away, at once."))
def revoke_key(
    name: Annotated[str, typer.Argument(help=say("whose it is"))],
    folder: Annotated[Path | None, typer.Option("--data", help=FOLDER_HELP)] = None,
) -> None:
    """Deletes a key."""
    KeyStore(folder or default_folder()).revoke(name)
