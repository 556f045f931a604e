"""A labelled grid of pictures, AUTOMATIC1111's X/Y/Z plot."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from bimo.cli.series import Axis
from bimo.core.label import Label, labelled

if TYPE_CHECKING:
    from PIL import Image, ImageDraw

METADATA_KEY = "bimo-sheet"
GAP = 8
INK, PAPER = "#222222", "#ffffff"


class Shown(Protocol):
    """What a sheet shows: pictures that were drawn here, or at a server."""

    @property
    def image(self) -> Image.Image:
        """Its pixels."""
        ...

    def metadata(self) -> dict[str, Any]:
        """Its record."""
        ...


def sheet(pictures: Sequence[Shown], axes: Sequence[Axis], wanted_label: Label | None = None) -> bytes:
    """The grid as PNG: z from top to bottom, within it y downwards and x across. The text chunk ``bimo-sheet`` has the
    records of all pictures. Smaller pictures are centred in their cells.
    """
    from PIL import Image, ImageDraw
    from PIL.PngImagePlugin import PngInfo

    x, y, z = (*axes, *[Axis("", ("",))] * (3 - len(axes)))
    width, height = (max(side) for side in zip(*(picture.image.size for picture in pictures), strict=True))
    line = max(16, min(width, height) // 12)
    labels = [label for axis in (x, y, z) for label in axis.labels()]
    write = partial(write_label, side=line, faces=faces_of("".join(labels)))
    probe = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    left = max((write(probe, (0, 0), label, draw=False) for label in y.labels()), default=0)
    left += 2 * GAP if left else 0
    head, block = line * 2 if any(z.labels()) else 0, line * 2 if any(x.labels()) else 0
    wide = max(width, *(write(probe, (0, 0), label, draw=False) for label in x.labels()))
    across, down = wide + GAP, height + GAP
    size = (left + across * len(x.values) + GAP, (head + block + down * len(y.values) + GAP) * len(z.values))
    canvas = Image.new("RGB", size, PAPER)
    pen = ImageDraw.Draw(canvas)
    remaining = iter(pictures)
    for layer, z_label in enumerate(z.labels()):
        top = layer * (head + block + down * len(y.values) + GAP)
        write(pen, (GAP, top + line // 2), z_label)
        for column, words in enumerate(x.labels()):
            middle = left + column * across + (wide - write(probe, (0, 0), words, draw=False)) // 2
            write(pen, (middle, top + head + line // 2), words)
        for row, words in enumerate(y.labels()):
            above = top + head + block + row * down
            write(pen, (GAP, above + (height - line) // 2), words)
            for column in range(len(x.values)):
                image = next(remaining).image
                corner = (left + column * across + (wide - image.width) // 2, above + (height - image.height) // 2)
                canvas.paste(image, corner)
    info = PngInfo()
    record = {
        "axes": [[axis.name, list(axis.values)] for axis in axes],
        "pictures": [picture.metadata() for picture in pictures],
    }
    info.add_itxt(METADATA_KEY, json.dumps(record, ensure_ascii=False, sort_keys=True))
    buffer = io.BytesIO()
    canvas.save(buffer, format="PNG", pnginfo=info)
    if wanted_label is None:
        return buffer.getvalue()
    produce_id = hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()[:32]
    return labelled(buffer.getvalue(), wanted_label, produce_id)


def faces_of(text: str) -> dict[str, Any]:
    """The font of each non-ASCII character; ASCII uses Pillow's own font, so that such a sheet needs no other."""
    from bimo.inscription.fonts import faces_for, find_faces

    non_ascii = "".join(character for character in text if not character.isascii())
    return dict(faces_for(non_ascii, find_faces())) if non_ascii else {}


def write_label(
    pen: ImageDraw.ImageDraw, at: tuple[int, int], text: str, side: int, faces: dict[str, Any], draw: bool = True
) -> int:
    """Draws a label and returns its width in pixels; only measures it with ``draw`` False."""
    from PIL import ImageFont

    plain = ImageFont.load_default(side)
    x, y = at
    for character in text:
        face = faces.get(character)
        font = plain if face is None else ImageFont.truetype(str(face.path), side, index=face.index)
        if draw:
            pen.text((x, y + side // 2), character, fill=INK, font=font, anchor="lm")
        x += round(font.getlength(character))
    return x - at[0]
