"""`bimo list --styles`: a table of the styles in both languages, and a contact sheet."""

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
    """Prints the styles as a table or JSON; writes the contact sheet if a file is given."""
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
    """A PNG with one picture of every style by the bundled model, labelled with its names. Without a font for Chinese
    the labels are only English, with a warning.
    """
    from PIL import Image, ImageDraw

    try:
        faces = faces_of("".join(style.label_zh for style in STYLES.values()))
    except RequestError as error:
        faces = None
        typer.secho(say("the sheet is in English: {error}", error=error), fg="yellow", err=True)
    across, down = SIDE + GAP, SIDE + GAP + 2 * LINE + LINE // 2
    rows = -(-len(STYLES) // COLUMNS)
    image = Image.new("RGB", (across * COLUMNS + GAP, down * rows + GAP), "#ffffff")
    write = partial(write_label, ImageDraw.Draw(image), side=LINE, faces=faces or {})
    for index, (name, style) in enumerate(STYLES.items()):
        left, top = GAP + across * (index % COLUMNS), GAP + down * (index // COLUMNS)
        image.paste(picture_of(name).resize((SIDE, SIDE), Image.Resampling.LANCZOS), (left, top))
        for line, words in enumerate(_lines(name, style, faces is not None)):
            write((left, top + SIDE + LINE * line + LINE // 4), words)
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def _lines(name: str, style: Style, chinese: bool) -> Iterator[str]:
    yield f"{style.label_zh}  {style.label_en}" if chinese else style.label_en
    yield name


def picture_of(name: str) -> Image.Image:
    """The example picture of a style that comes with the package."""
    from PIL import Image

    place: Any = resources.files("bimo.serve.page").joinpath("styles", f"{name}.webp")
    return Image.open(io.BytesIO(place.read_bytes())).convert("RGB")
