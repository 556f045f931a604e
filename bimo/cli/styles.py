"""`bimo list --styles`: every style by its names in both languages, and a sheet of pictures of them."""

from __future__ import annotations

import io
from collections.abc import Iterator
from functools import partial
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from bimo.cli.sheet import faces_of, write_label
from bimo.cli.terminal import console, print_json
from bimo.core.errors import RequestError
from bimo.core.files import write_whole
from bimo.core.messages import say
from bimo.prompts.styles import STYLES, Style

if TYPE_CHECKING:
    from PIL import Image

COLUMNS, SIDE, LINE, GAP = 6, 144, 16, 12


def list_styles(sheet: Path | None, as_json: bool) -> None:
    """Prints the styles as a table or JSON; writes the sheet where one is named."""
    if sheet is not None and sheet.suffix.lower() != ".png":
        raise RequestError("--sheet is {path}; expected a PNG, for instance styles.png", path=sheet)
    rows = [
        {"name": name, "zh": style.label_zh, "en": style.label_en, "adds_zh": style.zh, "adds_en": style.en}
        for name, style in STYLES.items()
    ]
    if as_json:
        print_json(rows, indent=1)
    else:
        from rich.table import Table

        table = Table(*say("name|Chinese|English|adds to a Chinese prompt|adds to an English prompt").split("|"))
        for row in rows:
            table.add_row(*row.values())
        console().print(table)
    if sheet is not None:
        write_whole(sheet, contact_sheet())
        typer.echo(str(sheet), err=as_json)


def contact_sheet() -> bytes:
    """A PNG of every style as the bundled model draws it, an apple or, in black and white, a tree, the names below; in
    English alone, which is said, where no font here has the Chinese ones.
    """
    from PIL import Image, ImageDraw

    try:
        faces = faces_of("".join(style.label_zh for style in STYLES.values()))
    except RequestError as error:
        faces = None
        typer.secho(say("the sheet is in English: {error}", error=error), fg="yellow", err=True)
    across, down = SIDE + GAP, SIDE + GAP + 2 * LINE + LINE // 2
    rows = -(-len(STYLES) // COLUMNS)
    made = Image.new("RGB", (across * COLUMNS + GAP, down * rows + GAP), "#ffffff")
    write = partial(write_label, ImageDraw.Draw(made), side=LINE, faces=faces or {})
    for place, (name, style) in enumerate(STYLES.items()):
        left, top = GAP + across * (place % COLUMNS), GAP + down * (place // COLUMNS)
        made.paste(picture_of(name).resize((SIDE, SIDE), Image.Resampling.LANCZOS), (left, top))
        for line, words in enumerate(_lines(name, style, faces is not None)):
            write((left, top + SIDE + LINE * line + LINE // 4), words)
    buffer = io.BytesIO()
    made.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def _lines(name: str, style: Style, chinese: bool) -> Iterator[str]:
    yield f"{style.label_zh}  {style.label_en}" if chinese else style.label_en
    yield name


def picture_of(name: str) -> Image.Image:
    """What the bundled model draws in a style, small; it comes with the package."""
    from PIL import Image

    place: Any = resources.files("bimo.serve.page").joinpath("styles", f"{name}.webp")
    return Image.open(io.BytesIO(place.read_bytes())).convert("RGB")
