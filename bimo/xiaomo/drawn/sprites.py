"""Sprites of the kinds that are drawn: figures, and the things of ``things.svg``."""

from __future__ import annotations

from PIL import Image

from bimo.xiaomo.captions.figures import FIGURE, looks_of
from bimo.xiaomo.drawn.figures import figure
from bimo.xiaomo.drawn.things import THING, thing

#: The longer side in pixels that a sprite is drawn at.
PIXELS = 512


def is_drawn(kind: str) -> bool:
    """Whether a kind is drawn; the others have a reference picture or none."""
    return kind.startswith((FIGURE, THING))


def drawn(kind: str, shaded: bool) -> Image.Image:
    """The picture of a kind that is drawn, RGBA, shaded or flat. Raises KeyError for one that no table has."""
    if kind.startswith(FIGURE):
        return figure(looks_of(kind), shaded, PIXELS)
    return thing(kind, shaded, PIXELS)
