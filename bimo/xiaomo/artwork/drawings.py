"""Drawings of single things as SVG: how they are kept in a table, and rendered."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from PIL import Image


@dataclass(frozen=True)
class Drawing:
    """The ``body`` of an SVG picture and its view box: left, top, width, height."""

    box: tuple[float, float, float, float]
    body: str

    def render(self, width: int) -> Image.Image:
        """The picture, RGBA, so many pixels wide."""
        import resvg_py  # here, because only drawing needs it

        box = " ".join(f"{number:g}" for number in self.box)
        height = round(width * self.box[3] / self.box[2])
        svg = f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" viewBox="{box}"'
        svg += f' width="{width}" height="{height}">{self.body}</svg>'
        return Image.open(io.BytesIO(bytes(resvg_py.svg_to_bytes(svg_string=svg, skip_system_fonts=True))))


def written(drawings: Mapping[str, Drawing]) -> str:
    """A table of drawings by name, a line each."""
    rows = ((name, " ".join(f"{n:g}" for n in each.box), each.body) for name, each in sorted(drawings.items()))
    return "".join("\t".join(row) + "\n" for row in rows)


def read(lines: Iterable[str]) -> dict[str, Drawing]:
    """The drawings of such a table."""
    found: dict[str, Drawing] = {}
    for line in lines:
        name, box, body = line.rstrip("\n").split("\t")
        left, top, width, height = map(float, box.split())
        found[name] = Drawing((left, top, width, height), body)
    return found
