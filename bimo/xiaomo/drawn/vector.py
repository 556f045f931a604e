"""Drawings whose every colour is shaded as if lit from the upper left."""

from __future__ import annotations

import re
from dataclasses import replace

from bimo.xiaomo.artwork.drawings import Drawing

_COLOUR = re.compile(r'fill="#([0-9a-fA-F]{6})"')
#: Towards white and towards black in the light and in the shade.
_LIT, _SHADED = 0.34, 0.26


def shaded(drawing: Drawing) -> Drawing:
    """A flat drawing with a gradient for each of its colours."""
    colours = sorted(set(_COLOUR.findall(drawing.body)))
    shapes = _COLOUR.sub(_as_gradient, drawing.body)
    return replace(drawing, body=f"<defs>{''.join(map(_gradient, colours))}</defs>{shapes}")


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
