"""`bimo info`: the metadata of a picture: how it was drawn, and its AI labels."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, cast

import typer

from bimo.cli.terminal import print_json
from bimo.core.errors import RequestError
from bimo.core.files import MAXIMUM_PICTURE_BYTES, PICTURE_FORMATS, read_regular
from bimo.core.messages import say

EXAMPLES = say("Examples:\n\n  bimo info apple.png\n\n  bimo info photo.jpg --json")
#: The name of AUTOMATIC1111's text chunk.
INFOTEXT = "parameters"


def info(
    file: Annotated[Path, typer.Argument(help=say("a PNG, JPEG or WebP file"))],
    as_json: Annotated[bool, typer.Option("--json", help=say("print one JSON object"))] = False,
) -> None:
    """Prints the record of bimo, A1111's infotext, the labels of GB 45438-2025, and Content Credentials (C2PA)."""
    report = facts(file)
    if as_json:
        print_json(report)
        return
    label: dict[str, str] | None = report["label"]
    lines = [
        say("{file}: {format}, {width}x{height}", file=file, **{n: report[n] for n in ("format", "width", "height")}),
        say("no label in its metadata (TC260:AIGC)")
        if label is None
        else say("label in its metadata: {label}", label=json.dumps(label, ensure_ascii=False)),
        say("a visible label in its corner") if report["visible_label"] else say("no visible label that is known"),
    ]
    if (signed := report["credentials"]) is not None:
        lines.append(
            say(
                "Content Credentials: {state}, signed by {issuer}, made with {generator} ({why})",
                state=signed["state"],
                issuer=signed.get("issuer") or "?",
                generator=signed.get("generator") or "?",
                why=", ".join((*signed.get("sources", ()), *signed["why"])),
            )
        )
    if (record := report["record"]) is not None:
        request = record.get("request", {})
        lines.append(say("drawn by {recipe}: {text}", recipe=record.get("recipe"), text=request.get("text")))
        lines.append(json.dumps(request, ensure_ascii=False))
    elif not report["infotext"]:
        lines.append(say("no record of how it was drawn"))
    if report["infotext"]:
        lines.append(say("infotext: {text}", text=report["infotext"]))
    print("\n".join(lines))


def facts(file: Path) -> dict[str, Any]:
    """The metadata of a picture file. Raises RequestError if it is not a picture."""
    import io

    from PIL import Image, UnidentifiedImageError

    from bimo.core.credentials import read_credentials
    from bimo.core.label import is_marked, read_label
    from bimo.core.picture import METADATA_KEY
    from bimo.core.request import small_enough

    content = read_regular(file, MAXIMUM_PICTURE_BYTES)
    try:
        with Image.open(io.BytesIO(content), formats=PICTURE_FORMATS) as image:
            small_enough(image)
            image.load()
            texts = {name: value for name, value in image.info.items() if isinstance(value, str)}
            properties = {
                "format": image.format,
                "width": image.width,
                "height": image.height,
                "label": read_label(image),
                "visible_label": is_marked(image),
                "infotext": texts.get(INFOTEXT, ""),
            }
    except UnidentifiedImageError:
        raise RequestError(
            "{name} is not a picture; one of {formats} is expected", name=file, formats=", ".join(PICTURE_FORMATS)
        ) from None
    except Exception as error:  # for damaged files Pillow's decoders raise exceptions of many types
        raise RequestError("cannot read the picture {path}: {error}", path=file, error=error) from None
    try:
        metadata: Any = json.loads(texts[METADATA_KEY])
    except (KeyError, ValueError, RecursionError):
        metadata = None
    record = cast("dict[str, Any]", metadata) if isinstance(metadata, dict) else None
    return properties | {"record": record, "credentials": read_credentials(content)}
