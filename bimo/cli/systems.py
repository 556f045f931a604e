"""`bimo systems`: the supported pipelines of diffusers, and what a folder of one lacks to be loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from bimo.cli.terminal import console, plain_table, print_json
from bimo.core.messages import say

EXAMPLES = say("Examples:\n\n  bimo systems\n\n  bimo systems --check ./ERNIE-Image --json")


def systems(
    check: Annotated[
        Path | None, typer.Option(help=say("a folder in diffusers' layout: say what it is, and which part is missing"))
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help=say("print JSON"))] = False,
) -> None:
    """Prints the supported pipelines; or for a folder its recipe, unsupported classes and missing files, and exits with
    the status that loading it would have.
    """
    if check is None:
        _list(as_json)
        return
    from bimo.models.layouts import folder_check

    result = folder_check.check(check)
    if as_json:
        facts: dict[str, Any] = {
            "folder": str(result.path),
            "pipeline": result.pipeline,
            "recipe": result.recipe or None,
        }
        facts |= {"nearest": result.nearest or None, "says": str(result.sentence)}
        facts["components"] = [
            {"name": c.name, "library": c.library, "class": c.cls, "state": c.state.value, "says": str(c.why)}
            for c in result.components
        ]
        print_json(facts, indent=1)
    else:
        table = plain_table("", say("component class state"))
        for component in result.components:
            cls = f"{component.library}.{component.cls}" if component.cls else ""
            table.add_row(component.name, cls, str(component.why))
        console().print(table)
        console().print(str(result.sentence), markup=False)
    if result.exit_status:
        raise typer.Exit(result.exit_status)


def _list(as_json: bool) -> None:
    from bimo.models.layouts.export import forms

    # A form of several pipelines has a row for each.
    single = (form for form in forms() if form.apart is None)
    rows = {(form.pipeline, form.denoiser, " + ".join(form.text_encoders)): None for form in single}
    if as_json:
        print_json([dict(zip(("pipeline", "denoiser", "text_encoders"), row, strict=True)) for row in rows], indent=1)
        return
    table = plain_table("", say("pipeline denoiser encoders"))
    for row in rows:
        table.add_row(*row)
    console().print(table)
