"""SVG to sprites, by resvg: flat as it is written, or with every colour shaded as if lit from the upper left."""

from __future__ import annotations

import io
import re

from PIL import Image

_COLOUR = re.compile(r'fill="#([0-9a-fA-F]{6})"')
#: Towards white and towards black in the light and in the shade.
_LIT, _SHADED = 0.34, 0.26


def painted(shapes: str, frame: tuple[float, float, float, float], shaded: bool, pixels: int) -> Image.Image:
    """SVG ``shapes`` within a frame (left, top, width, height) -> RGBA, its longer side of so many pixels."""
    import resvg_py  # here, because only drawing needs it

    left, top, width, height = frame
    if shaded:
        colours = sorted(set(_COLOUR.findall(shapes)))
        shapes = f"<defs>{''.join(map(_gradient, colours))}</defs>{_COLOUR.sub(_as_gradient, shapes)}"
    scale = pixels / max(width, height)
    svg = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{left} {top} {width} {height}" '
        f'width="{round(width * scale)}" height="{round(height * scale)}">{shapes}</svg>'
    )
    return Image.open(io.BytesIO(bytes(resvg_py.svg_to_bytes(svg_string=svg, skip_system_fonts=True)))).convert("RGBA")


def _as_gradient(found: re.Match[str]) -> str:
    return f'fill="url(#c{found[1]})"'


def _gradient(colour: str) -> str:
    red, green, blue = (int(colour[at : at + 2], 16) for at in (0, 2, 4))
    lit = "".join(f"{round(part + (255 - part) * _LIT):02x}" for part in (red, green, blue))
    dark = "".join(f"{round(part * (1 - _SHADED)):02x}" for part in (red, green, blue))
    return (
        f'<radialGradient id="c{colour}" cx=".34" cy=".26" r=".9"><stop offset="0" stop-color="#{lit}"/>'
        f'<stop offset=".42" stop-color="#{colour}"/><stop offset="1" stop-color="#{dark}"/></radialGradient>'
    )
